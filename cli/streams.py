"""Standard input, output and error, made safe for every command.

They may be closed from the start, the disk may be full, the terminal or the reader may go away:

- a closed descriptor is opened, because the next file opened would get its number, and messages
  to standard error would go into a capture;
- an error on standard output carries its name, so that main() can distinguish a reader that left
  (``| head``) from any other broken pipe;
- output that standard error does not accept is dropped, because nobody can read it; the command goes on.
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
    """Open closed descriptors and replace the streams; call it before anything else is opened.

    Raises:
        OSError: something is closed, and there is no /dev/null.
    """
    # In the wrong direction, so that reading and writing still fail.  Messages on standard
    # error are just lost.
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
        # It gets the lowest free number; those below are in use by now.
        opened = os.open(os.devnull, flags)
        assert opened == fd
        # Child processes open files, too.
        os.set_inheritable(fd, True)


def _writer(stream: TextIO | None, raw: io.FileIO) -> io.TextIOWrapper:
    """Return a text stream onto ``raw``, with the encoding of the stream that it replaces."""
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=None if stream is None else stream.encoding,
        # A name that the locale cannot encode must not end a report.
        errors="backslashreplace",
        line_buffering=raw.isatty() or raw.name == STDERR,
    )


class _Stream(io.FileIO):
    """A descriptor whose errors carry its name."""

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
    """A descriptor that accepts everything, and drops what cannot be written."""

    def write(self, data: ReadableBuffer, /) -> int:
        """Write if possible."""
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes
