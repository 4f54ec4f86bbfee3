"""Draw instructions of a given form, with any of the operands that it can have."""

from __future__ import annotations

from random import Random

from iced_x86 import (
    Code,
    Code_,
    Encoder,
    Instruction,
    OpCodeInfo,
    OpCodeOperandKind,
    OpKind,
    OpKind_,
    Register,
    Register_,
)

_ADDRESS = 0x1000
_BYTES = (*range(Register.AL, Register.R15L + 1),)
_GENERAL = {8: Register.RAX, 4: Register.EAX, 2: Register.AX}
_KINDS = OpCodeOperandKind
_EITHER: dict[int, int] = {
    _KINDS.R8_OR_MEM: 1,
    _KINDS.R16_OR_MEM: 2,
    _KINDS.R32_OR_MEM: 4,
    _KINDS.R64_OR_MEM: 8,
}
_REGISTERS: dict[int, int] = {
    _KINDS.R8_REG: 1,
    _KINDS.R8_OPCODE: 1,
    _KINDS.R16_REG: 2,
    _KINDS.R16_OPCODE: 2,
    _KINDS.R32_REG: 4,
    _KINDS.R32_OPCODE: 4,
    _KINDS.R64_REG: 8,
    _KINDS.R64_OPCODE: 8,
}
_FIXED: dict[int, Register_] = {
    _KINDS.AL: Register.AL,
    _KINDS.AX: Register.AX,
    _KINDS.EAX: Register.EAX,
    _KINDS.RAX: Register.RAX,
    _KINDS.CL: Register.CL,
}
#: Kind of the operand, and its size in bits.
_IMMEDIATES: dict[int, tuple[OpKind_, int]] = {
    _KINDS.IMM8: (OpKind.IMMEDIATE8, 8),
    _KINDS.IMM8_CONST_1: (OpKind.IMMEDIATE8, 0),
    _KINDS.IMM8SEX16: (OpKind.IMMEDIATE8TO16, 8),
    _KINDS.IMM8SEX32: (OpKind.IMMEDIATE8TO32, 8),
    _KINDS.IMM8SEX64: (OpKind.IMMEDIATE8TO64, 8),
    _KINDS.IMM16: (OpKind.IMMEDIATE16, 16),
    _KINDS.IMM32: (OpKind.IMMEDIATE32, 32),
    _KINDS.IMM32SEX64: (OpKind.IMMEDIATE32TO64, 32),
    _KINDS.IMM64: (OpKind.IMMEDIATE64, 64),
}
_EDGES = (0, 1, 2, 7, 8, 15, 16, 31, 32, 33, 63, 64, 127, 128, 255)
_TRIES = 50


def code_of(name: str) -> Code_:
    """Return iced-x86's number of a form."""
    return Code_(getattr(Code, name))


def operand_kinds(name: str) -> list[int]:
    """Return the kinds of a form's operands."""
    info = OpCodeInfo(code_of(name))
    return [info.op_kind(number) for number in range(info.op_count)]


def may_be_memory(name: str) -> bool:
    """Return whether an operand of a form can be memory."""
    return any(kind in _EITHER or kind in (_KINDS.MEM, _KINDS.MEM_OFFS) for kind in operand_kinds(name))


def must_be_memory(name: str) -> bool:
    """Return whether an operand of a form is always memory."""
    return any(kind in (_KINDS.MEM, _KINDS.MEM_OFFS) for kind in operand_kinds(name))


def may_be_locked(name: str) -> bool:
    """Return whether a form can have a lock prefix, with memory as its first operand."""
    return bool(OpCodeInfo(code_of(name)).can_use_lock_prefix)


def edge(chance: Random, bits: int) -> int:
    """Return a number of some bits: an edge, few bits, or anything."""
    top = 1 << bits
    kind = chance.randrange(6)
    if kind == 0:
        return chance.choice((0, 1, top - 1, top // 2, top // 2 - 1, top // 2 + 1, top - 2)) % top
    if kind == 1:
        return chance.choice(_EDGES) % top
    if kind == 2:
        return 1 << chance.randrange(bits)
    if kind == 3:
        return chance.getrandbits(bits) >> chance.randrange(bits)
    if kind == 4:
        return (top - 1) ^ (chance.getrandbits(bits) >> chance.randrange(bits))
    return chance.getrandbits(bits)


def draw(
    chance: Random,
    name: str,
    *,
    memory: bool,
    absolute: int = 0,
    registers: tuple[int, ...] = tuple(range(16)),
    bases: tuple[int, ...] = tuple(range(16)),
    far: int = 0x7FFF_FFFF,
    displacement: int | None = None,
) -> bytes:
    """Return an instruction of a form.

    Args:
        memory: the operand that can be memory is memory.
        absolute: the address of an operand that can only be absolute.
        registers, bases: numbers of the registers for operands, and for parts of addresses.
        far: the greatest displacement.
        displacement: the displacement of an address without an index; None for any address.
    """
    for _ in range(_TRIES):
        found = _drawn(chance, name, memory, absolute, registers, bases, far, displacement)
        try:
            encoder = Encoder(64)
            encoder.encode(found, _ADDRESS)
            return bytes(encoder.take_buffer())
        except ValueError:
            continue  # ah with a register that needs a REX prefix
    raise AssertionError(f"{name} cannot be encoded")


def _drawn(
    chance: Random,
    name: str,
    memory: bool,
    absolute: int,
    registers: tuple[int, ...],
    bases: tuple[int, ...],
    far: int,
    displacement: int | None,
) -> Instruction:
    instruction = Instruction()
    instruction.code = code_of(name)
    for number, kind in enumerate(operand_kinds(name)):
        if kind in _IMMEDIATES:
            of_iced, bits = _IMMEDIATES[kind]
            instruction.set_op_kind(number, of_iced)
            _immediate(chance, instruction, number, bits)
        elif kind in _FIXED:
            instruction.set_op_kind(number, OpKind.REGISTER)
            instruction.set_op_register(number, _FIXED[kind])
        elif kind in _REGISTERS or (kind in _EITHER and not memory):
            instruction.set_op_kind(number, OpKind.REGISTER)
            size = _REGISTERS.get(kind) or _EITHER[kind]
            instruction.set_op_register(number, _register(chance, size, registers))
        else:
            instruction.set_op_kind(number, OpKind.MEMORY)
            _address(chance, instruction, kind == _KINDS.MEM_OFFS, absolute, bases, far, displacement)
    if memory and may_be_locked(name) and instruction.op0_kind == OpKind.MEMORY:
        instruction.has_lock_prefix = chance.random() < 0.3
    return instruction


def _immediate(chance: Random, instruction: Instruction, number: int, bits: int) -> None:
    if not bits:
        instruction.set_immediate_u64(number, 1)
        return
    value = edge(chance, bits)
    signed = value - (1 << bits) if value >> (bits - 1) else value
    instruction.set_immediate_i64(number, signed)


def _register(chance: Random, size: int, registers: tuple[int, ...]) -> Register_:
    if size > 1:
        return Register_(_GENERAL[size] + chance.choice(registers))
    high = {0: Register.AH, 1: Register.CH, 2: Register.DH, 3: Register.BH}
    number = chance.choice(registers)
    if number in high and chance.random() < 0.3:
        return Register_(high[number])
    # iced-x86's order is al to bl, ah to bh, spl to r15b.
    return Register_(_BYTES[number if number < 4 else number + 4])


def _address(
    chance: Random,
    instruction: Instruction,
    offset: bool,
    absolute: int,
    bases: tuple[int, ...],
    far: int,
    fixed: int | None,
) -> None:
    if offset:
        instruction.memory_displ_size = 8
        instruction.memory_displacement = absolute
        return
    base = chance.choice(bases)
    instruction.memory_base = Register_(Register.RAX + base)
    indices = [number for number in bases if number not in (4, base)]
    if indices and fixed is None and chance.random() < 0.4:
        instruction.memory_index = Register_(Register.RAX + chance.choice(indices))
        instruction.memory_index_scale = chance.choice((1, 2, 4, 8))
    displacement = fixed
    if displacement is None:
        displacement = chance.choice((0, chance.randrange(-128, 128), chance.randrange(-far, far)))
    instruction.memory_displacement = displacement & ((1 << 64) - 1)
    instruction.memory_displ_size = 0 if not displacement else 1 if -128 <= displacement < 128 else 8
