"""Execute instructions on a state of which only a part is known.

A known number is an int.  None is a value that is not known; what is computed from it is not known either.
Anything else is a Token: a return address, or what a subclass follows (see memory.py).  A token may be
copied as a whole, and no number is computed from it.

With everything known, the result is what the processor does; tests/symbols/replay/test_forms.py compares
them.
"""

from __future__ import annotations

from typing import NamedTuple

from xtrace.symbols.replay.semantics import FORMS, Form, copy, swap
from xtrace.symbols.x86.decode import RBP, REGISTERS, RSP, Insn, Memory, Operand

WORD = (1 << 64) - 1
_BYTE = 0xFF
#: Instructions whose result does not depend on a register that is both their operands.
_CANCELLING = frozenset(("xor", "sub"))


class Token(NamedTuple):
    """A value that is not a number: ``number`` added to something that ``source`` identifies."""

    source: int
    number: int


Value = int | Token | None
#: A byte of memory: a number; a token, which of its bytes, and how many there are; or None.
Byte = int | tuple[Token, int, int] | None


class Machine:
    """Registers, memory and flags.

    Attributes:
        registers: full registers by number.
        memory: bytes by address that were written, or read through ``initial_byte``.
        flags: bits of rflags; only those of ``known_flags`` count.
        touched: (address, size) of every access.
    """

    def __init__(self) -> None:
        self.registers: list[Value] = [None] * REGISTERS
        self.memory: dict[int, Byte] = {}
        self.flags = 0
        self.known_flags = 0
        self.touched: list[tuple[int, int]] = []

    # --- what a subclass decides ---

    def accessed(self, address: int, size: int) -> None:
        """Note an access to memory; a subclass may refuse it."""
        self.touched.append((address, size))

    def never_written(self, address: int, size: int) -> Value:
        """Return what a load finds of which no byte was written or read before."""
        del address, size
        return None

    def as_number(self, value: Value, what: str) -> int:
        """Return a value that the execution cannot go on without.

        Raises:
            ValueError: it is not known.
        """
        if isinstance(value, int):
            return value
        raise ValueError(f"{what} is not known")

    def inputs(self, insn: Insn, values: list[Value]) -> list[Value]:
        """Return the values that an instruction computes from; a subclass may choose some."""
        del insn
        return values

    def from_unknown(self, insn: Insn, form: Form, values: list[Value]) -> list[Value]:
        """Return the results of an instruction of which not all inputs are numbers."""
        del insn
        if form.compute is copy:
            return values
        if form.compute is swap:
            return values[::-1]
        return [None] * len(form.writes)

    # --- memory ---

    def load(self, address: int, size: int) -> Value:
        """Return the value in memory."""
        self.accessed(address, size)
        places = range(address, address + size)
        known = [place in self.memory for place in places]
        if not any(known):
            value = self.never_written(address, size)
            self._put(address, size, value)
            return value
        found = [self.memory.get(place) for place in places]
        if all(isinstance(byte, int) for byte in found):
            return int.from_bytes(bytes(byte for byte in found if isinstance(byte, int)), "little")
        first = found[0]
        if isinstance(first, tuple) and found == [(first[0], number, size) for number in range(size)]:
            return first[0]
        return None

    def store(self, address: int, size: int, value: Value) -> None:
        """Write a value to memory."""
        self.accessed(address, size)
        self._put(address, size, value)

    def _put(self, address: int, size: int, value: Value) -> None:
        for number in range(size):
            byte: Byte = None
            if isinstance(value, int):
                byte = value >> (8 * number) & _BYTE
            elif value is not None:
                byte = value, number, size
            self.memory[address + number] = byte

    # --- operands ---

    def effective(self, memory: Memory) -> Value:
        """Return the address of a memory operand without a segment, None if it is not a number."""
        base = self.registers[memory.base] if memory.base >= 0 else 0
        index = self.registers[memory.index_register] if memory.index_register >= 0 else 0
        if isinstance(base, int) and isinstance(index, int):
            return (base + index * memory.scale + memory.displacement) & WORD
        return None

    def read(self, insn: Insn, operand: Operand, address: int | None, size: int) -> Value:
        """Return an operand's value; that of an immediate is cut to ``size`` bytes."""
        if operand.memory:
            assert address is not None
            return self.load(address, operand.size)
        if operand.register < 0:
            return operand.value & ((1 << (8 * size)) - 1)
        value = self.registers[operand.register]
        if operand.size == 8:
            return value
        if isinstance(value, int):
            return value >> (8 if operand.high else 0) & ((1 << (8 * operand.size)) - 1)
        return self.narrowed(insn, value, operand)

    def narrowed(self, insn: Insn, value: Token | None, operand: Operand) -> Value:
        """Return a part of a register that holds no number."""
        del insn, value, operand
        return None

    def write(self, operand: Operand, address: int | None, value: Value) -> None:
        """Write an operand; 32-bit registers clear their upper half, shorter ones keep the rest."""
        if operand.memory:
            assert address is not None
            self.store(address, operand.size, value)
            return
        if operand.size >= 4:
            self.registers[operand.register] = value
            return
        before = self.registers[operand.register]
        if not isinstance(value, int) or not isinstance(before, int):
            self.registers[operand.register] = None
            return
        shift = 8 if operand.high else 0
        mask = (1 << (8 * operand.size)) - 1 << shift
        self.registers[operand.register] = before & ~mask | value << shift

    # --- instructions ---

    def execute(self, insn: Insn, name: str, address: int | None) -> None:
        """Execute one instruction.

        Args:
            name: of its form in FORMS.
            address: of its memory operand; None if it has none or does not access it.

        Raises:
            ValueError: it is a form that is not admitted.
        """
        form = FORMS.get(name)
        if form is None:
            raise ValueError(f"{name} is not admitted")
        if form.compute is None:
            self._special(insn, form.stack, address)
            return
        first = insn.operands[0].size if insn.operands else 0
        implied = (Operand(register, 0, size or first, False, False) for register, size in form.implied)
        operands = (*insn.operands, *implied)
        # In imul's form with three operands, the first is only written; all others have the first one's size.
        values = [self.read(insn, operands[number], address, first) for number in form.reads]
        if insn.mnemonic in _CANCELLING and operands[0] == operands[1] and not operands[0].memory:
            values = [0, 0]
        values = self.inputs(insn, values)
        results, changed = self._results(insn, form, operands, values)
        for number, result in zip(form.writes, results, strict=True):
            self.write(operands[number], address, result)
        self.flags, self.known_flags = changed

    def _results(
        self, insn: Insn, form: Form, operands: tuple[Operand, ...], values: list[Value]
    ) -> tuple[list[Value], tuple[int, int]]:
        """Return the results and the flags afterwards, with those that are known."""
        assert form.compute is not None
        numbers = tuple(value for value in values if isinstance(value, int))
        sizes = tuple(8 * (operand.size or operands[0].size) for operand in operands)
        if len(numbers) == len(values) and not form.flags & ~self.known_flags:
            found = form.compute(sizes, numbers, self.flags)
            known = self.known_flags & ~found.changed | found.defined
            results: list[Value] = list(found.results)
            for place in found.halves:
                operand = operands[form.writes[place]]
                if not operand.memory and (operand.size or operands[0].size) == 4:
                    results[place] = None
            return results, (self.flags & ~found.changed | found.flags & found.defined, known)
        kept = ~_most_changed(form, sizes)
        return self.from_unknown(insn, form, values), (self.flags & kept, self.known_flags & kept)

    def _special(self, insn: Insn, size: int, address: int | None) -> None:
        operand = insn.operands[0] if insn.operands else None
        if insn.mnemonic == "lea":
            assert operand is not None
            self.write(operand, None, self.address_value(insn, operand))
        elif insn.mnemonic == "push":
            assert operand is not None
            value = self.read(insn, operand, address, size)
            top = (self.as_number(self.registers[RSP], "the stack pointer") - size) & WORD
            self.registers[RSP] = top
            self.store(top, size, value)
        elif insn.mnemonic == "pop":
            assert operand is not None
            self.write(operand, None, self.pop(size))
        else:
            self.registers[RSP] = self.as_number(self.registers[RBP], "the frame pointer")
            self.write(Operand(RBP, 0, size, False, False), None, self.pop(size))

    def pop(self, size: int) -> Value:
        """Return the top of the stack and drop it."""
        top = self.as_number(self.registers[RSP], "the stack pointer")
        value = self.load(top, size)
        self.registers[RSP] = (top + size) & WORD
        return value

    def address_value(self, insn: Insn, operand: Operand) -> Value:
        """Return what lea computes, cut to its operand's size."""
        assert insn.memory is not None
        value = self.effective(insn.memory)
        return value & ((1 << (8 * operand.size)) - 1) if isinstance(value, int) else None


def _most_changed(form: Form, sizes: tuple[int, ...]) -> int:
    """Return the flags that an instruction may change, whatever its inputs."""
    assert form.compute is not None
    changed = 0
    for sample in (0, 1):
        changed |= form.compute(sizes, (sample,) * len(form.reads), 0).changed
    return changed
