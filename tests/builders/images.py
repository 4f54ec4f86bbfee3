"""Make small kernel images: linked by gcc, compressed as Linux does, with kallsyms tables."""

from __future__ import annotations

import bz2
import gzip
import lzma
import struct
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

import lz4.block
import lz4.frame
import zstandard

TEXT_ADDRESS = 0xFFFF_FFFF_8100_0000

SOURCE = r"""
    .text
    .globl start, start_alias, twin
    .type start, @function
start:
start_alias:
    nop
    call helper
inner:
    ret
    .size start, . - start
    .fill 6, 1, 0xcc
    .type helper, @function
helper:
    nop
local_label:
    ret
    .type twin, @function
twin:
    ret
    .size twin, . - twin
    .section .rodata
    .globl message
    .type message, @object
message:
    .ascii "0\0001\0002\0"
    .size message, . - message
    .bss
    .skip 64
    .section .note.Xen, "a", @note
    .long 4, 4, 6
    .asciz "Xen"
    .long 42
    .section .note.GNU-stack, "", @progbits
"""


def compile_object(folder: Path, source: str = SOURCE, *, bits: int = 64, name: str = "kernel") -> Path:
    """Assemble a source into an object file."""
    path = folder / f"{name}.o"
    subprocess.run(
        ["gcc", f"-m{bits}", "-c", "-x", "assembler", "-", "-o", path], input=source.encode(), check=True
    )
    return path


def link_kernel(folder: Path, source: str = SOURCE, *, bits: int = 64, name: str = "kernel") -> Path:
    """Assemble and link a source at a kernel address, with a build-id."""
    made = compile_object(folder, source, bits=bits, name=name)
    path = folder / name
    text = TEXT_ADDRESS if bits == 64 else 0xC100_0000
    emulation = "elf_x86_64" if bits == 64 else "elf_i386"
    subprocess.run(
        ["ld", "-m", emulation, "-Ttext", hex(text), "-e", "start", "--build-id", "-o", path, made],
        check=True,
    )
    return path


def lz4_legacy(plain: bytes) -> bytes:
    blocks = [
        lz4.block.compress(plain[at : at + (8 << 20)], store_size=False)
        for at in range(0, len(plain), 8 << 20)
    ]
    return b"\x02\x21\x4c\x18" + b"".join(struct.pack("<I", len(block)) + block for block in blocks)


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": lambda plain: gzip.compress(plain, 1),
    "xz": lambda plain: lzma.compress(plain, lzma.FORMAT_XZ, lzma.CHECK_CRC32, preset=0),
    "lzma": lambda plain: lzma.compress(plain, lzma.FORMAT_ALONE, preset=0),
    "bzip2": lambda plain: bz2.compress(plain, 1),
    "lz4": lz4_legacy,
    "zstd": lambda plain: zstandard.ZstdCompressor(level=1).compress(plain),
}


def bzimage(plain: bytes, how: str) -> bytes:
    """Return a bzImage (boot protocol 2.15) of a kernel; all formats but gzip append its plain size."""
    payload = PACKERS[how](plain) + (b"" if how == "gzip" else struct.pack("<I", len(plain) & 0xFFFF_FFFF))
    setup = bytearray(5 * 512)
    setup[0x1F1] = 4
    setup[0x1FE:0x200] = b"\x55\xaa"
    setup[0x202:0x206] = b"HdrS"
    struct.pack_into("<H", setup, 0x206, 0x20F)
    unpacker = b"\x90" * 0x3C4
    struct.pack_into("<II", setup, 0x248, len(unpacker), len(payload))
    return bytes(setup) + unpacker + payload + b"\0" * 100


def kallsyms(
    symbols: Sequence[tuple[int, str, str]],
    *,
    layout: str = "6.1",
    base: int = TEXT_ADDRESS,
    word_bytes: int = 8,
    absolute_percpu: bool = True,
) -> bytes:
    """Return kallsyms tables of (address, letter, name), laid out as by scripts/kallsyms.c.

    Args:
        symbols: sorted by address.
        layout: "4.4" (addresses, markers of a word's size), "4.20" (offsets, one byte of length),
            "6.1" (two bytes of length), "6.2" (order of names before the tokens) or "6.4"
            (offsets after the tokens).
        base: the relative base.
        word_bytes: 8 or 4.
        absolute_percpu: non-negative offsets are addresses.
    """
    pairs = {0x01: b"xen_", 0x02: b"irq_", 0x03: b"__x64_sys_", 0x04: b"ab"}
    tokens = [pairs.get(code, bytes((code,)) if code else b"zq") for code in range(256)]
    two_bytes = layout in ("6.1", "6.2", "6.4")
    names, marks = bytearray(), []
    for number, (_, letter, name) in enumerate(symbols):
        if not number % 256:
            marks.append(len(names))
        packed = (letter + name).encode()
        for code, text in pairs.items():
            packed = packed.replace(text, bytes((code,)))
        size = len(packed)
        names += bytes((size & 0x7F | 0x80, size >> 7)) if two_bytes and size > 127 else bytes((size,))
        names += packed

    def aligned(data: bytes, to: int = word_bytes) -> bytes:
        return data + b"\0" * (-len(data) % to)

    word = "<Q" if word_bytes == 8 else "<I"
    addresses = [address for address, _, _ in symbols]
    offsets = [
        base - 1 - a if absolute_percpu and a >= base else a if absolute_percpu else a - base
        for a in addresses
    ]
    relative = aligned(b"".join(struct.pack("<i", offset) for offset in offsets)) + struct.pack(word, base)
    whole = aligned(b"".join(struct.pack(word, a) for a in addresses))
    count = aligned(struct.pack("<I", len(symbols)))
    mark = word if layout == "4.4" else "<I"
    markers = aligned(b"".join(struct.pack(mark, m) for m in marks))
    order = aligned(b"".join(n.to_bytes(3, "big") for n in range(len(symbols))))
    table, index = bytearray(), bytearray()
    for token in tokens:
        index += struct.pack("<H", len(table))
        table += token + b"\0"
    strings = aligned(bytes(table)) + aligned(bytes(index))
    body = count + aligned(bytes(names)) + markers
    return {
        "4.4": whole + body + strings,
        "4.20": relative + body + strings,
        "6.1": relative + body + strings,
        "6.2": relative + body + order + strings,
        "6.4": body + strings + relative + order,
    }[layout]
