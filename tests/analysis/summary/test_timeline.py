"""Timelines of two clocks: interpolated times are within the stated error."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtrace.analysis.summary.timeline import compare_marks, of_pairs
from xtrace.probes.capture.clock_line import ClockPair
from xtrace.probes.capture.layout import Mark

HZ = 2.596e9
TSC = 0x0123_4567_89AB_CDEF
NS = 987_654_321_000


def slewed(second: float, ppm: float) -> int:
    """Return CLOCK_MONOTONIC at a true time; its rate swings by ``ppm`` with a period of one minute."""
    swing = ppm * 1e-6 * 60 / math.tau * (1 - math.cos(math.tau * second / 60))
    return NS + round((second + swing) * 1e9)


def tsc_at(second: float) -> int:
    return TSC + round(second * HZ)


def pairs(ppm: float, seconds: int = 90) -> list[ClockPair]:
    return [
        ClockPair(tsc_at(second) - 50, slewed(second, ppm), tsc_at(second) + 50, second % 3)
        for second in range(seconds)
    ]


@pytest.mark.parametrize("ppm", [0.0, 50.0, 500.0])
def test_times_between_pairs_are_within_the_error(ppm: float) -> None:
    line = of_pairs(pairs(ppm))
    assert line is not None
    assert line.error_ns is not None
    assert line.error_ns < 30_000
    chance = random.Random(3)
    moments = [chance.uniform(0, 89) for _ in range(500)]
    times = line.ns_of([tsc_at(moment) for moment in moments])
    assert np.abs(times - np.array([slewed(moment, ppm) for moment in moments])).max() <= line.error_ns
    back = line.tscs_of(times)
    assert np.abs(back - np.array([tsc_at(moment) for moment in moments])).max() / HZ * 1e9 <= line.error_ns


def test_outside_the_pairs_the_rate_extrapolates() -> None:
    line = of_pairs(pairs(0.0))
    assert line is not None
    for second in (-10.0, 100.0):
        assert line.ns_of([tsc_at(second)])[0] == pytest.approx(slewed(second, 0), abs=3)


def test_two_pairs_give_no_error_and_one_gives_no_timeline() -> None:
    line = of_pairs(pairs(0.0, 2))
    assert line is not None
    assert line.error_ns is None
    assert of_pairs(pairs(0.0, 1)) is None
    assert of_pairs([]) is None


@given(st.lists(st.integers(0, 10**6), min_size=2, max_size=30, unique=True), st.integers(-300, 300))
@settings(max_examples=60)
def test_conversions_are_inverse_and_keep_order(moments: list[int], skew: int) -> None:
    made = [
        ClockPair(TSC + moment * 1000, NS + moment * 400 + (skew if number % 2 else 0), TSC + moment * 1000)
        for number, moment in enumerate(moments)
    ]
    line = of_pairs(made)
    if line is None:
        return
    tscs = np.sort(np.array([TSC + moment * 1000 + 7 for moment in moments]))
    times = line.ns_of(tscs)
    assert (np.diff(times) >= 0).all()
    assert np.abs(line.tscs_of(times) - tscs).max() <= 3 * line.hz / 1e9 + 3


def test_marks_outside_their_readings_are_counted() -> None:
    sent = [Mark(100, 200, 1, 0), Mark(300, 400, 2, 1), Mark(500, 600, 3, 0)]
    found = compare_marks(sent, np.array([1, 2, 9]), np.array([150, 430, 1]))
    assert (found.sent, found.found, found.outside, found.worst_cycles) == (3, 2, 1, 30)
