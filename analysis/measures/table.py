"""Describe a table of the report: its columns, and the quality of each figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

import numpy as np

from xtrace.analysis.columns import Columns
from xtrace.analysis.coverage.coverage import Coverage, Held
from xtrace.analysis.coverage.needs import RUNSTATES, Reach, Records
from xtrace.analysis.measures.measures import Measures

#: Sums over the recorded part of time: where some of it is unknown, they are lower bounds.
_OF_PARTS = (
    "running_cycles", "running_ratio", "idle_cycles", "idle_ratio", "unknown_cycles", "unknown_ratio",
    "total_cycles", "share_ratio", "running_share_ratio", "waiting_share_ratio", "per_s", "least_cycles",
    "median_cycles", "greatest_cycles",
)  # fmt: skip
#: Endings of figures that are relative to the span of the trace.
_OF_SPAN = ("share_ratio", "per_s")
#: Endings of statistics of a sample, and of what is not known or seems to be where a record is missing; other
#: figures add up, so that those of a part are a lower bound.
_SAMPLED = (
    "mean_cycles", "p50_cycles", "p95_cycles", "p99_cycles", "max_cycles", "min_cycles",
    "cut_count", "open_cycles", "open_max_cycles",
    "other_pcpu_ratio", "window_wait_ratio", "cut_ratio", "unknown_count",
    "without_effect_count",
)  # fmt: skip

Given = TypeVar("Given")


class Quality(StrEnum):
    """How a figure is known."""

    KEY = "key"  # not a figure: it names what the row is about
    EXACT = "exact"  # both ends are records
    BOUNDED = "bounded"  # one end is only known to be in an interval; this is the bound
    INFERRED = "inferred"  # by a rule, which the column's meaning states
    MODELLED = "modelled"  # computed by a model, not measured
    ABSENT = "not recorded"  # the trace does not have the records that it needs


#: Mark of each quality in a heading on a terminal.
MARKS = {
    Quality.KEY: "",
    Quality.EXACT: "=",
    Quality.BOUNDED: "<",
    Quality.INFERRED: "~",
    Quality.MODELLED: "*",
    Quality.ABSENT: "",
}


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table.

    Attributes:
        name: in frames, JSON and CSV.  Its suffix is the unit: _cycles, _count, _ratio, _per_s.
        quality: how the figures are known where the trace has all that they need.
        meaning: in one sentence, with the rule for inferred figures.
        heading: on a terminal; None leaves the column out there.
        needs: kinds of records without which there is no figure; None stands for those of the table.
        reach: which pCPUs' records it is made from; None stands for that of the table.
        blurred_without: kinds of records without which it is inferred at best; None stands for the table's.
        is_most: an upper bound of how many there were, to which lost records add: inferred after a loss.
    """

    name: str
    quality: Quality
    meaning: str
    heading: str | None = None
    needs: tuple[Records, ...] | None = None
    reach: Reach | None = None
    blurred_without: tuple[Records, ...] | None = None
    is_most: bool = False


@dataclass(frozen=True, slots=True)
class Table(Generic[Given]):
    """A table of the report.

    Attributes:
        name: in JSON, and the file name of exports.
        section: of the report, as --section takes it.
        title: on a terminal.
        make: the pipeline; it returns all of ``columns``, even without rows.  Of further columns, X_moves
            says where X_cycles is a lower bound; is_part, where the figures are those of a part of the time
            (X_is_part, where X is); and is_doubtful, where they may be either too great or too small.
        columns: in the order in which they are shown.
        bias: what the reader must know before trusting the figures; may be empty.
        measured: how well the inferences held, and against what; not shown on a terminal.
        takes: the type of the pipeline's argument.
        needs: kinds of records that the columns need, unless they say otherwise.
        reach: which pCPUs' records the columns are made from, unless they say otherwise.
        blurred_without: kinds of records without which the columns are inferred at best, unless they say
            otherwise.
    """

    name: str
    section: str
    title: str
    make: Callable[[Given], Columns]
    columns: tuple[Column, ...]
    bias: str = ""
    measured: str = ""
    takes: type[Given] = Measures  # type: ignore[assignment]
    needs: tuple[Records, ...] = ()
    reach: Reach = Reach.RECORDS
    blurred_without: tuple[Records, ...] = ()

    def of(self, given: Given, coverage: Coverage) -> Made:
        """Return the table with exactly its columns, in order, as far as the trace allows them."""
        rows = self.make(given)
        quality = {column.name: self._quality(column, rows, coverage) for column in self.columns}
        absent = {name for name, found in quality.items() if found is Quality.ABSENT}
        figures = {column.name for column in self.columns if column.quality is not Quality.KEY}
        if figures and figures == absent:
            rows = rows.where(slice(0))
        rows = rows.having(**dict.fromkeys(absent, np.nan))
        return Made(rows.only(column.name for column in self.columns), quality)

    def quality_of(self, coverage: Coverage) -> dict[str, Quality]:
        """Return how columns of single events are known: whatever rows there are, the marks are the same."""
        return {column.name: self._quality(column, Columns({}, 0), coverage) for column in self.columns}

    def needs_of(self, column: Column) -> tuple[Records, ...]:
        """Return the kinds of records that a column needs."""
        return self.needs if column.needs is None else column.needs

    def reach_of(self, column: Column) -> Reach:
        """Return which pCPUs' records a column is made from."""
        return self.reach if column.reach is None else column.reach

    def qualities_of(self, column: Column) -> tuple[Quality, ...]:
        """Return how a column's figures can be known, the best way first."""
        found = [column.quality]
        if column.quality is Quality.EXACT and self.reach_of(column) is not Reach.RECORDS:
            found += [Quality.BOUNDED, Quality.INFERRED]
        elif column.quality in (Quality.EXACT, Quality.BOUNDED) and (
            self.reach_of(column) is not Reach.RECORDS or VCPU in self.columns or column.is_most
        ):
            found.append(Quality.INFERRED)
        if column.quality is not Quality.KEY and self.needs_of(column):
            found.append(Quality.ABSENT)
        return tuple(found)

    def _crosses_pcpus(self, column: Column) -> bool:
        return self.reach_of(column) in (Reach.VCPU, Reach.HOST)

    def _is_of_span(self, column: Column) -> bool:
        return self.reach_of(column) is Reach.PCPU and column.name.endswith(_OF_SPAN)

    def _quality(self, column: Column, rows: Columns, coverage: Coverage) -> Quality:
        if column.quality is Quality.KEY:
            return column.quality
        held = coverage.holds(self.needs_of(column))
        if held is Held.NOT:
            return Quality.ABSENT
        if column.quality not in (Quality.EXACT, Quality.BOUNDED):
            return column.quality
        if column.is_most and coverage.has_loss:
            return Quality.INFERRED
        if self.reach_of(column) is Reach.RECORDS:
            # Which vCPU ran is known from earlier records.
            is_doubtful = coverage.may_have_holes and VCPU in self.columns
            return Quality.INFERRED if is_doubtful or coverage.left_out_count else column.quality
        contradicts = RUNSTATES in self.needs_of(column) and coverage.contradiction_count > 0
        contradicts = contradicts and self._crosses_pcpus(column)
        is_part = held is Held.IN_PART or contradicts
        is_part = is_part or _any(rows, "is_part") or _any(rows, f"{column.name}_is_part")
        if self._is_blurred(column, rows, coverage, is_part=is_part):
            return Quality.INFERRED
        return Quality.BOUNDED if is_part or self._is_least(column, rows, coverage) else column.quality

    def _is_blurred(self, column: Column, rows: Columns, coverage: Coverage, *, is_part: bool) -> bool:
        """Return whether the right figure may be either greater or smaller."""
        if coverage.is_skewed and (self._crosses_pcpus(column) or self._is_of_span(column)):
            return True  # the order of records of two pCPUs, and the span, are only known within bounds
        if coverage.may_have_gaps or _any(rows, "is_doubtful"):
            return True
        is_exact = column.quality is Quality.EXACT
        if is_exact and _moves(column, rows) and column.name != "max_cycles" and not coverage.knows_all_time:
            return True  # there may be more of them, of whatever length
        if self._crosses_pcpus(column) and not coverage.has_all_pcpus:
            # A bound is one of what is in the trace.
            return not (is_exact and self.reach_of(column) is Reach.VCPU and column.name in _OF_PARTS)
        without = self.blurred_without if column.blurred_without is None else column.blurred_without
        is_unlike = coverage.holds(without) is not Held.FULLY
        return is_unlike or (is_exact and is_part and column.name.endswith(_SAMPLED))

    def _is_least(self, column: Column, rows: Columns, coverage: Coverage) -> bool:
        """Return whether the right figure may be greater, and is not smaller."""
        if self._crosses_pcpus(column) and not coverage.has_all_pcpus:
            return True
        if _moves(column, rows):
            return True
        is_share = column.name.endswith(_OF_SPAN) or column.name in _OF_PARTS
        return is_share and not coverage.knows_all_time


def _moves(column: Column, rows: Columns) -> bool:
    """Return whether intervals that were cut off could make a statistic greater."""
    return column.name.endswith("_cycles") and _any(rows, column.name.replace("_cycles", "_moves"))


def _any(rows: Columns, name: str) -> bool:
    return name in rows and bool(rows[name].any())


@dataclass(frozen=True, slots=True)
class Made:
    """A table made from a trace.

    Attributes:
        columns: those of the table.
        quality: how each column's figures are known in this trace, by the column's name.
    """

    columns: Columns
    quality: Mapping[str, Quality]


def times_columns(
    prefix: str,
    quality: Quality,
    meaning: str,
    headings: Mapping[str, str] | None = None,
    needs: tuple[Records, ...] | None = None,
    reach: Reach | None = None,
) -> tuple[Column, ...]:
    """Return the columns p50 to max of a time; a terminal shows those with a heading."""
    return tuple(
        Column(
            f"{prefix}_{name}_cycles", quality, f"{meaning}, {name}", (headings or {}).get(name), needs, reach
        )
        for name in ("p50", "p95", "p99", "max")
    )


DOMAIN = Column("domain", Quality.KEY, "domain id; 32767 is the idle domain", "dom")
VCPU = Column("vcpu", Quality.KEY, "number of the vCPU in its domain", "vcpu")
