"""Describe a table of the report: its columns, and the quality of each figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

from xtrace.analysis.columns import Columns
from xtrace.analysis.measures.measures import Measures

Given = TypeVar("Given")


class Quality(StrEnum):
    """How a figure is known."""

    KEY = "key"  # not a figure: it names what the row is about
    EXACT = "exact"  # both ends are records
    BOUNDED = "bounded"  # one end is only known to be in an interval; this is the bound
    INFERRED = "inferred"  # by a rule, which the column's meaning states
    MODELLED = "modelled"  # computed by a model, not measured


TAIL = ("count", "p50_cycles", "p95_cycles", "p99_cycles", "max_cycles")
"""Statistics that tables of times show."""

#: Mark of each quality in a heading on a terminal.
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
        name: in frames, JSON and CSV.  Its suffix is the unit: _cycles, _count, _ratio, _per_s.
        quality: how the figures are known.
        meaning: in one sentence, with the rule for inferred figures.
        heading: on a terminal; None leaves the column out there.
    """

    name: str
    quality: Quality
    meaning: str
    heading: str | None = None


@dataclass(frozen=True, slots=True)
class Table(Generic[Given]):
    """A table of the report.

    Attributes:
        name: in JSON, and the file name of exports.
        section: of the report, as --section takes it.
        title: on a terminal.
        make: the pipeline; it returns all of ``columns``, even without rows.
        columns: in the order in which they are shown.
        bias: what the reader must know before trusting the figures; may be empty.
        measured: how well the inferences held, and against what; not shown on a terminal.
        takes: the type of the pipeline's argument.
    """

    name: str
    section: str
    title: str
    make: Callable[[Given], Columns]
    columns: tuple[Column, ...]
    bias: str = ""
    measured: str = ""
    takes: type[Given] = Measures  # type: ignore[assignment]

    def of(self, given: Given) -> Columns:
        """Return the table with exactly its columns, in order."""
        return self.make(given).only(column.name for column in self.columns)


def times_columns(
    prefix: str, quality: Quality, meaning: str, headings: Mapping[str, str] | None = None
) -> tuple[Column, ...]:
    """Return the columns p50 to max of a time; a terminal shows those with a heading."""
    return tuple(
        Column(f"{prefix}_{name}_cycles", quality, f"{meaning}, {name}", (headings or {}).get(name))
        for name in ("p50", "p95", "p99", "max")
    )


DOMAIN = Column("domain", Quality.KEY, "domain id; 32767 is the idle domain", "dom")
VCPU = Column("vcpu", Quality.KEY, "number of the vCPU in its domain", "vcpu")
