"""Batches of records as columns, and the table of their shapes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from xtrace.probes.format import EVENT_MASK, EXTRA_MASK, EXTRA_SHIFT, GUEST_CLASS_BIT, TIMED_BIT

U8 = npt.NDArray[np.uint8]
U16 = npt.NDArray[np.uint16]
U32 = npt.NDArray[np.uint32]
I64 = npt.NDArray[np.int64]

MAX_SHAPES = 4096
_HASH_SLOTS = 4 * MAX_SHAPES

#: Shape 0 covers all records of new shapes once the table is full.  A normal
#: trace has a few hundred shapes, so only a hostile one fills it.
OVERFLOW_SHAPE = 0

#: Shapes of the row of a hole (windows are missing before it), by what names the vCPU that runs after it:
#: one word, or two for the domain and the unit; or nothing does.  The last one begins at its TSC, and the
#: trace has nothing of the pCPU after it.  The row is not a record, and no record can have their header
#: words, which are the same numbers.
HOLE_SHAPES = HOLE_BY_KEY, HOLE_BY_UNIT, HOLE_NOBODY, HOLE_TO_END = 1, 2, 3, 4


@dataclass(slots=True)
class ShapeTable:
    """The distinct header words of a trace, numbered densely.

    A shape is one header word: event id, number of extra words, timed or not.
    Loops count, filter and dispatch on the dense number; what a shape means
    (its name, its fields, its role in an analysis) is computed once per shape,
    not once per record.  Guest-written events (TRC_GUEST) of the same length share
    a shape, because a guest may choose any id.

    Attributes:
        header: uint32 [MAX_SHAPES], the header word.
        wanted: uint8 [MAX_SHAPES], 1 if the reader's filter passes the shape.
        slots_key, slots_shape: the open-addressed hash from header to shape.
        size: number of shapes in use.
    """

    header: U32 = field(default_factory=lambda: np.zeros(MAX_SHAPES, np.uint32))
    wanted: U8 = field(default_factory=lambda: np.ones(MAX_SHAPES, np.uint8))
    slots_key: U32 = field(default_factory=lambda: np.zeros(_HASH_SLOTS, np.uint32))
    slots_shape: npt.NDArray[np.int32] = field(default_factory=lambda: np.full(_HASH_SLOTS, -1, np.int32))
    size: int = 1

    def intern(self, header: int, wanted: bool = True) -> int:
        """Return the shape of ``header``, adding it if it is new."""
        key = canonical(header)
        slot = slot_of(key)
        while self.slots_shape[slot] >= 0:
            if self.slots_key[slot] == key:
                return int(self.slots_shape[slot])
            slot = (slot + 1) & (_HASH_SLOTS - 1)
        if self.size >= MAX_SHAPES:
            return OVERFLOW_SHAPE
        shape = self.size
        self.header[shape] = key
        self.wanted[shape] = wanted
        self.slots_key[slot] = key
        self.slots_shape[slot] = shape
        self.size = shape + 1
        return shape

    @property
    def event(self) -> U32:
        """uint32 [size]: event id of each shape."""
        return self.header[: self.size] & np.uint32(EVENT_MASK)

    @property
    def words(self) -> U32:
        """uint32 [size]: number of extra words of each shape, 0 to 7."""
        return (self.header[: self.size] >> np.uint32(EXTRA_SHIFT)) & np.uint32(EXTRA_MASK)

    @property
    def timed(self) -> npt.NDArray[np.bool_]:
        """bool [size]: whether records of the shape carry a TSC."""
        timed: npt.NDArray[np.bool_] = (self.header[: self.size] & np.uint32(TIMED_BIT)) != 0
        return timed


def canonical(header: int) -> int:
    """Return ``header`` without the id bits that a guest chooses freely."""
    return header & 0xF800_0000 if header & GUEST_CLASS_BIT else header


def slot_of(key: int) -> int:
    """Return the first hash slot to try for ``key`` (Fibonacci hashing)."""
    return ((key * 0x9E37_79B1) & 0xFFFF_FFFF) >> 18


@dataclass(frozen=True, slots=True)
class RecordBatch:
    """Consecutive records of the merged trace, as columns.

    Attributes:
        tsc: int64 [n], raw host TSC in cycles.  An untimed record has the TSC of the last timed
            record on its pCPU, which is a lower bound of its own.  A LOST_RECORDS row has its
            own TSC (the end of the blind interval) but is sorted by the start of the interval.
        pcpu: uint16 [n].
        shape: uint16 [n], index into ``shapes``.
        start: uint32 [n], index of the record's first extra word in ``words``.
        words: uint32 [m], the raw words that ``start`` points into.
        shapes: the reader's table; it grows from batch to batch, its header words never change.
        segment: how many restarts of the TSC come before these records.
    """

    tsc: I64
    pcpu: U16
    shape: U16
    start: U32
    words: U32
    shapes: ShapeTable
    segment: int = 0

    def __len__(self) -> int:
        return len(self.tsc)

    @property
    def extra_count(self) -> U8:
        """uint8 [n]: number of extra words of each record."""
        return self.shapes.words.astype(np.uint8)[self.shape]

    @property
    def event(self) -> U32:
        """uint32 [n]: event id of each record, as written in its header word."""
        timed_words = np.where(self.shapes.timed, 2, 0).astype(np.uint32)
        header = self.words[self.start - timed_words[self.shape] - np.uint32(1)]
        event: U32 = header & np.uint32(EVENT_MASK)
        return event

    def extra(self, row: int) -> U32:
        """Return the extra words of record ``row`` as uint32 [0 to 7]."""
        begin = int(self.start[row])
        return self.words[begin : begin + int(self.shapes.words[self.shape[row]])]
