"""Compute a median and its confidence interval from pairs of timed loops.

A pair gives the difference of two loops that ran one after the other, in random order, so that
slow changes (clock rate, neighbours) affect both.  The distribution of the differences is unknown:
interrupts and caches produce tails.  So the interval is that of the median by order statistics,
which assumes no distribution: the median is between the j-th least and the j-th greatest of n with
probability 1 - 2 P(Bin(n, 1/2) < j).

The placement of code changes a loop's time by a cycle or so, which no repetition shows.  So each
loop is placed at several addresses, each place has its own interval, and the result spans them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

F64 = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

_MISSED = 0.025
_FENCE_WIDTH = 3.0
#: An interrupt costs more than this, whatever the loop.
_LEAST_EXCESS_CYCLES = 500.0


@dataclass(frozen=True, slots=True)
class Interval:
    """A median and its 95 % interval; NaN if there are too few values."""

    median: float
    low: float
    high: float
    count: int

    @property
    def width(self) -> float:
        """Return the interval's width."""
        return self.high - self.low


@cache
def rank(count: int) -> int:
    """Return j, so that the j-th least and j-th greatest of ``count`` bound the median; 0 if too few."""
    total, place = 0.0, 0
    while place < count // 2:
        logarithm = math.lgamma(count + 1) - math.lgamma(place + 1) - math.lgamma(count - place + 1)
        total += math.exp(logarithm - count * math.log(2))
        if total > _MISSED:
            break
        place += 1
    return place


def undisturbed(cycles: F64) -> Flags:
    """Return which runs of one loop had no interrupt: those that are not far above the others.

    Args:
        cycles: of the runs, all with the same number of executions.
    """
    low, high = np.quantile(cycles, (0.25, 0.75))
    return np.asarray(cycles <= high + _FENCE_WIDTH * (high - low) + _LEAST_EXCESS_CYCLES)


def of_median(values: F64) -> Interval:
    """Return the median of ``values`` and its interval by order statistics."""
    count = len(values)
    place = rank(count)
    if not place:
        return Interval(math.nan, math.nan, math.nan, count)
    ordered = np.sort(values)
    return Interval(float(np.median(ordered)), float(ordered[place - 1]), float(ordered[-place]), count)


def spanning(intervals: Sequence[Interval]) -> Interval:
    """Return the median over places, with an interval that spans the intervals of all places."""
    found = [item for item in intervals if not math.isnan(item.median)]
    count = sum(item.count for item in intervals)
    if len(found) < len(intervals) or not found:
        return Interval(math.nan, math.nan, math.nan, count)
    return Interval(
        float(np.median([item.median for item in found])),
        min(item.low for item in found),
        max(item.high for item in found),
        count,
    )
