"""Log-linear histograms: 64 buckets an octave, so a quantile is within 0.8 % of a value that was measured.

Values below 64 cycles have a bucket each.  Above, bucket ``64 * o + p`` covers
``[(64 + p) << (o - 1), (65 + p) << (o - 1))``: at most 1/64 of the value wide, and
its middle is at most 1/128 away from anything in it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from xtrace.analysis.metrics import SUB_BUCKETS

#: Bound on the relative error of a quantile.
QUANTILE_ERROR_RATIO = 1 / (2 * SUB_BUCKETS)


def bucket_bounds(bucket: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the least and the greatest value, in cycles, that each bucket holds."""
    octave, place = bucket // SUB_BUCKETS, bucket % SUB_BUCKETS
    shift = np.maximum(octave - 1, 0)
    least = np.where(octave == 0, place, (SUB_BUCKETS + place) << shift)
    return least, least + (np.int64(1) << shift) - 1


def quantiles(buckets: pd.DataFrame, by: Sequence[str], at: Sequence[float]) -> pd.DataFrame:
    """Return quantiles of each group of histogram rows.

    Args:
        buckets: frame with the columns ``by``, bucket and count; several rows may share a bucket.
        by: columns that tell the groups.
        at: quantiles in (0, 1].

    Returns:
        ``by`` as index, one float64 column ``p50_cycles`` (and so on) for each quantile: the middle of
        the bucket that holds the value of that rank.
    """
    names = [f"p{round(q * 1000) / 10:g}_cycles" for q in at]
    by = list(by)
    if buckets.empty:
        return pd.DataFrame(
            columns=names, index=pd.MultiIndex.from_arrays([[]] * len(by), names=by), dtype=float
        )
    ordered = buckets.sort_values([*by, "bucket"], kind="stable")
    keys = ordered[by].to_numpy()
    starts = np.flatnonzero(np.concatenate(([True], (keys[1:] != keys[:-1]).any(axis=1))))
    upto = np.cumsum(ordered["count"].to_numpy())
    before = np.concatenate(([0], upto))[starts]
    total = np.append(before[1:], upto[-1]) - before
    least, greatest = bucket_bounds(ordered["bucket"].to_numpy())
    middle = (least + greatest) / 2
    columns = {}
    for name, q in zip(names, at, strict=True):
        rank = before + np.maximum(np.ceil(q * total), 1)
        columns[name] = middle[np.searchsorted(upto, rank)]
    index = pd.MultiIndex.from_arrays(list(keys[starts].T), names=by)
    return pd.DataFrame(columns, index=index)


def summarise(
    tallies: pd.DataFrame, buckets: pd.DataFrame, by: Sequence[str], at: Sequence[float] = (0.5, 0.95, 0.99)
) -> pd.DataFrame:
    """Return count, sum, mean, quantiles and extremes of each group of tallies.

    Args:
        tallies, buckets: rows of the same metrics, with the columns ``by``.

    Returns:
        ``by`` as columns, then count, sum_cycles, mean_cycles, min_cycles, p50_cycles ..., max_cycles.
        Quantiles are bounded by the exact extremes.
    """
    by = list(by)
    added = tallies.groupby(by).agg(
        count=("count", "sum"),
        sum_cycles=("sum_cycles", "sum"),
        min_cycles=("min_cycles", "min"),
        max_cycles=("max_cycles", "max"),
    )
    found = quantiles(buckets, by, at)
    if len(by) == 1:
        found.index = found.index.get_level_values(0)
    table = added.join(found)
    for name in found.columns:
        table[name] = table[name].clip(table["min_cycles"], table["max_cycles"])
    table["mean_cycles"] = table["sum_cycles"] / table["count"]
    order = ["count", "sum_cycles", "mean_cycles", "min_cycles", *found.columns, "max_cycles"]
    return table[order].reset_index()
