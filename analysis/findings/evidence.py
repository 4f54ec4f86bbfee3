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
from xtrace.analysis.measures.slots import Slots
from xtrace.analysis.measures.table import Column, Quality, Table
from xtrace.analysis.state_machine.keys import are_guests, domain_of, vcpu_of
from xtrace.analysis.state_machine.metrics import Metric
from xtrace.probes.words import time_text


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
        weights: of each vCPU in the scheduler, by domain; empty where they were not recorded.
        recorder_cpu_s: CPU time that recording took; None where it is not known.
        slots: sums by slots of time, and single intervals.
        costs: the tables of fence costs by name; empty where they were not asked for.
    """

    measures: Measures
    emulated: bool = False
    costs: Mapping[str, Columns] = field(default_factory=dict)
    weights: Mapping[int, float] = field(default_factory=dict)
    recorder_cpu_s: float | None = None
    slots: Slots = field(init=False, repr=False)
    _known: dict[tuple[object, ...], Quality] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "slots", Slots(self.measures.partial))

    @property
    def span_cycles(self) -> int:
        """Cycles of all traces, at least 1."""
        return max(self.measures.span_cycles, 1)

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
        *,
        is_most: bool = False,
    ) -> Figure:
        """Return a figure with the quality that this trace allows, by the rule of tables.

        Args:
            quality: how it is known where the trace has all that it needs.
            needs, reach, is_most: as of a column of a table.
        """
        key = name, quality, needs, reach, is_most
        if key not in self._known:  # some rules have a figure for each of thousands of vCPUs
            column = Column(name, quality, "", is_most=is_most)
            table: Table[Measures] = Table(
                "", "", "", lambda _: Columns({}, 0), (column,), needs=needs, reach=reach
            )
            self._known[key] = table.quality_of(self.coverage)[name]
        return Figure(name, value, self._known[key])

    def time(self, cycles: float) -> str:
        """Return a time in words."""
        return time_text(cycles, self.measures.hz)

    def since_first(self, tsc: int) -> int:
        """Return the cycles from the first record to a TSC."""
        return tsc - int(self.slots.partial.spans["first_tsc"].min())

    def at(self, tsc: int) -> str:
        """Return when a TSC is, from the first record on, in words."""
        cycles = self.since_first(tsc)
        return f"{cycles / self.measures.hz:.3f} s" if self.measures.hz else f"{cycles:,} cycles"

    def per_s(self, count: float, cycles: float) -> float:
        """Return a rate; 0 where the TSC rate is not known, so that no threshold is met."""
        return count / cycles * self.measures.hz if self.measures.hz and cycles else 0.0

    def longest(
        self, metric: Metric, a: int, *, b: int | None = None, most_cycles: float = np.inf
    ) -> tuple[Span | None, str]:
        """Return where the longest interval of a metric is, and what it is in words; none if not kept.

        Args:
            b: only intervals with this ``b``.
            most_cycles: only intervals of up to this length.
        """
        kept = self.slots.worst(metric, a) if self.slots.has_one_axis else []
        worst = [one for one in kept if b in (None, one.b) and one.cycles <= most_cycles]
        if not worst:
            return None, ""
        return Span(worst[0].begin_tsc, worst[0].end_tsc), f"worst: {self.time(worst[0].cycles)}"

    def cycles(self, seconds: float) -> float:
        """Return a time in cycles; infinite where the TSC rate is not known, so that no threshold is met."""
        return seconds * self.measures.hz if self.measures.hz else np.inf


def guests(rows: Columns, key: str = "a") -> Columns:
    """Return the rows of guests' vCPUs that are known, dom0's among them, by the vCPU key in ``key``."""
    return rows.where(are_guests(rows[key]))


def vcpu_name(key: int) -> str:
    """Return a vCPU's label: d3v0."""
    return f"d{domain_of(key)}v{vcpu_of(key)}"
