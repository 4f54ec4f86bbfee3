"""Turn xentrace's bytes, as they arrive, into the wanted records, merged by time.

Plain Python for a dom0 without NumPy: only records that ``meaning`` has a handler for become
objects; the rest are counted and skipped.

xentrace writes windows in rounds, each round with the pCPUs in ascending order.  So whatever has
not arrived yet is younger than everything in the round before the last complete one, and the
pCPUs are merged up to there.  Damage is counted and skipped to the next window, by the rules of
``xtrace.probes.reader.reader``, of which this is the slow form: tests/oracle/reader.py states them.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Any

from xtrace.probes.errors import TraceError
from xtrace.probes.format import (
    EVENT_MASK,
    EXTRA_MASK,
    EXTRA_SHIFT,
    LOST_RECORDS,
    MAX_PCPUS,
    MAX_WINDOW_BYTES,
    TIMED_BIT,
    WINDOW_HEADER,
    WINDOW_HEADER_BYTES,
    WORD_BYTES,
    WRAP_BUFFER,
)
from xtrace.probes.live.restarts import MAX_TSC, Entry, Handler, Lane, Restarts, times_of

#: What handles a record, how many of its words it gets (0 to 2, or one of the codes below), and the value
#: that it gets in place of a missing argument.
Meaning = tuple[Handler, int, Any]
#: The handler gets the last word, or a list of all words.
LAST_WORD, ALL_WORDS = 3, 4

_key = itemgetter(0)

#: Most records held back to be merged; each takes about 200 bytes.
_MAX_HELD = 400_000
_MAX_SHAPES = 4096
_HEADER_WORDS = WINDOW_HEADER_BYTES // WORD_BYTES
#: Words of a window that are kept until it ends.
_MAX_ROOM = (32 << 20) // WORD_BYTES

#: Words in the record, handler, how many words that gets, its other argument, whether _look() must see it.
_Shape = tuple[int, Handler | None, int, Any, bool]


class _Shapes(dict[int, _Shape]):
    """What each header word means, worked out when it is first seen."""

    def __init__(self, meaning: Callable[[int, int], Meaning | None]) -> None:
        super().__init__()
        self._meaning = meaning

    def __missing__(self, header: int) -> _Shape:
        event, extra = header & EVENT_MASK, header >> EXTRA_SHIFT & EXTRA_MASK
        size = 1 + extra + (2 if header & TIMED_BIT else 0)
        found = self._meaning(event, extra)
        handler, count, other = found or (None, 0, None)
        to_look_at = (
            header == WINDOW_HEADER
            or header >> 16 & 0xFFF == 0
            or event == WRAP_BUFFER
            or (event == LOST_RECORDS and bool(header & TIMED_BIT) and extra == 4)
        )
        shape = (size, handler, count, other, to_look_at)
        if len(self) < _MAX_SHAPES:
            self[header] = shape
        return shape


class Framer:
    """Takes a trace's bytes and returns its records.

    Args:
        meaning: returns, for an event id and number of extra words, how such records are handled; None if
            they are not wanted.
        pcpu_of: returns, for a pCPU's number, the object that its handlers get.
        on_other: handler of records that are not wanted but are returned all the same: a pCPU's first, and
            the first after a loss.
        on_tick: handler of the entries that mark the end of a chunk, with the number of records up to there.
        name: of the source, in messages.
        on_hole: handler of an entry before a pCPU's first record after hole().

    Attributes:
        windows, damage_count, skipped_bytes, missing_bytes, late_count, restart_count: as the report counts
            them.
        first_damage: offset and reason, None if there is none.
    """

    def __init__(
        self,
        meaning: Callable[[int, int], Meaning | None],
        pcpu_of: Callable[[int], Any],
        on_other: Handler,
        on_tick: Handler,
        name: str = "trace",
        *,
        on_hole: Handler | None = None,
    ) -> None:
        self.windows = 0
        self.damage_count = 0
        self.first_damage: tuple[int, str] | None = None
        self.skipped_bytes = 0
        self.missing_bytes = 0
        self.late_count = 0
        self._shapes = _Shapes(meaning)
        self._pcpu_of = pcpu_of
        self._on_other = on_other
        self._on_tick = on_tick
        self._name = name
        self._on_hole = on_hole or on_tick
        self._holed: set[int] = set()
        self._lanes: dict[int, Lane] = {}
        self._restarts = Restarts()
        self._over: deque[list[Entry]] = deque()  # the records of segments that are complete
        self._lost_handler = (meaning(LOST_RECORDS, 4) or (None, 0, None))[0]
        self._tail = b""
        self._offset = 0  # of the tail's first byte
        self._at_end = False
        # The current window: its lane, and how many of its words are still to come.
        self._lane: Lane | None = None
        self._room = 0
        # Its first two TSCs, and its words from earlier chunks, unless they are too many.
        self._tscs: list[int] = []
        self._pieces: list[array[int]] = []
        self._skip = 0
        self._lost: tuple[int, str] | None = None
        # Rounds: the greatest key of all, of all closed rounds, of all but the last closed round.
        self._round_pcpu = MAX_PCPUS
        self._max_key = self._closed_key = self._watermark = 0
        self._emitted_key = 0

    @property
    def record_count(self) -> int:
        """Records framed so far, without fillers."""
        return sum(lane.seen for lane in self._lanes.values())

    @property
    def restart_count(self) -> int:
        """Restarts of the TSC so far."""
        return self._restarts.count

    def hole(self) -> None:
        """Take it that windows of any pCPU can be missing before the next bytes."""
        self._holed = set(self._lanes)

    def feed(self, data: bytes) -> None:
        """Frame the next bytes."""
        data = self._tail + data
        usable = len(data) // WORD_BYTES * WORD_BYTES
        words = array("I")
        words.frombytes(data[:usable])
        at = self._frame(words)
        self._tail = data[at * WORD_BYTES :]
        self._offset += at * WORD_BYTES

    def pause(self) -> None:
        """Take it that the last round is complete, because nothing arrives for now."""
        self._watermark = self._closed_key + 1

    def end(self) -> None:
        """End the trace, with what is left as its end.

        Raises:
            TraceError: there was no window in it.
        """
        self._at_end = True
        self.feed(b"")
        if self._lane is not None:
            self._end_window(self._pieces, self._lane)
            self._lane = None
        if self._restarts.decide():
            self._begin_segment()
        left = len(self._tail) // WORD_BYTES * WORD_BYTES
        if self._lost is None:
            self.missing_bytes = (self._skip or self._room) * WORD_BYTES or left

    def take(self) -> Iterator[tuple[list[Entry], bool]]:
        """Yield, merged, the records that nothing older can follow; after the end, all that are left.

        Yields:
            Records of one segment of the trace, and whether it ends with them because the TSC restarts.
        """
        lanes = self._lanes
        held = sum(len(lane.held) + len(lane.fresh) for lane in lanes.values()) + self._restarts.waiting
        is_full = held > _MAX_HELD
        if is_full and self._restarts.decide():
            self._begin_segment()
        while self._over:
            yield self._over.popleft(), True
        if is_full:
            for lane in lanes.values():
                lane.keep()
        yield self._merged(math.inf if self._at_end or is_full else self._watermark), False

    def _merged(self, watermark: float) -> list[Entry]:
        """Return the records below ``watermark`` in order."""
        lanes = self._lanes
        out: list[Entry] = []
        for number in sorted(lanes):
            held = lanes[number].held
            if not held or held[0][0] >= watermark:
                continue
            if held[0][0] < self._emitted_key:
                self.late_count += bisect_left(held, self._emitted_key, key=_key)
            if held[-1][0] < watermark:
                out += held
                held.clear()
            else:
                count = bisect_left(held, watermark, key=_key)
                out += held[:count]
                del held[:count]
        out.sort(key=_key)
        if out:
            self._emitted_key = max(self._emitted_key, out[-1][0])
        return out

    # --- windows ---------------------------------------------------------------------------

    def _frame(self, words: array[int]) -> int:
        """Frame ``words`` and return how many of them are done."""
        at, end = 0, len(words)
        while True:
            if self._skip:
                count = min(self._skip, end - at)
                self._skip -= count
                at += count
                self.skipped_bytes += count * WORD_BYTES
                if self._skip:
                    return at
            if self._lane is not None:
                at = self._in_window(words, at, end, self._lane)
                if self._lane is not None:
                    return at
            elif self._lost is not None:
                at = self._search(words, at, end)
                if self._lost is not None:
                    return at
            elif end - at < _HEADER_WORDS:
                if not self._at_end or at == end or words[at] == WINDOW_HEADER:
                    return at
                self._lose(at, "too few bytes for a window header")
            elif self._is_window(words, at, end):
                self._begin_window(words[at + 1], words[at + 2])
                at += _HEADER_WORDS
            else:
                self._lose(at, _why_no_window(words, at))

    def _is_window(self, words: array[int], at: int, end: int) -> bool:
        if at + _HEADER_WORDS > end or words[at] != WINDOW_HEADER or words[at + 1] >= MAX_PCPUS:
            return False
        size = words[at + 2]
        return size % WORD_BYTES == 0 and size <= MAX_WINDOW_BYTES

    def _begin_window(self, pcpu: int, size: int) -> None:
        self.windows += 1
        self._note_round(pcpu)
        lane = self._lanes.get(pcpu)
        if lane is None:
            lane = self._lanes[pcpu] = Lane(pcpu, self._pcpu_of(pcpu))
        self._room = size // WORD_BYTES
        self._lane = lane if self._room else None
        lane.before = lane.tsc
        if self._room and pcpu in self._holed:
            self._holed.discard(pcpu)
            lane.fresh.append((lane.key, self._on_hole, lane.pcpu, lane.tsc, lane.seen, None, None))

    def _note_round(self, pcpu: int) -> None:
        if pcpu <= self._round_pcpu:
            self._watermark, self._closed_key = self._closed_key, self._max_key
        self._round_pcpu = pcpu

    def _in_window(self, words: array[int], at: int, end: int, lane: Lane) -> int:
        """Frame the records of a window as far as they have arrived."""
        present = min(end, at + self._room)
        announced = at + self._room
        first = at
        if len(self._tscs) < 2:
            self._look_ahead(words, at, present, announced, lane)
        while True:
            begin = at
            at, damage = self._records(words, at, present, announced, lane)
            self._room -= at - begin
            if damage is None:
                break
            if damage == "":
                continue
            self._note(at, damage)
            if words[at] != WINDOW_HEADER:
                self._skip = self._room
            self._lane, self._room = None, 0
            break
        if self._room == 0:
            self._end_window([*self._pieces, words[first:at]], lane)
            self._lane = None
        elif self._room <= _MAX_ROOM:
            self._pieces.append(words[first:at])
        self._max_key = max(self._max_key, lane.key)
        return at

    def _look_ahead(self, words: array[int], at: int, present: int, announced: int, lane: Lane) -> None:
        """Note the first two TSCs of a window."""
        while at < present and len(self._tscs) < 2:
            header = words[at]
            size = self._shapes[header][0]
            if at + size > present or _fault(header, size, announced - at):
                return
            if header >= TIMED_BIT and header & EVENT_MASK != WRAP_BUFFER:
                self._tscs.append(words[at + 1] | words[at + 2] << 32)
                if self._tscs[0] < lane.older:
                    lane.is_watched = True  # it may be the first record of a segment
            at += size

    def _end_window(self, pieces: list[array[int]], lane: Lane) -> None:
        """Sort the window's records into the segment that they belong to."""
        first, second, _ = times = times_of(self._tscs)
        if first >= 0:
            times = (first, second, min(lane.tsc, MAX_TSC))
        while self._restarts.end_window(lane, times, lambda: self._all_tscs(pieces)):
            fresh, lane.fresh = lane.fresh, []
            self._begin_segment()
            lane.fresh = self._keyed(fresh, lane, -1)
            self._note_round(lane.number)
        self._tscs, self._pieces = [], []

    def _all_tscs(self, pieces: list[array[int]]) -> list[int]:
        """Return the TSCs of whole records."""
        tscs = []
        for words in pieces:
            at = 0
            while at < len(words):
                header = words[at]
                if header >= TIMED_BIT and header & EVENT_MASK != WRAP_BUFFER:
                    tscs.append(words[at + 1] | words[at + 2] << 32)
                at += self._shapes[header][0]
        return tscs

    def _begin_segment(self) -> None:
        """End the current segment of the trace and begin the next one with its windows so far."""
        self._over.append(self._merged(math.inf))
        self._emitted_key = self._max_key = self._closed_key = self._watermark = 0
        self._round_pcpu = MAX_PCPUS
        parts = self._restarts.complete()
        begun = {part.lane.number for part in parts}
        for lane in self._lanes.values():
            lane.key = 0
            lane.older = lane.newer = -1
            if lane.number not in begun:
                lane.tsc = 0
                lane.is_watched = True
        for part in parts:
            self._note_round(part.lane.number)
            part.lane.fresh = self._keyed(part.entries, part.lane, part.before)
            tscs = part.tscs
            self._restarts.end_window(part.lane, times_of(tscs), lambda tscs=tscs: tscs)  # type: ignore[misc]
            self._max_key = max(self._max_key, part.lane.key)

    def _keyed(self, entries: list[Entry], lane: Lane, before: int) -> list[Entry]:
        """Return records of a new segment with their keys in it; the first at ``before`` have no TSC yet."""
        made: list[Entry] = []
        for _, handler, pcpu, shown, seen, a, b in entries:
            before = before if shown == before else -1
            tsc = 0 if shown == before else shown
            key = max(lane.key, min(tsc, MAX_TSC))
            lane.key = key
            if handler == self._lost_handler and tsc <= MAX_TSC and isinstance(a, list):
                key = max(made[-1][0] if made else 0, min(a[2] | a[3] << 32, tsc))
            made.append((key, handler, pcpu, tsc, seen, a, b))
        return made

    def _records(  # noqa: C901 - the hot loop: a call costs as much as the rest of a record
        self, words: array[int], at: int, present: int, announced: int, lane: Lane
    ) -> tuple[int, str | None]:
        """Frame records until the words end or one needs _look().

        Returns:
            Where it stopped, and why: None, the words end; "", _look() took one, go on; otherwise the damage.
        """
        shapes, held, pcpu = self._shapes, lane.fresh, lane.pcpu
        key, tsc, seen = lane.key, lane.tsc, lane.seen
        is_plain = not lane.is_watched
        size = 0
        why: str | None = None
        while at < present:
            header = words[at]
            size, handler, count, other, to_look_at = shapes[header]
            stop = at + size
            if to_look_at or stop > present:
                is_plain = False
            if not is_plain:
                break
            seen += 1
            if header >= TIMED_BIT:
                tsc = words[at + 1] | words[at + 2] << 32
                first = at + 3
            else:
                first = at + 1
            if tsc > key:
                key = tsc if tsc <= MAX_TSC else MAX_TSC
            if handler is not None and tsc <= MAX_TSC:
                if count == 1:
                    held.append((key, handler, pcpu, tsc, seen, words[first], other))
                elif count == 2:
                    held.append((key, handler, pcpu, tsc, seen, words[first], words[first + 1]))
                elif count == 0:
                    held.append((key, handler, pcpu, tsc, seen, other, None))
                else:
                    held.append((key, handler, pcpu, tsc, seen, words[stop - 1], None))
            at = stop
        lane.key, lane.tsc = key, tsc
        if seen > lane.seen:
            lane.seen = seen
            held.append((key, self._on_tick, pcpu, tsc, seen, None, None))
        if at < present:
            why = self._look(words, at, present, announced, lane)
            if why == "":
                at += size
        return at, why

    def _look(self, words: array[int], at: int, present: int, announced: int, lane: Lane) -> str | None:
        """Take one record that is not plain; return the damage, "" if it is done, None if it is cut off."""
        header = words[at]
        size, handler, count, other, _ = self._shapes[header]
        if fault := _fault(header, size, announced - at):
            return fault
        if at + size > present:
            return None
        event, is_timed = header & EVENT_MASK, header >= TIMED_BIT
        if event == WRAP_BUFFER:
            return ""
        lane.seen += 1
        taken = words[at + (3 if is_timed else 1) : at + size].tolist()
        if is_timed:
            lane.tsc = words[at + 1] | words[at + 2] << 32
        before, tsc = lane.key, lane.tsc
        key = lane.key = max(before, min(tsc, MAX_TSC))
        if tsc > MAX_TSC:
            lane.fresh.append((key, self._on_tick, lane.pcpu, tsc, lane.seen, None, None))
            return ""
        if event == LOST_RECORDS and is_timed and len(taken) == 4:
            # It sorts by the start of the loss, and later records of its pCPU by its end.
            key = max(before, min(taken[2] | taken[3] << 32, tsc))
            lane.is_watched = True
        elif tsc > 0:
            lane.is_watched = False
        a, b = _arguments(taken, count, other)
        lane.fresh.append((key, handler or self._on_other, lane.pcpu, tsc, lane.seen, a, b))
        return ""

    # --- damage ----------------------------------------------------------------------------

    def _note(self, at: int, reason: str) -> None:
        self.damage_count += 1
        if self.first_damage is None:
            self.first_damage = (self._offset + at * WORD_BYTES, reason)

    def _lose(self, at: int, reason: str) -> None:
        self._lost = (self._offset + at * WORD_BYTES, reason)

    def _search(self, words: array[int], at: int, end: int) -> int:
        """Look for the next window after damage; return how many words are done."""
        assert self._lost is not None
        offset, reason = self._lost
        start = at
        # The damage is not itself a window.
        search = at + 1 if self._offset + at * WORD_BYTES == offset else at
        while True:
            try:
                found = words.index(WINDOW_HEADER, min(search, end))
            except ValueError:
                self.skipped_bytes += (end - start) * WORD_BYTES
                return self._give_up(end)
            if found + _HEADER_WORDS + 1 > end and not self._at_end:
                self.skipped_bytes += (found - start) * WORD_BYTES
                return found
            if self._is_window(words, found, end) and self._is_plausible(words, found, end):
                break
            search = found + 1
        self.skipped_bytes += (found - start) * WORD_BYTES
        self._found(offset, reason)
        return found

    def _give_up(self, at: int) -> int:
        """Stop the search where the words end, for good if that is the end of the trace."""
        assert self._lost is not None
        if self._at_end:
            if self.windows == 0:
                offset, reason = self._lost
                raise TraceError(
                    f"{self._name}: not a xentrace file: {reason} at offset {offset}, and no window header "
                    f"(0x{WINDOW_HEADER:08x}) in {self._offset + at * WORD_BYTES} bytes"
                )
            self._found(*self._lost)
        return at

    def _found(self, offset: int, reason: str) -> None:
        self._lost = None
        self.damage_count += 1
        if self.first_damage is None:
            self.first_damage = (offset, reason)

    def _is_plausible(self, words: array[int], at: int, end: int) -> bool:
        """Return whether the first word of a window can be a record header."""
        size, first = words[at + 2], at + _HEADER_WORDS
        if size == 0 or first >= end:
            return True
        header = words[first]
        return (
            header != WINDOW_HEADER
            and header >> 16 & 0xFFF != 0
            and self._shapes[header][0] * WORD_BYTES <= size
        )


def _fault(header: int, size: int, room: int) -> str:
    """Return why no record of ``size`` words can begin with ``room`` words left in its window, or ""."""
    if header == WINDOW_HEADER:
        return "window header inside a window"
    if header >> 16 & 0xFFF == 0:
        return "not a record header"
    return "record overruns its window" if size > room else ""


def _arguments(taken: list[int], count: int, other: Any) -> tuple[Any, Any]:
    """Return the two arguments that a handler gets from a record's words."""
    if count == ALL_WORDS:
        return taken, None
    if count == LAST_WORD:
        return taken[-1], None
    if count == 0:
        return other, None
    return taken[0], taken[1] if count == 2 else other


def _why_no_window(words: array[int], at: int) -> str:
    header, pcpu, size = words[at : at + _HEADER_WORDS]
    if header != WINDOW_HEADER:
        return f"word 0x{header:08x} instead of a window header"
    return f"window header of pCPU {pcpu} with {size} bytes is out of range"
