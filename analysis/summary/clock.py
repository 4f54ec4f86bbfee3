"""Estimate the TSC rate, and the skew between the TSCs of pCPUs, from the trace itself.

Rate: Xen records how long each vCPU ran, in nanoseconds of its own clock; ``probes/tsc_rate.py`` says how the
rate follows from that.

Skew: a vCPU that leaves pCPU A and then runs on B, or is woken on A and runs on B, bounds the difference
of the two TSCs from one side, as long as the records of A and B come in the right order.  In any order, a
vCPU is only on one pCPU at a time: its stay on A and its stay on B exclude all differences at which the
two would overlap.  If 0 is excluded, the TSCs differ.  What all the stays leave open is a gap as wide as
the shortest moves from A to B and back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from xtrace.analysis.columns import Columns, joined, of_rows, text
from xtrace.analysis.state_machine.collected import SkewedPair, Unaligned
from xtrace.analysis.state_machine.metrics import OCTAVES, RECENT_MAX, SUB_BUCKETS, Metric
from xtrace.analysis.summary.histogram import bucket_bounds
from xtrace.probes import tsc_rate
from xtrace.probes.reader.batches import I64

if TYPE_CHECKING:
    from xtrace.analysis.summary.partial import Partial

_PM_TIMER_HZ = 3_579_545
#: Sources of pairs; _BY_LENGTH and all above are of run times by length.
_SCHEDULER, _IDLE, _BY_LENGTH, _MOST_SOURCE = 0, 1, 2, 64
#: Only Xen on x86 records idle times, and no TSC there is slower.  In this range, ns cannot be mistaken for
#: ticks of the PM timer, because the rate would differ by a factor of 279.
_X86_LEAST_HZ = 1e8
#: Idle times wrap at 2^32, but those in ticks of the PM timer may wrap at 2^24, which looks like a long time.
_IDLE_MOST_TICKS = 1 << 31
#: Where fewer excluded ranges overlap on average, a gap between them may be chance.
_LEAST_DEPTH = 8
_OPEN = (math.nan, math.nan)
_AT_ONCE = "a vCPU seen on both at once"
_APART = "no record of one within the time span of the other"
_EARLY = "vCPUs seen on one before they left the other"
_CONTRADICTING = "contradictory bounds: vCPUs seen on one before they left the other"
#: What can show that TSCs are apart, in words.
EVIDENCE = (_AT_ONCE, _APART, _EARLY, _CONTRADICTING)


@dataclass(frozen=True, slots=True)
class TscRate:
    """The TSC rate.

    Attributes:
        hz: the rate.
        low_hz, high_hz: 95 % interval; equal to hz where the rate was given.
        source: how it is known, in words.
        pairs: number of measurements that it is based on; 0 where it was given.
    """

    hz: float
    low_hz: float
    high_hz: float
    source: str
    pairs: int = 0

    @property
    def error_ppm(self) -> float:
        """Half the width of the interval, in parts per million."""
        return (self.high_hz - self.low_hz) / 2 / self.hz * 1e6


def given(hz: float) -> TscRate:
    """Return a rate that the user or a sidecar file gave."""
    return TscRate(hz, hz, hz, "given")


def estimate(pairs: Columns) -> TscRate | None:
    """Return the TSC rate estimated from the pairs, or None where there are too few or they do not agree.

    Args:
        pairs: as in Partial.pairs.
    """
    scheduler = pairs.where((pairs["source"] == _SCHEDULER) & (pairs["ns"] >= tsc_rate.LEAST_NS))
    by_length: dict[int, tuple[int, int]] = {}
    is_by_length = (pairs["source"] >= _BY_LENGTH) & (pairs["source"] <= _MOST_SOURCE)
    for ns, cycles, source in _rows(pairs.where(is_by_length)):
        _add(by_length, source - _BY_LENGTH, ns, cycles)
    rate = _rate(scheduler, by_length, 1e9, "run times recorded by the scheduler")
    # A summary of an earlier version has no run times by length; at such rates, its sums have no wrapped run.
    if rate is not None and (by_length or rate.hz >= _X86_LEAST_HZ):
        return rate
    idle = pairs.where((pairs["source"] == _IDLE) & (pairs["ns"] < _IDLE_MOST_TICKS))
    by_length = {}
    for ns, cycles, _ in _rows(idle):
        _add(by_length, tsc_rate.length_of(cycles), ns, cycles)
    for ticks_per_s, name in ((1e9, "idle times in ns"), (_PM_TIMER_HZ, "idle times in PM timer ticks")):
        rate = _rate(idle.where(idle["ns"] >= ticks_per_s / 100), by_length, ticks_per_s, name)
        if rate is not None and rate.hz >= _X86_LEAST_HZ:
            return rate
    return None


def _rows(pairs: Columns) -> list[tuple[int, int, int]]:
    return list(zip(pairs["ns"].tolist(), pairs["cycles"].tolist(), pairs["source"].tolist(), strict=True))


def _add(by_length: dict[int, tuple[int, int]], length: int, ns: int, cycles: int) -> None:
    sum_ns, sum_cycles = by_length.get(length, (0, 0))
    by_length[length] = (sum_ns + ns, sum_cycles + cycles)


def _rate(
    sums: Columns, by_length: Mapping[int, tuple[int, int]], ticks_per_s: float, source: str
) -> TscRate | None:
    pairs = ((ticks, cycles) for ticks, cycles, _ in _rows(sums))
    if by_length:
        found = tsc_rate.measure(pairs, by_length, ticks_per_s)
    else:
        found = tsc_rate.median(pairs, ticks_per_s)
    return None if found is None else TscRate(found.hz, found.low_hz, found.high_hz, source, found.count)


def skew(partial: Partial) -> Columns:
    """Return what the trace shows about skew between the TSCs of pCPUs.

    Damage in the trace may hide a context switch and so invent a stay; then a few overlaps prove nothing.

    Returns:
        One row per pair of pCPUs that a vCPU moved between: pcpu, other_pcpu, skewed (the TSCs differ),
        low_cycles, high_cycles (bounds of the TSC of other_pcpu minus the TSC of pcpu; float64, NaN where
        the records leave it open or contradict each other), least_cycles (they differ by at least this
        much; 0 where that is not proven), evidence (of skew, in words; "" without).
    """
    tallies, facts = partial.tallies, partial.facts
    doubtful = RECENT_MAX * int(facts["damage_count"].sum() + facts["backward_tsc_count"].sum())
    handoffs = _by_pair(tallies.where(tallies["metric"] == int(Metric.HANDOFF)), "min_cycles")
    overlaps = _by_pair(
        tallies.where((tallies["metric"] == int(Metric.SKEW_NOT_TO)) & (tallies["b"] == 1)), "count"
    )
    excluded = _Ranges(partial.buckets)
    # After a restart of the TSC a pCPU's first and last TSC are not of the same stretch of time.
    spans = None if doubtful or facts["tsc_restart_count"].sum() else _Spans(partial.pcpus)
    rows: list[tuple[int, int, float, float, int, str]] = []
    for pcpu, other in sorted({(min(pair), max(pair)) for pair in handoffs.keys() | overlaps.keys()}):
        pair, back = (pcpu, other), (other, pcpu)
        if overlaps.get(pair, 0) > doubtful:
            above = _Excluded.of(*excluded.of(pair), overlaps[pair], doubtful)
            below = _Excluded.of(*excluded.of(back), overlaps[back], doubtful)
            least = int(min(above.gaps[0][0], below.gaps[0][0]))
            rows.append((pcpu, other, *_nearest(above, below), least, _AT_ONCE))
        elif spans is not None and (apart := spans.apart(pcpu, other)) is not None:
            rows.append((pcpu, other, *apart, 0, _APART))
        elif pair in handoffs and back in handoffs:
            low, high = float(-handoffs[back]), float(handoffs[pair])
            evidence = "" if low <= 0 <= high or doubtful else _EARLY if low <= high else _CONTRADICTING
            rows.append((pcpu, other, *((low, high) if low <= high else _OPEN), 0, evidence))
    pcpus, others, lows, highs, leasts, words = zip(*rows, strict=True) if rows else ((),) * 6
    return Columns(
        {
            "pcpu": np.array(pcpus, np.int64),
            "other_pcpu": np.array(others, np.int64),
            "skewed": np.array([bool(evidence) for evidence in words], bool),
            "low_cycles": np.array(lows, float),
            "high_cycles": np.array(highs, float),
            "least_cycles": np.array(leasts, np.int64),
            "evidence": text(words),
        }
    )


def skewed_pairs(partial: Partial) -> Columns:
    """Return the pairs of pCPUs whose TSCs differ: those kept of each trace, then those that skew() finds.

    Where TSCs were aligned, the tallies no longer show by how much they differed.

    Returns:
        The columns of Partial.skewed; a pair may have a row for each of several traces.
    """
    kept = partial.skewed
    known = set(zip(kept["pcpu"].tolist(), kept["other_pcpu"].tolist(), strict=True))
    found = [
        row for row in proven(skew(partial), Unaligned.UNREAD) if (row.pcpu, row.other_pcpu) not in known
    ]
    return joined(
        [kept.only(SkewedPair._fields), of_rows(found, dict.fromkeys(SkewedPair._fields, np.int64))]
    )


def proven(shown: Columns, unaligned: Unaligned) -> list[SkewedPair]:
    """Return the pairs of skew() whose TSCs differ."""
    pairs = []
    for row in shown.where(shown["skewed"]).rows():
        bounds = row["low_cycles"], row["high_cycles"]
        low, high = (0, -1) if math.isnan(bounds[0]) else map(int, bounds)
        evidence = EVIDENCE.index(row["evidence"])
        pairs.append(
            SkewedPair(
                row["pcpu"], row["other_pcpu"], low, high, row["least_cycles"], evidence, int(unaligned)
            )
        )
    return pairs


def _by_pair(rows: Columns, column: str) -> dict[tuple[int, int], int]:
    """Return a column of tallies by the pair of pCPUs in their key ``a``."""
    return {
        (a >> 16, a & 0xFFFF): value
        for a, value in zip(rows["a"].tolist(), rows[column].tolist(), strict=True)
    }


class _Spans:
    """First and last TSC of each pCPU."""

    def __init__(self, pcpus: Columns) -> None:
        seen = pcpus.where(pcpus["first_tsc"] > 0)
        ends = zip(*(seen[name].tolist() for name in ("first_tsc", "last_tsc")), strict=True)
        self._spans = dict(zip(seen["pcpu"].tolist(), ends, strict=True))
        self._longest = max((last - first for first, last in self._spans.values()), default=0)

    def apart(self, pcpu: int, other: int) -> tuple[float, float] | None:
        """Return bounds for two pCPUs whose records are farther apart than the longest span of any pCPU.

        Tracing starts and stops on all pCPUs together, so their records overlap in true time.
        """
        if pcpu not in self._spans or other not in self._spans:
            return None
        (first, last), (other_first, other_last) = self._spans[pcpu], self._spans[other]
        if max(first - other_last, other_first - last) <= self._longest:
            return None
        return float(other_first - last), float(other_last - first)


class _Ranges:
    """The excluded ranges; those of one pair of pCPUs are spread out at a time, as there may be many."""

    def __init__(self, buckets: Columns) -> None:
        self._ends = []
        for metric in (Metric.SKEW_NOT_FROM, Metric.SKEW_NOT_TO):
            rows = buckets.where(buckets["metric"] == int(metric)).sorted_by("a")
            self._ends.append((rows["a"], rows["bucket"], rows["count"]))

    def of(self, pair: tuple[int, int]) -> tuple[I64, I64]:
        """Return how many excluded ranges begin and end in each bucket of cycles."""
        key = pair[0] << 16 | pair[1]
        found = []
        for keys, bucket, count in self._ends:
            at = slice(*np.searchsorted(keys, [key, key + 1]))
            counts = np.zeros(OCTAVES * SUB_BUCKETS, np.int64)
            np.add.at(counts, bucket[at], count[at])
            found.append(counts)
        return found[0], found[1]


@dataclass(frozen=True, slots=True)
class _Excluded:
    """How many ranges exclude each difference on one side of 0.

    Attributes:
        cycles: starts of the buckets, and the end of the last one.
        depth: number of ranges that exclude all of a bucket.
        gaps: (from, to) of what is not excluded, ascending; the last one has no end.
    """

    cycles: I64
    depth: I64
    gaps: list[tuple[float, float]]

    @classmethod
    def of(cls, begun: I64, ended: I64, across: int, doubtful: int) -> _Excluded:
        """Count the ranges over each bucket, ``across`` of them from below 0, minus ``doubtful`` ones."""
        cycles, greatest = bucket_bounds(np.arange(len(begun)))
        depth = across + np.cumsum(begun) - begun - np.cumsum(ended) - doubtful
        is_free = depth <= 0
        is_free[-1] = True  # nothing is known beyond the last range
        edges = np.flatnonzero(np.diff(np.concatenate(([False], is_free, [False]))))
        ends = [*cycles[edges[1:-1:2]].tolist(), math.inf]
        return cls(
            np.append(cycles, greatest[-1]), depth, list(zip(cycles[edges[::2]].tolist(), ends, strict=True))
        )

    def mean_depth(self, low: float, high: float) -> float:
        """Return how many ranges exclude a difference between these two, on average."""
        widths = np.diff(np.clip(self.cycles, low, high))
        return float((self.depth * widths).sum() / widths.sum())


def _nearest(above: _Excluded, below: _Excluded) -> tuple[float, float]:
    """Return low and high of the gap nearest to 0, if no other gap is near; _OPEN otherwise.

    Where few ranges overlap, a gap may be chance.  So up to twice as far out as this gap reaches, on both
    sides, there must be many ranges and no other gap; gaps next to it on its side are merged with it.
    """
    is_above = above.gaps[0] < below.gaps[0]
    near, far = (above, below) if is_above else (below, above)
    least, most = near.gaps[0]
    reach = 2 * most
    if far.gaps[0][0] < reach or math.isinf(most):
        return _OPEN
    if min(side.mean_depth(most, reach) for side in (near, far)) < _LEAST_DEPTH:
        return _OPEN
    most = max(end for begin, end in near.gaps if begin < reach)
    return _OPEN if math.isinf(most) else (least, most) if is_above else (-most, -least)
