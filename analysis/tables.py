"""What a table of the report is: its question, its columns, and how each figure is known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cached_property

import pandas as pd

from xtrace.analysis.histogram import summarise
from xtrace.analysis.metrics import FIRST_COUNT, Metric
from xtrace.analysis.partial import Partial


class Quality(StrEnum):
    """How a figure is known."""

    KEY = "key"  # no figure: it names what the row is about
    EXACT = "exact"  # both ends are records
    BOUNDED = "bounded"  # one end is only known to lie in an interval; this is the bound
    INFERRED = "inferred"  # a rule decides; the column says which
    MODELLED = "modelled"


#: How a heading on a terminal says it.
MARKS = {Quality.KEY: "", Quality.EXACT: "=", Quality.BOUNDED: "<", Quality.INFERRED: "~", Quality.MODELLED: "*"}


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        name: in frames, JSON and CSV.  Its ending is its unit: _cycles, _count, _ratio, _per_s.
        quality: how it is known.
        meaning: in one sentence, the rule included where it is inferred.
        heading: on a terminal; None leaves it out there.
    """

    name: str
    quality: Quality
    meaning: str
    heading: str | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """A table of the report.

    Attributes:
        name: in JSON, and the file name of exports.
        section: of the report, as --section takes it.
        title: on a terminal.
        bias: what the reader must know before believing it; empty where there is nothing.
        make: the pipeline; its frame has exactly ``columns``, also where it is empty.
    """

    name: str
    section: str
    title: str
    make: Callable[[Measures], pd.DataFrame]
    columns: tuple[Column, ...]
    bias: str = ""

    def of(self, measures: Measures) -> pd.DataFrame:
        """Return the table as a frame with its columns in order."""
        return self.make(measures)[[column.name for column in self.columns]]


@dataclass
class Measures:
    """A partial and what several tables need of it, worked out once.

    Attributes:
        hz: cycles a second of the TSC; None where nothing tells it.
        names: event names and exit reasons' vendor need the version range; see catalogue.
    """

    partial: Partial
    hz: float | None = None
    vendor: str | None = None
    extra: dict[str, object] = field(default_factory=dict)

    @cached_property
    def tallies(self) -> pd.DataFrame:
        """All tallies, indexed by metric."""
        return self.partial.tallies.set_index("metric", drop=False).sort_index()

    @cached_property
    def _each(self) -> pd.DataFrame:
        return self._summary(["metric", "a", "b"])

    @cached_property
    def _merged(self) -> pd.DataFrame:
        return self._summary(["metric", "a"])

    def _summary(self, by: list[str]) -> pd.DataFrame:
        timed = self.partial.tallies[self.partial.tallies["metric"] < int(FIRST_COUNT)]
        return summarise(timed, self.partial.buckets, by).set_index("metric").sort_index()

    def times(self, metric: Metric) -> pd.DataFrame:
        """Return the metric's statistics by ``a``: count, sum_cycles, mean_cycles, quantiles, extremes."""
        return _rows(self._merged, metric)

    def times_by_b(self, metric: Metric) -> pd.DataFrame:
        """Return the metric's statistics by ``a`` and ``b``."""
        return _rows(self._each, metric)

    def counts(self, metric: Metric) -> pd.DataFrame:
        """Return a, b, count, sum_cycles of a metric."""
        return _rows(self.tallies, metric)[["a", "b", "count", "sum_cycles"]]

    def count_by_a(self, metric: Metric) -> pd.Series[int]:
        """Return the metric's count by ``a``."""
        rows = self.counts(metric)
        return rows.groupby("a")["count"].sum()

    @property
    def span_cycles(self) -> int:
        """Cycles from the first to the last record, added up over the traces."""
        return int(self.partial.facts["span_cycles"].sum())

    @property
    def span_s(self) -> float | None:
        """The span in seconds, where the TSC rate is known."""
        return self.span_cycles / self.hz if self.hz else None

    def per_second(self, count: pd.Series[int]) -> pd.Series[float]:
        """Return counts as rates; missing where the TSC rate is not known."""
        seconds = self.span_s
        return count / seconds if seconds else count * float("nan")


def _rows(frame: pd.DataFrame, metric: Metric) -> pd.DataFrame:
    try:
        return frame.loc[[int(metric)]]
    except KeyError:
        return frame.iloc[:0]


def with_vcpu(frame: pd.DataFrame, key: str = "a") -> pd.DataFrame:
    """Add the columns domain and vcpu, from ``domain << 16 | vcpu`` in column ``key``."""
    vcpu = frame[key].astype("int64") & 0xFFFF_FFFF
    return frame.assign(domain=vcpu // 65536, vcpu=vcpu % 65536)


def renamed(frame: pd.DataFrame, prefix: str, at: Sequence[str]) -> pd.DataFrame:
    """Return a statistics frame by ``a`` with columns ``{prefix}_{statistic}``, for a join."""
    return frame.set_index("a")[list(at)].add_prefix(prefix + "_")


TAIL = ("count", "p50_cycles", "p95_cycles", "p99_cycles", "max_cycles")
DOMAIN = Column("domain", Quality.KEY, "domain id; 32767 is the idle domain", "dom")
VCPU = Column("vcpu", Quality.KEY, "vCPU of the domain", "vcpu")
