"""Children whose code does what was not proved: it is noticed, named, and costs no other figure."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import numpy as np
import pytest

from builders.timed import Laid, laid
from xtrace.probes.timing.pairs import Pair, Pairs, Wanted
from xtrace.probes.timing.session import ChildError, Session, StrayedError
from xtrace.symbols.replay import timed_loop
from xtrace.symbols.replay.timed_loop import ARENA_ADDRESS, CODE_ADDRESS, DATA_ADDRESS, Body, LoopCode
from xtrace.symbols.x86.encode import Assembler, At, Gpr

CPU = max(os.sched_getaffinity(0))
RAX, RCX, RDX, RSP, RSI, RDI = 0, 1, 2, 4, 6, 7
FINE = timed_loop.loop("empty", timed_loop.chain_body(10, "add", (0,)))
INDEX = DATA_ADDRESS + timed_loop.INDEX_OFFSET
BEGIN, BYTE = DATA_ADDRESS + 32, DATA_ADDRESS + 56

Lines = Callable[[Assembler], None]


def loop(lines: Lines, stack: int | None = None) -> LoopCode:
    return timed_loop.loop("empty", Body(lines, stack=stack))


def function(lines: Lines) -> LoopCode:
    """Return code with the driver's calling convention."""
    asm = Assembler()
    lines(asm)
    return LoopCode(asm.code(CODE_ADDRESS), 0)


def store(address: int, value: int = 1) -> Lines:
    return lambda asm: asm.op("MOV_RM64_IMM32", At(-1, address), value)


def call(number: int, first: int, second: int, third: int) -> Lines:
    def lines(asm: Assembler) -> None:
        for register, value in ((RAX, number), (RDI, first), (RSI, second), (RDX, third)):
            asm.op("MOV_R32_IMM32", Gpr(register, 4), value)
        asm.op("SYSCALL")

    return lines


def returning(cycles: int) -> Lines:
    def lines(asm: Assembler) -> None:
        asm.op("MOV_R64_IMM64", Gpr(RAX), cycles)
        asm.op("XOR_R32_RM32", Gpr(RDX, 4), Gpr(RDX, 4))
        asm.op("RETNQ")

    return lines


def works_and_hides_it(asm: Assembler) -> None:
    """Run for about a second."""
    again = asm.label()
    asm.op("MOV_R64_IMM64", Gpr(RCX), 3_000_000_000)
    asm.mark(again)
    asm.op("SUB_RM64_IMM8", Gpr(RCX), 1)
    asm.op("JNE_REL8_64", again)
    returning(5000)(asm)


def leaves_its_return_address(asm: Assembler) -> None:
    """Return without taking the return address from the stack."""
    asm.op("MOV_R64_RM64", Gpr(RCX), At(RSP, 0))
    asm.op("MOV_R32_IMM32", Gpr(RAX, 4), 1000)
    asm.op("JMP_RM64", Gpr(RCX))


def changes_its_return_address(asm: Assembler) -> None:
    """Overwrite the return address after it was used."""
    asm.op("POP_R64", Gpr(RCX))
    asm.op("MOV_RM64_IMM32", At(RSP, -8), 0)
    asm.op("MOV_R32_IMM32", Gpr(RAX, 4), 1000)
    asm.op("XOR_R32_RM32", Gpr(RDX, 4), Gpr(RDX, 4))
    asm.op("JMP_RM64", Gpr(RCX))


def moves_the_stack(asm: Assembler) -> None:
    asm.op("SUB_RM64_IMM8", Gpr(RSP), 8)


def guard(number: int, end: bool) -> int:
    begin, after = timed_loop.GUARDS[number]
    return DATA_ADDRESS + (after - 8 if end else begin)


GUARDED = [loop(store(guard(n, end))) for n in range(len(timed_loop.GUARDS)) for end in (False, True)]
HOSTILE = {
    **{f"guard {number}": (code, "memory that no code writes") for number, code in enumerate(GUARDED)},
    "the filter": (loop(store(DATA_ADDRESS + timed_loop.FILTER_OFFSET + 8, 0)), "memory that no code writes"),
    "its PID": (loop(store(DATA_ADDRESS + timed_loop.PID_OFFSET)), "memory that no code writes"),
    "another entry's function": (loop(store(DATA_ADDRESS + timed_loop.SCHEDULE_OFFSET)), "its schedule"),
    "a later entry": (loop(store(DATA_ADDRESS + timed_loop.SCHEDULE_OFFSET + 32 * 500)), "its schedule"),
    "the index": (loop(store(INDEX, 5000)), "its schedule"),
    "the start of its time": (loop(store(BEGIN, 0)), "more time than passed"),
    "a made-up time": (function(returning(10**15)), "more time than passed"),
    "a negative time": (function(returning(2**64 - 5)), "more time than passed"),
    "far too little time": (function(works_and_hides_it), "less time than it ran"),
    "no time": (function(returning(0)), "less time"),
    "two answers": (loop(call(1, 1, INDEX, 1)), "something else than an answer"),
    "an early answer": (loop(call(1, 1, BYTE, 1)), "entries done|something else"),
    "another stack pointer": (loop(moves_the_stack, ARENA_ADDRESS), "stack pointer"),
    "its return address, not used": (function(leaves_its_return_address), "stack pointer"),
    "its return address, used": (function(changes_its_return_address), "return address"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_it_is_noticed(name: str) -> None:
    code, words = HOSTILE[name]
    laid_out = laid([FINE, code])
    entries = np.array([[laid_out.loops[number].address, 1, 100] for number in (0, 1, 0)])
    if name == "its return address, used":
        entries = entries[:2]  # the next call would write it again
    with Session(laid_out.program, CPU) as session, pytest.raises(StrayedError, match=words) as caught:
        session.run(entries, 20.0)
    assert 0 <= caught.value.index < len(entries)


def test_made_up_index_of_a_child_that_dies() -> None:
    def lines(asm: Assembler) -> None:
        asm.op("MOV_R64_IMM64", Gpr(RAX), 1 << 63)
        asm.op("MOV_RM64_R64", At(-1, INDEX), Gpr(RAX))
        asm.op("UD2")

    laid_out = laid([FINE, loop(lines)])
    with Session(laid_out.program, CPU) as session, pytest.raises(ChildError, match="SIGILL") as caught:
        session.run(np.array([[item.address, 1, 4] for item in laid_out.loops]), 20.0)
    assert caught.value.index == 0


def test_code_that_is_proved_is_not_said_to_stray() -> None:
    contexts = [
        timed_loop.loop(context, timed_loop.chain_body(10, "add", (0,))) for context in ("empty", "stores_40")
    ]
    laid_out = laid([*contexts, timed_loop.sampler()])
    with Session(laid_out.program, CPU) as session:
        for _ in range(20):
            cycles, _ = session.run(np.array([[item.address, 2, 50] for item in laid_out.loops]), 20.0)
            assert (cycles > 0).all()
        assert not session.text_changed()


def dies_and_blames_the_first(asm: Assembler) -> None:
    asm.op("MOV_RM64_IMM32", At(-1, INDEX), 0)
    asm.op("UD2")


def strays_later(asm: Assembler) -> None:
    """Write into a guard, but not before the thousandth execution."""
    out = asm.label()
    asm.op("ADD_RM64_IMM8", At(-1, ARENA_ADDRESS + 0x200), 1)
    asm.op("CMP_RM64_IMM32", At(-1, ARENA_ADDRESS + 0x200), 1000)
    asm.op("JB_REL8_64", out)
    asm.op("MOV_RM64_IMM32", At(-1, guard(0, end=False)), 1)
    asm.mark(out)


def measured(bad: LoopCode) -> tuple[Pairs, Laid]:
    longer = timed_loop.loop("empty", timed_loop.chain_body(40, "add", (0,)))
    laid_out = laid([longer, FINE, bad])
    long, short, broken = ((item,) for item in laid_out.loops)
    wanted = [
        Pair(long, short),
        Pair(long, short, guest=True),
        Pair(broken, short, guest=True),
        Pair(short, long, guest=True),
    ]
    pairs = Pairs(lambda: Session(laid_out.program, CPU), wanted, Wanted(run_cycles=2000.0))
    try:
        pairs.measure(time.monotonic() + 5.0)
    finally:
        pairs.close()
    return pairs, laid_out


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (loop(dies_and_blames_the_first), "SIGILL"),
        (loop(strays_later), "its code strayed: memory that no code writes"),
        (loop(store(BEGIN, 0)), "its code strayed: it reports more time"),
        (loop(store(INDEX, 5000)), "its code strayed: its schedule"),
    ],
    ids=("blames", "later", "time", "index"),
)
def test_it_fails_alone(bad: LoopCode, words: str) -> None:
    pairs, _ = measured(bad)
    found = pairs.differences()
    assert [bool(item.failure) for item in found] == [False, False, True, False]
    assert words in found[2].failure
    assert "thrown away" in found[2].failure
    assert any(words in line for line in pairs.thrown_away)
    assert [item.interval.count > 0 for item in found] == [True, True, False, True]


def test_a_child_that_cannot_be_started_again_costs_only_the_guest_its_figures() -> None:
    laid_out = laid([FINE, loop(dies_and_blames_the_first)])
    fine, bad = ((item,) for item in laid_out.loops)
    started = 0

    def start() -> Session:
        from xtrace.probes.errors import TraceError

        nonlocal started
        started += 1
        if started > 1:
            raise TraceError("no more processes")
        return Session(laid_out.program, CPU)

    pairs = Pairs(
        start, [Pair(bad, fine, guest=True), Pair(fine, fine, guest=True)], Wanted(run_cycles=2000.0)
    )
    try:
        pairs.measure(time.monotonic() + 5.0)
    finally:
        pairs.close()
    assert ["SIGILL" in item.failure for item in pairs.differences()] == [True, False]
    assert "no more processes" in pairs.differences()[1].failure
