"""Execute instructions one at a time in a confined child, each on a state of its own."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from builders.timed import cpu
from xtrace.analysis.calibrate.plan import Builder
from xtrace.probes.timing.session import Session
from xtrace.symbols.replay import timed_loop
from xtrace.symbols.replay.timed_loop import DATA_ADDRESS, DATA_BYTES, LoopCode
from xtrace.symbols.x86.encode import Assembler, At, Gpr

RAX, RSP, RSI, RDI = 0, 4, 6, 7
#: One case: registers, flags and the code's address; registers and flags afterwards; the memory it may use.
_FLAGS, _CODE, _AFTER, _FLAGS_AFTER = 128, 136, 144, 272
MEMORY_OFFSET, MEMORY_BYTES = 320, 128
_CASE_BYTES = 512
_CASES = DATA_ADDRESS + DATA_BYTES
MOST_CASES = timed_loop.SCHEDULE_ENTRIES
#: Words of the harness itself, after the cases.
_SAVED, _CASE, _JUMP, _KEPT = range(
    _CASES + MOST_CASES * _CASE_BYTES, _CASES + MOST_CASES * _CASE_BYTES + 32, 8
)
_HARNESS_BYTES = 4096
#: The bit of rflags that is always set.
_ALWAYS = 2
_LIMIT_S = 30.0


@dataclass(frozen=True, slots=True)
class State:
    """Registers by number, rflags, and the memory of one case."""

    registers: tuple[int, ...]
    flags: int
    memory: bytes


def memory_address(case: int) -> int:
    """Return where a case's memory is."""
    return _CASES + case * _CASE_BYTES + MEMORY_OFFSET


def execute(cases: Sequence[tuple[bytes, State]]) -> list[State]:
    """Execute instructions, each on its state; return the states afterwards.

    Raises:
        ChildError: one ended the child.
    """
    assert len(cases) <= MOST_CASES
    builder = Builder(0)
    harness, store = _harness()
    (entry, *_) = builder.add(LoopCode(harness, 0))
    begins: list[int] = []
    code = bytearray()
    first = entry.address + len(harness)
    # Copies for other places follow in the builder's program; this code comes after all of them.
    program = builder.program()
    first = program.code_address + len(program.code)
    for data, _ in cases:
        begins.append(first + len(code))
        code += data
        code += b"\xe9" + struct.pack("<i", entry.address + store - (first + len(code) + 5))
    size = MOST_CASES * _CASE_BYTES + _HARNESS_BYTES
    program = replace(
        program,
        code=program.code + bytes(code),
        data_bytes=program.data_bytes + size,
        far_address=0,
        far_bytes=0,
    )
    blob = bytearray(len(cases) * _CASE_BYTES)
    for number, ((_, state), begin) in enumerate(zip(cases, begins, strict=True)):
        words = (*state.registers, state.flags | _ALWAYS, begin)
        struct.pack_into("<18Q", blob, number * _CASE_BYTES, *words)
        place = number * _CASE_BYTES + MEMORY_OFFSET
        blob[place : place + MEMORY_BYTES] = state.memory
    program = replace(program, initial=(*program.initial, (DATA_BYTES, bytes(blob))))
    with Session(program, cpu()) as session:
        session.run(np.array([[entry.address, number, 1] for number in range(len(cases))]), _LIMIT_S)
        after = bytes(session.memory[DATA_BYTES : DATA_BYTES + len(blob)])
    return [_after(after[place : place + _CASE_BYTES]) for place in range(0, len(after), _CASE_BYTES)]


def _after(case: bytes) -> State:
    *registers, flags = struct.unpack_from("<17Q", case, _AFTER)
    return State(tuple(registers), flags, case[MEMORY_OFFSET : MEMORY_OFFSET + MEMORY_BYTES])


def _harness() -> tuple[bytes, int]:
    """Return a function that runs the case numbered in rsi, and where it goes on after the instruction."""
    begin, end = _loading(), _storing()
    return begin + end, len(begin)


def _loading() -> bytes:
    asm = Assembler()
    asm.op("MOV_RM64_R64", At(-1, _SAVED), Gpr(RSP))
    asm.op("IMUL_R64_RM64_IMM32", Gpr(RDI), Gpr(RSI), _CASE_BYTES)
    asm.op("ADD_RM64_IMM32", Gpr(RDI), _CASES)
    asm.op("MOV_RM64_R64", At(-1, _CASE), Gpr(RDI))
    asm.op("MOV_R64_RM64", Gpr(RAX), At(RDI, _CODE))
    asm.op("MOV_RM64_R64", At(-1, _JUMP), Gpr(RAX))
    asm.op("PUSH_RM64", At(RDI, _FLAGS))
    asm.op("POPFQ")
    for number in range(16):
        if number != RDI:
            asm.op("MOV_R64_RM64", Gpr(number), At(RDI, 8 * number))
    asm.op("MOV_R64_RM64", Gpr(RDI), At(RDI, 8 * RDI))
    asm.op("JMP_RM64", At(-1, _JUMP))
    return asm.code(timed_loop.CODE_ADDRESS)


def _storing() -> bytes:
    asm = Assembler()
    asm.op("MOV_RM64_R64", At(-1, _KEPT), Gpr(RDI))
    asm.op("MOV_R64_RM64", Gpr(RDI), At(-1, _CASE))
    for number in range(16):
        if number != RDI:
            asm.op("MOV_RM64_R64", At(RDI, _AFTER + 8 * number), Gpr(number))
    asm.op("MOV_R64_RM64", Gpr(RSP), At(-1, _SAVED))
    asm.op("PUSHFQ")
    asm.op("POP_RM64", At(RDI, _FLAGS_AFTER))
    asm.op("MOV_R64_RM64", Gpr(RAX), At(-1, _KEPT))
    asm.op("MOV_RM64_R64", At(RDI, _AFTER + 8 * RDI), Gpr(RAX))
    asm.op("MOV_R32_IMM32", Gpr(RAX, 4), 1)
    asm.op("XOR_R32_RM32", Gpr(2, 4), Gpr(2, 4))
    asm.op("RETNQ")
    return asm.code(timed_loop.CODE_ADDRESS)
