"""Simulate a small Xen host, and return its trace together with the truth.

vCPUs run, send events, block and are woken on pCPUs with a run queue each; every
step writes the records that Xen 4.17 writes there, on the same pCPU and in the same
order.  Times between records are random, and the same for the same seed.  Records of
a particular scheduler (credit2's 0x222xx) and of memory management are left out.

The sequences follow xen/common/sched/core.c, xen/common/event_channel.c,
xen/arch/x86/irq.c and real Xen 4.17 traces.
"""

from __future__ import annotations

import heapq
import io
import random
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from xtrace.probes.format import Runstate
from xtrace.probes.reader.writer import DEFAULT_RING_BYTES, TraceWriter
from xtrace.probes.xen_abi import IDLE_DOMAIN

Kind = Literal["pv", "hvm"]
Cause = Literal["hypercall", "irq", "timer"]
VcpuKey = tuple[int, int]

# Events, as in xen/include/public/trace.h.
RUNSTATE_CHANGE = 0x21001
CONTINUE_RUNNING = 0x21002
WAKE = 0x28004
BLOCK = 0x28006
SWITCH = 0x2800A
INFPREV = 0x2800E
INFNEXT = 0x2800F
INFCONT = 0x28011
VMENTRY = 0x81001
VMEXIT64 = 0x81102
INJ_VIRQ = 0x82004
HVM_INTR = 0x8200F
HVM_VMMCALL = 0x82012
HVM_HLT = 0x82013
INTR_WINDOW = 0x82020
PV_HYPERCALL = 0x20100D
PV_SUBCALL = 0x20200E
PV_TRAP = 0x201103
PV_PAGE_FAULT = 0x201104
PV_PRIVOP = 0x201106
IDLE_ENTRY = 0x801002
IDLE_EXIT = 0x801003
IRQ_HANDLED = 0x802008

# Hypercall numbers, and the arguments that their records have besides the number.
MMU_UPDATE, STACK_SWITCH, MULTICALL, XEN_VERSION, GRANT_TABLE_OP = 1, 3, 13, 17, 20
IRET, VCPU_OP, SET_SEGMENT_BASE, SCHED_OP, EVENT_CHANNEL_OP = 23, 24, 25, 29, 32
_ARGUMENTS = {MMU_UPDATE: (1,), MULTICALL: (1,), GRANT_TABLE_OP: (0, 2), VCPU_OP: (0, 1), SCHED_OP: (0,)}
_SCHEDOP_BLOCK = 1

# VMX exit reasons.
EXIT_INTERRUPT, EXIT_WINDOW, EXIT_CPUID, EXIT_HLT, EXIT_VMCALL, EXIT_RDMSR = 1, 7, 10, 12, 18, 31

_CALLBACK_VECTOR = 0xF3
_CALLBACK_SOURCE = 5
_NONE_QUEUED = 0xFFFF_FFFF
_KICK_VECTOR = 0xFC
_TIMER_VECTOR = 0xFA
_FIRST_IRQ, _IRQS = 16, 8
_KERNEL_RIP = 0xFFFF_FFFF_8100_0000
_LOW = 0xFFFF_FFFF

_STEP_US = 15
_SLEEP_US = 400
_IRQ_US = 300
_SLICE_US = 5_000


@dataclass(slots=True)
class VcpuTruth:
    """What one vCPU did.  Counts include records that the rings dropped.

    Attributes:
        wakes: by cause.  The records alone do not always show it: a timer that fires right
            after an event_channel_op that woke nobody looks like a hypercall.
        sends: event_channel_op hypercalls it made (HVM: VMMCALL 32).
        hypercalls, subcalls: by number; those of HVM are its VMMCALLs.
        blocks: BLOCK records.
        blocks_pending: sched_op(block) that returned at once, without a BLOCK record.
        upcalls: PV: ended by iret; HVM: injections of the callback vector.
        masked_windows: INTR_WINDOW records that found nothing queued: a callback had to wait.
        exits: VMEXITs by reason.
        continues: CONTINUE_RUNNING records.
        runs: switches to this vCPU.
        remote_runs: switches to it after a wake, on a pCPU other than the waker's.
        state_cycles: by runstate, over intervals that begin and end with a RUNSTATE record.
        state_counts: how many such intervals.
        wake_to_runnable_cycles: from each WAKE to its RUNSTATE 2>1.
        wake_to_running_cycles: from each WAKE to the RUNSTATE 1>0 that follows.
    """

    wakes: Counter[Cause] = field(default_factory=Counter)
    sends: int = 0
    hypercalls: Counter[int] = field(default_factory=Counter)
    subcalls: Counter[int] = field(default_factory=Counter)
    traps: int = 0
    page_faults: int = 0
    privops: int = 0
    blocks: int = 0
    blocks_pending: int = 0
    upcalls: int = 0
    masked_windows: int = 0
    exits: Counter[int] = field(default_factory=Counter)
    continues: int = 0
    runs: int = 0
    remote_runs: int = 0
    state_cycles: Counter[Runstate] = field(default_factory=Counter)
    state_counts: Counter[Runstate] = field(default_factory=Counter)
    wake_to_runnable_cycles: list[int] = field(default_factory=list)
    wake_to_running_cycles: list[int] = field(default_factory=list)


@dataclass(slots=True)
class Truth:
    """What happened on the host.

    Attributes:
        vcpus: by (domain, vCPU), without idle vCPUs.
        events: number of records of each event id, written or dropped.
        irqs: number of HW_IRQ_HANDLED by irq.
        written, dropped, fillers: number of records that the rings accepted, dropped and inserted.
        first_tsc, last_tsc: of the host's clock, before skew.
    """

    vcpus: dict[VcpuKey, VcpuTruth]
    events: Counter[int] = field(default_factory=Counter)
    irqs: Counter[int] = field(default_factory=Counter)
    written: int = 0
    dropped: int = 0
    fillers: int = 0
    untold: int = 0  # dropped records that no LOST_RECORDS counts
    first_tsc: int = 0
    last_tsc: int = 0


@dataclass(frozen=True, slots=True)
class Simulation:
    """A trace and its truth."""

    data: bytes
    truth: Truth


def simulate(
    seed: int,
    pcpus: int,
    domains: Sequence[tuple[int, int, Kind]],
    duration_cycles: int,
    *,
    tsc_hz: int = 2_600_000_000,
    loss: float = 0.0,
    skew_cycles: Sequence[int] = (),
    ring_bytes: int = DEFAULT_RING_BYTES,
    poll_cycles: int | None = None,
    pace: float = 1.0,
    sleep: float = 1.0,
    irqs: float = 1.0,
    sends: float = 1.0,
) -> Simulation:
    """Run a host for ``duration_cycles`` and return its trace and the truth.

    Args:
        seed: the same seed gives the same bytes.
        pcpus: number of pCPUs.
        domains: (domain id, number of vCPUs, "pv" or "hvm") each.
        duration_cycles: length of the trace.
        tsc_hz: TSC cycles per second.
        loss: 0 polls whenever a ring is half full, so nothing is lost; otherwise the chance that
            a polling round does not happen, for use with small rings.
        skew_cycles: how far each pCPU's TSC is ahead of the host's clock.
        ring_bytes: data bytes of each ring.
        poll_cycles: time between polling rounds; 10 ms unless given.
        pace: how much slower than usual guests do things and interrupts come.
        sleep: how much longer than usual vCPUs sleep.
        irqs: how much less often than usual interrupts come.
        sends: which part of the sends is not to a port that is pending already.
    """
    host = _Host(seed, pcpus, domains, tsc_hz, TraceWriter(
        out := io.BytesIO(), pcpus, ring_bytes, skew_cycles=skew_cycles
    ), pace, sleep, irqs, sends)  # fmt: skip
    host.run(duration_cycles, poll_cycles or tsc_hz // 100, ring_bytes // 2, loss)
    return Simulation(out.getvalue(), host.truth)


@dataclass(slots=True)
class _Vcpu:
    domain: int
    number: int
    kind: Kind | Literal["idle"]
    truth: VcpuTruth
    state: Runstate = Runstate.BLOCKED
    since: int | None = None  # of its last RUNSTATE record
    pcpu: int = 0
    epoch: int = 0  # incremented whenever it stops running, which cancels its scheduled actions
    scheduled_at: int = 0
    descheduled_at: int = 0
    woken: tuple[int, int] | None = None  # TSC of its WAKE, waker's pCPU
    pending: bool = False  # an event waits for its upcall
    in_upcall: bool = False
    blocking: bool = False
    in_guest: bool = False  # HVM: between VMENTRY and VMEXIT
    window: Literal["none", "masked", "queued"] = "none"

    @property
    def is_idle(self) -> bool:
        return self.kind == "idle"

    @property
    def packed(self) -> int:
        return self.domain << 16 | self.number


@dataclass(slots=True)
class _Pcpu:
    number: int
    current: _Vcpu
    idle: _Vcpu
    clock: int
    queue: deque[_Vcpu] = field(default_factory=deque)
    resched: bool = False
    sleeping: bool = False  # between IDLE_ENTRY and IDLE_EXIT


class _Host:
    """The simulation: a heap of scheduled actions, and the records that each writes."""

    def __init__(
        self,
        seed: int,
        pcpus: int,
        domains: Sequence[tuple[int, int, Kind]],
        tsc_hz: int,
        writer: TraceWriter,
        pace: float,
        sleep: float,
        irqs: float,
        sends: float,
    ) -> None:
        self._step_us, self._irq_us = pace * _STEP_US, pace * irqs * _IRQ_US
        self._sends = sends
        self._sleep_us = pace * sleep * _SLEEP_US
        self._random = random.Random(seed)
        self._hz = tsc_hz
        self._writer = writer
        self._start = 1 << 40 | self._random.getrandbits(32)
        self._agenda: list[tuple[int, int, Callable[[int], None]]] = []
        self._planned = 0
        self._queued = 0
        self._half_full: int | None = None
        self._pcpus: list[_Pcpu] = []
        for number in range(pcpus):
            idle = _Vcpu(IDLE_DOMAIN, number, "idle", VcpuTruth(), Runstate.RUNNING, None, number)
            self._pcpus.append(_Pcpu(number, idle, idle, self._start))
        self._vcpus = [
            _Vcpu(domain, number, kind, VcpuTruth(), pcpu=self._random.randrange(pcpus))
            for domain, vcpus, kind in domains
            for number in range(vcpus)
        ]
        self.truth = Truth({(vcpu.domain, vcpu.number): vcpu.truth for vcpu in self._vcpus})

    def run(self, duration_cycles: int, poll_cycles: int, half_full: int, loss: float) -> None:
        end = self._start + duration_cycles
        self._half_full = None if loss else half_full
        for vcpu in self._vcpus:
            self._plan_timer(vcpu, self._start)
        if self._vcpus:
            for pcpu in self._pcpus:
                self._plan_irq(pcpu, self._start)
        self._plan(self._start + poll_cycles, lambda now: self._poll(now, poll_cycles, loss))
        while self._agenda and self._agenda[0][0] < end:
            now, _, action = heapq.heappop(self._agenda)
            action(now)
        writer, truth = self._writer, self.truth
        writer.close()
        truth.written, truth.dropped, truth.fillers = writer.written, writer.dropped, writer.fillers
        truth.untold = sum(writer.pending_lost(pcpu.number) for pcpu in self._pcpus)
        truth.first_tsc, truth.last_tsc = self._start, max(pcpu.clock for pcpu in self._pcpus)

    # --- time and records ------------------------------------------------------------------

    def _plan(self, when: int, action: Callable[[int], None]) -> None:
        self._planned += 1
        heapq.heappush(self._agenda, (when, self._planned, action))

    def _about(self, microseconds: float) -> int:
        """Return a random number of cycles with the given mean."""
        return 1 + int(self._random.expovariate(1.0) * microseconds * self._hz / 1e6)

    def _ns(self, cycles: int) -> int:
        return cycles * 1_000_000_000 // self._hz & _LOW

    def _emit(self, pcpu: _Pcpu, event: int, *words: int) -> int:
        """Write a timed record shortly after the last one and return its TSC."""
        pcpu.clock += self._random.randrange(200, 3000)
        self._put(pcpu, pcpu.clock, event, words)
        return pcpu.clock

    def _emit_untimed(self, pcpu: _Pcpu, event: int, *words: int) -> None:
        self._put(pcpu, None, event, words)

    def _put(self, pcpu: _Pcpu, tsc: int | None, event: int, words: tuple[int, ...]) -> None:
        self.truth.events[event] += 1
        self._writer.write(pcpu.number, tsc, event, words)
        if self._half_full is not None and self._writer.unread_bytes(pcpu.number) >= self._half_full:
            self._writer.poll()

    def _poll(self, now: int, poll_cycles: int, loss: float) -> None:
        if self._random.random() >= loss:
            self._writer.poll()
        self._plan(now + poll_cycles, lambda then: self._poll(then, poll_cycles, loss))

    # --- into and out of Xen ---------------------------------------------------------------

    def _enter(self, pcpu: _Pcpu, now: int, vector: int) -> None:
        """Take an interrupt on ``pcpu``."""
        pcpu.clock = max(pcpu.clock, now)
        vcpu = pcpu.current
        if pcpu.sleeping:
            pcpu.sleeping = False
            self._emit(pcpu, IDLE_EXIT, 1, self._ns(pcpu.clock), vector, 0, 0, 0)
        elif vcpu.in_guest:
            self._exit_guest(pcpu, vcpu, EXIT_INTERRUPT)
            self._emit_untimed(pcpu, HVM_INTR, vector)

    def _leave(self, pcpu: _Pcpu) -> None:
        """Return to the vCPU that ran, or switch if another one is to run."""
        if pcpu.resched:
            pcpu.resched = False
            self._schedule(pcpu)
        self._resume(pcpu)

    def _resume(self, pcpu: _Pcpu) -> None:
        vcpu = pcpu.current
        if vcpu.is_idle:
            pcpu.sleeping = True
            self._emit(pcpu, IDLE_ENTRY, 1, self._ns(pcpu.clock), self._random.randrange(1000), 200)
        elif vcpu.kind == "pv":
            vcpu.in_upcall |= vcpu.pending
            vcpu.pending = False
        else:
            if vcpu.pending and vcpu.window == "none":
                if self._random.random() < 0.2:
                    self._emit_untimed(pcpu, INTR_WINDOW, _CALLBACK_VECTOR, _CALLBACK_SOURCE, _NONE_QUEUED)
                    vcpu.truth.masked_windows += 1
                    vcpu.window = "masked"
                else:
                    self._inject(pcpu, vcpu)
            self._emit(pcpu, VMENTRY)
            vcpu.in_guest = True

    def _exit_guest(self, pcpu: _Pcpu, vcpu: _Vcpu, reason: int) -> None:
        rip = self._rip()
        self._emit(pcpu, VMEXIT64, reason, rip & _LOW, rip >> 32)
        vcpu.truth.exits[reason] += 1
        vcpu.in_guest = False

    def _inject(self, pcpu: _Pcpu, vcpu: _Vcpu) -> None:
        self._emit_untimed(pcpu, INJ_VIRQ, _CALLBACK_VECTOR, 0)
        self._emit_untimed(pcpu, INTR_WINDOW, _CALLBACK_VECTOR, _CALLBACK_SOURCE, _CALLBACK_VECTOR)
        vcpu.truth.upcalls += 1
        vcpu.pending = False
        vcpu.window = "queued"

    # --- interrupts, events, timers --------------------------------------------------------

    def _plan_irq(self, pcpu: _Pcpu, now: int) -> None:
        self._plan(now + self._about(self._irq_us), lambda then: self._irq(pcpu, then))

    def _irq(self, pcpu: _Pcpu, now: int) -> None:
        irq = self._random.randrange(_IRQS)
        self._enter(pcpu, now, 0x30 + irq)
        pcpu.clock += self._random.randrange(100, 1000)
        tsc_in = pcpu.clock
        self._send(pcpu, self._random.choice(self._vcpus), "irq")
        pcpu.clock += self._random.randrange(100, 1000)
        tsc_out = pcpu.clock
        self._emit(pcpu, IRQ_HANDLED, _FIRST_IRQ + irq, tsc_in & _LOW, tsc_out & _LOW)
        self.truth.irqs[_FIRST_IRQ + irq] += 1
        self._leave(pcpu)
        self._plan_irq(pcpu, now)

    def _plan_timer(self, vcpu: _Vcpu, now: int) -> None:
        epoch = vcpu.epoch
        self._plan(now + self._about(self._sleep_us), lambda then: self._timer(vcpu, epoch, then))

    def _timer(self, vcpu: _Vcpu, epoch: int, now: int) -> None:
        if vcpu.epoch != epoch or vcpu.state != Runstate.BLOCKED:
            return
        pcpu = self._pcpus[vcpu.pcpu]
        self._enter(pcpu, now, _TIMER_VECTOR)
        self._send(pcpu, vcpu, "timer")
        self._leave(pcpu)

    def _send(self, pcpu: _Pcpu, target: _Vcpu, cause: Cause) -> None:
        """Make an event pending for ``target``: wake it, or kick it if it runs elsewhere."""
        if target.pending:
            return
        target.pending = True
        if target.state == Runstate.BLOCKED:
            self._wake(pcpu, target, cause)
        elif target.state == Runstate.RUNNING and target.pcpu != pcpu.number:
            epoch = target.epoch
            self._plan(pcpu.clock + self._about(1), lambda then: self._kick(target, epoch, then))

    def _kick(self, vcpu: _Vcpu, epoch: int, now: int) -> None:
        if vcpu.epoch != epoch or not vcpu.pending:
            return
        pcpu = self._pcpus[vcpu.pcpu]
        self._enter(pcpu, now, _KICK_VECTOR)
        self._leave(pcpu)

    def _wake(self, pcpu: _Pcpu, vcpu: _Vcpu, cause: Cause) -> None:
        woken_at = self._emit(pcpu, WAKE, vcpu.domain, vcpu.number)
        vcpu.truth.wakes[cause] += 1
        vcpu.woken = (woken_at, pcpu.number)
        vcpu.epoch += 1
        self._set_runstate(pcpu, vcpu, Runstate.RUNNABLE)
        vcpu.truth.wake_to_runnable_cycles.append(pcpu.clock - woken_at)
        home = self._choose_pcpu(vcpu)
        vcpu.pcpu = home.number
        self._enqueue(home, vcpu)
        if (home.current.is_idle or self._random.random() < 0.5) and not home.resched:
            home.resched = True
            if home is not pcpu:
                self._plan(pcpu.clock + self._about(1.5), lambda then: self._reschedule_ipi(home, then))

    def _reschedule_ipi(self, pcpu: _Pcpu, now: int) -> None:
        if pcpu.resched:
            self._enter(pcpu, now, _KICK_VECTOR)
            self._leave(pcpu)

    # --- scheduling ------------------------------------------------------------------------

    def _choose_pcpu(self, vcpu: _Vcpu) -> _Pcpu:
        candidates = [vcpu.pcpu, *(self._random.randrange(len(self._pcpus)) for _ in range(3))]
        for number in candidates:
            pcpu = self._pcpus[number]
            if pcpu.current.is_idle and not pcpu.queue and not pcpu.resched:
                return pcpu
        return self._pcpus[vcpu.pcpu]

    def _enqueue(self, pcpu: _Pcpu, vcpu: _Vcpu) -> None:
        pcpu.queue.append(vcpu)
        self._queued += 1

    def _dequeue(self, pcpu: _Pcpu) -> _Vcpu | None:
        """Return the next vCPU to run, from another pCPU's queue if the own one is empty."""
        if not self._queued:
            return None
        count = len(self._pcpus)
        for distance in range(count):
            queue = self._pcpus[(pcpu.number + distance) % count].queue
            if queue:
                self._queued -= 1
                return queue.popleft()
        return None

    def _schedule(self, pcpu: _Pcpu) -> None:
        """Switch ``pcpu`` to the next vCPU, or let the current one continue."""
        previous = pcpu.current
        stays = not previous.is_idle and not previous.blocking
        following = pcpu.queue.popleft() if stays and pcpu.queue else None
        if following is not None:
            self._queued -= 1
        elif stays:
            self._continue(pcpu, previous)
            return
        else:
            following = self._dequeue(pcpu) or pcpu.idle
            if following is previous:
                return
        pcpu.clock = max(pcpu.clock, following.since or 0)
        now = pcpu.clock
        ran, waited = now - previous.scheduled_at, now - following.descheduled_at
        slice_ns = 0xFFFF_FFFF if following.is_idle else _SLICE_US * 1000
        self._emit(pcpu, INFPREV, previous.domain, previous.number, self._ns(ran))
        self._emit(pcpu, INFNEXT, following.domain, following.number, self._ns(waited), slice_ns)
        self._emit(pcpu, SWITCH, previous.domain, previous.number, following.domain, following.number)
        previous.descheduled_at = following.scheduled_at = now
        previous.epoch += 1
        self._set_runstate(pcpu, previous, Runstate.BLOCKED if previous.blocking else Runstate.RUNNABLE)
        self._set_runstate(pcpu, following, Runstate.RUNNING)
        pcpu.current = following
        following.pcpu = pcpu.number
        self._writer.set_current(pcpu.number, following.domain, following.number)
        if previous.blocking:
            previous.blocking = False
            self._plan_timer(previous, pcpu.clock)
        elif not previous.is_idle:
            self._enqueue(pcpu, previous)
        if not following.is_idle:
            self._begin_run(pcpu, following)

    def _continue(self, pcpu: _Pcpu, vcpu: _Vcpu) -> None:
        ran = self._ns(pcpu.clock - vcpu.scheduled_at)
        self._emit(pcpu, INFCONT, vcpu.domain, vcpu.number, ran, _SLICE_US * 1000)
        self._emit(pcpu, CONTINUE_RUNNING, vcpu.packed)
        vcpu.truth.continues += 1
        self._plan_slice(pcpu, vcpu)

    def _begin_run(self, pcpu: _Pcpu, vcpu: _Vcpu) -> None:
        vcpu.truth.runs += 1
        if vcpu.woken is not None:
            woken_at, waker_pcpu = vcpu.woken
            vcpu.truth.wake_to_running_cycles.append(pcpu.clock - woken_at)
            vcpu.truth.remote_runs += waker_pcpu != pcpu.number
            vcpu.woken = None
        self._plan_slice(pcpu, vcpu)
        self._plan_step(pcpu, vcpu)

    def _plan_slice(self, pcpu: _Pcpu, vcpu: _Vcpu) -> None:
        epoch = vcpu.epoch
        slice_cycles = _SLICE_US * self._hz // 1_000_000
        self._plan(pcpu.clock + slice_cycles, lambda then: self._slice_end(vcpu, epoch, then))

    def _slice_end(self, vcpu: _Vcpu, epoch: int, now: int) -> None:
        if vcpu.epoch != epoch:
            return
        pcpu = self._pcpus[vcpu.pcpu]
        self._enter(pcpu, now, _TIMER_VECTOR)
        pcpu.resched = True
        self._leave(pcpu)

    def _set_runstate(self, pcpu: _Pcpu, vcpu: _Vcpu, state: Runstate) -> None:
        """Write RUNSTATE_CHANGE, never earlier than the vCPU's last one on any pCPU."""
        pcpu.clock = max(pcpu.clock, vcpu.since or 0)
        now = self._emit(pcpu, RUNSTATE_CHANGE | vcpu.state << 8 | state << 4, vcpu.packed)
        if vcpu.since is not None:
            vcpu.truth.state_cycles[vcpu.state] += now - vcpu.since
            vcpu.truth.state_counts[vcpu.state] += 1
        vcpu.state, vcpu.since = state, now

    # --- what guests do --------------------------------------------------------------------

    def _plan_step(self, pcpu: _Pcpu, vcpu: _Vcpu) -> None:
        epoch = vcpu.epoch
        self._plan(pcpu.clock + self._about(self._step_us), lambda then: self._step(vcpu, epoch, then))

    def _step(self, vcpu: _Vcpu, epoch: int, now: int) -> None:
        """Let a running vCPU do one thing that writes records."""
        if vcpu.epoch != epoch:
            return
        pcpu = self._pcpus[vcpu.pcpu]
        pcpu.clock = max(pcpu.clock, now)
        if vcpu.kind == "hvm":
            self._step_hvm(pcpu, vcpu)
        else:
            self._step_pv(pcpu, vcpu)
        self._leave(pcpu)
        if vcpu.epoch == epoch:
            self._plan_step(pcpu, vcpu)

    def _step_pv(self, pcpu: _Pcpu, vcpu: _Vcpu) -> None:
        draw = self._random.random()
        if vcpu.in_upcall:
            self._hypercall(pcpu, vcpu, IRET)
            vcpu.in_upcall = False
            vcpu.truth.upcalls += 1
        elif draw < 0.12:
            self._hypercall(pcpu, vcpu, EVENT_CHANNEL_OP)
            self._send_to_another(pcpu, vcpu)
        elif draw < 0.22:
            # Sometimes an event arrives just before: the call returns at once.
            vcpu.pending |= self._random.random() < 0.1
            self._hypercall(pcpu, vcpu, SCHED_OP, _SCHEDOP_BLOCK)
            if vcpu.pending:
                vcpu.truth.blocks_pending += 1
            else:
                self._block(pcpu, vcpu)
        elif draw < 0.24:
            self._hypercall(pcpu, vcpu, XEN_VERSION)
            vcpu.pending = True
        elif draw < 0.40:
            self._fault(pcpu, vcpu)
        elif draw < 0.55:
            rip = self._rip()
            self._emit(pcpu, PV_PRIVOP, rip & _LOW, rip >> 32)
            vcpu.truth.privops += 1
        elif draw < 0.75:
            self._hypercall(pcpu, vcpu, STACK_SWITCH)
            self._hypercall(pcpu, vcpu, SET_SEGMENT_BASE)
        elif draw < 0.85:
            self._multicall(pcpu, vcpu)
        elif draw < 0.95:
            self._hypercall(pcpu, vcpu, self._random.choice((GRANT_TABLE_OP, VCPU_OP)), 5, 1)
        else:
            self._hypercall(pcpu, vcpu, MMU_UPDATE, 1)

    def _step_hvm(self, pcpu: _Pcpu, vcpu: _Vcpu) -> None:
        draw = self._random.random()
        if vcpu.window != "none":
            self._exit_guest(pcpu, vcpu, EXIT_WINDOW)
            if vcpu.window == "masked":
                self._inject(pcpu, vcpu)
            else:
                vcpu.window = "none"
        elif draw < 0.25:
            self._exit_guest(pcpu, vcpu, EXIT_VMCALL)
            self._emit_untimed(pcpu, HVM_VMMCALL, EVENT_CHANNEL_OP)
            vcpu.truth.hypercalls[EVENT_CHANNEL_OP] += 1
            self._send_to_another(pcpu, vcpu)
        elif draw < 0.5:
            self._exit_guest(pcpu, vcpu, EXIT_HLT)
            self._emit_untimed(pcpu, HVM_HLT, int(vcpu.pending))
            if not vcpu.pending:
                self._block(pcpu, vcpu)
        else:
            self._exit_guest(pcpu, vcpu, self._random.choice((EXIT_CPUID, EXIT_RDMSR)))

    def _send_to_another(self, pcpu: _Pcpu, vcpu: _Vcpu) -> None:
        vcpu.truth.sends += 1
        if self._sends < 1 and self._random.random() >= self._sends:
            return
        target = self._random.choice(self._vcpus)
        if target is not vcpu:
            self._send(pcpu, target, "hypercall")

    def _block(self, pcpu: _Pcpu, vcpu: _Vcpu) -> None:
        self._emit(pcpu, BLOCK, vcpu.domain, vcpu.number)
        vcpu.truth.blocks += 1
        vcpu.blocking = pcpu.resched = True

    def _fault(self, pcpu: _Pcpu, vcpu: _Vcpu) -> None:
        rip = self._rip()
        if self._random.random() < 0.7:
            address = self._random.getrandbits(47)
            self._emit(pcpu, PV_PAGE_FAULT, rip & _LOW, rip >> 32, address & _LOW, address >> 32, 7)
            vcpu.truth.page_faults += 1
        else:
            self._emit(pcpu, PV_TRAP, rip & _LOW, rip >> 32, 7)
            vcpu.truth.traps += 1
        pcpu.clock += self._about(1)
        self._hypercall(pcpu, vcpu, IRET)

    def _multicall(self, pcpu: _Pcpu, vcpu: _Vcpu) -> None:
        entries = self._random.randrange(1, 5)
        self._hypercall(pcpu, vcpu, MULTICALL, entries)
        for _ in range(entries):
            number = self._random.choice((STACK_SWITCH, SET_SEGMENT_BASE, MMU_UPDATE))
            self._emit(pcpu, PV_SUBCALL, *_hypercall_words(number, (1,)))
            vcpu.truth.subcalls[number] += 1

    def _hypercall(self, pcpu: _Pcpu, vcpu: _Vcpu, number: int, *arguments: int) -> None:
        self._emit(pcpu, PV_HYPERCALL, *_hypercall_words(number, arguments))
        vcpu.truth.hypercalls[number] += 1

    def _rip(self) -> int:
        return _KERNEL_RIP + self._random.randrange(1 << 20)


def _hypercall_words(number: int, arguments: Sequence[int]) -> tuple[int, ...]:
    """Return number and flags in one word, followed by the arguments that Xen records.

    An argument i that is recorded with 32 bits has 1 in the bits from 20 + 2 * i.
    """
    recorded = _ARGUMENTS.get(number, ())
    flags = sum(1 << (20 + 2 * index) for index in recorded)
    return (number | flags, *arguments[: len(recorded)])
