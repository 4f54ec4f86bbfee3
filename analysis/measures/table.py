"""What a table of the report is: its question, its columns, and how each figure is known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Generic, TypeVar

import pandas as pd

from xtrace.analysis.measures.measures import Measures

Given = TypeVar("Given")


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
class Table(Generic[Given]):
    """A table of the report.

    Attributes:
        name: in JSON, and the file name of exports.
        section: of the report, as --section takes it.
        title: on a terminal.
        bias: what the reader must know before believing it; empty where there is nothing.
        measured: how well its inferences were found to hold, and against what; not on a terminal.
        make: the pipeline; its frame has exactly ``columns``, also where it is empty.
        takes: the type of what the pipeline is given.
    """

    name: str
    section: str
    title: str
    make: Callable[[Given], pd.DataFrame]
    columns: tuple[Column, ...]
    bias: str = ""
    measured: str = ""
    takes: type[Given] = Measures  # type: ignore[assignment]

    def of(self, given: Given) -> pd.DataFrame:
        """Return the table as a frame with its columns in order."""
        return self.make(given)[[column.name for column in self.columns]]


def times_columns(
    prefix: str, quality: Quality, meaning: str, headings: Mapping[str, str] | None = None
) -> tuple[Column, ...]:
    """Return the columns p50 to max of a time, those with a heading shown on a terminal."""
    return tuple(
        Column(f"{prefix}_{name}_cycles", quality, f"{meaning}, {name}", (headings or {}).get(name))
        for name in ("p50", "p95", "p99", "max")
    )


DOMAIN = Column("domain", Quality.KEY, "domain id; 32767 is the idle domain", "dom")
VCPU = Column("vcpu", Quality.KEY, "vCPU of the domain", "vcpu")
