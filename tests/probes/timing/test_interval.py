"""Medians and their intervals by order statistics."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtrace.probes.timing.interval import Interval, of_median, rank, spanning, undisturbed


def missed(count: int, place: int) -> float:
    """Return the exact probability that the median is outside the place-th least and greatest."""
    return float(2 * sum(math.comb(count, k) for k in range(place)) / 2**count)


@pytest.mark.parametrize("count", [*range(80), 101, 500, 999])
def test_the_rank_is_the_greatest_with_95_percent_coverage(count: int) -> None:
    place = rank(count)
    if place:
        assert missed(count, place) <= 0.05
    assert missed(count, place + 1) > 0.05 or place == count // 2


def test_too_few_values_give_no_interval() -> None:
    found = of_median(np.arange(5.0))
    assert math.isnan(found.median)
    assert found.count == 5
    assert of_median(np.arange(6.0)) == Interval(2.5, 0.0, 5.0, 6)


def test_coverage_on_skewed_values() -> None:
    random = np.random.default_rng(1)
    inside = 0
    for _ in range(1000):
        found = of_median(random.exponential(1.0, 40))
        inside += found.low <= math.log(2) <= found.high
    assert inside >= 940


@given(st.lists(st.floats(-1e6, 1e6), min_size=6, max_size=60))
def test_the_median_is_in_its_interval(values: list[float]) -> None:
    found = of_median(np.array(values))
    assert found.low <= found.median <= found.high
    assert found.count == len(values)


def test_more_values_narrow_it() -> None:
    random = np.random.default_rng(2)
    widths = [of_median(random.normal(0, 1, count)).width for count in (10, 100, 1000, 10_000)]
    assert all(left > right for left, right in pairwise(widths))


def test_an_interrupt_is_dropped() -> None:
    random = np.random.default_rng(3)
    cycles = 20_000 + random.normal(0, 20, 200)
    cycles[[3, 50, 51]] += 4_000
    kept = undisturbed(cycles)
    assert not kept[[3, 50, 51]].any()
    assert kept.sum() == 197


def test_equal_runs_are_kept() -> None:
    assert undisturbed(np.full(20, 100.0)).all()


def test_the_interval_spans_all_places() -> None:
    found = spanning([Interval(1.0, 0.9, 1.1, 10), Interval(3.0, 2.8, 3.3, 12), Interval(2.0, 1.9, 2.1, 11)])
    assert found == Interval(2.0, 0.9, 3.3, 33)
    assert math.isnan(spanning([Interval(1.0, 0.9, 1.1, 10), of_median(np.zeros(2))]).median)
    assert math.isnan(spanning([]).median)
