"""Decode x86 instructions as the data flow needs them.

The rest of the package works on ``Insn``, so another decoder can replace iced-x86 by filling its fields.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import cache, lru_cache
from typing import NamedTuple

from iced_x86 import (
    Code,
    Decoder,
    Formatter,
    FormatterSyntax,
    Instruction,
    InstructionInfoFactory,
    MemorySizeExt,
    Mnemonic,
    OpAccess,
    OpKind,
    Register,
    Register_,
    RegisterExt,
    RflagsBits,
)


class Flow(IntEnum):
    """Where the processor goes after an instruction."""

    NEXT = 0
    JUMP = 1
    INDIRECT_JUMP = 2
    CONDITIONAL = 3
    RETURN = 4  # ret, iret, sysret
    CALL = 5
    INDIRECT_CALL = 6
    STOP = 7  # ud2, int3, an invalid instruction


#: Full registers have the numbers of the instruction set: rax 0, rcx 1, ... r15 15.
RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI = range(8)
REGISTERS = 16
NO_REGISTER = -1

READ, WRITE = 1, 2


class Memory(NamedTuple):
    """A memory operand.

    ``displacement`` is a signed number, or the absolute address if the operand is relative to rip.
    ``per_cpu``: has an fs or gs prefix.
    """

    per_cpu: bool
    base: int
    index_register: int
    scale: int
    displacement: int
    size: int


class Operand(NamedTuple):
    """A register (``register`` >= 0), the memory operand (``memory``) or an immediate (``value``)."""

    register: int
    value: int
    size: int
    memory: bool
    high: bool  # ah, ch, dh, bh


@dataclass(slots=True)
class Insn:
    """One decoded instruction.

    Attributes:
        target: of a direct jump or call; -1 for others.
        memory: its memory operand, lea's and nop's too; None without.
        access: READ | WRITE of that operand; 0 for lea and nop.
        written: full registers that it changes, as operands or implicitly.
        stacked: what a push, pop or leave adds to the stack pointer (for leave: to the frame pointer, from
            which it takes the new one); negative for a push, 0 for other instructions.
    """

    address: int
    length: int
    mnemonic: str
    flow: Flow
    target: int
    operands: tuple[Operand, ...]
    memory: Memory | None
    access: int
    written: tuple[int, ...]
    lock: bool
    stacked: int = 0

    @property
    def end(self) -> int:
        """Return the address after the instruction."""
        return self.address + self.length

    def at(self, address: int) -> Insn:
        """Return the same instruction at another address."""
        return Insn(
            address,
            self.length,
            self.mnemonic,
            self.flow,
            self.target,
            self.operands,
            self.memory,
            self.access,
            self.written,
            self.lock,
            self.stacked,
        )


def is_hypercall_trap(insn: Insn) -> bool:
    """Return whether an instruction enters Xen by itself, with the hypercall's number in eax."""
    mnemonic = insn.mnemonic
    if mnemonic == "syscall":
        return True
    return mnemonic == "int" and insn.operands[0].value & 0xFF == _TRAP_VECTOR


def _names(module: object) -> dict[int, str]:
    return {
        value: name.lower()
        for name, value in vars(module).items()
        if isinstance(value, int) and not name.startswith("_")
    }


_MNEMONICS = _names(Mnemonic)
_FLOWS = {0: Flow.NEXT, 1: Flow.JUMP, 2: Flow.INDIRECT_JUMP, 3: Flow.CONDITIONAL, 4: Flow.RETURN} | {
    5: Flow.CALL,
    6: Flow.INDIRECT_CALL,
    7: Flow.NEXT,  # int n: the old 32-bit hypercall among them
    8: Flow.NEXT,
    9: Flow.STOP,
}
#: i386: from here on a displacement is a negative number; below, it may be a kernel's address.
_LEAST_NEGATIVE = 0xFFF0_0000
_STATUS_FLAGS = RflagsBits.OF | RflagsBits.SF | RflagsBits.ZF | RflagsBits.AF | RflagsBits.CF | RflagsBits.PF
_STOPS = (Code.INVALID, Code.INT3)
#: iced-x86 does not say how many bytes these pop.
_LEAVES = {Code.LEAVEW: 2, Code.LEAVED: 4, Code.LEAVEQ: 8}
#: How a guest without a hypercall page enters Xen: `syscall`, or `int $0x82` on i386.
_TRAP_VECTOR = 0x82
_PER_CPU = (Register.FS, Register.GS)
_WRITES = (OpAccess.WRITE, OpAccess.COND_WRITE, OpAccess.READ_WRITE, OpAccess.READ_COND_WRITE)
_READS = (OpAccess.READ, OpAccess.COND_READ, OpAccess.READ_WRITE, OpAccess.READ_COND_WRITE)
_BRANCH_KINDS = (OpKind.NEAR_BRANCH16, OpKind.NEAR_BRANCH32, OpKind.NEAR_BRANCH64)
_IMMEDIATES = range(OpKind.IMMEDIATE8, OpKind.IMMEDIATE32TO64 + 1)


def _register_table() -> dict[int, tuple[int, int, bool]]:
    table = {}
    for number in range(Register.AL, Register.R15 + 1):
        register = Register_(number)
        full = RegisterExt.full_register(register) - Register.RAX
        table[number] = (full, RegisterExt.size(register), Register.AH <= number <= Register.BH)
    return table


_REGISTERS = _register_table()


class _Effects(NamedTuple):
    """READ | WRITE of each operand; all full registers written, those of operands first."""

    accesses: tuple[int, ...]
    written: tuple[int, ...]


class InsnDecoder:
    """Decode instructions at given addresses.

    Args:
        bits: 32 or 64.
    """

    def __init__(self, bits: int) -> None:
        self._bits = bits
        self._factory = InstructionInfoFactory()
        self._branches: dict[int, _Effects] = {}
        self._known: dict[bytes, Insn] = {}
        self._formatter = Formatter(FormatterSyntax.GAS)

    def decode(self, data: bytes | memoryview, address: int) -> Iterator[Insn]:
        """Yield the instructions of ``data``, which is at ``address``, in order."""
        code = bytes(data)
        known = self._known
        for raw in Decoder(self._bits, code, ip=address):
            at = raw.ip - address
            text = code[at : at + raw.len]
            insn = known.get(text)
            if insn is None:
                insn = self._insn(raw)
                # An instruction that names an address relative to itself differs from place to place.
                if insn.target < 0 and not raw.is_ip_rel_memory_operand:
                    known[text] = insn
                yield insn
            else:
                yield insn.at(raw.ip)

    def text(self, data: bytes, address: int) -> str:
        """Return the first instruction of ``data`` in AT&T syntax, "" where there is none."""
        for raw in Decoder(self._bits, data, ip=address):
            return str(self._formatter.format(raw))
        return ""

    def _insn(self, raw: Instruction) -> Insn:
        effects = self._effects(raw)
        access = 0
        operands: list[Operand] = []
        memory = None
        target = -1
        for number in range(raw.op_count):
            kind = raw.op_kind(number)
            if kind == OpKind.REGISTER:
                full, size, high = _REGISTERS.get(raw.op_register(number), (NO_REGISTER, 0, False))
                operands.append(Operand(full, 0, size, False, high))
            elif kind == OpKind.MEMORY:
                memory = self._memory(raw)
                access = effects.accesses[number]
                operands.append(Operand(NO_REGISTER, 0, memory.size, True, False))
            elif kind in _IMMEDIATES:
                operands.append(Operand(NO_REGISTER, _signed(raw.immediate(number), 64), 0, False, False))
            elif kind in _BRANCH_KINDS:
                target = raw.near_branch_target
        flow = _FLOWS[raw.flow_control]
        if raw.code in _STOPS:
            flow = Flow.STOP
        return Insn(
            raw.ip,
            raw.len,
            _MNEMONICS[raw.mnemonic],
            flow,
            target,
            tuple(operands),
            memory,
            access,
            effects.written,
            raw.has_lock_prefix,
            _LEAVES.get(raw.code) or raw.stack_pointer_increment,
        )

    def _memory(self, raw: Instruction) -> Memory:
        base = raw.memory_base
        absolute = base in (Register.RIP, Register.EIP)
        displacement = raw.memory_displacement
        if not absolute and (self._bits == 64 or displacement >= _LEAST_NEGATIVE):
            displacement = _signed(displacement, self._bits)
        return Memory(
            raw.segment_prefix in _PER_CPU,
            _REGISTERS[base][0] if base in _REGISTERS else NO_REGISTER,
            _REGISTERS[raw.memory_index][0] if raw.memory_index in _REGISTERS else NO_REGISTER,
            raw.memory_index_scale,
            displacement,
            MemorySizeExt.size(raw.memory_size),
        )

    def _effects(self, raw: Instruction) -> _Effects:
        """Return what an instruction reads and writes, from its own operands.

        One opcode's instances differ: mul writes rax although ``mul %rax`` also names it, and
        ``xor %eax,%eax`` reads nothing.  Only those of direct branches, which have no register and no memory
        operand, are alike.
        """
        branch = raw.op_count == 1 and raw.op_kind(0) in _BRANCH_KINDS
        if branch and raw.code in self._branches:
            return self._branches[raw.code]
        info = self._factory.info(raw)
        accesses = tuple(
            (READ if kind in _READS else 0) | (WRITE if kind in _WRITES else 0)
            for kind in (info.op_access(number) for number in range(raw.op_count))
        )
        written = [
            _REGISTERS[raw.op_register(number)][0]
            for number, access in enumerate(accesses)
            if access & WRITE
            and raw.op_kind(number) == OpKind.REGISTER
            and raw.op_register(number) in _REGISTERS
        ]
        implied = sorted(
            _REGISTERS[used.register][0]
            for used in info.used_registers()
            if used.access in _WRITES and used.register in _REGISTERS
        )
        found = _Effects(accesses, tuple(dict.fromkeys((*written, *implied))))
        if branch:
            self._branches[raw.code] = found
        return found


@cache
def _code_names() -> dict[int, str]:
    return {value: name for name, value in vars(Code).items() if isinstance(value, int)}


@lru_cache(1 << 16)
def form_name(data: bytes) -> str:
    """Return iced-x86's name for the form of one 64-bit instruction, such as ADD_RM64_R64; "" for none."""
    raw = next(iter(Decoder(64, data)), None)
    if raw is None or raw.code == Code.INVALID or raw.len != len(data):
        return ""
    return _code_names()[raw.code]


def reads_flags(data: bytes) -> bool:
    """Return whether the first 64-bit instruction of ``data`` may read a status flag, or is none."""
    raw = next(iter(Decoder(64, data)), None)
    return raw is None or raw.code == Code.INVALID or bool(raw.rflags_read & _STATUS_FLAGS)


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value
