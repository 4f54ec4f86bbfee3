"""An image's code: each function is decoded and analysed once."""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import takewhile

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
from xtrace.symbols.x86.decode import (
    RAX,
    RBP,
    RCX,
    READ,
    RSP,
    Flow,
    Insn,
    InsnDecoder,
    is_hypercall_trap,
)
from xtrace.symbols.xen_abi import HYPERCALL_NAME, HYPERCALL_PAGE_BYTES, HYPERCALL_ROOM_BYTES

#: Longer functions are truncated: no compiler makes them, but an untrusted image may have them.
_MOST_INSNS = 16_000
_MOST_RUN_BYTES = 1 << 14
#: What may be spent on one image; the most expensive real kernels took two thirds of it.
_MOST_STEPS = 1_000_000
#: Starting to decode at a branch target costs as much as this many more instructions.
_STEPS_PER_BRANCH = 3
#: A callee of at most this many instructions is followed for its fences and its result.
_SMALL_INSNS = 32
_SMALL_BYTES = 256
_LEAF_INSNS = 16
_CALL_DEPTH = 3
#: Most functions that one may fall through to, one after the other.
_MOST_FALLS = 4
#: A function that enters Xen with the number in eax has at most this many instructions.
_STUB_INSNS = 48
#: Most functions and instructions that a walk follows by tail jumps, and how deep.
_MOST_JOINED = 8
_MOST_JOINED_INSNS = 6000
_JOIN_DEPTH = 3
#: A larger function is assumed to return.
_MOST_ENDLESS_INSNS = 400
_PADDING = frozenset(("nop", "int3", "data16"))
#: Instructions with which stubs enter Xen besides traps: those of HVM guests, which Linux may patch.
_GATES = frozenset(("vmcall", "vmmcall"))
_NO_NUMBER = -1
#: What compilers call or jump to in place of an indirect call, an indirect jump and a return.
_THUNK = re.compile(rb"__(?:x86_(?:indirect(?:_call|_jump)?|return)_thunk|llvm_retpoline)(?:_\w+)?\0")
_RETURN_THUNK = "__x86_return_thunk"
#: A thunk's beginning: call past pause, lfence and a jump back.  What follows replaces the return address of
#: the call and returns to it, or drops it (lea 8(%rsp),%rsp or lea 4(%esp),%esp) and returns.
_TRAP = bytes.fromhex("e807000000f3900faee8ebf9")
_RETURN_CODE = 0xC3
_RETURNS = (bytes.fromhex("488d642408c3"), bytes.fromhex("8d642404c3"))
_BY_THUNK = {Flow.CALL: Flow.INDIRECT_CALL, Flow.JUMP: Flow.INDIRECT_JUMP}
#: Calls to these do not return.
_NO_RETURN = (
    "panic", "vpanic", "Panic", "abort", "__stack_chk_fail", "do_exit", "make_task_dead", "minios_do_exit",
    "ukplat_terminate",
)  # fmt: skip
#: What a compiler calls at the beginning of each function that is profiled.
_PROFILING = ("__fentry__", "mcount", "_mcount", "__mcount")
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
        self._stubs: dict[int, int | None] = {}
        self._endless: dict[int, bool] = {}
        self._returning: dict[int, bool] = {}
        self._joined: dict[int, tuple[FunctionFlow, FunctionFlow]] = {}
        self._depth = 0
        self.labels, self.starts = self._boundaries()
        self._start_list: list[int] = self.starts.tolist()
        named = image.symbols.matching(_THUNK, (name.encode() for name in (*_NO_RETURN, *_PROFILING)))
        self._thunks = self._find_thunks(named)
        self._has_stubs = HYPERCALL_NAME.encode() in image.symbols.names
        self._has_cold = _COLD.encode() in image.symbols.names
        self.no_return = {named[name] for name in _NO_RETURN if name in named}
        self._profiling = {named[name] for name in _PROFILING if name in named}

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

    def _find_thunks(self, named: Mapping[str, int]) -> dict[int, bool]:
        """Return the addresses of thunks, found by name or by code, and whether each stands for a return."""
        if len(self.image.symbols):
            thunks = {
                name: address for name, address in named.items() if _THUNK.fullmatch(f"{name}\0".encode())
            }
            return {address: name == _RETURN_THUNK for name, address in thunks.items()}
        found = {}
        for section in self.sections:
            code = bytes(section.data)
            place = code.find(_TRAP)
            while place >= 0:
                behind = place + len(_TRAP)
                returns = code.startswith(_RETURNS, behind)
                if returns or _RETURN_CODE in code[behind + 3 : behind + 5]:
                    found[section.address + place] = returns
                place = code.find(_TRAP, place + 1)
        return found

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
        found = self.decoder.decode(section.data[offset : offset + _MOST_RUN_BYTES], address)
        yield from self._through_thunks(found) if self._thunks else found

    def _through_thunks(self, insns: Iterable[Insn]) -> Iterator[Insn]:
        """Yield instructions; for a branch to a thunk, the indirect branch or return that it stands for."""
        for insn in insns:
            returns = self._thunks.get(insn.target) if insn.target >= 0 else None
            if returns is not None and insn.flow in _BY_THUNK:
                insn.flow = Flow.RETURN if returns else _BY_THUNK[insn.flow]
                insn.target = -1
            yield insn

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
        """Return the number of the hypercall that a call makes, None if it makes none or that is not known.

        The number is the place in the hypercall page or table, or is in eax.
        """
        passed = call.state.registers[RAX].constant
        passed = None if passed is None else passed & 0xFFFF_FFFF
        if is_hypercall_trap(call.insn):
            return passed
        target = call.target
        if target < 0:
            memory = call.insn.memory
            if memory is None or memory.per_cpu or memory.base >= 0 or memory.index_register >= 0:
                return None
            entry = memory.displacement & _ADDRESS[self.image.bits]
            number = self._table_number(entry)
            if number is not None:
                return passed if number == _NO_NUMBER else number
            target = int.from_bytes(self.image.read(entry, self.image.bits // 8), "little")
        number = self.hypercall(target)
        if number is not None:
            return number
        stub = self._stub(target)
        return passed if stub == _NO_NUMBER else stub

    def _table_number(self, entry: int) -> int | None:
        """Return which hypercall a pointer in memory is for, by the name of the table that it is in.

        Returns:
            _NO_NUMBER for a single pointer to the code that enters Xen; None for other memory.
        """
        symbols = self.image.symbols
        index = symbols.index_of(entry)
        if index is None or "hypercall" not in symbols.name(index).lower():
            return None
        word = self.image.bits // 8
        offset = entry - int(symbols.addresses[index])
        if int(symbols.sizes[index]) == word and not offset:
            return _NO_NUMBER
        return None if offset % word else offset // word

    def _stub(self, target: int) -> int | None:
        """Return which hypercall a function is a stub for: _NO_NUMBER if its caller passes that in eax."""
        if target < 0 or self.section(target) is None:
            return None
        if target not in self._stubs:
            named = self._has_stubs and HYPERCALL_NAME in self.name(target)
            found = self._stub_number(target)
            self._stubs[target] = _NO_NUMBER if found is None and named else found
        return self._stubs[target]

    def _stub_number(self, target: int) -> int | None:
        """Return the number of a stub: code that enters Xen before it writes memory other than the stack."""
        number = _NO_NUMBER
        place: int | None = target
        left = _STUB_INSNS
        while place is not None and left > 0:
            following = None
            for insn in self.run(place):
                left -= 1
                if is_hypercall_trap(insn) or insn.mnemonic in _GATES:
                    return number
                if insn.flow is Flow.JUMP:
                    following = insn.target
                    break
                if left <= 0 or insn.flow not in (Flow.NEXT, Flow.CONDITIONAL, Flow.CALL):
                    return None
                if not self._harmless(insn):
                    return None
                if RAX in insn.written and insn.mnemonic == "pop":
                    number = _NO_NUMBER  # restored after a call that chooses how to enter Xen
                elif RAX in insn.written:
                    value = insn.operands[-1] if insn.mnemonic == "mov" else None
                    if value is None or value.register >= 0 or value.memory:
                        return None
                    number = value.value & 0xFFFF_FFFF
            place = following
        return None

    def never_returns(self, target: int, depth: int = 0) -> bool:
        """Return whether a function surely does not return: by its name, or as no path reaches a return."""
        if target in self.no_return:
            return True
        if target not in self._endless:
            self._endless[target] = False  # for functions that call each other recursively
            if depth < _CALL_DEPTH and self.section(target) is not None:
                self._endless[target] = self._is_endless(target, depth)
        return self._endless[target]

    def _is_endless(self, target: int, depth: int) -> bool:
        start, end = self.window(target)
        if end - start > 8 * _MOST_ENDLESS_INSNS:
            return False
        insns, successors = self.graph(target)
        if len(insns) > _MOST_ENDLESS_INSNS or target not in insns:
            return False
        short = len(insns) <= _SMALL_INSNS
        seen: set[int] = set()
        todo = [target]
        while todo:
            address = todo.pop()
            if address in seen:
                continue
            seen.add(address)
            insn = insns[address]
            after = successors[address]
            if insn.flow is Flow.STOP:
                continue
            if insn.flow is Flow.CALL and (
                not after or (short and self.never_returns(insn.target, depth + 1))
            ):
                continue  # nothing follows a call that never returns, as the compiler knows
            leaves = insn.flow in (Flow.JUMP, Flow.CONDITIONAL) and insn.target not in after
            if leaves and not self.never_returns(insn.target, depth + 1):
                return False
            if not after and not leaves:
                return False
            todo.extend(after)
        return True

    def joined(self, flow: FunctionFlow) -> FunctionFlow:
        """Return a function together with those that it continues in by tail jumps.

        Its instructions, successors and calls are those of all of them; what it accesses is its own.
        """
        known = self._joined.get(id(flow))
        if known is None:
            # The flow is kept too, so that its id stays its own.
            known = self._joined[id(flow)] = (flow, self._join(flow))
        return known[1]

    def _join(self, flow: FunctionFlow) -> FunctionFlow:
        todo = [(target, 1) for target in self._continues(flow)]
        if not todo:
            return flow
        insns, successors, calls = dict(flow.insns), dict(flow.successors), dict(flow.calls)
        joined = 0
        while todo and joined < _MOST_JOINED and len(insns) < _MOST_JOINED_INSNS:
            target, depth = todo.pop(0)
            if target in insns:
                continue
            joined += 1
            other = self.flow(target)
            calls = {**other.calls, **calls}
            insns = {**other.insns, **insns}
            successors = {**other.successors, **successors}
            if depth < _JOIN_DEPTH:
                todo += [(further, depth + 1) for further in self._continues(other)]
        for address, insn in insns.items():
            jumps = insn.flow in (Flow.JUMP, Flow.CONDITIONAL) and insn.target in insns
            if jumps and insn.target not in successors[address]:
                successors[address] = (*successors[address], insn.target)
        return replace(flow, insns=insns, successors=successors, calls=calls)

    def _continues(self, flow: FunctionFlow) -> Iterable[int]:
        """Return where a function's tail jumps lead, other than to Xen."""
        return dict.fromkeys(
            call.target
            for call in flow.calls.values()
            if call.tail
            and self.section(call.target) is not None
            and self.hypercall(call.target) is None
            and call.insn.flow in (Flow.JUMP, Flow.CONDITIONAL)
        )

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
            if self._in_page(address) and not self._in_page(entry):
                return False
            if start <= address < end or any(low <= address < high for low, high in cold):
                return True
            if self._has_cold and _COLD in self.name(address):
                # The compiler moved unlikely parts of the function there.
                cold.append(self.window(address))
                return True
            return False

        graph = explore(self.run, (entry,), inside, _MOST_INSNS, self.no_return, self._cases)
        insns, successors = graph
        for _ in range(_MOST_FALLS):
            last = self._falls_to(graph, end)
            if last is None:
                break
            # The code runs on into the next function's label, which is only another entry to it.
            following = self.window(end)
            cold.append(following)
            explore(self.run, (end,), inside, _MOST_INSNS, self.no_return, self._cases, graph)
            if end not in insns:
                break
            successors[last] = (end, *successors[last])
            end = following[1]
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

    def _falls_to(self, graph: Graph, end: int) -> int | None:
        """Return the instruction after which a function runs on at ``end``, None if it does not.

        A call with only padding after it does not return, as the compiler knows, unless its target may.
        """
        insns, successors = graph
        last = next((insn for insn in insns.values() if insn.end == end), None)
        section = self.section(end)
        if last is None or section is None or self._in_page(end):
            return None
        if end in successors[last.address] or last.flow not in (Flow.NEXT, Flow.CONDITIONAL):
            return None
        before = {item: address for address, after in successors.items() for item in after}
        real = last
        while _is_padding(real) and real.address in before:
            real = insns[before[real.address]]
        if real.flow is Flow.INDIRECT_CALL or (real.flow is Flow.CALL and not self._returns(real.target)):
            successors[real.address] = ()
            return None
        return last.address

    def _returns(self, target: int) -> bool:
        """Return whether a function has a return: no compiler makes one in a function that never returns."""
        if target not in self._returning:
            start, end = self.window(target)
            if len(self.image.symbols):
                found = list(takewhile(lambda insn: insn.address < end, self.run(target)))
            else:
                # The window may have more than one function.
                found = list(
                    explore(
                        self.run,
                        (target,),
                        lambda address: start <= address < end,
                        _MOST_ENDLESS_INSNS,
                        self.no_return,
                    )[0].values()
                )
            self.budget.spend(len(found))
            self._returning[target] = any(insn.flow is Flow.RETURN for insn in found)
        return self._returning[target]

    def _in_page(self, address: int) -> bool:
        page = self.hypercall_page
        return page is not None and 0 <= address - page < HYPERCALL_PAGE_BYTES

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
            if insn.address >= end or not _is_padding(insn):
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
        tails = [call for call in flow.calls.values() if call.tail]
        if len(tails) == 1 and not results:
            return self._tail_summary(tails[0].target)
        if tails or not results:
            return None
        result = results.pop() if len(results) == 1 else None
        # What its own callees change besides is not known.
        changed = RESULTS if flow.calls else tuple(sorted(flow.changed))
        return Callee(changed, _visible(result))

    def _tail_summary(self, target: int) -> Callee | None:
        """Return what a function does that ends in a tail jump: its own changes are not known."""
        inner = self._callee(target)
        if inner is None:
            return None
        result = inner.result if inner.result is not None and isinstance(inner.result.root, str) else None
        return Callee(tuple(sorted({*RESULTS, *inner.written})), result)

    def result_of(self, entry: int) -> Value | None:
        """Return what a small function returns, in its caller's terms, None where that is not known."""
        callee = self._callee(entry)
        return callee.result if callee is not None else None

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
            if insn.flow is Flow.CALL and insn.target in self._profiling:
                pass
            elif insn.flow is Flow.CALL and depth < _CALL_DEPTH:
                inner = self._leaf(insn.target, depth + 1)
                if inner is None:
                    return None
                fences.extend(inner)
            elif insn.flow is Flow.CONDITIONAL and self._fails(insn.target):
                pass
            elif insn.flow is not Flow.NEXT or not self._harmless(insn):
                return None
            if fence_of(insn):
                fences.append(insn)
            address = insn.end
        return None

    def _fails(self, address: int) -> bool:
        """Return whether code only calls what does not return, such as the stack protector's."""
        first = next(self.run(address), None)
        return first is not None and first.flow is Flow.CALL and self.never_returns(first.target)

    @staticmethod
    def _harmless(insn: Insn) -> bool:
        """Return whether an instruction of a leaf accesses only registers and stack, or reads CPU data."""
        memory = insn.memory
        if memory is None or not insn.access or memory.base in (RSP, RBP):
            return True
        return memory.per_cpu and insn.access == READ


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


def _is_padding(insn: Insn) -> bool:
    """Return whether an instruction does nothing, as those between functions: assemblers use many forms."""
    if insn.mnemonic in _PADDING:
        return True
    memory = insn.memory
    if insn.mnemonic == "lea" and memory is not None:
        same = insn.operands[0].register == memory.base
        return same and memory.index_register < 0 and not memory.displacement and not memory.per_cpu
    if insn.mnemonic not in ("mov", "xchg") or memory is not None:
        return False
    target, source = insn.operands[0], insn.operands[1]
    return target.register >= 0 and target == source


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
