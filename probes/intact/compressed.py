"""Compressed traces as streams of plain bytes: which compression it is, and its streams one after the other.

A file can have several compressed streams back to back, as `xz`, `gzip` and `cat` make them, zeros after each
(the padding of xz), and frames that are to be skipped (zstd, lz4).  What precedes a place where it is cut or
damaged is returned; then an error is raised.
"""

from __future__ import annotations

import bz2
import lzma
import os
import re
import stat
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from xtrace.probes.errors import TraceError

#: Limit on the dictionary size that a file may ask for, because files are untrusted.
_DICTIONARY_LIMIT_BYTES = 256 << 20
_CHUNK_BYTES = 1 << 18
#: 4 bytes of zstd input can decompress to 128 KiB at once, so it is fed little at a time.
_ZSTD_CHUNK_BYTES = 1 << 10
_MOST_PLAIN_BYTES = 1 << 20
_GZIP_WINDOW_BITS = 31
#: The first byte of the magic of a frame to be skipped, and the other three.
_SKIPPED_FIRST, _SKIPPED = range(0x50, 0x60), b"\x2a\x4d\x18"
_SKIPPED_HEADER_BYTES = 8
_ZEROS = re.compile(rb"\0*")
_FIRST_FED_BYTES = 1 << 9
#: Recordings unpack to 5 to 40 times their size; what is below the limit's plain_bytes is never refused.
_MOST_RATIO = 200


@dataclass(slots=True)
class _Limit:
    plain_bytes: int = 32 << 20


_limit = _Limit()


def allow(plain_bytes: int) -> None:
    """Read compressed input that unpacks to up to ``plain_bytes``, however small it is."""
    _limit.plain_bytes = max(_limit.plain_bytes, plain_bytes)


def refuse_holes(file: int, name: str) -> None:
    """Raise for a file that is all holes: as a compressed one, it is longer than what was stored of it.

    Args:
        file: a descriptor, at its beginning; what is no regular file has no holes.

    Raises:
        TraceError: it is over _MOST_RATIO times as long as its data, and longer than the limit.
    """
    about = os.fstat(file)
    if not stat.S_ISREG(about.st_mode) or about.st_size <= _limit.plain_bytes:
        return
    stored = at = 0
    while stored * _MOST_RATIO < about.st_size:
        try:
            begin = os.lseek(file, at, os.SEEK_DATA)
        except OSError:  # no data follows
            raise TraceError(
                f"{name}: {about.st_size:,} bytes, all but {stored:,} of them in holes of the file, as of no "
                "recording; --max-input SIZE reads so much"
            ) from None
        at = os.lseek(file, begin, os.SEEK_HOLE)
        stored += at - begin
    os.lseek(file, 0, os.SEEK_SET)


class Damage(Exception):  # noqa: N818 - what it is, like EOFError
    """A compressed stream is damaged or ends early."""


class Raw(Protocol):
    """The compressed bytes."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Read up to ``len(buffer)`` bytes into ``buffer`` and return their number; 0 at the end."""


class Stream(Protocol):
    """One compressed stream, as the decompressors of bz2, lzma and lz4 are."""

    @property
    def eof(self) -> bool:
        """Whether the end of the stream was reached."""

    @property
    def unused_data(self) -> bytes | None:
        """What follows the stream."""

    @property
    def needs_input(self) -> bool:
        """Whether there is nothing more to return without more input."""

    def decompress(self, data: bytes, /, max_length: int = -1) -> bytes:
        """Return at most ``max_length`` plain bytes."""


@dataclass(frozen=True, slots=True)
class Compression:
    """A compression.

    Attributes:
        name: of it; magic: how a stream begins.
        chunk_bytes: input to give it at a time.
        open: returns what decompresses a stream.
    """

    name: str
    magic: bytes
    chunk_bytes: int
    open: Callable[[str], Callable[[], Stream]]


class _Inflating:
    """zlib's decompressor with the interface of the others."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(_GZIP_WINDOW_BITS)

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data

    @property
    def needs_input(self) -> bool:
        return not self._stream.unconsumed_tail

    def decompress(self, data: bytes, /, max_length: int = -1) -> bytes:
        return self._stream.decompress(self._stream.unconsumed_tail + data, max_length)


class _Zstd:
    """zstandard's decompressor, which has no limit on what it returns, with the interface of the others."""

    needs_input = True

    def __init__(self, frame: Stream) -> None:
        self._frame = frame

    @property
    def eof(self) -> bool:
        return self._frame.eof

    @property
    def unused_data(self) -> bytes | None:
        return self._frame.unused_data

    def decompress(self, data: bytes, /, max_length: int = -1) -> bytes:
        return self._frame.decompress(data)


def _open_zstd(name: str) -> Callable[[], Stream]:
    try:
        import zstandard
    except ImportError:
        raise TraceError(_without_library(name, "zstd", "zstd", "zstd")) from None
    decompressor = zstandard.ZstdDecompressor(max_window_size=_DICTIONARY_LIMIT_BYTES)
    return lambda: _Zstd(decompressor.decompressobj())  # type: ignore[arg-type]


def _open_lz4(name: str) -> Callable[[], Stream]:
    try:
        import lz4.frame
    except ImportError:
        raise TraceError(_without_library(name, "lz4", "lz4", "lz4")) from None
    return lz4.frame.LZ4FrameDecompressor  # type: ignore[no-any-return]


def _without_library(name: str, what: str, extra: str, tool: str) -> str:
    return (
        f"{name}: is {what}-compressed and no {what} library is installed; "
        f"pip install 'xtrace[{extra}]', or pipe it: {tool} -dc FILE | xtrace ... -"
    )


COMPRESSIONS = (
    Compression("gzip", b"\x1f\x8b\x08", _CHUNK_BYTES, lambda _: _Inflating),
    Compression(
        "xz",
        b"\xfd7zXZ\x00",
        _CHUNK_BYTES,
        lambda _: lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_DICTIONARY_LIMIT_BYTES),
    ),
    Compression("bzip2", b"BZh", _CHUNK_BYTES, lambda _: bz2.BZ2Decompressor),
    Compression("zstd", b"\x28\xb5\x2f\xfd", _ZSTD_CHUNK_BYTES, _open_zstd),
    Compression("lz4", b"\x04\x22\x4d\x18", _CHUNK_BYTES, _open_lz4),
)
MAGIC_BYTES = 6


def compression_in(head: bytes) -> Compression | None:
    """Return how a file that begins with ``head`` is compressed, None if it is not."""
    if head[1:4] == _SKIPPED and head[0] in _SKIPPED_FIRST:
        return COMPRESSIONS[3]  # zstd and lz4 have the same frames to be skipped; Streams finds out
    for each in COMPRESSIONS:
        if head.startswith(each.magic) and (each.name != "bzip2" or head[3:4] in b"123456789"):
            return each
    return None


class Streams:
    """The plain bytes of the compressed streams of a file.

    Args:
        raw: the file; compression: of its first stream; name: of the file, in messages.
    """

    def __init__(self, raw: Raw, compression: Compression, name: str) -> None:
        self._raw = raw
        self._name = name
        self._compression = compression
        self._new: Callable[[], Stream] | None = None
        self._stream: Stream | None = None
        self._input, self._at = b"", 0
        #: What a stream is given next: little at first, because what follows a short one is copied.
        self._fed = _FIRST_FED_BYTES
        self._plain = memoryview(b"")
        self._is_first = True
        self._packed_bytes = self._plain_bytes = 0

    def readinto(self, buffer: memoryview, /) -> int:
        """Return the number of plain bytes put into ``buffer``, 0 at the end.

        Raises:
            Damage: what follows is damaged or missing.
            TraceError: the library that is needed is not installed, or it unpacks to too much.
        """
        while not self._plain:
            if self._stream is None and not self._next_stream():
                return 0
            self._plain = memoryview(self._more())
            self._plain_bytes += len(self._plain)
            self._refuse_bombs()
        count = min(len(buffer), len(self._plain))
        buffer[:count] = self._plain[:count]
        self._plain = self._plain[count:]
        return count

    def _refuse_bombs(self) -> None:
        """Raise where a file unpacks to more than any recording does: it could take hours to read."""
        most = max(_MOST_RATIO * self._packed_bytes, _limit.plain_bytes)
        if self._plain_bytes > most:
            raise TraceError(
                f"{self._name}: its first {self._packed_bytes:,} bytes unpack to over {self._plain_bytes:,}: "
                f"over {_MOST_RATIO} times as many, as of no recording; --max-input SIZE reads so much"
            )

    def _more(self) -> bytes:
        stream = self._stream
        assert stream is not None
        if stream.needs_input and self._at == len(self._input) and not self._take():
            raise Damage(f"the {self._compression.name} stream ends early")
        data = self._input[self._at : self._at + self._fed] if stream.needs_input else b""
        self._at += len(data)
        self._fed = min(2 * self._fed, self._compression.chunk_bytes)
        try:
            plain = stream.decompress(data, max_length=_MOST_PLAIN_BYTES)
        except Exception as error:
            if not isinstance(error, _errors()):
                raise
            raise Damage(f"{self._compression.name}: {error}") from None
        if stream.eof:
            self._at -= len(stream.unused_data or b"")
            self._stream = None
        return plain

    def _next_stream(self) -> bool:
        """Begin with the next stream; return whether there is one."""
        while True:
            head = self._head()
            if not self._is_first and head.startswith(b"\0"):
                match = _ZEROS.match(self._input, self._at)
                assert match is not None
                self._at = match.end()
                continue
            if not head:
                return False
            if head[1:4] == _SKIPPED and head[0] in _SKIPPED_FIRST:
                self._is_first = False
                self._skip(int.from_bytes(head[4:8], "little"))
                continue
            break
        found = compression_in(head)
        if found is None:
            if self._is_first:
                raise Damage(f"no {self._compression.name} stream begins here")
            raise Damage(f"what follows a {self._compression.name} stream is not compressed")
        if self._new is None or found is not self._compression:
            self._compression, self._new = found, found.open(self._name)
        self._is_first = False
        self._stream = self._new()
        self._fed = _FIRST_FED_BYTES
        return True

    def _head(self) -> bytes:
        """Return the next few bytes, fewer at the end."""
        while len(self._input) - self._at < _SKIPPED_HEADER_BYTES and self._take():
            pass
        return self._input[self._at : self._at + _SKIPPED_HEADER_BYTES]

    def _skip(self, size: int) -> None:
        left = _SKIPPED_HEADER_BYTES + size
        while left > len(self._input) - self._at:
            left -= len(self._input) - self._at
            self._at = len(self._input)
            if not self._take():
                return
        self._at += left

    def _take(self) -> bool:
        """Read more input; return whether there was any."""
        chunk = bytearray(self._compression.chunk_bytes)
        count = self._raw.readinto(memoryview(chunk)) or 0
        self._input, self._at = self._input[self._at :] + chunk[:count], 0
        self._packed_bytes += count
        return bool(count)


def cut_text(error: Damage) -> str:
    """Return what is wrong with a file whose compressed bytes are damaged or end early."""
    return f"compressed data is damaged or cut short: {error}"


def _errors() -> tuple[type[Exception], ...]:
    """Return what the libraries raise; lz4 raises RuntimeError."""
    import sys

    zstandard = sys.modules.get("zstandard")
    known = (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError, RuntimeError)
    return (*known, zstandard.ZstdError) if zstandard else known
