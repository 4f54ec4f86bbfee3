"""Decompress a debug section: GNU's older form, in a section named .zdebug_*, and that of the ELF standard.

Source: System V ABI (ELF), section "Compressed sections"; binutils, bfd/compress.c (.zdebug_).
"""

from __future__ import annotations

import struct
import zlib

_GNU_MAGIC = b"ZLIB"
_GNU_HEAD_BYTES = 12
_ZLIB, _ZSTD = 1, 2


def is_gnu_compressed(name: str) -> bool:
    """Return whether a section's name says that it is compressed in GNU's older form."""
    return name.startswith(".zdebug_")


def plain_name(name: str) -> str:
    """Return the name that a section would have uncompressed and outside a .dwo file."""
    name = f".debug_{name.removeprefix('.zdebug_')}" if is_gnu_compressed(name) else name
    return name.removesuffix(".dwo")


def plain_size(data: memoryview, *, bits: int, gnu: bool) -> int:
    """Return how many bytes a compressed section says that it holds.

    Raises:
        ValueError: its header is cut short or damaged.
    """
    return _head(data, bits, gnu)[1]


def decompressed(data: memoryview, *, bits: int, gnu: bool) -> memoryview:
    """Return what a compressed section holds.

    Args:
        gnu: it is in GNU's older form.

    Raises:
        ValueError: it is damaged, or compressed in a way that is not supported here.
    """
    kind, size, at = _head(data, bits, gnu)
    try:
        body = data[at:]
        plain = _zstd(body, size) if kind == _ZSTD else zlib.decompressobj().decompress(body, size + 1)
    except zlib.error as error:
        raise ValueError(f"a compressed section is damaged: {error}") from None
    if len(plain) != size:
        raise ValueError(f"a compressed section holds {len(plain):,} bytes and says {size:,}")
    return memoryview(plain)


def _head(data: memoryview, bits: int, gnu: bool) -> tuple[int, int, int]:
    """Return the kind of compression, the size of what it holds, and where the compressed bytes begin."""
    try:
        if gnu:
            if bytes(data[:4]) != _GNU_MAGIC:
                raise ValueError("a .zdebug section that does not begin with ZLIB")
            return _ZLIB, struct.unpack_from(">Q", data, 4)[0], _GNU_HEAD_BYTES
        layout = "<IIQQ" if bits == 64 else "<III"
        fields = struct.unpack_from(layout, data)
    except struct.error:
        raise ValueError("a compressed section that is cut short") from None
    kind, size = fields[0], fields[2] if bits == 64 else fields[1]
    if kind not in (_ZLIB, _ZSTD):
        raise ValueError(f"a section with unknown compression {kind}; objcopy --decompress-debug-sections")
    return kind, size, struct.calcsize(layout)


def _zstd(data: memoryview, size: int) -> bytes:
    try:
        import zstandard
    except ImportError:
        raise ValueError(
            "a section is compressed with zstd, and no zstd library is installed; pip install 'xtrace[zstd]' "
            "or objcopy --decompress-debug-sections"
        ) from None
    try:
        return zstandard.ZstdDecompressor().decompressobj().decompress(data)[: size + 1]
    except zstandard.ZstdError as error:
        raise ValueError(f"a compressed section is damaged: {error}") from None
