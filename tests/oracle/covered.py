"""What a cut trace should say, computed from all records of the whole trace.

The slow machines run over the whole trace, so nothing that they know is missing.  Of what they emit, only
what lies in the covered stretches counts; the cut file is not read.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from oracle.machine import (
    RUNNING,
    SCHED_OPS,
    Count,
    Host,
    Interval,
    Pcpu,
    Vcpu,
    handler_of,
    on_continue,
    on_runstate,
)
from oracle.reader import RawRecord, Record, Window
from xtrace.analysis.columns import Columns
from xtrace.analysis.state_machine.metrics import FIRST_COUNT, SUB_BUCKETS, Metric, WakeCause
from xtrace.analysis.summary.partial import Partial, group_of
from xtrace.probes.format import EXTRA_SHIFT, TIMED_BIT

#: A pCPU and a stretch of its time, both ends inclusive.
Stretch = tuple[int, int, int]
#: Intervals of states: what reaches beyond a stretch is cut there, and its end is open.
_STATES = {
    Metric.RUNNING, Metric.RUNNABLE_WAKE, Metric.RUNNABLE_PREEMPT, Metric.RUNNABLE_OTHER,
    Metric.BLOCKED, Metric.OFFLINE, Metric.DOMAIN_STATE, Metric.RESIDENCE,
}  # fmt: skip
#: Accounts of time without statistics of their intervals, and intervals of which an end is open.
_ACCOUNTS = {
    Metric.STATE_LOST, Metric.STATE_UNKNOWN, Metric.DOMAIN_UNKNOWN, Metric.PCPU_UNKNOWN, Metric.PCPU_RUNNING,
    Metric.PCPU_IDLE, Metric.PCPU_LOST, Metric.OPEN,
}  # fmt: skip
_OF_VCPUS = {
    Metric.RUNNING, Metric.RUNNABLE_WAKE, Metric.RUNNABLE_PREEMPT, Metric.RUNNABLE_OTHER,
    Metric.BLOCKED, Metric.OFFLINE, Metric.STATE_LOST,
}  # fmt: skip
_OF_PCPUS = {Metric.PCPU_RUNNING, Metric.PCPU_IDLE, Metric.PCPU_LOST, Metric.PCPU_UNKNOWN}
#: Only of a vCPU that is known to have blocked before it ran.
_AFTER_BLOCK = {Metric.RUNNING_TO_GUEST, Metric.UPCALL_MAX, Metric.UPCALL_MIN, Metric.UPCALL_PREEMPTED}
_RUNNABLE = {Metric.RUNNABLE_WAKE, Metric.RUNNABLE_PREEMPT}
#: Both ends are in one record.
_OF_ONE_RECORD = {Metric.IRQ_HANDLING, Metric.IRQ_TO_WAKE}
_DROPPED = {Metric.STATE_MISMATCH, Metric.UNPROVEN}


@dataclass(frozen=True, slots=True)
class Emitted:
    """An interval or a count, with the record that it ends with.

    Attributes:
        writer: pCPU of the record; None for what is open at the end of the trace.
        event: of the record.
        offset: of the record in the file.
        place: pCPU that the vCPU is or was last on, where the interval is of its running.
        since: pCPU and TSC of an earlier record that it follows from, besides that at its beginning.
    """

    interval: Interval
    writer: int | None
    event: int
    offset: int = 0
    place: int | None = None
    since: tuple[int, int] | None = None

    @property
    def begin(self) -> int:
        return self.interval.tsc - self.interval.value


class _Watched(Host):
    """Machines that remember which record each interval and each count comes from."""

    def __init__(self) -> None:
        super().__init__()
        self.emitted: list[Emitted] = []
        self._record: Record | None = None
        #: pCPU and TSC of the last call that can block, by vCPU.
        self._called: dict[int, tuple[int, int]] = {}

    def hypercall(self, pcpu: Pcpu, vcpu: Vcpu, op: int, command: int | None, tsc: int) -> None:
        if op in SCHED_OPS:
            self._called[vcpu.key] = pcpu.number, tsc
        super().hypercall(pcpu, vcpu, op, command, tsc)

    def take(self, record: Record) -> None:
        self._record = record
        super().take(record)

    def put(self, metric: Metric, a: int, b: int, value: int, tsc: int) -> None:
        assert self._record is not None
        self.emitted.append(
            Emitted(
                Interval(metric, a, b, value, tsc),
                self._record.pcpu,
                self._record.event,
                self._record.offset,
                self.place(metric, a, b),
                self._blocked_at(a) if metric in _AFTER_BLOCK else None,
            )
        )

    def _blocked_at(self, vcpu: int) -> tuple[int, int] | None:
        """Return where and when the vCPU called what blocked it before it ran."""
        called = self._called.get(vcpu)
        if called is not None and called[1] <= self.vcpus[vcpu].begun.ran_at:
            return called
        left = self.vcpus[vcpu].begun.left
        return None if left is None else (left[1], left[0])

    def place(self, metric: Metric, a: int, b: int) -> int | None:
        """Return the pCPU of an interval in which a vCPU runs."""
        of = Metric(b >> 32) if metric is Metric.OPEN else metric
        return self.vcpus[a].pcpu if of is Metric.RUNNING else None

    def count(self, metric: Metric, a: int, b: int = 0) -> None:
        assert self._record is not None
        self.put(metric, a, b, 0, self._record.tsc)


def emitted_by(records: Iterable[Record]) -> tuple[list[Emitted], Host]:
    """Return everything that the slow machines emit for a whole trace, and the machines."""
    host = _Watched()
    for record in records:
        host.take(record)
    ends = [Emitted(row, None, 0, place=host.place(row.metric, row.a, row.b)) for row in host.ends()]
    return [*host.emitted, *ends], host


def firsts_of(stretches: Iterable[Stretch]) -> dict[int, int]:
    """Return when the first stretch of each pCPU begins."""
    firsts: dict[int, int] = {}
    for pcpu, begin, _ in stretches:
        firsts[pcpu] = min(begin, firsts.get(pcpu, begin))
    return firsts


def first_timed(windows: Iterable[Window]) -> dict[int, int]:
    """Return the offset of each pCPU's first record with a TSC."""
    offsets: dict[int, int] = {}
    for window in windows:
        for raw in window.records:
            if raw.tsc is not None:
                offsets.setdefault(window.pcpu, raw.offset)
                break
    return offsets


def stretches_of(runs: Iterable[Sequence[Window]]) -> list[Stretch]:
    """Return the stretches of pCPUs' time between the first and the last record of each run of windows."""
    stretches = []
    for run in runs:
        tscs: defaultdict[int, list[int]] = defaultdict(list)
        for window in run:
            tscs[window.pcpu] += [
                raw.tsc for raw in window.records if raw.tsc is not None and not raw.is_wrap
            ]
        stretches += [(pcpu, min(each), max(each)) for pcpu, each in sorted(tscs.items()) if each]
    return stretches


def expected(
    emitted: Iterable[Emitted],
    base: Partial,
    windows: Sequence[Window],
    counts: Callable[[Emitted], Interval | None],
    span: tuple[int, int],
) -> Partial:
    """Return the Partial with what ``counts`` returns for each of ``emitted``.

    Args:
        base: of the whole trace; it gives what does not depend on the machines.
        windows: with the records that count.
        counts: the interval that counts, None for none.
        span: first and last TSC.
    """
    values: defaultdict[Count, list[int]] = defaultdict(list)
    for one in emitted:
        row = counts(one) if one.interval.metric not in _DROPPED else None
        if row is not None:
            values[Count(row.metric, row.a, row.b)].append(row.value)
    tscs = _tscs(windows)
    _add_unknown(values, span[1] - span[0], tscs)
    records = Counter((window.pcpu, _header(raw)) for window in windows for raw in window.records)
    headers = np.array([header for _, header in records], np.int64)
    groups = np.array(sorted(set(group_of(headers).tolist())), np.int64)
    return replace(
        base,
        tallies=_tallies(values),
        buckets=_buckets(values),
        records=Columns(
            {
                "pcpu": np.array([pcpu for pcpu, _ in records], np.int64),
                "header": headers,
                "count": np.array(list(records.values()), np.int64),
            }
        ),
        pcpus=Columns(
            {
                "pcpu": np.array(list(tscs), np.int64),
                "first_tsc": np.array([min(each, default=0) for each in tscs.values()], np.int64),
                "last_tsc": np.array([max(each, default=0) for each in tscs.values()], np.int64),
                "blind_cycles": np.zeros(len(tscs), np.int64),
                "window_bytes": np.array([_bytes(windows, pcpu) for pcpu in tscs], np.int64),
            }
        ),
        classes=Columns({"group": groups, "files": np.ones(len(groups), np.int64)}),
        named_pcpus=base.named_pcpus.where(slice(0)),
        facts=base.facts.having(span_cycles=[span[1] - span[0]]),
    )


def _add_unknown(values: dict[Count, list[int]], span: int, pcpus: Iterable[int]) -> None:
    """Add the time of pCPUs and vCPUs that is in no covered stretch."""
    spent: Counter[tuple[bool, int]] = Counter(dict.fromkeys(((True, pcpu) for pcpu in pcpus), 0))
    for key, each in values.items():
        metric = Metric(key.b >> 32) if key.metric is Metric.OPEN else key.metric
        if metric in _OF_PCPUS or metric in _OF_VCPUS:
            spent[metric in _OF_PCPUS, key.a] += sum(each)
    for (is_pcpu, a), cycles in spent.items():
        if cycles < span:
            metric = Metric.PCPU_UNKNOWN if is_pcpu else Metric.STATE_UNKNOWN
            values[Count(metric, a, 0)].append(span - cycles)


def _tscs(windows: Sequence[Window]) -> dict[int, list[int]]:
    tscs: defaultdict[int, list[int]] = defaultdict(list)
    for window in windows:
        if window.records:
            tscs[window.pcpu] += [
                raw.tsc for raw in window.records if raw.tsc is not None and not raw.is_wrap
            ]
    return dict(sorted(tscs.items()))


def _header(raw: RawRecord) -> int:
    return raw.event | len(raw.words) << EXTRA_SHIFT | (0 if raw.tsc is None else TIMED_BIT)


def _bytes(windows: Sequence[Window], pcpu: int) -> int:
    kept = [raw for window in windows if window.pcpu == pcpu for raw in window.records]
    return sum(4 + 8 * (raw.tsc is not None) + 4 * len(raw.words) for raw in kept)


def _tallies(values: dict[Count, list[int]]) -> Columns:
    timed = [key.metric < FIRST_COUNT for key in values]
    columns = {
        "metric": [int(key.metric) for key in values],
        "a": [key.a for key in values],
        "b": [key.b for key in values],
        "count": [len(each) for each in values.values()],
        "sum_cycles": [sum(each) for each in values.values()],
        "min_cycles": [min(each) * is_timed for is_timed, each in zip(timed, values.values(), strict=True)],
        "max_cycles": [max(each) * is_timed for is_timed, each in zip(timed, values.values(), strict=True)],
    }
    return Columns({name: np.array(column, np.int64) for name, column in columns.items()})


def _buckets(values: dict[Count, list[int]]) -> Columns:
    rows = []
    for key, each in values.items():
        if key.metric < FIRST_COUNT:
            found = Counter(_bucket(value) for value in each if value >= 0)
            rows += [(int(key.metric), key.a, key.b, bucket, count) for bucket, count in found.items()]
    array = np.array(rows, np.int64).reshape(-1, 5)
    return Columns(dict(zip(("metric", "a", "b", "bucket", "count"), array.T, strict=True)))


def _bucket(value: int) -> int:
    """Return the histogram's bucket of a value: 64 in each octave, as the reports describe it."""
    if value < SUB_BUCKETS:
        return value
    octave = value.bit_length() - SUB_BUCKETS.bit_length() + 1
    return octave * SUB_BUCKETS + (value >> octave - 1) - SUB_BUCKETS


@dataclass(frozen=True, slots=True)
class Known:
    """What the records that are left say of which vCPU is where.

    Attributes:
        switched: TSC of the first record on each pCPU that names what runs from then on.
        pcpus: with a record of what ran.
        vcpus: with a record of their state.
        all_from: TSC from which all pCPUs have records.
    """

    switched: dict[int, int]
    pcpus: set[int]
    vcpus: set[int]
    all_from: int


def known_of(windows: Sequence[Window], stretches: Sequence[Stretch]) -> Known:
    known = Known({}, set(), set(), max(firsts_of(stretches).values()))
    for window in windows:
        tsc = 0
        for raw in window.records:
            tsc = tsc if raw.tsc is None else raw.tsc
            record = Record(raw.offset, window.pcpu, tsc, raw.tsc is not None, raw.event, raw.words)
            handler = handler_of(record)
            if handler is on_runstate or handler is on_continue:
                known.vcpus.add(raw.words[0])
                old, new = raw.event >> 8 & 3, raw.event >> 4 & 3
                if handler is on_continue or RUNNING in (old, new):
                    known.pcpus.add(window.pcpu)
                if handler is on_continue or new == RUNNING:
                    known.switched.setdefault(window.pcpu, tsc)
    return known


class Inside:
    """Of what is emitted, the part that lies in covered stretches.

    Args:
        stretches: of the pCPUs whose records count.
        tscs: of these records: an interval counts as whole only if it begins with one of them.
        span: first and last TSC; time outside it does not count.
        known: what the records left say.
        is_all: all pCPUs' records count, so that only names of states depend on what is known.
        counts_all: what only counts does so whenever it was; a record without a TSC shows an earlier one.
    """

    def __init__(
        self,
        stretches: Sequence[Stretch],
        tscs: Collection[int],
        span: tuple[int, int],
        known: Known,
        *,
        is_all: bool = False,
        counts_all: bool = False,
    ) -> None:
        self._stretches = stretches
        self._tscs = tscs
        self._span = span
        self._known = known
        self._is_all = is_all
        self._counts_all = counts_all

    def __call__(self, one: Emitted) -> Interval | None:
        row = one.interval
        metric = row.metric
        if metric in _OF_PCPUS:
            return None if metric is Metric.PCPU_UNKNOWN else self._of_pcpu(one)
        if metric is Metric.STATE_UNKNOWN:
            return None
        of = Metric(row.b >> 32) if metric is Metric.OPEN else metric
        if (of in _OF_VCPUS or of is Metric.RESIDENCE) and row.a not in self._known.vcpus:
            return None
        if metric in _ACCOUNTS:
            return self._part(one, row.metric, row.b)
        if metric in (Metric.WAKE_CAUSE, Metric.SEND_TO_WAKE) and one.writer is not None:
            return self._of_wake(one, one.writer)
        if self._counts_all and (metric >= FIRST_COUNT or metric is Metric.HVM_EXIT):
            return row
        is_whole = one.writer is not None and self._run_of(one.writer, row.tsc) is not None
        if metric < FIRST_COUNT and metric not in _OF_ONE_RECORD and row.value:
            is_whole = is_whole and self._span[0] <= one.begin and one.begin in self._tscs
        if one.since is not None:
            is_whole = is_whole and self._is_known(*one.since)
        if is_whole:
            return row
        if metric in _STATES:
            return self._part(one, Metric.OPEN, metric << 32 | row.b)
        return None

    def _is_known(self, pcpu: int, tsc: int) -> bool:
        """Return whether what ran on a pCPU is known then."""
        if self._is_all:
            return tsc >= self._span[0]
        is_there = tsc in self._tscs and self._run_of(pcpu, tsc) is not None
        return is_there and tsc >= self._known.switched.get(pcpu, tsc + 1)

    def _of_wake(self, one: Emitted, writer: int) -> Interval | None:
        """Return a wake, whose cause is not known before it is known what runs on the waker's pCPU."""
        row = one.interval
        if self._run_of(writer, row.tsc) is None:
            return None
        if self._is_all or row.tsc >= self._known.switched.get(writer, row.tsc + 1):
            is_there = row.metric is Metric.WAKE_CAUSE or (
                one.begin in self._tscs and one.begin >= self._span[0]
            )
            return row if is_there else None
        if row.metric is Metric.SEND_TO_WAKE:
            return None
        return row._replace(b=WakeCause.UNKNOWN << 32)

    def _run_of(self, pcpu: int, tsc: int) -> Stretch | None:
        return next((run for run in self._stretches if run[0] == pcpu and run[1] <= tsc <= run[2]), None)

    def _part(self, one: Emitted, metric: Metric, b: int) -> Interval | None:
        row = one.interval
        of = Metric(row.b >> 32) if row.metric is Metric.OPEN else row.metric
        since = self._span[0] if self._is_all or of not in _OF_VCPUS else self._known.all_from
        if one.place is not None and not self._is_all:
            since = min((begin for pcpu, begin, _ in self._stretches if pcpu == one.place), default=since)
        part = min(row.tsc, self._span[1]) - max(one.begin, since)
        if of in _RUNNABLE and one.begin < self._known.all_from and metric is Metric.OPEN:
            # No record shows the state before it.
            b = Metric.RUNNABLE_OTHER << 32
        return Interval(metric, row.a, b, part, row.tsc) if part > 0 else None

    def _of_pcpu(self, one: Emitted) -> Interval | None:
        row = one.interval
        part = sum(
            max(min(row.tsc, end) - max(one.begin, begin), 0)
            for pcpu, begin, end in self._stretches
            if pcpu == row.a and (self._is_all or pcpu in self._known.pcpus)
        )
        return Interval(row.metric, row.a, row.b, part, row.tsc) if part > 0 else None
