"""Read a trace: bytes in, merged batches of records out, in bounded memory.

xentrace drains the pCPUs one after the other, round by round, so a record that
has not been read yet is younger than every record of the round before the
last.  That gives the watermark up to which the pCPUs can be merged without
seeing the rest of the file, so the input may be a pipe.

Where the TSC restarts, everything before is merged to its end, and the merge starts anew: a segment of
the trace.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from xtrace.probes.format import (
    EVENT_MASK,
    MAX_PCPUS,
    MAX_WINDOW_BYTES,
    RING_HEADER_BYTES,
    RING_PAGE_BYTES,
    WINDOW_HEADER_BYTES,
    WORD_BYTES,
)
from xtrace.probes.reader import loops
from xtrace.probes.reader.ahead import Source
from xtrace.probes.reader.batches import (
    HOLE_SHAPES,
    HOLE_TO_END,
    I64,
    U8,
    U16,
    U32,
    RecordBatch,
    ShapeTable,
)
from xtrace.probes.reader.holes import HoleWatch, is_hole
from xtrace.probes.reader.read_facts import ReadFacts
from xtrace.probes.reader.restarts import RestartWatch
from xtrace.probes.reader.rounds import Rounds
from xtrace.probes.reader.sources import STDIN, open_source, read_into
from xtrace.probes.reader.whole_source import WholeSource
from xtrace.probes.reader.windows import CURRENT, MAY_MISS, UNSEEN, WINDOWS_AHEAD, Rows, Windows

#: Bytes read at a time: large enough to hide the cost of a step, small enough for the caches.
CHUNK_BYTES = 2 << 20

_MAX_WRAPS = 1 << 12
#: Shapes that are counted before the table grows: a trace has some fifty.
_FIRST_SHAPES = 128
_HEADER_WORDS = WINDOW_HEADER_BYTES // WORD_BYTES
_PAGE_WORDS = RING_PAGE_BYTES // WORD_BYTES
_NOTHING = np.zeros(1, np.int64)
_NO_ROWS = np.zeros((1, 4), np.int64)
#: Beyond this the merge no longer waits for slow pCPUs: memory stays bounded, records may come late.
_CARRY_LIMIT_WORDS = (512 << 20) // WORD_BYTES

#: Returns whether the reader's caller wants the records of an event id.
Wanted = Callable[[int], bool]


class _Hole(NamedTuple):
    """The row of a hole before a window; ``start`` is in words from the window's begin."""

    key: int
    tsc: int
    shape: int
    start: int


@dataclass(frozen=True, slots=True)
class _Carried:
    """Windows, or what is left of them, that the next step takes over, in file order.

    Attributes:
        pcpu: of each window.
        begin, end: its words in the last arena.
        state, is_part: as in Windows.
        offset: in the file, of the word at ``begin``; only of those that are not CURRENT.
        holes: by number of the window that it is before.
    """

    pcpu: npt.NDArray[np.int32]
    begin: I64
    end: I64
    state: U8
    offset: I64
    is_part: U8
    holes: dict[int, _Hole]

    @classmethod
    def whole(cls, windows: Windows, at: I64) -> _Carried:
        """Return these windows from their beginning to their last valid record, without holes."""
        return cls(
            windows.pcpu[at], windows.begin[at], windows.stop[at],
            windows.state[at], windows.offset[at], windows.is_part[at], {},
        )  # fmt: skip

    def and_then(self, later: _Carried) -> _Carried:
        """Return these and the windows of ``later``, which have no holes."""
        return _Carried(
            np.concatenate((self.pcpu, later.pcpu)), np.concatenate((self.begin, later.begin)),
            np.concatenate((self.end, later.end)), np.concatenate((self.state, later.state)),
            np.concatenate((self.offset, later.offset)), np.concatenate((self.is_part, later.is_part)),
            self.holes,
        )  # fmt: skip


@dataclass(slots=True)
class _Arena:
    """The arrays of one step; with ``keep`` a later step reuses them."""

    words: U32
    tsc: I64
    pcpu: U16
    shape: U16
    start: U32

    @classmethod
    def of(cls, size_words: int) -> _Arena:
        rows = size_words + MAX_PCPUS  # the ends of pCPUs are not records
        return cls(
            np.empty(size_words, np.uint32),
            np.empty(rows, np.int64),
            np.empty(rows, np.uint16),
            np.empty(rows, np.uint16),
            np.empty(rows, np.uint32),
        )


class TraceReader:
    """Iterate over a trace in merged order, once.

    Args:
        source: a trace, or a stream of windows that are known to be whole; the last one may be cut.
        name: the stream's name in messages.
        wanted: returns for an event id whether to return its records; all records are counted.
        keep: number of batches that stay valid at a time; with 0 each batch has its own arrays.
        chunk_bytes: bytes to read at a time.
        tsc_offsets: int64 [MAX_PCPUS], cycles to add to the TSCs of each pCPU; the words of records stay as
            they are.
        holes: look for windows that are missing in the middle, and for pCPUs that were not read to the end.
            A row says so; it is not a record, and has a shape of its own (HOLE_SHAPES).

    Attributes:
        shapes: the distinct header words seen so far.
        record_counts: int64 [pCPUs or more, shapes or more], records read so far, wanted or not.
        facts: facts about the file itself.
    """

    def __init__(
        self,
        source: WholeSource | Source,
        name: str = "trace",
        *,
        wanted: Wanted | None = None,
        keep: int = 0,
        chunk_bytes: int = CHUNK_BYTES,
        tsc_offsets: I64 | None = None,
        holes: bool = False,
    ) -> None:
        self.shapes = ShapeTable()
        self.facts = ReadFacts()
        self.record_counts = np.zeros((16, _FIRST_SHAPES), np.int64)
        self._source = source
        self._checks = source if isinstance(source, WholeSource) else None
        self._whole = self._checks.windows if self._checks else None
        self._may_miss = np.zeros(MAX_PCPUS, np.bool_)  # pCPUs without a window since damage
        self._name = name
        self._wanted = wanted
        self._offsets = np.zeros(MAX_PCPUS, np.int64) if tsc_offsets is None else tsc_offsets
        self._chunk_words = max(chunk_bytes // WORD_BYTES, 16)
        self._arenas: list[_Arena | None] = [None] * keep
        self._turn = 0
        self._at_eof = False
        # What a step leaves for the next: windows with rows at or above the watermark, then those of the
        # next segment, and the words after the last complete window; all of them are in the last arena.
        self._carried = _Carried.whole(Windows(), np.zeros(0, np.int64))
        self._tail = (0, 0)
        self._tail_offset = 0
        # Each pCPU's state after its last record in a batch.
        self._frontier_tsc = np.zeros(MAX_PCPUS, np.int64)
        self._frontier_key = np.zeros(MAX_PCPUS, np.int64)
        self._emitted_key = loops.KEY_FLOOR
        self._rounds = Rounds()
        self._pcpu_bytes = np.full(MAX_PCPUS, -1, np.int64)
        self._pcpu_wrap = np.full(MAX_PCPUS, -1, np.int64)
        self._ring_votes: Counter[int] = Counter()
        self._window_pages = np.zeros(MAX_WINDOW_BYTES // RING_PAGE_BYTES + 1, np.int64)
        self._windows = Windows()
        self._rows = Rows()
        self._segment = 0
        self._watch = RestartWatch()
        self.facts.restarts = self._watch.restarts
        self._holes = HoleWatch(self.shapes) if holes else None
        self._is_unusual = False  # what follows in the last bytes
        self._has_restarted = False  # in this step
        self._has_held = False  # whether this step has windows that are not of the current segment

    def __iter__(self) -> Iterator[RecordBatch]:
        """Yield merged batches until the source ends.

        Raises:
            TraceError: the source is not a trace; as a WholeSource does; or the compression of another source
                is damaged.
        """
        arena = self._next_arena(0)
        while not self._at_eof or self._has_restarted:
            # What follows a restart is dealt with before more is read.
            is_reading = not self._has_restarted
            arena = self._fill(arena, is_reading=is_reading)
            self._read_windows(arena, is_reading=is_reading)
            batch = self._merge(arena)
            if self._has_restarted:
                self._begin_segment()
            yield batch
        if not isinstance(self._source, WholeSource):
            # If damage ended a compressed stream, one more read raises.
            read_into(self._source, memoryview(bytearray(1)), self._name)
        self._finish()

    # --- bytes into the buffer -------------------------------------------------------------

    def _next_arena(self, size_words: int) -> _Arena:
        if not self._arenas:
            return _Arena.of(size_words)
        self._turn = (self._turn + 1) % len(self._arenas)
        arena = self._arenas[self._turn]
        if arena is None or len(arena.words) < size_words:
            arena = self._arenas[self._turn] = _Arena.of(size_words)
        return arena

    def _fill(self, last: _Arena, *, is_reading: bool) -> _Arena:
        """Copy the carried windows and the unread tail to the next arena and read a new chunk after them."""
        carried = self._carried
        sizes = carried.end - carried.begin
        at = int(sizes.sum())
        old = at + self._tail[1] - self._tail[0]
        # A chunk as large as what is carried keeps the cost of carrying linear.
        arena = self._next_arena(old + max(self._chunk_words, old) if is_reading else old)
        windows = self._windows
        windows.count = count = len(sizes)
        if count:
            words = [last.words[begin:end] for begin, end in zip(carried.begin, carried.end, strict=True)]
            np.concatenate(words, out=arena.words[:at])
        windows.pcpu[:count], windows.state[:count] = carried.pcpu, carried.state
        windows.offset[:count], windows.is_part[:count] = carried.offset, carried.is_part
        windows.end[:count] = np.cumsum(sizes)
        windows.begin[:count] = windows.end[:count] - sizes
        begin, end = self._tail
        arena.words[at : at + end - begin] = last.words[begin:end]
        self._tail = (at, at + end - begin)
        if is_reading:
            self._read_more(arena)
        return arena

    def _read_more(self, arena: _Arena) -> None:
        """Extend the tail until the arena is full or the source ends."""
        begin, end = self._tail
        space = memoryview(arena.words.view(np.uint8).data)[end * WORD_BYTES :]
        if isinstance(self._source, WholeSource):
            count = self._source.fill(space)
            self._at_eof = self._source.at_end
        else:
            count = read_into(self._source, space, self._name)
            self._at_eof = count < len(space)
            self.facts.bytes_read += count
        self.facts.tail_bytes = count % WORD_BYTES if self._at_eof else 0
        self._tail = (begin, end + count // WORD_BYTES)

    # --- windows and records ---------------------------------------------------------------

    def _read_windows(self, arena: _Arena, *, is_reading: bool) -> None:
        """Decode the carried windows, then frame and decode the tail."""
        rows, windows = self._rows, self._windows
        # A row for each record, one before each window (a carried one has no words for its header), and one
        # where a pCPU ends.
        most = len(arena.words) + windows.count + MAX_PCPUS
        if len(rows.key) < most:
            rows.resize(most)
        rows.count = 0
        tsc, key = self._frontier_tsc.copy(), self._frontier_key.copy()
        carried = windows.count
        self._decode(arena, 0, carried, tsc, key, fresh=False)
        self._put_carried_holes(arena)
        at, end = self._tail
        origin = self._tail_offset - at * WORD_BYTES
        at = self._read_tail(arena, at, end, tsc, key)
        if self._at_eof and is_reading:
            self._note_end(arena, carried, at, end)
            at = end
        self._tail_offset = origin + at * WORD_BYTES
        self._tail = (at, end)
        if self._checks is not None:
            if self._checks.is_raw and (self._is_unusual or self._checks.has_read_all):
                self._checks.give_back(arena.words[at:end].tobytes())
                self._tail = (at, at)
            self.facts.bytes_read = self._checks.windows.taken_bytes
        new = slice(carried, windows.count)
        windows.offset[new] = origin + windows.begin[new] * WORD_BYTES
        self._mark_damage(carried)
        self._find_restart(arena)

    def _read_tail(self, arena: _Arena, at: int, end: int, tsc: I64, key: I64) -> int:
        """Frame and decode the complete windows from word ``at`` on; return where the next one begins."""
        windows, source = self._windows, self._checks
        is_raw = source is not None and source.is_raw
        while True:
            windows.make_room(windows.count + 1)
            first, last = windows.count, min(windows.count + WINDOWS_AHEAD, len(windows.pcpu))
            begin = at
            status, at, framed = loops.frame(
                arena.words, at, end, self._at_eof, is_raw,
                windows.pcpu[first:last], windows.begin[first:last], windows.end[first:last],
            )  # fmt: skip
            is_usual = self._decode(arena, first, first + framed, tsc, key, fresh=True)
            if not is_usual:
                at = int(windows.begin[windows.count]) - _HEADER_WORDS
            if source is not None and is_raw:
                source.accept((at - begin) * WORD_BYTES, windows.count - first)
            self._is_unusual = not is_usual or status == loops.FRAME_UNUSUAL
            assert is_raw or not self._is_unusual, "windows that are known to be whole are not"
            if self._is_unusual or status != loops.FRAME_FULL:
                return at

    def _note_end(self, arena: _Arena, carried: int, at: int, end: int) -> None:
        """Note what the last window lacks; ``at`` is the word after it."""
        windows, facts = self._windows, self.facts
        cut_words = 0
        if windows.count > carried:
            last = windows.count - 1
            first, stop = int(windows.begin[last]), int(windows.end[last])
            missing_words = int(arena.words[first - 1]) // WORD_BYTES - (stop - first)
            facts.missing_bytes = missing_words * WORD_BYTES
            cut_words = stop - int(windows.stop[last])
        facts.tail_bytes += (cut_words + end - at) * WORD_BYTES

    def _mark_damage(self, first: int) -> None:
        """Mark the windows from ``first`` on that are the first of their pCPUs after damage."""
        whole, windows = self._whole, self._windows
        if whole is None or not (whole.holes or self._may_miss.any()):
            return
        for index in range(first, windows.count):
            offset = int(windows.offset[index])
            while whole.holes and whole.holes[0] < offset:
                whole.holes.popleft()
                self._may_miss[:] = True
            pcpu = windows.pcpu[index]
            if self._may_miss[pcpu] and windows.row[index] < windows.row_end[index]:
                windows.is_part[index] |= MAY_MISS
                self._may_miss[pcpu] = False

    def _find_restart(self, arena: _Arena) -> None:
        """Look for a restart in the windows that are new, and note the rounds of the current segment."""
        states = self._carried.state.tolist()
        self._has_restarted = self._watch.examine(
            self._windows, self._rows, arena.words, self.shapes, len(states) - states.count(UNSEEN),
            is_last=self._at_eof or len(arena.words) > _CARRY_LIMIT_WORDS,
        )  # fmt: skip
        if self._has_restarted and self._whole is not None:
            restarts = self.facts.restarts
            restarts[-1] = replace(restarts[-1], offset=self._whole.offset_of(restarts[-1].offset))
        self._has_held = self._has_restarted or self._watch.is_suspecting
        if self._holes is not None:
            self._holes.examine(
                self._windows, self._rows, arena.words, states.count(CURRENT), self._emitted_key
            )
        self._note_rounds(states.count(CURRENT))
        if self._holes is not None and (self._at_eof or self._has_restarted):
            self._put_ends()

    def _put_carried_holes(self, arena: _Arena) -> None:
        rows, windows = self._rows, self._windows
        for index, hole in self._carried.holes.items():
            loops.put_hole(
                arena.words, self.shapes.header, index, windows.row, windows.row_end,
                rows.key, rows.tsc, rows.shape, rows.start,
                hole.key, hole.tsc, hole.shape, int(windows.begin[index]) + hole.start,
            )  # fmt: skip

    def _decode(self, arena: _Arena, first: int, last: int, tsc: I64, key: I64, *, fresh: bool) -> bool:
        """Decode windows from ``first`` to before ``last``; return whether all of them are usual."""
        rows, windows, shapes = self._rows, self._windows, self.shapes
        # Carried windows have been counted already.
        pcpu_bytes = self._pcpu_bytes if fresh else np.zeros(MAX_PCPUS, np.int64)
        distances = np.zeros(_MAX_WRAPS if fresh else 1, np.int64)
        size = np.array([shapes.size], np.int64)
        source = self._checks
        is_checked = fresh and source is not None and source.is_raw
        stopped, rows.count = loops.decode(
            arena.words, first, last, is_checked,
            windows.pcpu, windows.begin, windows.end,
            tsc, key, self._offsets,
            shapes.header, shapes.slots_key, shapes.slots_shape, size,
            rows.count,
            rows.key, rows.tsc, rows.shape, rows.start,
            windows.row, windows.row_end, windows.stop, windows.key,
            pcpu_bytes, self._pcpu_wrap,
            distances,
            source.last if source else _NOTHING, source.greatest if source else _NOTHING,
            source.rows if source else _NO_ROWS, source.row_count if source else 0,
        )  # fmt: skip
        if self._wanted is not None:
            for shape in range(shapes.size, int(size[0])):
                shapes.wanted[shape] = self._wanted(int(shapes.header[shape]) & EVENT_MASK)
        shapes.size = int(size[0])
        windows.count = stopped
        if fresh:
            self.facts.windows += stopped - first
            windows.is_part[first:stopped] = 0
            pages = (windows.stop[first:stopped] - windows.begin[first:stopped]) // _PAGE_WORDS
            np.add.at(self._window_pages, pages, 1)
            for distance in distances[1 : int(distances[0]) + 1]:
                if _can_be_ring(int(distance)):
                    self._ring_votes[int(distance)] += 1
        return bool(stopped == last)

    def _note_rounds(self, known: int) -> None:
        """Note the windows from ``known`` on that are of the current segment."""
        windows = self._windows
        pcpu, key = windows.pcpu[known : windows.count], windows.key[known : windows.count]
        if self._has_held:
            current = windows.state[known : windows.count] == CURRENT
            pcpu, key = pcpu[current], key[current]
        self._rounds.note(pcpu, key)

    def _put_ends(self) -> None:
        """Put a row where a pCPU stops being covered before the end of the segment."""
        rows, windows = self._rows, self._windows
        is_cut = self.facts.missing_bytes > 0 and not self._has_restarted
        self.facts.quiet_end_count += len(self._rounds.quiet)
        for pcpu, key in self._rounds.ends(is_cut=is_cut):
            windows.make_room(windows.count + 1)
            at, row = windows.count, rows.count
            windows.pcpu[at], windows.state[at], windows.is_part[at] = pcpu, CURRENT, 0
            windows.begin[at] = windows.end[at] = windows.stop[at] = windows.offset[at] = 0
            windows.row[at], windows.row_end[at], windows.key[at] = row, row + 1, key
            rows.key[row] = rows.tsc[row] = key
            rows.shape[row], rows.start[row] = HOLE_TO_END, 0
            windows.count, rows.count = at + 1, row + 1
            self.facts.end_count += 1

    def _begin_segment(self) -> None:
        """Forget what is known of the TSCs."""
        self._segment += 1
        self._frontier_tsc[:] = 0
        self._frontier_key[:] = 0
        self._emitted_key = loops.KEY_FLOOR
        self._rounds = Rounds()
        if self._holes is not None:
            self._holes.begin_segment()

    # --- rows into batches -----------------------------------------------------------------

    def _merge(self, arena: _Arena) -> RecordBatch:
        """Merge the rows below the watermark and note the windows that hold the rest."""
        rows, windows, shapes = self._rows, self._windows, self.shapes
        order = np.argsort(windows.pcpu[: windows.count], kind="stable")
        if self._has_held:
            order = order[windows.state[order] == CURRENT]
        count = len(order)
        pcpus, first = np.unique(windows.pcpu[order], return_index=True)
        chain_next = first.astype(np.int64)
        chain_end = np.append(first[1:], count).astype(np.int64)[: len(pcpus)]
        row, row_end = windows.row[order], windows.row_end[order]
        last_key = np.empty(len(pcpus), np.int64)
        last_tsc = np.empty(len(pcpus), np.int64)
        overfull = len(arena.words) > _CARRY_LIMIT_WORDS
        is_all = self._at_eof or overfull or self._has_restarted
        watermark = loops.MAX_KEY + 1 if is_all else self._rounds.watermark
        out, late, backward = loops.merge(
            watermark, self._emitted_key,
            rows.key, rows.tsc, rows.shape, rows.start,
            pcpus.astype(np.int64), chain_next, chain_end,
            row, row_end,
            np.empty(len(pcpus) + 1, np.int64), np.empty(len(pcpus) + 1, np.int64),
            self._counts_for(int(pcpus[-1]) + 1 if len(pcpus) else 0), shapes.wanted,
            arena.tsc, arena.pcpu, arena.shape, arena.start,
            last_key, last_tsc,
        )  # fmt: skip
        if self._holes is not None:
            # Their rows are not records.
            self.record_counts[pcpus, HOLE_SHAPES[0] : HOLE_SHAPES[-1] + 1] = 0
        given = last_key > loops.KEY_FLOOR
        # After a loss this is its own TSC, although it sorts by its start.
        own = np.where((last_tsc < 0) | (last_tsc > loops.MAX_KEY), loops.MAX_KEY, last_tsc)
        self._frontier_key[pcpus[given]] = np.maximum(last_key, own)[given]
        self._frontier_tsc[pcpus[given]] = last_tsc[given]
        self._emitted_key = max(self._emitted_key, int(last_key.max(initial=loops.KEY_FLOOR)))
        self.facts.late_records += late
        self.facts.backward_tsc_count += backward
        self._carried = self._left_over(order, row, row_end)
        if self._has_held:
            held = np.flatnonzero(windows.state[: windows.count] != CURRENT)
            self._carried = self._carried.and_then(_Carried.whole(windows, held))
        return RecordBatch(
            arena.tsc[:out], arena.pcpu[:out], arena.shape[:out], arena.start[:out], arena.words, shapes,
            self._segment,
        )  # fmt: skip

    def _counts_for(self, pcpus: int) -> I64:
        old = self.record_counts
        rows, columns = old.shape
        if pcpus > rows or self.shapes.size > columns:
            # One file may have windows of all pCPUs that there can be, another as many shapes.
            rows = max(pcpus, min(2 * rows, MAX_PCPUS)) if pcpus > rows else rows
            columns = 1 << (max(self.shapes.size, columns) - 1).bit_length()
            # Rows of pCPUs without a window are never touched, so they take no memory.
            seen = np.flatnonzero(self._pcpu_bytes[: len(old)] >= 0)
            self.record_counts = np.zeros((rows, columns), np.int64)
            self.record_counts[seen, : old.shape[1]] = old[seen]
        return self.record_counts

    def _left_over(self, order: I64, row: I64, row_end: I64) -> _Carried:
        """Return what is left of each window with rows left."""
        rows, windows, timed = self._rows, self._windows, self.shapes.timed
        left = np.flatnonzero(row < row_end)
        left = left[np.argsort(order[left])]
        window, first_row = order[left], row[left]
        begin = rows.start[first_row].astype(np.int64) - np.where(timed[rows.shape[first_row]], 3, 1)
        holes = {}
        if self._holes is not None:
            for index in np.flatnonzero(is_hole(rows.shape[first_row])).tolist():
                at, row_at = int(window[index]), int(first_row[index])
                begin[index] = windows.begin[at]
                holes[index] = _Hole(
                    int(rows.key[row_at]), int(rows.tsc[row_at]),
                    int(rows.shape[row_at]), int(rows.start[row_at]) - int(windows.begin[at]),
                )  # fmt: skip
        count = len(window)
        return _Carried(
            windows.pcpu[window], begin, windows.stop[window], np.full(count, CURRENT, np.uint8),
            np.zeros(count, np.int64), np.zeros(count, np.uint8), holes,
        )  # fmt: skip

    def _finish(self) -> None:
        if self._whole is not None:
            self.facts.damages = self._whole.damages
            self.facts.damage_count = self._whole.damage_count
            self.facts.skipped_bytes = self._whole.skipped_bytes
            # Of a last window that is cut, only whole records were passed on.
            left = self._whole.taken_bytes - self._whole.given_bytes - self._whole.skipped_bytes
            self.facts.tail_bytes += max(left, 0)
        if self._holes is not None:
            self.facts.hole_count, self.facts.hole_cycles = self._holes.count, self._holes.cycles
            self.facts.holes = self._holes.found
        self.facts.pcpu_bytes = self._pcpu_bytes
        if self._ring_votes:
            # A record that ends exactly with the ring needs no filler, so a distance may be several turns.
            self.facts.ring_bytes = min(self._ring_votes)
            self.facts.ring_votes = self._ring_votes[self.facts.ring_bytes]
        largest = int(np.flatnonzero(self._window_pages)[-1]) * RING_PAGE_BYTES if self.facts.windows else 0
        half_pages = (self.facts.ring_bytes or largest) // 2 // RING_PAGE_BYTES
        self.facts.half_full_windows = int(self._window_pages[max(half_pages, 1) :].sum())


def _can_be_ring(distance_bytes: int) -> bool:
    """Return whether WRAP fillers that far apart can be one turn of a ring of whole pages."""
    return distance_bytes > 0 and (distance_bytes + RING_HEADER_BYTES) % RING_PAGE_BYTES == 0


@contextmanager
def open_trace(
    path: str | os.PathLike[str],
    *,
    source: Source | None = None,
    wanted: Wanted | None = None,
    strict: bool = False,
    keep: int = 0,
    chunk_bytes: int = CHUNK_BYTES,
    tsc_offsets: I64 | None = None,
    holes: bool = False,
) -> Iterator[TraceReader]:
    """Open a trace file, plain or compressed (``-`` is standard input), for one pass.

    Args:
        source: its bytes, if it is open.
        strict: raise TraceError at the first damage.
        wanted, keep, chunk_bytes, tsc_offsets, holes: as for TraceReader.

    Raises:
        OSError: the file cannot be opened.
        TraceError: it is not a trace.
    """
    name = "standard input" if os.fspath(path) == STDIN else os.fspath(path)
    with nullcontext(source) if source else open_source(path) as opened:
        yield TraceReader(
            WholeSource(opened, name, strict=strict), name,
            wanted=wanted, keep=keep, chunk_bytes=chunk_bytes, tsc_offsets=tsc_offsets,
            holes=holes,
        )  # fmt: skip
