"""Read a trace: bytes in, merged batches of records out, in bounded memory.

xentrace drains the pCPUs one after the other, round by round, so a record that
has not been read yet is younger than every record of the round before the
last.  That gives the watermark up to which the pCPUs can be merged without
seeing the rest of the file: a pipe serves as well as a file.
"""

from __future__ import annotations

import os
import struct
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from xtrace.probes.errors import TraceError
from xtrace.probes.format import (
    EVENT_MASK,
    MAX_PCPUS,
    MAX_WINDOW_BYTES,
    RING_HEADER_BYTES,
    RING_PAGE_BYTES,
    WINDOW_HEADER,
    WINDOW_HEADER_BYTES,
    WORD_BYTES,
)
from xtrace.probes.reader import loops
from xtrace.probes.reader.batches import I64, MAX_SHAPES, U16, U32, RecordBatch, ShapeTable
from xtrace.probes.reader.read_facts import Damage, ReadFacts
from xtrace.probes.reader.sources import STDIN, Source, open_source, read_into

#: Bytes read at a time: large enough to hide the cost of a step, small enough for the caches.
CHUNK_BYTES = 2 << 20
#: Damages kept with their place; all are counted.
MAX_DAMAGES_KEPT = 1000

#: Windows framed at a time; few behind a damage, since what lies ahead may be framed anew.
_WINDOWS_AHEAD = 1 << 16
_WINDOWS_BEHIND_DAMAGE = 16
_MAX_WRAPS = 1 << 12
_HEADER_WORDS = WINDOW_HEADER_BYTES // WORD_BYTES
_PAGE_WORDS = RING_PAGE_BYTES // WORD_BYTES
#: Beyond this the merge no longer waits for slow pCPUs: memory stays bounded, records may come late.
_CARRY_LIMIT_WORDS = (512 << 20) // WORD_BYTES

_REASONS = {
    loops.DECODE_OVERRUN: "record overruns its window",
    loops.DECODE_NOT_A_RECORD: "not a record header",
    loops.DECODE_NESTED_WINDOW: "window header inside a window",
}

#: Tells from a record's event id whether the reader's user wants it.
Wanted = Callable[[int], bool]


@dataclass(slots=True)
class _Arena:
    """The arrays of one step; with ``keep`` they serve again for a later one."""

    words: U32
    tsc: I64
    pcpu: U16
    shape: U16
    start: U32

    @classmethod
    def of(cls, size_words: int) -> _Arena:
        return cls(
            np.empty(size_words, np.uint32),
            np.empty(size_words, np.int64),
            np.empty(size_words, np.uint16),
            np.empty(size_words, np.uint16),
            np.empty(size_words, np.uint32),
        )


class _Windows:
    """The windows of one step in file order: what frame() lists and decode() fills."""

    def __init__(self) -> None:
        self.pcpu = np.empty(_WINDOWS_AHEAD, np.int32)
        self.begin = np.empty(_WINDOWS_AHEAD, np.int64)
        self.end = np.empty(_WINDOWS_AHEAD, np.int64)
        self.row = np.empty(_WINDOWS_AHEAD, np.int64)
        self.row_end = np.empty(_WINDOWS_AHEAD, np.int64)
        self.stop = np.empty(_WINDOWS_AHEAD, np.int64)
        self.key = np.empty(_WINDOWS_AHEAD, np.int64)
        self.count = 0

    def make_room(self, count: int) -> None:
        """See to it that ``count`` windows fit; those that are there stay."""
        if count <= len(self.pcpu):
            return
        for name in ("pcpu", "begin", "end", "row", "row_end", "stop", "key"):
            old = getattr(self, name)
            more = np.empty(max(count, 2 * len(old)) - len(old), old.dtype)
            setattr(self, name, np.concatenate((old, more)))


class _Rows:
    """The decoded records of one step in file order."""

    def __init__(self) -> None:
        self.count = 0
        self.resize(0)

    def resize(self, size: int) -> None:
        self.key = np.empty(size, np.int64)
        self.tsc = np.empty(size, np.int64)
        self.shape = np.empty(size, np.uint16)
        self.start = np.empty(size, np.uint32)


class TraceReader:
    """Iterate over a trace in merged order, once.

    Args:
        source: a stream of plain trace bytes, such as open_source() gives.
        name: how to call it in messages.
        wanted: tells by event id which records to give out; all are counted either way.
        strict: raise TraceError at the first damage instead of going on behind it.
        keep: how many batches stay valid at a time; 0 gives each batch arrays of its own.
        chunk_bytes: bytes to read at a time.

    Attributes:
        shapes: the distinct header words met so far.
        record_counts: int64 [pCPUs or more, MAX_SHAPES], records read so far, wanted or not.
        facts: what was seen of the file itself.
    """

    def __init__(
        self,
        source: Source,
        name: str = "trace",
        *,
        wanted: Wanted | None = None,
        strict: bool = False,
        keep: int = 0,
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        self.shapes = ShapeTable()
        self.facts = ReadFacts()
        self.record_counts = np.zeros((16, MAX_SHAPES), np.int64)
        self._source = source
        self._name = name
        self._wanted = wanted
        self._strict = strict
        self._chunk_words = max(chunk_bytes // WORD_BYTES, 16)
        self._arenas: list[_Arena | None] = [None] * keep
        self._turn = 0
        self._at_eof = False
        self._lost: tuple[int, str] | None = None  # offset and reason, until a window is found again
        # What a step leaves for the next: windows with rows at or above the watermark, and the
        # words behind the last whole window, all of them in the last arena.
        self._carried: list[tuple[int, int, int]] = []
        self._tail = (0, 0)
        self._tail_offset = 0
        # Each pCPU's state after the last record given out.
        self._frontier_tsc = np.zeros(MAX_PCPUS, np.int64)
        self._frontier_key = np.zeros(MAX_PCPUS, np.int64)
        self._emitted_key = loops.KEY_FLOOR
        # Rounds: greatest key of all windows, of all closed rounds, of all but the last closed one.
        self._round_pcpu = MAX_PCPUS
        self._max_key = self._closed_key = self._watermark = loops.KEY_FLOOR
        self._pcpu_bytes = np.full(MAX_PCPUS, -1, np.int64)
        self._pcpu_wrap = np.full(MAX_PCPUS, -1, np.int64)
        self._ring_votes: Counter[int] = Counter()
        self._window_pages = np.zeros(MAX_WINDOW_BYTES // RING_PAGE_BYTES + 1, np.int64)
        self._windows = _Windows()
        self._rows = _Rows()

    def __iter__(self) -> Iterator[RecordBatch]:
        """Yield merged batches until the source ends.

        Raises:
            TraceError: the source is no trace, its compression is damaged, or ``strict`` met damage.
        """
        arena = self._next_arena(0)
        while not self._at_eof:
            arena = self._fill(arena)
            self._read_windows(arena)
            yield self._merge(arena)
        # Where a compressed stream ends by damage it says so when it is asked once more.
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

    def _fill(self, last: _Arena) -> _Arena:
        """Put what was carried, the unread tail and a new chunk behind one another."""
        old = sum(end - begin for _, begin, end in self._carried) + self._tail[1] - self._tail[0]
        # A chunk as large as what is carried keeps the cost of carrying linear.
        arena = self._next_arena(old + max(self._chunk_words, old))
        at = 0
        windows = self._windows
        windows.count = len(self._carried)
        for index, (pcpu, begin, end) in enumerate(self._carried):
            arena.words[at : at + end - begin] = last.words[begin:end]
            windows.pcpu[index] = pcpu
            windows.begin[index] = at
            at += end - begin
            windows.end[index] = at
        begin, end = self._tail
        arena.words[at : at + end - begin] = last.words[begin:end]
        self._tail = (at, at + end - begin)
        self._read_more(arena)
        return arena

    def _read_more(self, arena: _Arena) -> None:
        """Read behind the tail until the arena is full or the source ends."""
        begin, end = self._tail
        space = memoryview(arena.words.view(np.uint8).data)[end * WORD_BYTES :]
        count = read_into(self._source, space, self._name)
        self._at_eof = count < len(space)
        self.facts.bytes_read += count
        if self._at_eof and self.facts.bytes_read < WORD_BYTES:
            self._check_short(bytes(space[:count]))
        self.facts.tail_bytes = count % WORD_BYTES if self._at_eof else 0
        self._tail = (begin, end + count // WORD_BYTES)

    def _check_short(self, content: bytes) -> None:
        """Raise TraceError where a file without one whole word cannot be a trace that was cut."""
        if not struct.pack("<I", WINDOW_HEADER).startswith(content):
            raise TraceError(
                f"{self._name}: not a xentrace file: its {len(content)} bytes do not start a window header "
                f"(0x{WINDOW_HEADER:08x})"
            )

    # --- windows and records ---------------------------------------------------------------

    def _read_windows(self, arena: _Arena) -> None:
        """Decode the carried windows, then frame and decode the tail, going on behind damage."""
        rows, windows = self._rows, self._windows
        if len(rows.key) < len(arena.words):
            rows.resize(len(arena.words))
        rows.count = 0
        tsc, key = self._frontier_tsc.copy(), self._frontier_key.copy()
        carried = windows.count
        self._decode(arena, 0, carried, tsc, key, fresh=False)
        at, end = self._tail
        origin = self._tail_offset - at * WORD_BYTES
        missing_words = cut_words = 0
        ahead = _WINDOWS_AHEAD
        while True:
            if self._lost is not None:
                at = self._find_window(arena, at, end, origin)
                if self._lost is not None:
                    break
            windows.make_room(windows.count + 1)
            first, last = windows.count, min(windows.count + ahead, len(windows.pcpu))
            status, at, framed = loops.frame(
                arena.words, at, end, self._at_eof,
                windows.pcpu[first:last], windows.begin[first:last], windows.end[first:last],
            )  # fmt: skip
            if framed:
                missing_words = self._missing_words(arena, first + framed)
            damage = self._decode(
                arena, first, first + framed, tsc, key, fresh=True, missing_words=missing_words
            )
            last = windows.count - 1
            if damage == loops.DECODE_OK and framed and missing_words:
                cut_words = int(windows.end[last] - windows.stop[last])
            if damage != loops.DECODE_OK:
                stop = int(windows.stop[last])
                at = int(windows.end[last])
                if damage == loops.DECODE_NESTED_WINDOW:
                    at, missing_words = stop, 0
                self._damage(origin + stop * WORD_BYTES, _REASONS[damage], (at - stop) * WORD_BYTES)
                ahead = _WINDOWS_BEHIND_DAMAGE
            elif status == loops.FRAME_FULL:
                ahead = min(2 * ahead, _WINDOWS_AHEAD)
            elif reason := self._why_no_header(arena, at, end, status):
                self._lost = (origin + at * WORD_BYTES, reason)
            else:
                break
        if self._at_eof:
            self.facts.missing_bytes = missing_words * WORD_BYTES
            self.facts.tail_bytes += (cut_words + end - at) * WORD_BYTES
        self._tail_offset = origin + at * WORD_BYTES
        self._tail = (at, end)
        self._note_rounds(carried)

    def _decode(
        self, arena: _Arena, first: int, last: int, tsc: I64, key: I64, *, fresh: bool, missing_words: int = 0
    ) -> int:
        """Decode windows ``first`` to ``last`` and return what stopped it; DECODE_OK where nothing did."""
        rows, windows, shapes = self._rows, self._windows, self.shapes
        # Windows that were carried have been counted before.
        pcpu_bytes = self._pcpu_bytes if fresh else np.zeros(MAX_PCPUS, np.int64)
        distances = np.zeros(_MAX_WRAPS if fresh else 1, np.int64)
        size = np.array([shapes.size], np.int64)
        damage, stopped, rows.count = loops.decode(
            arena.words, first, last, int(windows.end[last - 1]) + missing_words if last else 0,
            windows.pcpu, windows.begin, windows.end,
            tsc, key,
            shapes.header, shapes.slots_key, shapes.slots_shape, size,
            rows.count,
            rows.key, rows.tsc, rows.shape, rows.start,
            windows.row, windows.row_end, windows.stop, windows.key,
            pcpu_bytes, self._pcpu_wrap,
            distances,
        )  # fmt: skip
        if self._wanted is not None:
            for shape in range(shapes.size, int(size[0])):
                shapes.wanted[shape] = self._wanted(int(shapes.header[shape]) & EVENT_MASK)
        shapes.size = int(size[0])
        windows.count = last if damage == loops.DECODE_OK else stopped + 1
        if fresh:
            self.facts.windows += windows.count - first
            pages = (
                windows.stop[first : windows.count] - windows.begin[first : windows.count]
            ) // _PAGE_WORDS
            np.add.at(self._window_pages, pages, 1)
            for distance in distances[1 : int(distances[0]) + 1]:
                if _can_be_ring(int(distance)):
                    self._ring_votes[int(distance)] += 1
        return int(damage)

    def _missing_words(self, arena: _Arena, count: int) -> int:
        """Return how many words the last of ``count`` windows has less than its header says."""
        begin, end = int(self._windows.begin[count - 1]), int(self._windows.end[count - 1])
        return int(arena.words[begin - 1]) // WORD_BYTES - (end - begin)

    def _find_window(self, arena: _Arena, at: int, end: int, origin: int) -> int:
        """Look for the window that follows a place where none was, and count what lies between."""
        assert self._lost is not None
        offset, reason = self._lost
        found = loops.resync(arena.words, at, end, self._at_eof)
        if found < 0 and not self._at_eof:
            return max(at, end - _HEADER_WORDS)  # a header may have begun here
        if found < 0 and self.facts.windows == 0:
            raise TraceError(
                f"{self._name}: not a xentrace file: {reason} at offset {offset} and no window header "
                f"(0x{WINDOW_HEADER:08x}) in {self.facts.bytes_read} bytes"
            )
        self._lost = None
        skipped_bytes = origin + (end if found < 0 else found) * WORD_BYTES - offset
        self._damage(offset, reason, skipped_bytes)
        return end if found < 0 else found

    def _why_no_header(self, arena: _Arena, at: int, end: int, status: int) -> str:
        """Return why there is no window where frame() stopped; "" where there may be one."""
        if status != loops.FRAME_BAD_HEADER:
            is_short = self._at_eof and at < end and arena.words[at] != WINDOW_HEADER
            return "too few bytes for a window header" if is_short else ""
        header, pcpu, size = (int(word) for word in arena.words[at : at + _HEADER_WORDS])
        if header != WINDOW_HEADER:
            return f"word 0x{header:08x} instead of a window header"
        return f"window header of pCPU {pcpu} with {size} bytes is out of range"

    def _damage(self, offset: int, reason: str, skipped_bytes: int) -> None:
        facts = self.facts
        facts.damage_count += 1
        facts.skipped_bytes += skipped_bytes
        if self._strict:
            raise TraceError(
                f"{self._name}: offset {offset}: {reason}; without --strict it is skipped and counted"
            )
        if len(facts.damages) < MAX_DAMAGES_KEPT:
            facts.damages.append(Damage(offset, reason, skipped_bytes))

    def _note_rounds(self, carried: int) -> None:
        """Move the watermark to the greatest key of all rounds but the last whole one."""
        windows = self._windows
        new = slice(carried, windows.count)
        pcpu = windows.pcpu[new]
        if not len(pcpu):
            return
        greatest = np.maximum.accumulate(np.maximum(windows.key[new], self._max_key))
        before = np.concatenate(([self._max_key], greatest[:-1]))
        previous = np.concatenate(([self._round_pcpu], pcpu[:-1]))
        for start in np.flatnonzero(pcpu <= previous)[-2:]:
            self._watermark, self._closed_key = self._closed_key, int(before[start])
        self._max_key = int(greatest[-1])
        self._round_pcpu = int(pcpu[-1])

    # --- rows into batches -----------------------------------------------------------------

    def _merge(self, arena: _Arena) -> RecordBatch:
        """Merge the rows below the watermark and note which words the others need."""
        rows, windows, shapes = self._rows, self._windows, self.shapes
        count = windows.count
        order = np.argsort(windows.pcpu[:count], kind="stable")
        pcpus, first = np.unique(windows.pcpu[:count][order], return_index=True)
        chain_next = first.astype(np.int64)
        chain_end = np.append(first[1:], count).astype(np.int64)[: len(pcpus)]
        row, row_end = windows.row[:count][order], windows.row_end[:count][order]
        last_key = np.empty(len(pcpus), np.int64)
        last_tsc = np.empty(len(pcpus), np.int64)
        overfull = len(arena.words) > _CARRY_LIMIT_WORDS
        watermark = loops.MAX_KEY + 1 if self._at_eof or overfull else self._watermark
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
        given = last_key > loops.KEY_FLOOR
        # Behind a loss that is its own TSC, although it sorts by its beginning.
        own = np.where((last_tsc < 0) | (last_tsc > loops.MAX_KEY), loops.MAX_KEY, last_tsc)
        self._frontier_key[pcpus[given]] = np.maximum(last_key, own)[given]
        self._frontier_tsc[pcpus[given]] = last_tsc[given]
        self._emitted_key = max(self._emitted_key, int(last_key.max(initial=loops.KEY_FLOOR)))
        self.facts.late_records += late
        self.facts.backward_tsc_count += backward
        self._carried = self._left_over(order, row, row_end)
        return RecordBatch(
            arena.tsc[:out], arena.pcpu[:out], arena.shape[:out], arena.start[:out], arena.words, shapes
        )

    def _counts_for(self, pcpus: int) -> I64:
        old = self.record_counts
        if pcpus > len(old):
            # Rows of pCPUs that are not there stay untouched, and take no memory.
            seen = np.flatnonzero(self._pcpu_bytes[: len(old)] >= 0)
            self.record_counts = np.zeros((max(pcpus, 2 * len(old)), MAX_SHAPES), np.int64)
            self.record_counts[seen] = old[seen]
        return self.record_counts

    def _left_over(self, order: I64, row: I64, row_end: I64) -> list[tuple[int, int, int]]:
        """Return (pCPU, first word, end word) of each window with rows to come, in file order."""
        rows, windows, timed = self._rows, self._windows, self.shapes.timed
        left = np.flatnonzero(row < row_end)
        left = left[np.argsort(order[left])]
        first_row = row[left]
        header = rows.start[first_row].astype(np.int64) - np.where(timed[rows.shape[first_row]], 3, 1)
        window = order[left]
        return list(
            zip(windows.pcpu[window].tolist(), header.tolist(), windows.stop[window].tolist(), strict=True)
        )

    def _finish(self) -> None:
        self.facts.pcpu_bytes = self._pcpu_bytes
        if self._ring_votes:
            # A filler is left out where a record ends with the ring, so a distance may hold several rings.
            self.facts.ring_bytes = min(self._ring_votes)
            self.facts.ring_votes = self._ring_votes[self.facts.ring_bytes]
        largest = int(np.flatnonzero(self._window_pages)[-1]) * RING_PAGE_BYTES if self.facts.windows else 0
        half_pages = (self.facts.ring_bytes or largest) // 2 // RING_PAGE_BYTES
        self.facts.half_full_windows = int(self._window_pages[max(half_pages, 1) :].sum())


def _can_be_ring(distance_bytes: int) -> bool:
    """Tell whether WRAP fillers that far apart can be one turn of a ring of whole pages."""
    return distance_bytes > 0 and (distance_bytes + RING_HEADER_BYTES) % RING_PAGE_BYTES == 0


@contextmanager
def open_trace(
    path: str | os.PathLike[str],
    *,
    wanted: Wanted | None = None,
    strict: bool = False,
    keep: int = 0,
    chunk_bytes: int = CHUNK_BYTES,
) -> Iterator[TraceReader]:
    """Open a trace file, plain or compressed (``-`` is standard input), for one pass.

    Raises:
        OSError: the file cannot be opened.
        TraceError: it is no trace.
    """
    name = "standard input" if os.fspath(path) == STDIN else os.fspath(path)
    with open_source(path) as source:
        yield TraceReader(source, name, wanted=wanted, strict=strict, keep=keep, chunk_bytes=chunk_bytes)
