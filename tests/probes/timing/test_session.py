"""The child that timed code runs in: what it may do, and how it ends."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from builders.timed import Laid, laid
from xtrace.probes.errors import TraceError
from xtrace.probes.timing.session import ChildError, Session
from xtrace.symbols.replay import timed_loop
from xtrace.symbols.replay.timed_loop import Body, LoopCode
from xtrace.symbols.x86.encode import Assembler, At, Gpr

CPU = max(os.sched_getaffinity(0))


def loop(*lines: Callable[[Assembler], None]) -> LoopCode:
    def emit(asm: Assembler) -> None:
        for line in lines:
            line(asm)

    return timed_loop.loop("empty", Body(emit))


def op(name: str, *operands: At | Gpr | int) -> Callable[[Assembler], None]:
    return lambda asm: asm.op(name, *operands)


def endless(asm: Assembler) -> None:
    label = asm.label()
    asm.mark(label)
    asm.op("JMP_REL8_64", label)


def call(number: int, *arguments: int) -> LoopCode:
    """Return a loop that makes a system call."""
    registers = (0, 7, 6, 2)
    lines = [op("MOV_R32_IMM32", Gpr(r, 4), v) for r, v in zip(registers, (number, *arguments), strict=False)]
    return loop(*lines, op("SYSCALL"))


FINE = timed_loop.loop("empty", timed_loop.chain_body(10, "add", (0,)))


def ended(session: Session, laid_out: Laid, *numbers: int, limit_s: float = 20.0) -> ChildError:
    entries = np.array([[laid_out.loops[number].address, 1, 4] for number in numbers])
    with pytest.raises(ChildError) as caught:
        session.run(entries, limit_s)
    return caught.value


def test_it_runs_its_entries_and_may_do_nothing_else() -> None:
    laid_out = laid([FINE, timed_loop.sampler()])
    with Session(laid_out.program, CPU) as session:
        assert session.confined
        status = dict(
            line.split(":\t", 1) for line in Path(f"/proc/{session.pid}/status").read_text().splitlines()
        )
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == "2"
        assert status["Cpus_allowed_list"] == str(CPU)
        if os.geteuid() == 0:
            assert set(status["Uid"].split()) == {"65534"}
            assert status["CapEff"].strip("0") == ""
            # Only root can read this: the child dropped its privileges and is not dumpable.
            maps = Path(f"/proc/{session.pid}/maps").read_text()
            assert not [line for line in maps.splitlines() if "rwx" in line]
        entries = np.array([[laid_out.loops[0].address, 1, 10]] * 50 + [[laid_out.loops[1].address, 1, 1]])
        cycles, changed = session.run(entries, 20.0)
        assert (cycles[:50] > 0).all()
        assert not changed.any()
        assert (np.diff(session.samples) >= 0).all()
        # And again, in the same child.
        session.run(entries, 20.0)
        ran, waited = session.shares_s()
        assert ran >= 0 <= waited


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (call(39), "SIGSYS"),  # getpid
        (call(2, 0x58000000), "SIGSYS"),  # open
        (call(231), "SIGSYS"),  # exit_group
        (loop(op("UD2")), "SIGILL"),
        (loop(op("HLT")), "SIGSEGV"),
        (loop(op("MOV_RM32_IMM32", At(-1, timed_loop.CODE_ADDRESS), 0)), "SIGSEGV"),
        (loop(op("MOV_RM32_IMM32", At(-1, 0x1000), 0)), "SIGSEGV"),
        (loop(op("XOR_R32_RM32", Gpr(1, 4), Gpr(1, 4)), op("DIV_RM64", Gpr(1))), "SIGFPE"),
    ],
)
def test_a_forbidden_call_kills_it(bad: LoopCode, words: str) -> None:
    laid_out = laid([FINE, bad])
    with Session(laid_out.program, CPU) as session:
        error = ended(session, laid_out, 0, 0, 1, 0)
        assert error.index == 2
        assert words in error.reason


def test_an_endless_loop_is_killed() -> None:
    laid_out = laid([FINE, loop(endless)])
    with Session(laid_out.program, CPU) as session:
        error = ended(session, laid_out, 0, 1, limit_s=0.3)
        assert error.index == 1
        assert "did not end" in error.reason
        assert not Path(f"/proc/{session.pid}").exists()


def test_it_ends_with_its_parent() -> None:
    laid_out = laid([FINE])
    session = Session(laid_out.program, CPU)
    pid = session.pid
    session.close()
    assert not Path(f"/proc/{pid}").exists()


def test_addresses_in_use_are_an_error() -> None:
    from dataclasses import replace

    program = replace(laid([FINE]).program, data_address=timed_loop.CODE_ADDRESS)
    with pytest.raises(TraceError, match="already mapped"):
        Session(program, CPU)


def test_batches_are_limited() -> None:
    laid_out = laid([FINE])
    with Session(laid_out.program, CPU) as session, pytest.raises(ValueError, match="entries"):
        session.run(np.zeros((session.most_entries + 1, 3), np.int64), 1.0)
