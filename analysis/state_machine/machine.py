"""Run records through the state machines and tally the resulting intervals.

Memory is bounded by the number of pCPUs, vCPUs, distinct keys and histogram octaves in use; it does not
grow with the length of the trace.
"""

from __future__ import annotations

import numpy as np

from xtrace.analysis.state_machine import loops, tally_loops
from xtrace.analysis.state_machine.collected import TallyColumns
from xtrace.analysis.state_machine.ends import Ends
from xtrace.analysis.state_machine.kept import K, Kept, KeptColumns
from xtrace.analysis.state_machine.metrics import (
    C_COLUMNS,
    CR_WRITE,
    EVENTS_UNKNOWN,
    MSR_WRITE,
    OCTAVES,
    S_COLUMNS,
    STATE_COUNT,
    SUB_BUCKETS,
    T_COLUMNS,
    AccessKind,
    D,
    G,
    Kind,
    P,
    V,
    VirtualTimer,
)
from xtrace.analysis.state_machine.secrets import secrets
from xtrace.probes import event_ids as ids
from xtrace.probes.catalog.lookup import by_id
from xtrace.probes.format import CPU_CHANGE, EVENT_MASK, LOST_RECORDS, MAX_PCPUS, WRAP_BUFFER
from xtrace.probes.reader.batches import HOLE_SHAPES, I64, MAX_SHAPES, RecordBatch, ShapeTable

#: Entries for vCPUs; a trace with more is damaged, and all further vCPUs share the last entry.
MAX_VCPUS = 32768
#: Distinct (metric, a, b) keys, those with a histogram, and octaves in these; what needs more is only
#: counted, as left out.
MAX_TALLIES, MAX_HISTOGRAMS, MAX_CHUNKS = 1 << 19, 1 << 18, 1 << 18
#: Pairs of (nanoseconds, cycles) kept to estimate the TSC rate.
MAX_PAIRS = 1 << 16

_MAX_DOMAINS = 65536
#: A silence counts if it is that many times as long as any other, and that share of the span.  Of 22 traces
#: that lack nothing, the longest silence is at most 3.4 times as long as the next one; without the middle
#: third of their windows it is at least 4.6 times as long, but for two with losses.
_SILENCE_TIMES, _SILENCE_SHARE = 4, 0.01
#: The same of the time without a record of a pCPU that runs a vCPU with a slice, if it is longer than that.
_QUIET_TIMES = 2
#: The window of TSCs that includes everything.
ALWAYS = (-(1 << 62), 1 << 62)


#: Events of a fixed length: kind, words, parameter.
_FIXED = {
    ids.CONTINUE_RUNNING: (Kind.CONTINUE, 1, 0),
    ids.WAKE: (Kind.WAKE, 2, 0),
    ids.BLOCK: (Kind.BLOCK, 2, 0),
    ids.HVM_VMENTRY: (Kind.VMENTRY, 0, 0),
    ids.HVM_INJ_VIRQ: (Kind.INJ_VIRQ, 2, 0),
    ids.HVM_VMMCALL: (Kind.VMMCALL, 1, 0),
    ids.HVM_HLT: (Kind.HLT, 1, 0),
    ids.HVM_INTR_WINDOW: (Kind.INTR_WINDOW, 3, 0),
    ids.HW_IRQ_HANDLED: (Kind.IRQ_HANDLED, 3, 0),
    ids.TRACE_IRQ: (Kind.IRQ_HANDLED, 3, 0),
    ids.PM_IDLE_ENTRY: (Kind.IDLE_ENTRY, 4, 0),
    ids.PM_IDLE_EXIT: (Kind.IDLE_EXIT, 6, 0),
    ids.PM_IDLE_ENTRY_4_0: (Kind.IDLE_ENTRY, 4, 0),  # in 4.0 and 4.1; since 4.2 this id has 3 words
    ids.PM_IDLE_EXIT_4_0: (Kind.IDLE_EXIT, 6, 0),
    ids.MEM_PAGE_GRANT_MAP: (Kind.MEMORY, 1, 0),
    ids.MEM_PAGE_GRANT_UNMAP: (Kind.MEMORY, 1, 0),
    ids.MEM_PAGE_GRANT_TRANSFER: (Kind.MEMORY, 1, 0),
    ids.MEM_SET_P2M_ENTRY: (Kind.MEMORY, 6, 5 << 16),
    ids.MEM_DECREASE_RESERVATION: (Kind.MEMORY, 4, 2 << 16),
    ids.MEM_POD_POPULATE: (Kind.MEMORY, 6, 4 << 16),
    ids.MEM_POD_ZERO_RECLAIM: (Kind.MEMORY, 6, 4 << 16),
    ids.MEM_POD_SUPERPAGE_SPLINTER: (Kind.MEMORY, 4, 2 << 16),
    ids.PV_BASE_4_0 | ids.WIDE | ids.PV_HYPERCALL: (Kind.HYPERCALL, 3, 2 << 8),
    ids.PV_BASE_4_0 | ids.PV_HYPERCALL: (Kind.HYPERCALL, 2, 1 << 8),
    LOST_RECORDS: (Kind.LOST, 4, 0),
}


#: Events that name a pCPU of the host: words, word of its number, lowest bit.  The schedulers write them when
#: they wake a pCPU up or choose one.
_NAMING = {
    (ids.CREDIT_TICKLE, 1): (0, 0),
    (ids.CREDIT_PICKED_CPU, 3): (2, 0),
    (ids.CREDIT2_TICKLE, 1): (0, 0),
    (ids.CREDIT2_PICKED_CPU, 4): (3, 16),
    (ids.RTDS_TICKLE, 1): (0, 0),
    (ids.NULL_PICKED_CPU, 2): (1, 0),
}


#: Virtual timers of HVM guests, set or stopped, and their ticks: kind and parameter by event and words.
_TIMERS = {
    (ids.LAPIC_START_TIMER, 5): (Kind.TIMER_SET, VirtualTimer.LAPIC << 16 | 2 << 8 | 2),
    (ids.LAPIC_STOP_TIMER, 0): (Kind.TIMER_SET, VirtualTimer.LAPIC << 16),
    (ids.LAPIC_TIMER_CB, 0): (Kind.TICK, int(VirtualTimer.LAPIC)),
    (ids.PIT_START_TIMER, 2): (Kind.TIMER_SET, VirtualTimer.PIT << 16 | 1 << 8 | 1),
    (ids.PIT_STOP_TIMER, 0): (Kind.TIMER_SET, VirtualTimer.PIT << 16),
    (ids.PIT_TIMER_CB, 0): (Kind.TICK, int(VirtualTimer.PIT)),
}


#: What HVM guests do that is followed beyond its count: what it is, words of the address or value, and the
#: lengths of such records, of which the last words may be missing.
_HANDLED = {
    ids.HVM_IOPORT: (AccessKind.PORT_READ, 1, (1, 2)),
    ids.HVM_IOPORT | ids.HVM_IO_WRITE: (AccessKind.PORT_WRITE, 1, (1, 2)),
    ids.HVM_IOMEM: (AccessKind.MEMORY_READ, 1, (1, 2)),
    ids.HVM_IOMEM | ids.HVM_IO_WRITE: (AccessKind.MEMORY_WRITE, 1, (1, 2)),
    ids.HVM_IOMEM | ids.WIDE: (AccessKind.MEMORY_READ, 2, (2, 3, 4)),
    ids.HVM_IOMEM | ids.WIDE | ids.HVM_IO_WRITE: (AccessKind.MEMORY_WRITE, 2, (2, 3, 4)),
    ids.HVM_CR_WRITE: (CR_WRITE, 1, (2,)),
    ids.HVM_CR_WRITE | ids.WIDE: (CR_WRITE, 2, (3,)),
    ids.HVM_MSR_WRITE: (MSR_WRITE, 2, (3,)),
}


#: Records of a vCPU's budget, and whether it is burnt; those before Xen 4.10 are shorter, and their vCPU is
#: in another order before 4.7.
_BUDGETS = {(ids.RTDS_BUDGET_BURN, 6): 1, (ids.RTDS_BUDGET_REPLENISH, 6): 0}


def kind_of(event: int, words: int) -> tuple[Kind, int]:
    """Return how the machines treat records of a shape, and the parameter of that kind.

    A record whose length does not fit its id is OTHER: it is counted but not interpreted.  One that the
    catalogue does not know is only COUNTED, so that it changes nothing that is known.
    """
    rip_words = 2 if event & ids.WIDE else 1
    if event in _FIXED:
        kind, length, param = _FIXED[event]
        return (kind, param) if words == length else (Kind.OTHER, 0)
    if event in HOLE_SHAPES:
        return Kind.HOLE, event
    if event in (WRAP_BUFFER, CPU_CHANGE) or not by_id(event):
        return Kind.COUNTED, 0
    if event & ids.GROUP_MASK == ids.EVTCHN:
        return Kind.DELIVERY, 0  # with these records the rest is inferred as without; Delivery reads them
    if event & (EVENT_MASK & ~ids.RUNSTATE_BITS) == ids.RUNSTATE_CHANGE and words >= 1:
        return Kind.RUNSTATE, (event >> 8 & 3) << 4 | (event >> 4 & 3)
    if event == ids.SWITCH_INFPREV and words in (2, 3):
        return Kind.INFPREV, words - 1
    if (event, words) in _NAMING:
        word, bit = _NAMING[event, words]
        return Kind.NAMED, word << 8 | bit
    if (event, words) in _TIMERS:
        return _TIMERS[event, words]
    if (event, words) in _BUDGETS:
        return Kind.BUDGET, _BUDGETS[event, words]
    if event == ids.SWITCH_INFNEXT and words in (3, 4):
        return Kind.INFNEXT, words - 2
    return _pv_kind(event, words, rip_words) or _hvm_kind(event, words, rip_words) or (Kind.OTHER, 0)


def _pv_kind(event: int, words: int, rip_words: int) -> tuple[Kind, int] | None:
    if event == ids.PV_HYPERCALL_SUBCALL:
        return (Kind.SUBCALL, 1) if words else None
    if event & ids.GROUP_MASK not in (ids.PV_BASE, ids.PV_BASE_4_0):
        return None
    minor = event & ids.MINOR_MASK
    if minor == ids.PV_HYPERCALL_V2 and words:
        return Kind.HYPERCALL, 1
    lengths = {
        ids.PV_TRAP: (Kind.TRAP, rip_words + 1, rip_words),
        ids.PV_PAGE_FAULT: (Kind.PAGE_FAULT, 2 * rip_words + 1, rip_words),
        ids.PV_FORCED_INVALID_OP: (Kind.INVALID_OP, rip_words, rip_words),
        ids.PV_EMULATE_PRIVOP: (Kind.PRIVOP, rip_words, rip_words),
        ids.PV_PTWR_EMULATION: (Kind.PTWR, 6, 4 << 4 | 2),
        ids.PV_PTWR_EMULATION_PAE: (Kind.PTWR, 4, 3 << 4 | 1),
    }
    if minor in lengths:
        kind, length, param = lengths[minor]
        return (kind, param) if words == length else (Kind.OTHER, 0)
    return Kind.PV_OTHER, 0


def _hvm_kind(event: int, words: int, rip_words: int) -> tuple[Kind, int] | None:
    if event & ~ids.WIDE in (ids.HVM_VMX_EXIT, ids.HVM_SVM_EXIT):
        return (Kind.VMEXIT, rip_words) if words == 1 + rip_words else (Kind.OTHER, 0)
    if event == ids.HVM_INTR:
        return Kind.HVM_INTR, 0
    if event & ids.GROUP_MASK == ids.HVM_HANDLER:
        what, size, lengths = _HANDLED.get(event, (0, 0, ()))
        return Kind.HVM_OTHER, what << 8 | size if words in lengths else 0
    return None


class _ShapeMeaning:
    """What run() needs to know about each shape, computed once when the shape first appears."""

    def __init__(self) -> None:
        self.table = np.zeros((MAX_SHAPES, S_COLUMNS), np.int64)
        self._known = 0

    def learn(self, shapes: ShapeTable) -> None:
        size = shapes.size
        if size == self._known:
            return
        events, words = shapes.event, shapes.words
        for shape in range(max(self._known, 1), size):
            event, extra = int(events[shape]), int(words[shape])
            kind, param = kind_of(event, extra)
            self.table[shape] = (kind, param, event, extra)
        self._known = size


class Machine:
    """The state machines of pCPUs, vCPUs and domains, which take records batch by batch.

    Args:
        window: (first, last) TSC, both inclusive; count only what ends in it.
        keep: how many of the returned pieces stay valid at a time; with 0, each has its own array.
        tsc_offsets: int64 [MAX_PCPUS], what the reader adds to the TSCs of each pCPU.
        core: Xen is known to schedule by core.
        detailed: also emit what Detail lists.

    Attributes:
        who: int64 [n], the vCPU that its pCPU ran at each record of the last batch, if ``detailed``; empty
            otherwise.
    """

    def __init__(
        self,
        window: tuple[int, int] = ALWAYS,
        keep: int = 0,
        *,
        tsc_offsets: I64 | None = None,
        core: bool = False,
        detailed: bool = False,
    ) -> None:
        self.glob = np.zeros(G.COLUMNS, np.int64)
        self.glob[G.FROM_TSC], self.glob[G.TO_TSC] = window
        self.glob[G.TSC_LIMIT] = 1 << 62
        self.glob[G.CORE] = int(core)
        self.glob[G.DETAILED] = int(detailed)
        self.glob[G.EVENTS] = EVENTS_UNKNOWN
        self.glob[G.SECRET] = secrets(1)[0]
        self._offsets = np.zeros(MAX_PCPUS, np.int64) if tsc_offsets is None else tsc_offsets
        self.pcpus = self._more_pcpus(0, 64)
        self.vcpus = np.zeros((MAX_VCPUS, V.COLUMNS), np.int64)
        self.domains = np.zeros((MAX_VCPUS + 1, D.COLUMNS), np.int64)
        self._vcpu_slots = np.full(4 * MAX_VCPUS, -1, np.int32)
        self._domain_slots = np.full(_MAX_DOMAINS, -1, np.int32)
        self.counts = np.zeros((MAX_VCPUS, C_COLUMNS), np.int64)
        self.named = np.zeros(MAX_PCPUS // 32, np.int64)
        self._pairs = np.zeros((MAX_PAIRS + loops.RUN_LENGTHS, 3), np.int64)
        self._late_pairs: list[tuple[int, int, int]] = []
        self.who = np.empty(0, np.int64)
        self._shapes = _ShapeMeaning()
        self._scratches = [np.empty((0, 4), np.int64) for _ in range(keep)]
        self._turn = 0
        overflow = self.vcpus[MAX_VCPUS - 1]
        overflow[V.KEY] = 0x8000_FFFE
        overflow[V.PCPU] = -1
        overflow[V.STATE] = STATE_COUNT - 1

    def feed(self, batch: RecordBatch) -> list[I64]:
        """Return the intervals that end in ``batch``, as arrays of int64 [n, 4]."""
        self._shapes.learn(batch.shapes)
        if len(batch):
            self.make_room(int(batch.pcpu.max()) + 1)
        if self.glob[G.DETAILED]:
            self.who = np.empty(len(batch), np.int64)
        pieces: list[I64] = []
        row = 0
        while row < len(batch):
            size = (
                max(3 * (len(batch) - row), loops.LOSS_MARGIN * (int(self.glob[G.LOSABLE_COUNT]) + 1))
                + 2 * loops.OUT_MARGIN
            )
            # The scratches last for as many batches; a second piece of one batch, mostly small, has its own.
            out = np.empty((size, 4), np.int64) if pieces else self._scratch(size)
            self.glob[G.OUT] = 0
            row = loops.run(
                batch.tsc, batch.pcpu, batch.shape, batch.start, batch.words, row,
                self._shapes.table,
                self.glob, self.pcpus, self.vcpus, self.domains,
                self._vcpu_slots, self._domain_slots,
                self.counts, self._pairs, self.named, out, self.who,
            )  # fmt: skip
            pieces.append(out[: int(self.glob[G.OUT])])
        return pieces

    def finish(self) -> I64:
        """Return what is open at the end of the trace, and the time before each state was known."""
        last = int(self.glob[G.LAST_TSC])
        ends = Ends(
            first=int(self.glob[G.FIRST_TSC]),
            last=last,
            all_recorded=int((self.pcpus[:, P.FIRST_TSC] * self.pcpus[:, P.SEEN]).max()),
            first_loss=int(self.glob[G.FIRST_LOSS]) or last + 1,
        )
        vcpus = self.vcpus[: int(self.glob[G.VCPUS])]
        rows = [row for vcpu in vcpus for row in ends.of_vcpu(vcpu)]
        domains = self.domains[: int(self.glob[G.DOMAINS])]
        domains[vcpus[vcpus[:, V.FIRST_KNOWN] == 0, V.DOMAIN], D.PART_UNTIL] = last
        rows += [row for domain in domains for row in ends.of_domain(domain)]
        for number in np.flatnonzero(self.pcpus[:, P.SEEN] > 0).tolist():
            pcpu = self.pcpus[number]
            rows += ends.of_pcpu(number, pcpu, self.vcpus[:, V.KEY])
            if self.glob[G.DETAILED]:
                rows += ends.of_run(number, pcpu, self.vcpus[:, V.KEY])
            if pcpu[P.CHAIN_NS] > 0 and pcpu[P.CHAIN_CYCLES] > 0:
                self._late_pairs.append((int(pcpu[P.CHAIN_NS]), int(pcpu[P.CHAIN_CYCLES]), 0))
        return np.array(rows, np.int64).reshape(-1, 4)

    @property
    def hidden_hole_count(self) -> int:
        """Number of runs in which the vCPU left its pCPU, or the scheduler acted, without a record."""
        quiet = int(self.glob[G.QUIET])
        is_overrun = bool(self.glob[G.OVERRUN]) and quiet >= _QUIET_TIMES * int(self.glob[G.NEXT_QUIET])
        return 0 if self.glob[G.CORE] else int(self.glob[G.SHORT_RUNS]) + is_overrun

    @property
    def silence_cycles(self) -> int:
        """The longest time without a record, where no other one is like it; 0 where there is such a time."""
        longest = int(self.glob[G.SILENCE])
        span = int(self.glob[G.LAST_TSC] - self.glob[G.FIRST_TSC])
        is_alone = longest >= _SILENCE_TIMES * int(self.glob[G.NEXT_SILENCE])
        return longest if is_alone and longest >= span * _SILENCE_SHARE else 0

    @property
    def pairs(self) -> I64:
        """Pairs for the TSC rate, int64 [n, 3]: ns or ticks, cycles, source.

        The source is 0 for a sum of run times, 1 for an idle time, 2 + n for the sum of all run times of
        2^n to 2^(n + 1) cycles.
        """
        late = np.array(self._late_pairs, np.int64).reshape(-1, 3)
        by_length = self._pairs[-loops.RUN_LENGTHS :].copy()
        by_length[:, 2] = np.arange(2, 2 + loops.RUN_LENGTHS)
        by_length = by_length[(by_length[:, :2] > 0).all(axis=1)]
        return np.concatenate((self._pairs[: int(self.glob[G.PAIRS])], late, by_length))

    def _scratch(self, size: int) -> I64:
        if not self._scratches:
            return np.empty((size, 4), np.int64)
        self._turn = (self._turn + 1) % len(self._scratches)
        if len(self._scratches[self._turn]) < size:
            self._scratches[self._turn] = np.empty((size, 4), np.int64)
        return self._scratches[self._turn]

    def make_room(self, pcpus: int) -> None:
        """Make sure that there is state for ``pcpus`` pCPUs."""
        old = len(self.pcpus)
        if pcpus <= old:
            return
        size = min(max(pcpus, 2 * old), MAX_PCPUS)
        self.pcpus = np.concatenate((self.pcpus, self._more_pcpus(old, size)))

    def _more_pcpus(self, first: int, last: int) -> I64:
        more = np.zeros((last - first, P.COLUMNS), np.int64)
        more[:, P.CURRENT] = -1
        more[:, P.OFFSET] = self._offsets[first:last]
        return more


class Tallies:
    """Tallies of intervals by (metric, a, b), in bounded memory.

    Args:
        window: (first, last) TSC, both inclusive; add only intervals that end in it.
    """

    def __init__(self, window: tuple[int, int] = ALWAYS) -> None:
        self._window = window
        self._slots = np.full(1 << 14, -1, np.int32)
        self._table = np.zeros((1 << 13, T_COLUMNS), np.int64)
        self._histograms = np.full((512, OCTAVES), -1, np.int32)
        self._buckets = np.zeros((2048, SUB_BUCKETS), np.int64)
        self._size = self._histogram_size = self._chunk_size = 0
        self._cannot_grow = False
        self._kept = Kept()

    def add(self, intervals: I64, window: tuple[int, int] | None = None, axis: int = 0) -> None:
        """Add intervals, int64 [n, 4] as Machine.feed() returns them.

        Args:
            window: in place of that of the tallies.
            axis: what is added to TSCs where times are kept.
        """
        first, last = window or self._window
        kept = self._kept
        kept.state[K.AXIS] = axis
        row = 0
        while row < len(intervals):
            row, self._size, self._histogram_size, self._chunk_size = tally_loops.tally(
                intervals, row, first, last, self._slots, self._table,
                self._histograms, self._buckets,
                kept.state, kept.by_metric, kept.row_slots, kept.rows, kept.sums,
                kept.exemplar_slots, kept.exemplars,
                self._size, self._histogram_size, self._chunk_size, self._cannot_grow,
            )  # fmt: skip
            if kept.needs_slots:
                kept.cover()
            elif row < len(intervals):
                self._grow()

    def columns(self) -> TallyColumns:
        """Return a copy of the tallies so far."""
        return TallyColumns(
            self._table[: self._size].copy(),
            self._histograms[: self._histogram_size].copy(),
            self._buckets[: self._chunk_size].copy(),
            int(self._kept.state[K.LEFT_OUT]),
        )

    def kept(self) -> KeptColumns:
        """Return what is kept with its time so far."""
        return self._kept.columns()

    def _grow(self) -> None:
        """Make a full table twice as long, up to its limit; then what needs more of it is left out."""
        if self._size == len(self._table) < MAX_TALLIES:
            self._table = np.concatenate((self._table, np.zeros_like(self._table)))
            self._slots = np.full(2 * len(self._slots), -1, np.int32)
            tally_loops.rehash(self._kept.state, self._slots, self._table, self._size)
        if self._histogram_size == len(self._histograms) < MAX_HISTOGRAMS:
            self._histograms = np.concatenate((self._histograms, np.full_like(self._histograms, -1)))
        if self._chunk_size == len(self._buckets) < MAX_CHUNKS:
            self._buckets = np.concatenate((self._buckets, np.zeros_like(self._buckets)))
        self._cannot_grow = (
            self._size == len(self._table)
            or self._histogram_size == len(self._histograms)
            or self._chunk_size == len(self._buckets)
        )
