"""Where the bytes of a trace come from: a file, standard input, or a compressed file."""

from __future__ import annotations

import io
import os
import select
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import cast

from xtrace.probes.capture.layout import trace_in
from xtrace.probes.errors import TraceError
from xtrace.probes.intact.compressed import MAGIC_BYTES, Streams, compression_in, refuse_holes
from xtrace.probes.intact.compressed import Damage as CompressedDamage
from xtrace.probes.reader.ahead import Ahead, Source

STDIN = "-"
#: How often to look whether a pipe is to end.
_LOOK_S = 0.1


class Pieces(os.PathLike[str]):
    """The files of one recording, one after the other, in place of a path."""

    def __init__(self, paths: Sequence[str]) -> None:
        self.paths = tuple(paths)

    def __fspath__(self) -> str:
        """Return their names, for messages; there is no such file."""
        return ", ".join(self.paths)


@contextmanager
def _open_pieces(pieces: Pieces) -> Iterator[Source]:
    with ExitStack() as stack:
        yield cast(Source, _Chained([stack.enter_context(open_source(path)) for path in pieces.paths]))


@contextmanager
def open_source(path: str | os.PathLike[str], *, ended: threading.Event | None = None) -> Iterator[Source]:
    """Open a trace, or the trace of a capture, as a stream of uncompressed bytes; ``-`` is standard input.

    Compression (gzip, xz, zstd, lz4, bzip2) is detected from the first bytes, not from the name.  Where it is
    damaged or cut short, readinto() raises what compressed.Damage says.

    Args:
        ended: set by another thread to have a pipe on standard input end where it is.

    Raises:
        OSError: the file cannot be opened.
        TraceError: a folder without a trace, or a library for the compression is not installed.
    """
    if isinstance(path, Pieces):
        with _open_pieces(path) as source:
            yield source
        return
    if os.fspath(path) == STDIN:
        # Its raw stream returns what has arrived, rather than wait for more.
        stdin = getattr(sys.stdin.buffer, "raw", sys.stdin.buffer)
        if ended is not None:
            stdin = _Pipe(cast(io.RawIOBase, stdin), ended)
        with _decompressed(cast(Source, stdin), "standard input") as source:
            yield source
        return
    # Unbuffered, because the reader reads megabytes at a time.
    with open(trace_in(path), "rb", buffering=0) as raw:
        refuse_holes(raw.fileno(), str(path))
        with _decompressed(cast(Source, raw), str(path)) as source:
            yield source


def read_into(source: Source, buffer: memoryview, name: str) -> int:
    """Read until ``buffer`` is full or the source ends, and return the number of bytes read.

    A short read means the end of the stream, or damage in a compressed one; in that case the next
    call raises.

    Raises:
        TraceError: the compressed stream is damaged or cut short.
    """
    filled = 0
    while filled < len(buffer):
        try:
            count = source.readinto(buffer[filled:])
        except CompressedDamage as error:
            if filled:
                return filled  # what precedes the damage is valid; the next call raises
            raise TraceError(
                f"{name}: compressed data is damaged or cut short: {error}; "
                "decompress what can be recovered and read that"
            ) from None
        if not count:
            break
        filled += count
    return filled


@contextmanager
def _decompressed(raw: Source, name: str) -> Iterator[Source]:
    head = bytearray(MAGIC_BYTES)
    filled = 0
    while filled < MAGIC_BYTES and (count := raw.readinto(memoryview(head)[filled:])):
        filled += count
    first = bytes(head[:filled])
    whole = cast(Source, _Rejoined(first, raw))
    compression = compression_in(first)
    if compression is None:
        yield whole
        return
    with closing(Ahead(_Steadfast(Streams(whole, compression, name)))) as ahead:
        yield ahead


class _Pipe:
    """A pipe that ends where it is once an event is set."""

    def __init__(self, raw: io.RawIOBase, ended: threading.Event) -> None:
        self._raw = raw
        self._ended = ended

    def readinto(self, buffer: memoryview, /) -> int | None:
        while not self._ended.is_set():
            if select.select([self._raw], [], [], _LOOK_S)[0]:
                return self._raw.readinto(buffer)
        return 0


class _Steadfast:
    """A compressed stream that reports damage on every read; the libraries report it only once."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._damage: CompressedDamage | None = None

    def readinto(self, buffer: memoryview, /) -> int | None:
        if self._damage is not None:
            raise self._damage
        try:
            return self._source.readinto(buffer)
        except CompressedDamage as error:
            self._damage = error
            raise


class _Chained:
    """Streams one after the other.  One that is damaged ends there; the error is raised at the end of all."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = list(sources)
        self._damage: CompressedDamage | None = None

    def readinto(self, buffer: memoryview, /) -> int:
        while self._sources:
            try:
                count = self._sources[0].readinto(buffer)
            except CompressedDamage as error:
                self._damage, count = error, 0
            if count:
                return count
            del self._sources[0]
        if self._damage is not None:
            raise self._damage
        return 0


class _Rejoined(io.RawIOBase):
    """A stream that returns first the bytes already read to detect compression, then the rest."""

    def __init__(self, head: bytes, rest: Source) -> None:
        self._head = head
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if self._head:
            count = min(len(buffer), len(self._head))
            buffer[:count] = self._head[:count]
            self._head = self._head[count:]
            return count
        return int(self._rest.readinto(buffer) or 0)
