"""A Partial, and the statistics of it that several tables share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from xtrace.analysis.columns import Columns
from xtrace.analysis.state_machine.metrics import FIRST_COUNT, Metric
from xtrace.analysis.summary.histogram import summarise
from xtrace.analysis.summary.partial import Partial
from xtrace.probes.catalog import VersionRange


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

    def counts(self, metric: Metric) -> Columns:
        """Return the metric's tallies, with columns a, b, count and sum_cycles."""
        return self._tallies.rows(metric)

    def count_by_a(self, metric: Metric) -> Columns:
        """Return the metric's counts by ``a``, with columns a and count."""
        return self.counts(metric).sums(["a"], ["count"])

    @property
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


class _ByMetric:
    """Rows sorted by their column ``metric``, so that those of one metric are a slice."""

    def __init__(self, rows: Columns) -> None:
        self._rows = rows.sorted_by("metric")

    def rows(self, metric: Metric) -> Columns:
        low, high = np.searchsorted(self._rows["metric"], [int(metric), int(metric) + 1])
        return self._rows.where(slice(low, high))
