"""The distribution of the times from wake to running in each group of captures, by domain.

All captures of a group count together, each in time of its own TSC rate.  Bias: a capture with more wakes
weighs more, unlike in the rows of a comparison.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xtrace.analysis.columns import I64
from xtrace.analysis.measures.distributions import kept_points
from xtrace.analysis.state_machine.keys import domain_of
from xtrace.analysis.state_machine.metrics import Metric
from xtrace.analysis.summary.histogram import bucket_bounds
from xtrace.analysis.summary.partial import Partial

F64 = npt.NDArray[np.float64]
_QUANTILES = (0.5, 0.95, 0.99)


@dataclass(frozen=True, slots=True)
class Times:
    """A histogram of times.

    Attributes:
        upto: float64 [buckets], the greatest value that belongs to a bucket, in ns or cycles.
        counts: int64 [buckets].
    """

    upto: F64
    counts: I64


@dataclass(frozen=True, slots=True)
class GroupTimes:
    """The times of a domain in a group of captures.

    Attributes:
        group: old or new.
        count: values.
        quantiles: p50, p95, p99, each at most 1.6 % above a measured value, and the greatest value.
        upto: float64 [points], ascending, in ns or cycles; the last one is the greatest value.
        upto_counts: int64 [points], values that are at most so long.
    """

    domain: str
    group: str
    count: int
    quantiles: Mapping[str, float]
    upto: F64
    upto_counts: I64


def times_of(partial: Partial, hz: float | None) -> dict[int, Times]:
    """Return the times from wake to running of each domain, in ns, or in cycles without a TSC rate."""
    scale = 1e9 / hz if hz else 1.0
    rows = partial.buckets.where(partial.buckets["metric"] == int(Metric.WAKE_TO_RUNNING))
    counted = rows.having(domain=domain_of(rows["a"])).sums(["domain", "bucket"], ["count"])
    tallies = partial.tallies.where(partial.tallies["metric"] == int(Metric.WAKE_TO_RUNNING))
    domains = domain_of(tallies["a"])
    found = {}
    for domain in sorted(set(counted["domain"].tolist())):
        mine = counted.where(counted["domain"] == domain)
        greatest = tallies["max_cycles"][domains == domain].max()
        upto = np.minimum(bucket_bounds(mine["bucket"])[1], greatest)
        found[domain] = Times(upto * scale, mine["count"])
    return found


def group_times(domain: str, group: str, parts: Iterable[Times]) -> GroupTimes:
    """Return the times of all captures of a group together; there is at least one."""
    found = list(parts)
    upto = np.concatenate([part.upto for part in found])
    order = np.argsort(upto, kind="stable")
    upto = upto[order]
    counts: I64 = np.cumsum(np.concatenate([part.counts for part in found])[order])
    total = int(counts[-1])
    quantiles = {
        f"p{100 * share:g}": float(upto[np.searchsorted(counts, np.ceil(share * total))])
        for share in _QUANTILES
    }
    kept = kept_points(upto, counts)
    return GroupTimes(domain, group, total, quantiles | {"max": float(upto[-1])}, upto[kept], counts[kept])
