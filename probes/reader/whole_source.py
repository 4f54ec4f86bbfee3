"""The windows of a trace as bytes: as they are while they are usual, else those that WholeWindows gives."""

from __future__ import annotations

import numpy as np

from xtrace.probes.compiled.loop import I64_2D
from xtrace.probes.intact.compressed import Damage as CompressedDamage
from xtrace.probes.intact.compressed import cut_text
from xtrace.probes.intact.whole_windows import RECENT_WINDOWS, WholeWindows
from xtrace.probes.reader.ahead import Source

#: Bytes that WholeWindows gets at a time.
_SLICE_BYTES = 64 << 10


class WholeSource:
    """Reads a trace and returns its windows.

    Bytes are returned as they are in the file while nothing is unusual: the caller decodes them, by
    loops.decode() with ``check``, and reports how far it got.  What follows is given back, and judged by
    WholeWindows, which returns whole windows only; then bytes are returned as they are again.

    Args:
        source: a stream of uncompressed trace bytes.
        name: its name in messages.
        strict: raise TraceError at the first damage.

    Attributes:
        windows: what is left out, and where.
        is_raw: whether the last bytes returned are as they are in the file.
        has_read_all: whether no more bytes can be read from the source.
        at_end: whether all windows were returned.
        last, greatest: of the windows so far: as of WholeWindows.
        rows, row_count: as loops.decode() fills them.
    """

    def __init__(self, source: Source, name: str, *, strict: bool = False) -> None:
        self.windows = WholeWindows(name, strict=strict)
        self.is_raw = self.has_read_all = self.at_end = False
        self.last = np.frombuffer(self.windows.last, np.int64)
        self.greatest = np.frombuffer(self.windows.greatest, np.int64)
        self.rows: I64_2D = np.empty((RECENT_WINDOWS, 4), np.int64)
        self.row_count = 0
        self._source = source
        self._left = memoryview(b"")  # was read, and comes next
        self._ready = memoryview(b"")
        self._is_slow = True
        self._is_ended = False
        self._cut = ""

    def fill(self, buffer: memoryview) -> int:
        """Fill ``buffer``, of whole words, or a part of it; return the number of bytes.

        All of them are words, except at the end.  Windows that are known to be whole may be cut by the end of
        ``buffer``; the rest of them is returned next.

        Raises:
            TraceError: as WholeWindows does.
        """
        filled = self._fill_with_whole(buffer)
        self.is_raw = not (filled or self.at_end)
        return self._fill_with_raw(buffer) if self.is_raw else filled

    def accept(self, count: int, windows: int) -> None:
        """Take it that the next ``count`` raw bytes are ``windows`` usual windows."""
        self.windows.accept(count, windows)
        self.row_count += windows

    def give_back(self, data: bytes) -> None:
        """Take back the raw bytes that were not accepted: the first window of them is unusual."""
        kept = self.rows[: min(self.row_count, RECENT_WINDOWS)].ravel().tolist()
        self.windows.remember(kept, self.row_count)
        self.row_count = 0
        self._left = memoryview(data + bytes(self._left))
        self._is_slow = True

    def _fill_with_raw(self, buffer: memoryview) -> int:
        filled = min(len(buffer), len(self._left))
        _copy(buffer[:filled], self._left[:filled])
        self._left = self._left[filled:]
        while filled < len(buffer) and (count := self._read(buffer[filled:])):
            filled += count
        if odd := filled % 4:
            self._left = memoryview(bytes(buffer[filled - odd : filled]))
        return filled - odd

    def _fill_with_whole(self, buffer: memoryview) -> int:
        filled = 0
        while filled < len(buffer) and not self.at_end:
            if not self._ready:
                if not self._is_slow:
                    break
                self._go_on()
            count = min(len(buffer) - filled, len(self._ready))
            _copy(buffer[filled : filled + count], self._ready[:count])
            self._ready = self._ready[count:]
            filled += count
            self.at_end = self._is_ended and not self._ready
        return filled

    def _go_on(self) -> None:
        """Pass bytes on to the rules."""
        windows = self.windows
        if not self._left:
            self._left = memoryview(bytearray(_SLICE_BYTES))
            self._left = self._left[: self._read(self._left)]
        if not self._left:
            self._is_ended = True
            windows.end(self._cut)
            self._ready = memoryview(windows.take())
            return
        stop = min(_SLICE_BYTES, len(self._left))
        windows.feed(self._left[:stop])
        self._ready = memoryview(windows.take())
        before, self._left = self._left, self._left[stop:]
        if windows.is_settled and self._ready:
            rest = windows.release()
            in_slice = len(rest) <= stop
            self._left = before[stop - len(rest) :] if in_slice else memoryview(rest + bytes(self._left))
            self._is_slow = False

    def _read(self, buffer: memoryview) -> int:
        """Read some bytes; return their number, 0 at the end."""
        count: int | None = 0
        if not self.has_read_all:
            try:
                count = self._source.readinto(buffer)
            except CompressedDamage as error:
                self._cut = cut_text(error)
        self.has_read_all = not count
        return count or 0


def _copy(target: memoryview, source: memoryview) -> None:
    """Copy bytes without the interpreter lock, which other stages need."""
    if len(source):
        np.copyto(np.frombuffer(target, np.uint8), np.frombuffer(source, np.uint8))
