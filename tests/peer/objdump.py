"""Find accesses to vcpu_info's event fields in objdump's listing: a slow, independent version of the finder.

It shares nothing with xtrace.symbols: it reads AT&T text instead of decoded instructions, makes one pass down
the listing instead of building a flow graph, and takes the layout from the caller.  Register values are kept
along forward branches, and forgotten at calls according to the calling convention and after every jump that
does not just skip a few instructions of its own function.

Arguments are not followed from caller to callee.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

TIMEOUT_S = 300
#: Number of vcpu_infos in shared_info; the pending bits follow them.
_SHARED_BYTES = 32 * 64
_NEAR_BYTES = 256

_INSTRUCTION = re.compile(r"^ *([0-9a-f]+):\t(.*)$")
_MEMORY = re.compile(
    r"^(?:%(?P<segment>[c-gs]s):)?(?P<displacement>-?0x[0-9a-f]+|-?\d+)?"
    r"(?:\((?P<base>%\w+)?(?:,(?P<index>%\w+)(?:,(?P<scale>\d))?)?\))?$"
)
_PREFIXES = frozenset(
    ["lock", "rep", "repz", "repnz", "data16", "addr32", "notrack", "bnd", "cs", "ds", "es", "ss"]
)
_ENDS = frozenset(
    ["ret", "iret", "iretq", "iretl", "jmp", "ud2", "hlt", "int3", "sysret", "sysretq", "(bad)"]
)
_CALLER_SAVED = {
    64: frozenset(["rax", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11"]),
    32: frozenset(["rax", "rcx", "rdx"]),
}
_READS_ONLY = re.compile(r"(?:cmp[bwlq]?|test[bwlq]?|bt[wlq]?|push[wlq]?|call[q]?|jmp[q]?)$")
_SUFFIX_BYTES = {"b": 1, "w": 2, "l": 4, "q": 8}


def _register_names() -> dict[str, tuple[str, int]]:
    names: dict[str, tuple[str, int]] = {}
    for letter in "abcd":
        names[f"%{letter}l"] = names[f"%{letter}h"] = (f"r{letter}x", 1)
        names[f"%{letter}x"] = (f"r{letter}x", 2)
    for word in ("si", "di", "bp", "sp"):
        names[f"%{word}l"] = (f"r{word}", 1)
        names[f"%{word}"] = (f"r{word}", 2)
    for word in ("ax", "bx", "cx", "dx", "si", "di", "bp", "sp"):
        names[f"%e{word}"] = (f"r{word}", 4)
        names[f"%r{word}"] = (f"r{word}", 8)
    for number in range(8, 16):
        for suffix, size in (("b", 1), ("w", 2), ("d", 4), ("", 8)):
            names[f"%r{number}{suffix}"] = (f"r{number}", size)
    return names


_REGISTERS = _register_names()


@dataclass(frozen=True, slots=True)
class Layout:
    """Where an image has its vcpu_infos; None for what it does not have.

    Attributes:
        area: per-CPU offset of a vcpu_info itself (Linux's xen_vcpu_info).
        pointer: per-CPU offset of a pointer to it (Linux's xen_vcpu).
        cpu_bases: address of the table of per-CPU bases (Linux's __per_cpu_offset).
        own_base: per-CPU offset of the CPU's own base (Linux's this_cpu_off).
        self_pointer: per-CPU offset of the cpu_info's pointer to itself (NetBSD's curcpu()).
        vcpu_field: offset of the vcpu_info pointer in that cpu_info.
        shared_pointers: addresses of the pointers to shared_info.
        shared_page: address of shared_info, if it is a linked symbol.
    """

    bits: int = 64
    area: int | None = None
    pointer: int | None = None
    cpu_bases: int | None = None
    own_base: int | None = None
    self_pointer: int | None = None
    vcpu_field: int | None = None
    shared_pointers: tuple[int, ...] = ()
    shared_page: int | None = None


@dataclass(frozen=True, slots=True, order=True)
class Access:
    """One instruction at an event field.

    Attributes:
        kind: as in xtrace.symbols.sites.model.Kind; ``mask read``, ``pending read`` and ``selector read``
            for instructions that only read.
    """

    address: int
    kind: str
    width_bytes: int
    text: str


@dataclass(frozen=True, slots=True)
class Memory:
    """A memory operand, with the target that objdump computed if it is relative to %rip."""

    segment: str
    displacement: int
    base: str
    index: str
    scale: int
    target: int | None


@dataclass(frozen=True, slots=True)
class Instruction:
    """One line of the listing, sources before the destination."""

    address: int
    mnemonic: str
    locked: bool
    operands: tuple[str | Memory, ...]
    text: str


# Possible values of a register, as (what, offset):
#   constant n   self n: cpu_info + n   vcpu n: vcpu_info + n   shared n: shared_info + n
#   scaled 0: 64 * a CPU's number   cpu base 0: some CPU's per-CPU base   per-CPU n: that base + n
Value = tuple[str, int]


@dataclass(slots=True)
class State:
    """Known values of registers, and of stack slots by distance from the function's entry stack pointer."""

    registers: dict[str, Value] = field(default_factory=dict)
    slots: dict[tuple[str, int], Value] = field(default_factory=dict)
    depth: int = 0

    def copy(self) -> State:
        """Return a copy that shares nothing."""
        return State(dict(self.registers), dict(self.slots), self.depth)


def disassemble(path: Path, *options: str) -> bytes:
    """Return the output of ``objdump -d`` for a file; ``options`` replace ``-d``."""
    command = ["objdump", "--no-show-raw-insn", *(options or ("-d",)), str(path)]
    return subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=True).stdout


def find_accesses(listing: bytes, layout: Layout) -> list[Access]:
    """Return every access to an event field in a listing, in address order."""
    return sorted(Tracker(layout).run(instructions(listing.decode("ascii", "replace").splitlines())))


def global_addresses(listing: bytes) -> set[int]:
    """Return every address that an instruction loads from or has as an immediate."""
    found: set[int] = set()
    for instruction in instructions(listing.decode("ascii", "replace").splitlines()):
        source = instruction.operands[0] if instruction.operands else ""
        if isinstance(source, Memory) and not source.index:
            if source.base in ("", "%rip"):
                found.add(source.displacement if source.target is None else source.target)
        elif isinstance(source, str) and re.match(r"\$0x[0-9a-f]+$", source):
            found.add(int(source[1:], 0))
    return found


def instructions(lines: Iterable[str]) -> Iterator[Instruction]:
    """Yield the instructions of a listing."""
    for line in lines:
        match = _INSTRUCTION.match(line)
        if match:
            yield _parse(int(match[1], 16), match[2])


def _parse(address: int, text: str) -> Instruction:
    code, _, comment = text.partition("#")
    words = code.split(None, 1)
    locked = False
    while len(words) > 1 and (words[0] in _PREFIXES or words[0].startswith("rex")):
        locked = locked or words[0] == "lock"
        words = words[1].split(None, 1)
    target = re.match(r"\s*0x([0-9a-f]+)|\s*([0-9a-f]+) <", comment)
    aim = int(target[1] or target[2], 16) if target else None
    direct = len(words) > 1 and words[0].startswith(("j", "call", "loop")) and not words[1].startswith("*")
    operands: tuple[str | Memory, ...] = (words[1],) if direct else ()
    if len(words) > 1 and not direct:
        operands = _operands(words[1], aim)
    return Instruction(address, words[0] if words else "(bad)", locked, operands, " ".join(code.split()))


def _operands(text: str, target: int | None) -> tuple[str | Memory, ...]:
    parts = re.split(r",(?![^(]*\))", text.strip())
    return tuple(_operand(part.strip(), target) for part in parts)


def _operand(text: str, target: int | None) -> str | Memory:
    if text.startswith(("$", "*")) or text in _REGISTERS:
        return text
    match = _MEMORY.match(text)
    if not match or not text:
        return text
    base = match["base"] or ""
    return Memory(
        match["segment"] or "",
        int(match["displacement"] or "0", 0),
        base,
        match["index"] or "",
        int(match["scale"] or 1),
        target if base == "%rip" else None,
    )


class Tracker:
    """One pass down a listing."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.state = State()
        self.waiting: dict[int, State] = {}
        self.stores: list[tuple[int, Value]] = []

    def run(self, listing: Iterable[Instruction]) -> Iterator[Access]:
        """Yield the accesses in the listing's order."""
        reachable = False
        for instruction in listing:
            waiting = self.waiting.pop(instruction.address, None)
            if waiting is not None and not reachable:
                self.state = waiting
            elif not reachable:
                self.state = State()
            yield from self._access(instruction)
            self._step(instruction)
            reachable = instruction.mnemonic not in _ENDS or self._jumps_over(instruction)

    # --- accesses ---

    def _access(self, instruction: Instruction) -> Iterator[Access]:
        if instruction.mnemonic.startswith(("lea", "nop", "prefetch")):
            return
        for place, operand in enumerate(instruction.operands):
            if isinstance(operand, Memory):
                at = self._field(operand)
                if at is not None:
                    kind = self._kind(instruction, place, at)
                    if kind:
                        yield Access(instruction.address, kind, _width(instruction), instruction.text)

    def _kind(self, instruction: Instruction, place: int, at: int) -> str:
        width = _width(instruction)
        selector = range(8, 16) if self.layout.bits == 64 else range(4, 8)
        if at in selector:
            return self._selector_kind(instruction, place)
        if at > 1:
            return ""
        if not _writes(instruction, place):
            return "pending read" if at == 0 else "mask read"
        name = instruction.mnemonic
        if name.startswith("bts") or (name.startswith("or") and at == 0 and self._written(instruction) == 1):
            return "pending set"
        value = self._written(instruction)
        if at == 1:
            return "restore" if value is None else "mask" if value & 0xFF else "unmask"
        if width == 1:
            return "pending clear" if value == 0 else "pending set"
        return "restore" if value is None else "mask" if value & 0xFF00 else "unmask"

    @staticmethod
    def _selector_kind(instruction: Instruction, place: int) -> str:
        if instruction.mnemonic.startswith("xchg"):
            return "selector take"
        return "selector set" if _writes(instruction, place) else "selector read"

    def _written(self, instruction: Instruction) -> int | None:
        source = instruction.operands[0]
        if isinstance(source, str) and source.startswith("$"):
            return int(source[1:], 0)
        if isinstance(source, str) and instruction.mnemonic.startswith("mov") and source in _REGISTERS:
            value = self.state.registers.get(_REGISTERS[source][0])
            if value and value[0] == "constant":
                return value[1]
        return None

    def _field(self, memory: Memory) -> int | None:
        """Return the offset in a vcpu_info that an operand addresses; None for anything else."""
        what, offset = self._address(memory)
        if what == "vcpu":
            return offset if 0 <= offset < 64 else None
        if what == "shared":
            return offset % 64 if 0 <= offset < _SHARED_BYTES else None
        return None

    # --- addresses and values ---

    def _address(self, memory: Memory) -> Value:
        layout = self.layout
        if memory.segment in ("gs", "fs"):
            base = self._of(memory.base) if memory.base not in ("", "%rip") else ("constant", 0)
            offset = memory.target if memory.target is not None else memory.displacement
            if base[0] != "constant":
                return "unknown", 0
            return self._per_cpu(offset + base[1])
        if memory.base == "%rip" or not (memory.base or memory.index):
            absolute = memory.target if memory.target is not None else memory.displacement
            return self._constant(absolute)
        base = self._of(memory.base) if memory.base else ("constant", 0)
        index = self._of(memory.index) if memory.index else ("constant", 0)
        if index[0] == "constant":
            index = "constant", index[1] * memory.scale
        elif memory.scale != 1:
            if not memory.base and layout.cpu_bases == memory.displacement & _mask(layout.bits):
                return "cpu bases", 0
            return "unknown", 0
        return self._add(self._add(base, index), ("constant", memory.displacement))

    def _constant(self, value: int) -> Value:
        page = self.layout.shared_page
        value &= _mask(self.layout.bits)
        if page is not None and page <= value < page + _SHARED_BYTES:
            return "shared", value - page
        return "constant", value

    def _per_cpu(self, offset: int) -> Value:
        area = self.layout.area
        if area is not None and 0 <= offset - area < 64:
            return "vcpu", offset - area
        return "per-CPU", offset

    def _add(self, left: Value, right: Value) -> Value:
        if right[0] != "constant":
            left, right = right, left
        if right == ("constant", 0) and left[0] != "cpu base":
            return left
        if right[0] == "constant":
            if left[0] == "constant":
                return self._constant(left[1] + right[1])
            if left[0] == "cpu base":
                return self._per_cpu(right[1])
            if left[0] == "scaled":
                page = self._constant(right[1])
                return page if page[0] == "shared" else ("unknown", 0)
            return left[0], left[1] + right[1]
        kinds = {left[0], right[0]}
        if kinds == {"shared", "scaled"}:
            return "shared", left[1] + right[1]
        return "unknown", 0

    def _load(self, memory: Memory) -> Value:
        layout = self.layout
        slot = self._slot(memory)
        if slot is not None:
            return self.state.slots.get(slot, ("unknown", 0))
        what, offset = self._address(memory)
        if what == "per-CPU":
            known = {layout.pointer: "vcpu", layout.self_pointer: "self", layout.own_base: "cpu base"}
            return known.get(offset, "unknown"), 0
        if what == "cpu bases":
            return "cpu base", 0
        if what == "self" and offset == layout.vcpu_field:
            return "vcpu", 0
        if what == "constant" and offset in layout.shared_pointers:
            return "shared", 0
        return "unknown", 0

    def _of(self, register: str) -> Value:
        name, _ = _REGISTERS.get(register, ("", 0))
        return self.state.registers.get(name, ("unknown", 0))

    def _slot(self, memory: Memory) -> tuple[str, int] | None:
        if memory.segment or memory.index or memory.base not in ("%rsp", "%esp", "%rbp", "%ebp"):
            return None
        if memory.base[-2:] == "sp":
            return "sp", memory.displacement - self.state.depth
        return "bp", memory.displacement

    # --- steps ---

    def _step(self, instruction: Instruction) -> None:
        name, operands = instruction.mnemonic, instruction.operands
        if name.startswith("j"):
            target = target_of(instruction)
            if target is not None:
                self.waiting.setdefault(target, self.state.copy())
                if self._jumps_over(instruction):
                    self._forget_caller_saved()
        elif name.startswith("call"):
            self._forget_caller_saved()
        elif name.startswith(("push", "pop")):
            self._stack_step(name, operands)
        elif operands and not _READS_ONLY.match(name):
            self._write_step(instruction)

    @staticmethod
    def _jumps_over(instruction: Instruction) -> bool:
        """Return whether a jump skips code within its own function, such as the head of a loop."""
        target = target_of(instruction) if instruction.mnemonic.startswith("jmp") else None
        return target is not None and 0 < target - instruction.address < _NEAR_BYTES

    def _forget_caller_saved(self) -> None:
        for register in _CALLER_SAVED[self.layout.bits]:
            self.state.registers.pop(register, None)

    def _stack_step(self, name: str, operands: tuple[str | Memory, ...]) -> None:
        word = self.layout.bits // 8
        if name.startswith("push"):
            self.state.depth += word
        else:
            self.state.depth -= word
            if operands and isinstance(operands[0], str) and operands[0] in _REGISTERS:
                self.state.registers.pop(_REGISTERS[operands[0]][0], None)

    def _write_step(self, instruction: Instruction) -> None:
        destination = instruction.operands[-1]
        value = self._result(instruction)
        if isinstance(destination, Memory):
            slot = self._slot(destination)
            if slot is not None:
                self.state.slots[slot] = value
            elif value[0] == "vcpu":
                what, offset = self._address(destination)
                if what == "per-CPU":
                    self.stores.append((offset, value))
            return
        if destination in ("%rsp", "%esp"):
            self._move_stack(instruction)
        elif destination in _REGISTERS:
            self.state.registers[_REGISTERS[destination][0]] = value
        if instruction.mnemonic.startswith("xchg"):
            first = instruction.operands[0]
            if isinstance(first, str) and first in _REGISTERS:
                self.state.registers.pop(_REGISTERS[first][0], None)

    def _move_stack(self, instruction: Instruction) -> None:
        source = instruction.operands[0]
        if isinstance(source, str) and source.startswith("$"):
            size = int(source[1:], 0)
            self.state.depth += size if instruction.mnemonic.startswith("sub") else -size

    def _result(self, instruction: Instruction) -> Value:
        """Return the value that the instruction writes to its destination."""
        unknown = "unknown", 0
        name, operands = instruction.mnemonic, instruction.operands
        source, destination = operands[0], operands[-1]
        if name in ("mov", "movq", "movl", "movabs", "movslq", "cltq"):
            return self._value(source, _width(instruction))
        if name in ("lea", "leaq", "leal") and isinstance(source, Memory):
            return self._address(source)
        if not isinstance(destination, str) or destination not in _REGISTERS or len(operands) != 2:
            return unknown
        if name.startswith("xor") and source == destination:
            return "constant", 0
        if name.startswith("add"):
            return self._add(self._value(source, 8), self._of(destination))
        if name.startswith(("shl", "sal")) and source == "$0x6":
            return "scaled", 0
        return unknown

    def _value(self, source: str | Memory, width: int) -> Value:
        if width < 4:
            return "unknown", 0
        if isinstance(source, Memory):
            return self._load(source)
        if source.startswith("$"):
            return self._constant(int(source[1:], 0))
        return self._of(source) if source in _REGISTERS else ("unknown", 0)


def target_of(instruction: Instruction) -> int | None:
    """Return the target of a direct jump or call, None for anything else."""
    first = instruction.operands[0] if instruction.operands else None
    match = re.match(r"(?:0x)?([0-9a-f]+)\b", first) if isinstance(first, str) else None
    return int(match[1], 16) if match else None


def _mask(bits: int) -> int:
    return (1 << bits) - 1


def _width(instruction: Instruction) -> int:
    """Return the size of the memory access in bytes."""
    name = instruction.mnemonic
    if name.startswith(("movzb", "movsb", "set")):
        return 1
    if name.startswith(("movzw", "movsw")):
        return 2
    for operand in instruction.operands:
        if isinstance(operand, str) and operand in _REGISTERS:
            return _REGISTERS[operand][1]
    return _SUFFIX_BYTES.get(name[-1], 4)


def _writes(instruction: Instruction, place: int) -> bool:
    if instruction.mnemonic.startswith(("xchg", "cmpxchg", "xadd")):
        return True
    return place == len(instruction.operands) - 1 and not _READS_ONLY.match(instruction.mnemonic)
