"""Log-linear histograms: 64 buckets per octave, so a quantile is within 0.8 % of a measured value.

Each value below 64 cycles has its own bucket.  Above, bucket ``64 * o + p`` covers
``[(64 + p) << (o - 1), (65 + p) << (o - 1))``: at most 1/64 of the value wide, and
its middle is at most 1/128 away from any value in it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from xtrace.analysis.state_machine.metrics import SUB_BUCKETS

#: Bound on the relative error of a quantile.
QUANTILE_ERROR_RATIO = 1 / (2 * SUB_BUCKETS)


def bucket_bounds(bucket: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the least and the greatest value, in cycles, that belong to each bucket."""
    octave, place = bucket // SUB_BUCKETS, bucket % SUB_BUCKETS
    shift = np.maximum(octave - 1, 0)
    least = np.where(octave == 0, place, (SUB_BUCKETS + place) << shift)
    return least, least + (np.int64(1) << shift) - 1


def quantiles(buckets: pd.DataFrame, by: Sequence[str], at: Sequence[float]) -> pd.DataFrame:
    """Return quantiles of each group of histogram rows.

    Args:
        buckets: frame with the int64 columns ``by``, bucket and count; several rows may share a bucket.
        by: columns that define the groups.
        at: quantiles in (0, 1].

    Returns:
        The columns ``by``, ascending, and one float64 column per quantile (``p50_cycles`` and so on): the
        middle of the bucket that contains the value of that rank.
    """
    keys, starts, order = _groups(buckets, [*by, "bucket"], len(by))
    counts = buckets["count"].to_numpy(np.int64)[order]
    least, greatest = bucket_bounds(buckets["bucket"].to_numpy(np.int64)[order])
    middle = (least + greatest) / 2
    upto = np.cumsum(counts)
    before = (upto - counts)[starts]
    total = np.add.reduceat(counts, starts) if len(starts) else before
    table = dict(zip(by, keys, strict=True))
    for q in at:
        rank = before + np.ceil(q * total)
        table[f"p{round(q * 1000) / 10:g}_cycles"] = middle[np.searchsorted(upto, rank)]
    return pd.DataFrame(table)


def summarise(
    tallies: pd.DataFrame, buckets: pd.DataFrame, by: Sequence[str], at: Sequence[float] = (0.5, 0.95, 0.99)
) -> pd.DataFrame:
    """Return count, sum, mean, quantiles, min and max of each group of tallies.

    Args:
        tallies, buckets: rows of the same metrics, with the int64 columns ``by``.

    Returns:
        The columns ``by``, ascending, then count, sum_cycles, mean_cycles, min_cycles, p50_cycles ...,
        max_cycles.  Quantiles are clipped to the exact min and max; NaN where no value is in a bucket.
    """
    keys, starts, order = _groups(tallies, by, len(by))

    def added(name: str, how: np.ufunc) -> npt.NDArray[np.int64]:
        values = tallies[name].to_numpy(np.int64)[order]
        reduced: npt.NDArray[np.int64] = how.reduceat(values, starts) if len(starts) else values
        return reduced

    count, total = added("count", np.add), added("sum_cycles", np.add)
    lowest, highest = added("min_cycles", np.minimum), added("max_cycles", np.maximum)
    found = quantiles(buckets, by, at)
    place = {key: row for row, key in enumerate(zip(*(key.tolist() for key in keys), strict=True))}
    rows = np.array(
        [place[key] for key in zip(*(found[name].tolist() for name in by), strict=True)], np.int64
    )
    table: dict[str, npt.NDArray[np.generic]] = dict(zip(by, keys, strict=True))
    table |= {"count": count, "sum_cycles": total, "mean_cycles": total / count, "min_cycles": lowest}
    for name in found.columns[len(by) :]:
        values = np.full(len(count), np.nan)
        values[rows] = found[name]
        table[name] = np.clip(values, lowest, highest)
    return pd.DataFrame({**table, "max_cycles": highest})


def _groups(
    frame: pd.DataFrame, by: Sequence[str], told_by: int
) -> tuple[list[npt.NDArray[np.int64]], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Sort rows by the columns ``by``; the first ``told_by`` of them define the groups.

    Returns:
        (key columns with one value per group, first sorted row of each group, the order).
    """
    columns = [frame[name].to_numpy(np.int64) for name in by]
    order = np.lexsort(columns[::-1])
    keys = [column[order] for column in columns[:told_by]]
    changed = np.zeros(len(order), bool)
    changed[:1] = True
    for key in keys:
        changed[1:] |= key[1:] != key[:-1]
    starts = np.flatnonzero(changed)
    return [key[starts] for key in keys], starts, order
