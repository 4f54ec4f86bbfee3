"""Distributions: how many values are at most so long, at points that keep their shape and their tail.

The points are bounds of the histograms' buckets, so each count is exact; the last one is the greatest value.
A point is left out where the next one is near in both directions, as a plot with logarithmic time and tail
shows it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from xtrace.analysis.columns import I64, Columns
from xtrace.analysis.measures.measures import Measures
from xtrace.analysis.state_machine.keys import are_guests, domain_of, vcpu_of
from xtrace.analysis.state_machine.metrics import Metric
from xtrace.analysis.summary.histogram import bucket_bounds

#: Distributions of a figure, those with the most values first.
MOST = 512
#: Steps between points: of log2 of the time, and of log10 of the share above it.
_TIME_STEP, _TAIL_STEP = 1 / 16, 1 / 50


@dataclass(frozen=True, slots=True)
class Distribution:
    """How many values of a figure are at most so long.

    Attributes:
        figure: wake_to_running, or send_to_wake.
        domain, vcpu: the woken vCPU.
        waker: key of the sending vCPU; None where all wakers count.
        count: values.
        upto_cycles: int64 [points], ascending; the last one is the greatest value.
        upto_counts: int64 [points], values that are at most so long; the last one is ``count``.
    """

    figure: str
    domain: int
    vcpu: int
    waker: int | None
    count: int
    upto_cycles: I64
    upto_counts: I64


def distributions(measures: Measures, wanted: Callable[[int], bool] = lambda key: True) -> list[Distribution]:
    """Return the distributions of wake to running by vCPU, and of send to wake by vCPU and sender.

    Args:
        wanted: whether the vCPU with this key is.
    """
    partial = measures.partial
    tallies, buckets = (_of(rows, Metric.WAKE_TO_RUNNING) for rows in (partial.tallies, partial.buckets))
    found = _by(measures.proven(tallies), measures.proven(buckets), ("a",), "wake_to_running", wanted)
    tallies, buckets = (_of(rows, Metric.SEND_TO_WAKE) for rows in (partial.tallies, partial.buckets))
    return found + _by(tallies, buckets, ("a", "b"), "send_to_wake", wanted)


def _of(rows: Columns, metric: Metric) -> Columns:
    return rows.where(rows["metric"] == int(metric))


def _by(
    tallies: Columns, buckets: Columns, by: Sequence[str], figure: str, wanted: Callable[[int], bool]
) -> list[Distribution]:
    groups = tallies.grouped(by)
    keys = groups.keys.having(count=groups.sum("count"), max_cycles=groups.max("max_cycles"))
    own = np.array([wanted(key) for key in keys["a"].tolist()], bool)
    keys = keys.where(own & are_guests(keys["a"]))
    found = []
    for row in keys.sorted_by("count", descending=True).where(slice(MOST)).rows():
        of_row = np.ones(len(buckets), bool)
        for name in by:
            of_row &= buckets[name] == row[name]
        upto, counts = _points(buckets.where(of_row), row["max_cycles"])
        waker = row.get("b")
        found.append(
            Distribution(figure, domain_of(row["a"]), vcpu_of(row["a"]), waker, int(counts[-1]), upto, counts)
        )
    return found


def _points(buckets: Columns, greatest: int) -> tuple[I64, I64]:
    """Return upto_cycles and upto_counts of a histogram that has at least one value."""
    counted = buckets.sums(["bucket"], ["count"])
    _, upto = bucket_bounds(counted["bucket"])
    counts = np.cumsum(counted["count"])
    upto = np.minimum(upto, greatest)
    kept = kept_points(upto, counts)
    return upto[kept], counts[kept]


def kept_points(upto: npt.NDArray[Any], counts: I64) -> npt.NDArray[np.bool_]:
    """Return which points of a distribution are a step away from the last one that is kept, or the last.

    Args:
        upto: ascending times.
        counts: int64, values that are at most so long; the last one is their number.
    """
    times = np.log2(np.maximum(upto, 1))
    tails = -np.log10(1 - (counts - 0.5) / counts[-1])
    kept = np.zeros(len(times), bool)
    time = tail = -np.inf
    for place, (here, above) in enumerate(zip(times.tolist(), tails.tolist(), strict=True)):
        if here - time >= _TIME_STEP or above - tail >= _TAIL_STEP:
            kept[place] = True
            time, tail = here, above
    kept[-1:] = True
    return kept
