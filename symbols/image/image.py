"""Open a guest kernel's image: its sections, its symbols, and its debug information.

The file is mapped, not read: a kernel of 600 MB with debug information opens in a fraction of a second.
A compressed image is unpacked in memory; a relocatable object is laid out there.
"""

from __future__ import annotations

import bisect
import io
import os
from dataclasses import dataclass
from functools import cached_property
from typing import IO, cast

import numpy as np
from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile

from xtrace.symbols.errors import ImageError
from xtrace.symbols.image import debug_files, headers, kallsyms, relocation, unified, vmlinuz
from xtrace.symbols.image.files import map_file
from xtrace.symbols.image.headers import Headers
from xtrace.symbols.image.intervals import Extents
from xtrace.symbols.image.relocation import Layout
from xtrace.symbols.image.symbol_table import Symbols, entries

#: Name of the made-up section for symbols that an object file does not define.
UNDEFINED = "*undefined*"
_DEBUG_INFO = (".debug_info", ".zdebug_info", ".debug_types")


@dataclass(frozen=True, slots=True)
class Section:
    """A section of an image, or a segment where no section is loaded.

    Attributes:
        name: as in the file, made printable; "segment 0" for a segment.
        address: in memory; 0 if it is not loaded.
        size: bytes in memory.
        offset: of its bytes in the (unpacked) file.
        kind: sh_type.
        allocated, executable, writable: whether it is in memory, and with which permissions.
        data: its bytes; empty for .bss.
    """

    name: str
    address: int
    size: int
    offset: int
    kind: int
    allocated: bool
    executable: bool
    writable: bool
    data: memoryview


@dataclass(frozen=True)
class Image:
    """A kernel image.

    Attributes:
        path: as given.
        bits: 32 or 64.
        machine: "x86-64" or "i386".
        relocatable: an object file, whose addresses are made up (see relocation.py).
        entry: address of the entry point.
        build_id: hexadecimal digits, "" for none.
        packed: "gzip", "xz", ... if it came from a compressed file, otherwise "".
        sections: all but the null one, in file order; if none of them is loaded, as in GRUB's Xen
            image, the loaded segments come first.
        symbols: from the image, its debug file, a map, or its own kallsyms tables.
        data: the bytes of the ELF file, unpacked.
        debug_path: the separate debug file, "" for none.
        debug_data: its bytes, None for none.
        debug_note: why a debug file that was found is not used, "" if there is none.
    """

    path: str
    bits: int
    machine: str
    relocatable: bool
    entry: int
    build_id: str
    packed: str
    sections: tuple[Section, ...]
    symbols: Symbols
    data: memoryview
    debug_path: str
    debug_data: memoryview | None
    debug_note: str = ""

    @cached_property
    def code(self) -> tuple[Section, ...]:
        """The executable sections that have bytes."""
        return tuple(s for s in self.sections if s.executable and s.allocated and len(s.data))

    @cached_property
    def elf(self) -> ELFFile:
        """The (unpacked) image for pyelftools.

        Raises:
            ImageError: pyelftools cannot make sense of it.
        """
        return elf_file(self.data, self.path)

    @cached_property
    def debug(self) -> ELFFile | None:
        """The ELF file that has .debug_info: the image or its debug file; None for neither.

        Raises:
            ImageError: pyelftools cannot make sense of it.
        """
        if self.debug_data is not None:
            return elf_file(self.debug_data, self.debug_path)
        return self.elf if any(s.name in _DEBUG_INFO and len(s.data) for s in self.sections) else None

    def section_at(self, address: int) -> Section | None:
        """Return the section that contains an address; of several, the one that starts last."""
        starts, placed, reach = self._placed
        index = bisect.bisect_right(starts, address) - 1
        while index >= 0 and reach[index] > address:
            if placed[index].address + placed[index].size > address:
                return placed[index]
            index -= 1
        return None

    def read(self, address: int, size: int) -> bytes:
        """Return up to ``size`` bytes from an address: fewer at the end of a section, none outside of one."""
        section = self.section_at(address)
        if section is None or size <= 0:
            return b""
        start = address - section.address
        return bytes(section.data[start : start + size])

    @cached_property
    def _placed(self) -> tuple[list[int], list[Section], list[int]]:
        """Start of each section, the section, and the greatest end up to it, sorted by start."""
        placed = sorted((s for s in self.sections if s.allocated and s.size), key=lambda s: s.address)
        reach: list[int] = []
        for section in placed:
            reach.append(max(section.address + section.size, reach[-1] if reach else 0))
        return [s.address for s in placed], placed, reach


def open_image(
    path: str | os.PathLike[str],
    *,
    symbols_path: str | os.PathLike[str] | None = None,
    debug_path: str | os.PathLike[str] | None = None,
) -> Image:
    """Open a kernel image.

    Args:
        path: an ELF executable or object file, a Linux vmlinuz, one of these compressed, or a unified
            kernel image that has one of them.
        symbols_path: a System.map or a copy of /proc/kallsyms to use instead of the image's own symbols.
        debug_path: the separate debug file; if not given, it is looked for by build-id.

    Raises:
        OSError: a file cannot be opened.
        ImageError: its contents cannot be read.
    """
    name = os.fspath(path)
    file = unified.kernel_of(map_file(name), name)
    data, packed = vmlinuz.unpack(file, name) or (file, "")
    found = headers.read_headers(data, name)
    layout = relocation.lay_out(data, found, name) if found.relocatable else None
    sections = _sections(data, found, layout)
    own_id = headers.build_id(data, found)
    owner = debug_files.Owner(name, own_id, data, found)
    debug, note = debug_files.debug_file(owner, None if debug_path is None else os.fspath(debug_path))
    return Image(
        path=name,
        bits=found.bits,
        machine=found.machine,
        relocatable=found.relocatable,
        entry=found.entry,
        build_id=own_id,
        packed=packed,
        sections=sections,
        symbols=_symbols(
            data,
            found,
            sections,
            layout,
            debug,
            name,
            None if symbols_path is None else os.fspath(symbols_path),
        ),
        data=data,
        debug_path=debug[0] if debug else "",
        debug_data=debug[1] if debug else None,
        debug_note=note,
    )


def elf_file(data: memoryview, path: str) -> ELFFile:
    """Return pyelftools' view of a file.

    Raises:
        ImageError: pyelftools cannot make sense of the file.
    """
    try:
        return ELFFile(cast(IO[bytes], _Bytes(data)))
    except (ELFError, ValueError, KeyError, AssertionError, OverflowError) as error:
        raise ImageError(
            f"{path}: pyelftools cannot read its headers: {error}; the file is damaged"
        ) from None


class _Bytes(io.RawIOBase):
    """A stream over bytes in memory that does not copy them."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._place = 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = (0, self._place, len(self._data))[whence]
        self._place = max(base + offset, 0)
        return self._place

    def read(self, size: int | None = -1) -> bytes:
        end = len(self._data) if size is None or size < 0 else self._place + size
        piece = bytes(self._data[self._place : end])
        self._place += len(piece)
        return piece


def _sections(data: memoryview, found: Headers, layout: Layout | None) -> tuple[Section, ...]:
    made = []
    if not headers.has_loaded_sections(found.sections):
        loaded = np.flatnonzero(found.segments["type"] == headers.PT_LOAD).tolist()
        made = [_segment(data, index, found.segments[index]) for index in loaded]
    for index in range(1, len(found.sections)):
        row = found.sections[index]
        offset, size, kind, flags = (int(row[c]) for c in ("offset", "size", "type", "flags"))
        stored = kind not in (0, headers.SHT_NOBITS)
        content = data[offset : offset + size] if stored else data[:0]
        made.append(
            Section(
                name=found.names[index],
                address=layout.addresses[index] if layout else int(row["addr"]),
                size=size,
                offset=offset,
                kind=kind,
                # .tbss takes no address space.
                allocated=bool(flags & headers.SHF_ALLOC) and (stored or not flags & headers.SHF_TLS),
                executable=bool(flags & headers.SHF_EXECINSTR),
                writable=bool(flags & headers.SHF_WRITE),
                data=layout.contents.get(index, content) if layout else content,
            )
        )
    if layout and layout.undefined_bytes:
        made.append(
            Section(
                UNDEFINED,
                layout.undefined_address,
                layout.undefined_bytes,
                0,
                0,
                True,
                False,
                False,
                data[:0],
            )
        )
    return tuple(made)


def _segment(data: memoryview, index: int, row: np.void) -> Section:
    offset, stored, size, flags = (int(row[c]) for c in ("offset", "filesz", "memsz", "flags"))
    return Section(
        name=f"segment {index}",
        address=int(row["vaddr"]),
        size=size,
        offset=offset,
        kind=headers.SHT_PROGBITS,
        allocated=True,
        executable=bool(flags & headers.PF_X),
        writable=bool(flags & headers.PF_W),
        data=data[offset : offset + min(stored, size)],
    )


def _symbols(
    data: memoryview,
    found: Headers,
    sections: tuple[Section, ...],
    layout: Layout | None,
    debug: tuple[str, memoryview, Headers] | None,
    path: str,
    symbols_path: str | None,
) -> Symbols:
    """Return the symbols of the first source that has any.

    The order: the given map (alone), .symtab, the debug file's .symtab, a map beside the image, embedded
    kallsyms, .dynsym.
    """
    placed = sorted((s for s in sections if s.allocated and s.size), key=lambda s: s.address)
    extents = Extents(
        np.array([s.address for s in placed], np.uint64),
        np.array([s.address + s.size for s in placed], np.uint64),
        np.array([s.executable for s in placed], np.bool_),
    )
    text_address = next((s.address for s in placed if s.name == ".text"), None)
    if symbols_path is not None:
        return debug_files.read_map(symbols_path, extents, text_address)
    symbols = _table_symbols(data, found, headers.SHT_SYMTAB, extents, path, layout)
    if symbols is None and debug is not None:
        symbols = _table_symbols(debug[1], debug[2], headers.SHT_SYMTAB, extents, debug[0], None)
    if symbols is None:
        symbols = debug_files.map_beside(path, extents, text_address)
    if symbols is None:
        readable = (s.data for s in placed if len(s.data) and not s.executable)
        symbols = kallsyms.embedded(readable, found.bits, extents)
    if symbols is None:
        symbols = _table_symbols(data, found, headers.SHT_DYNSYM, extents, path, layout)
    return Symbols.empty() if symbols is None else symbols


def _table_symbols(
    data: memoryview, found: Headers, kind: int, extents: Extents, path: str, layout: Layout | None
) -> Symbols | None:
    """Return the symbols of the first symbol table of a kind that has any, None if none has."""
    for row in found.sections[found.sections["type"] == kind]:
        table = entries(headers.stored(data, row), found.bits, path) if layout is None else layout.symbols
        names = headers.stored(data, found.sections[int(row["link"])])
        source = ".symtab" if kind == headers.SHT_SYMTAB else ".dynsym"
        symbols = Symbols.from_elf(table, names, extents, source, path)
        if len(symbols):
            return symbols
    return None
