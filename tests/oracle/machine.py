"""A slow, simple reference implementation of the state machines, to compare the compiled ones with.

It has dicts, small classes and one handler for each kind of record, no arrays.  It
takes the oracle reader's records in merged order.  If the two implementations differ,
read this one first.  Its rules, in addition to those in ``metrics``:

Knowledge
    A pCPU's time begins with its first timed record or, if that is LOST_RECORDS, with the loss.  A
    placeholder vCPU (default domain, number = pCPU) is its current one, until a scheduling record names the
    real one.  A vCPU's first runstate record makes its state known.  If that record says that it ran, while
    the placeholder is current, it has run since the pCPU's first TSC.
Open intervals
    An interval of a state that begins before the first record about it, that a loss cuts off, or that is
    open at the end is OPEN: it lasted at least as long.  Only those between two records enter the metric.
Time of a pCPU
    It is idle or runs a guest from the first switch that says so, lost in a loss, and unknown otherwise.
Budgets
    A vCPU that is preempted after its budget was burnt to nothing waits for its budget, until that is
    replenished; then it waits like any other.
Wakes
    A wake that finds the vCPU offline and woken before does not begin another measurement: it was paused.
    The scheduler's record of the next vCPU, with the time that it has waited, shows whether the vCPU can
    have run between the wake and this run on a pCPU without records.
Exits
    An exit ends at the next entry of the vCPU, or when the vCPU leaves the pCPU.
Virtual timers
    The time from one tick to the next, by the vCPU and the period that it last set.
Runstates
    A record whose old state is not the vCPU's is a mismatch: the interval that it ends
    is not measured, and the new state holds from there.  But a running vCPU is stopped only by a record of
    its own pCPU that says "running to ...": other records are late and are ignored.  Running
    in two places is a mismatch too; a late deschedule gives a negative HANDOFF.  Intervals of zero cycles
    are not emitted, negative ones become NEGATIVE, and the state that follows is counted from the later time.
Domains
    The state of a domain is that of its known vCPUs that are not lost; it is LOST
    if all known vCPUs are lost.
Loss
    The pCPU is blind from LOST_RECORDS' first_tsc up to its next record (the loss ends at
    LOST_RECORDS' own TSC).  At first_tsc its current vCPU becomes lost, and so do all that do not run.
    While any pCPU is blind, each vCPU that stops running (except idle vCPUs) becomes lost.  A lost vCPU is
    found when it runs.  The vCPU that LOST_RECORDS names runs on the pCPU from the end of the loss.
    Nothing that a vCPU has begun continues across a loss.
Hole
    Windows that are missing are a loss, from the pCPU's last record to the end of the hole, of which Xen does
    not know: the time of the pCPU, and of the vCPUs that become lost by it, is unknown.  A vCPU that does
    not run becomes lost at the beginning of its state at the earliest, because the hole may be found later.
Causes
    The cause of a wake is the record right before it on the pCPU: an event channel operation, or another
    hypercall that can wake (sched_op, domctl, VCPUOP_up).  Otherwise it is the interrupt whose
    [in, out] contains the wake, if its HW_IRQ_HANDLED comes before a record of a guest or a
    switch; otherwise a timer or something else.  It is unknown before the first scheduling record,
    right after a loss, and if a loss comes before the explanation.
Skew
    A vCPU runs in one place at a time, and nothing else changes its runstate meanwhile.  Its stays on a
    pCPU come from that pCPU's own records: "to running", then "running to" as the next switch, without a
    loss in between; any other runstate record is a stay of zero length.  A stay on one pCPU, and each of the
    last eight that was on another, exclude all differences of the two TSCs that would make them overlap.
    If 0 is excluded, the TSCs differ; from the first such proof on, everything excluded is emitted.
PV upcalls
    A vCPU that blocked by its own call and runs again (without a preemption
    in between), or that goes on where it is (CONTINUE_RUNNING) before it does anything else, is in the
    upcall until the iret that no trap explains.  If it forces a callback in between, that iret may be that
    of another upcall inside, and neither is measured.  Each trap and page fault explains one iret.
    Blocking forgets traps.  The compat sched_op has no recorded command: it was a block call if a BLOCK
    record follows before another record of the guest.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import NamedTuple

from oracle.pending import Everywhere, Pending
from oracle.reader import HOLE, HOLE_TO_END, LOST_RECORDS, Record
from xtrace.analysis.state_machine.metrics import (
    ADDRESS_MOST,
    FRAME_MOST,
    PENDING_MAX,
    RECENT_MAX,
    TICK_PERIOD_MASK,
    AccessKind,
    Detail,
    DomainState,
    Metric,
    RipSource,
    VirtualTimer,
    WakeCause,
    Woken,
)
from xtrace.probes.catalog.lookup import by_id

IDLE, STAND_IN = 0x7FFF, 0x8000
NOBODY = STAND_IN << 16 | 0xFFFF
RUNNING, RUNNABLE, BLOCKED, OFFLINE, LOST, UNKNOWN = range(6)
LOW = 0xFFFF_FFFF
#: Hypercall numbers and ids of PV records that are only counted; the rare ones above these give intervals.
COUNTED_OPS, PV_EVENTS = 64, 32
GUEST_CLASS = 1 << 27
ALWAYS = (-(1 << 62), 1 << 62)
STACK_SWITCH, XEN_VERSION, GRANT_TABLE_OP, IRET, VCPU_OP, DOMCTL = 3, 17, 20, 23, 24, 36
SCHED_OPS, EVENT_CHANNEL_OPS, SCHED_OP, SCHED_OP_COMPAT, EVENT_CHANNEL_OP = (29, 6), (32, 16), 29, 6, 32
BLOCK_COMMAND, UP_COMMAND = 1, 1
KICK_VECTOR = 0xFC
PV, HVM = "pv", "hvm"
HEADS = {RUNNABLE: Metric.RUNNABLE_OTHER, BLOCKED: Metric.BLOCKED, OFFLINE: Metric.OFFLINE}
OFF = (
    Metric.RUNNABLE_WAKE,
    Metric.RUNNABLE_PREEMPT,
    Metric.RUNNABLE_OTHER,
    Metric.BLOCKED,
    Metric.OFFLINE,
)
UNSEEN_PCPUS = 64
NEGATIVE_NS, LONGEST_RUN = 0xF000_0000, 1 << 32
MOST = 1 << 62


class Interval(NamedTuple):
    """An interval that the machines emit; ``tsc`` is its end."""

    metric: Metric
    a: int
    b: int
    value: int
    tsc: int


class Told(NamedTuple):
    """A single event; ``tsc`` is its end."""

    detail: Detail
    a: int
    b: int
    value: int
    tsc: int


class Count(NamedTuple):
    """Key of a figure that is only counted."""

    metric: Metric
    a: int
    b: int


@dataclass(slots=True)
class Upcall:
    """An upcall that has not returned: begun at ``low`` at the earliest, ``high`` at the latest."""

    low: int
    high: int | None = None
    traps: int = 0
    is_forced: bool = False  # a callback was forced in it


@dataclass(slots=True)
class Timer:
    """A periodic timer that Xen emulates for a vCPU."""

    period_ns: int = 0  # 0: not known
    ticked: int | None = None


@dataclass(slots=True)
class Begun:
    """Everything that a vCPU has begun and that a loss of records cuts off."""

    resident_since: int | None = None
    wake: tuple[int, int] | None = None  # TSC, waker's pCPU
    waker: int = NOBODY  # the vCPU that ran there
    paused: bool = False  # offline since the wake
    left: tuple[int, int] | None = None  # TSC, pCPU of the deschedule
    ran_at: int = 0
    fresh: bool = False
    blocked_by_call: bool = False
    block_call: bool | None = None  # None: no call; False: a block call only if a BLOCK record follows
    upcall: Upcall | None = None
    traps: int = 0
    switched: bool = False
    forced: int | None = None
    exit: tuple[int, int] | None = None  # TSC, reason
    injected: int | None = None
    vector: int = 0  # of the last injection
    window: int | None = None
    waited: int | None = None  # the window of the last injection, until the entry after it
    entered: int | None = None  # VMENTRY after an injection
    skew: int | None = None  # runs here since then; its deschedule elsewhere has not been seen
    timers: dict[VirtualTimer, Timer] = field(default_factory=dict)
    handled: int | None = None  # the exit before the next entry
    exit_rip: int = 0  # and its address, and the host's vector
    exit_vector: int = -1
    access: int = 0  # in it: kind << 56 | address
    resumed: int | None = None  # the last entry, until the exit
    guest_cycles: int = 0  # in the guest, and in exits, since the page table is that of ``space``
    xen_cycles: int = 0
    space: tuple[int, int] | None = None  # frame, TSC
    next_frame: int | None = None
    icr_target: int | None = None
    waking: bool = False
    wake_vector: int | None = None
    wake_entry: int | None = None
    ipis: dict[int, tuple[int, int]] = field(default_factory=dict)  # by vector: TSC, sender


class Stay(NamedTuple):
    """An interval of a vCPU on a pCPU."""

    pcpu: int
    begin: int
    end: int


@dataclass(slots=True)
class Vcpu:
    key: int
    state: int = UNKNOWN
    since: int | None = None
    is_open: bool = False  # no record shows when the state began
    reason: Metric = Metric.RUNNABLE_OTHER
    pcpu: int | None = None
    known_at: int | None = None
    first_state: int = RUNNING
    moved_here: bool = False  # otherwise it may have been resident before its first run
    off: Counter[Metric] = field(default_factory=Counter)  # cycles by state since it left a pCPU
    type: str | None = None
    by_hole: bool = False  # lost by a hole
    is_depleted: bool = False  # its budget is used up
    begun: Begun = field(default_factory=Begun)
    pending: Pending = field(default_factory=Pending)
    stays: deque[Stay] = field(default_factory=lambda: deque(maxlen=RECENT_MAX))

    @property
    def domain(self) -> int:
        return self.key >> 16

    @property
    def is_guest(self) -> bool:
        return self.domain not in (IDLE, STAND_IN)

    @property
    def metric(self) -> Metric | None:
        """The metric of its current state."""
        if self.state == RUNNABLE:
            return self.reason
        states = {RUNNING: Metric.RUNNING, BLOCKED: Metric.BLOCKED, OFFLINE: Metric.OFFLINE}
        states[LOST] = Metric.STATE_UNKNOWN if self.by_hole else Metric.STATE_LOST
        return states.get(self.state)


@dataclass(slots=True)
class Loss:
    begin: int
    end: int
    vcpu: int
    is_hole: bool = False


@dataclass(slots=True)
class Pcpu:
    number: int
    seen: bool = False  # it has written a record
    first_tsc: int | None = None
    last_tsc: int = 0
    current: Vcpu | None = None
    account: Metric = Metric.PCPU_UNKNOWN
    since: int = 0  # its time counts as ``account`` since then
    has_begun: bool = False  # a record shows when the current vCPU's run began
    next: tuple[int, int] | None = None  # TSC, ns that the next vCPU has waited
    quiet_most: int | None = None  # cycles without a record after which the scheduler acts
    taken_off: Pcpu | None = None  # with core scheduling, where the last record took a vCPU off
    loss: Loss | None = None
    # Of the last record: the cause of wake that it may be, its argument, its TSC.
    cause: tuple[WakeCause, int, int] | None = None
    unexplained: list[tuple[Vcpu, int]] = field(default_factory=list)
    idle: int | None = None
    run: tuple[Vcpu, int | None] | None = None  # last vCPU switched, TSC of its switch to running


@dataclass(slots=True)
class Domain:
    vcpus: list[Vcpu] = field(default_factory=list)
    state: DomainState | None = None
    since: int = 0
    is_open: bool = False
    known_at: int | None = None
    part_until: int = 0

    def state_now(self) -> DomainState | None:
        states = {vcpu.state for vcpu in self.vcpus} - {UNKNOWN}
        waits = bool(states & {BLOCKED, OFFLINE})
        if not states:
            return None
        if states == {LOST}:
            return DomainState.LOST
        if RUNNING in states and RUNNABLE in states:
            return DomainState.CONCURRENCY_HAZARD
        if RUNNING in states:
            return DomainState.PARTIAL_RUN if waits else DomainState.FULL_RUN
        if RUNNABLE in states:
            return DomainState.PARTIAL_CONTENTION if waits else DomainState.FULL_CONTENTION
        return DomainState.BLOCKED if BLOCKED in states else DomainState.OFFLINE


@dataclass(slots=True)
class Result:
    """The result: intervals in order, those still open at the end, counts, single events in order."""

    intervals: list[Interval]
    ends: list[Interval]
    counts: Counter[Count]
    hidden_hole_count: int
    details: list[Told]


def run(records: Iterable[Record], window: tuple[int, int] = ALWAYS) -> Result:
    """Run ``records`` through the machines; the window of TSCs restricts only counts."""
    host = Host(window)
    for record in records:
        host.take(record)
    return Result(host.intervals, host.ends(), +host.counts, host.hidden_hole_count, host.details)


Handler = Callable[["Host", Pcpu, Record], None]


class Host:
    """All pCPUs, vCPUs and domains."""

    def __init__(self, window: tuple[int, int] = ALWAYS) -> None:
        self.pcpus: dict[int, Pcpu] = {}
        self.vcpus: dict[int, Vcpu] = {}
        self.domains: dict[int, Domain] = {}
        self.intervals: list[Interval] = []
        self.details: list[Told] = []
        self.counts: Counter[Count] = Counter()
        self.first_tsc: int | None = None
        self.last_tsc = 0
        self._window = window
        self._inside = True
        self._is_skewed = False
        self._run_ns = self._run_cycles = self._first_loss = 0
        self.has_ended = False  # a pCPU is not covered any more
        self._has_cores = False
        self._short_runs = self._slice_ns = 0
        #: Times without a record of pCPUs that run a vCPU with a slice, and whether it is over by then.
        self._quiet: list[tuple[int, bool]] = []
        self.events = Everywhere()

    # --- out -------------------------------------------------------------------------------

    def put(self, metric: Metric, a: int, b: int, value: int, tsc: int) -> None:
        self.intervals.append(Interval(metric, a, b, value, tsc))

    def tell(self, detail: Detail, a: int, b: int, value: int, tsc: int) -> None:
        self.details.append(Told(detail, a, b, value, tsc))

    def count(self, metric: Metric, a: int, b: int = 0) -> None:
        self.counts[Count(metric, a, b)] += self._inside

    def put_rip(self, vcpu: Vcpu, source: RipSource, rip: int, tsc: int) -> None:
        self.put(Metric.RIP, vcpu.key | source << 32, signed(rip), 0, tsc)

    def ends(self) -> list[Interval]:  # noqa: C901 - one case after the other
        """Return the time before each state was known, and the intervals still open at the end."""
        last, first = self.last_tsc, self.first_tsc or 0
        rows = []
        all_recorded = max((pcpu.first_tsc or 0 for pcpu in self.pcpus.values() if pcpu.seen), default=0)

        def unknown(metric: Metric, a: int, known_at: int | None) -> None:
            until = last if known_at is None else known_at
            rows.append(Interval(metric, a, 0, until - first, until))

        def still_open(metric: Metric, a: int, b: int, since: int) -> None:
            rows.append(Interval(Metric.OPEN, a, metric << 32 | b, last - since, last))

        for vcpu in self.vcpus.values():
            if vcpu.domain == STAND_IN:
                continue
            known_at = last if vcpu.known_at is None else vcpu.known_at
            begin = known_at
            if vcpu.first_state in HEADS and known_at <= (self._first_loss or last + 1):
                begin = min(max(all_recorded, first), known_at)
                head, cycles = HEADS[vcpu.first_state], known_at - begin
                rows.append(Interval(Metric.OPEN, vcpu.key, head << 32, cycles, known_at))
                rows.append(Interval(Metric.UNPROVEN, vcpu.key, head, cycles, known_at))
            unknown(Metric.STATE_UNKNOWN, vcpu.key, begin)
            rows += [Interval(Metric.UNPROVEN, vcpu.key, metric, vcpu.off[metric], last) for metric in OFF]
            if vcpu.since is not None and vcpu.metric is not None and vcpu.state == LOST:
                rows.append(Interval(vcpu.metric, vcpu.key, 0, last - vcpu.since, last))
            elif vcpu.since is not None and vcpu.metric is not None:
                still_open(vcpu.metric, vcpu.key, 0, vcpu.since)
                if vcpu.metric in OFF:
                    rows.append(Interval(Metric.UNPROVEN, vcpu.key, vcpu.metric, last - vcpu.since, last))
            resident = vcpu.begun.resident_since
            if resident is not None and vcpu.pcpu is not None:
                still_open(Metric.RESIDENCE, vcpu.key, vcpu.pcpu, resident)
        for number, domain in self.domains.items():
            if number == STAND_IN:
                continue
            unknown(Metric.DOMAIN_UNKNOWN, number, domain.known_at)
            if domain.state is not None:
                still_open(Metric.DOMAIN_STATE, number, domain.state, domain.since)
            known = last if domain.known_at is None else domain.known_at
            until = last if any(vcpu.known_at is None for vcpu in domain.vcpus) else domain.part_until
            rows.append(Interval(Metric.DOMAIN_PART, number, 0, until - known, until))
        for _, pcpu in sorted(self.pcpus.items()):
            if pcpu.first_tsc is None or not pcpu.seen:
                continue
            unknown(Metric.PCPU_UNKNOWN, pcpu.number, pcpu.first_tsc)
            rows.append(Interval(pcpu.account, pcpu.number, 0, last - pcpu.since, last))
        rows = [row for row in rows if row.value > 0]
        for vcpu in self.vcpus.values():
            if vcpu.begun.exit is not None and vcpu.domain != STAND_IN:
                rows.append(Interval(Metric.EXIT_WITHOUT_TIME, vcpu.key, vcpu.begun.exit[1], 0, last))
            if vcpu.domain != STAND_IN:
                rows += self.hvm_ends(vcpu, last)
        for pcpu in self.pcpus.values():
            for vcpu, _ in pcpu.unexplained:
                cause = WakeCause.UNKNOWN << 32
                rows.append(Interval(Metric.WAKE_CAUSE, vcpu.key, cause, 0, last))
        return rows

    def hvm_ends(self, vcpu: Vcpu, last: int) -> list[Interval]:
        begun, key, rows = vcpu.begun, vcpu.key, []
        if begun.access:
            rows.append(Interval(Metric.ACCESS_WITHOUT_TIME, key, begun.access, 0, last))
        if begun.space is not None:
            frame, since = begun.space
            if last > since:
                b = Metric.ADDRESS_SPACE << 32 | frame
                rows.append(Interval(Metric.OPEN, key, b, last - since, last))
            guest, xen = min(begun.guest_cycles, MOST), min(begun.xen_cycles, MOST)
            rows.append(Interval(Metric.ADDRESS_SPACE_GUEST, key, frame, guest, last))
            rows.append(Interval(Metric.ADDRESS_SPACE_XEN, key, frame, xen, last))
        return rows

    # --- in --------------------------------------------------------------------------------

    def take(self, record: Record) -> None:
        tsc = record.tsc
        if tsc >= 1 << 62 or is_unknown(record.event):
            return  # damage, or a record of a newer Xen
        pcpu = self.pcpus.setdefault(record.pcpu, Pcpu(record.pcpu))
        handler = handler_of(record)
        is_hole = handler in (on_hole, on_hole_to_end)
        if not pcpu.seen and is_hole:
            return
        if not pcpu.seen and tsc > 0:
            self.meet(pcpu, loss_begin(record) if handler is on_lost else tsc)
        self._inside = self._window[0] <= tsc <= self._window[1]
        if handler is on_lost or is_hole:
            pcpu.cause = None
        elif pcpu.loss is not None:
            self.end_loss(pcpu, pcpu.loss)
        if pcpu.quiet_most and tsc > pcpu.last_tsc and handler is not on_lost and not is_hole:
            self._quiet.append((tsc - pcpu.last_tsc, tsc - pcpu.last_tsc > pcpu.quiet_most))
        if not is_hole:
            self.last_tsc = max(self.last_tsc, tsc)
        if record.event >> 12 != 0x804:  # oracle.delivery handles those
            self.handle(pcpu, record, handler)
        pcpu.last_tsc = pcpu.last_tsc if is_hole else max(pcpu.last_tsc, tsc)

    def handle(self, pcpu: Pcpu, record: Record, handler: Handler | None) -> None:
        tsc = record.tsc
        cause, pcpu.cause = pcpu.cause, None
        if cause and cause[0] in (WakeCause.EVENT_CHANNEL, WakeCause.HYPERCALL):
            kind, _, began = cause
            if handler is not on_wake or tsc - began > 2**20:
                cause = None
                if kind == WakeCause.EVENT_CHANNEL:
                    self.send_woke_nobody(pcpu, tsc)
        if handler is on_wake:
            self.wake(pcpu, record, cause)
        elif handler is not None:
            handler(self, pcpu, record)

    def meet(self, pcpu: Pcpu, first: int) -> None:
        pcpu.seen = True
        if pcpu.first_tsc is None:
            pcpu.first_tsc = pcpu.since = first
        stand_in = self.vcpu(STAND_IN << 16 | pcpu.number)
        pcpu.current = pcpu.current or stand_in
        self.first_tsc = first if self.first_tsc is None else min(self.first_tsc, first)

    def vcpu(self, key: int) -> Vcpu:
        """Return the vCPU with that key; create it if needed."""
        if key not in self.vcpus:
            self.vcpus[key] = Vcpu(key, pending=Pending(self.events))
            self.domains.setdefault(key >> 16, Domain()).vcpus.append(self.vcpus[key])
        return self.vcpus[key]

    # --- runstates -------------------------------------------------------------------------

    def set_state(self, vcpu: Vcpu, state: int, tsc: int) -> None:
        old, since, metric = vcpu.state, vcpu.since, vcpu.metric
        if old == UNKNOWN:
            vcpu.known_at, vcpu.first_state = tsc, state
            if self.domains[vcpu.domain].state is not None:
                self.domains[vcpu.domain].part_until = max(tsc, self.last_tsc)
        if since is not None and metric is not None:
            is_cut = state == LOST and old != LOST
            if tsc > since and old != LOST and (is_cut or vcpu.is_open):
                self.put(Metric.OPEN, vcpu.key, metric << 32, tsc - since, tsc)
            elif tsc > since:
                self.put(metric, vcpu.key, 0, tsc - since, tsc)
            elif tsc < since:
                self.put(Metric.NEGATIVE, vcpu.key, metric, 0, tsc)
            if tsc > since and metric in OFF:
                vcpu.off[metric] += tsc - since
            if is_cut:
                self.cut(vcpu, metric, tsc)
        if state == RUNNABLE:
            preempted = Metric.RUNNABLE_BUDGET if vcpu.is_depleted else Metric.RUNNABLE_PREEMPT
            reasons = {RUNNING: preempted}
            reasons |= dict.fromkeys((BLOCKED, OFFLINE), Metric.RUNNABLE_WAKE)
            vcpu.reason = reasons.get(old, Metric.RUNNABLE_OTHER)
        if state == OFFLINE and vcpu.begun.wake is not None:
            vcpu.begun.paused = True
        vcpu.state = state
        vcpu.is_open = False
        vcpu.since = max(tsc, since or 0)
        if state != old:
            self.tell(Detail.STATE, vcpu.key, old << 4 | state, 0, tsc)
        self.update_domain(vcpu.domain, tsc, is_change=not {old, state} & {UNKNOWN, LOST})

    def update_domain(self, number: int, tsc: int, *, is_change: bool) -> None:
        domain = self.domains[number]
        state = domain.state_now()
        if state == domain.state:
            return
        old = domain.state
        if old is None:
            domain.known_at = tsc
        elif tsc > domain.since and (domain.is_open or not is_change):
            self.put(Metric.OPEN, number, Metric.DOMAIN_STATE << 32 | old, tsc - domain.since, tsc)
        elif tsc > domain.since:
            self.put(Metric.DOMAIN_STATE, number, old, tsc - domain.since, tsc)
        domain.is_open = not is_change
        domain.state, domain.since = state, max(tsc, domain.since)

    def mismatch(self, vcpu: Vcpu, tsc: int) -> None:
        """Count a contradiction: the time since the last record of the vCPU's state becomes unknown."""
        self.count(Metric.STATE_MISMATCH, vcpu.key)
        if vcpu.since is not None and tsc > vcpu.since:
            self.put(Metric.STATE_UNKNOWN, vcpu.key, 0, tsc - vcpu.since, tsc)
        vcpu.since = max(tsc, vcpu.since or 0)

    def count_time(self, pcpu: Pcpu, account: Metric, tsc: int) -> None:
        """Count the pCPU's time as ``account`` from ``tsc`` on."""
        if account is pcpu.account:
            return
        if tsc > pcpu.since:
            if pcpu.since:
                self.put(pcpu.account, pcpu.number, 0, tsc - pcpu.since, tsc)
            elif not pcpu.seen:
                pcpu.first_tsc = tsc
            pcpu.since = tsc
        pcpu.account = account

    def tell_run(self, pcpu: Pcpu, tsc: int) -> None:
        if pcpu.account in (Metric.PCPU_RUNNING, Metric.PCPU_IDLE) and pcpu.current is not None:
            where = pcpu.number << 1 | pcpu.has_begun
            self.tell(Detail.RUN, pcpu.current.key, where, max(tsc - pcpu.since, 0), tsc)

    def leave(self, pcpu: Pcpu, tsc: int) -> None:
        """End the current vCPU's time on the pCPU."""
        self.tell_run(pcpu, tsc)
        self.count_time(pcpu, Metric.PCPU_UNKNOWN, tsc)
        pcpu.current = None

    def enter(self, pcpu: Pcpu, vcpu: Vcpu, tsc: int, *, begins: bool) -> None:
        """Make ``vcpu`` run on ``pcpu`` from ``tsc`` on; without ``begins``, it may have run before."""
        before = pcpu.current
        if before is not None and before is not vcpu:
            self.leave(pcpu, tsc)
            if before.state == RUNNING and before.pcpu == pcpu.number:
                self.lose(before, tsc)
        begun = vcpu.begun
        if vcpu.state == RUNNING:
            self.mismatch(vcpu, tsc)
            if vcpu.pcpu != pcpu.number:
                begun.skew = tsc
        elif begun.left is not None and begun.left[1] != pcpu.number:
            self.handoff(begun.left[1], pcpu.number, begun.left[0], tsc)
        vcpu.pending.begin(
            is_new=vcpu.state != RUNNING and begun.left is not None, is_woken=begun.wake is not None
        )
        proof = self.proof_of(pcpu, vcpu, tsc)
        self.end_wait(pcpu, vcpu, proof, tsc)
        if begun.resident_since is None or vcpu.pcpu != pcpu.number:
            if begun.resident_since is not None and vcpu.pcpu is not None and tsc > begun.resident_since:
                if vcpu.moved_here:
                    self.put(Metric.RESIDENCE, vcpu.key, vcpu.pcpu, tsc - begun.resident_since, tsc)
                else:
                    b = Metric.RESIDENCE << 32 | vcpu.pcpu
                    self.put(Metric.OPEN, vcpu.key, b, tsc - begun.resident_since, tsc)
            vcpu.moved_here = begun.resident_since is not None
            begun.resident_since = tsc
        if begun.blocked_by_call and vcpu.state == RUNNABLE:
            begun.upcall = Upcall(low=tsc)
        begun.blocked_by_call = False
        begun.ran_at, begun.fresh = tsc, True
        vcpu.is_depleted = False
        vcpu.pcpu = pcpu.number
        self.set_state(vcpu, RUNNING, tsc)
        vcpu.is_open = not begins
        for metric in OFF:
            is_proven = proof == "since it left" or (proof and metric not in (Metric.BLOCKED, Metric.OFFLINE))
            if vcpu.off[metric] and not is_proven:
                self.put(Metric.UNPROVEN, vcpu.key, metric, vcpu.off[metric], tsc)
        vcpu.off.clear()
        self.count_time(pcpu, Metric.PCPU_IDLE if vcpu.domain == IDLE else Metric.PCPU_RUNNING, tsc)
        self.make_current(pcpu, vcpu, tsc, begins=begins)

    def make_current(self, pcpu: Pcpu, vcpu: Vcpu, tsc: int, *, begins: bool) -> None:
        if pcpu.current is not vcpu:
            pcpu.has_begun = begins
            self.tell(Detail.RUN_BEGIN, vcpu.key, pcpu.number, int(begins), tsc)
        pcpu.current, pcpu.next = vcpu, None

    def end_wait(self, pcpu: Pcpu, vcpu: Vcpu, proof: str | None, tsc: int) -> None:
        """Measure the time from the wake to now, when the vCPU begins to run."""
        wake, vcpu.begun.wake = vcpu.begun.wake, None
        paused = vcpu.begun.paused
        if wake is not None:
            vcpu.begun.paused = False
        if wake is None or vcpu.metric != Metric.RUNNABLE_WAKE:
            return
        woken_at, waker = wake
        flags = 0
        if waker != pcpu.number:
            flags += Woken.MOVED
        if paused:
            flags += Woken.PAUSED
        if proof is None:
            flags += Woken.UNPROVEN
        self.put(Metric.WAKE_TO_RUNNING, vcpu.key, flags, tsc - woken_at, tsc)
        where = pcpu.number << 48 | waker << 32 | vcpu.begun.waker
        self.tell(Detail.WOKEN, vcpu.key, where, tsc - woken_at, tsc)
        if waker != pcpu.number:
            self.handoff(waker, pcpu.number, woken_at, tsc)

    def proof_of(self, pcpu: Pcpu, vcpu: Vcpu, tsc: int) -> str | None:
        """Return since when the vCPU cannot have run anywhere, by the scheduler's record; None if unknown."""
        if pcpu.next is None or not self._run_ns:
            return None
        rate = self._run_cycles / self._run_ns
        noted, wait_ns = pcpu.next
        if wait_ns >= 0xF0000000:
            return None  # a negative one
        if vcpu.begun.left is not None:
            # Since Xen 4.13 the vCPU has waited since it left its pCPU; 32 bits of ns wrap.
            left = vcpu.begun.left[0]
            wraps = (noted - left - wait_ns * rate) / (2**32 * rate)
            allowed = (tsc - left) / 1024 + 50_000 * rate
            if abs(wraps - int(wraps + 0.5)) * 2**32 * rate <= allowed:
                return "since it left"
            if noted - wait_ns * rate < left - allowed:
                return None  # it ran here until later
        since = vcpu.since or 0
        # Another pCPU may have noted when it left, and the clocks of the two be 1 ms apart.
        before = since - (noted - wait_ns * rate)
        if abs(before) <= (tsc - since) / 1024 + 5_000 * rate or before >= 1_000_000 * rate:
            return "since it became runnable"
        return None

    def handoff(self, origin: int, target: int, begin: int, end: int) -> None:
        self.put(Metric.HANDOFF, origin << 16 | target, 0, end - begin, end)

    def stop(self, pcpu: Pcpu, vcpu: Vcpu, new: int, tsc: int) -> None:
        """Remove a running vCPU from its pCPU."""
        begun = vcpu.begun
        if begun.skew is not None and vcpu.pcpu is not None and vcpu.pcpu != pcpu.number:
            self.put(Metric.HANDOFF, pcpu.number << 16 | vcpu.pcpu, 0, begun.skew - tsc, tsc)
            begun.skew = None
            return
        if pcpu.current is vcpu:
            self.leave(pcpu, tsc)
        else:
            self.mismatch(vcpu, tsc)
        begun.left, begun.skew, begun.forced = (tsc, pcpu.number), None, None
        vcpu.pending.stop()
        if begun.upcall is not None:
            begun.upcall = None
            self.count(Metric.UPCALL_PREEMPTED, vcpu.key)
        if new == BLOCKED:
            begun.traps, begun.switched = 0, False
            if begun.wake_entry is not None and begun.wake_vector is not None:
                ran = max(tsc - begun.wake_entry, 0)
                self.put(Metric.WAKE_TO_HALT, vcpu.key, begun.wake_vector, ran, tsc)
            begun.wake_vector = begun.wake_entry = None
        begun.waking = begun.waking and new == OFFLINE
        self.set_state(vcpu, new, tsc)
        losses = [other.loss for other in self.pcpus.values() if other.loss is not None]
        if vcpu.domain != IDLE and losses:
            self.lose(vcpu, tsc)
            vcpu.by_hole = all(loss.is_hole for loss in losses)

    def switch(self, writer: Pcpu, vcpu: Vcpu, old: int, new: int, tsc: int) -> None:
        """Handle a runstate record, which with core scheduling can be about a sibling of the writer.

        One pCPU writes the switches of its core in pairs: the vCPU that leaves, and the one that runs next on
        the same pCPU.  An idle vCPU has the number of its pCPU.
        """
        is_switch = (old == RUNNING) != (new == RUNNING)
        number = vcpu.key & 0xFFFF
        if is_switch and vcpu.domain == IDLE and number != writer.number:
            self._has_cores = True
        if not self._has_cores or RUNNING not in (old, new):
            self.change(writer, vcpu, old, new, tsc)
            return
        before, writer.taken_off = writer.taken_off, None
        place: Pcpu | None = None
        if vcpu.domain == IDLE:
            there = self.pcpus.setdefault(number, Pcpu(number))
            place = there if number < UNSEEN_PCPUS or there.seen else None
        elif old == RUNNING:
            known = vcpu.state == RUNNING and vcpu.pcpu is not None
            place = self.pcpus.get(vcpu.pcpu if known and vcpu.pcpu is not None else -1)
        else:
            place = before
        if old == RUNNING != new:
            writer.taken_off = place
        if place is not None:
            self.change(place, vcpu, old, new, tsc)
            return
        on = self.pcpus.get(vcpu.pcpu if vcpu.pcpu is not None else -1)
        if vcpu.state == RUNNING and on is not None and on.current is vcpu:
            self.leave(on, tsc)
        if vcpu.state not in (UNKNOWN, old):
            self.mismatch(vcpu, tsc)
        if RUNNING in (vcpu.state, new):
            self.lose(vcpu, tsc)
        if new == RUNNING:
            vcpu.pcpu = None
        self.set_state(vcpu, new, tsc)
        vcpu.is_open = old == new == RUNNING

    def change(self, pcpu: Pcpu, vcpu: Vcpu, old: int, new: int, tsc: int) -> None:  # noqa: C901
        """Handle a runstate record."""
        self.note_stay(pcpu, vcpu, old, new, tsc)
        first = vcpu.state == UNKNOWN
        if vcpu.state == UNKNOWN and not self.becomes_known(pcpu, vcpu, old, tsc):
            return
        if first and old == new:
            return
        if old == RUNNING != new:
            self.close_exit(vcpu, tsc)
        if vcpu.state == LOST:
            if new == RUNNING:
                self.enter(pcpu, vcpu, tsc, begins=old != RUNNING)
            elif pcpu.current is vcpu:
                self.leave(pcpu, tsc)
        elif vcpu.state == RUNNING:
            if new == RUNNING:
                self.enter(pcpu, vcpu, tsc, begins=old != RUNNING)
            elif old == RUNNING:
                self.stop(pcpu, vcpu, new, tsc)
            else:
                self.count(Metric.STATE_MISMATCH, vcpu.key)
        else:
            if vcpu.state != old:
                self.mismatch(vcpu, tsc)
            if new == RUNNING:
                self.enter(pcpu, vcpu, tsc, begins=old != RUNNING)
                return
            if (old, new) == (BLOCKED, RUNNABLE):
                vcpu.begun.waking = True
            if (old, new) == (BLOCKED, RUNNABLE) and vcpu.begun.wake is not None:
                self.put(Metric.WAKE_TO_RUNNABLE, vcpu.key, 0, tsc - vcpu.begun.wake[0], tsc)
            self.set_state(vcpu, new, tsc)

    def becomes_known(self, pcpu: Pcpu, vcpu: Vcpu, old: int, tsc: int) -> bool:
        """Set the state that a vCPU's first runstate record says it had; return False if it cannot be."""
        if old != RUNNING:
            self.set_state(vcpu, old, tsc)
            return True
        if pcpu.current is not None and pcpu.current.domain != STAND_IN:
            self.count(Metric.STATE_MISMATCH, vcpu.key)
            return False
        begin = tsc if pcpu.current is None else pcpu.first_tsc or tsc
        self.enter(pcpu, vcpu, begin, begins=False)
        return True

    def add_run(self, ns: int, cycles: int) -> None:
        """Add a run whose two ends were recorded to the sums of the TSC rate, unless a part is missing."""
        if self._run_ns >= 100e6 and not self._has_cores:
            lasted_ns = cycles / (self._run_cycles / self._run_ns)
            allowed = 60e6 + lasted_ns * (0.02 + 60e6 / self._run_ns)
            if lasted_ns < NEGATIVE_NS and lasted_ns - ns > allowed:
                self._short_runs += 1
                return
        if cycles < LONGEST_RUN:
            self._run_ns += ns
            self._run_cycles += cycles

    def quiet_most_of(self, slice_ns: int) -> int | None:
        """Return the cycles without a record after which the scheduler acts; None if that is not known."""
        if slice_ns >= 1e9 or self._run_ns < 100e6:
            return None
        self._slice_ns = max(self._slice_ns, slice_ns)
        most_ns = self._slice_ns * (1 + 0.02 + 60e6 / self._run_ns) + 60e6
        return int(most_ns * (self._run_cycles / self._run_ns))

    @property
    def hidden_hole_count(self) -> int:
        """Signs of holes that no switch shows."""
        longest = sorted(self._quiet)[-2:]
        is_alone = bool(longest) and (len(longest) == 1 or longest[1][0] >= 2 * longest[0][0])
        return 0 if self._has_cores else self._short_runs + (is_alone and longest[-1][1])

    # --- skew ------------------------------------------------------------------------------

    def note_stay(self, pcpu: Pcpu, vcpu: Vcpu, old: int, new: int, tsc: int) -> None:
        begin: int | None = tsc
        if RUNNING in (old, new):
            before = pcpu.run if pcpu.run is not None and pcpu.run[0] is vcpu else None
            if old == new and before is not None:
                return
            begin = before[1] if before is not None else None
            pcpu.run = (vcpu, tsc if old != RUNNING else None)
            if new == RUNNING:
                return
        if vcpu.is_guest and begin and (begin < tsc or old != RUNNING):
            self.exclude_skew(vcpu, Stay(pcpu.number, begin, tsc))

    def exclude_skew(self, vcpu: Vcpu, stay: Stay) -> None:
        """Emit the differences of TSCs that the stay and earlier ones on other pCPUs exclude."""
        for other in vcpu.stays:
            if other.pcpu == stay.pcpu or (stay.begin == stay.end and other.begin == other.end):
                continue
            low, high = stay.begin - other.end, stay.end - other.begin
            pairs = [(other.pcpu << 16 | stay.pcpu, low, high), (stay.pcpu << 16 | other.pcpu, -high, -low)]
            overlaps = low < 0 < high
            self._is_skewed |= overlaps
            for pair, least, most in pairs:
                if overlaps:
                    self.put(Metric.SKEW_NOT_TO, pair, 1, most, stay.end)
                elif self._is_skewed and least >= 0:
                    self.put(Metric.SKEW_NOT_FROM, pair, 0, least, stay.end)
                    self.put(Metric.SKEW_NOT_TO, pair, 0, most, stay.end)
        vcpu.stays.append(stay)

    def cut(self, vcpu: Vcpu, metric: Metric, tsc: int) -> None:
        if not self.has_ended:
            self.put(Metric.CUT, vcpu.key, metric, 0, tsc)

    # --- loss ------------------------------------------------------------------------------

    def lose(self, vcpu: Vcpu, tsc: int) -> None:
        begun = vcpu.begun
        begun_things = {
            Metric.RESIDENCE: begun.resident_since,
            Metric.WAKE_TO_RUNNING: begun.wake,
            Metric.UPCALL_MAX: begun.upcall,
            Metric.HVM_EXIT: begun.exit,
            Metric.INJECTION_TO_ENTRY: begun.injected,
            Metric.INTR_WINDOW_WAIT: begun.waited if begun.window is None else begun.window,
        }
        stay = begun.resident_since
        if stay is not None and vcpu.pcpu is not None and tsc > stay:
            self.put(Metric.OPEN, vcpu.key, Metric.RESIDENCE << 32 | vcpu.pcpu, tsc - stay, tsc)
        for metric, thing in begun_things.items():
            if metric is Metric.HVM_EXIT:
                self.drop_exit(vcpu, tsc)
            elif thing is not None:
                self.cut(vcpu, metric, tsc)
        self.cut_hvm(vcpu, tsc)
        for _, timer in sorted(begun.timers.items()):
            if timer.ticked is not None:
                self.cut(vcpu, Metric.TICK, tsc)
        vcpu.begun = Begun()
        vcpu.is_depleted = False
        vcpu.pending.passed = None
        self.set_state(vcpu, LOST, tsc)
        vcpu.by_hole = False

    def begin_loss(self, pcpu: Pcpu, loss: Loss) -> None:
        self._first_loss = self._first_loss or loss.begin
        current = pcpu.current
        self.tell_run(pcpu, loss.begin)
        self.count_time(pcpu, Metric.PCPU_UNKNOWN if loss.is_hole else Metric.PCPU_LOST, loss.begin)
        pcpu.next = pcpu.quiet_most = None
        if current is not None:
            pcpu.current = None
            if current.domain != STAND_IN:
                self.lose(current, loss.begin)
                current.by_hole = loss.is_hole
        self.give_up_causes(pcpu, WakeCause.UNKNOWN)
        pcpu.cause = pcpu.idle = pcpu.run = None
        before = pcpu.loss
        pcpu.loss = Loss(before.begin, loss.end, loss.vcpu, before.is_hole) if before is not None else loss
        for vcpu in sorted(self.vcpus.values(), key=lambda one: one.domain == IDLE):
            may_run_here = not loss.is_hole or vcpu.domain != IDLE or vcpu.key & 0xFFFF == pcpu.number
            if vcpu.state in (RUNNABLE, BLOCKED, OFFLINE) and may_run_here:
                self.lose(vcpu, max(loss.begin, vcpu.since or 0) if loss.is_hole else loss.begin)
                vcpu.by_hole = loss.is_hole

    def end_loss(self, pcpu: Pcpu, loss: Loss) -> None:
        self.count_time(pcpu, Metric.PCPU_UNKNOWN, loss.end)
        pcpu.loss = None
        vcpu = self.vcpu(loss.vcpu)
        if vcpu.domain != STAND_IN:
            self.enter(pcpu, vcpu, loss.end, begins=False)
        pcpu.cause = (WakeCause.UNKNOWN, 0, loss.end)

    # --- wakes and sends -------------------------------------------------------------------

    def wake(self, pcpu: Pcpu, record: Record, cause: tuple[WakeCause, int, int] | None) -> None:
        tsc = record.tsc
        vcpu = self.vcpu((record.words[0] & 0xFFFF) << 16 | record.words[1] & 0xFFFF)
        if vcpu.state in (RUNNING, RUNNABLE):
            self.count(Metric.WAKE_WITHOUT_EFFECT, vcpu.key)
            return
        if vcpu.state == OFFLINE and vcpu.begun.wake is not None:
            vcpu.begun.paused = True
        else:
            vcpu.begun.wake = (tsc, pcpu.number)
            vcpu.begun.waker = NOBODY if pcpu.current is None else pcpu.current.key
            self.tell(Detail.WAKE, vcpu.key, pcpu.number << 32 | vcpu.begun.waker, 0, tsc)
        waker = pcpu.current
        if waker is None or waker.domain == STAND_IN:
            cause = (WakeCause.UNKNOWN, 0, tsc)
        if vcpu.state == LOST:
            cause = (WakeCause.UNKNOWN, 1, tsc)
        if cause is None:
            if len(pcpu.unexplained) == PENDING_MAX:
                self.give_up_causes(pcpu, WakeCause.TIMER_OR_OTHER)
            pcpu.unexplained.append((vcpu, tsc))
            return
        kind, argument, began = cause
        self.put(Metric.WAKE_CAUSE, vcpu.key, kind << 32 | argument, 0, tsc)
        if kind == WakeCause.EVENT_CHANNEL and waker is not None:
            self.put(Metric.SEND_TO_WAKE, vcpu.key, waker.key, tsc - began, tsc)

    def give_up_causes(self, pcpu: Pcpu, cause: WakeCause) -> None:
        for vcpu, tsc in pcpu.unexplained:
            self.put(Metric.WAKE_CAUSE, vcpu.key, cause << 32, 0, tsc)
        pcpu.unexplained.clear()

    def send_woke_nobody(self, pcpu: Pcpu, tsc: int) -> None:
        if pcpu.current is None:
            return
        others = [other for other in self.pcpus.values() if other is not pcpu and not other.loss]
        ran = any(other.current is not None and other.current.is_guest for other in others)
        metric = Metric.SEND_OTHERS_RAN if ran else Metric.SEND_NOBODY_RAN
        self.put(metric, pcpu.current.key, 0, 0, tsc)

    # --- guests ----------------------------------------------------------------------------

    def guest(self, pcpu: Pcpu, type_: str) -> Vcpu | None:
        """Return the current vCPU if a record of that type of guest can belong to it."""
        vcpu = pcpu.current
        if vcpu is None or vcpu.domain == IDLE:
            return None
        if vcpu.domain != STAND_IN and vcpu.type not in (None, type_):
            return None
        vcpu.type = type_
        return vcpu

    def pv_guest(self, pcpu: Pcpu, tsc: int) -> Vcpu | None:
        self.give_up_causes(pcpu, WakeCause.TIMER_OR_OTHER)
        vcpu = self.guest(pcpu, PV)
        if vcpu is None:
            return None
        begun = vcpu.begun
        if begun.fresh and begun.upcall is not None and begun.upcall.high is None:
            begun.upcall.high = tsc
            self.put(Metric.RUNNING_TO_GUEST, vcpu.key, 0, tsc - begun.ran_at, tsc)
        begun.fresh = False
        if begun.block_call:
            self.count(Metric.BLOCK_WITHOUT_BLOCK, vcpu.key)
        begun.block_call, begun.blocked_by_call = None, False
        return vcpu

    def iret(self, vcpu: Vcpu, tsc: int) -> None:
        begun, key = vcpu.begun, vcpu.key
        forced, begun.forced = begun.forced, None
        if begun.traps:
            begun.traps -= 1
            self.count(Metric.IRET_TRAP, key)
            if begun.switched:
                self.count(Metric.IRET_AMBIGUOUS, key)
            begun.switched = begun.switched and begun.traps > 0
            return
        may_be_upcall = vcpu.pending.iret()
        upcall, begun.upcall = begun.upcall, None
        if upcall is not None:
            self.count(Metric.IRET_UPCALL, key)
            if upcall.is_forced:
                self.count(Metric.UPCALL_FORCED, key)
            else:
                self.put(Metric.UPCALL_MAX, key, 0, tsc - upcall.low, tsc)
                self.put(Metric.UPCALL_MIN, key, 0, tsc - (upcall.high or 0), tsc)
            if upcall.traps:
                self.count(Metric.UPCALL_NESTED, key)
        else:
            self.count(Metric.IRET_OPEN, key)
            is_known = vcpu.pending.shows_system_calls and not any(one.loss for one in self.pcpus.values())
            if is_known and not may_be_upcall:
                self.count(Metric.IRET_NO_EVENT, key)
            if forced is not None:
                self.put(Metric.FORCED_CALLBACK, key, 0, tsc - forced, tsc)

    def trap(self, vcpu: Vcpu) -> None:
        vcpu.begun.traps += 1
        if vcpu.begun.upcall is not None:
            vcpu.begun.upcall.traps += 1

    def close_exit(self, vcpu: Vcpu, tsc: int) -> None:
        exit_, vcpu.begun.exit = vcpu.begun.exit, None
        if exit_ is not None:
            self.put(Metric.HVM_EXIT, vcpu.key, exit_[1], max(tsc - exit_[0], 0), tsc)
            self.tell(Detail.EXIT, vcpu.key, signed(vcpu.begun.exit_rip), vcpu.begun.exit_vector, tsc)
            vcpu.begun.xen_cycles += max(tsc - exit_[0], 0)

    def cut_hvm(self, vcpu: Vcpu, tsc: int) -> None:
        """Give up what an HVM guest's vCPU has begun."""
        begun = vcpu.begun
        self.drop_access(vcpu, tsc)
        if begun.space is not None:
            self.cut(vcpu, Metric.ADDRESS_SPACE, tsc)
            frame, since = begun.space
            if tsc > since:
                b = Metric.ADDRESS_SPACE << 32 | frame
                self.put(Metric.OPEN, vcpu.key, b, tsc - since, tsc)
            self.put_space_parts(vcpu, frame, tsc)
        if begun.wake_entry is not None:
            self.cut(vcpu, Metric.WAKE_TO_HALT, tsc)
        for _ in begun.ipis:
            self.cut(vcpu, Metric.IPI_TO_ENTRY, tsc)

    def put_space_parts(self, vcpu: Vcpu, frame: int, tsc: int) -> None:
        self.put(Metric.ADDRESS_SPACE_GUEST, vcpu.key, frame, min(vcpu.begun.guest_cycles, MOST), tsc)
        self.put(Metric.ADDRESS_SPACE_XEN, vcpu.key, frame, min(vcpu.begun.xen_cycles, MOST), tsc)

    def drop_access(self, vcpu: Vcpu, tsc: int) -> None:
        access, vcpu.begun.access = vcpu.begun.access, 0
        if access:
            self.put(Metric.ACCESS_WITHOUT_TIME, vcpu.key, access, 0, tsc)

    def enter_guest(self, vcpu: Vcpu, tsc: int) -> None:
        """End what the exit before this entry was for."""
        begun, key = vcpu.begun, vcpu.key
        if begun.access and begun.handled is not None:
            self.put(Metric.ACCESS, key, begun.access, max(tsc - begun.handled, 0), tsc)
        begun.access, begun.handled = 0, None
        frame, begun.next_frame = begun.next_frame, None
        before = begun.space
        if frame is not None and before is not None and frame == before[0]:
            self.put(Metric.ADDRESS_SPACE_FLUSH, key, frame, 0, tsc)
        elif frame is not None:
            if before is not None:
                self.put(Metric.ADDRESS_SPACE, key, before[0], max(tsc - before[1], 0), tsc)
                self.put_space_parts(vcpu, before[0], tsc)
            begun.space = frame, tsc
            begun.guest_cycles = begun.xen_cycles = 0
        if vcpu.domain != STAND_IN:
            begun.resumed = tsc
        begun.waking = False
        if begun.wake_vector is not None and begun.wake_entry is None:
            begun.wake_entry = tsc

    def send_ipi(self, vcpu: Vcpu, low: int, target: int | None, tsc: int, *, is_x2apic: bool) -> None:
        """Handle an interrupt between vCPUs, by the halves of the ICR."""
        vector, mode, shorthand = low & 0xFF, low >> 8 & 7, low >> 18 & 3
        if mode not in (0, 1) or vcpu.domain == STAND_IN:
            return
        own, everybody = vcpu.key & 0xFFFF, list(range(128))
        is_logical, to_all = bool(low >> 11 & 1), LOW if is_x2apic else 0xFF
        if shorthand == 1:
            numbers = [own]
        elif shorthand == 3:
            numbers = [number for number in everybody if number != own]
        elif shorthand == 2 or target == to_all:
            numbers = everybody
        elif target is not None and not is_logical and target % 2 == 0 and target < 256:
            numbers = [target // 2]
        elif target is not None and is_logical and not is_x2apic:
            numbers = [number for number in range(8) if target >> number & 1]
        else:
            self.count(Metric.IPI_LEFT_OUT, vcpu.key)
            return
        for number in numbers:
            other = self.vcpus.get(vcpu.domain << 16 | number)
            if other is None or other.state == LOST:
                continue
            self.count(Metric.IPI_SENT, other.key)
            if vector not in other.begun.ipis and len(other.begun.ipis) == 4:
                self.count(Metric.IPI_LEFT_OUT, other.key)
            elif vector not in other.begun.ipis:
                other.begun.ipis[vector] = tsc, vcpu.key

    def drop_exit(self, vcpu: Vcpu, tsc: int) -> None:
        """Give up an exit whose end no record shows."""
        exit_, vcpu.begun.exit = vcpu.begun.exit, None
        if exit_ is not None:
            self.cut(vcpu, Metric.HVM_EXIT, tsc)
            self.put(Metric.EXIT_WITHOUT_TIME, vcpu.key, exit_[1], 0, tsc)

    def hypercall(self, pcpu: Pcpu, vcpu: Vcpu, op: int, command: int | None, tsc: int) -> None:
        """Handle a hypercall or an entry of a multicall."""
        begun = vcpu.begun
        if command is not None and op in (*SCHED_OPS, VCPU_OP, GRANT_TABLE_OP):
            self.put(Metric.COMMAND, vcpu.key, op << 32 | command, 0, tsc)
        if op == IRET:
            self.iret(vcpu, tsc)
        elif op in EVENT_CHANNEL_OPS:
            self.count(Metric.SEND, vcpu.key)
            pcpu.cause = (WakeCause.EVENT_CHANNEL, 0, tsc)
        elif op == XEN_VERSION:
            begun.forced = tsc
            if begun.upcall is not None:
                begun.upcall.is_forced = True
        elif op == STACK_SWITCH:
            begun.switched = begun.switched or begun.traps > 0
        elif op in (*SCHED_OPS, DOMCTL) or (op, command) == (VCPU_OP, UP_COMMAND):
            pcpu.cause = (WakeCause.HYPERCALL, op, tsc)
        if op in SCHED_OPS and command == BLOCK_COMMAND:
            self.count(Metric.BLOCK_CALL, vcpu.key)
            begun.block_call = True
        elif op == SCHED_OP_COMPAT and command is None:
            begun.block_call = False


# --- handlers: one for each kind of record -----------------------------------------------------


def on_runstate(host: Host, pcpu: Pcpu, record: Record) -> None:
    old, new = record.event >> 8 & 3, record.event >> 4 & 3
    vcpu = host.vcpu(record.words[0])
    if new == RUNNING:
        host.give_up_causes(pcpu, WakeCause.TIMER_OR_OTHER)
    host.switch(pcpu, vcpu, old, new, record.tsc)


def on_continue(host: Host, pcpu: Pcpu, record: Record) -> None:
    vcpu = host.vcpu(record.words[0])
    host.count(Metric.CONTINUE_RUNNING, vcpu.key)
    if vcpu.state == RUNNING and vcpu.pcpu == pcpu.number:
        begun = vcpu.begun
        if begun.blocked_by_call:
            begun.blocked_by_call = False
            vcpu.pending.go_on()
            begun.upcall, begun.ran_at, begun.fresh = Upcall(low=record.tsc), record.tsc, True
        return
    host.give_up_causes(pcpu, WakeCause.TIMER_OR_OTHER)
    host.switch(pcpu, vcpu, RUNNING, RUNNING, record.tsc)


def on_wake(host: Host, pcpu: Pcpu, record: Record) -> None:
    raise NotImplementedError("take() handles it, because it needs the record before")


def on_block(host: Host, pcpu: Pcpu, record: Record) -> None:
    vcpu = host.vcpu((record.words[0] & 0xFFFF) << 16 | record.words[1] & 0xFFFF)
    begun = vcpu.begun
    begun.blocked_by_call = begun.block_call is not None
    if begun.block_call is not None:
        vcpu.pending.block()
    if begun.block_call is False:
        host.count(Metric.BLOCK_CALL, vcpu.key)
    begun.block_call = None


def on_burn(host: Host, pcpu: Pcpu, record: Record) -> None:
    vcpu = host.vcpus.get(record.words[0])
    if vcpu is not None:
        vcpu.is_depleted = signed(wide(record.words[1:3])) <= 0


def on_replenish(host: Host, pcpu: Pcpu, record: Record) -> None:
    vcpu = host.vcpus.get(record.words[0])
    if vcpu is None:
        return
    vcpu.is_depleted = False
    if vcpu.metric == Metric.RUNNABLE_BUDGET:
        host.set_state(vcpu, RUNNABLE, record.tsc)
        vcpu.reason = Metric.RUNNABLE_PREEMPT


def on_next(host: Host, pcpu: Pcpu, record: Record) -> None:
    pcpu.next = (record.tsc, record.words[-2])
    pcpu.quiet_most = host.quiet_most_of(record.words[-1])


def on_previous(host: Host, pcpu: Pcpu, record: Record) -> None:
    """Take a run whose two ends were recorded."""
    begin = pcpu.run[1] if pcpu.run is not None else None
    ran_ns = record.words[-1]
    if begin and begin < record.tsc and ran_ns < NEGATIVE_NS:
        host.add_run(ran_ns, record.tsc - begin)


def loss_begin(record: Record) -> int:
    first_tsc = record.words[2] | record.words[3] << 32
    return first_tsc if 0 < first_tsc <= record.tsc else record.tsc


def on_lost(host: Host, pcpu: Pcpu, record: Record) -> None:
    count, who, _, _ = record.words
    first_tsc = loss_begin(record)
    host.put(Metric.LOST_RECORDS, pcpu.number, 0, count, record.tsc)
    host.begin_loss(pcpu, Loss(first_tsc, record.tsc, (who & 0xFFFF) << 16 | who >> 16))


def on_hole(host: Host, pcpu: Pcpu, record: Record) -> None:
    vcpu = record.words[0] if record.words else STAND_IN << 16 | pcpu.number
    host.begin_loss(pcpu, Loss(pcpu.last_tsc, record.tsc, vcpu, is_hole=True))


def on_hole_to_end(host: Host, pcpu: Pcpu, record: Record) -> None:
    host.has_ended = True
    host.begin_loss(pcpu, Loss(record.tsc, record.tsc, STAND_IN << 16 | pcpu.number, is_hole=True))


def on_hypercall(host: Host, pcpu: Pcpu, record: Record) -> None:
    vcpu = host.pv_guest(pcpu, record.tsc)
    if vcpu is None:
        return
    op = record.words[0] & 0xFFFFF
    host.tell(Detail.HYPERCALL, vcpu.key, op, 0, record.tsc)
    if op < COUNTED_OPS:
        host.count(Metric.HYPERCALL, vcpu.key, op)
    else:
        host.put(Metric.HYPERCALL, vcpu.key, op, 0, record.tsc)
    if op != IRET:
        vcpu.pending.call(op, first_argument(record), is_entry=False)
    host.hypercall(pcpu, vcpu, op, first_argument(record), record.tsc)


def on_hypercall_with_rip(host: Host, pcpu: Pcpu, record: Record) -> None:
    """PV_HYPERCALL before Xen 4.3."""
    vcpu = host.pv_guest(pcpu, record.tsc)
    if vcpu is None:
        return
    *rip, op = record.words
    op &= 0xFFFFF
    host.tell(Detail.HYPERCALL, vcpu.key, op, 0, record.tsc)
    if op < COUNTED_OPS:
        host.count(Metric.HYPERCALL, vcpu.key, op)
    else:
        host.put(Metric.HYPERCALL, vcpu.key, op, 0, record.tsc)
    host.put_rip(vcpu, RipSource.HYPERCALL, wide(rip), record.tsc)
    host.hypercall(pcpu, vcpu, op, None, record.tsc)


def on_subcall(host: Host, pcpu: Pcpu, record: Record) -> None:
    vcpu = host.pv_guest(pcpu, record.tsc)
    if vcpu is None:
        return
    op = record.words[0] & 0xFFFFF
    host.tell(Detail.HYPERCALL, vcpu.key, 1 << 32 | op, 0, record.tsc)
    if op < COUNTED_OPS:
        host.count(Metric.SUBCALL, vcpu.key, op)
    else:
        host.put(Metric.SUBCALL, vcpu.key, op, 0, record.tsc)
    if op != IRET:
        vcpu.pending.call(op, first_argument(record), is_entry=True)
    host.hypercall(pcpu, vcpu, op, first_argument(record), record.tsc)


def on_pv(host: Host, pcpu: Pcpu, record: Record) -> None:
    """Handle any other PV record: traps, faults and emulations have a RIP."""
    vcpu = host.pv_guest(pcpu, record.tsc)
    if vcpu is None:
        return
    host.count(Metric.PV_EVENT, vcpu.key, record.event % PV_EVENTS)
    minor, words, is_wide = record.event & 0xFF, record.words, bool(record.event & 0x100)
    rip = words[:2] if is_wide else words[:1]
    if minor == 0x03 and len(words) == len(rip) + 1:
        host.trap(vcpu)
        host.put(Metric.TRAP, vcpu.key, words[-1] & 0x7FFF, 0, record.tsc)
        host.put_rip(vcpu, RipSource.TRAP, wide(rip), record.tsc)
    elif minor == 0x04 and len(words) == 2 * len(rip) + 1:
        host.trap(vcpu)
        host.put_rip(vcpu, RipSource.PAGE_FAULT, wide(rip), record.tsc)
    elif minor == 0x05 and len(words) == len(rip):
        host.put_rip(vcpu, RipSource.INVALID_OP, wide(rip), record.tsc)
    elif minor == 0x06 and len(words) == len(rip):
        host.put_rip(vcpu, RipSource.PRIVOP, wide(rip), record.tsc)
    elif minor == 0x0B and len(words) == 6:
        host.put_rip(vcpu, RipSource.PTWR, wide(words[4:]), record.tsc)
    elif minor == 0x0C and len(words) == 4:
        host.put_rip(vcpu, RipSource.PTWR, words[3], record.tsc)


def on_vmexit(host: Host, pcpu: Pcpu, record: Record) -> None:
    host.events.count += 1  # by a hypercall, or to what emulates devices
    vcpu = host.guest(pcpu, HVM)
    if vcpu is None:
        return
    host.give_up_causes(pcpu, WakeCause.TIMER_OR_OTHER)
    begun, tsc = vcpu.begun, record.tsc
    if begun.entered is not None:
        host.put(Metric.HVM_UPCALL, vcpu.key, begun.vector, tsc - begun.entered, tsc)
        begun.entered = None
    host.drop_exit(vcpu, tsc)
    host.drop_access(vcpu, tsc)
    if begun.resumed is not None:
        begun.guest_cycles += max(tsc - begun.resumed, 0)
        begun.resumed = None
    reason, *rip = record.words
    begun.exit_rip, begun.exit_vector = wide(rip), -1
    if vcpu.domain == STAND_IN:
        host.put(Metric.EXIT_WITHOUT_TIME, vcpu.key, reason, 0, tsc)
    else:
        begun.exit, begun.handled = (tsc, reason), tsc
    host.put_rip(vcpu, RipSource.EXIT, wide(rip), tsc)


def on_vmentry(host: Host, pcpu: Pcpu, record: Record) -> None:
    vcpu = host.guest(pcpu, HVM)
    if vcpu is None:
        return
    host.close_exit(vcpu, record.tsc)
    host.enter_guest(vcpu, record.tsc)
    begun = vcpu.begun
    if begun.injected is not None:
        sent = begun.ipis.pop(begun.vector, None)
        if sent is not None and sent[0] > record.tsc:
            host.put(Metric.NEGATIVE, vcpu.key, Metric.IPI_TO_ENTRY, 0, record.tsc)
        elif sent is not None:
            what = begun.vector << 32 | sent[1]
            host.put(Metric.IPI_TO_ENTRY, vcpu.key, what, record.tsc - sent[0], record.tsc)
        host.put(Metric.INJECTION_TO_ENTRY, vcpu.key, begun.vector, record.tsc - begun.injected, record.tsc)
        begun.injected, begun.entered = None, record.tsc
        if begun.waited is not None:
            host.put(Metric.INTR_WINDOW_WAIT, vcpu.key, begun.vector, record.tsc - begun.waited, record.tsc)
            begun.waited = None


def on_hvm(host: Host, pcpu: Pcpu, record: Record) -> None:
    vcpu = host.guest(pcpu, HVM)
    if vcpu is None:
        return
    host.put(Metric.HVM_EVENT, vcpu.key, record.event, 0, record.tsc)
    meaning = HVM_MEANINGS.get((record.event, len(record.words)))
    if meaning is not None:
        meaning(host, pcpu, vcpu, record)
    elif record.event == 0x8200F and record.words:
        vcpu.begun.exit_vector = record.words[0]
        if record.words[0] == KICK_VECTOR:
            host.count(Metric.KICK, vcpu.key)


def on_injection(host: Host, pcpu: Pcpu, vcpu: Vcpu, record: Record) -> None:
    begun, tsc, vector = vcpu.begun, record.tsc, record.words[0]
    host.put(Metric.INJECTION, vcpu.key, vector, 0, tsc)
    if begun.window is not None:
        begun.window, begun.waited = None, begun.window
    begun.injected, begun.vector = tsc, vector
    if begun.waking and begun.wake_vector is None:
        begun.wake_vector = vector


def on_window(host: Host, pcpu: Pcpu, vcpu: Vcpu, record: Record) -> None:
    waits = record.words[2] == LOW
    host.put(Metric.INTR_WINDOW, vcpu.key, int(waits), 0, record.tsc)
    if waits and vcpu.begun.window is None:
        vcpu.begun.window = record.tsc


def on_vmmcall(host: Host, pcpu: Pcpu, vcpu: Vcpu, record: Record) -> None:
    op, tsc = record.words[0], record.tsc
    host.put(Metric.VMMCALL, vcpu.key, op, 0, tsc)
    if op == EVENT_CHANNEL_OP:
        host.count(Metric.SEND, vcpu.key)
        pcpu.cause = (WakeCause.EVENT_CHANNEL, 0, tsc)
    elif op == SCHED_OP:
        pcpu.cause = (WakeCause.HYPERCALL, op, tsc)


def on_access(kind: AccessKind, size: int) -> Callable[[Host, Pcpu, Vcpu, Record], None]:
    """Return the handler of an access to a port or to memory; ``size``: words of the address."""

    def handle(host: Host, pcpu: Pcpu, vcpu: Vcpu, record: Record) -> None:
        begun, words = vcpu.begun, record.words
        address = min(wide(words[:size]), ADDRESS_MOST)
        host.drop_access(vcpu, record.tsc)
        begun.access = kind << 56 | address
        if begun.handled is None:
            host.drop_access(vcpu, record.tsc)
        if kind is not AccessKind.MEMORY_WRITE or len(words) == size:
            return
        if address == 0xFEE00310:
            begun.icr_target = words[size] >> 24
        elif address == 0xFEE00300:
            host.send_ipi(vcpu, words[size], begun.icr_target, record.tsc, is_x2apic=False)

    return handle


def on_cr_write(host: Host, pcpu: Pcpu, vcpu: Vcpu, record: Record) -> None:
    register, *value = record.words
    if register == 3 and vcpu.domain != STAND_IN:
        vcpu.begun.next_frame = min(wide(value) >> 12 & (1 << 40) - 1, FRAME_MOST)


def on_msr_write(host: Host, pcpu: Pcpu, vcpu: Vcpu, record: Record) -> None:
    msr, low, high = record.words
    if msr == 0x830:
        host.send_ipi(vcpu, low, high, record.tsc, is_x2apic=True)


HVM_MEANINGS: dict[tuple[int, int], Callable[[Host, Pcpu, Vcpu, Record], None]] = {
    (0x82004, 2): on_injection,
    (0x82020, 3): on_window,
    (0x82012, 1): on_vmmcall,
    **dict.fromkeys([(0x82016, 1), (0x82016, 2)], on_access(AccessKind.PORT_READ, 1)),
    **dict.fromkeys([(0x82216, 1), (0x82216, 2)], on_access(AccessKind.PORT_WRITE, 1)),
    **dict.fromkeys([(0x82017, 1), (0x82017, 2)], on_access(AccessKind.MEMORY_READ, 1)),
    **dict.fromkeys([(0x82217, 1), (0x82217, 2)], on_access(AccessKind.MEMORY_WRITE, 1)),
    **dict.fromkeys([(0x82117, 2), (0x82117, 3), (0x82117, 4)], on_access(AccessKind.MEMORY_READ, 2)),
    **dict.fromkeys([(0x82317, 2), (0x82317, 3), (0x82317, 4)], on_access(AccessKind.MEMORY_WRITE, 2)),
    (0x82009, 2): on_cr_write,
    (0x82109, 3): on_cr_write,
    (0x8200D, 3): on_msr_write,
}


def on_timer_set(timer: VirtualTimer, period_words: slice) -> Handler:
    """Return the handler of a record that a guest has set or stopped ``timer``."""

    def handle(host: Host, pcpu: Pcpu, record: Record) -> None:
        vcpu = host.guest(pcpu, HVM)
        if vcpu is not None and vcpu.domain != STAND_IN:
            period_ns = wide(record.words[period_words])
            vcpu.begun.timers[timer] = Timer(min(period_ns, TICK_PERIOD_MASK))

    return handle


def on_tick(timer: VirtualTimer) -> Handler:
    """Return the handler of a record that Xen injects a tick of ``timer``."""

    def handle(host: Host, pcpu: Pcpu, record: Record) -> None:
        vcpu = host.guest(pcpu, HVM)
        if vcpu is None or vcpu.domain == STAND_IN:
            return
        own = vcpu.begun.timers.setdefault(timer, Timer())
        if own.ticked is not None and record.tsc < own.ticked:
            host.put(Metric.NEGATIVE, vcpu.key, Metric.TICK, 0, record.tsc)
        elif own.ticked is not None:
            b = timer << 48 | own.period_ns
            host.put(Metric.TICK, vcpu.key, b, record.tsc - own.ticked, record.tsc)
        own.ticked = record.tsc

    return handle


def on_irq(host: Host, pcpu: Pcpu, record: Record) -> None:
    host.events.count += 1
    irq, low_in, low_out = record.words
    begin = record.tsc - (record.tsc - low_in & LOW)
    end = begin + (low_out - low_in & LOW)
    host.put(Metric.IRQ_HANDLING, irq, pcpu.number, end - begin, record.tsc)
    wakes, pcpu.unexplained = pcpu.unexplained, []
    for vcpu, when in wakes:
        if when > end:
            pcpu.unexplained.append((vcpu, when))
        elif when < begin:
            host.put(Metric.WAKE_CAUSE, vcpu.key, WakeCause.TIMER_OR_OTHER << 32, 0, when)
        else:
            host.put(Metric.WAKE_CAUSE, vcpu.key, WakeCause.IRQ << 32 | irq, 0, when)
            host.put(Metric.IRQ_TO_WAKE, vcpu.key, irq, when - begin, when)


def on_idle_entry(host: Host, pcpu: Pcpu, record: Record) -> None:
    pcpu.idle = record.tsc


def on_idle_exit(host: Host, pcpu: Pcpu, record: Record) -> None:
    if pcpu.idle is None:
        return
    host.put(Metric.CSTATE, pcpu.number, record.words[0], record.tsc - pcpu.idle, record.tsc)
    pcpu.idle = None


def on_memory(host: Host, pcpu: Pcpu, record: Record) -> None:
    key = NOBODY if pcpu.current is None else pcpu.current.key
    domain = record.words[MEMORY[record.event, len(record.words)]] & 0xFFFF
    host.put(Metric.MEMORY, key, record.event << 32 | domain, 0, record.tsc)


#: From (event, number of words) to the word with the domain.
MEMORY = {
    (0x10F001, 1): 0,
    (0x10F002, 1): 0,
    (0x10F003, 1): 0,
    (0x10F004, 6): 5,
    (0x10F005, 4): 2,
    (0x10F010, 6): 4,
    (0x10F011, 6): 4,
    (0x10F012, 4): 2,
}
HANDLERS: dict[tuple[int, int], Handler] = {
    (LOST_RECORDS, 4): on_lost,
    (HOLE, 0): on_hole,
    (HOLE, 1): on_hole,
    (HOLE_TO_END, 0): on_hole_to_end,
    (0x21002, 1): on_continue,
    (0x28004, 2): on_wake,
    (0x28006, 2): on_block,
    (0x2800E, 2): on_previous,
    (0x2800E, 3): on_previous,
    (0x2800F, 3): on_next,
    (0x2800F, 4): on_next,
    (0x20F001, 2): on_hypercall_with_rip,
    (0x20F101, 3): on_hypercall_with_rip,
    (0x81001, 0): on_vmentry,
    (0x81002, 2): on_vmexit,
    (0x81003, 2): on_vmexit,
    (0x81102, 3): on_vmexit,
    (0x81103, 3): on_vmexit,
    (0x802008, 3): on_irq,
    (0x1F004, 3): on_irq,
    (0x801002, 4): on_idle_entry,
    (0x802001, 4): on_idle_entry,
    (0x801003, 6): on_idle_exit,
    (0x802002, 6): on_idle_exit,
    (0x22803, 6): on_burn,
    (0x22804, 6): on_replenish,
    (0x84002, 2): on_timer_set(VirtualTimer.PIT, slice(1, 2)),
    (0x84004, 5): on_timer_set(VirtualTimer.LAPIC, slice(2, 4)),
    (0x84006, 0): on_timer_set(VirtualTimer.PIT, slice(0, 0)),
    (0x84008, 0): on_timer_set(VirtualTimer.LAPIC, slice(0, 0)),
    (0x84009, 0): on_tick(VirtualTimer.PIT),
    (0x8400A, 0): on_tick(VirtualTimer.LAPIC),
    **dict.fromkeys(MEMORY, on_memory),
}
#: Events that are not interpreted if their length is wrong.
_KNOWN = {event for event, _ in HANDLERS} | {0x82004, 0x82012, 0x82013, 0x82020}


def handler_of(record: Record) -> Handler | None:
    """Return the handler of ``record``, or None if the machines ignore it."""
    event, words = record.event, len(record.words)
    if event & GUEST_CLASS:
        return None
    handler = HANDLERS.get((event, words))
    if handler is not None:
        return handler
    if (event, words) in HVM_MEANINGS or (event, words) == (0x82013, 1):
        return on_hvm
    if event in _KNOWN:
        return None
    if event & ~0x330 == 0x21001 and words:
        return on_runstate
    group = event & ~0xFFF
    if event == 0x20200E:
        return on_subcall if words else None
    if group in (0x201000, 0x20F000):
        return on_pv_of(event, words)
    return on_hvm if group == 0x82000 else None


def on_pv_of(event: int, words: int) -> Handler | None:
    """Return the handler of a PV record; a record with a RIP must have the right length."""
    minor, rip = event & 0xFF, 2 if event & 0x100 else 1
    lengths = {0x03: rip + 1, 0x04: 2 * rip + 1, 0x05: rip, 0x06: rip, 0x0B: 6, 0x0C: 4}
    if minor == 0x0D and words:
        return on_hypercall
    return on_pv if lengths.get(minor, words) == words else None


@cache
def is_unknown(event: int) -> bool:
    """Return whether no version of Xen has records with this id."""
    return not by_id(event) and event not in (HOLE, HOLE_TO_END)


def first_argument(record: Record) -> int | None:
    """Return a hypercall's first argument if the flags of its first word say that it is recorded."""
    recorded = record.words[0] >> 20 & 3
    return record.words[1] if recorded and len(record.words) > 1 else None


def wide(words: Iterable[int]) -> int:
    """Return the number made of these 32-bit words, low word first."""
    return sum(word << 32 * index for index, word in enumerate(words))


def signed(number: int) -> int:
    """Return the 64 bits of ``number`` as a signed integer."""
    return number - (1 << 64) if number >> 63 else number
