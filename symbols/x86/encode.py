"""Assemble x86-64 machine code with iced-x86's encoder.

Instructions have iced-x86's ``Code`` names, registers the numbers of ``decode``.  Branches go to
labels, so the code can be placed anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from iced_x86 import (
    BlockEncoder,
    Code,
    Code_,
    Decoder,
    Encoder,
    Instruction,
    MemoryOperand,
    OpKind,
    Register,
    Register_,
)

#: Provisional addresses of the instructions until they are placed: no image has code here.
_FIRST_PLACE = 1 << 40
_PLACE_BYTES = 16
#: How the names end that take a 64-bit immediate.
_WIDE = "R64_IMM64"
#: The most bytes that one iced-x86 "declare byte" holds.
_PIECE_BYTES = 16
_BITS = 64
_FIRST = {8: Register.RAX, 4: Register.EAX, 2: Register.AX}
#: 8-bit registers by number: spl to dil for 4 to 7, where iced-x86's order has ah to bh.
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
    """A memory operand: base, displacement, index register ``by`` and its ``scale``.

    Without a base (-1) the displacement is an absolute address below 2 GiB.  ``gs``: relative to the
    base of gs instead of 0.
    """

    base: int
    displacement: int
    by: int = -1
    scale: int = 1
    gs: bool = False


class Label(NamedTuple):
    """A branch target in the code."""

    number: int


Operand = Gpr | Xmm | At | Label | int


class Assembler:
    """Collect instructions and encode them."""

    def __init__(self) -> None:
        self._instructions: list[Instruction] = []
        self._branches: list[tuple[int, Label]] = []
        self._places: dict[Label, int] = {}
        self._label_count = 0

    def label(self) -> Label:
        """Return a new label, which has no place yet."""
        self._label_count += 1
        return Label(self._label_count)

    def mark(self, label: Label) -> None:
        """Place ``label`` before the next instruction."""
        self._places[label] = len(self._instructions)

    def op(self, name: str, *operands: Operand, lock: bool = False) -> None:
        """Add an instruction.

        Args:
            name: of iced_x86.Code, such as ``MOV_RM64_R64``.
            operands: in Intel order, as ``name`` requires.
            lock: add a lock prefix.
        """
        instruction = self._created(getattr(Code, name), name, operands)
        if lock:
            instruction.has_lock_prefix = True
        self._instructions.append(instruction)

    def raw(self, data: bytes) -> None:
        """Add bytes as they are: code without any relative address."""
        pieces = (data[place : place + _PIECE_BYTES] for place in range(0, len(data), _PIECE_BYTES))
        self._instructions.extend(Instruction.create_declare_byte(piece) for piece in pieces)

    def copy(
        self,
        data: bytes,
        address: int,
        *,
        target: Label | None = None,
        absolute: int | None = None,
    ) -> None:
        """Add the instruction that ``data`` encodes at ``address``.

        Args:
            target: where it branches to here.
            absolute: the address that replaces its memory operand; None keeps the operand.

        Raises:
            ValueError: it is not exactly one instruction, or needs a target or an address that is not given.
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
        if instruction.op_count and instruction.op0_kind == OpKind.NEAR_BRANCH64:
            if target is None:
                raise ValueError("a branch with no target given")
            self._branches.append((len(self._instructions), target))
        self._instructions.append(instruction)

    def code(self, address: int) -> bytes:
        """Return the code encoded for ``address``.

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


#: By operand kinds: r register, m memory, i immediate.
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


#: The store of the same width for each exchange.
_STORES = {
    Code.XCHG_RM8_R8: Code.MOV_RM8_R8,
    Code.XCHG_RM16_R16: Code.MOV_RM16_R16,
    Code.XCHG_RM32_R32: Code.MOV_RM32_R32,
    Code.XCHG_RM64_R64: Code.MOV_RM64_R64,
}


def plain_access(data: bytes, address: int) -> bytes:
    """Return an instruction at ``address`` as a plain access: no lock prefix, a store for an exchange.

    Raises:
        ValueError: it is not an instruction, or cannot be encoded.
    """
    raw = next(iter(Decoder(_BITS, data, ip=address)), None)
    if raw is None or raw.code == Code.INVALID or raw.len != len(data):
        raise ValueError("not an instruction")
    instruction = raw.copy()
    if instruction.code in _STORES:
        instruction.code = _STORES[instruction.code]
    instruction.has_lock_prefix = False
    encoder = Encoder(_BITS)
    encoder.encode(instruction, address)
    return bytes(encoder.take_buffer())


def is_general(data: bytes, address: int) -> bool:
    """Return whether ``data`` is one unprivileged instruction on general registers and memory only.

    It is no string instruction, and no operand is a segment, control, debug or vector register, a branch
    target, or memory at a far or 32-bit address.  Registers that are not operands are not checked: fld1
    and vzeroupper pass.
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
