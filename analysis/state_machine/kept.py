"""What a pass keeps with its time: sums by slots of time, and single intervals.

Time is divided into at most SLOTS slots of 2^n TSC cycles, which begin at multiples of their length.  When
the trace outgrows them, they merge in pairs.  An interval that accounts for time counts in each slot with its
part in it, anything else where it ends, so the sums over all slots are those of the tallies.

Of some metrics, the worst few intervals of each ``a`` are kept, and a sample of them: those with the least
hash of what the interval is, so that neither the order of the intervals nor how a trace is cut matters.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from xtrace.analysis.state_machine.metrics import METRIC_SHIFT, Metric
from xtrace.analysis.state_machine.secrets import secrets
from xtrace.probes.reader.batches import I64

#: Slots at a time: a power of two.
SLOTS = 512
#: Rows of sums, and ``a`` of metrics with single intervals, in a pass; what is over counts with its kind.
MAX_ROWS = 8192
MAX_EXEMPLARS = 4096
#: How many intervals are kept of each: the worst, and the sample.
WORST, SAMPLE = 4, 8
#: The length of the first slots: 2^n cycles.
_FIRST_SHIFT = 16
#: Octaves of time, from 1 cycle on.
TIME_OCTAVES = 64


class Slotted(IntEnum):
    """What is summed by slots of time; the comments say what a, b and the sum are."""

    LATENCY = 1  # a = octave of the time from wake to running: floor(log2), 0 for 0; sum of the times
    RUNNING = 2  # a = vCPU; cycles
    WAITING = 3  # a = vCPU: it could run and did not; cycles
    OFFLINE = 4  # a = vCPU; cycles
    WAKES = 5  # a = vCPU
    SENDS_WAKING = 6  # a = sending vCPU; cycles from send to wake
    SENDS_UNANSWERED = 7  # a = sending vCPU: woke none, and no other guest's vCPU ran
    SENDS_RUNNING = 8  # a = sending vCPU: woke none, but others ran
    UPCALLS = 9  # a = vCPU; cycles at most, of PV upcalls after a block, and of HVM callbacks
    FORCED = 10  # a = vCPU: callbacks that it forced; cycles
    IRQS = 11  # a = irq, b = pCPU; cycles
    IDLE = 12  # a = pCPU; cycles
    LOST = 13  # a = pCPU; records
    MIGRATIONS = 14  # a = vCPU; cycles on the pCPU that it left
    WINDOWS = 15  # a = vCPU: an event waited for an HVM guest's interrupt window; cycles
    DEPLETED = 16  # a = vCPU: it waited for its budget; cycles
    PCPU_RUNNING = 17  # a = pCPU; cycles
    PCPU_LOST = 18  # a = pCPU; cycles
    BLOCKED = 19  # a = vCPU; cycles


#: Rows of those that have no row of their own, one for each kind.
OTHERS = 32
#: ``a`` of these in columns.
NOT_KEPT = (1 << METRIC_SHIFT) - 1
#: The first row of LATENCY; the next ones are the other octaves.
LATENCY_ROW = OTHERS
_FIRST_ROW = LATENCY_ROW + TIME_OCTAVES

#: What is kept of a metric: a Slotted, and flags.
SLOTTED_MASK, SPREAD, EXEMPLARS = 0x3F, 0x40, 0x80
_KEPT = {
    Metric.RUNNING: Slotted.RUNNING | SPREAD,
    Metric.RUNNABLE_WAKE: Slotted.WAITING | SPREAD | EXEMPLARS,
    Metric.RUNNABLE_PREEMPT: Slotted.WAITING | SPREAD | EXEMPLARS,
    Metric.RUNNABLE_OTHER: Slotted.WAITING | SPREAD | EXEMPLARS,
    Metric.OFFLINE: Slotted.OFFLINE | SPREAD | EXEMPLARS,
    Metric.BLOCKED: Slotted.BLOCKED | SPREAD | EXEMPLARS,
    Metric.RUNNABLE_BUDGET: Slotted.DEPLETED | SPREAD | EXEMPLARS,
    Metric.OPEN: EXEMPLARS,
    Metric.RESIDENCE: int(Slotted.MIGRATIONS),
    Metric.PCPU_RUNNING: Slotted.PCPU_RUNNING | SPREAD,
    Metric.PCPU_IDLE: Slotted.IDLE | SPREAD,
    Metric.PCPU_LOST: Slotted.PCPU_LOST | SPREAD,
    Metric.WAKE_CAUSE: int(Slotted.WAKES),
    Metric.WAKE_TO_RUNNING: Slotted.LATENCY | EXEMPLARS,
    Metric.SEND_TO_WAKE: Slotted.SENDS_WAKING | EXEMPLARS,
    Metric.SEND_NOBODY_RAN: int(Slotted.SENDS_UNANSWERED),
    Metric.SEND_OTHERS_RAN: int(Slotted.SENDS_RUNNING),
    Metric.EVENT_TO_UPCALL: EXEMPLARS,
    Metric.MASKED_WAIT: EXEMPLARS,
    Metric.UPCALL_MAX: Slotted.UPCALLS | EXEMPLARS,
    Metric.HVM_UPCALL: Slotted.UPCALLS | EXEMPLARS,
    Metric.FORCED_CALLBACK: Slotted.FORCED | EXEMPLARS,
    Metric.IRQ_HANDLING: Slotted.IRQS | EXEMPLARS,
    Metric.IRQ_TO_WAKE: EXEMPLARS,
    Metric.LOST_RECORDS: int(Slotted.LOST),
    Metric.INTR_WINDOW_WAIT: Slotted.WINDOWS | EXEMPLARS,
    Metric.INJECTION_TO_ENTRY: EXEMPLARS,
    Metric.TICK: EXEMPLARS,
}


def kept_of(metric: int) -> int:
    """Return what is kept of a metric: a Slotted and flags, 0 for nothing."""
    return _KEPT.get(metric, 0)  # type: ignore[call-overload,no-any-return]


class K(IntEnum):
    """State of what is kept."""

    SHIFT = 0  # a slot is 2^SHIFT cycles
    BASE = 1  # number of the first slot, counted from TSC 0
    ROWS = 2  # rows in use
    EXEMPLARS = 3  # rows of exemplars in use
    AXIS = 4  # what is added to TSCs: segments after a restart of the TSC follow one another
    LOW = 5  # the loop stopped because it needs slots for these cycles; HIGH is not included
    HIGH = 6
    FOLDED = 7  # keys without a row of their own
    EXEMPLARS_LEFT_OUT = 8  # keys of which no intervals are kept
    LEFT_OUT = 9  # intervals that count nowhere, because there is no room for another key or time
    SECRET = 10  # the first of four, of the hash tables
    COLUMNS = 14


class E(IntEnum):
    """Columns of a row of exemplars."""

    KEY = 0  # metric << METRIC_SHIFT | a
    ZERO = 1  # the second key of the hash table
    LEAST = 2  # value of the last of the worst, -1 while there is room
    MOST_HASH = 3  # of the last of the sample, the greatest number while there is room
    WORST_COUNT = 4
    SAMPLE_COUNT = 5
    WORST = 6  # WORST times value, TSC of the end, b: the worst first
    SAMPLE = 18  # SAMPLE times hash, value, TSC of the end, b: the least hash first
    COLUMNS = 50


@dataclass(slots=True)
class KeptColumns:
    """What was kept, as plain columns.

    Attributes:
        slots: int64 [n, 7]: shift, slot, kind (a Slotted), a, b, count, sum; no row is empty.
        worst, sample: int64 [n, 5]: metric, a, b, value, TSC of the end.
        folded: keys that count in the rows NOT_KEPT of their kind.
        left_out: keys of which no intervals are kept.
    """

    slots: I64
    worst: I64
    sample: I64
    folded: int
    left_out: int


class Kept:
    """The arrays that the loop of the tallies fills."""

    def __init__(self) -> None:
        self.state = np.zeros(K.COLUMNS, np.int64)
        self.state[K.SHIFT] = _FIRST_SHIFT
        self.state[K.ROWS] = _FIRST_ROW
        self.state[K.SECRET :] = secrets(4)
        self.by_metric = np.array([kept_of(metric) for metric in range(256)], np.int64)
        self.row_slots = np.full(4 * MAX_ROWS, -1, np.int32)
        self.rows = np.zeros((MAX_ROWS, 2), np.int64)
        self.rows[: len(Slotted) + 1, 0] = (
            np.arange(len(Slotted) + 1, dtype=np.int64) << METRIC_SHIFT | NOT_KEPT
        )
        self.rows[LATENCY_ROW:_FIRST_ROW, 0] = Slotted.LATENCY << METRIC_SHIFT | np.arange(TIME_OCTAVES)
        # For each slot count and sum.  The system gives pages only where it is written.
        self.sums = np.zeros((MAX_ROWS, 2 * SLOTS), np.int64)
        self.exemplar_slots = np.full(4 * MAX_EXEMPLARS, -1, np.int32)
        self.exemplars = np.zeros((MAX_EXEMPLARS, E.COLUMNS), np.int64)

    @property
    def needs_slots(self) -> bool:
        """Whether the loop stopped because it needs other slots."""
        return bool(self.state[K.HIGH] > self.state[K.LOW])

    def cover(self) -> None:
        """Make room for the slots that the loop needs: move the first one, or merge slots in pairs."""
        low, high = int(self.state[K.LOW]), int(self.state[K.HIGH]) - 1
        shift, base = int(self.state[K.SHIFT]), int(self.state[K.BASE])
        rows = int(self.state[K.ROWS])
        grid = self.sums[:rows].reshape(rows, SLOTS, 2)
        places = np.flatnonzero(grid.any(axis=(0, 2)))
        if len(places):
            low = min(low, (base + int(places[0])) << shift)
            high = max(high, ((base + int(places[-1]) + 1) << shift) - 1)
        while (high >> shift) - (low >> shift) >= SLOTS:
            shift += 1
        target = (base + places >> shift - int(self.state[K.SHIFT])) - (low >> shift)
        if len(places):
            starts = np.flatnonzero(np.diff(target, prepend=-1))
            moved = np.add.reduceat(grid[:, places], starts, axis=1)
            grid[:] = 0
            grid[:, target[starts]] = moved
        self.state[K.SHIFT], self.state[K.BASE] = shift, low >> shift
        self.state[K.LOW] = self.state[K.HIGH] = 0

    def columns(self) -> KeptColumns:
        """Return what is kept so far."""
        rows = int(self.state[K.ROWS])
        grid = self.sums[:rows].reshape(rows, SLOTS, 2)
        counts, sums = grid[:, :, 0], grid[:, :, 1]
        row, place = np.nonzero((counts != 0) | (sums != 0))
        # Millions of rows where a trace has thousands of vCPUs: each column is written once.
        slots = np.empty((7, len(row)), np.int64)
        slots[0] = self.state[K.SHIFT]
        np.add(place, self.state[K.BASE], out=slots[1])
        np.right_shift(self.rows[row, 0], METRIC_SHIFT, out=slots[2])
        np.bitwise_and(self.rows[row, 0], NOT_KEPT, out=slots[3])
        slots[4] = self.rows[row, 1]
        slots[5] = counts[row, place]
        slots[6] = sums[row, place]
        return KeptColumns(
            slots.T,
            self._exemplars(E.WORST_COUNT, E.WORST, WORST, 3),
            self._exemplars(E.SAMPLE_COUNT, E.SAMPLE, SAMPLE, 4),
            int(self.state[K.FOLDED]),
            int(self.state[K.EXEMPLARS_LEFT_OUT]),
        )

    def _exemplars(self, count: E, first: E, most: int, width: int) -> I64:
        """Return int64 [n, 5]: metric, a, b, value, TSC of the end; the last three columns are these."""
        table = self.exemplars[: int(self.state[K.EXEMPLARS])]
        each = table[:, first : first + most * width].reshape(len(table), most, width)[:, :, -3:]
        row, place = np.nonzero(np.arange(most) < table[:, count, None])
        value, tsc, b = each[row, place].T
        keys = table[row, E.KEY]
        return np.stack((keys >> METRIC_SHIFT, keys & NOT_KEPT, b, value, tsc), axis=1)
