"""Unpack the ELF image from a compressed one: a Linux vmlinuz, or an ELF file that was compressed as it is.

A vmlinuz (bzImage) is a boot sector, a set-up program, and code that unpacks the kernel at boot.  Since
boot protocol 2.08 its header says where the compressed kernel is (Linux Documentation/arch/x86/boot.rst:
payload_offset, payload_length).  The first bytes there identify the compression.  Except with gzip, Linux
appends the unpacked size, which is not part of any format.
"""

from __future__ import annotations

import bz2
import lzma
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Protocol

from xtrace.symbols.errors import ImageError
from xtrace.symbols.image.headers import ELF_MAGIC

#: No kernel is larger without its debug information.
IMAGE_LIMIT_BYTES = 512 << 20
#: The largest dictionary that an untrusted file may ask for; Linux packs with 128 MiB at most.
_DICTIONARY_LIMIT_BYTES = 256 << 20
_STEP_BYTES = 1 << 16
_PLAIN_STEP_BYTES = 1 << 20
#: Parallel packers write one stream per 900 kB.
_MOST_STREAMS = 4096
#: zstd may expand each 4 bytes to 128 KiB, all at once, so only this much is fed at a time.
_ZSTD_STEP_BYTES = 1 << 10

_LZ4_LEGACY = b"\x02\x21\x4c\x18"
_LZ4_BLOCK_BYTES = 8 << 20
_LZO = b"\x89LZO\0\r\n\x1a\n"
_MAGICS = {
    b"\x1f\x8b\x08": "gzip",
    b"\xfd7zXZ\0": "xz",
    b"\x5d\0\0": "lzma",
    b"BZh": "bzip2",
    _LZ4_LEGACY: "lz4",
    b"\x04\x22\x4d\x18": "lz4 frame",
    b"\x28\xb5\x2f\xfd": "zstd",
}

# Offsets in the boot sector.
_SETUP_SECTORS, _HEADER_MAGIC, _PROTOCOL, _PAYLOAD = 0x1F1, 0x202, 0x206, 0x248
_LEAST_PROTOCOL = 0x208


class _Stream(Protocol):
    """What zlib, bz2 and lzma have in common, once wrapped."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes | None: ...

    def decompress(self, data: bytes, max_length: int, /) -> bytes: ...


def unpack(
    data: memoryview, path: str, *, limit_bytes: int = IMAGE_LIMIT_BYTES
) -> tuple[memoryview, str] | None:
    """Return the ELF file inside a compressed image and its compression; None if it is not compressed.

    Raises:
        ImageError: it is damaged, cut short, larger than ``limit_bytes`` or not an ELF file inside, or
            its compression is unsupported or needs a library that is not installed.
    """
    start, end = 0, len(data)
    if bytes(data[_HEADER_MAGIC : _HEADER_MAGIC + 4]) == b"HdrS":
        start, end = _payload(data, path)
    elif _format(data) is None:
        return None
    payload = data[start:end]
    name = _format(payload)
    if name is None:
        if payload[:4] == ELF_MAGIC:
            return payload, "none"
        hint = (
            "it is lzo: unpack it with lzop -d" if payload[:9] == _LZO else "unpack it with extract-vmlinux"
        )
        raise ImageError(f"{path}: the kernel at offset {start:#x} has an unsupported compression; {hint}")
    plain = bytearray()
    try:
        for piece in _PLAIN[name](payload, path):
            plain += piece
            if len(plain) >= 4 and plain[:4] != ELF_MAGIC:
                raise ImageError(
                    f"{path}: unpacks ({name}, offset {start:#x}) to something that is not an ELF file"
                )
            if len(plain) > limit_bytes:
                raise ImageError(
                    f"{path}: unpacks ({name}, offset {start:#x}) to more than {limit_bytes:,} bytes; "
                    "no kernel is that large: unpack it by hand if you trust it"
                )
    except (zlib.error, lzma.LZMAError, OSError, EOFError, ValueError, MemoryError) as error:
        if isinstance(error, ImageError):
            raise
        raise ImageError(
            f"{path}: the {name} data at offset {start:#x} is damaged or cut short: {error}; "
            "copy the file again"
        ) from None
    if plain[:4] != ELF_MAGIC:
        raise ImageError(f"{path}: unpacks ({name}, offset {start:#x}) to something that is not an ELF file")
    return memoryview(plain).toreadonly(), "lz4" if name == "lz4 frame" else name


def _payload(data: memoryview, path: str) -> tuple[int, int]:
    """Return where the compressed kernel begins and ends in a bzImage."""
    if len(data) < _PAYLOAD + 8:
        raise ImageError(f"{path}: the boot header is cut short; copy the file again")
    (protocol,) = struct.unpack_from("<H", data, _PROTOCOL)
    if protocol < _LEAST_PROTOCOL:
        raise ImageError(
            f"{path}: boot protocol {protocol >> 8}.{protocol & 255:02} (offset {_PROTOCOL:#x}) does not say "
            "where the kernel is (Linux before 2.6.26); give its vmlinux"
        )
    offset, length = struct.unpack_from("<II", data, _PAYLOAD)
    # 0 means 4, as the boot protocol says, for compatibility.
    start = ((data[_SETUP_SECTORS] or 4) + 1) * 512 + offset
    if not length or start + length > len(data):
        raise ImageError(
            f"{path}: the compressed kernel ({length:,} bytes at offset {start:#x}) extends past the end "
            f"({len(data):#x}); the file is cut short: copy it again"
        )
    return start, start + length


def _format(data: memoryview) -> str | None:
    head = bytes(data[:8])
    return next((name for magic, name in _MAGICS.items() if head.startswith(magic)), None)


def _streams(payload: memoryview, make: Callable[[], _Stream]) -> Iterator[bytes]:
    """Yield the contents of concatenated compressed streams; bytes after the last stream are ignored."""
    magic = bytes(payload[:3])
    place = 0
    for _ in range(_MOST_STREAMS):
        stream = make()
        while not stream.eof:
            piece = bytes(payload[place : place + _STEP_BYTES])
            if not piece:
                raise EOFError("the stream ends early")
            place += len(piece)
            yield from _drain(stream, piece)
        place -= len(stream.unused_data or b"")
        if payload[place : place + 3] != magic:
            return
    raise EOFError(f"more than {_MOST_STREAMS:,} concatenated streams")


def _drain(stream: _Stream, data: bytes) -> Iterator[bytes]:
    while plain := stream.decompress(data, _PLAIN_STEP_BYTES):
        yield plain
        if stream.eof:
            return
        data = b""


class _Zlib:
    """A gzip stream with the interface of bz2 and lzma: it keeps input that it cannot use yet."""

    def __init__(self) -> None:
        self._stream = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)

    @property
    def eof(self) -> bool:
        return self._stream.eof

    @property
    def unused_data(self) -> bytes:
        return self._stream.unused_data

    def decompress(self, data: bytes, max_length: int, /) -> bytes:
        return self._stream.decompress(self._stream.unconsumed_tail + data, max_length)


def _xz(form: int) -> Callable[[], _Stream]:
    return lambda: lzma.LZMADecompressor(form, memlimit=_DICTIONARY_LIMIT_BYTES)


def _lz4_legacy(payload: memoryview, path: str) -> Iterator[bytes]:
    """Yield the blocks of a legacy lz4 file: each is a size and that many bytes, up to 8 MiB unpacked."""
    try:
        import lz4.block
    except ImportError:
        raise _missing(path, "lz4", "lz4") from None
    place = len(_LZ4_LEGACY)
    # The last four bytes are the unpacked size that Linux appends.
    while place + 4 < len(payload):
        (size,) = struct.unpack_from("<I", payload, place)
        if not size or place + 4 + size > len(payload):
            raise EOFError(f"a block of {size:,} bytes at offset {place:#x} in it")
        try:
            yield lz4.block.decompress(
                payload[place + 4 : place + 4 + size], uncompressed_size=_LZ4_BLOCK_BYTES
            )
        except lz4.block.LZ4BlockError as error:
            raise EOFError(str(error)) from None
        place += 4 + size


def _lz4_frames(payload: memoryview, path: str) -> Iterator[bytes]:
    try:
        import lz4.frame
    except ImportError:
        raise _missing(path, "lz4", "lz4") from None
    try:
        yield from _streams(payload, lz4.frame.LZ4FrameDecompressor)
    except RuntimeError as error:
        raise EOFError(str(error)) from None


def _zstd(payload: memoryview, path: str) -> Iterator[bytes]:
    try:
        import zstandard
    except ImportError:
        raise _missing(path, "zstd", "zstd") from None
    stream = zstandard.ZstdDecompressor(max_window_size=_DICTIONARY_LIMIT_BYTES).decompressobj()
    try:
        for place in range(0, len(payload), _ZSTD_STEP_BYTES):
            yield stream.decompress(payload[place : place + _ZSTD_STEP_BYTES])
            if stream.eof:
                return
    except zstandard.ZstdError as error:
        raise EOFError(str(error)) from None
    raise EOFError("the stream ends early")


def _missing(path: str, name: str, extra: str) -> ImageError:
    return ImageError(
        f"{path}: is compressed with {name}, and no {name} library is installed; "
        f"pip install 'xtrace[{extra}]', or give the unpacked vmlinux"
    )


_PLAIN: dict[str, Callable[[memoryview, str], Iterator[bytes]]] = {
    "gzip": lambda payload, path: _streams(payload, _Zlib),
    "xz": lambda payload, path: _streams(payload, _xz(lzma.FORMAT_XZ)),
    "lzma": lambda payload, path: _streams(payload, _xz(lzma.FORMAT_ALONE)),
    "bzip2": lambda payload, path: _streams(payload, bz2.BZ2Decompressor),
    "lz4": _lz4_legacy,
    "lz4 frame": _lz4_frames,
    "zstd": _zstd,
}
