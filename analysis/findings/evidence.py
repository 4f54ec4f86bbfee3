"""What rules decide by: the measures of the traces, and how a figure is known in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from xtrace.analysis.columns import Columns
from xtrace.analysis.coverage.coverage import Coverage
from xtrace.analysis.coverage.needs import Reach, Records
from xtrace.analysis.measures.measures import Measures
from xtrace.analysis.measures.table import Column, Quality, Table
from xtrace.analysis.state_machine.keys import domain_of, vcpu_of
from xtrace.probes.words import time_text
from xtrace.probes.xen_abi import DEFAULT_DOMAIN, IDLE_DOMAIN


class Span(NamedTuple):
    """A stretch of a trace, in the TSC of its first segment."""

    begin_tsc: int
    end_tsc: int


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure of a finding.

    Attributes:
        name: its ending is the unit, as in tables.
        quality: how it is known in this trace.
    """

    name: str
    value: float
    quality: Quality


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the rules of findings read.

    Attributes:
        measures: of the traces.
        emulated: software emulated the host.
        source: the trace as the user named it.
        costs: the tables of fence costs by name; empty where they were not asked for.
    """

    measures: Measures
    emulated: bool = False
    source: str = ""
    costs: Mapping[str, Columns] = field(default_factory=dict)

    @property
    def coverage(self) -> Coverage:
        """What the traces cover."""
        return self.measures.coverage

    def figure(
        self,
        name: str,
        value: float,
        quality: Quality,
        needs: tuple[Records, ...] = (),
        reach: Reach = Reach.RECORDS,
    ) -> Figure:
        """Return a figure with the quality that this trace allows, by the rule of tables.

        Args:
            quality: how it is known where the trace has all that it needs.
            needs, reach: as of a column of a table.
        """
        column = Column(name, quality, "")
        table: Table[Measures] = Table(
            "", "", "", lambda _: Columns({name: [value]}), (column,), needs=needs, reach=reach
        )
        return Figure(name, value, table.of(self.measures, self.coverage).quality[name])

    def time(self, cycles: float) -> str:
        """Return a time in words."""
        return time_text(cycles, self.measures.hz)

    def cycles(self, seconds: float) -> float:
        """Return a time in cycles; infinite where the TSC rate is not known, so that no threshold is met."""
        return seconds * self.measures.hz if self.measures.hz else np.inf


def guests(rows: Columns, key: str = "a") -> Columns:
    """Return the rows of guests' vCPUs that are known, dom0's among them, by the vCPU key in ``key``."""
    return rows.where(~np.isin(domain_of(rows[key]), (IDLE_DOMAIN, DEFAULT_DOMAIN)))


def vcpu_name(key: int) -> str:
    """Return a vCPU's label: d3v0."""
    return f"d{domain_of(key)}v{vcpu_of(key)}"
