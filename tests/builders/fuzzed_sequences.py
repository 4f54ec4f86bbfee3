"""Make random sequences that replay accepts, run them, and check that they did what was proved.

A sequence is made of admitted instructions, calls and branches.  What replay accepts is encoded with the
code that calibrate uses and runs twice in the confined child, in memory full of random bytes.  Then every
byte of that memory is compared: only those that the proof names may have changed.  The registers and
the bytes that the proof knows must have the values that it says, and the child must be alive.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from random import Random

import numpy as np

from builders.instructions import draw, may_be_memory, must_be_memory
from builders.timed import cpu
from xtrace.analysis.calibrate.plan import Builder
from xtrace.probes.timing.session import ChildError, Session
from xtrace.symbols.replay import memory, site_loop
from xtrace.symbols.replay.machine import Machine
from xtrace.symbols.replay.path import NotReplayableError, Step, refusal
from xtrace.symbols.replay.semantics import FORMS
from xtrace.symbols.replay.timed_loop import (
    ARENA_ADDRESS,
    ARENA_BYTES,
    CODE_ADDRESS,
    DATA_ADDRESS,
    DATA_BYTES,
    Body,
    LoopCode,
)
from xtrace.symbols.x86.decode import RSP, Insn, InsnDecoder
from xtrace.symbols.x86.encode import Assembler, At, Gpr

#: Where the instructions are said to come from.
_IMAGE = 0xFFFF_FFFF_8020_0000
#: The registers of a sequence, few, so that one instruction's result is another's input.
_USED = (0, 1, 2, 3, 4, 5, 6, 12)
_BASES = (3, 6, 12, 5, 0, 4)
#: Forms that make addresses; half of all instructions have one of them.
_POINTERS = tuple(
    name
    for name in FORMS
    if name.startswith(
        ("MOV", "LEA", "PUSH", "POP", "LEAVE", "XCHG", "XADD", "CMPXCHG", "IMUL", "SHL", "SHR")
    )
    or name
    in ("ADD_R64_RM64", "ADD_RM64_IMM8", "SUB_RM64_IMM8", "SUB_R64_RM64", "CDQE", "CDQ", "AND_RM64_IMM8")
)
_ACCESSES = (
    *(f"MOV_RM{bits}_R{bits}" for bits in (8, 16, 32, 64)),
    "MOV_RM8_IMM8", "MOV_RM64_IMM32", "XCHG_RM64_R64", "CMPXCHG_RM32_R32", "ADD_RM32_IMM8", "SETE_RM8",
)  # fmt: skip
_LOADS = (
    "MOV_R64_RM64", "MOV_R64_RM64", "MOV_R32_RM32", "MOVSXD_R64_RM32", "MOVZX_R32_RM16", "MOVSX_R64_RM16",
)  # fmt: skip
#: Forms without memory that compute a number from a number.
_NUMBERS = tuple(
    name
    for name, form in FORMS.items()
    if form.reads and form.writes and not form.flags and not must_be_memory(name) and form.register
)
_SHIFTS = tuple(name for name in _NUMBERS if name.startswith("SH"))
_POOL = 4000
_BATCH, _SHORT_BATCH = 1500, 300
_MOST_STEPS, _MOST_CALLEE, _DEPTH = 12, 5, 3
_LIMIT_S = 10.0
#: A sequence's registers afterwards: 16 words at a place that no sequence may access.
_RECORD = DATA_ADDRESS + DATA_BYTES
_SAVED, _LEFT = _RECORD + 128, _RECORD + 136
_ARENA = ARENA_ADDRESS - DATA_ADDRESS


@dataclass(frozen=True, slots=True)
class Accepted:
    """A sequence that is accepted.

    Attributes:
        whole: it is called as a function.
        needs: what it is given.
        after: the proof's state at its end.
    """

    steps: tuple[Step, ...]
    whole: bool
    body: Body
    needs: memory.Needs
    after: Machine


@dataclass
class Result:
    """What a run found.

    Attributes:
        drawn_count, accepted_count: sequences.
        forms: how often each form was executed.
        faults: one line each.
    """

    drawn_count: int = 0
    accepted_count: int = 0
    forms: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


class Pool:
    """Admitted instructions to choose from."""

    def __init__(self, chance: Random, count: int = _POOL) -> None:
        self._decoder = InsnDecoder(64)
        self.items: list[Step] = []
        names = tuple(FORMS)
        while len(self.items) < count:
            name = chance.choice(_POINTERS if chance.random() < 0.5 else names)
            step = self._step(chance, name)
            if step is not None:
                self.items.append(step)
        self.groups = [
            self._one_place(chance) if chance.random() < 0.6 else self._one_register(chance)
            for _ in range(count // 8)
        ]
        self.call = self.one(b"\xe8\0\0\0\0")
        self.ret = self.one(b"\xc3")
        self.branches = [self.one(bytes((0x70 + number, 2))) for number in range(16)]
        self.jump = self.one(b"\xeb\x02")

    def one(self, data: bytes) -> Step:
        """Return an instruction as a step."""
        return Step(self._decoded(data), data)

    def _decoded(self, data: bytes) -> Insn:
        return next(self._decoder.decode(data, _IMAGE))

    def _one_place(self, chance: Random) -> list[Step]:
        """Return accesses that overlap, the last of which loads a register that is then a pointer."""
        base, loaded = chance.sample((3, 6, 12, 5), 2)
        start = chance.randrange(0, 0x400)
        wanted = [(chance.choice(_ACCESSES), start + chance.choice((0, 0, 0, 1, 2, 4))) for _ in range(2)]
        wanted.append((chance.choice(_LOADS), start + chance.choice((0, 1, 2, 4))))
        found = [
            self._kept(draw(chance, name, memory=True, registers=_USED, bases=(base,), displacement=place))
            for name, place in wanted[:-1]
        ]
        name, place = wanted[-1]
        load = draw(chance, name, memory=True, registers=(loaded,), bases=(base,), displacement=place)
        found.append(self._kept(load))
        if chance.random() < 0.5:
            found.append(self._kept(draw(chance, "ADD_RM64_IMM32", memory=False, registers=(loaded,))))
        name = chance.choice(_ACCESSES)
        found.append(self._kept(draw(chance, name, memory=True, registers=_USED, bases=(loaded,), far=0x100)))
        return [step for step in found if step is not None]

    def _one_register(self, chance: Random) -> list[Step]:
        """Return arithmetic on a known number."""
        register = (chance.choice(_USED),)
        names = [chance.choice(("MOV_R64_IMM64", "MOV_R32_IMM32", "MOV_RM64_IMM32"))]
        some = _NUMBERS if chance.random() < 0.5 else _SHIFTS
        names += [chance.choice(some) for _ in range(chance.randrange(1, 4))]
        found = [self._kept(draw(chance, name, memory=False, registers=register)) for name in names]
        return [step for step in found if step is not None]

    def _kept(self, data: bytes) -> Step | None:
        insn = self._decoded(data)
        return None if refusal(insn, data) else Step(insn, data)

    def _step(self, chance: Random, name: str) -> Step | None:
        with_memory = must_be_memory(name) or (may_be_memory(name) and chance.random() < 0.5)
        far = chance.choice((64, 0x800, 0x4000, 0x7FFF_FFFF))
        data = draw(
            chance,
            name,
            memory=with_memory,
            absolute=chance.getrandbits(48),
            registers=_USED,
            bases=_BASES,
            far=far,
        )
        kind = chance.random()
        if with_memory and kind < 0.1:
            data = b"\x65" + data  # relative to gs
        elif kind < 0.13:
            data = b"\x66" + data
        elif kind < 0.15:
            changed = bytearray(data)
            changed[chance.randrange(len(changed))] = chance.randrange(256)
            data = bytes(changed)
        insn = next(iter(self._decoder.decode(data, _IMAGE)), None)
        if insn is None or insn.length != len(data) or insn.target >= 0 or refusal(insn, data):
            return None
        return Step(insn, data)


def drawn(chance: Random, pool: Pool) -> tuple[tuple[Step, ...], bool]:
    """Return a sequence, and whether it is to be called as a function."""
    steps: list[Step] = []
    for _ in range(chance.randrange(1, _MOST_STEPS + 1)):
        kind = chance.random()
        if kind < 0.04:
            steps.append(_call(chance, pool, pool.call))
        elif kind < 0.08:
            steps.append(chance.choice((*pool.branches, pool.jump)))
        elif kind < 0.2:
            steps.extend(chance.choice(pool.groups))
        else:
            steps.append(chance.choice(pool.items))
    whole = chance.random() < 0.3
    if chance.random() < 0.1:
        steps.append(_call(chance, pool, pool.jump))
    elif whole:
        steps.append(pool.ret)
    return tuple(steps), whole


def _call(chance: Random, pool: Pool, by: Step, depth: int = 1) -> Step:
    """Return a call, or a tail jump, of a function."""
    callee = [chance.choice(pool.items) for _ in range(chance.randrange(_MOST_CALLEE))]
    if depth < _DEPTH and chance.random() < 0.2:
        callee.insert(chance.randrange(len(callee) + 1), _call(chance, pool, pool.call, depth + 1))
    return Step(by.insn, by.data, (*callee, pool.ret))


def accepted(steps: tuple[Step, ...], whole: bool) -> Accepted | None:
    """Return the sequence if replay accepts it."""
    try:
        body = site_loop.body_of(steps, called=whole)
        found, after = memory.proof(steps, whole=whole)
    except NotReplayableError:
        return None
    return Accepted(steps, whole, body, found, after)


def _function(body: Body) -> LoopCode:
    """Return a function that executes a body twice and keeps the registers."""
    asm = Assembler()
    asm.op("MOV_RM64_R64", At(-1, _SAVED), Gpr(RSP))
    body.begin(asm)
    again = asm.label()
    asm.op("MOV_RM64_IMM32", At(-1, _LEFT), 2)
    asm.mark(again)
    body.emit(asm)
    asm.op("SUB_RM64_IMM8", At(-1, _LEFT), 1)
    asm.op("JNE_REL32_64", again)
    for number in range(16):
        asm.op("MOV_RM64_R64", At(-1, _RECORD + 8 * number), Gpr(number))
    asm.op("MOV_R64_RM64", Gpr(RSP), At(-1, _SAVED))
    asm.op("MOV_R32_IMM32", Gpr(0, 4), 1)
    asm.op("XOR_R32_RM32", Gpr(2, 4), Gpr(2, 4))
    asm.op("RETNQ")
    body.functions(asm)
    return LoopCode(asm.code(CODE_ADDRESS), 0)


def fuzz(seed: int, count: int, *, first: bool = False) -> Result:
    """Run sequences until ``count`` were accepted; with ``first``, stop at the first fault."""
    result = Result()
    chance = Random(seed)
    while result.accepted_count < count and not (first and result.faults):
        pool = Pool(chance, _POOL // 4 if first else _POOL)
        wanted = min(_SHORT_BATCH if first else _BATCH, count - result.accepted_count)
        batch: list[Accepted] = []
        while len(batch) < wanted:
            steps, whole = drawn(chance, pool)
            result.drawn_count += 1
            found = accepted(steps, whole)
            if found is not None:
                batch.append(found)
                result.forms.update(step.insn.mnemonic for step in memory.in_order(steps))
        result.accepted_count += len(batch)
        _run(batch, result, seed, first)
    return result


def _run(batch: Sequence[Accepted], result: Result, seed: int, first: bool) -> None:
    builder = Builder(0)
    loops = [builder.add(_function(item.body))[0] for item in batch]
    program = replace(builder.program(), data_bytes=DATA_BYTES + 4096, far_address=0, far_bytes=0)
    pattern = np.frombuffer(Random(seed).randbytes(ARENA_BYTES), np.uint8)
    number = 0
    while number < len(batch) and not (first and result.faults):
        with Session(program, cpu()) as session:
            data = np.frombuffer(session.memory, np.uint8)
            arena = data[_ARENA : _ARENA + ARENA_BYTES]
            arena[:] = pattern
            while number < len(batch) and not (first and result.faults):
                item = batch[number]
                number += 1
                try:
                    session.run(np.array([[loops[number - 1].address, 1, 1]]), _LIMIT_S)
                except ChildError as error:
                    result.faults.append(f"{text(item)}: the child ended: {error.reason}")
                    break
                fault = _checked(item, data, pattern)
                if fault:
                    result.faults.append(f"{text(item)}: {fault}")
                _restore(item, arena, pattern)
            del data, arena


def _checked(item: Accepted, data: np.ndarray, pattern: np.ndarray) -> str:
    arena = data[_ARENA : _ARENA + ARENA_BYTES]
    differ = np.flatnonzero(arena != pattern)
    own = {place - ARENA_ADDRESS for at, size in item.needs.touched for place in range(at, at + size)}
    outside = [int(place) for place in differ if int(place) not in own]
    if outside:
        arena[:] = pattern
        return f"wrote outside of what it is proved to access, at {outside[0] + ARENA_ADDRESS:#x}"
    start = _RECORD - DATA_ADDRESS
    registers = data[start : start + 128].view(np.uint64)
    for number, value in enumerate(item.after.registers):
        if isinstance(value, int) and value != int(registers[number]):
            return f"register {number} is {int(registers[number]):#x}, not {value:#x}"
    for address, byte in item.after.memory.items():
        if isinstance(byte, int) and byte != int(arena[address - ARENA_ADDRESS]):
            return f"the byte at {address:#x} is {int(arena[address - ARENA_ADDRESS]):#x}, not {byte:#x}"
    return ""


def _restore(item: Accepted, arena: np.ndarray, pattern: np.ndarray) -> None:
    for at, size in item.needs.touched:
        place = at - ARENA_ADDRESS
        arena[place : place + size] = pattern[place : place + size]


def text(item: Accepted) -> str:
    """Return a sequence as one line."""
    decoder = InsnDecoder(64)
    return "; ".join(decoder.text(step.data, _IMAGE) for step in memory.in_order(item.steps))


if __name__ == "__main__":
    import sys
    import time

    first, each, rounds = (int(item) for item in sys.argv[1:4])
    total = 0
    for turn in range(rounds):
        begin = time.monotonic()
        found = fuzz(first + turn, each)
        total += found.accepted_count
        lines = [
            f"seed {first + turn}: {found.accepted_count} of {found.drawn_count} accepted, in all {total}; "
            f"{len(found.faults)} faults; {time.monotonic() - begin:.1f} s",
            *found.faults[:20],
        ]
        sys.stdout.write("\n  ".join(lines) + "\n")
        sys.stdout.flush()
