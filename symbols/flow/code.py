"""An image's code: each function is decoded and analysed once."""

from __future__ import annotations

import bisect
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from xtrace.symbols.flow.interpreter import (
    RESULTS,
    Budget,
    Call,
    Callee,
    FunctionFlow,
    Graph,
    Interpreter,
    State,
    entry_state,
    explore,
)
from xtrace.symbols.flow.values import STACK, Value
from xtrace.symbols.image.image import Image, Section
from xtrace.symbols.image.symbol_table import FUNC, GNU_IFUNC, LOCAL
from xtrace.symbols.x86.decode import RAX, RCX, RSP, Flow, Insn, InsnDecoder
from xtrace.symbols.xen_abi import HYPERCALL_NAME, HYPERCALL_PAGE_BYTES, HYPERCALL_ROOM_BYTES

#: Longer functions are truncated: no compiler makes them, but an untrusted image may have them.
_MOST_INSNS = 16_000
_MOST_RUN_BYTES = 1 << 14
#: What may be spent on one image; the most expensive real kernels took two thirds of it.
_MOST_STEPS = 2_000_000
#: Starting to decode at a branch target costs as much as this many more instructions.
_STEPS_PER_BRANCH = 3
#: A callee of at most this many instructions is followed for its fences and its result.
_SMALL_INSNS = 32
_SMALL_BYTES = 256
_LEAF_INSNS = 16
_CALL_DEPTH = 3
#: Calls to these do not return.
_NO_RETURN = frozenset(("panic", "abort", "__stack_chk_fail", "do_exit", "minios_do_exit"))
_MOST_CASES = 512
#: How often code is looked for after a return, in one function of an image without symbols.
_MOST_RESTARTS = 2000
_ADDRESS = {32: (1 << 32) - 1, 64: (1 << 64) - 1}
_COLD = ".cold"
_FENCES = frozenset(("lfence", "mfence", "sfence"))
#: The last byte before a function: a return, int3, nop, zero, or the opcode of a jump.
_BEFORE_A_START = (0xC3, 0xCC, 0x90, 0x00, 0xE9)
_SERIALISING = frozenset(("cpuid", "serialize", "wbinvd", "rsm"))


#: What the syscall instruction of a hypercall changes: the result, rcx and r11.
_HYPERCALL = Callee((RAX, RCX, 11), None)


class Code:
    """The executable sections of an image.

    Args:
        hypercall_page: its address, or None where it is not known.
    """

    def __init__(self, image: Image, hypercall_page: int | None) -> None:
        self.image = image
        self.decoder = InsnDecoder(image.bits)
        self.hypercall_page = hypercall_page
        self.sections = image.code
        self.budget = Budget(_MOST_STEPS)
        self._interpreter = Interpreter(image.bits, self._callee, self.budget)
        self._graphs: dict[int, Graph] = {}
        self._flows: dict[int, FunctionFlow] = {}
        self._callees: dict[int, Callee | None] = {}
        self._leaves: dict[int, tuple[Insn, ...] | None] = {}
        self._depth = 0
        self.labels, self.starts = self._boundaries()
        self._start_list: list[int] = self.starts.tolist()
        self._has_cold = _COLD.encode() in image.symbols.names
        self.no_return = {address for name in _NO_RETURN if (address := image.symbols.find(name)) is not None}

    def _boundaries(self) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
        """Return the sorted addresses where code may begin (labels), and where functions begin."""
        symbols = self.image.symbols
        bases = np.array([section.address for section in self.sections], np.uint64)
        labels = symbols.function_starts()
        if not len(labels):
            found = [call_targets(section) for section in self.sections]
            labels = np.unique(np.concatenate([bases, *found])) if found else bases
            return labels, labels
        functions = np.isin(symbols.kinds, (FUNC, GNU_IFUNC)) | (symbols.binds != LOCAL)
        starts = np.intersect1d(labels, symbols.addresses[functions])
        return np.union1d(labels, bases), np.union1d(starts, bases)

    def window(self, address: int) -> tuple[int, int]:
        """Return the addresses [start, end) of the function that holds ``address``; (0, 0) outside code."""
        section = self.section(address)
        if section is None:
            return 0, 0
        index = bisect.bisect_right(self._start_list, address)
        start = self._start_list[index - 1] if index else section.address
        end = self._start_list[index] if index < len(self._start_list) else section.address + section.size
        return max(start, section.address), min(end, section.address + section.size)

    def _labels_between(self, start: int, end: int) -> list[int]:
        """Return the labels in (start, end)."""
        first, last = np.searchsorted(self.labels, np.array([start + 1, end], np.uint64))
        found: list[int] = self.labels[first:last].tolist()
        return found

    def section(self, address: int) -> Section | None:
        """Return the executable section that holds ``address``."""
        for section in self.sections:
            if section.address <= address < section.address + section.size:
                return section
        return None

    def run(self, address: int) -> Iterator[Insn]:
        """Yield the instructions from ``address`` on, in memory order."""
        section = self.section(address)
        if section is None:
            return
        offset = address - section.address
        yield from self.decoder.decode(section.data[offset : offset + _MOST_RUN_BYTES], address)

    def text(self, insn: Insn) -> str:
        """Return an instruction in AT&T syntax."""
        return self.decoder.text(self.image.read(insn.address, insn.length), insn.address)

    def name(self, address: int) -> str:
        """Return the best symbol at exactly this address, "" for none."""
        names = self.image.symbols.at(address)
        return names[0] if names else ""

    def hypercall(self, target: int) -> int | None:
        """Return the number of the hypercall whose stub is at ``target``, None if it is not in the page."""
        page = self.hypercall_page
        if page is None or not page <= target < page + HYPERCALL_PAGE_BYTES:
            return None
        number, rest = divmod(target - page, HYPERCALL_ROOM_BYTES)
        return None if rest else number

    def hypercall_of(self, call: Call) -> int | None:
        """Return the number of the hypercall that a call makes: from its place in the page, or from eax."""
        number = self.hypercall(call.target)
        if number is None and call.target >= 0 and HYPERCALL_NAME in self.name(call.target):
            return call.state.registers[RAX].constant
        return number

    def flow(self, entry: int) -> FunctionFlow:
        """Return what the function or label at ``entry`` does."""
        flow = self._flows.get(entry)
        if flow is None:
            flow = self._flows[entry] = self.flow_from(entry, entry_state())
        return flow

    def entries(self, entry: int) -> Iterator[int]:
        """Yield where code begins in a function: its start, and each place not reached from the ones before.

        With symbols, these places are labels only, because anything else may be data.  Without symbols,
        code may begin after each return.
        """
        yield entry
        start, end = self.window(entry)
        insns, _ = self.graph(entry)
        if len(self.image.symbols):
            reached = set(insns)
            for label in self._labels_between(start, end):
                if label not in reached:
                    reached.update(self.graph(label)[0])
                    yield label
            return
        ends = {address: insn.end for address, insn in insns.items()}
        place = start
        for _ in range(_MOST_RESTARTS):
            while place in ends:
                place = ends[place]
            place = self._behind_padding(place, end)
            if place in ends:
                continue
            if place >= end:
                return
            ends.update((address, insn.end) for address, insn in self.graph(place)[0].items())
            ends.setdefault(place, place + 1)
            yield place

    def flow_from(self, entry: int, state: State) -> FunctionFlow:
        """Return what the function does when entered in ``state``."""
        insns, successors = self.graph(entry)
        return self._interpreter.run(entry, insns, successors, state)

    def graph(self, entry: int) -> Graph:
        """Return the instructions reached from ``entry`` in its function, and their successors."""
        graph = self._graphs.get(entry)
        if graph is None:
            graph = self._graphs[entry] = self._explored(entry)
            branches = sum(1 for insn in graph[0].values() if insn.flow in (Flow.CONDITIONAL, Flow.JUMP))
            self.budget.spend(len(graph[0]) + _STEPS_PER_BRANCH * branches + 1)
        return graph

    def _explored(self, entry: int) -> Graph:
        start, end = self.window(entry)
        cold: list[tuple[int, int]] = []

        def inside(address: int) -> bool:
            if start <= address < end or any(low <= address < high for low, high in cold):
                return True
            if self._has_cold and _COLD in self.name(address):
                # The compiler moved unlikely parts of the function there.
                cold.append(self.window(address))
                return True
            return False

        graph = explore(self.run, (entry,), inside, _MOST_INSNS, self.no_return, self._cases)
        insns, successors = graph
        blind = [
            address
            for address, insn in insns.items()
            if insn.flow is Flow.INDIRECT_JUMP and not successors[address]
        ]
        if blind:
            # The jump table was not found: take code that nothing else reaches as its cases.
            hidden = self._hidden(insns, end)
            explore(self.run, hidden, inside, _MOST_INSNS, self.no_return, self._cases, graph)
            cases = tuple(place for place in hidden if place in insns)
            for address in blind:
                successors[address] = cases
        return insns, successors

    def _cases(self, jump: Insn) -> tuple[int, ...]:
        """Return the targets of a jump through a table whose address is in the instruction itself."""
        memory = jump.memory
        word = self.image.bits // 8
        if memory is None or memory.per_cpu or memory.base >= 0:
            return ()
        if memory.index_register < 0 or memory.scale != word:
            return ()
        table = memory.displacement & _ADDRESS[self.image.bits]
        data = self.image.read(table, word * _MOST_CASES) or self.image.read(table, word)
        window = self.window(jump.address)
        targets = []
        for offset in range(0, len(data) - word + 1, word):
            target = int.from_bytes(data[offset : offset + word], "little")
            if not window[0] <= target < window[1]:
                break
            targets.append(target)
        return tuple(dict.fromkeys(targets))

    def _hidden(self, insns: dict[int, Insn], end: int) -> list[int]:
        """Return where the gaps between reached instructions begin, after padding: code not reached yet."""
        places = sorted(insns)
        found = []
        for address, following in zip(places, [*places[1:], end], strict=True):
            behind = insns[address].end
            if behind < following:
                skipped = self._behind_padding(behind, following)
                if skipped < following:
                    found.append(skipped)
        return found

    def _behind_padding(self, start: int, end: int) -> int:
        """Return the first address from ``start`` on that is neither padding nor in the hypercall page."""
        if self.hypercall_page is not None and 0 <= start - self.hypercall_page < HYPERCALL_PAGE_BYTES:
            start = self.hypercall_page + HYPERCALL_PAGE_BYTES
        for insn in self.run(start):
            if insn.address >= end or insn.mnemonic not in ("nop", "int3", "xchg", "data16"):
                return min(insn.address, end)
        return end

    def is_small(self, target: int) -> bool:
        """Return whether the function at ``target`` is short, as far as symbols say; True without symbols."""
        return not len(self.image.symbols) or self.window(target)[1] - target <= _SMALL_BYTES

    def _callee(self, target: int) -> Callee | None:
        """Return what a small function does to its caller's registers."""
        if target in self._callees:
            return self._callees[target]
        if self.hypercall(target) is not None:
            return _HYPERCALL
        if self._depth >= _CALL_DEPTH or self.section(target) is None:
            return None
        self._callees[target] = None  # for functions that call each other recursively
        self._depth += 1
        try:
            callee = self._summary(target)
        finally:
            self._depth -= 1
        self._callees[target] = callee
        return callee

    def _summary(self, target: int) -> Callee | None:
        if not self.is_small(target):
            return None
        start, end = self.window(target)
        insns, successors = explore(
            self.run, (target,), lambda address: start <= address < end, _SMALL_INSNS + 1
        )
        if not insns or len(insns) > _SMALL_INSNS:
            return None
        if any(insn.flow in (Flow.INDIRECT_CALL, Flow.INDIRECT_JUMP) for insn in insns.values()):
            return None
        flow = self._interpreter.run(target, insns, successors, entry_state())
        results = set(flow.results.values())
        if any(call.tail for call in flow.calls.values()) or not results:
            return None
        result = results.pop() if len(results) == 1 else None
        calls = bool(flow.calls)
        written = {register for insn in insns.values() for register in insn.written}
        if calls or not self._leaf_convention(insns):
            return Callee(RESULTS, _visible(result))
        return Callee(tuple(sorted(written - {RSP})), _visible(result))

    @staticmethod
    def _leaf_convention(insns: dict[int, Insn]) -> bool:
        """Return whether a function saves and restores no registers."""
        return not any(insn.mnemonic in ("pop", "leave") for insn in insns.values())

    def leaf_fences(self, target: int) -> tuple[Insn, ...] | None:
        """Return the fences that a small leaf function executes, None if it is not such a function."""
        if target not in self._leaves:
            self._leaves[target] = None
            self._leaves[target] = self._leaf(target, 0)
        return self._leaves[target]

    def _leaf(self, target: int, depth: int) -> tuple[Insn, ...] | None:
        fences: list[Insn] = []
        address = target
        for _ in range(_LEAF_INSNS):
            insn = next(self.run(address), None)
            if insn is None:
                return None
            if insn.flow is Flow.RETURN:
                return tuple(fences)
            if insn.flow is Flow.JUMP:
                address = insn.target
                continue
            if insn.flow is Flow.CALL and depth < _CALL_DEPTH:
                inner = self._leaf(insn.target, depth + 1)
                if inner is None:
                    return None
                fences.extend(inner)
            elif insn.flow is not Flow.NEXT or not self._harmless(insn):
                return None
            if fence_of(insn):
                fences.append(insn)
            address = insn.end
        return None

    @staticmethod
    def _harmless(insn: Insn) -> bool:
        """Return whether an instruction of a leaf accesses only registers and the stack."""
        memory = insn.memory
        return memory is None or not insn.access or memory.base in (RSP, 5)


def fence_of(insn: Insn) -> str:
    """Return the name of an instruction that acts as a fence, "" for others.

    Source: Intel SDM volume 3, 8.2.5 and 8.3: lfence, mfence and sfence, locked instructions, xchg with
    memory, serialising instructions.
    """
    if insn.mnemonic in _FENCES or insn.mnemonic in _SERIALISING:
        return insn.mnemonic
    if insn.lock:
        return f"lock {insn.mnemonic}"
    if insn.mnemonic == "xchg" and insn.memory is not None:
        return "xchg"
    return ""


def _visible(result: Value | None) -> Value | None:
    """Return a result that can be expressed in a caller's terms, otherwise None."""
    if result is None or result.root == STACK:
        return None
    if isinstance(result.root, tuple) and result.root[0] not in ("entry", "slot", "element"):
        return None
    return None if result.root == ("entry", RAX) else result


def call_targets(section: Section) -> npt.NDArray[np.uint64]:
    """Return likely function starts in a section without symbols: its address and the targets of calls.

    A target counts if it has two calls, is after a return, a jump or padding, or is aligned to 16 bytes.
    """
    code = np.frombuffer(section.data, np.uint8)
    if len(code) < 6:
        return np.array([section.address], np.uint64)
    calls = np.flatnonzero(code[:-4] == 0xE8)
    displacement = (
        code[calls + 1].astype(np.int64)
        | code[calls + 2].astype(np.int64) << 8
        | code[calls + 3].astype(np.int64) << 16
        | code[calls + 4].astype(np.int8).astype(np.int64) << 24
    )
    targets = calls + 5 + displacement
    targets = targets[(targets >= 0) & (targets < len(code))]
    unique, counts = np.unique(targets, return_counts=True)
    before = code[np.maximum(unique - 1, 0)]
    kept = unique[(counts > 1) | np.isin(before, _BEFORE_A_START) | (unique % 16 == 0)]
    return np.unique(np.concatenate(([0], kept))).astype(np.uint64) + np.uint64(section.address)
