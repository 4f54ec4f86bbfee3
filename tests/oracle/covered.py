"""What a cut trace should say, computed from all records of the whole trace.

The slow machines run over the whole trace, so nothing that they know is missing.  Of what they emit, only
what lies in the covered stretches counts; the cut file is not read.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from oracle import delivery
from oracle import reader as rounds
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
from oracle.reader import LOST_RECORDS, RawRecord, Record, Window
from xtrace.analysis.columns import Columns
from xtrace.analysis.state_machine.metrics import FIRST_COUNT, SUB_BUCKETS, DomainState, Metric, WakeCause
from xtrace.analysis.summary.partial import Partial, group_of
from xtrace.probes.format import EXTRA_SHIFT, TIMED_BIT
from xtrace.probes.xen_abi import IDLE_DOMAIN

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
_AFTER_BLOCK = {
    Metric.RUNNING_TO_GUEST, Metric.UPCALL_MAX, Metric.UPCALL_MIN, Metric.UPCALL_PREEMPTED,
    Metric.UPCALL_FORCED,
}  # fmt: skip
_RUNNABLE = {Metric.RUNNABLE_WAKE, Metric.RUNNABLE_PREEMPT}
#: What a vCPU that runs on a pCPU without records is not seen to do.
_UNSEEN = (_STATES - {Metric.RUNNING}) | {Metric.WAKE_TO_RUNNING, Metric.WAKE_TO_RUNNABLE}
_RUN_STATES = {DomainState.PARTIAL_RUN, DomainState.FULL_RUN, DomainState.CONCURRENCY_HAZARD}
#: What event delivery is made of: each follows from what all pCPUs recorded.
_OF_EVENTS = {
    Metric.EVENT_TO_UPCALL, Metric.EVENT_FROM, Metric.MARK_TO_UPCALL, Metric.UPCALL, Metric.MASKED_WAIT,
    Metric.EVENT_TAKEN, Metric.EVENT_WAKE,
}  # fmt: skip
#: Both ends are in one record.
_OF_ONE_RECORD = {Metric.IRQ_HANDLING, Metric.IRQ_TO_WAKE}
_OF_WAKES = (Metric.WAKE_CAUSE, Metric.SEND_TO_WAKE, Metric.IRQ_TO_WAKE, Metric.WAKE_WITHOUT_EFFECT)
#: WAKE and BLOCK.
_NAMING = (0x28004, 0x28006)
_DROPPED = {Metric.STATE_MISMATCH, Metric.UNPROVEN}


@dataclass(frozen=True, slots=True)
class Emitted:
    """An interval or a count, with the record that it ends with.

    Attributes:
        writer: pCPU of the record; None for what is open at the end of the trace.
        event: of the record.
        seen_at: TSC of the record; of a wake, that after which its cause was clear.
        offset: of the record in the file.
        place: pCPU that the vCPU is or was last on, where the interval is of its running, or where it was
            running when it was woken.
        since: pCPU and TSC of an earlier record that it follows from, besides that at its beginning.
        ran_at: when the vCPU began to run, where it must be known to have blocked before.
    """

    interval: Interval
    writer: int | None
    event: int
    offset: int = 0
    seen_at: int = 0
    place: int | None = None
    since: tuple[int, int] | None = None
    ran_at: int | None = None

    @property
    def begin(self) -> int:
        return self.interval.tsc - self.interval.value


class _Watched(Host):
    """Machines that remember which record each interval and each count comes from."""

    def __init__(self, is_there: Callable[[Record], bool]) -> None:
        super().__init__()
        self.emitted: list[Emitted] = []
        self._is_there = is_there
        self._record: Record | None = None
        #: pCPU and TSC of the last call that can block, by vCPU.
        self._called: dict[int, tuple[int, int]] = {}

    def hypercall(self, pcpu: Pcpu, vcpu: Vcpu, op: int, command: int | None, tsc: int) -> None:
        if op in SCHED_OPS:
            self._called[vcpu.key] = pcpu.number, tsc
        super().hypercall(pcpu, vcpu, op, command, tsc)

    def take(self, record: Record) -> None:
        pcpu = self.pcpus.get(record.pcpu)
        is_of_loss = record.event == LOST_RECORDS or (pcpu is not None and pcpu.loss is not None)
        if is_of_loss and not self._is_there(record):
            return
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
                self._record.tsc,
                self.place(metric, a, b),
                self._blocked_at(a) if metric in _AFTER_BLOCK else None,
                self.vcpus[a].begun.ran_at if metric in _AFTER_BLOCK else None,
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
        if metric is Metric.WAKE_WITHOUT_EFFECT:
            return self.vcpus[a].pcpu if self.vcpus[a].state == RUNNING else None
        of, of_b = (Metric(b >> 32), b & 0xFFFF_FFFF) if metric is Metric.OPEN else (metric, b)
        if of is Metric.DOMAIN_STATE and of_b in _RUN_STATES and len(self.domains[a].vcpus) == 1:
            return self.domains[a].vcpus[0].pcpu
        return self.vcpus[a].pcpu if of is Metric.RUNNING else None

    def count(self, metric: Metric, a: int, b: int = 0) -> None:
        assert self._record is not None
        self.put(metric, a, b, 0, self._record.tsc)


class _WatchedDelivery(delivery.Host):
    """The machine of event delivery, which remembers which record each interval comes from."""

    def __init__(self, is_there: Callable[[Record], bool]) -> None:
        super().__init__()
        self.emitted: list[Emitted] = []
        self._is_there = is_there
        self._record: Record | None = None

    def take(self, record: Record) -> None:
        pcpu = self.pcpus.get(record.pcpu)
        is_of_loss = record.event == LOST_RECORDS or (pcpu is not None and pcpu.is_blind)
        if is_of_loss and not self._is_there(record):
            return
        self._record = record
        super().take(record)

    def put(self, metric: Metric, vcpu: delivery.Vcpu, b: int, value: int, tsc: int) -> None:
        assert self._record is not None
        record = self._record
        interval = Interval(metric, vcpu.key, b, value, tsc)
        self.emitted.append(Emitted(interval, record.pcpu, record.event, record.offset, record.tsc))


def emitted_by(
    records: Iterable[Record], is_there: Callable[[Record], bool] = lambda _: True
) -> tuple[list[Emitted], Host]:
    """Return everything that the slow machines emit for a whole trace, and the machines.

    Args:
        is_there: whether a record is in the cut trace; only those show that a loss begins and ends.
    """
    host, events = _Watched(is_there), _WatchedDelivery(is_there)
    has_events = False
    for record in records:
        host.take(record)
        has_events |= record.event in delivery.RECORDS
        if has_events:
            events.take(record)
    ends = [Emitted(row, None, 0, place=host.place(row.metric, row.a, row.b)) for row in host.ends()]
    return [*host.emitted, *events.emitted, *ends], host


def ends_of(windows: Iterable[Window]) -> dict[int, int]:
    """Return up to when the pCPUs are covered that are not covered to the end."""
    greatest: dict[int, int] = {}
    keys = []
    for window in windows:
        tscs = [raw.tsc for raw in window.records if raw.tsc is not None and not raw.is_wrap]
        if window.records:
            greatest[window.pcpu] = max([*tscs, greatest.get(window.pcpu, 0)])
            keys.append((window.pcpu, greatest[window.pcpu]))
    return rounds.ends_of(keys)


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
        tscs = {pcpu: each for pcpu, each in _tscs(run).items() if each}
        stretches += [(pcpu, _begin_of(run, pcpu), max(each)) for pcpu, each in tscs.items()]
    return stretches


def expected(
    emitted: Iterable[Emitted],
    base: Partial,
    windows: Sequence[Window],
    counts: Callable[[Emitted], Interval | None],
    span: tuple[int, int],
    named: Iterable[int] = (),
) -> Partial:
    """Return the Partial with what ``counts`` returns for each of ``emitted``.

    Args:
        base: of the whole trace; it gives what does not depend on the machines.
        windows: with the records that count.
        counts: the interval that counts, None for none.
        span: first and last TSC.
        named: vCPUs that have a row even if no record shows their state.
    """
    values: defaultdict[Count, list[int]] = defaultdict(list)
    for one in emitted:
        row = counts(one) if one.interval.metric not in _DROPPED else None
        if row is not None:
            values[Count(row.metric, row.a, row.b)].append(row.value)
    tscs = _tscs(windows)
    _add_unknown(values, span[1] - span[0], tscs, named)
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
                "first_tsc": np.array([_begin_of(windows, pcpu) for pcpu in tscs], np.int64),
                "last_tsc": np.array([max(each, default=0) for each in tscs.values()], np.int64),
                "blind_cycles": np.zeros(len(tscs), np.int64),
                "window_bytes": np.array([_bytes(windows, pcpu) for pcpu in tscs], np.int64),
            }
        ),
        classes=Columns({"group": groups, "files": np.ones(len(groups), np.int64)}),
        named_pcpus=base.named_pcpus.where(slice(0)),
        # An upper bound that allows for fewer of the recorder's interrupts is the tighter one.
        facts=base.facts.having(span_cycles=[span[1] - span[0]], half_full_windows=[0]),
    )


def _add_unknown(
    values: dict[Count, list[int]], span: int, pcpus: Iterable[int], vcpus: Iterable[int]
) -> None:
    """Add the time of pCPUs and vCPUs that is in no covered stretch."""
    spent: Counter[tuple[bool, int]] = Counter(dict.fromkeys(((True, pcpu) for pcpu in pcpus), 0))
    spent.update(dict.fromkeys(((False, vcpu) for vcpu in vcpus), 0))
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


def _begin_of(windows: Sequence[Window], pcpu: int) -> int:
    """Return the TSC of a pCPU's first record; if it is of a loss, of the beginning of that."""
    for window in windows:
        for raw in window.records:
            if window.pcpu == pcpu and raw.tsc is not None and not raw.is_wrap:
                began = raw.words[2] | raw.words[3] << 32 if raw.is_lost else raw.tsc
                return min(began, raw.tsc)
    return 0


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
        named: woken or blocked, with or without one.
        all_from: TSC from which all pCPUs have records.
        changes: TSCs of the records of each vCPU's state.
    """

    switched: dict[int, int]
    pcpus: set[int]
    vcpus: set[int]
    named: set[int]
    all_from: int
    changes: defaultdict[int, set[int]]

    def of_domain(self, domain: int) -> int:
        """Return when a record first shows the state of one of a domain's vCPUs."""
        tscs = (tsc for key, tscs in self.changes.items() if key >> 16 == domain for tsc in tscs)
        return min(tscs, default=1 << 62)


def known_of(windows: Sequence[Window], stretches: Sequence[Stretch]) -> Known:
    known = Known({}, set(), set(), set(), max(firsts_of(stretches).values()), defaultdict(set))
    for window in windows:
        tsc = 0
        for raw in window.records:
            tsc = tsc if raw.tsc is None else raw.tsc
            record = Record(raw.offset, window.pcpu, tsc, raw.tsc is not None, raw.event, raw.words)
            handler = handler_of(record)
            if raw.is_lost:
                # It names the vCPU that runs.
                key = (raw.words[1] & 0xFFFF) << 16 | raw.words[1] >> 16
                known.vcpus.add(key)
                known.changes[key].add(tsc)
                known.switched.setdefault(window.pcpu, tsc)
            if raw.event in _NAMING and len(raw.words) == 2:
                known.named.add((raw.words[0] & 0xFFFF) << 16 | raw.words[1] & 0xFFFF)
            if handler is on_runstate or handler is on_continue:
                known.vcpus.add(raw.words[0])
                known.changes[raw.words[0]].add(tsc)
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
        ends: the last TSC up to which a pCPU is covered that is not covered to the end.
        lacks: metrics of which records are left out, so that a loss cuts none of them off.
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
        ends: dict[int, int] | None = None,
        lacks: Collection[Metric] = (),
        is_all: bool = False,
        counts_all: bool = False,
    ) -> None:
        self._stretches = stretches
        self._tscs = tscs
        self._span = span
        self._known = known
        #: From there on a vCPU that does not run may run where there are no records.
        self._ends = ends or {}
        self._first_end = min(self._ends.values(), default=span[1])
        self._lacks = lacks
        self._is_all = is_all
        self._counts_all = counts_all

    def __call__(self, one: Emitted) -> Interval | None:
        row = one.interval
        metric = row.metric
        if metric in _OF_PCPUS:
            return None if metric is Metric.PCPU_UNKNOWN else self._of_pcpu(one)
        if metric is Metric.STATE_UNKNOWN or (metric is Metric.CUT and Metric(row.b) in self._lacks):
            return None
        of = Metric(row.b >> 32) if metric is Metric.OPEN else metric
        if (of in _OF_VCPUS or of is Metric.RESIDENCE) and row.a not in self._known.vcpus:
            return None
        if metric in _ACCOUNTS:
            return self._part(one, row.metric, row.b)
        if metric in _OF_WAKES and one.writer is not None:
            return self._of_wake(one, one.writer)
        if self._counts_all and (metric >= FIRST_COUNT or metric is Metric.HVM_EXIT):
            return row
        if self._is_whole(one):
            return row
        return self._part(one, Metric.OPEN, metric << 32 | row.b) if metric in _STATES else None

    def _is_whole(self, one: Emitted) -> bool:
        """Return whether what an interval follows from is in the covered stretches."""
        row = one.interval
        metric = row.metric
        if one.writer is None or self._run_of(one.writer, row.tsc) is None:
            return False
        is_interval = metric < FIRST_COUNT and metric not in _OF_ONE_RECORD and row.value > 0
        is_interval |= metric is Metric.EVENT_TAKEN
        if is_interval and (one.begin < self._span[0] or one.begin not in self._tscs):
            return False
        if one.since is not None and not self._is_known(*one.since):
            return False
        if metric in _OF_EVENTS:
            return row.tsc <= self._first_end
        if metric in _UNSEEN or one.ran_at is not None:
            runs = metric is Metric.DOMAIN_STATE and row.b in _RUN_STATES
            known = one.ran_at or (one.begin if runs else row.tsc)
            place_ends = row.tsc if one.place is None else self._ends.get(one.place, row.tsc)
            return known <= self._end_of(row.a) and row.tsc <= place_ends
        return True

    def _end_of(self, a: int) -> int:
        """Return until when it is known what does not run; an idle vCPU runs on its own pCPU only."""
        if a >> 16 == IDLE_DOMAIN:
            return self._ends.get(a & 0xFFFF, self._span[1])
        return self._first_end

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
        is_idle = row.metric is Metric.WAKE_WITHOUT_EFFECT
        until = self._first_end if one.place is None else self._ends.get(one.place, row.tsc)
        if not self._is_all and row.tsc > until:
            # Whether the vCPU was awake is not known.
            is_wake = is_idle or row.metric is Metric.WAKE_CAUSE
            return (
                Interval(Metric.WAKE_CAUSE, row.a, WakeCause.UNKNOWN << 32 | 1, 0, row.tsc)
                if is_wake
                else None
            )
        if is_idle or row.metric is Metric.IRQ_TO_WAKE:
            return row
        if one.seen_at > self._ends.get(writer, self._span[1]):
            return row._replace(b=WakeCause.UNKNOWN << 32)
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
        is_recorded = one.begin in self._known.changes.get(row.a, ())
        if of is Metric.DOMAIN_STATE and not self._is_all:
            since = max(since, self._known.of_domain(row.a))
        if is_recorded and not self._is_all:
            since = min(since, one.begin)
        if one.place is not None and not self._is_all:
            since = min((begin for pcpu, begin, _ in self._stretches if pcpu == one.place), default=since)
        until = self._span[1]
        if one.place is not None:
            until = self._ends.get(one.place, until)
        elif of is not Metric.DOMAIN_STATE or b & 0xFFFF_FFFF not in _RUN_STATES:
            until = min(until, self._end_of(row.a))
        part = min(row.tsc, until) - max(one.begin, since)
        is_head = one.begin < self._known.all_from and not is_recorded
        if of in _RUNNABLE and is_head and metric is Metric.OPEN:
            # No record shows the state before it.
            b = Metric.RUNNABLE_OTHER << 32
        return Interval(metric, row.a, b, part, row.tsc) if part > 0 else None

    def _of_pcpu(self, one: Emitted) -> Interval | None:
        row = one.interval
        part = sum(
            max(min(row.tsc, end) - max(one.begin, begin), 0)
            for pcpu, begin, end in self._stretches
            if pcpu == row.a and (self._is_all or pcpu in self._known.pcpus or row.metric is Metric.PCPU_LOST)
        )
        return Interval(row.metric, row.a, row.b, part, row.tsc) if part > 0 else None
