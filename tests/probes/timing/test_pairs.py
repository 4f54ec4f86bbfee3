"""Pairs of loops timed in a real child: what is kept, what fails on its own.  No time is asserted."""

from __future__ import annotations

import math
import os
import time

import pytest

from builders.timed import laid
from xtrace.probes.timing.interval import Interval
from xtrace.probes.timing.pairs import Pair, Pairs, Wanted
from xtrace.probes.timing.session import Session
from xtrace.symbols.replay import sequences, timed_loop
from xtrace.symbols.replay.timed_loop import Body
from xtrace.symbols.x86.encode import Assembler

CPU = max(os.sched_getaffinity(0))
LONG = timed_loop.loop("empty", timed_loop.chain_body(40, "add", (0,)))
SHORT = timed_loop.loop("empty", timed_loop.chain_body(10, "add", (0,)))


def bad(asm: Assembler) -> None:
    asm.op("UD2")


BAD = timed_loop.loop("empty", Body(bad))
MISS = timed_loop.loop("store_miss_1", sequences.body("mask", "", "inline"))


def test_a_difference_is_found_and_a_failure_affects_no_other_pair() -> None:
    laid_out = laid([LONG, SHORT, BAD, MISS])
    long, short, broken, miss = ((loop,) for loop in laid_out.loops)
    wanted = [Pair(long, short), Pair(broken, short), Pair(long, long), Pair(miss, miss)]
    pairs = Pairs(lambda: Session(laid_out.program, CPU), wanted, Wanted(run_cycles=2000.0))
    try:
        pairs.measure(time.monotonic() + 60.0)
        found = pairs.differences()
    finally:
        pairs.close()
    assert [bool(item.failure) for item in found] == [False, True, False, False]
    assert "SIGILL" in found[1].failure
    assert math.isnan(found[1].interval.median)
    assert found[0].interval.count >= 6
    assert found[0].fenced_cycles > found[0].plain_cycles > 0
    # The chain is four times as long, so it takes longer whatever the machine does.
    assert found[0].interval.median > 0
    assert 0 <= pairs.waiting_ratio <= 1


def test_without_time_there_is_no_figure() -> None:
    laid_out = laid([LONG, SHORT])
    long, short = ((loop,) for loop in laid_out.loops)
    pairs = Pairs(lambda: Session(laid_out.program, CPU), [Pair(long, short)], Wanted())
    try:
        pairs.measure(time.monotonic())
        assert math.isnan(pairs.differences()[0].interval.median)
        assert not pairs.differences()[0].failure
    finally:
        pairs.close()


@pytest.mark.parametrize(
    ("low", "high", "tight"),
    [(9.0, 11.0, True), (9.0, 11.1, False), (99.0, 109.0, True), (95.0, 106.0, False)],
)
def test_what_is_tight(low: float, high: float, tight: bool) -> None:
    assert Wanted().tight(Interval((low + high) / 2, low, high, 100)) is tight


def test_an_unknown_interval_is_not_tight() -> None:
    assert not Wanted().tight(Interval(math.nan, math.nan, math.nan, 3))


def test_loops_must_have_equally_many_places() -> None:
    laid_out = laid([LONG, SHORT])
    long, short = laid_out.loops
    with pytest.raises(ValueError, match="places"):
        Pairs(lambda: Session(laid_out.program, CPU), [Pair((long, long), (short,))], Wanted())
