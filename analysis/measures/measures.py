"""A Partial, and the statistics of it that several tables share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from xtrace.analysis.columns import Array, Columns, added, joined, matched
from xtrace.analysis.coverage.coverage import Coverage, coverage_of
from xtrace.analysis.measures.lookup import is_proven, merged
from xtrace.analysis.state_machine.keys import high_of, low_of
from xtrace.analysis.state_machine.metrics import FIRST_COUNT, Metric
from xtrace.analysis.summary.histogram import QUANTILE_ERROR_RATIO, quantile_name, quantiles, summarise
from xtrace.analysis.summary.partial import Partial
from xtrace.probes.catalog import VersionRange

QUANTILES = (0.5, 0.95, 0.99)


@dataclass
class Measures:
    """A Partial and the statistics of it that several tables share, each computed once.

    Attributes:
        versions: Xen versions to decode by.
        hz: TSC rate; None where it is not known.
    """

    partial: Partial
    versions: VersionRange
    hz: float | None = None

    @cached_property
    def coverage(self) -> Coverage:
        """What the traces cover."""
        return coverage_of(self.partial, self.hz)

    def proven(self, wakes: Columns) -> Columns:
        """Return rows of WAKE_TO_RUNNING, without those that are not proven where a pCPU may be missing."""
        return wakes if self.coverage.is_consistent else wakes.where(is_proven(wakes["b"]))

    def proven_times(self, metric: Metric) -> Columns:
        """Return times() of the rows that proven() leaves."""
        if self.coverage.is_consistent:
            return self.times(metric)
        tallies, buckets = _of(self.partial.tallies, metric), _of(self.partial.buckets, metric)
        return summarise(self.proven(tallies), self.proven(buckets), ("a",))

    def times_of(self, metric: Metric, holds: Callable[[Array], Array]) -> Columns:
        """Return times() of the intervals whose ``b`` holds."""
        rows, buckets = _of(self.partial.tallies, metric), _of(self.partial.buckets, metric)
        return summarise(rows.where(holds(rows["b"])), buckets.where(holds(buckets["b"])), ("a",))

    @cached_property
    def _tallies(self) -> _ByMetric:
        return _ByMetric(self.partial.tallies)

    @cached_property
    def _each(self) -> _ByMetric:
        return self._summary(["metric", "a", "b"])

    @cached_property
    def _merged(self) -> _ByMetric:
        return self._summary(["metric", "a"])

    def _summary(self, by: list[str]) -> _ByMetric:
        tallies = self.partial.tallies
        timed = tallies.where(tallies["metric"] < int(FIRST_COUNT))
        return _ByMetric(summarise(timed, self.partial.buckets, by))

    def times(self, metric: Metric) -> Columns:
        """Return the metric's statistics by ``a``: count, sum, mean, quantiles, min and max in cycles."""
        return self._merged.rows(metric)

    def times_by_b(self, metric: Metric) -> Columns:
        """Return the metric's statistics by ``a`` and ``b``."""
        return self._each.rows(metric)

    def open_times(self, metric: Metric, by: Sequence[str] = ("a",)) -> Columns:
        """Return the metric's intervals of which an end was not recorded: they lasted at least as long.

        Returns:
            ``by``, cut_count, open_cycles (their sum), open_max_cycles.
        """
        rows, _ = self._open(metric)
        groups = rows.grouped(by)
        return groups.keys.having(
            cut_count=groups.sum("count"),
            open_cycles=groups.sum("sum_cycles"),
            open_max_cycles=groups.max("max_cycles"),
        )

    def all_times(self, metric: Metric, by: Sequence[str] = ("a",)) -> Columns:
        """Return the metric's statistics over all intervals, those with one end recorded as lower bounds.

        Returns:
            ``by``, count and mean_cycles of the intervals with both ends; cut_count; sum_cycles, open_cycles,
            and total_cycles, the sum of both; quantiles, each with ``p50_moves`` and so on: whether it could
            be another value if the others had been recorded to their ends; max_cycles, which is at least
            open_max_cycles, with ``max_moves`` where that is the greatest.
        """
        open_rows, open_buckets = self._open(metric)
        closed = _of(self.partial.tallies, metric)
        closed_buckets = _of(self.partial.buckets, metric)
        whole_rows = self.times(metric) if tuple(by) == ("a",) else self.times_by_b(metric)
        opened = self.open_times(metric, by)
        columns = ["a", "b", "count", "sum_cycles", "min_cycles", "max_cycles"]
        both = joined([closed.only(columns), open_rows.only(columns)])
        names = ["a", "b", "bucket", "count"]
        low = summarise(both, joined([closed_buckets.only(names), open_buckets.only(names)]), by)
        high = quantiles(closed_buckets, by, QUANTILES, opened.renamed({"cut_count": "count"}))
        table = merged(
            by,
            whole_rows.only([*by, "count", "sum_cycles", "mean_cycles"]),
            opened,
            low.only([*by, "max_cycles", *(quantile_name(q) for q in QUANTILES)]),
            counts=("count", "cut_count", "sum_cycles", "open_cycles", "open_max_cycles", "max_cycles"),
        )
        place = matched(table.only(by), high)
        for q in QUANTILES:
            name = quantile_name(q)
            most = np.append(high[name], np.inf)[place]
            # A bucket's middle is clipped to the greatest value, so compare only what differs by more.
            moves = (table["cut_count"] > 0) & ~(most <= table[name] * (1 + 2 * QUANTILE_ERROR_RATIO) + 1)
            table = table.having(**{name.replace("_cycles", "_moves"): moves})
        longest = (table["cut_count"] > 0) & (table["open_max_cycles"] >= table["max_cycles"])
        return table.having(total_cycles=added(table["sum_cycles"], table["open_cycles"]), max_moves=longest)

    def _open(self, metric: Metric) -> tuple[Columns, Columns]:
        """Return the tallies and buckets of the metric's open intervals, with the ``b`` of the metric."""
        rows, buckets = self._open_rows
        of_metric, of_buckets = high_of(rows["b"]) == int(metric), high_of(buckets["b"]) == int(metric)
        rows, buckets = rows.where(of_metric), buckets.where(of_buckets)
        return rows.having(b=low_of(rows["b"])), buckets.having(b=low_of(buckets["b"]))

    @cached_property
    def _open_rows(self) -> tuple[Columns, Columns]:
        return _of(self.partial.tallies, Metric.OPEN), _of(self.partial.buckets, Metric.OPEN)

    def counts(self, metric: Metric) -> Columns:
        """Return the metric's tallies, with columns a, b, count and sum_cycles."""
        return self._tallies.rows(metric)

    def count_by_a(self, metric: Metric) -> Columns:
        """Return the metric's counts by ``a``, with columns a and count."""
        return self.counts(metric).sums(["a"], ["count"])

    @cached_property
    def span_cycles(self) -> int:
        """Cycles from the first to the last record, summed over the traces."""
        return int(self.partial.facts["span_cycles"].sum())

    @property
    def span_s(self) -> float | None:
        """The span in seconds, where the TSC rate is known."""
        return self.span_cycles / self.hz if self.hz else None

    def per_second(self, count: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return counts as rates per second; NaN where the TSC rate is not known."""
        return np.asarray(count, float) / (self.span_s or np.nan)

    def of_span(self, cycles: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return times as shares of the span."""
        return np.asarray(cycles, float) / (self.span_cycles or np.nan)


def _of(rows: Columns, metric: Metric) -> Columns:
    return rows.where(rows["metric"] == int(metric))


class _ByMetric:
    """Rows sorted by their column ``metric``, so that those of one metric are a slice."""

    def __init__(self, rows: Columns) -> None:
        self._rows = rows.sorted_by("metric")

    def rows(self, metric: Metric) -> Columns:
        low, high = np.searchsorted(self._rows["metric"], [int(metric), int(metric) + 1])
        return self._rows.where(slice(low, high))
