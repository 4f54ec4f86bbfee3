"""Log-linear histograms: 64 buckets per octave, so a quantile is within 0.8 % of a measured value.

Each value below 64 cycles has its own bucket.  Above, bucket ``64 * o + p`` covers
``[(64 + p) << (o - 1), (65 + p) << (o - 1))``: at most 1/64 of the value wide, and
its middle is at most 1/128 away from any value in it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from xtrace.analysis.columns import Columns, matched
from xtrace.analysis.state_machine.metrics import SUB_BUCKETS

#: Bound on the relative error of a quantile.
QUANTILE_ERROR_RATIO = 1 / (2 * SUB_BUCKETS)


def bucket_bounds(bucket: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the least and the greatest value, in cycles, that belong to each bucket."""
    octave, place = bucket // SUB_BUCKETS, bucket % SUB_BUCKETS
    shift = np.maximum(octave - 1, 0)
    least = np.where(octave == 0, place, (SUB_BUCKETS + place) << shift)
    return least, least + (np.int64(1) << shift) - 1


def quantiles(
    buckets: Columns, by: Sequence[str], at: Sequence[float], beyond: Columns | None = None
) -> Columns:
    """Return quantiles of each group of histogram rows.

    Args:
        buckets: with the int64 columns ``by``, bucket and count; several rows may share a bucket.
        by: columns that define the groups.
        at: quantiles in (0, 1].
        beyond: ``by`` and count: values above all others, which are in no bucket.

    Returns:
        The columns ``by``, ascending, and one float64 column per quantile (``p50_cycles`` and so on): the
        middle of the bucket that contains the value of that rank; infinite where it is one of ``beyond``.
    """
    groups = buckets.grouped(by, within=["bucket"])
    counts = buckets["count"][groups.order]
    least, greatest = bucket_bounds(buckets["bucket"][groups.order])
    middle = np.append((least + greatest) / 2, np.inf)
    upto = np.cumsum(counts)
    before = (upto - counts)[groups.starts]
    inside = groups.sum("count")
    total = inside
    if beyond is not None:
        place = matched(groups.keys, beyond)
        total = inside + np.where(place >= 0, np.append(beyond["count"], 0)[place], 0)
    found = {}
    for q in at:
        rank = np.ceil(q * total)
        row = np.where(rank > inside, len(upto), np.searchsorted(upto, before + rank))
        found[quantile_name(q)] = middle[row]
    return groups.keys.having(**found)


def quantile_name(q: float) -> str:
    """Return the name of a quantile's column: p50_cycles, p99_cycles."""
    return f"p{round(q * 1000) / 10:g}_cycles"


def summarise(
    tallies: Columns, buckets: Columns, by: Sequence[str], at: Sequence[float] = (0.5, 0.95, 0.99)
) -> Columns:
    """Return count, sum, mean, quantiles, min and max of each group of tallies.

    Args:
        tallies, buckets: rows of the same metrics, with the int64 columns ``by``.

    Returns:
        The columns ``by``, ascending, then count, sum_cycles, mean_cycles, min_cycles, p50_cycles ...,
        max_cycles.  Quantiles are clipped to the exact min and max; NaN where no value is in a bucket.

    Raises:
        ValueError: a bucket has no tally.
    """
    groups = tallies.grouped(by)
    count, total = groups.sum("count"), groups.sum("sum_cycles")
    lowest, highest = groups.min("min_cycles"), groups.max("max_cycles")
    found = quantiles(buckets, by, at)
    rows = matched(found.only(by), groups.keys)
    if (rows < 0).any():
        raise ValueError("a histogram without a tally")
    table = {"count": count, "sum_cycles": total, "mean_cycles": total / count, "min_cycles": lowest}
    for name in found.names[len(by) :]:
        values = np.full(len(count), np.nan)
        values[rows] = found[name]
        table[name] = np.clip(values, lowest, highest)
    return groups.keys.having(**table, max_cycles=highest)
