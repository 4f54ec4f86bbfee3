"""Let the pointers of a path point to private memory, and prove that it accesses nothing else.

A first run over the steps finds which registers and memory cells must hold a pointer: those that an
address is computed from and that no step on the path sets.  Each gets a private region.  A second run,
which may not choose anything, shows that every address follows from these alone and is in private memory,
and that nothing overwrites them or a return address.  So each repetition accesses the same addresses.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeGuard

from xtrace.symbols.replay.machine import WORD, Machine, Token, Value
from xtrace.symbols.replay.path import NotReplayableError, Step
from xtrace.symbols.replay.semantics import FORMS, Form
from xtrace.symbols.replay.timed_loop import ARENA_ADDRESS, ARENA_BYTES
from xtrace.symbols.x86.decode import REGISTERS, RSP, Flow, Insn, Memory, Operand, form_name

_REGION_BYTES = 0x4000
_PAGE_BYTES = 0x1000
_LINE_BYTES = 64
#: Where a pointer points in its region: fields follow and precede it.
_INTO_REGION = 0x1000
#: Shift between regions: without it they would share cache sets and falsely conflict.
_SHIFT_BYTES = 192
#: Further than any field from its base: the displacement is then an address and the register an index.
_FAR_BYTES = 1 << 20
STACK_POINTER = ARENA_ADDRESS + _REGION_BYTES // 2

#: The source of a token that is a return address; other sources are symbols of the first run.
_RETURN = -1
#: Operations on numbers, which code applies to pointers only to obfuscate them.
_INDEX_ARITHMETIC = frozenset(("shl", "sal", "shr", "imul"))
#: Moves of a part of a register: half of a pointer is not a pointer, so it is an index.
_MOVES = frozenset(("mov", "movsxd", "cdqe"))


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
        stack: the stack pointer at the end; None if it is not known.
    """

    registers: tuple[tuple[int, int], ...]
    cells: tuple[tuple[Cell, int], ...]
    absolute: dict[int, int]
    touched: tuple[tuple[int, int], ...]
    used: frozenset[int]
    stack: int | None


def needs(steps: Sequence[Step], *, whole: bool) -> Needs:
    """Return what a path needs.

    Args:
        whole: the steps are called as a function.

    Raises:
        NotReplayableError: its accesses cannot be shown to be private.
    """
    return proof(steps, whole=whole)[0]


def proof(steps: Sequence[Step], *, whole: bool) -> tuple[Needs, Machine]:
    """Return what a path needs, and what is known after it.

    Raises:
        NotReplayableError: its accesses cannot be shown to be private.
    """
    order = list(in_order(steps))
    chooser = _Chooser(whole=whole)
    chooser.go(order)
    registers, cells = chooser.chosen()
    prover = Prover(registers, cells, chooser.pages, whole=whole)
    prover.go(order)
    prover.check_cells()
    used = {register for step in order for register in _registers_of(step)}
    top = prover.registers[RSP]
    found = Needs(
        tuple(sorted(registers.items())),
        tuple(sorted(cells.items())),
        prover.absolute,
        tuple(prover.touched),
        frozenset(used),
        top if isinstance(top, int) else None,
    )
    return found, prover


def in_order(steps: Sequence[Step]) -> Iterator[Step]:
    """Yield the steps in execution order; a tail jump's callee returns for its caller."""
    for step in steps:
        yield step
        yield from in_order(step.callee or ())


def _registers_of(step: Step) -> Iterator[int]:
    insn = step.insn
    yield from (item.register for item in insn.operands if item.register >= 0)
    if insn.memory is not None:
        yield from (number for number in (insn.memory.base, insn.memory.index_register) if number >= 0)
    yield from insn.written
    form = FORMS.get(form_name(step.data))
    if form is not None:
        yield from (register for register, _ in form.implied)


class _Run(Machine):
    """A run over the steps; subclasses say what is known at first and what an unknown address becomes."""

    def __init__(self, *, whole: bool) -> None:
        super().__init__()
        self.absolute: dict[int, int] = {}
        self.pages: dict[tuple[bool, int], int] = {}
        self._whole = whole
        self._regions = 1  # region 0 is the stack
        self._calls = 0
        self._open: list[int] = []
        self._place = 0

    def go(self, steps: Sequence[Step]) -> None:
        """Run over the steps.

        Raises:
            NotReplayableError: an address is not known or not private.
        """
        self.registers[RSP] = STACK_POINTER
        if self._whole:
            self._called()
        for self._place, step in enumerate(steps):
            self._step(step)

    def _step(self, step: Step) -> None:
        insn = step.insn
        if insn.flow is Flow.CALL or (step.callee is not None and not self._whole):
            self._called()
        elif insn.flow is Flow.RETURN:
            if not self._open or self.pop(8) != Token(_RETURN, self._open.pop()):
                raise NotReplayableError(f"step {self._place + 1} does not return to its caller")
        elif insn.flow is Flow.NEXT:
            address = self._address(insn.memory) if insn.memory is not None and insn.access else None
            if address is not None and insn.memory is not None and (insn.lock or insn.mnemonic == "xchg"):
                self._check_line(address, insn.memory.size)
            try:
                self.execute(insn, form_name(step.data), address)
            except ValueError as error:
                raise NotReplayableError(f"step {self._place + 1}: {error}") from None

    def _check_line(self, address: int, size: int) -> None:
        """Refuse a locked access to two cache lines: it locks the bus of the whole machine."""
        if address % _LINE_BYTES + size > _LINE_BYTES:
            raise NotReplayableError(f"step {self._place + 1} locks two cache lines, which stops other CPUs")

    def _called(self) -> None:
        self._calls += 1
        self._open.append(self._calls)
        top = self.as_number(self.registers[RSP], "the stack pointer") - 8
        self.registers[RSP] = top
        self.store(top, 8, Token(_RETURN, self._calls))

    # --- addresses ---

    def accessed(self, address: int, size: int) -> None:
        """Check that an access is private.

        Raises:
            NotReplayableError: it is not.
        """
        if not ARENA_ADDRESS <= address <= ARENA_ADDRESS + ARENA_BYTES - max(size, 8):
            raise NotReplayableError(f"step {self._place + 1} accesses memory that is not private")
        super().accessed(address, size)

    def as_number(self, value: Value, what: str) -> int:
        """Return a value that has to be known.

        Raises:
            NotReplayableError: it is not.
        """
        if isinstance(value, int):
            return value
        raise NotReplayableError(f"{what} at step {self._place + 1} comes from a value that is not followed")

    def index(self, register: int) -> int:
        """Return an index in a register."""
        return self.as_number(self.registers[register], "an index")

    def _address(self, memory: Memory) -> int:
        """Return the address of a memory operand: that of the operand, or the one that replaces it."""
        index = self.index(memory.index_register) * memory.scale if memory.index_register >= 0 else 0
        if memory.base < 0 or memory.per_cpu or abs(memory.displacement) > _FAR_BYTES:
            if memory.base >= 0:
                index += self.index(memory.base)
            return self._replaced(memory.per_cpu, (memory.displacement + index) & WORD)
        base = self.as_number(self.registers[memory.base], "an address")
        return (base + index + memory.displacement) & WORD

    def address_value(self, insn: Insn, operand: Operand) -> Value:
        """Return what lea computes."""
        memory = insn.memory
        assert memory is not None
        if memory.base < 0 and memory.index_register < 0:
            address = self._replaced(memory.per_cpu, memory.displacement & WORD)
            return address & ((1 << (8 * operand.size)) - 1)
        return super().address_value(insn, operand)

    def _replaced(self, segment: bool, address: int) -> int:
        """Return the private address that replaces an absolute address of the image."""
        key = segment, address // _PAGE_BYTES
        if key not in self.pages:
            self.pages[key] = (self.new_pointer() + _PAGE_BYTES) & -_PAGE_BYTES
        found = self.pages[key] + address % _PAGE_BYTES
        self.absolute[self._place] = found
        return found

    def new_pointer(self) -> int:
        """Return a pointer into a new region.

        Raises:
            NotReplayableError: private memory has none left.
        """
        region = self._regions
        self._regions += 1
        address = ARENA_ADDRESS + region * _REGION_BYTES + _INTO_REGION + region * _SHIFT_BYTES
        if address + _REGION_BYTES > ARENA_ADDRESS + ARENA_BYTES:
            raise NotReplayableError("it uses more pointers than private memory has room for")
        return address


class Prover(_Run):
    """The second run: everything follows from the registers and cells given.

    Args:
        pages: the private pages that replace those of absolute addresses.
    """

    def __init__(
        self,
        registers: dict[int, int],
        cells: dict[Cell, int],
        pages: dict[tuple[bool, int], int],
        *,
        whole: bool,
    ) -> None:
        super().__init__(whole=whole)
        self.pages = pages
        self._cells = cells
        for number, value in registers.items():
            self.registers[number] = value
        for cell, value in cells.items():
            self._put(cell.address, cell.size, value)

    def new_pointer(self) -> int:
        """Refuse to choose.

        Raises:
            NotReplayableError: always.
        """
        raise NotReplayableError(f"the address at step {self._place + 1} differs from what was planned")

    def check_cells(self) -> None:
        """Check that the cells that addresses depend on are unchanged for the next repetition.

        Raises:
            NotReplayableError: the path overwrites one, or does not read it after all.
        """
        for cell, value in self._cells.items():
            if cell not in self.touched:
                raise NotReplayableError("it does not read memory that it was planned to read")
            for number in range(cell.size):
                if self.memory.get(cell.address + number) != value >> (8 * number) & 0xFF:
                    raise NotReplayableError("it overwrites a pointer in memory that it uses")


class _Chooser(_Run):
    """The first run: registers and memory hold symbols, which get a value when an address needs one.

    What it chooses need not be right: the second run shows whether it is.
    """

    def __init__(self, *, whole: bool) -> None:
        super().__init__(whole=whole)
        self._symbols: list[int | Cell] = []
        self._solutions: dict[int, int] = {}
        for number in range(REGISTERS):
            if number != RSP:
                self.registers[number] = self._symbol(number)

    def chosen(self) -> tuple[dict[int, int], dict[Cell, int]]:
        """Return the values chosen, of registers and of memory cells; not those that nothing needed."""
        registers: dict[int, int] = {}
        cells: dict[Cell, int] = {}
        for symbol, value in self._solutions.items():
            source = self._symbols[symbol]
            if isinstance(source, Cell):
                cells[source] = value
            else:
                registers[source] = value
        return registers, cells

    def _symbol(self, source: int | Cell) -> Token:
        self._symbols.append(source)
        return Token(len(self._symbols) - 1, 0)

    def never_written(self, address: int, size: int) -> Value:
        """Return a symbol for a memory cell."""
        return self._symbol(Cell(address, size))

    def _solve(self, value: Token, number: int) -> int:
        """Choose the value of a symbol so that ``value`` becomes ``number``, and return that."""
        source = self._symbols[value.source]
        chosen = (number - value.number) & WORD
        # Without its sign bit, it is the same number however it is extended.
        if isinstance(source, Cell) and source.size < 8 and chosen >> (8 * source.size - 1):
            raise NotReplayableError(f"a pointer in memory is only {source.size} bytes wide")
        self._solutions[value.source] = chosen
        for register, held in enumerate(self.registers):
            if isinstance(held, Token) and held.source == value.source:
                self.registers[register] = (chosen + held.number) & WORD
        for address, byte in self.memory.items():
            if isinstance(byte, tuple) and byte[0].source == value.source:
                self.memory[address] = (chosen + byte[0].number & WORD) >> (8 * byte[1]) & 0xFF
        return number

    def _zeroed(self, value: Value) -> Value:
        """Return a value that can only become an index; choose 0 for a symbol."""
        return self._solve(value, value.number) if _is_symbol(value) else value

    def index(self, register: int) -> int:
        """Return an index in a register; choose 0 for a symbol."""
        return self.as_number(self._zeroed(self.registers[register]), "an index")

    def as_number(self, value: Value, what: str) -> int:
        """Return a value that has to be known; choose a pointer for a symbol."""
        if _is_symbol(value):
            return self._solve(value, self.new_pointer())
        return super().as_number(value, what)

    def narrowed(self, insn: Insn, value: Token | None, operand: Operand) -> Value:
        """Return a part of a register; choose 0 for one that becomes an index."""
        if operand.size < 4 or insn.mnemonic not in _INDEX_ARITHMETIC | _MOVES or not _is_symbol(value):
            return None
        return self._solve(value, value.number) & ((1 << (8 * operand.size)) - 1)

    def inputs(self, insn: Insn, values: list[Value]) -> list[Value]:
        """Choose 0 for a symbol in the arithmetic of indices."""
        if insn.mnemonic in _INDEX_ARITHMETIC:
            return [self._zeroed(value) for value in values]
        return values

    def from_unknown(self, insn: Insn, form: Form, values: list[Value]) -> list[Value]:
        """Follow a symbol through a copy, an extension, or an addition of a number."""
        if insn.mnemonic in ("movsx", "movsxd"):
            # What is chosen for a cell has no sign.
            return values
        if insn.mnemonic in ("add", "sub") and insn.operands[0].register >= 0 and insn.operands[0].size == 8:
            return [self._sum(insn, values[0], values[1])]
        return super().from_unknown(insn, form, values)

    def _sum(self, insn: Insn, left: Value, right: Value) -> Value:
        if insn.operands[1].memory and _is_symbol(left):
            # A pointer to a variable, plus this CPU's offset, which Linux keeps in memory.
            right = self._zeroed(right)
        if insn.mnemonic == "sub":
            right = -right if isinstance(right, int) else None
        return _moved(left, right)

    def address_value(self, insn: Insn, operand: Operand) -> Value:
        """Return what lea computes; follow a symbol plus a number."""
        found = super().address_value(insn, operand)
        memory = insn.memory
        if found is not None or operand.size < 8 or memory is None or memory.base < 0:
            return found
        index = self.registers[memory.index_register] if memory.index_register >= 0 else 0
        if isinstance(index, int):
            return _moved(self.registers[memory.base], index * memory.scale + memory.displacement)
        if _is_symbol(index) and memory.scale == 1:
            return _moved(_moved(self.registers[memory.base], index), memory.displacement)
        return None


def _is_symbol(value: Value) -> TypeGuard[Token]:
    return isinstance(value, Token) and value.source != _RETURN


def _moved(left: Value, right: Value) -> Value:
    """Return a symbol plus a number, None for anything else."""
    if isinstance(left, int) and isinstance(right, int):
        return (left + right) & WORD
    if isinstance(left, int):
        left, right = right, left
    if _is_symbol(left) and isinstance(right, int):
        return Token(left.source, (left.number + right) & WORD)
    return None
