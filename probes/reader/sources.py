"""Where the bytes of a trace come from: a file, standard input, or a compressed file."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Protocol, cast

from xtrace.probes.capture.layout import trace_in
from xtrace.probes.errors import TraceError
from xtrace.probes.reader.ahead import Ahead, Source

STDIN = "-"

_GZIP = b"\x1f\x8b"
_XZ = b"\xfd7zXZ\x00"
_ZSTD = b"\x28\xb5\x2f\xfd"
_MAGIC_BYTES = 6

#: Limit on the dictionary size that a file may ask for, because files are untrusted.
_DICTIONARY_LIMIT_BYTES = 256 << 20
_XZ_CHUNK_BYTES = 1 << 18
#: 4 bytes of zstd input can decompress to 128 KiB at once, so it is fed little at a time.
_ZSTD_CHUNK_BYTES = 1 << 10


@contextmanager
def open_source(path: str | os.PathLike[str]) -> Iterator[Source]:
    """Open a trace, or the trace of a capture, as a stream of uncompressed bytes; ``-`` is standard input.

    Compression (gzip, xz, zstd) is detected from the first bytes, not from the name.

    Raises:
        OSError: the file cannot be opened.
        TraceError: a folder without a trace, or a zstd file without an installed zstd library.
    """
    if os.fspath(path) == STDIN:
        with _decompressed(cast(Source, sys.stdin.buffer), "standard input") as source:
            yield source
        return
    # Unbuffered, because the reader reads megabytes at a time.
    with (
        open(trace_in(path), "rb", buffering=0) as raw,
        _decompressed(cast(Source, raw), str(path)) as source,
    ):
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
        except _damage_errors() as error:
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


def _damage_errors() -> tuple[type[Exception], ...]:
    zstandard = sys.modules.get("zstandard")
    known = (gzip.BadGzipFile, lzma.LZMAError, zlib.error, EOFError)
    return (*known, zstandard.ZstdError) if zstandard else known


@contextmanager
def _decompressed(raw: Source, name: str) -> Iterator[Source]:
    head = bytearray(_MAGIC_BYTES)
    filled = read_into(raw, memoryview(head), name)
    first = bytes(head[:filled])
    whole = cast(Source, _Rejoined(first, raw))
    if first.startswith(_GZIP):
        plain = cast(Source, gzip.GzipFile(fileobj=cast(io.BufferedIOBase, whole)))
    elif first.startswith(_XZ):
        plain = _Xz(whole)
    elif first.startswith(_ZSTD):
        plain = _open_zstd(whole, name)
    else:
        yield whole
        return
    with closing(Ahead(_Steadfast(plain))) as ahead:
        yield ahead


def _open_zstd(raw: Source, name: str) -> Source:
    try:
        import zstandard
    except ImportError:
        raise TraceError(
            f"{name}: is zstd-compressed and no zstd library is installed; "
            "pip install 'xtrace[zstd]', or pipe it: zstd -dc FILE | xtrace ... -"
        ) from None
    decompressor = zstandard.ZstdDecompressor(max_window_size=_DICTIONARY_LIMIT_BYTES)
    return _Zstd(raw, lambda: decompressor.decompressobj())


class _Steadfast:
    """A compressed stream that reports damage on every read; the libraries report it only once."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._damage: Exception | None = None

    def readinto(self, buffer: memoryview, /) -> int | None:
        if self._damage is not None:
            raise self._damage
        try:
            return self._source.readinto(buffer)
        except _damage_errors() as error:
            self._damage = error
            raise


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


class _Xz:
    """Concatenated xz streams, with a memory limit, which lzma.LZMAFile does not support."""

    def __init__(self, raw: Source) -> None:
        self._raw = raw
        self._stream = self._new_stream()
        self._input = b""

    @staticmethod
    def _new_stream() -> lzma.LZMADecompressor:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_DICTIONARY_LIMIT_BYTES)

    def readinto(self, buffer: memoryview, /) -> int:
        while True:
            if self._stream.eof:
                self._input = self._stream.unused_data or _take(self._raw, _XZ_CHUNK_BYTES)
                if not self._input:
                    return 0
                self._stream = self._new_stream()
            elif self._stream.needs_input and not self._input:
                self._input = _take(self._raw, _XZ_CHUNK_BYTES)
                if not self._input:
                    raise EOFError("the xz stream ends early")
            plain = self._stream.decompress(self._input, max_length=len(buffer))
            self._input = b""
            if plain:
                buffer[: len(plain)] = plain
                return len(plain)


class _ZstdFrame(Protocol):
    """The members of zstandard.ZstdDecompressionObj in use here."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def decompress(self, data: bytes, /) -> bytes: ...


class _Zstd:
    """Concatenated zstd frames; zstandard's own stream reader accepts a truncated frame as complete."""

    def __init__(self, raw: Source, new_frame: Callable[[], _ZstdFrame]) -> None:
        self._raw = raw
        self._new_frame = new_frame
        self._frame = new_frame()
        self._plain = memoryview(b"")

    def readinto(self, buffer: memoryview, /) -> int:
        while not self._plain:
            if self._frame.eof:
                data = self._frame.unused_data or _take(self._raw, _ZSTD_CHUNK_BYTES)
                if not data:
                    return 0
                self._frame = self._new_frame()
            elif not (data := _take(self._raw, _ZSTD_CHUNK_BYTES)):
                raise EOFError("the zstd frame ends early")
            self._plain = memoryview(self._frame.decompress(data))
        count = min(len(buffer), len(self._plain))
        buffer[:count] = self._plain[:count]
        self._plain = self._plain[count:]
        return count


def _take(raw: Source, size: int) -> bytes:
    chunk = bytearray(size)
    return bytes(chunk[: raw.readinto(memoryview(chunk)) or 0])
