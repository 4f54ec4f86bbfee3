"""Run both implementations of the machines over a trace, and return their results in the same form."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from oracle.machine import Count, Interval, Told
from xtrace.analysis.state_machine.machine import ALWAYS, Machine, Tallies
from xtrace.analysis.state_machine.metrics import (
    C_HYPERCALL,
    C_PV_EVENT,
    C_SINGLE,
    C_SUBCALL,
    FIRST_COUNT,
    METRIC_SHIFT,
    Detail,
    G,
    Metric,
    P,
    V,
)
from xtrace.probes.reader.batches import I64
from xtrace.probes.reader.reader import TraceReader


@dataclass(frozen=True, slots=True)
class Run:
    """The compiled machines' result for a trace.

    Attributes:
        rows: int64 [n, 4], the intervals in the order of output, without those of finish().
        ends: the intervals of finish().
        machine: its state at the end.
        reader: the reader at the end of the trace.
    """

    rows: I64
    ends: I64
    machine: Machine
    reader: TraceReader

    @property
    def intervals(self) -> list[Interval]:
        return as_intervals(self.rows)

    @property
    def counts(self) -> Counter[Count]:
        """The dense counts by metric, vCPU and second key."""
        vcpus = int(self.machine.glob[G.VCPUS])
        counts: Counter[Count] = Counter()
        for row, column in np.argwhere(self.machine.counts[:vcpus]).tolist():
            metric, b = meaning_of(column)
            count = int(self.machine.counts[row, column])
            counts[Count(metric, int(self.machine.vcpus[row, V.KEY]), b)] = count
        return counts

    def pcpu(self, number: int, column: P) -> int:
        return int(self.machine.pcpus[number, column])


def meaning_of(column: int) -> tuple[Metric, int]:
    """Return the meaning of a column of the dense counts."""
    if column >= C_SINGLE:
        return Metric(column - C_SINGLE + FIRST_COUNT), 0
    if column >= C_PV_EVENT:
        return Metric.PV_EVENT, column - C_PV_EVENT
    if column >= C_SUBCALL:
        return Metric.SUBCALL, column - C_SUBCALL
    return Metric.HYPERCALL, column - C_HYPERCALL


def run(
    data: bytes, *, chunk_bytes: int = 1 << 20, window: tuple[int, int] = ALWAYS, detailed: bool = False
) -> Run:
    """Run the compiled machines over the bytes of a trace."""
    machine = Machine(window, detailed=detailed)
    reader = TraceReader(io.BytesIO(data), chunk_bytes=chunk_bytes, holes=True)
    pieces = [np.empty((0, 4), np.int64)]
    for batch in reader:
        pieces += [piece.copy() for piece in machine.feed(batch)]
    return Run(np.concatenate(pieces), machine.finish(), machine, reader)


def as_intervals(rows: I64) -> list[Interval]:
    """Return rows as the oracle's intervals."""
    mask = (1 << METRIC_SHIFT) - 1
    return [
        Interval(Metric(key >> METRIC_SHIFT), key & mask, b, value, tsc)
        for key, b, value, tsc in rows.tolist()
        if key >> METRIC_SHIFT < min(Detail)
    ]


def as_details(rows: I64) -> list[Told]:
    """Return those rows that are single events."""
    mask = (1 << METRIC_SHIFT) - 1
    return [
        Told(Detail(key >> METRIC_SHIFT), key & mask, b, value, tsc)
        for key, b, value, tsc in rows.tolist()
        if key >> METRIC_SHIFT >= min(Detail)
    ]


def tally_of(pieces: Iterable[I64], window: tuple[int, int] = ALWAYS) -> Tallies:
    tallies = Tallies(window)
    for piece in pieces:
        tallies.add(piece)
    return tallies
