"""Assemble x86-64 machine code: the only module that uses iced-x86's encoder.

Instructions are named by iced-x86's ``Code`` names, registers by the numbers of
``symbols.decode``.  Branches go to labels, so that the code may stand anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from iced_x86 import (
    BlockEncoder,
    Code,
    Code_,
    Decoder,
    Instruction,
    MemoryOperand,
    OpKind,
    Register,
    Register_,
)

#: Where an assembler's own instructions stand before they have addresses: no image's code is there.
_FIRST_PLACE = 1 << 40
_PLACE_BYTES = 16
#: The end of the names that take an immediate of 64 bits.
_WIDE = "R64_IMM64"
#: So many bytes can be declared at once.
_PIECE_BYTES = 16
_BITS = 64
_FIRST = {8: Register.RAX, 4: Register.EAX, 2: Register.AX}
#: By number: spl to dil, where the numbering alone would give ah to bh.
_BYTES = tuple(
    Register_(number)
    for number in (
        Register.AL,
        Register.CL,
        Register.DL,
        Register.BL,
        *range(Register.SPL, Register.R15L + 1),
    )
)


class Gpr(NamedTuple):
    """A general register: ``number`` 0 to 15, ``size`` in bytes."""

    number: int
    size: int = 8


class Xmm(NamedTuple):
    """A vector register."""

    number: int


class At(NamedTuple):
    """A memory operand: base (-1 for none, an absolute address below 2 GB) and displacement.

    ``gs``: from that segment's base on, not from 0.
    """

    base: int
    displacement: int
    by: int = -1
    scale: int = 1
    gs: bool = False


class Label(NamedTuple):
    """A place in the code that branches go to."""

    number: int


Operand = Gpr | Xmm | At | Label | int


class Assembler:
    """Gather instructions and encode them."""

    def __init__(self) -> None:
        self._instructions: list[Instruction] = []
        self._branches: list[tuple[int, Label]] = []
        self._places: dict[Label, int] = {}
        self._label_count = 0

    def label(self) -> Label:
        """Return a new label; it stands nowhere yet."""
        self._label_count += 1
        return Label(self._label_count)

    def mark(self, label: Label) -> None:
        """Let ``label`` stand before the next instruction."""
        self._places[label] = len(self._instructions)

    def op(self, name: str, *operands: Operand, lock: bool = False) -> None:
        """Add an instruction.

        Args:
            name: of iced_x86.Code, such as ``MOV_RM64_R64``.
            operands: in Intel's order, as ``name`` wants them.
            lock: with this prefix.
        """
        instruction = self._created(getattr(Code, name), name, operands)
        if lock:
            instruction.has_lock_prefix = True
        self._instructions.append(instruction)

    def raw(self, data: bytes) -> None:
        """Add bytes as they are: code that names no address."""
        pieces = (data[place : place + _PIECE_BYTES] for place in range(0, len(data), _PIECE_BYTES))
        self._instructions.extend(Instruction.create_declare_byte(piece) for piece in pieces)

    def copy(
        self,
        data: bytes,
        address: int,
        *,
        target: Label | None = None,
        absolute: int | None = None,
        unlocked: bool = False,
    ) -> None:
        """Add the instruction that ``data`` encodes at ``address``.

        Args:
            target: where it branches to here.
            absolute: the address that stands for its memory operand here; without, that operand is kept.
            unlocked: as a plain access: without its lock prefix, a store for an exchange.

        Raises:
            ValueError: it is no instruction, or has what was not given a place here.
        """
        raw = next(iter(Decoder(_BITS, data, ip=address)), None)
        if raw is None or raw.code == Code.INVALID or raw.len != len(data):
            raise ValueError("not an instruction")
        instruction = raw.copy()
        if absolute is not None:
            instruction.segment_prefix = Register.NONE
            instruction.memory_base = Register.NONE
            instruction.memory_index = Register.NONE
            instruction.memory_displ_size = 4
            instruction.memory_displacement = absolute
        elif instruction.is_ip_rel_memory_operand or instruction.segment_prefix != Register.NONE:
            raise ValueError("a memory operand with no address given")
        if unlocked:
            instruction = _plain(instruction)
        if instruction.op_count and instruction.op0_kind == OpKind.NEAR_BRANCH64:
            if target is None:
                raise ValueError("a branch with no target given")
            self._branches.append((len(self._instructions), target))
        self._instructions.append(instruction)

    def code(self, address: int) -> bytes:
        """Return the code as it stands at ``address``.

        Raises:
            ValueError: it cannot be encoded.
        """
        for number, instruction in enumerate(self._instructions):
            instruction.ip = _FIRST_PLACE + number * _PLACE_BYTES
        for number, label in self._branches:
            self._instructions[number].near_branch64 = _FIRST_PLACE + self._places[label] * _PLACE_BYTES
        encoder = BlockEncoder(_BITS)
        encoder.add_many(self._instructions)
        return bytes(encoder.encode(address))

    def _created(self, code: Code_, name: str, operands: tuple[Operand, ...]) -> Instruction:
        if len(operands) == 1 and isinstance(operands[0], Label):
            self._branches.append((len(self._instructions), operands[0]))
            return Instruction.create_branch(code, 0)
        letters = _WIDE if name.endswith(_WIDE) else "".join(_letter(item) for item in operands)
        create = _CREATORS.get(letters)
        if create is None:
            raise ValueError(f"{name} with {operands}")
        return create(code, *(_for_iced(item) for item in operands))


#: By the operands: register, memory, immediate.
_CREATORS: dict[str, Callable[..., Instruction]] = {
    "": Instruction.create,
    "i": Instruction.create_i32,
    "m": Instruction.create_mem,
    "r": Instruction.create_reg,
    "mi": Instruction.create_mem_i32,
    "mr": Instruction.create_mem_reg,
    "rm": Instruction.create_reg_mem,
    "rr": Instruction.create_reg_reg,
    "ri": Instruction.create_reg_i32,
    "rri": Instruction.create_reg_reg_i32,
    _WIDE: Instruction.create_reg_u64,
}


def _letter(operand: Operand) -> str:
    return "i" if isinstance(operand, int) else "m" if isinstance(operand, At) else "r"


def _for_iced(operand: Operand) -> object:
    if isinstance(operand, At):
        return _memory(operand)
    if isinstance(operand, Gpr | Xmm):
        return _register(operand)
    return operand


#: A store of the same width for an exchange.
_STORES = {
    Code.XCHG_RM8_R8: Code.MOV_RM8_R8,
    Code.XCHG_RM16_R16: Code.MOV_RM16_R16,
    Code.XCHG_RM32_R32: Code.MOV_RM32_R32,
    Code.XCHG_RM64_R64: Code.MOV_RM64_R64,
}


def _plain(instruction: Instruction) -> Instruction:
    if instruction.code in _STORES:
        instruction.code = _STORES[instruction.code]
    instruction.has_lock_prefix = False
    return instruction


def is_general(data: bytes, address: int) -> bool:
    """Tell whether an instruction works on general registers and memory alone, as any user may.

    No segment, control, debug or vector register, no far address, no port, no part of rip but branches;
    no address of 32 bits, no memory that it reaches without an operand but the stack.
    """
    raw = next(iter(Decoder(_BITS, data, ip=address)), None)
    if raw is None or raw.code == Code.INVALID or raw.len != len(data) or raw.is_privileged:
        return False
    if raw.has_rep_prefix or raw.has_repne_prefix or raw.is_string_instruction:
        return False
    for number in range(raw.op_count):
        kind = raw.op_kind(number)
        if kind == OpKind.REGISTER:
            if not Register.AL <= raw.op_register(number) <= Register.R15:
                return False
        elif kind == OpKind.MEMORY:
            if not all(_is_address_part(register) for register in (raw.memory_base, raw.memory_index)):
                return False
        elif not OpKind.IMMEDIATE8 <= kind <= OpKind.IMMEDIATE32TO64:
            return False
    return True


def _is_address_part(register: int) -> bool:
    return register in (Register.NONE, Register.RIP) or Register.RAX <= register <= Register.R15


def _register(register: Gpr | Xmm) -> Register_:
    if isinstance(register, Xmm):
        return Register_(Register.XMM0 + register.number)
    if register.size == 1:
        return _BYTES[register.number]
    return Register_(_FIRST[register.size] + register.number)


def _memory(place: At) -> MemoryOperand:
    base = _register(Gpr(place.base)) if place.base >= 0 else Register_(Register.NONE)
    index = _register(Gpr(place.by)) if place.by >= 0 else Register_(Register.NONE)
    size = 1 if place.base >= 0 and place.displacement else 0
    if place.base < 0:
        size = 4
    segment = Register_(Register.GS if place.gs else Register.NONE)
    return MemoryOperand(base, index, place.scale, place.displacement, size, seg=segment)
