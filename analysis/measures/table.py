"""What a table of the report is: its question, its columns, and how each figure is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pandas as pd

from xtrace.analysis.machine.metrics import FIRST_COUNT, Metric
from xtrace.analysis.partial.histogram import summarise
from xtrace.analysis.partial.partial import Partial
from xtrace.probes.catalog import VersionRange

if TYPE_CHECKING:
    from xtrace.analysis.cost.model import Estimate
    from xtrace.analysis.tables.rip_samples import KernelSamples


class Quality(StrEnum):
    """How a figure is known."""

    KEY = "key"  # no figure: it names what the row is about
    EXACT = "exact"  # both ends are records
    BOUNDED = "bounded"  # one end is only known to lie in an interval; this is the bound
    INFERRED = "inferred"  # a rule decides; the column says which
    MODELLED = "modelled"


TAIL = ("count", "p50_cycles", "p95_cycles", "p99_cycles", "max_cycles")
"""Statistics that tables of times show."""

#: How a heading on a terminal says it.
MARKS = {
    Quality.KEY: "",
    Quality.EXACT: "=",
    Quality.BOUNDED: "<",
    Quality.INFERRED: "~",
    Quality.MODELLED: "*",
}


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
        measured: how well its inferences were found to hold, and against what; not on a terminal.
        make: the pipeline; its frame has exactly ``columns``, also where it is empty.
    """

    name: str
    section: str
    title: str
    make: Callable[[Measures], pd.DataFrame]
    columns: tuple[Column, ...]
    bias: str = ""
    measured: str = ""

    def of(self, measures: Measures) -> pd.DataFrame:
        """Return the table as a frame with its columns in order."""
        return self.make(measures)[[column.name for column in self.columns]]


@dataclass
class Measures:
    """A partial and what several tables need of it, worked out once.

    Attributes:
        versions: Xen versions to decode by.
        hz: cycles a second of the TSC; None where nothing tells it.
        kernels: the RIP samples looked up in the images that were given; None where none was.
        cost: what the fences of these images cost; None where it was not asked for.
    """

    partial: Partial
    versions: VersionRange
    hz: float | None = None
    kernels: KernelSamples | None = None
    cost: Estimate | None = None

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
        timed = self.partial.tallies[self.partial.tallies["metric"].to_numpy() < int(FIRST_COUNT)]
        return _ByMetric(summarise(timed, self.partial.buckets, by))

    def times(self, metric: Metric) -> pd.DataFrame:
        """Return the metric's statistics by ``a``: count, sum_cycles, mean_cycles, quantiles, extremes."""
        return self._merged.rows(metric)

    def times_by_b(self, metric: Metric) -> pd.DataFrame:
        """Return the metric's statistics by ``a`` and ``b``."""
        return self._each.rows(metric)

    def counts(self, metric: Metric) -> pd.DataFrame:
        """Return a, b, count, sum_cycles of a metric."""
        return self._tallies.rows(metric)

    def count_by_a(self, metric: Metric) -> pd.DataFrame:
        """Return a, count of a metric."""
        return self.counts(metric).groupby("a", as_index=False)[["count"]].sum()

    @property
    def span_cycles(self) -> int:
        """Cycles from the first to the last record, added up over the traces."""
        return int(self.partial.facts["span_cycles"].sum())

    @property
    def span_s(self) -> float | None:
        """The span in seconds, where the TSC rate is known."""
        return self.span_cycles / self.hz if self.hz else None

    def per_second(self, count: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return counts as rates; NaN where the TSC rate is not known."""
        return np.asarray(count, float) / (self.span_s or np.nan)

    def of_span(self, cycles: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Return times as shares of the span."""
        return np.asarray(cycles, float) / (self.span_cycles or np.nan)


class _ByMetric:
    """A frame ordered by its column ``metric``, to take a metric's rows from at once."""

    def __init__(self, frame: pd.DataFrame) -> None:
        order = np.argsort(frame["metric"].to_numpy(), kind="stable")
        self._frame = frame.iloc[order].reset_index(drop=True)
        self._metric = self._frame["metric"].to_numpy()

    def rows(self, metric: Metric) -> pd.DataFrame:
        low, high = np.searchsorted(self._metric, [int(metric), int(metric) + 1])
        return self._frame.iloc[low:high]


def with_vcpu(frame: pd.DataFrame, key: str = "a") -> pd.DataFrame:
    """Add the columns domain and vcpu, from ``domain << 16 | vcpu`` in column ``key``."""
    vcpu = frame[key].astype("int64") & 0xFFFF_FFFF
    return frame.assign(domain=vcpu // 65536, vcpu=vcpu % 65536)


def keys_of(*frames: pd.DataFrame, key: str = "a") -> npt.NDArray[np.int64]:
    """Return the distinct values of column ``key`` of all frames, ascending."""
    return np.unique(np.concatenate([frame[key].to_numpy(np.int64) for frame in frames]))


def looked_up(
    keys: npt.NDArray[np.int64], frame: pd.DataFrame, columns: Mapping[str, str], *, key: str = "a"
) -> dict[str, npt.NDArray[np.float64]]:
    """Return columns of ``frame`` at ``keys``, NaN where it has no such row.

    Args:
        frame: one row a key at most.
        columns: new name to name in ``frame``.
    """
    known = frame[key].to_numpy(np.int64)
    order = np.argsort(known)
    place = np.searchsorted(known[order], keys)
    place[place == len(known)] = 0
    found = known[order][place] == keys if len(known) else np.zeros(len(keys), bool)
    row = order[place[found]] if len(known) else place[:0]
    result = {}
    for name, source in columns.items():
        values = np.full(len(keys), np.nan)
        values[found] = frame[source].to_numpy(float)[row]
        result[name] = values
    return result


def counted(
    keys: npt.NDArray[np.int64], frame: pd.DataFrame, *, key: str = "a", column: str = "count"
) -> npt.NDArray[np.int64]:
    """Return a count at ``keys``, 0 where ``frame`` has no such row."""
    return np.nan_to_num(looked_up(keys, frame, {"count": column}, key=key)["count"]).astype(np.int64)


def tail_columns(prefix: str, names: Sequence[str] = TAIL) -> dict[str, str]:
    """Return new names ``{prefix}_{statistic}`` for the statistics of a metric."""
    return {f"{prefix}_{name}": name for name in names}


def times_columns(
    prefix: str, quality: Quality, meaning: str, headings: Mapping[str, str] | None = None
) -> tuple[Column, ...]:
    """Return the columns p50 to max of a time, those with a heading shown on a terminal."""
    return tuple(
        Column(f"{prefix}_{name}_cycles", quality, f"{meaning}, {name}", (headings or {}).get(name))
        for name in ("p50", "p95", "p99", "max")
    )


def share(part: npt.ArrayLike, whole: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return part / whole, NaN where the whole is nothing."""
    whole = np.asarray(whole, float)
    ratio = np.full(whole.shape, np.nan)
    np.divide(np.asarray(part, float), whole, out=ratio, where=whole > 0)
    return ratio


DOMAIN = Column("domain", Quality.KEY, "domain id; 32767 is the idle domain", "dom")
VCPU = Column("vcpu", Quality.KEY, "vCPU of the domain", "vcpu")
