"""The whole windows of a trace as bytes: usual ones by a compiled loop, all others by WholeWindows."""

from __future__ import annotations

import numpy as np

from xtrace.probes.format import MAX_PCPUS, MAX_WINDOW_BYTES, WINDOW_HEADER
from xtrace.probes.intact.compressed import Damage as CompressedDamage
from xtrace.probes.intact.compressed import cut_text
from xtrace.probes.intact.whole_windows import RECENT_WINDOWS, WholeWindows
from xtrace.probes.reader import loops
from xtrace.probes.reader.ahead import Source

_LEAST_BYTES = 2 << 20
#: Bytes that WholeWindows gets at a time.
_SLICE_BYTES = 64 << 10


class WholeSource:
    """Reads a trace and returns the bytes of its whole windows.

    Args:
        source: a stream of uncompressed trace bytes.
        name: its name in messages.
        strict: raise TraceError at the first damage.

    Attributes:
        windows: what is left out, and where.
        at_end: whether all bytes were returned.
    """

    def __init__(self, source: Source, name: str, *, strict: bool = False) -> None:
        self.windows = WholeWindows(name, strict=strict)
        self.at_end = False
        self._source = source
        self._ready = memoryview(b"")
        self._raw = np.empty(_LEAST_BYTES // 4, np.uint32)
        self._begin = self._end = 0  # bytes of _raw that are to be done
        self._has_read_all = self._is_ended = False
        self._cut = ""
        self._is_slow = True
        self._last = np.frombuffer(self.windows.last, np.int64)
        self._greatest = np.frombuffer(self.windows.greatest, np.int64)
        self._rows = np.empty((RECENT_WINDOWS, 4), np.int64)

    def fill(self, buffer: memoryview) -> int:
        """Fill ``buffer``, or what of it the rest of the trace takes; return the number of bytes.

        Raises:
            TraceError: as WholeWindows does.
        """
        filled = 0
        while filled < len(buffer) and not self.at_end:
            if not self._ready:
                self._advance()
            count = min(len(buffer) - filled, len(self._ready))
            _copy(buffer[filled : filled + count], self._ready[:count])
            self._ready = self._ready[count:]
            filled += count
            if self._has_read_all and not self._ready and self._begin == self._end:
                self._finish()
        return filled

    def _finish(self) -> None:
        """Take the end of the trace, and then that of what it made ready."""
        if self._is_ended:
            self.at_end = True
            return
        self._is_ended = True
        self.windows.end(self._cut)
        self._ready = memoryview(self.windows.take())
        self.at_end = not self._ready

    def _advance(self) -> None:
        """Make more bytes ready, or read more."""
        if self._begin < self._end:
            if not self._is_slow and self._walk():
                return
            if self._is_slow:
                self._go_slowly()
                return
        if self._has_read_all:
            if self._begin < self._end:
                self._is_slow = True
            return
        self._read()

    def _walk(self) -> bool:
        """Make the usual windows ready that come next; return whether anything was done."""
        if self._begin % 4:
            self._move_to_front()
        begin, end = self._begin // 4, self._end // 4
        at, count = loops.whole(self._raw, begin, end, self._last, self._greatest, self._rows)
        if count:
            kept = self._rows[: min(count, RECENT_WINDOWS)]
            if count > len(kept):
                kept = np.roll(kept, -(count % len(kept)), axis=0)
            rows = [(row[0], row[1], row[2], row[3]) for row in kept.tolist()]
            self.windows.accept((at - begin) * 4, rows, count)
            self._ready = memoryview(self._raw.view(np.uint8).data)[begin * 4 : at * 4]
            self._begin = at * 4
            return True
        if self._is_incomplete(begin, end) and not self._has_read_all:
            return False
        self._is_slow = True
        return True

    def _is_incomplete(self, at: int, end: int) -> bool:
        """Return whether more bytes may show that the window is a usual one."""
        if end - at < 3:
            return True
        mark, pcpu, size = self._raw[at : at + 3].tolist()
        is_header = mark == WINDOW_HEADER and pcpu < MAX_PCPUS and size <= MAX_WINDOW_BYTES
        return bool(is_header) and at + 3 + size // 4 >= end

    def _go_slowly(self) -> None:
        """Pass bytes on to the rules, until they are done with what is unusual."""
        windows = self.windows
        stop = min(self._begin + _SLICE_BYTES, self._end)
        windows.feed(memoryview(self._raw.view(np.uint8).data)[self._begin : stop])
        self._begin = stop
        self._ready = memoryview(windows.take())
        if windows.is_searching or not self._ready:
            return
        left = windows.release()
        self._begin -= len(left)
        if self._begin < 0:
            self._insert(left)
        self._is_slow = False

    def _insert(self, left: bytes) -> None:
        """Put bytes that were given back before those that are left."""
        rest = self._raw.view(np.uint8)[max(self._begin + len(left), 0) : self._end].tobytes()
        data = left + rest
        self._make_room(len(data))
        self._raw.view(np.uint8)[: len(data)] = np.frombuffer(data, np.uint8)
        self._begin, self._end = 0, len(data)

    def _read(self) -> None:
        """Read until the buffer is full or the source ends."""
        self._move_to_front()
        self._make_room(2 * self._end)
        space = memoryview(self._raw.view(np.uint8).data)
        while self._end < len(space):
            try:
                count = self._source.readinto(space[self._end :])
            except CompressedDamage as error:
                self._cut = cut_text(error)
                count = 0
            if not count:
                self._has_read_all = True
                break
            self._end += count

    def _move_to_front(self) -> None:
        if self._begin:
            bytes_ = self._raw.view(np.uint8)
            left = self._end - self._begin
            bytes_[:left] = bytes_[self._begin : self._end].copy()
            self._begin, self._end = 0, left

    def _make_room(self, size: int) -> None:
        """Grow the buffer to ``size`` bytes, keeping its content."""
        words = max(size, _LEAST_BYTES) // 4 + 1
        if len(self._raw) < words:
            grown = np.empty(words, np.uint32)
            grown.view(np.uint8)[: self._end] = self._raw.view(np.uint8)[: self._end]
            self._raw = grown


def _copy(target: memoryview, source: memoryview) -> None:
    """Copy bytes without the interpreter lock, which other stages need."""
    if len(source):
        np.copyto(np.frombuffer(target, np.uint8), np.frombuffer(source, np.uint8))
