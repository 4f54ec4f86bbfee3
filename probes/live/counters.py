"""Count what `xtrace top` and `stat` show while a trace is being recorded: wakes, upcalls, sends per vCPU.

The rules are those of the report's state machines, in plain Python and for these figures only;
tests/oracle/machine.py states them.  Over a whole trace the counts equal the report's.  Not
counted, because nothing here shows it: durations of runstates, what woke whom, where an event to
a running vCPU arrived, states of domains, skew.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from xtrace.probes import event_ids as ids
from xtrace.probes.format import GUEST_CLASS_BIT, LOST_RECORDS
from xtrace.probes.live.framer import ALL_WORDS, LAST_WORD, Meaning
from xtrace.probes.live.histogram import Histogram
from xtrace.probes.live.restarts import Entry
from xtrace.probes.xen_abi import DEFAULT_DOMAIN, IDLE_DOMAIN, Hypercall, SchedOp

#: vCPUs that are followed; any others, which no real host has, share one.
MAX_VCPUS = 16384

_RUNNING, _RUNNABLE, _BLOCKED, _OFFLINE, _LOST, _UNKNOWN = range(6)
# Plain numbers, because they compare faster than enum members.
_XEN_VERSION, _IRET = int(Hypercall.XEN_VERSION), int(Hypercall.IRET)
_SCHED_OP, _SCHED_OP_COMPAT = int(Hypercall.SCHED_OP), int(Hypercall.SCHED_OP_COMPAT)
_EVENT_CHANNEL_OP = int(Hypercall.EVENT_CHANNEL_OP)
_SCHED_OPS = (_SCHED_OP, _SCHED_OP_COMPAT)
_EVENT_CHANNEL_OPS = (_EVENT_CHANNEL_OP, int(Hypercall.EVENT_CHANNEL_OP_COMPAT))
_BLOCK_COMMAND = int(SchedOp.BLOCK)
_OP_MASK = 0xFFFFF
_HAS_ARGUMENT = 0x300000
_PV, _HVM = 1, 2


@dataclass(slots=True)
class Figures:
    """What one vCPU did in a period.

    Attributes:
        wakes: while blocked or offline, or in a state that is not known after lost records (exact).
        runs: how often it started to run (exact).
        sends: event_channel_op hypercalls and VMMCALLs (exact).
        hypercalls: all, except the entries of multicalls (exact).
        forced: the xen_version calls among them, which are forced callbacks except for a few queries (exact).
        upcalls_least: irets that end the upcall after a block (inferred).
        irets_open: irets of an upcall while running or of a system call; added to upcalls_least, an upper
            bound of the number of upcalls (bounded).
        injections: interrupts injected into an HVM or PVH guest (exact).
        cuts: measurements that a loss cut off.
        running_cycles, waiting_cycles: time in the states running and runnable, of the part of the period in
            which the state is known (inferred: a state lasts until a record says otherwise, also where a pCPU
            has no more records).
        wake_to_running: cycles (exact).
        upcall_most, upcall_least: bounds of the cycles of an upcall after a block (bounded).
        hvm_upcall: cycles from the VM entry after an injection to the next VM exit (inferred).
    """

    wakes: int = 0
    runs: int = 0
    sends: int = 0
    hypercalls: int = 0
    forced: int = 0
    upcalls_least: int = 0
    irets_open: int = 0
    injections: int = 0
    cuts: int = 0
    running_cycles: int = 0
    waiting_cycles: int = 0
    wake_to_running: Histogram = field(default_factory=Histogram)
    upcall_most: Histogram = field(default_factory=Histogram)
    upcall_least: Histogram = field(default_factory=Histogram)
    hvm_upcall: Histogram = field(default_factory=Histogram)

    @property
    def upcalls_most(self) -> int:
        """Upper bound of a PV guest's upcalls."""
        return self.upcalls_least + self.irets_open

    def add(self, other: Figures) -> None:
        """Add the figures of another vCPU, or of another period."""
        for name in COUNTS:
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name in TIMES:
            getattr(self, name).add(getattr(other, name))


COUNTS = (
    "wakes",
    "runs",
    "sends",
    "hypercalls",
    "forced",
    "upcalls_least",
    "irets_open",
    "injections",
    "cuts",
    "running_cycles",
    "waiting_cycles",
)
TIMES = ("wake_to_running", "upcall_most", "upcall_least", "hvm_upcall")


@dataclass(slots=True)
class HostFigures:
    """What the host did in a period, apart from its vCPUs.

    Attributes:
        records: written by Xen, without fillers (exact; up to the last record taken of each pCPU).
        irqs: HW_IRQ_HANDLED records (exact).
        lost: records that Xen had no room for (exact); gaps: number of LOST_RECORDS records.
        lost_pcpus: pCPUs that lost records.
    """

    records: int = 0
    irqs: int = 0
    lost: int = 0
    gaps: int = 0
    lost_pcpus: set[int] = field(default_factory=set)


class _Vcpu:
    """A vCPU's state; ``forget`` clears what a loss of records invalidates."""

    __slots__ = (
        "block_call", "blocked_by_call", "entered", "figures", "injected", "is_forced", "is_fresh",
        "is_moved", "is_woken", "key", "pcpu", "since", "skew", "state", "traps", "type", "upcall",
        "upcall_high", "wake",
    )  # fmt: skip

    def __init__(self, key: int) -> None:
        self.key = key
        self.state = _UNKNOWN
        # Up to here its time is counted; None while its state is not known.  Of one that has not moved in
        # this period, it is counted at least up to the period's beginning.
        self.since: int | None = None
        self.is_moved = False
        self.is_woken = False  # it became RUNNABLE by a wake
        self.pcpu = -1
        self.type = 0
        self.figures: Figures | None = None
        self.forget()

    def forget(self) -> None:
        self.wake: int | None = None
        self.is_fresh = False
        self.blocked_by_call = False
        self.block_call: bool | None = None  # False: only a BLOCK record will show that it was one
        self.upcall: int | None = None
        self.upcall_high: int | None = None
        self.is_forced = False  # a callback was forced in the upcall
        self.traps = 0
        self.injected: int | None = None
        self.entered: int | None = None
        self.skew = False  # it runs here, and its deschedule record from another pCPU has not come yet

    def begin_upcall(self, tsc: int) -> None:
        """Begin the upcall of a vCPU that blocked by its own call and goes on."""
        self.upcall, self.upcall_high, self.is_forced = tsc, None, False


#: With core scheduling, a pCPU with a lower number can be named before it has written a record.
_UNSEEN_PCPUS = 64


class _Pcpu:
    __slots__ = (
        "attends", "current", "first_tsc", "is_blind", "loss_end", "loss_vcpu", "number", "seen", "taken_off",
    )  # fmt: skip

    def __init__(self, number: int) -> None:
        self.number = number
        self.first_tsc: int | None = None
        self.current: _Vcpu | None = None
        self.is_blind = False
        self.loss_end = 0
        self.loss_vcpu = 0
        self.taken_off: _Pcpu | None = None  # with core scheduling, where the last record took a vCPU off
        self.attends = True  # its next record must be passed to _attend() first
        self.seen = 0


class Machine:
    """Follows vCPUs and pCPUs through merged records.

    A period costs as much as the records in it: a vCPU whose state lasts is only in a set by its state.

    Attributes:
        host: figures of the current period.
        overflow_count: records of vCPUs beyond MAX_VCPUS.
    """

    def __init__(self, *, by_vcpu: bool = True) -> None:
        """Start without any vCPU.

        Args:
            by_vcpu: keep figures of each vCPU, not only of all together; a period costs as much as it has
                rows then.
        """
        self.host = HostFigures()
        self.overflow_count = 0
        self._by_vcpu = by_vcpu
        self._total = Figures()
        self._idle = Figures()
        self._vcpus: dict[int, _Vcpu] = {}
        # Those that neither run nor are unknown: a loss makes them unknown, and another one has none left.
        self._losable: set[_Vcpu] = set()
        self._touched: list[_Vcpu] = []
        # Those whose state can have changed in this period, and the others of which time is counted.
        self._moved: list[_Vcpu] = []
        self._still: dict[int, set[_Vcpu]] = {_RUNNING: set(), _RUNNABLE: set()}
        self._begin_tsc = 0
        self._pcpus: dict[int, _Pcpu] = {}
        self._has_cores = False
        self._blind_count = 0

    def take(self, entries: Iterable[Entry]) -> None:
        """Process records returned by Framer.take()."""
        records = 0
        for _, handler, pcpu, tsc, seen, a, b in entries:
            records += seen - pcpu.seen
            pcpu.seen = seen
            if pcpu.attends:
                self._attend(pcpu, handler, tsc)
            handler(pcpu, tsc, a, b)
        self.host.records += records

    def period(self, end: int) -> tuple[dict[int, Figures], Figures, HostFigures]:
        """Return the figures since the last call.

        Args:
            end: TSC up to which the time of vCPUs counts.

        Returns:
            those of each vCPU (``domain << 16 | vcpu``), none without ``by_vcpu``; of all together but the
            idle domain's; and of the host.
        """
        self._settle(end)
        vcpus: dict[int, Figures] = {}
        total, self._total, self._idle = self._total, Figures(), Figures()
        for vcpu in self._touched:
            assert vcpu.figures is not None
            vcpus[vcpu.key] = vcpu.figures
            if vcpu.key >> 16 != IDLE_DOMAIN:
                total.add(vcpu.figures)
            vcpu.figures = None
        self._touched.clear()
        host, self.host = self.host, HostFigures()
        return vcpus, total, host

    def skip(self, begin: int) -> None:
        """Begin the next period at ``begin``: the time before it is left out, also that of vCPUs."""
        self._begin_tsc = begin

    def _settle(self, end: int) -> None:
        """Count the time of all vCPUs up to ``end``."""
        span = max(end - self._begin_tsc, 0)
        running, runnable = self._still[_RUNNING], self._still[_RUNNABLE]
        if self._by_vcpu:
            for vcpu in running:
                self._figures(vcpu).running_cycles += span
            for vcpu in runnable:
                self._figures(vcpu).waiting_cycles += span
        else:
            self._total.running_cycles += span * len(running)
            self._total.waiting_cycles += span * len(runnable)
        moved, self._moved = self._moved, []
        for vcpu in moved:
            self._account(vcpu, end)
            if vcpu.since is not None and vcpu.since > end:
                self._moved.append(vcpu)
                continue
            vcpu.is_moved = False
            if vcpu.since is not None and vcpu.state in self._still and vcpu.key >> 16 != IDLE_DOMAIN:
                self._still[vcpu.state].add(vcpu)
        self._begin_tsc = end

    def _move(self, vcpu: _Vcpu) -> None:
        """Count the time of a vCPU by itself in this period, because its state can change."""
        vcpu.is_moved = True
        self._moved.append(vcpu)
        if vcpu.since is not None:
            vcpu.since = max(vcpu.since, self._begin_tsc)
            if vcpu.state in self._still:
                self._still[vcpu.state].discard(vcpu)

    def restart(self) -> None:
        """Forget what runs and what is open: the TSC has restarted."""
        self._vcpus.clear()
        self._losable.clear()
        self._touched.clear()
        self._moved.clear()
        for still in self._still.values():
            still.clear()
        self._begin_tsc = 0
        self._blind_count = 0
        self._has_cores = False
        for pcpu in self._pcpus.values():
            pcpu.first_tsc = pcpu.current = pcpu.taken_off = None
            pcpu.is_blind = False
            pcpu.attends = True

    # --- what Framer asks for --------------------------------------------------------------

    def pcpu_of(self, number: int) -> _Pcpu:
        """Return the object that handlers get for a pCPU."""
        return self._pcpu(number)

    def _pcpu(self, number: int) -> _Pcpu:
        return self._pcpus.setdefault(number, _Pcpu(number))

    def meaning(self, event: int, words: int) -> Meaning | None:
        """Return how a record is handled, or None if it means nothing here."""
        if event & GUEST_CLASS_BIT:
            return None
        fixed: dict[int, tuple[int, Meaning]] = {
            LOST_RECORDS: (4, (self._on_lost, ALL_WORDS, None)),
            ids.CONTINUE_RUNNING: (1, (self._on_continue, 1, None)),
            ids.WAKE: (2, (self._on_wake, 2, None)),
            ids.BLOCK: (2, (self._on_block, 2, None)),
            ids.PV_BASE_4_0 | ids.PV_HYPERCALL: (2, (self._on_hypercall, LAST_WORD, None)),
            ids.PV_BASE_4_0 | ids.WIDE | ids.PV_HYPERCALL: (3, (self._on_hypercall, LAST_WORD, None)),
            ids.HVM_VMENTRY: (0, (self._on_entry, 0, None)),
            ids.HVM_VMX_EXIT: (2, (self._on_exit, 0, None)),
            ids.HVM_SVM_EXIT: (2, (self._on_exit, 0, None)),
            ids.HVM_VMX_EXIT | ids.WIDE: (3, (self._on_exit, 0, None)),
            ids.HVM_SVM_EXIT | ids.WIDE: (3, (self._on_exit, 0, None)),
            ids.HVM_INJ_VIRQ: (2, (self._on_injection, 0, None)),
            ids.HVM_VMMCALL: (1, (self._on_vmmcall, 1, None)),
            ids.HVM_HLT: (1, (self._on_hvm, 0, None)),
            ids.HVM_INTR_WINDOW: (3, (self._on_hvm, 0, None)),
            ids.HW_IRQ_HANDLED: (3, (self._on_irq, 0, None)),
            ids.TRACE_IRQ: (3, (self._on_irq, 0, None)),
        }
        if event in fixed:
            length, meaning = fixed[event]
            return meaning if words == length else None
        # Only here, for a shape's first record, because the catalogue takes 40 ms to import.
        from xtrace.probes.catalog.lookup import by_id

        if not by_id(event) or event & ids.GROUP_MASK == ids.EVTCHN:
            return self.on_unknown, 0, None
        if event & ~ids.RUNSTATE_BITS == ids.RUNSTATE_CHANGE and words:
            return self._on_runstate, 1, (event >> 8 & 3, event >> 4 & 3)
        if event == ids.PV_HYPERCALL_SUBCALL:
            return (self._on_subcall, min(words, 2), None) if words else None
        group = event & ids.GROUP_MASK
        if group in (ids.PV_BASE, ids.PV_BASE_4_0):
            return self._pv_meaning(event, words)
        return (self._on_hvm, 0, None) if group == ids.HVM_HANDLER else None

    def _pv_meaning(self, event: int, words: int) -> Meaning | None:
        minor, rip = event & ids.MINOR_MASK, 2 if event & ids.WIDE else 1
        if minor == ids.PV_HYPERCALL_V2 and words:
            return self._on_hypercall, min(words, 2), None
        lengths = {
            ids.PV_TRAP: rip + 1,
            ids.PV_PAGE_FAULT: 2 * rip + 1,
            ids.PV_FORCED_INVALID_OP: rip,
            ids.PV_EMULATE_PRIVOP: rip,
            ids.PV_PTWR_EMULATION: 6,
            ids.PV_PTWR_EMULATION_PAE: 4,
        }
        if lengths.get(minor, words) != words:
            return None
        return (self._on_trap if minor in (ids.PV_TRAP, ids.PV_PAGE_FAULT) else self._on_pv), 0, None

    def on_other(self, pcpu: _Pcpu, tsc: int, a: object, b: object) -> None:
        """Ignore a record that means nothing by itself."""

    def on_unknown(self, pcpu: _Pcpu, tsc: int, a: object, b: object) -> None:
        """Ignore a record of a newer Xen, or of event delivery: it does not show that a loss has ended."""

    def on_tick(self, pcpu: _Pcpu, tsc: int, a: object, b: object) -> None:
        """Ignore the end of a chunk; take() has noted the records counted up to here."""

    # --- pCPUs and vCPUs -------------------------------------------------------------------

    @property
    def pcpus(self) -> list[int]:
        """The pCPUs with a window so far, ascending."""
        return sorted(self._pcpus)

    def _attend(self, pcpu: _Pcpu, handler: object, tsc: int) -> None:
        """Handle a pCPU's first record and its first after a loss, whatever the record is."""
        if handler in (self.on_tick, self.on_unknown, self.on_hole):
            return
        if pcpu.first_tsc is None and tsc > 0:
            pcpu.first_tsc = tsc
            placeholder = self._vcpu(DEFAULT_DOMAIN << 16 | pcpu.number)
            pcpu.current = pcpu.current or placeholder
        if pcpu.is_blind and handler != self._on_lost:
            self._end_loss(pcpu)
        pcpu.attends = pcpu.is_blind or pcpu.first_tsc is None

    def _vcpu(self, key: int) -> _Vcpu:
        vcpu = self._vcpus.get(key)
        if vcpu is None:
            if len(self._vcpus) >= MAX_VCPUS:
                self.overflow_count += 1
                key = DEFAULT_DOMAIN << 16 | 0xFFFF
                vcpu = self._vcpus.get(key)
            if vcpu is None:
                vcpu = self._vcpus[key] = _Vcpu(key)
        return vcpu

    def _figures(self, vcpu: _Vcpu) -> Figures:
        """Return a vCPU's figures of the current period, or those of all together."""
        if not self._by_vcpu:
            return self._idle if vcpu.key >> 16 == IDLE_DOMAIN else self._total
        figures = vcpu.figures
        if figures is None:
            figures = vcpu.figures = Figures()
            self._touched.append(vcpu)
        return figures

    def _account(self, vcpu: _Vcpu, tsc: int) -> None:
        """Count the time of a vCPU in its present state up to ``tsc``."""
        since = vcpu.since
        if since is None or tsc <= since:
            return
        vcpu.since = tsc
        if vcpu.key >> 16 == IDLE_DOMAIN:
            return
        if vcpu.state == _RUNNING:
            self._figures(vcpu).running_cycles += tsc - since
        elif vcpu.state == _RUNNABLE:
            self._figures(vcpu).waiting_cycles += tsc - since

    def _set_state(self, vcpu: _Vcpu, state: int) -> None:
        if state == _RUNNABLE:
            vcpu.is_woken = vcpu.state in (_BLOCKED, _OFFLINE)
        vcpu.state = state
        if state in (_RUNNABLE, _BLOCKED, _OFFLINE):
            self._losable.add(vcpu)
        else:
            self._losable.discard(vcpu)

    def _enter(self, pcpu: _Pcpu, vcpu: _Vcpu, tsc: int) -> None:
        """Let ``vcpu`` run on ``pcpu`` from ``tsc`` on."""
        if not vcpu.is_moved:
            self._move(vcpu)
        self._account(vcpu, tsc)
        if vcpu.since is None:
            vcpu.since = tsc
        before = pcpu.current
        if before not in (None, vcpu) and before.state == _RUNNING and before.pcpu == pcpu.number:
            self._lose(before)
        is_runnable = vcpu.state == _RUNNABLE
        if vcpu.state == _RUNNING and vcpu.pcpu != pcpu.number:
            vcpu.skew = True
        woken_at, vcpu.wake = vcpu.wake, None
        if woken_at is not None and is_runnable and vcpu.is_woken:
            self._figures(vcpu).wake_to_running.put(tsc - woken_at)
        if vcpu.blocked_by_call and is_runnable:
            vcpu.begin_upcall(tsc)
        vcpu.blocked_by_call = False
        vcpu.is_fresh = True
        vcpu.pcpu = pcpu.number
        vcpu.state = _RUNNING
        self._losable.discard(vcpu)
        pcpu.current = vcpu

    def _stop(self, pcpu: _Pcpu, vcpu: _Vcpu, new: int) -> None:
        """Take a running vCPU off its pCPU."""
        if vcpu.skew and vcpu.pcpu != pcpu.number:
            vcpu.skew = False
            return
        if pcpu.current is vcpu:
            pcpu.current = None
        vcpu.skew = False
        vcpu.upcall = None
        if new == _BLOCKED:
            vcpu.traps = 0
        self._set_state(vcpu, new)
        if self._blind_count and vcpu.key >> 16 != IDLE_DOMAIN:
            self._lose(vcpu)

    def _lose(self, vcpu: _Vcpu) -> None:
        cuts = (vcpu.wake is not None) + (vcpu.upcall is not None) + (vcpu.entered is not None)
        if cuts:
            self._figures(vcpu).cuts += cuts
        if not vcpu.is_moved:
            self._move(vcpu)
        vcpu.forget()
        vcpu.state = _LOST
        self._losable.discard(vcpu)
        vcpu.since = None

    def _end_loss(self, pcpu: _Pcpu) -> None:
        pcpu.is_blind = False
        self._blind_count -= 1
        vcpu = self._vcpu(pcpu.loss_vcpu)
        if vcpu.key >> 16 != DEFAULT_DOMAIN:
            self._enter(pcpu, vcpu, pcpu.loss_end)

    # --- the scheduler's records -----------------------------------------------------------

    def on_hole(self, pcpu: _Pcpu, tsc: int, a: object, b: object) -> None:
        """Cut what is open, because windows of a pCPU are missing."""
        current, pcpu.current = pcpu.current, None
        if current is not None and current.key >> 16 != DEFAULT_DOMAIN:
            self._lose(current)
        for vcpu in tuple(self._losable):
            self._lose(vcpu)

    def _on_lost(self, pcpu: _Pcpu, tsc: int, words: list[int], _: object) -> None:
        count, who, _low, _high = words
        self.host.lost += count
        self.host.gaps += 1
        self.host.lost_pcpus.add(pcpu.number)
        self.on_hole(pcpu, tsc, None, None)
        if not pcpu.is_blind:
            self._blind_count += 1
        pcpu.is_blind = pcpu.attends = True
        pcpu.loss_end, pcpu.loss_vcpu = tsc, (who & 0xFFFF) << 16 | who >> 16

    def _on_runstate(self, writer: _Pcpu, tsc: int, key: int, states: tuple[int, int]) -> None:
        vcpu = self._vcpu(key)
        if not vcpu.is_moved:
            self._move(vcpu)
        if vcpu.state == states[0]:
            self._account(vcpu, tsc)
        elif vcpu.state not in (_LOST, _UNKNOWN):
            vcpu.since = tsc  # it was in another state, since it is not known when
        self._change(writer, vcpu, tsc, states)
        if vcpu.since is None and vcpu.state not in (_LOST, _UNKNOWN):
            vcpu.since = tsc

    def _change(self, writer: _Pcpu, vcpu: _Vcpu, tsc: int, states: tuple[int, int]) -> None:
        """Follow a runstate record."""
        old, new = states
        key, state = vcpu.key, vcpu.state
        if new == _RUNNING and key >> 16 != IDLE_DOMAIN:
            self._figures(vcpu).runs += 1
        pcpu = self._place_of(writer, vcpu, old, new)
        if pcpu is None:
            self._switch_unplaced(vcpu, new)
            return
        if state == _UNKNOWN:
            if not self._becomes_known(pcpu, vcpu, old, tsc):
                return
            state = old
        if new == _RUNNING:
            self._enter(pcpu, vcpu, tsc)
        elif state == _LOST:
            if pcpu.current is vcpu:
                pcpu.current = None
        elif state == _RUNNING:
            if old == _RUNNING:
                self._stop(pcpu, vcpu, new)
        else:
            self._set_state(vcpu, new)

    def _place_of(self, writer: _Pcpu, vcpu: _Vcpu, old: int, new: int) -> _Pcpu | None:
        """Return the pCPU that a runstate record is about; None where it is not known.

        With core scheduling a pCPU writes the switches of its siblings, too, in pairs: the vCPU that leaves,
        and the one that runs next on the same pCPU.  An idle vCPU has the number of its pCPU.
        """
        number = vcpu.key & 0xFFFF
        is_idle = vcpu.key >> 16 == IDLE_DOMAIN
        if is_idle and number != writer.number and (old == _RUNNING) != (new == _RUNNING):
            self._has_cores = True
        if not self._has_cores or (old != _RUNNING and new != _RUNNING):
            return writer
        place, writer.taken_off = writer.taken_off, None
        if is_idle:
            there = self._pcpus.get(number)
            is_seen = there is not None and there.first_tsc is not None
            place = self._pcpu(number) if number < _UNSEEN_PCPUS or is_seen else None
        elif old == _RUNNING:
            place = self._pcpu(vcpu.pcpu) if vcpu.state == _RUNNING and vcpu.pcpu >= 0 else None
        if old == _RUNNING and new != _RUNNING:
            writer.taken_off = place
        return place

    def _switch_unplaced(self, vcpu: _Vcpu, new: int) -> None:
        """Handle a switch of a vCPU of which it is not known on which pCPU it is."""
        on = self._pcpus.get(vcpu.pcpu)
        if vcpu.state == _RUNNING and on is not None and on.current is vcpu:
            on.current = None
        if vcpu.state == _RUNNING or new == _RUNNING:
            self._lose(vcpu)
        if new == _RUNNING:
            vcpu.pcpu = -1
        self._set_state(vcpu, new)

    def _becomes_known(self, pcpu: _Pcpu, vcpu: _Vcpu, old: int, tsc: int) -> bool:
        """Set the state that a vCPU's first runstate record says it had; return False if it cannot be."""
        if old != _RUNNING:
            self._set_state(vcpu, old)
            return True
        if pcpu.current is not None and pcpu.current.key >> 16 != DEFAULT_DOMAIN:
            return False
        self._enter(pcpu, vcpu, tsc if pcpu.current is None else pcpu.first_tsc or tsc)
        return True

    def _on_continue(self, pcpu: _Pcpu, tsc: int, key: int, _: object) -> None:
        vcpu = self._vcpu(key)
        if vcpu.state == _RUNNING and vcpu.pcpu == pcpu.number:
            if vcpu.blocked_by_call:  # it was woken before it left the pCPU
                vcpu.begin_upcall(tsc)
                vcpu.blocked_by_call = False
                vcpu.is_fresh = True
            return
        place = self._place_of(pcpu, vcpu, _RUNNING, _RUNNING)
        if place is None:
            self._switch_unplaced(vcpu, _RUNNING)
        elif vcpu.state == _UNKNOWN:
            self._becomes_known(place, vcpu, _RUNNING, tsc)
        else:
            self._enter(place, vcpu, tsc)

    def _on_wake(self, pcpu: _Pcpu, tsc: int, domain: int, number: int) -> None:
        vcpu = self._vcpu((domain & 0xFFFF) << 16 | number & 0xFFFF)
        if vcpu.state not in (_RUNNING, _RUNNABLE):
            if vcpu.state != _OFFLINE or vcpu.wake is None:  # otherwise it is paused, and woken before
                vcpu.wake = tsc
            self._figures(vcpu).wakes += 1

    def _on_block(self, pcpu: _Pcpu, tsc: int, domain: int, number: int) -> None:
        vcpu = self._vcpu((domain & 0xFFFF) << 16 | number & 0xFFFF)
        vcpu.blocked_by_call = vcpu.block_call is not None
        vcpu.block_call = None

    def _guest(self, pcpu: _Pcpu, kind: int) -> _Vcpu | None:
        """Return the current vCPU if a record of that type of guest can belong to it."""
        vcpu = pcpu.current
        if vcpu is None or vcpu.key >> 16 == IDLE_DOMAIN:
            return None
        if vcpu.type not in (0, kind) and vcpu.key >> 16 != DEFAULT_DOMAIN:
            return None
        vcpu.type = kind
        return vcpu

    # --- records of PV guests --------------------------------------------------------------

    def _pv(self, pcpu: _Pcpu, tsc: int) -> _Vcpu | None:
        """Return the vCPU that a PV record belongs to, None if there is none."""
        vcpu = self._guest(pcpu, _PV)
        if vcpu is None:
            return None
        if vcpu.is_fresh:
            vcpu.is_fresh = False
            if vcpu.upcall is not None and vcpu.upcall_high is None:
                vcpu.upcall_high = tsc
        vcpu.block_call = None
        vcpu.blocked_by_call = False
        return vcpu

    def _on_pv(self, pcpu: _Pcpu, tsc: int, a: object, b: object) -> None:
        self._pv(pcpu, tsc)

    def _on_trap(self, pcpu: _Pcpu, tsc: int, a: object, b: object) -> None:
        vcpu = self._pv(pcpu, tsc)
        if vcpu is not None:
            vcpu.traps += 1

    def _on_hypercall(self, pcpu: _Pcpu, tsc: int, word: int, argument: int | None) -> None:
        vcpu = self._pv(pcpu, tsc)
        if vcpu is None:
            return
        figures = vcpu.figures or self._figures(vcpu)
        figures.hypercalls += 1
        op = word & _OP_MASK
        if op == _IRET:
            self._iret(vcpu, figures, tsc)
        elif op == _XEN_VERSION:
            figures.forced += 1
            vcpu.is_forced = True
        else:
            self._call(vcpu, figures, word, argument)

    def _on_subcall(self, pcpu: _Pcpu, tsc: int, word: int, argument: int | None) -> None:
        vcpu = self._pv(pcpu, tsc)
        if vcpu is None:
            return
        figures = self._figures(vcpu)
        if word & _OP_MASK == _IRET:
            self._iret(vcpu, figures, tsc)
        else:
            self._call(vcpu, figures, word, argument)

    def _call(self, vcpu: _Vcpu, figures: Figures, word: int, argument: int | None) -> None:
        op = word & _OP_MASK
        if op in _EVENT_CHANNEL_OPS:
            figures.sends += 1
        elif op == _XEN_VERSION:
            vcpu.is_forced = True
        elif op in _SCHED_OPS:
            command = argument if word & _HAS_ARGUMENT else None
            if command == _BLOCK_COMMAND:
                vcpu.block_call = True
            elif command is None and op == _SCHED_OP_COMPAT:
                vcpu.block_call = False

    def _iret(self, vcpu: _Vcpu, figures: Figures, tsc: int) -> None:
        if vcpu.traps:
            vcpu.traps -= 1
            return
        began, vcpu.upcall = vcpu.upcall, None
        if began is None:
            figures.irets_open += 1
            return
        figures.upcalls_least += 1
        if vcpu.is_forced:
            return  # the iret may be that of the upcall inside, which the callback began
        figures.upcall_most.put(tsc - began)
        figures.upcall_least.put(tsc - (vcpu.upcall_high or 0))

    # --- records of HVM and PVH guests -----------------------------------------------------

    def _hvm(self, pcpu: _Pcpu) -> _Vcpu | None:
        return self._guest(pcpu, _HVM)

    def _on_hvm(self, pcpu: _Pcpu, tsc: int, a: object, b: object) -> None:
        self._hvm(pcpu)

    def _on_injection(self, pcpu: _Pcpu, tsc: int, a: object, b: object) -> None:
        vcpu = self._hvm(pcpu)
        if vcpu is not None:
            vcpu.injected = tsc
            self._figures(vcpu).injections += 1

    def _on_entry(self, pcpu: _Pcpu, tsc: int, a: object, b: object) -> None:
        vcpu = self._hvm(pcpu)
        if vcpu is not None and vcpu.injected is not None:
            vcpu.injected, vcpu.entered = None, tsc

    def _on_exit(self, pcpu: _Pcpu, tsc: int, a: object, b: object) -> None:
        vcpu = self._hvm(pcpu)
        if vcpu is not None and vcpu.entered is not None:
            self._figures(vcpu).hvm_upcall.put(tsc - vcpu.entered)
            vcpu.entered = None

    def _on_vmmcall(self, pcpu: _Pcpu, tsc: int, op: int, _: object) -> None:
        vcpu = self._hvm(pcpu)
        if vcpu is not None and op == _EVENT_CHANNEL_OP:
            self._figures(vcpu).sends += 1

    def _on_irq(self, pcpu: _Pcpu, tsc: int, a: object, b: object) -> None:
        self.host.irqs += 1
