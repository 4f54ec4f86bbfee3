"""Let the pointers of a path point to private memory, and prove that it accesses nothing else.

A first run over the steps finds which registers and memory cells must hold a pointer: those that an
address is computed from and that no step on the path sets.  Each gets a private region.  A second run,
which may not choose anything, shows that every address follows from these alone and is in private memory,
and that nothing overwrites them or a return address.  So each repetition accesses the same addresses.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from xtrace.symbols.replay.path import NotReplayableError, Step
from xtrace.symbols.replay.timed_loop import ARENA_ADDRESS, ARENA_BYTES
from xtrace.symbols.x86.decode import RAX, RBP, RDX, REGISTERS, RSP, WRITE, Flow, Insn, Memory

_WORD = (1 << 64) - 1
_REGION_BYTES = 0x4000
_PAGE_BYTES = 0x1000
#: Where a pointer points in its region: fields follow and precede it.
_INTO_REGION = 0x1000
#: Shift between regions: without it they would share cache sets and falsely conflict.
_SHIFT_BYTES = 192
#: Further than any field from its base: the displacement is then an address and the register an index.
_FAR_BYTES = 1 << 20
STACK_POINTER = ARENA_ADDRESS + _REGION_BYTES // 2

_KNOWN, _RETURN = -1, -2


class Value(NamedTuple):
    """A symbol (>= 0) plus ``number``, or ``number`` alone (_KNOWN), or a return address (_RETURN)."""

    symbol: int
    number: int


def _known(number: int) -> Value:
    return Value(_KNOWN, number & _WORD)


class Cell(NamedTuple):
    """A memory location that is read before it is written."""

    address: int
    size: int


@dataclass(frozen=True, slots=True)
class Needs:
    """The initial state with which all addresses of a path are private.

    Attributes:
        registers: register numbers and their values at the start of the path.
        cells: memory that holds pointers or parts of addresses, and its values.
        absolute: replacement addresses for operands with an absolute or per-CPU address, by the step's
            index in execution order.
        touched: (address, size) of every access, for checks.
        used: all registers that occur.
    """

    registers: tuple[tuple[int, int], ...]
    cells: tuple[tuple[Cell, int], ...]
    absolute: dict[int, int]
    touched: tuple[tuple[int, int], ...]
    used: frozenset[int]


def needs(steps: Sequence[Step], *, whole: bool) -> Needs:
    """Return what a path needs.

    Args:
        whole: the steps are called as a function.

    Raises:
        NotReplayableError: its accesses cannot be shown to be private.
    """
    order = list(_in_order(steps))
    chooser = _Run(None, whole)
    chooser.go(order)
    registers = {number: value for number, value in chooser.chosen_registers() if value is not None}
    cells = {cell: value for cell, value in chooser.chosen_cells() if value is not None}
    prover = _Run(_Fixed(registers, cells), whole)
    prover.go(order)
    prover.check_cells()
    used = {register for step in order for register in _registers_of(step.insn)}
    return Needs(
        tuple(sorted(registers.items())),
        tuple(sorted(cells.items())),
        prover.absolute,
        tuple(prover.touched),
        frozenset(used),
    )


def _in_order(steps: Sequence[Step]) -> Iterator[Step]:
    """Yield the steps in execution order; a tail jump's callee returns for its caller."""
    for step in steps:
        yield step
        yield from _in_order(step.callee or ())


def _registers_of(insn: Insn) -> Iterator[int]:
    for item in insn.operands:
        if item.register >= 0:
            yield item.register
    if insn.memory is not None:
        yield from (number for number in (insn.memory.base, insn.memory.index_register) if number >= 0)
    yield from insn.written
    if insn.mnemonic in ("cmpxchg", "cdq", "cqo", "cdqe", "cwde", "cbw", "imul"):
        yield from (RAX, RDX)
    if insn.mnemonic == "leave":
        yield RBP


class _Fixed(NamedTuple):
    """The initial state of the second run."""

    registers: dict[int, int]
    cells: dict[Cell, int]


@dataclass(slots=True)
class _Written:
    value: Value | None
    size: int


@dataclass
class _Run:
    """A run over the steps; without ``fixed``, it chooses unknown values that an address needs."""

    fixed: _Fixed | None
    whole: bool
    absolute: dict[int, int] = field(default_factory=dict)
    touched: list[tuple[int, int]] = field(default_factory=list)
    _registers: list[Value | None] = field(default_factory=list)
    _memory: dict[int, _Written] = field(default_factory=dict)
    _symbols: list[int | Cell] = field(default_factory=list)
    _solutions: dict[int, int] = field(default_factory=dict)
    _regions: int = 1  # region 0 is the stack
    _pages: dict[tuple[bool, int], int] = field(default_factory=dict)
    _calls: int = 0
    _open: list[int] = field(default_factory=list)
    _place: int = 0

    def go(self, steps: Sequence[Step]) -> None:
        """Run over the steps.

        Raises:
            NotReplayableError: an address is not known or not private.
        """
        self._registers = [self._entry_value(number) for number in range(REGISTERS)]
        self._registers[RSP] = _known(STACK_POINTER)
        if self.whole:
            self._called()
        for self._place, step in enumerate(steps):
            self._step(step)

    def _entry_value(self, number: int) -> Value | None:
        if self.fixed is None:
            return self._symbol(number)
        value = self.fixed.registers.get(number)
        return None if value is None else _known(value)

    def _symbol(self, source: int | Cell) -> Value:
        self._symbols.append(source)
        return Value(len(self._symbols) - 1, 0)

    def chosen_registers(self) -> Iterator[tuple[int, int | None]]:
        """Yield all registers except rsp with the value chosen on entry, None if none was needed."""
        for symbol, source in enumerate(self._symbols):
            if isinstance(source, int) and source != RSP:
                yield source, self._solutions.get(symbol)

    def chosen_cells(self) -> Iterator[tuple[Cell, int | None]]:
        """Yield the memory cells that were read with the value chosen, None if none was needed."""
        for symbol, source in enumerate(self._symbols):
            if isinstance(source, Cell):
                yield source, self._solutions.get(symbol)

    def check_cells(self) -> None:
        """Check that the cells that addresses depend on are unchanged for the next repetition.

        Raises:
            NotReplayableError: the path overwrites one.
        """
        assert self.fixed is not None
        for cell, value in self.fixed.cells.items():
            for address, written in self._memory.items():
                same = address == cell.address and written == _Written(_known(value), cell.size)
                if not same and address < cell.address + cell.size and cell.address < address + written.size:
                    raise NotReplayableError("it overwrites a pointer in memory that it uses")

    # --- values ---

    def _resolved(self, value: Value | None) -> Value | None:
        if value is None or value.symbol < 0:
            return value
        solution = self._solutions.get(value.symbol)
        return value if solution is None else _known(solution + value.number)

    def _register(self, number: int) -> Value | None:
        return self._resolved(self._registers[number])

    def _solve(self, value: Value, number: int) -> None:
        """Choose the value of a symbol so that ``value`` becomes ``number``."""
        source = self._symbols[value.symbol]
        chosen = (number - value.number) & _WORD
        if isinstance(source, Cell) and chosen >> (8 * source.size):
            raise NotReplayableError(f"a pointer in memory is only {source.size} bytes wide")
        self._solutions[value.symbol] = chosen

    def _as_zero(self, value: Value | None, what: str) -> int:
        """Return a part of an address as a number; choose 0 for a symbol."""
        if value is not None and value.symbol >= 0:
            self._solve(value, value.number)
            value = self._resolved(value)
        if value is None or value.symbol != _KNOWN:
            raise self._unknown(what)
        return value.number

    def _unknown(self, what: str) -> NotReplayableError:
        return NotReplayableError(f"{what} at step {self._place + 1} comes from a value that is not followed")

    def _pointer(self) -> int:
        """Return a pointer into a new region."""
        region = self._regions
        self._regions += 1
        address = ARENA_ADDRESS + region * _REGION_BYTES + _INTO_REGION + region * _SHIFT_BYTES
        if address + _REGION_BYTES > ARENA_ADDRESS + ARENA_BYTES:
            raise NotReplayableError("it uses more pointers than private memory has room for")
        return address

    def _page(self, segment: bool, address: int) -> int:
        """Return the private address that replaces an absolute address of the image."""
        key = segment, address // _PAGE_BYTES
        if key not in self._pages:
            self._pages[key] = (self._pointer() + _PAGE_BYTES) & -_PAGE_BYTES
        return self._pages[key] + address % _PAGE_BYTES

    # --- memory ---

    def _address(self, memory: Memory, *, lea: bool = False) -> int:
        """Return the address of a memory operand, a private one; that of an lea is not checked."""
        base = self._register(memory.base) if memory.base >= 0 else None
        index = 0
        if memory.index_register >= 0:
            index = self._as_zero(self._register(memory.index_register), "an index") * memory.scale
        named = memory.base < 0 or memory.per_cpu or abs(memory.displacement) > _FAR_BYTES
        if named:
            if memory.base >= 0:
                index += self._as_zero(base, "an index")
            address = self._page(memory.per_cpu, (memory.displacement + index) & _WORD)
            self.absolute[self._place] = address
            return address
        if base is not None and base.symbol >= 0:
            self._solve(base, self._pointer())
            base = self._resolved(base)
        if base is None or base.symbol != _KNOWN:
            raise self._unknown("an address")
        address = (base.number + index + memory.displacement) & _WORD
        if not lea:
            self._check(address, memory.size)
        return address

    def _check(self, address: int, size: int) -> None:
        if not ARENA_ADDRESS <= address <= ARENA_ADDRESS + ARENA_BYTES - max(size, 8):
            raise NotReplayableError(f"step {self._place + 1} accesses memory that is not private")
        self.touched.append((address, size))

    def _load(self, address: int, size: int) -> Value | None:
        self._check(address, size)
        written = self._memory.get(address)
        if written is not None and written.size == size:
            return self._resolved(written.value)
        if self._overlapping(address, size):
            return None
        cell = Cell(address, size)
        if self.fixed is not None:
            value = self.fixed.cells.get(cell)
            return None if value is None else _known(value)
        value_of_cell = self._symbol(cell)
        # A second read returns the same.
        self._memory[address] = _Written(value_of_cell, size)
        return value_of_cell

    def _overlapping(self, address: int, size: int) -> list[int]:
        return [
            other
            for other, written in self._memory.items()
            if other < address + size and address < other + written.size
        ]

    def _store(self, address: int, size: int, value: Value | None) -> None:
        self._check(address, size)
        for other in self._overlapping(address, size):
            if other != address or self._memory[other].size != size:
                self._memory[other] = _Written(None, self._memory[other].size)
        self._memory[address] = _Written(value, size)

    def _push(self, value: Value | None) -> None:
        top = self._as_zero(self._registers[RSP], "the stack pointer") - 8
        self._registers[RSP] = _known(top)
        self._store(top, 8, value)

    def _pop(self) -> Value | None:
        top = self._as_zero(self._registers[RSP], "the stack pointer")
        value = self._load(top, 8)
        self._registers[RSP] = _known(top + 8)
        return value

    # --- instructions ---

    def _step(self, step: Step) -> None:
        insn = step.insn
        if insn.flow is Flow.CALL or (step.callee is not None and not self.whole):
            self._called()
        elif insn.flow is Flow.RETURN:
            if not self._open or self._pop() != Value(_RETURN, self._open.pop()):
                raise NotReplayableError(f"step {self._place + 1} does not return to its caller")
        elif insn.flow is Flow.NEXT:
            self._plain(insn)

    def _called(self) -> None:
        self._calls += 1
        self._open.append(self._calls)
        self._push(Value(_RETURN, self._calls))

    def _plain(self, insn: Insn) -> None:
        address = None
        if insn.memory is not None and insn.mnemonic != "lea" and insn.access:
            address = self._address(insn.memory)
        handled = _HANDLERS.get(insn.mnemonic)
        if handled is not None and handled(self, insn, address):
            return
        result = self._computed(insn)
        for register in insn.written:
            if register == RSP and insn.mnemonic in ("push", "pop", "leave"):
                continue
            self._registers[register] = None
        if result is not None and insn.operands[0].register >= 0:
            self._registers[insn.operands[0].register] = result
        if address is not None and insn.memory is not None and insn.access & WRITE:
            self._store(address, max(insn.memory.size, 1), None)
        elif address is not None and insn.memory is not None:
            self._check(address, max(insn.memory.size, 1))

    def _computed(self, insn: Insn) -> Value | None:
        """Return the result that arithmetic leaves in its first operand, None if it is not known."""
        operands = insn.operands
        if len(operands) == 3 and insn.mnemonic == "imul" and operands[0].size >= 4:
            left = self._zeroed(self._operand(insn, 1))
            return _arithmetic("imul", left, _known(operands[2].value), operands[0].size)
        if len(operands) != 2 or operands[0].register < 0 or operands[0].size < 4:
            return None
        if insn.mnemonic in ("xor", "sub") and operands[0] == operands[1]:
            return _known(0)
        left = self._register(operands[0].register)
        right = self._operand(insn, 1)
        if insn.mnemonic in _INDEX_ARITHMETIC:
            left, right = self._zeroed(left), self._zeroed(right)
        return _arithmetic(insn.mnemonic, left, right, operands[0].size)

    def _zeroed(self, value: Value | None) -> Value | None:
        """Return a value that can only become an index; choose 0 for a symbol."""
        if value is not None and value.symbol >= 0:
            self._solve(value, value.number)
        return self._resolved(value)

    def _operand(self, insn: Insn, place: int) -> Value | None:
        operand = insn.operands[place]
        if operand.memory:
            return None
        if operand.register >= 0:
            return None if operand.high or operand.size < 4 else self._register(operand.register)
        return _known(operand.value)

    def _move(self, insn: Insn, address: int | None) -> bool:
        target, source = insn.operands[0], insn.operands[1]
        if source.memory and address is not None and insn.memory is not None:
            value = self._load(address, insn.memory.size)
        else:
            value = self._operand(insn, 1)
            if insn.mnemonic in ("movzx", "movsx", "movsxd") and source.register >= 0 and source.size < 4:
                value = None
        if target.memory and address is not None and insn.memory is not None:
            self._store(address, insn.memory.size, value if insn.memory.size == 8 else None)
            return True
        if target.register < 0:
            return False
        if target.size < 4:
            value = None
        elif source.register >= 0 and min(target.size, source.size) == 4:
            # Half of a pointer is not a pointer: a value moved in 32 bits is an index.
            value = self._zeroed(value)
            if value is not None and value.number >> 31:
                value = None
        elif target.size == 4 and value is not None and value.symbol == _KNOWN:
            value = _known(value.number & 0xFFFF_FFFF)
        self._registers[target.register] = value
        return True

    def _lea(self, insn: Insn, _address: int | None) -> bool:
        memory = insn.memory
        if memory is None or insn.operands[0].size < 8:
            return False
        base = self._register(memory.base) if memory.base >= 0 else _known(0)
        value: Value | None
        if memory.base < 0 and memory.index_register < 0:
            value = _known(self._address(memory, lea=True))
        elif memory.index_register >= 0:
            index = self._register(memory.index_register)
            scaled = None
            if index is not None and index.symbol == _KNOWN:
                scaled = _known(index.number * memory.scale + memory.displacement)
            value = _arithmetic("add", base, scaled, 8)
        else:
            value = _arithmetic("add", base, _known(memory.displacement), 8)
        self._registers[insn.operands[0].register] = value
        return True

    def _add_memory(self, insn: Insn, address: int | None) -> bool:
        """Handle an add from memory: this is how Linux finds this CPU's copy of a variable."""
        target, source = insn.operands[0], insn.operands[1]
        if not source.memory or address is None or insn.memory is None or target.size < 8:
            return False
        left, right = self._register(target.register), self._load(address, 8)
        if insn.mnemonic == "add" and left is not None and right is not None and right.symbol >= 0:
            if left.symbol == _KNOWN:
                self._registers[target.register] = Value(right.symbol, (right.number + left.number) & _WORD)
                return True
            self._as_zero(right, "a summand")
            right = self._resolved(right)
        self._registers[target.register] = _arithmetic(insn.mnemonic, left, right, 8)
        return True

    def _push_operand(self, insn: Insn, address: int | None) -> bool:
        operand = insn.operands[0]
        if operand.register >= 0:
            value = self._register(operand.register)
        elif address is not None:
            value = self._load(address, 8)
        else:
            value = _known(operand.value)
        self._push(value)
        return True

    def _pop_operand(self, insn: Insn, address: int | None) -> bool:
        operand = insn.operands[0]
        if operand.register < 0 or address is not None:
            raise NotReplayableError(f"step {self._place + 1} pops into memory")
        self._registers[operand.register] = self._pop()
        return True

    def _leave(self, _insn: Insn, _address: int | None) -> bool:
        frame = self._register(RBP)
        if frame is not None and frame.symbol >= 0:
            self._solve(frame, self._pointer())
            frame = self._resolved(frame)
        if frame is None or frame.symbol != _KNOWN:
            raise self._unknown("the frame pointer")
        self._registers[RSP] = frame
        self._registers[RBP] = self._pop()
        return True

    def _extend(self, _insn: Insn, _address: int | None) -> bool:
        value = self._zeroed(self._register(RAX))
        self._registers[RAX] = value if value is not None and not value.number >> 31 else None
        return True

    def _exchange(self, insn: Insn, address: int | None) -> bool:
        left, right = insn.operands[0], insn.operands[1]
        if address is not None or left.register < 0 or right.register < 0 or left.size < 8:
            return False
        registers = self._registers
        first, second = left.register, right.register
        registers[first], registers[second] = registers[second], registers[first]
        return True


def _arithmetic(mnemonic: str, left: Value | None, right: Value | None, size: int) -> Value | None:
    if left is None or right is None or _RETURN in (left.symbol, right.symbol):
        return None
    if mnemonic in ("add", "sub") and size == 8 and right.symbol == _KNOWN:
        by = right.number if mnemonic == "add" else -right.number
        return Value(left.symbol, (left.number + by) & _WORD)
    if mnemonic == "add" and size == 8 and left.symbol == _KNOWN:
        return Value(right.symbol, (left.number + right.number) & _WORD)
    if left.symbol != _KNOWN or right.symbol != _KNOWN:
        return None
    operation = _OPERATIONS.get(mnemonic)
    if operation is None:
        return None
    return _known(operation(left.number, right.number) & ((1 << (8 * size)) - 1))


_OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "add": operator.add,
    "sub": operator.sub,
    "and": operator.and_,
    "or": operator.or_,
    "xor": operator.xor,
    "shl": lambda left, right: left << (right & 63),
    "sal": lambda left, right: left << (right & 63),
    "shr": lambda left, right: left >> (right & 63),
    "imul": operator.mul,
}
#: Operations on numbers, which code applies to pointers only to obfuscate them.
_INDEX_ARITHMETIC = frozenset(("shl", "sal", "shr", "imul"))
_HANDLERS: dict[str, Callable[[_Run, Insn, int | None], bool]] = {
    **dict.fromkeys(("mov", "movzx", "movsx", "movsxd"), _Run._move),
    **dict.fromkeys(("add", "sub"), _Run._add_memory),
    "lea": _Run._lea,
    "push": _Run._push_operand,
    "pop": _Run._pop_operand,
    "leave": _Run._leave,
    "xchg": _Run._exchange,
    "cdqe": _Run._extend,
}
