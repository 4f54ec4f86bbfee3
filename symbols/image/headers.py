"""Read the headers of an ELF file, and check them before anything else relies on them.

They are those of x86 executables, shared objects and relocatable objects.  Both ELF classes are returned
with the columns of the 64-bit one.

Source: System V ABI, chapters 4 and 5.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from xtrace.symbols.errors import ImageError, shown

ELF_MAGIC = b"\x7fELF"

# sh_type, sh_flags, p_type, p_flags.
SHT_PROGBITS, SHT_SYMTAB, SHT_STRTAB, SHT_RELA, SHT_NOTE, SHT_NOBITS, SHT_REL, SHT_DYNSYM = (
    1,
    2,
    3,
    4,
    7,
    8,
    9,
    11,
)
SHF_WRITE, SHF_ALLOC, SHF_EXECINSTR, SHF_TLS, SHF_COMPRESSED = 1, 2, 4, 0x400, 0x800
PT_LOAD, PT_NOTE = 1, 4
PF_X, PF_W = 1, 2


def _row(columns: str) -> np.dtype[Any]:
    return np.dtype([(name, f"<{kind}") for name, kind in (column.split(":") for column in columns.split())])


_SECTION64 = _row(
    "name:u4 type:u4 flags:u8 addr:u8 offset:u8 size:u8 link:u4 info:u4 addralign:u8 entsize:u8"
)
_SECTION32 = _row(
    "name:u4 type:u4 flags:u4 addr:u4 offset:u4 size:u4 link:u4 info:u4 addralign:u4 entsize:u4"
)
_SEGMENT64 = _row("type:u4 flags:u4 offset:u8 vaddr:u8 paddr:u8 filesz:u8 memsz:u8 align:u8")
_SEGMENT32 = _row("type:u4 offset:u4 vaddr:u4 paddr:u4 filesz:u4 memsz:u4 flags:u4 align:u4")

_EXECUTABLE, _SHARED, _RELOCATABLE = 2, 3, 1
_MACHINES = {(1, 3): "i386", (2, 62): "x86-64"}
#: With -ffunction-sections a large object has some ten thousand.
_MOST_SECTIONS = 65_279
_MOST_SEGMENTS = 1_024
_LONGEST_NAME = 256
#: The most that a compressed section may claim to hold.
_MOST_PLAIN_BYTES = 1 << 30
_GNU_BUILD_ID = 3


@dataclass(frozen=True, slots=True)
class Headers:
    """What the headers of an ELF file say.

    Attributes:
        bits: 32 or 64.
        machine: "x86-64" or "i386".
        relocatable: an object file, which has no addresses yet.
        entry: address of the entry point.
        sections: one row per section header, including the null one: name, type, flags, addr, offset,
            size, link, info, addralign, entsize.
        names: of the sections.
        segments: one row per program header: type, flags, offset, vaddr, paddr, filesz, memsz, align.
    """

    bits: int
    machine: str
    relocatable: bool
    entry: int
    sections: npt.NDArray[Any]
    names: tuple[str, ...]
    segments: npt.NDArray[Any]


def read_headers(data: memoryview, path: str) -> Headers:
    """Read and check the headers of an ELF file.

    Raises:
        ImageError: not an x86 ELF file, cut short, or with inconsistent headers.
    """
    if data[:4] != ELF_MAGIC:
        raise ImageError(
            f"{path}: not an ELF file; give a kernel's vmlinux, vmlinuz, unified image, module or object file"
        )
    if len(data) < 52 or data[4] not in (1, 2) or (data[4] == 2 and len(data) < 64):
        raise ImageError(f"{path}: its ELF header is cut short or damaged; copy the file again")
    wide = data[4] == 2
    (kind, machine, _, entry, phoff, shoff, _, _, phentsize, phnum, shentsize, shnum, shstrndx) = (
        struct.unpack_from("<HHIQQQIHHHHHH" if wide else "<HHIIIIIHHHHHH", data, 16)
    )
    if (data[4], machine) not in _MACHINES or data[5] != 1:
        raise ImageError(f"{path}: is for ELF machine {machine}; only x86-64 and i386 are supported")
    if kind not in (_EXECUTABLE, _SHARED, _RELOCATABLE):
        raise ImageError(f"{path}: ELF type {kind} is not a kernel image; give an executable or object file")
    sections = np.zeros(0, _SECTION64)
    if shoff:
        layout = _SECTION64 if wide else _SECTION32
        # If there are more than fit in the header's field, the null section holds the count.
        first = _rows(data, shoff, 1, shentsize, layout, "section header", path)[0]
        shnum = shnum or int(first["size"])
        shstrndx = int(first["link"]) if shstrndx == 0xFFFF else shstrndx
        if shnum > _MOST_SECTIONS:
            raise ImageError(f"{path}: {shnum:,} sections, at most {_MOST_SECTIONS:,}; the header is damaged")
        sections = _widened(_rows(data, shoff, shnum, shentsize, layout, "section header", path), _SECTION64)
    segments = np.zeros(0, _SEGMENT64)
    if phoff and phnum:
        if phnum > _MOST_SEGMENTS:
            raise ImageError(f"{path}: {phnum:,} segments, at most {_MOST_SEGMENTS:,}; the header is damaged")
        layout = _SEGMENT64 if wide else _SEGMENT32
        segments = _widened(_rows(data, phoff, phnum, phentsize, layout, "program header", path), _SEGMENT64)
    names = _section_names(data, sections, shstrndx, path)
    _check_sections(data, sections, names, 64 if wide else 32, path)
    # Segments matter only without loaded sections; a debug file's segments describe its image, not itself.
    if not has_loaded_sections(sections):
        _check_segments(data, segments, path)
    return Headers(
        64 if wide else 32,
        _MACHINES[data[4], machine],
        kind == _RELOCATABLE,
        entry,
        sections,
        names,
        segments,
    )


def has_loaded_sections(sections: npt.NDArray[Any]) -> bool:
    """Return whether any section header is of a loaded section; GRUB's Xen image has none."""
    return bool((sections["flags"] & np.uint64(SHF_ALLOC)).any())


def stored(data: memoryview, section: np.void) -> memoryview:
    """Return the bytes of a section that is within the file, given its row."""
    return data[int(section["offset"]) : int(section["offset"]) + int(section["size"])]


def notes(data: memoryview) -> Iterator[tuple[bytes, int, memoryview]]:
    """Yield name, type and value of each ELF note in a section, up to the first damaged one."""
    place = 0
    while place + 12 <= len(data):
        name_size, value_size, kind = struct.unpack_from("<III", data, place)
        value = place + 12 + (name_size + 3 & ~3)
        if value + value_size > len(data):
            return
        name = bytes(data[place + 12 : place + 12 + min(name_size, _LONGEST_NAME)]).rstrip(b"\0")
        yield name, kind, data[value : value + value_size]
        place = value + (value_size + 3 & ~3)


def build_id(data: memoryview, headers: Headers) -> str:
    """Return the build-id in hexadecimal digits, "" for none."""
    places = [
        (int(row["offset"]), int(row["size"]))
        for row in headers.sections[headers.sections["type"] == SHT_NOTE]
    ] or [
        (int(row["offset"]), int(row["filesz"]))
        for row in headers.segments[headers.segments["type"] == PT_NOTE]
    ]
    for offset, size in places:
        for name, kind, value in notes(data[offset : offset + size]):
            if name == b"GNU" and kind == _GNU_BUILD_ID:
                return bytes(value[:64]).hex()
    return ""


def _rows(
    data: memoryview, offset: int, count: int, size: int, layout: np.dtype[Any], what: str, path: str
) -> npt.NDArray[Any]:
    if size != layout.itemsize:
        raise ImageError(
            f"{path}: {what}s of {size} bytes, not {layout.itemsize} (offset {offset:#x}); "
            "the header is damaged"
        )
    if offset + count * size > len(data):
        raise ImageError(
            f"{path}: the {what}s at offset {offset:#x} extend past the end ({len(data):#x}); "
            "the file is cut short: copy it again"
        )
    return np.frombuffer(data, layout, count, offset)


def _widened(rows: npt.NDArray[Any], layout: np.dtype[Any]) -> npt.NDArray[Any]:
    wide = np.empty(len(rows), layout)
    for column in layout.names or ():
        wide[column] = rows[column]
    return wide


def _section_names(data: memoryview, sections: npt.NDArray[Any], shstrndx: int, path: str) -> tuple[str, ...]:
    if not len(sections):
        return ()
    if shstrndx >= len(sections):
        raise ImageError(
            f"{path}: the section names are in section {shstrndx} of {len(sections)}; the header is damaged"
        )
    table = sections[shstrndx]
    offset, size = int(table["offset"]), int(table["size"])
    strings = bytes(data[offset : offset + min(size, len(data))]) if int(table["type"]) == SHT_STRTAB else b""
    names = []
    for start in sections["name"].tolist():
        end = strings.find(b"\0", start, start + _LONGEST_NAME)
        names.append(shown(strings[start : end if end >= 0 else start + _LONGEST_NAME]))
    return tuple(names)


def _check_sections(
    data: memoryview, sections: npt.NDArray[Any], names: tuple[str, ...], bits: int, path: str
) -> None:
    """Raise ImageError for a section outside the file or the address space, or with an invalid link."""
    stored = (sections["type"] != SHT_NOBITS) & (sections["type"] != 0)
    limit = np.uint64(len(data))
    outside = stored & (
        (sections["offset"] > limit) | (sections["size"] > limit - np.minimum(sections["offset"], limit))
    )
    if outside.any():
        index = int(outside.argmax())
        raise ImageError(
            f"{path}: section {names[index] or index} at offset {int(sections['offset'][index]):#x} extends "
            f"past the end ({len(data):#x}); the file is cut short: copy it again"
        )
    top = np.uint64((1 << bits) - 1)
    allocated = (sections["flags"] & np.uint64(SHF_ALLOC)) != 0
    wraps = allocated & (
        (sections["addr"] > top) | (sections["size"] > top - np.minimum(sections["addr"], top))
    )
    if wraps.any():
        index = int(wraps.argmax())
        raise ImageError(
            f"{path}: section {names[index] or index} at {int(sections['addr'][index]):#x} extends past "
            "the address space; the section headers are damaged"
        )
    for index in np.flatnonzero(np.isin(sections["type"], (SHT_SYMTAB, SHT_DYNSYM))).tolist():
        link = int(sections["link"][index])
        if link >= len(sections) or int(sections["type"][link]) != SHT_STRTAB:
            raise ImageError(
                f"{path}: section {names[index] or index} has its names in section {link}, which is not a "
                "string table; the section headers are damaged"
            )
    for index in np.flatnonzero(sections["flags"] & np.uint64(SHF_COMPRESSED)).tolist():
        _check_compressed(
            data, int(sections["offset"][index]), int(sections["size"][index]), bits, names[index], path
        )


def _check_compressed(data: memoryview, offset: int, size: int, bits: int, name: str, path: str) -> None:
    layout, place = ("<IIQ", 8) if bits == 64 else ("<II", 4)
    if size < struct.calcsize(layout) or offset + size > len(data):
        raise ImageError(
            f"{path}: compressed section {name} at offset {offset:#x} is cut short; copy the file again"
        )
    (plain_size,) = struct.unpack_from(layout[0] + layout[-1], data, offset + place)
    if plain_size > _MOST_PLAIN_BYTES:
        raise ImageError(
            f"{path}: compressed section {name} claims to hold {plain_size:,} bytes, "
            f"at most {_MOST_PLAIN_BYTES:,} are read; the section headers are damaged"
        )


def _check_segments(data: memoryview, segments: npt.NDArray[Any], path: str) -> None:
    """Raise ImageError for a segment outside the file or the address space."""
    limit, top = np.uint64(len(data)), np.uint64(0xFFFF_FFFF_FFFF_FFFF)
    outside = (segments["offset"] > limit) | (
        segments["filesz"] > limit - np.minimum(segments["offset"], limit)
    )
    outside |= segments["memsz"] > top - segments["vaddr"]
    outside &= np.isin(segments["type"], (PT_LOAD, PT_NOTE))
    if outside.any():
        index = int(outside.argmax())
        raise ImageError(
            f"{path}: segment {index} at offset {int(segments['offset'][index]):#x} extends past the end "
            f"({len(data):#x}); the file is cut short: copy it again"
        )
