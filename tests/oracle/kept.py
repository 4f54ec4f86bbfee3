"""Slow, simple reference implementations of what a pass keeps with its time."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from typing import NamedTuple

from oracle.machine import Interval
from xtrace.analysis.state_machine.kept import (
    EXEMPLARS,
    SAMPLE,
    SLOTS,
    SLOTTED_MASK,
    SPREAD,
    WORST,
    Slotted,
    kept_of,
)
from xtrace.analysis.state_machine.metrics import METRIC_SHIFT, Metric
from xtrace.probes.xen_abi import IDLE_DOMAIN

_FIRST_SHIFT = 16
_OF_VCPUS = (
    Metric.RUNNING, Metric.RUNNABLE_WAKE, Metric.RUNNABLE_PREEMPT, Metric.RUNNABLE_OTHER, Metric.OFFLINE,
    Metric.BLOCKED, Metric.OPEN,
)  # fmt: skip


class Cell(NamedTuple):
    """A key of a sum: what, and in which slot."""

    slot: int
    kind: int
    a: int
    b: int


class Sums(NamedTuple):
    """Sums by slots of 2^shift cycles: (count, total) by cell."""

    shift: int
    cells: dict[Cell, tuple[int, int]]


def kept(interval: Interval) -> int:
    metric = interval.metric
    if metric in _OF_VCPUS and interval.a >> 16 == IDLE_DOMAIN:
        return 0
    if metric != Metric.OPEN:
        return kept_of(metric)
    of = interval.b >> 32
    if of > Metric.OFFLINE and of != Metric.RUNNABLE_BUDGET:
        return 0
    return EXEMPLARS | kept_of(of) & (SLOTTED_MASK | SPREAD)


def slotted(intervals: Iterable[Interval]) -> Sums:
    """Return the sums by slots; cycle by cycle would be slower still, so by slot."""
    placed = [(each, kept(each)) for each in intervals]
    placed = [(each, how) for each, how in placed if how & SLOTTED_MASK]
    low = min((first_cycle(each, how) for each, how in placed), default=0)
    high = max((last_cycle(each, how) for each, how in placed), default=0)
    shift = _FIRST_SHIFT
    while high // 2**shift - low // 2**shift >= SLOTS:
        shift += 1
    counts: Counter[Cell] = Counter()
    totals: Counter[Cell] = Counter()
    for each, how in placed:
        kind, a, b = key_of(each, how & SLOTTED_MASK)
        last = last_cycle(each, how) // 2**shift
        counts[Cell(last, kind, a, b)] += 1
        if not how & SPREAD:
            totals[Cell(last, kind, a, b)] += each.value
            continue
        begin = first_cycle(each, how)
        for slot in range(begin // 2**shift, last + 1):
            inside = min(each.tsc, (slot + 1) * 2**shift) - max(begin, slot * 2**shift)
            totals[Cell(slot, kind, a, b)] += inside
    cells = {cell: (counts[cell], totals[cell]) for cell in counts.keys() | totals.keys()}
    return Sums(shift, {cell: found for cell, found in cells.items() if found != (0, 0)})


def first_cycle(interval: Interval, how: int) -> int:
    return interval.tsc - interval.value if how & SPREAD else interval.tsc


def last_cycle(interval: Interval, how: int) -> int:
    return interval.tsc - 1 if how & SPREAD else interval.tsc


def key_of(interval: Interval, kind: int) -> tuple[int, int, int]:
    if kind == Slotted.LATENCY:
        return kind, max(interval.value.bit_length() - 1, 0), 0
    if kind == Slotted.SENDS_WAKING:
        return kind, interval.b, 0
    return kind, interval.a, interval.b if kind == Slotted.IRQS else 0


def coarser(sums: Sums, shift: int) -> Sums:
    """Return sums by longer slots."""
    cells: defaultdict[Cell, tuple[int, int]] = defaultdict(lambda: (0, 0))
    for cell, (count, total) in sums.cells.items():
        into = cell._replace(slot=cell.slot // 2 ** (shift - sums.shift))
        cells[into] = (cells[into][0] + count, cells[into][1] + total)
    return Sums(shift, dict(cells))


def worst(intervals: Iterable[Interval]) -> list[Interval]:
    return _chosen(intervals, WORST, lambda each: (-each.value, each.tsc, each.b))


def sample(intervals: Iterable[Interval]) -> list[Interval]:
    return _chosen(intervals, SAMPLE, lambda each: (hash_of(each), each.tsc, -each.value, each.b))


def _chosen(
    intervals: Iterable[Interval], count: int, order: Callable[[Interval], tuple[int, ...]]
) -> list[Interval]:
    groups: defaultdict[tuple[int, int], list[Interval]] = defaultdict(list)
    for each in intervals:
        if kept(each) & EXEMPLARS and each.value >= 0:
            groups[each.metric, each.a].append(each)
    return [each for key in sorted(groups) for each in sorted(groups[key], key=order)[:count]]


def hash_of(interval: Interval) -> int:
    """Return the hash of an interval, in numbers of 64 bits with a sign."""
    mixed = _signed((interval.metric << METRIC_SHIFT | interval.a) ^ _signed(interval.b * 0x9E3779B97F4A7C1))
    mixed = _signed(mixed * 0x1FFFFFFFFFF1)
    mixed = _signed(((mixed ^ mixed >> 29) + interval.tsc) * 0x2545F4914F6CDD1D)
    mixed = _signed(((mixed ^ mixed >> 31) + interval.value) * 0x5851F42D4C957F2D)
    return (mixed ^ mixed >> 30) % 2**63


def _signed(number: int) -> int:
    return (number + 2**63) % 2**64 - 2**63
