"""Do two groups of repetitions differ, by how much, and with what confidence?

Rank statistics make no assumption about the distribution of the values, only that repetitions of the same
thing could have come in any order.  For small groups all results are exact, by enumeration.

Sources: Mann and Whitney 1947 (the test); Hodges and Lehmann 1963, Moses 1965 (the interval);
Holm 1979 (many tests at once).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

#: The chance that any row of a comparison is a false alarm.  Below the usual 5 %: people compare often.
ALPHA = 0.02
#: The chance that an interval does not cover the true change.
MISS = 0.05

#: Up to this many values in total, all divisions are counted; beyond, rank sums are close to normal.
EXACT_MOST = 50

F64 = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its 95 % interval; the ends are None if there are too few values."""

    estimate: float
    low: float | None
    high: float | None


def rank_test(old: Sequence[float], new: Sequence[float]) -> float:
    """Return the two-sided p of the Mann-Whitney test: the chance of groups at least this far apart.

    Exact up to EXACT_MOST values, ties included: the share of all divisions of the values into two groups
    whose rank sums are at least as far from the expected sum.  Beyond that, the normal approximation with
    corrections for ties and continuity.

    Raises:
        ValueError: a group is empty, or a value is not a number.
    """
    values = np.concatenate((np.asarray(old, float), np.asarray(new, float)))
    if not len(old) or not len(new) or np.isnan(values).any():
        raise ValueError("both groups need values, and numbers only")
    doubled = _doubled_ranks(values)
    chosen = int(doubled[: len(old)].sum())
    # Twice the expected rank sum is n (n + m + 1).
    apart = abs(chosen - len(old) * (len(values) + 1))
    if len(values) <= EXACT_MOST:
        return _exact_p(tuple(np.sort(doubled).tolist()), len(old), apart)
    return _normal_p(doubled, len(old), apart)


def shift(old: Sequence[float], new: Sequence[float], *, ratio: bool) -> Interval:
    """Return how far ``new`` is from ``old``, with the interval that corresponds to the rank test.

    The estimate is the median of all differences (or ratios minus 1) of a new and an old value.  The interval
    is between two order statistics of these: it covers the true change in at least 95 % of cases if the
    groups differ only by a shift (or a factor).

    Args:
        ratio: return the change as a share of the old value; all values must then be above 0.
    """
    one, other = np.asarray(old, float), np.asarray(new, float)
    pairs = np.sort((other[:, None] / one if ratio else other[:, None] - one).ravel())
    pairs = pairs - 1 if ratio else pairs
    left_out = _left_out(len(one), len(other))
    if left_out < 1:
        return Interval(float(np.median(pairs)), None, None)
    return Interval(float(np.median(pairs)), float(pairs[left_out - 1]), float(pairs[-left_out]))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p values adjusted for being tested together, in the order given.

    With probability 1 - ALPHA or more, none of them falls below ALPHA by chance, however they depend on
    each other.
    """
    count = len(p_values)
    adjusted = [1.0] * count
    most = 0.0
    for place, index in enumerate(sorted(range(count), key=lambda index: p_values[index])):
        most = max(most, min(p_values[index] * (count - place), 1.0))
        adjusted[index] = most
    return adjusted


def least_p(old_count: int, new_count: int) -> float:
    """Return the least p that groups of these sizes can have, when all values of one are higher."""
    return min(2 / math.comb(old_count + new_count, old_count), 1.0)


def neighbours_correlate(values: Sequence[float]) -> float:
    """Return the correlation of each value with the next; 0 if all are equal or there are fewer than 3."""
    series = np.asarray(values, float)
    series = series - series.mean() if len(series) else series
    whole = float((series**2).sum())
    return float((series[1:] * series[:-1]).sum()) / whole if len(series) > 2 and whole > 0 else 0.0


def runs_needed(tests: int) -> int:
    """Return how many repetitions per group are needed to show a difference in one of ``tests`` tests."""
    count = 1
    while least_p(count, count) * tests > ALPHA:
        count += 1
    return count


def _doubled_ranks(values: F64) -> npt.NDArray[np.int64]:
    """Return twice the rank of each value, so that the middle ranks of ties are whole numbers."""
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    upto = np.cumsum(sizes)
    doubled: npt.NDArray[np.int64] = (2 * upto - sizes + 1)[group]
    return doubled


@lru_cache(maxsize=256)
def _sums(doubled: tuple[int, ...], chosen: int) -> F64:
    """Return, for each sum, how many choices of ``chosen`` of the ranks have it.

    Counts stay below 2^53, so they are exact in float64.
    """
    ways = np.zeros((chosen + 1, sum(doubled[-chosen:]) + 1))
    ways[0, 0] = 1
    for rank in doubled:
        for size in range(chosen, 0, -1):
            ways[size, rank:] += ways[size - 1, : ways.shape[1] - rank]
    total: F64 = ways[chosen]
    return total


def _exact_p(doubled: tuple[int, ...], chosen: int, apart: int) -> float:
    ways = _sums(doubled, chosen)
    distance = np.abs(np.arange(len(ways)) - chosen * (len(doubled) + 1))
    return float(ways[distance >= apart].sum() / ways.sum())


def _normal_p(doubled: npt.NDArray[np.int64], chosen: int, apart: int) -> float:
    n, m = chosen, len(doubled) - chosen
    total = n + m
    _, ties = np.unique(doubled, return_counts=True)
    tied = float((ties.astype(float) ** 3 - ties).sum()) / (total * (total - 1))
    variance = n * m / 12 * (total + 1 - tied)
    if variance <= 0:
        return 1.0
    z = max(apart / 2 - 0.5, 0) / math.sqrt(variance)
    return math.erfc(z / math.sqrt(2))


@lru_cache(maxsize=256)
def _left_out(n: int, m: int) -> int:
    """Return the place of the interval's ends, from either end of the sorted pairs; 0 for no interval."""
    total = n + m
    if total > EXACT_MOST:
        middle, spread = n * m / 2, math.sqrt(n * m * (total + 1) / 12)
        return max(math.floor(middle - 1.959964 * spread), 0)
    ways = _sums(tuple(range(2, 2 * total + 2, 2)), n)
    # U is the rank sum minus the least sum of n ranks; doubled sums are even.
    below = np.cumsum(ways[n * (n + 1) :: 2]) / ways.sum()
    return int(np.searchsorted(below, MISS / 2, side="right"))
