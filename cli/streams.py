"""Standard input, output and error as every command may rely on them, whatever became of them.

They may be closed from the start, the disk below may be full, the terminal or the reader may go:

- a descriptor that is closed is filled, or the next file opened would get its number, and whatever
  writes to standard error would write into a capture;
- an error of standard output bears its name, so that main() can tell a reader that left
  (``| head``) from any other pipe that broke;
- what standard error does not take is dropped: nobody is there to be told, and the command goes on.
"""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

STDIN, STDOUT, STDERR = "standard input", "standard output", "standard error"


def secure() -> None:
    """Fill what is closed and put streams of ours in place; call it before anything is opened.

    Raises:
        OSError: something is closed, and there is no /dev/null.
    """
    # The wrong way round: reading and writing fail as they did before.  What is said on standard
    # error is only not heard.
    for fd, flags in ((0, os.O_WRONLY), (1, os.O_RDONLY), (2, os.O_WRONLY)):
        _fill(fd, flags)
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BufferedReader(_Stream(0, "rb", STDIN)))
    sys.stdout = _writer(sys.stdout, _Stream(1, "wb", STDOUT))
    sys.stderr = _writer(sys.stderr, _Notes(2, "wb", STDERR))


def _fill(fd: int, flags: int) -> None:
    try:
        os.fstat(fd)
    except OSError:
        # The lowest number that is free, and those below are filled by now.
        opened = os.open(os.devnull, flags)
        assert opened == fd
        # What is started from here opens files, too.
        os.set_inheritable(fd, True)


def _writer(stream: TextIO | None, raw: io.FileIO) -> io.TextIOWrapper:
    """Return a text stream onto ``raw``, with the encoding of what it replaces."""
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=None if stream is None else stream.encoding,
        # Names that the locale cannot spell must not end a report.
        errors="backslashreplace",
        line_buffering=raw.isatty() or raw.name == STDERR,
    )


class _Stream(io.FileIO):
    """A descriptor whose errors bear its name."""

    def __init__(self, fd: int, mode: str, name: str) -> None:
        super().__init__(fd, mode, closefd=False)
        self.name = name

    def readinto(self, buffer: WriteableBuffer, /) -> int | None:
        """Read, as FileIO does."""
        try:
            return super().readinto(buffer)
        except OSError as error:
            error.filename = self.name
            raise

    def write(self, data: ReadableBuffer, /) -> int:
        """Write, as FileIO does."""
        try:
            return super().write(data)
        except OSError as error:
            error.filename = self.name
            raise


class _Notes(_Stream):
    """A descriptor that takes everything, and drops what nobody reads."""

    def write(self, data: ReadableBuffer, /) -> int:
        """Write if that can be done."""
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes
