"""From pairs of timed loops to a median with its interval.

What one pair gives is the difference of two loops that ran one behind the other, in random order,
so that what is slow to change (clock rate, neighbours) hits both.  Nothing is known of how the
differences are spread: interrupts and caches make tails.  So the interval is that of the median by
order statistics, which asks for no shape: between the j-th least and the j-th greatest of n lies the
median with probability 1 - 2 P(Bin(n, 1/2) < j).

Where code stands moves a loop by a cycle or so, and no repetition shows it.  So each loop stands at
several places, each place has its own interval, and the result spans them.
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
    """A median and the interval that holds it 95 times of 100; NaN where there is too little."""

    median: float
    low: float
    high: float
    count: int

    @property
    def width(self) -> float:
        """Return how wide it is."""
        return self.high - self.low


@cache
def rank(count: int) -> int:
    """Return j: the j-th least and j-th greatest of ``count`` bound the median; 0 where there are too few."""
    total, place = 0.0, 0
    while place < count // 2:
        logarithm = math.lgamma(count + 1) - math.lgamma(place + 1) - math.lgamma(count - place + 1)
        total += math.exp(logarithm - count * math.log(2))
        if total > _MISSED:
            break
        place += 1
    return place


def undisturbed(cycles: F64) -> Flags:
    """Return which runs of one loop had no interrupt in them: those not far above the others.

    Args:
        cycles: of the whole runs, all of the same length.
    """
    low, high = np.quantile(cycles, (0.25, 0.75))
    return np.asarray(cycles <= high + _FENCE_WIDTH * (high - low) + _LEAST_EXCESS_CYCLES)


def of_median(values: F64) -> Interval:
    """Return the median of ``values`` with its interval by order statistics."""
    count = len(values)
    place = rank(count)
    if not place:
        return Interval(math.nan, math.nan, math.nan, count)
    ordered = np.sort(values)
    return Interval(float(np.median(ordered)), float(ordered[place - 1]), float(ordered[-place]), count)


def spanning(intervals: Sequence[Interval]) -> Interval:
    """Return the median over places, with an interval that spans those of all of them."""
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
