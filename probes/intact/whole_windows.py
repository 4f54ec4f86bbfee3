"""Pass on the windows of a trace that are whole, and say what is left out.

A recording can be cut, packed, joined, or have a message of stderr in it.  Of a window in which bytes are
missing, repeated or replaced, every record is valid up to the place where that is noticed, and so is one that
is made of the halves of two others; nothing shows where in the window the damage is.  So a window is passed
on as a whole or not at all.  It is whole if

- its header is within the bounds of the format, its records end exactly where the header says, and there is
  no window header and no line of text in their words;
- another window header follows, or the end of the file, or what is no content of a window: text, zeros, a
  window header that was cut off;
- its TSCs follow those of its pCPU's window before, or restart as a whole, and none is far after those of
  all other windows (``tsc_order``).

The last window of a file may be cut; its whole records count.  After a window that is not whole, the next one
that is begins at any byte.  If more bytes than announced precede that one, and a line of text of that length
is inside the window, the window is whole without it.  A window that is there twice is passed on once.

Plain Python, because `xtrace stat` and `info` read traces where NumPy is not installed.  Where the compiled
loops are, windows that are usual are passed on by ``xtrace.probes.reader.loops.whole``, without NumPy.
tests/probes/intact/test_intact.py checks what comes out of damaged traces.
"""

from __future__ import annotations

import re
import struct
from array import array
from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from xtrace.probes.errors import TraceError
from xtrace.probes.format import (
    EVENT_MASK,
    EXTRA_MASK,
    EXTRA_SHIFT,
    GUEST_CLASS_BIT,
    MAX_PCPUS,
    MAX_WINDOW_BYTES,
    TIMED_BIT,
    WINDOW_HEADER,
    WINDOW_HEADER_BYTES,
    WORD_BYTES,
    WRAP_BUFFER,
)
from xtrace.probes.intact.damage import MAX_DAMAGES_KEPT, Damage
from xtrace.probes.intact.foreign import HEAD_BYTES, refuse_foreign, refuse_unlikely
from xtrace.probes.intact.tsc_order import BACK, FAR_CYCLES, MAX_TSC, STEP_CYCLES, fault_in, is_after

MARK = struct.pack("<I", WINDOW_HEADER)
_HEADER = struct.Struct("<III")
_CLASS_BITS = 0x0FFF_0000
#: That many bytes of text are no content of a window.
_TEXT_BYTES = 8
#: How far a look at what follows a window reaches.
_FOLLOW_BYTES = 16
_TEXT = bytes([9, 10, 13, 27, *range(32, 127)])
#: A line inside a record's words; CPUID records have names of processors, which do not end a line.
_REST = re.compile(rb"[\t\r\x1b -~]{7,}\n")
_LINE = re.compile(rb"[\t -~]{7,}\r?\n")
#: A message that is searched for inside a window is at most this long, and the window at most that.
_MAX_MESSAGE_BYTES = 4 << 10
_MAX_REPAIRED_BYTES = 8 << 20
_MAX_MESSAGE_TRIES = 64
#: Windows in which a repetition is recognised.
RECENT_WINDOWS = 4096
#: Places where offsets change that are remembered.
_MAX_BREAKS = 1 << 16
#: Windows of each other pCPU, after a possible jump of the TSC, among which one of the same pCPU is sought.
_WITNESSES = 2
_MOST_WITNESS_BYTES = 16 << 20
#: Windows that are looked at for that in all, and one more for each that many bytes of the file: more can
#: only be wanted where each of many windows seems to have another TSC.
_LEAST_LOOKS, _BYTES_PER_LOOK = 1 << 15, 32

#: The compiled loop that passes on usual windows, and how many bytes are worth calling it.
_WALK = "xtrace_probes_reader_loops_whole"
_LEAST_WALK_BYTES = 4 << 10
_MOST_PATIENCE = 255
#: Records of a window that are looked at in one go.
_SCAN_BYTES = 1 << 16
#: While a window is searched for, this many words of possible ones are looked at, and per byte passed over:
#: more can only be wanted where each of many records has a window header in it.
_LEAST_BUDGET = 1 << 24
_BUDGET_RATIO = 16

_NOT_A_RECORD, _INSIDE, _OVERRUN, _TOO_MANY = 1, 2, 3, 4
_FAULTS = {
    _NOT_A_RECORD: "not a record header",
    _INSIDE: "window header inside a window",
    _OVERRUN: "record overruns its window",
    _TOO_MANY: "too many window headers inside others",
}
_ENDS_EVENLY = "the file ends between two records of a window"
_FAR = "the TSC of its last record is far after all others"
_UNFOLLOWED = "no window follows where this one should end"
REPEATED = "windows that are already there"
TEXT = "text"
ZEROS = "zeros"


class _Sizes(dict[int, int]):
    """Words of a record by its header word; 0 if it is none, and 64 more if its TSC does not count."""

    def __missing__(self, header: int) -> int:
        # No event of Xen has a header word of four printable characters.
        is_text = all(0x20 <= byte < 0x7F for byte in header.to_bytes(4, "little"))
        if not header & _CLASS_BITS or header == WINDOW_HEADER or is_text:
            size = 0
        else:
            size = 1 + (2 if header & TIMED_BIT else 0) + (header >> EXTRA_SHIFT & EXTRA_MASK)
            if header & TIMED_BIT and header & EVENT_MASK == WRAP_BUFFER:
                size += 64
        if len(self) < 1 << 16:
            self[header] = size
        return size


_SIZES = _Sizes()


class _Recent:
    """The last windows: pCPU, size, first and last TSC of each."""

    __slots__ = ("_counts", "_rows")

    def __init__(self) -> None:
        self._rows: deque[tuple[int, ...]] = deque()
        self._counts: dict[tuple[int, ...], int] = {}

    def __contains__(self, row: tuple[int, ...]) -> bool:
        return row in self._counts

    def extend(self, rows: Iterable[tuple[int, ...]]) -> None:
        """Add windows, and forget as many of the oldest."""
        counts = self._counts
        for row in rows:
            self._rows.append(row)
            counts[row] = counts.get(row, 0) + 1
        while len(self._rows) > RECENT_WINDOWS:
            old = self._rows.popleft()
            counts[old] -= 1
            if not counts[old]:
                del counts[old]

    def clear(self) -> None:
        """Forget all."""
        self._rows.clear()
        self._counts.clear()


class _Scan:
    """What is known of a window's records, as far as they have arrived.

    Attributes:
        words: done, from the window's first record on; fault: _NOT_A_RECORD and so on, or 0.
        first, last: TSCs, -1 without; is_steady: whether none is below the one before it.
    """

    __slots__ = ("fault", "first", "is_steady", "last", "words")

    def __init__(self) -> None:
        self.words = self.fault = 0
        self.first = self.last = -1
        self.is_steady = True

    def go_on(self, words: array[int], room: int) -> None:
        """Take the words that follow; ``room`` words are left in the window."""
        at, end = 0, len(words)
        sizes, last, is_steady = _SIZES, self.last, self.is_steady
        while at < end:
            header = words[at]
            size = sizes[header]
            if not size:
                self.fault = _INSIDE if header == WINDOW_HEADER else _NOT_A_RECORD
                break
            stop = at + (size & 63)
            if stop > end:
                if stop > room:
                    self.fault = _OVERRUN
                break
            if header >= TIMED_BIT and size < 64:
                tsc = words[at + 1] | words[at + 2] << 32
                if tsc < last:
                    is_steady = False
                elif self.first < 0:
                    self.first = tsc
                last = tsc
            at = stop
        self.last, self.is_steady = last, is_steady
        self.words += at


class WholeWindows:
    """Takes the bytes of a trace as they arrive, and gives those of its whole windows.

    Args:
        name: of the source, in messages.
        strict: raise TraceError at the first damage.
        is_compiled: use the compiled loop, if there is one.

    Attributes:
        damages: the first MAX_DAMAGES_KEPT; damage_count: of all; skipped_bytes: left out.
        holes: offsets, in the bytes that were given, before which windows of any pCPU can be missing.
        given_bytes, taken_bytes: given and taken so far; windows: given.
        last: int64 by pCPU, the last TSC given, -1 without; greatest: int64 [1], of all pCPUs.
    """

    def __init__(self, name: str = "trace", *, strict: bool = False, is_compiled: bool = True) -> None:
        self.damages: list[Damage] = []
        self.damage_count = self.skipped_bytes = 0
        self.holes: deque[int] = deque()
        self.given_bytes = self.taken_bytes = self.windows = 0
        self.last = array("q", [-1]) * MAX_PCPUS
        self.greatest = array("q", [-1])
        self._highest = -1  # the greatest TSC before restarts
        self.recent = _Recent()
        # The first windows with a TSC, of the file and after restarts: one that is there again begins a
        # recording that is appended.
        self._firsts: set[tuple[int, ...]] = set()
        self._name = name
        self._strict = strict
        self._head = b""
        self._buffer = bytearray()
        self._at = 0  # what is before it is done
        self._base = 0  # offset in the file of the buffer's first byte
        self._ready: list[bytes | bytearray] = []
        self._is_over = self._is_cut = self._is_paused = False
        self._scans: dict[int, _Scan] = {}  # by offset in the file of the window
        # The damage that the search for the next window is about: offset and reason; the window there that
        # may only have a line of text in it; and where to go on.
        self._lost: tuple[int, str] | None = None
        self._repairable: tuple[int, int] | None = None
        self._search = self._examined = 0
        self._budget = 0  # words of candidates that may still be looked at
        self._looks = 0  # at windows that follow
        self._skipped = [True, True]  # whether all that is left out is text; zeros
        self._is_compiled = is_compiled
        self._is_unusual = False  # the next window, for the compiled loop
        # Windows to do before the loop is tried again: more each time that it does none, as it copies.
        self._untried = self._patience = 0
        self._run: tuple[int, int] | None = None  # the repeated windows before here: offset and bytes
        self._breaks_given = array("Q", [0])
        self._breaks_file = array("Q", [0])

    # --- bytes in and out --------------------------------------------------------------------

    @property
    def buffered(self) -> memoryview:
        """The bytes that are taken and not done."""
        return memoryview(self._buffer)[self._at :]

    @property
    def is_settled(self) -> bool:
        """Whether the next window is judged by its own content: nothing before it is unusual."""
        return self._lost is None and self._run is None

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes.

        Raises:
            TraceError: they are damaged, if ``strict``; or the file is of another format.
        """
        if len(self._head) < HEAD_BYTES:
            self._head += data[: HEAD_BYTES - len(self._head)]
            refuse_foreign(self._head, self._name)
        self.taken_bytes += len(data)
        self._forget()
        self._buffer += data
        self._is_unusual = not self._is_compiled
        while self._step():
            pass

    def end(self, reason: str = "") -> None:
        """Take the end of the file, or of what of it can be read, and why.

        Raises:
            TraceError: as feed(); or there is no window in the file.
        """
        self._is_over = True
        if reason:
            self._is_cut = True
            self._note(self.taken_bytes, reason, 0, is_hole=True)
        while self._step():
            pass
        self._end_run()

    def pause(self) -> bytes:
        """Return the last window, if all of it has arrived: nothing more does for now."""
        self._is_paused = True
        while self._step():
            pass
        self._is_paused = False
        return self.take()

    def take(self) -> bytes:
        """Return the bytes of the windows that are whole."""
        taken = b"".join(self._ready)
        self._ready = []
        return taken

    def pieces(self) -> list[tuple[bytes, bool]]:
        """Return what take() does in pieces, and whether windows can be missing before each of them."""
        begin = self.given_bytes - sum(map(len, self._ready))
        content = self.take()
        made: list[tuple[bytes, bool]] = []
        at, is_after = 0, False
        while self.holes and content:
            stop = self.holes.popleft() - begin
            if stop > at:
                made.append((content[at:stop], is_after))
            at, is_after = stop, True
        if at < len(content):
            made.append((content[at:], is_after))
        elif is_after:
            self.holes.append(self.given_bytes)
        return made

    def offset_of(self, given: int) -> int:
        """Return the offset in the file of the byte that was given at ``given``."""
        at = bisect_right(self._breaks_given, given) - 1
        return self._breaks_file[at] + given - self._breaks_given[at]

    def release(self) -> bytes:
        """Give back the bytes that are not done; only if nothing before them is unusual."""
        assert self.is_settled
        left = bytes(self.buffered)
        self.taken_bytes -= len(left)
        self._base += len(self._buffer) - len(left)
        self._buffer = bytearray()
        self._at = 0
        self._scans.clear()
        return left

    def accept(self, count: int, windows: int) -> None:
        """Pass over bytes that another reader found to be usual windows, and gave.

        Args:
            count: of bytes, at the beginning of what comes next.
            windows: number of them; ``last`` and ``greatest`` are as they leave them.
        """
        if not count:
            return
        self._note_break(self._base + self._at)
        self.windows += windows
        self.given_bytes += count
        self.taken_bytes += count
        self._base += count

    def _forget(self) -> None:
        """Drop the bytes that are done."""
        keep = self._at
        if self._lost is not None:
            keep = self._search - self._base
            if self._repairable is not None:
                keep = self._repairable[0] - self._base
        if keep:
            del self._buffer[:keep]
            self._base += keep
            self._at -= keep

    def _give(self, content: bytes | bytearray | memoryview, place: int) -> None:
        self._note_break(place)
        self._ready.append(bytes(content))
        self.given_bytes += len(content)

    def _note_break(self, place: int) -> None:
        if self._breaks_file[-1] + self.given_bytes - self._breaks_given[-1] != place:
            self._breaks_given.append(self.given_bytes)
            self._breaks_file.append(place)
            if len(self._breaks_given) > 2 * _MAX_BREAKS:
                del self._breaks_given[:_MAX_BREAKS]
                del self._breaks_file[:_MAX_BREAKS]

    # --- windows -----------------------------------------------------------------------------

    def _step(self) -> bool:
        """Do the next window, or go on searching; return whether there may be more to do."""
        if self._lost is not None:
            return self._go_on_searching()
        if not self._is_unusual and self._run is None and len(self._buffer) - self._at >= _LEAST_WALK_BYTES:
            self._walk()
        buffer, at = self._buffer, self._at
        left = len(buffer) - at
        if left < WINDOW_HEADER_BYTES:
            if not (left and self._is_over):
                return False
            rest = bytes(buffer[at:])
            if rest[:WORD_BYTES] == MARK[: len(rest)]:
                self._end_run()
                self._give(rest, self._base + at)
                self._at = len(buffer)
                return False
            self._lose(at, "too few bytes for a window header")
            return True
        if fault := self._header_fault(at):
            self._lose(at, fault)
            return True
        reason = self._why_not_whole(at)
        if reason is None:
            return False
        if reason == REPEATED:
            self._pass_over(at)
        elif reason:
            self._lose(at, reason, is_window=True)
        else:
            self._pass_on(at)
        return True

    def _walk(self) -> None:
        """Pass on the usual windows that come next, by a compiled loop."""
        from xtrace.probes.compiled.bare import compiled

        walk = compiled(_WALK, 2)
        if walk is None:
            self._is_unusual = True
            return
        # A copy, because the loop reads words, and takes them from where it finds them.
        content = bytearray(memoryview(self._buffer)[self._at :])
        rows = array("q", bytes(8 * 4 * RECENT_WINDOWS))
        words = len(content) // WORD_BYTES
        stop, count = walk(
            (content, (words,)), 0, words,
            (self.last, (len(self.last),)), (self.greatest, (1,)), (rows, (RECENT_WINDOWS, 4)),
        )  # fmt: skip
        if count:
            del content[stop * WORD_BYTES :]
            self._give(content, self._base + self._at)
            self._at += len(content)
            self.windows += count
            self.remember(rows, count)
        self._patience = 0 if count else min(2 * self._patience + 1, _MOST_PATIENCE)
        self._untried = self._patience
        self._is_unusual = True

    def remember(self, rows: Sequence[int], count: int) -> None:
        """Note the last of ``count`` windows that were passed on: ``rows`` as the loop leaves them."""
        end = count % RECENT_WINDOWS if count >= RECENT_WINDOWS else 0
        kept = rows[: 4 * min(count, RECENT_WINDOWS)]
        kept = [*kept[4 * end :], *kept[: 4 * end]]
        self.recent.extend(zip(*(iter(kept),) * 4, strict=True))

    def _header_fault(self, at: int) -> str:
        mark, pcpu, size = _HEADER.unpack_from(self._buffer, at)
        if mark != WINDOW_HEADER:
            return f"word 0x{mark:08x} instead of a window header"
        if pcpu >= MAX_PCPUS or size % WORD_BYTES or size > MAX_WINDOW_BYTES:
            return f"window header of pCPU {pcpu} with {size} bytes is out of range"
        return ""

    def _why_not_whole(self, at: int) -> str | None:
        """Return why the window at ``at`` is not whole, "" if it is, None if that is not known yet."""
        _, pcpu, size = _HEADER.unpack_from(self._buffer, at)
        end = at + WINDOW_HEADER_BYTES + size
        scan = self._scan(at, end)
        if scan.fault:
            return _FAULTS[scan.fault]
        is_here = end <= len(self._buffer)
        if not is_here and not self._is_over:
            return None
        if not is_here and (fault := self._why_not_cut(at, scan)):
            return fault
        if is_here:
            if scan.words * WORD_BYTES < size:
                return _FAULTS[_OVERRUN]
            follows = self._follows(end)
            if not follows:
                return None if follows is None else _UNFOLLOWED
        return self._fault_inside(at, end) or self._fault_of_times(at, end, pcpu, size, scan)

    def _why_not_cut(self, at: int, scan: _Scan) -> str:
        """Return why the window at the end of the file was not just cut off, "" if it can have been.

        Bytes that are missing inside it look nearly the same.
        """
        if self._is_cut:
            return ""
        begin = at + WINDOW_HEADER_BYTES
        left = len(self._buffer) - begin
        if left and scan.words * WORD_BYTES == left // WORD_BYTES * WORD_BYTES and left % WORD_BYTES == 0:
            return _ENDS_EVENLY
        words = array("I", bytes(memoryview(self._buffer)[begin : begin + left // WORD_BYTES * WORD_BYTES]))
        headers = {header for header, _, _ in _records(words)}
        if scan.words < len(words):
            headers.add(words[scan.words])  # of the record that is cut
        return "" if all(map(_is_known, headers)) else "unknown records in a window that is cut"

    def _fault_inside(self, at: int, end: int) -> str:
        """Return why a window has no record because there is something else in place of its words, or ""."""
        begin = at + WINDOW_HEADER_BYTES
        content = bytes(memoryview(self._buffer)[begin : min(end, len(self._buffer))])
        lines = [line.span() for line in _LINE.finditer(content)]
        if not lines and MARK not in content:
            return ""
        words = array("I", content[: len(content) // WORD_BYTES * WORD_BYTES])
        if MARK in content and self._has_header(begin, words):
            return _FAULTS[_INSIDE]
        return "text in a record" if _has_line(words, content, lines) else ""

    def _has_header(self, begin: int, words: array[int]) -> bool:
        """Return whether a window header begins in a record that is not a guest's."""
        for header, first, end in _records(words):
            for at in range(first - (2 if header >= TIMED_BIT else 0), end):
                if words[at] == WINDOW_HEADER and not header & GUEST_CLASS_BIT:
                    place = begin + at * WORD_BYTES
                    if len(self._buffer) - place >= WINDOW_HEADER_BYTES and not self._header_fault(place):
                        return True
        return False

    def _scan(self, at: int, end: int) -> _Scan:
        """Return what is known of a window's records, with those that have arrived."""
        place = self._base + at
        scan = self._scans.get(place)
        if scan is None:
            if len(self._scans) > 64:
                self._scans.clear()
            scan = self._scans[place] = _Scan()
        present = min(end, len(self._buffer))
        while not scan.fault:
            begin = at + WINDOW_HEADER_BYTES + scan.words * WORD_BYTES
            count = min(present - begin, _SCAN_BYTES) // WORD_BYTES * WORD_BYTES
            before = scan.words
            words = array("I", bytes(memoryview(self._buffer)[begin : begin + count]))
            scan.go_on(words, (end - begin) // WORD_BYTES)
            if self._lost is not None:
                self._budget -= scan.words - before
                if self._budget < 0:
                    scan.fault = _TOO_MANY
            if scan.words == before or count < _SCAN_BYTES:
                break
        return scan

    def _follows(self, end: int) -> bool | None:
        """Return whether what follows at ``end`` is no content of the window before; None if not known."""
        next_ = bytes(self._buffer[end : end + _FOLLOW_BYTES])
        if next_.startswith(MARK) or (self._is_paused and not next_):
            return True
        if len(next_) < _FOLLOW_BYTES and not self._is_over:
            return None
        if not next_ or MARK.startswith(next_[:WORD_BYTES]) or next_[:2] == MARK[:2]:
            return True
        if len(next_) == _FOLLOW_BYTES and not any(next_):
            return True
        if _is_text(bytes(self._buffer[end - 2 : end])):
            return False  # the text can begin inside the window
        if _is_text(bytes(self._buffer[end - 1 : end])):
            return self._is_line(end)
        if next_[:1] == MARK[:1]:
            # A header that was cut off, or that text was written into.
            is_split = self._is_line(end + 1, MARK[1:])
            if is_split is not False:
                return is_split
            next_ = next_[1:]
            if next_.startswith(MARK):
                return True
        mark = next_.find(MARK)
        return _is_text(next_[: mark if mark > 0 else _TEXT_BYTES])

    def _is_line(self, at: int, header: bytes = MARK) -> bool | None:
        """Return whether there is nothing but text up to the next window header; None if not known."""
        mark = self._buffer.find(header, at, at + _MAX_MESSAGE_BYTES)
        stop = mark if mark >= 0 else at + _MAX_MESSAGE_BYTES
        is_text = _is_text(bytes(self._buffer[at:stop]))
        if is_text and mark < 0 and not self._is_over and len(self._buffer) - at < _MAX_MESSAGE_BYTES:
            return None
        return is_text and (mark >= 0 or header == MARK)

    def _fault_of_times(self, at: int, end: int, pcpu: int, size: int, scan: _Scan) -> str | None:
        """Return why the TSCs of a window cannot be right, "" if they can, None if that is not known yet."""
        if scan.first < 0 and scan.is_steady:
            return REPEATED if self._run is not None and (pcpu, size, -1, -1) in self.recent else ""
        before, greatest = self.last[pcpu], self._reference(pcpu)
        if is_after(scan.first, scan.last, before, greatest) and scan.is_steady:
            return ""
        tscs = self._tscs(at, end)
        if (pcpu, size, tscs[0], tscs[-1]) in self.recent and before >= 0:
            if (pcpu, size, tscs[0], tscs[-1]) not in self._firsts or self._run is not None:
                return REPEATED
            self.recent.clear()  # the file is appended to itself
        reason, far = fault_in(tscs, before, greatest)
        if reason:
            return reason
        return self._fault_of_jump(end, pcpu, far, tscs) if far >= 0 else self._fault_of_fall(end, pcpu, tscs)

    def _reference(self, pcpu: int) -> int:
        """Return the TSC that those of a pCPU may be a little after, -1 without.

        One that is not known to have restarted with the others, or is ahead of them, may go on where it was.
        """
        greatest = self.greatest[0]
        return greatest if 0 <= self.last[pcpu] <= greatest else max(greatest, self._highest)

    def _fault_of_jump(self, end: int, pcpu: int, far: int, tscs: list[int]) -> str | None:
        """Ask the next windows whether the TSC has jumped to ``far``, or the pCPU's is ahead of the others.

        Where none of its pCPU shows that, a pCPU's first window does, if it is there as a whole.
        """
        count = len([tsc for tsc in tscs if tsc >= far])
        is_first = self.last[pcpu] < 0 and count == len(tscs) > 1
        if end > len(self._buffer) and count < len(tscs):
            return _FAR  # of a window that is cut, the end can also be what is left after missing bytes
        seen: Counter[int] = Counter()
        for following in self._witnesses(end):
            if following is None:
                return None
            other, found = following
            if found and max(found) >= far - FAR_CYCLES:
                return ""
            if found:
                count = 0
                is_first = is_first and other != pcpu
                seen[other] += 1
                if other == pcpu or seen[other] > _WITNESSES:
                    break
        return "" if count > 1 or is_first else _FAR

    def _fault_of_fall(self, end: int, pcpu: int, tscs: list[int]) -> str | None:
        """Ask the pCPU's next window whether the TSC has restarted, where a single record shows that.

        Missing bytes can make one record of parts of two, or of one and an empty window's header.
        """
        before = self.last[pcpu]
        if len(tscs) > 1 or tscs[0] >= before - STEP_CYCLES:
            return ""
        for following in self._witnesses(end):
            if following is None:
                return None
            other, found = following
            if found and other == pcpu:
                goes_on = 0 <= found[0] - before < before - tscs[0]
                return BACK if goes_on else ""
        return ""

    def _witnesses(self, at: int) -> Iterator[tuple[int, list[int]] | None]:
        """Yield what _windows_from() does, but not more windows in all than the bytes before them allow."""
        most = _LEAST_LOOKS + (self._base + at) // _BYTES_PER_LOOK
        count = 0
        for following in self._windows_from(at):
            if following is None:
                self._looks -= count  # they are looked at again, once more bytes are here
            elif self._looks >= most:
                return
            else:
                self._looks += 1
                count += 1
            yield following

    def _windows_from(self, at: int) -> Iterator[tuple[int, list[int]] | None]:
        """Yield pCPU and TSCs of the windows from ``at`` on, None for one that has not arrived yet."""
        begin = at
        while at - begin < _MOST_WITNESS_BYTES:
            if len(self._buffer) - at < WINDOW_HEADER_BYTES:
                if not self._is_over:
                    yield None
                return
            if self._header_fault(at):
                return
            _, pcpu, size = _HEADER.unpack_from(self._buffer, at)
            end = at + WINDOW_HEADER_BYTES + size
            if end > len(self._buffer) and not self._is_over:
                yield None
                return
            yield pcpu, [tsc for tsc in self._tscs(at, end) if tsc <= MAX_TSC]
            at = end

    def _tscs(self, at: int, end: int) -> list[int]:
        """Return the TSCs of a window's whole records."""
        begin = at + WINDOW_HEADER_BYTES
        present = min(end, len(self._buffer))
        content = bytes(self._buffer[begin : begin + (present - begin) // WORD_BYTES * WORD_BYTES])
        return tscs_in(array("I", content))

    def _pass_on(self, at: int) -> None:
        self._end_run()
        buffer = self._buffer
        _, pcpu, size = _HEADER.unpack_from(buffer, at)
        end = at + WINDOW_HEADER_BYTES + size
        scan = self._scans.pop(self._base + at)
        stop = min(end, len(buffer))
        if stop < end:
            stop -= self._doubtful_bytes(at, scan)
        self._give(memoryview(buffer)[at:stop], self._base + at)
        self._note_window(pcpu, size, scan.first, scan.last)
        self._at = min(end, len(buffer))
        self._is_unusual = not self._is_compiled or self._untried > 0
        self._untried -= self._untried > 0

    def _doubtful_bytes(self, at: int, scan: _Scan) -> int:
        """Return how many bytes at the end of a cut window may belong to no record.

        Where the header of the record that is cut is missing, the one before it may be of parts of two.
        """
        begin = at + WINDOW_HEADER_BYTES
        left = len(self._buffer) - begin
        if self._is_cut or not scan.words or left - scan.words * WORD_BYTES >= WORD_BYTES:
            return 0
        words = array("I", bytes(memoryview(self._buffer)[begin : begin + scan.words * WORD_BYTES]))
        *_, (header, first, _end) = _records(words)
        return left - (first - (3 if header >= TIMED_BIT else 1)) * WORD_BYTES

    def _note_window(self, pcpu: int, size: int, first: int, last: int) -> None:
        self.windows += 1
        row = (pcpu, size, first, last)
        self.recent.extend((row,))
        if last >= 0:
            if (last < self.last[pcpu] or self.greatest[0] < 0) and len(self._firsts) < RECENT_WINDOWS:
                self._firsts.add(row)
            if last < max(self.last[pcpu], first):
                self._highest = max(self._highest, self.greatest[0], first)
            if last < self.last[pcpu]:
                self.greatest[0] = last  # the TSC restarts
            self.last[pcpu] = last
            self.greatest[0] = max(self.greatest[0], last)

    def _pass_over(self, at: int) -> None:
        """Leave out a window that is already there."""
        size = WINDOW_HEADER_BYTES + _HEADER.unpack_from(self._buffer, at)[2]
        self._scans.pop(self._base + at, None)
        if self._run is None:
            self._run = (self._base + at, 0)
        self._run = (self._run[0], self._run[1] + size)
        self._at += size

    def _end_run(self) -> None:
        if self._run is not None:
            (place, count), self._run = self._run, None
            self._note(place, REPEATED, count, is_hole=False)

    # --- damage ------------------------------------------------------------------------------

    def _lose(self, at: int, reason: str, *, is_window: bool = False) -> None:
        """Begin to search for the next window."""
        self._end_run()
        self._lost = (self._base + at, reason)
        self._search = self._base + at + (1 if is_window else 0)
        self._examined = self._base + at
        self._budget = _LEAST_BUDGET
        self._skipped = [True, True]
        self._repairable = None
        if is_window:
            size = _HEADER.unpack_from(self._buffer, at)[2]
            if size <= _MAX_REPAIRED_BYTES:
                self._repairable = (self._base + at, self._base + at + WINDOW_HEADER_BYTES + size)

    def _go_on_searching(self) -> bool:
        assert self._lost is not None
        buffer, base = self._buffer, self._base
        at = self._search - base
        while True:
            found = buffer.find(MARK, at)
            if found < 0:
                # A header may begin in the last bytes.
                at = max(at, len(buffer) if self._is_over else len(buffer) - len(MARK) + 1)
                self._search_from(at)
                if self._is_over:
                    self._give_up()
                return False
            reason = self._why_no_window(found)
            if reason is None:
                self._search_from(found)
                return False
            if reason in ("", REPEATED):
                break
            at = found + 1
        self._search_from(found)
        self._found(found)
        return True

    def _why_no_window(self, at: int) -> str | None:
        """Return why no whole window begins at ``at``, "" if one does, None if that is not known yet."""
        if len(self._buffer) - at < WINDOW_HEADER_BYTES:
            return "cut" if self._is_over else None
        reason: str | None = self._header_fault(at)
        if not reason:
            reason = self._why_not_whole(at)
        return "nothing shows that it is a window" if reason == "" and self._is_bare(at) else reason

    def _is_bare(self, at: int) -> bool:
        """Return whether a window at the end of the file has no whole record."""
        size = _HEADER.unpack_from(self._buffer, at)[2]
        return bool(size) and not self._scans[self._base + at].words

    def _search_from(self, at: int) -> None:
        """Note that the next window does not begin before ``at``."""
        assert self._lost is not None
        passed = bytes(memoryview(self._buffer)[self._examined - self._base : at])
        self._skipped[0] = self._skipped[0] and _is_text(passed)
        self._skipped[1] = self._skipped[1] and passed == bytes(len(passed))
        self._examined = self._base + at
        self._budget += _BUDGET_RATIO * len(passed)
        self._search = self._base + at
        if self._repairable is not None and self._search > self._repairable[1] + _MAX_MESSAGE_BYTES:
            self._repairable = None

    def _found(self, at: int) -> None:
        """End the search: a window begins at ``at``."""
        assert self._lost is not None
        place, reason = self._lost
        self._lost = None
        self._at = at
        if self._repairable is not None and self._repair(self._repairable, at):
            return
        self._note_skipped(place, reason, self._base + at - place)

    def _give_up(self) -> None:
        """End the search: there is no window up to the end of the file."""
        assert self._lost is not None
        place, reason = self._lost
        self._lost = None
        self._at = len(self._buffer)
        if self._repairable is not None and self._repair(self._repairable, self._at):
            return
        if not self.windows:
            refuse_unlikely(self._head, self._name)
            raise TraceError(self._why_no_trace(place, reason))
        self._note_skipped(place, reason, self._base + self._at - place)

    def _why_no_trace(self, place: int, reason: str) -> str:
        if self.taken_bytes < WORD_BYTES:
            return (
                f"{self._name}: not a xentrace file: its {self.taken_bytes} bytes do not start a window "
                f"header (0x{WINDOW_HEADER:08x})"
            )
        cut = f" ({self.damages[0].reason})" if self._is_cut and self.damages else ""
        return (
            f"{self._name}: not a xentrace file: {reason} at offset {place}, and no window header "
            f"(0x{WINDOW_HEADER:08x}) with its records in {self.taken_bytes:,} bytes{cut}"
        )

    def _note_skipped(self, place: int, reason: str, count: int) -> None:
        is_text, is_zero = self._skipped
        if count and (is_text or is_zero):
            reason += f" ({TEXT if is_text else ZEROS})"
        self._note(place, reason, count, is_hole=not is_text)

    def _repair(self, window: tuple[int, int], next_: int) -> bool:
        """Give a window without the line of text that is in it; return whether that was possible."""
        at, end = window[0] - self._base, window[1] - self._base
        count = next_ - end
        if not 0 < count <= _MAX_MESSAGE_BYTES:
            return False
        content = bytes(self._buffer[at + WINDOW_HEADER_BYTES : next_])
        found = {mended for mended in _without_text(content, count) if _is_framed(mended)}
        if len(found) != 1:
            return False
        mended = found.pop()
        _, pcpu, size = _HEADER.unpack_from(self._buffer, at)
        tscs = tscs_in(array("I", mended))
        if tscs:
            reason, far = fault_in(tscs, self.last[pcpu], self._reference(pcpu))
            if reason or far >= 0 or tscs != sorted(tscs) or tscs[0] < self.last[pcpu]:
                return False
        self._note(window[0], "text in a window", count, is_hole=False)
        self._give(bytes(self._buffer[at : at + WINDOW_HEADER_BYTES]) + mended, window[0])
        self._note_window(pcpu, size, tscs[0] if tscs else -1, tscs[-1] if tscs else -1)
        return True

    def _note(self, place: int, reason: str, count: int, *, is_hole: bool) -> None:
        self.damage_count += 1
        self.skipped_bytes += count
        if self._strict:
            raise TraceError(
                f"{self._name}: offset {place}: {reason}; without --strict it is skipped and counted"
            )
        if len(self.damages) < MAX_DAMAGES_KEPT:
            self.damages.append(Damage(place, reason, count))
        if is_hole and (not self.holes or self.holes[-1] != self.given_bytes):
            self.holes.append(self.given_bytes)


def tscs_in(words: array[int]) -> list[int]:
    """Return the TSCs of the whole records that ``words`` begins with, without fillers."""
    tscs = []
    at, end = 0, len(words)
    while at < end:
        header = words[at]
        size = _SIZES[header]
        stop = at + (size & 63)
        if not size or stop > end:
            break
        if header >= TIMED_BIT and size < 64:
            tscs.append(words[at + 1] | words[at + 2] << 32)
        at = stop
    return tscs


def _is_text(content: bytes) -> bool:
    return not content.translate(None, _TEXT)


def _is_framed(content: bytes) -> bool:
    scan = _Scan()
    scan.go_on(array("I", content), len(content) // WORD_BYTES)
    return not scan.fault and scan.words * WORD_BYTES == len(content)


def _records(words: array[int]) -> Iterator[tuple[int, int, int]]:
    """Yield header, index of the first extra word and of the word after the last of each whole record."""
    at, end = 0, len(words)
    while at < end:
        header = words[at]
        size = _SIZES[header] & 63
        if not size or at + size > end:
            return
        yield header, at + (3 if header >= TIMED_BIT else 1), at + size
        at += size


def _is_known(header: int) -> bool:
    """Return whether some version of Xen writes records with this header word."""
    from xtrace.probes.catalog.lookup import readings

    event = header & EVENT_MASK
    if header & GUEST_CLASS_BIT or event == WRAP_BUFFER:
        return True
    return bool(readings(event, header >> EXTRA_SHIFT & EXTRA_MASK, header >= TIMED_BIT))


def _has_line(words: array[int], content: bytes, lines: list[tuple[int, int]]) -> bool:
    """Return whether the words of a record other than a guest's have a line of text in them.

    The line covers the second or the last but one of the record's words, which is quick to see.
    """
    for header, begin, end in _records(words):
        if header & GUEST_CLASS_BIT or end - begin < 2:
            continue
        if not (_can_be_text(words[begin + 1]) or _can_be_text(words[end - 2])):
            continue
        first, stop = begin * WORD_BYTES, end * WORD_BYTES
        for line_begin, line_end in lines:
            inside = content[max(first, line_begin) : min(stop, line_end)]
            if _LINE.search(inside):
                return True
    return False


def _can_be_text(word: int) -> bool:
    return all(0x08 <= byte < 0x80 for byte in word.to_bytes(4, "little"))


def _without_text(content: bytes, count: int) -> list[bytes]:
    """Return what remains of a window without a line of ``count`` bytes, for each one that it can be."""
    made: list[bytes] = []
    if count < _TEXT_BYTES:
        return made
    runs = re.compile(rb"[\t\n\r\x1b -~]{%d,}" % count)
    for run in islice(runs.finditer(content), _MAX_MESSAGE_TRIES):
        for begin in islice(range(run.start(), run.end() - count + 1), _MAX_MESSAGE_BYTES):
            end = begin + count
            # Text before or after it can be the rest of a longer line, in place of other bytes.
            is_first = begin == run.start() or content[begin - 1 : begin] < b" "
            if content[end - 1 : end] == b"\n" and is_first and not _REST.match(content, end):
                made.append(content[:begin] + content[end:])
    return made
