"""A stream of bytes, and reading it ahead in a thread: decompression releases the interpreter lock."""

from __future__ import annotations

import queue
import threading
from typing import Protocol

_BLOCK_BYTES = 1 << 20
#: Blocks that are read before they are wanted.
_BLOCKS = 4
#: How long a thread may take to end: a block of a file takes a few milliseconds.
_END_S = 0.2


class Source(Protocol):
    """A stream of uncompressed trace bytes, with the one method that the reader needs."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Read up to ``len(buffer)`` bytes into ``buffer`` and return their number; 0 at the end."""


class Ahead:
    """A stream whose next few megabytes are read in a thread.

    What the stream raises is raised again by ``readinto``, after the bytes before it.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._blocks: queue.Queue[memoryview | Exception] = queue.Queue(_BLOCKS)
        self._block: memoryview | Exception = memoryview(b"")
        self._is_closed = False
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def readinto(self, buffer: memoryview, /) -> int:
        """Read up to ``len(buffer)`` bytes into ``buffer`` and return their number; 0 at the end."""
        while not isinstance(self._block, Exception) and not self._block:
            self._block = self._blocks.get()
        if isinstance(self._block, Exception):
            if isinstance(self._block, _EndError):
                return 0
            raise self._block
        count = min(len(buffer), len(self._block))
        buffer[:count] = self._block[:count]
        self._block = self._block[count:]
        return count

    def close(self) -> None:
        """Have the thread end.

        The caller closes the file next, and a thread that still read from it could take bytes of the file
        that gets its number.  A thread that waits for a pipe is not waited for.
        """
        self._is_closed = True
        while True:  # make room for a put() that blocks
            try:
                self._blocks.get_nowait()
            except queue.Empty:
                break
        self._thread.join(_END_S)

    def _work(self) -> None:
        try:
            while not self._is_closed:
                block = memoryview(bytearray(_BLOCK_BYTES))
                filled = 0
                try:
                    while filled < _BLOCK_BYTES:
                        count = self._source.readinto(block[filled:])
                        if not count:
                            raise _EndError
                        filled += count
                        if self._blocks.empty():
                            break  # it is waited for
                finally:
                    if filled:
                        self._blocks.put(block[:filled])
        except Exception as error:  # noqa: BLE001 - raised again where the bytes are wanted
            self._blocks.put(error)


class _EndError(Exception):
    """The stream has ended."""
