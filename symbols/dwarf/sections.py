"""The .debug_* sections of an image as plain bytes, mapped from the file where possible.

A kernel with DWARF has hundreds of megabytes, so only what is asked for is read.  An executable's
DWARF needs no relocation, even if the linker kept its .rela sections (Linux does).  A relocatable
object's DWARF is relocated to the addresses that the image gives its sections.

Source: System V ABI (ELF), x86-64 psABI section 4.4, i386 psABI section 4.4.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
from elftools.common.exceptions import ELFError
from elftools.elf.elffile import ELFFile
from elftools.elf.sections import Section as ElfSection

from xtrace.symbols.dwarf.compressed import decompressed, is_gnu_compressed, plain_name, plain_size
from xtrace.symbols.errors import shown
from xtrace.symbols.image.image import Image

#: Limit for decompressed and relocated sections together.
_MOST_COPIED_BYTES = 512 << 20
_LONGEST_STRING_BYTES = 4096
_FIND_CHUNK_BYTES = 16 << 20
_MOST_NAME_OFFSETS = 32
#: Fits in a processor's cache.
_WORD_CHUNK_BYTES = 1 << 19
_SHF_GROUP = 0x200
#: Relocation types by machine, with the bytes each writes: R_X86_64_64, _32, _32S; R_386_32.
_WIDTHS = {"EM_X86_64": {1: 8, 10: 4, 11: 4}, "EM_386": {1: 4}}
#: R_X86_64_NONE, R_386_NONE: leave the place as it is.
_NO_RELOCATION = 0


class DwarfError(ValueError):
    """Unusable DWARF, described in a few words; never raised out of this package."""


@dataclass(frozen=True, slots=True)
class DebugSections:
    """The sections that hold the tables of DWARF 2 to 5; an absent section is empty.

    Attributes:
        types: the type units of DWARF 4, which later versions have in ``info``.
        cu_index, tu_index: of a .dwp package, which units it has.
        bits: 32 or 64, the size of an address where no header states it.
    """

    info: memoryview
    abbrev: memoryview
    line: memoryview
    str: memoryview
    line_str: memoryview
    ranges: memoryview
    rnglists: memoryview
    addr: memoryview
    str_offsets: memoryview
    aranges: memoryview
    types: memoryview
    cu_index: memoryview
    tu_index: memoryview
    bits: int


def debug_sections(image: Image) -> DebugSections | None:
    """Return the DWARF sections of an image or its debug file; None where there are none.

    Raises:
        DwarfError: they cannot be read.
    """
    elf = image.debug
    if elf is None:
        return None
    whole = image.data if image.debug_data is None else image.debug_data
    return file_sections(whole, elf, bits=image.bits, image=image if image.relocatable else None)


def file_sections(
    whole: memoryview, elf: ELFFile, *, bits: int, image: Image | None = None
) -> DebugSections | None:
    """Return the DWARF sections of a file, those of a .dwo file too; None where there are none.

    Of several sections of one name, such as the type units of -fdebug-types-section in an object, all are
    joined.

    Args:
        whole: the file's bytes.
        image: if it is relocatable: it has the addresses of the sections.

    Raises:
        DwarfError: they cannot be read.
    """
    wanted = {f".debug_{field.name}": field.name for field in fields(DebugSections) if field.name != "bits"}
    found: dict[str, memoryview] = dict.fromkeys(wanted.values(), memoryview(b""))
    copied = 0
    try:
        bases = _bases(image, elf) if image is not None else []
        relocations = _relocations(elf) if image is not None else {}
        for number, section in enumerate(elf.iter_sections()):
            name = wanted.get(plain_name(section.name))
            grouped = section["sh_flags"] & _SHF_GROUP and name != "types"
            if name is None or section["sh_type"] == "SHT_NOBITS" or grouped:
                continue
            gnu = is_gnu_compressed(section.name)
            compressed = gnu or section.compressed
            data = _mapped(whole, section)
            copied += plain_size(data, bits=bits, gnu=gnu) if compressed else 0
            copied += len(data) if number in relocations or len(found[name]) else 0
            if copied > _MOST_COPIED_BYTES:
                raise DwarfError(f"over {_MOST_COPIED_BYTES:,} bytes of compressed or relocatable DWARF")
            if compressed:
                data = decompressed(data, bits=bits, gnu=gnu)
            if number in relocations:
                data = _relocated(data, relocations[number], elf, bases)
            # An object has a section for each type unit.
            found[name] = memoryview(bytes(found[name]) + bytes(data)) if len(found[name]) else data
    except (
        ELFError,
        ValueError,
        KeyError,
        IndexError,
        AttributeError,
        AssertionError,
        OverflowError,
    ) as error:
        # On a damaged file pyelftools may raise any of these.
        raise DwarfError(f"DWARF sections: {shown(str(error))}") from None
    if not found["info"]:
        return None
    return DebugSections(**found, bits=bits)


def text_at(section: memoryview, offset: int) -> str:
    """Return the string that begins at an offset, truncated to 4,096 bytes."""
    if not 0 <= offset < len(section):
        raise DwarfError(f"a string at {offset:#x}, outside its section")
    raw = bytes(section[offset : offset + _LONGEST_STRING_BYTES])
    return plain_text(raw.split(b"\0", 1)[0])


def plain_text(raw: bytes) -> str:
    """Return untrusted bytes as printable text on one line."""
    return shown(raw, _LONGEST_STRING_BYTES)


def find_all(section: memoryview, pattern: bytes) -> Iterator[int]:
    """Yield in order the offsets at which a pattern occurs, with part of the section in memory at a time."""
    for start in range(0, len(section), _FIND_CHUNK_BYTES):
        chunk = bytes(section[start : start + _FIND_CHUNK_BYTES + len(pattern) - 1])
        place = chunk.find(pattern)
        while place >= 0:
            yield start + place
            place = chunk.find(pattern, place + 1)


def name_offsets(section: memoryview, names: Iterable[bytes]) -> list[int]:
    """Return where the strings that end in some names begin their tails: linkers let names share these."""
    found = (itertools.islice(find_all(section, name), _MOST_NAME_OFFSETS) for name in names)
    return [offset for offset in itertools.chain.from_iterable(found) if offset >> 32 == 0]


def find_words(section: memoryview, words: Collection[int]) -> Iterator[int]:
    """Yield in order the offsets, aligned or not, at which any of some 32-bit numbers occurs.

    The speed, some GB/s, depends on the number of distinct upper halves, not on the number of words.
    """
    wanted = np.array(sorted(words), np.uint32)
    uppers = np.unique(wanted >> np.uint32(16)).astype(np.uint16)
    for start in range(0, len(section), _WORD_CHUNK_BYTES):
        chunk = section[start : start + _WORD_CHUNK_BYTES + 3]
        found = []
        for odd in (0, 1):
            halves = np.frombuffer(chunk, "<u2", max(len(chunk) - odd, 0) // 2, odd)
            alike = np.zeros(max(len(halves) - 1, 0), np.bool_)
            for upper in uppers:
                alike |= halves[1:] == upper
            places = np.flatnonzero(alike)
            values = halves[places].astype(np.uint32) | halves[places + 1].astype(np.uint32) << np.uint32(16)
            found.append(2 * places[np.isin(values, wanted)] + odd)
        yield from (np.sort(np.concatenate(found)) + start).tolist()


def _mapped(whole: memoryview, section: ElfSection) -> memoryview:
    start, size = section["sh_offset"], section["sh_size"]
    if start + size > len(whole):
        raise DwarfError(f"{section.name} extends past the end of the file")
    return whole[start : start + size]


def _bases(image: Image, elf: ELFFile) -> list[int]:
    """Return the address of each section of the debug file.

    Where several sections share a name, the n-th of them is the n-th of that name in the image.
    """
    laid_out = dict(_numbered((section.name, section.address) for section in image.sections if section.name))
    return [
        laid_out.get(key, 0) for key, _ in _numbered((section.name, 0) for section in elf.iter_sections())
    ]


def _numbered(named: Iterable[tuple[str, int]]) -> Iterator[tuple[tuple[str, int], int]]:
    seen: Counter[str] = Counter()
    for name, value in named:
        yield (name, seen[name]), value
        seen[name] += 1


def _relocations(elf: ELFFile) -> dict[int, ElfSection]:
    return {
        section["sh_info"]: section
        for section in elf.iter_sections()
        if section["sh_type"] in ("SHT_RELA", "SHT_REL")
    }


def _relocated(data: memoryview, table: ElfSection, elf: ELFFile, bases: list[int]) -> memoryview:
    """Return a copy of a section with its relocations applied."""
    image = bytearray(data)
    wide = elf.elfclass == 64
    word = "<u8" if wide else "<u4"
    layout = [("offset", word), ("info", word)]
    if table["sh_type"] == "SHT_RELA":
        layout.append(("addend", word))
    raw = table.data()
    entries = np.frombuffer(raw, np.dtype(layout), len(raw) // np.dtype(layout).itemsize)
    values = _symbol_values(elf, table["sh_link"], bases)
    shift = np.array(32 if wide else 8, entries["info"].dtype)
    symbols = (entries["info"] >> shift).astype(np.int64)
    kinds = (entries["info"] & np.array(0xFFFF_FFFF if wide else 0xFF, shift.dtype)).astype(np.int64)
    if len(symbols) and symbols.max() >= len(values):
        raise DwarfError(f"{table.name}: refers to symbol {symbols.max()} of {len(values)}")
    for kind in np.unique(kinds).tolist():
        width = _WIDTHS.get(elf["e_machine"], {}).get(kind)
        if kind == _NO_RELOCATION:
            continue
        if width is None:
            raise DwarfError(f"{table.name}: unsupported relocation type {kind}")
        mine = kinds == kind
        places = entries["offset"][mine].astype(np.uint64)
        if len(image) < width or (places > np.uint64(len(image) - width)).any():
            raise DwarfError(f"{table.name}: relocates bytes past the end of its section")
        octets = np.frombuffer(image, np.uint8)
        at = places.astype(np.int64)[:, None] + np.arange(width)
        number = np.dtype(f"<u{width}")
        if table["sh_type"] == "SHT_RELA":
            addends = entries["addend"][mine].astype(np.uint64)
        else:
            addends = octets[at].view(number)[:, 0].astype(np.uint64)
        sums = (values[symbols[mine]] + addends).astype(number)
        octets[at] = sums.view(np.uint8).reshape(-1, width)
    return memoryview(image)


def _symbol_values(elf: ELFFile, number: int, bases: list[int]) -> npt.NDArray[np.uint64]:
    """Return the address of each symbol, given where the image lays out the sections."""
    raw = elf.get_section(number).data()
    if elf.elfclass == 64:
        layout = np.dtype(
            [("name", "<u4"), ("info", "<u2"), ("shndx", "<u2"), ("value", "<u8"), ("size", "<u8")]
        )
    else:
        layout = np.dtype(
            [("name", "<u4"), ("value", "<u4"), ("size", "<u4"), ("info", "<u2"), ("shndx", "<u2")]
        )
    table = np.frombuffer(raw, layout, len(raw) // layout.itemsize)
    starts = np.zeros(1 << 16, np.uint64)
    starts[: min(len(bases), 1 << 16)] = np.array(bases[: 1 << 16], np.uint64)
    values: npt.NDArray[np.uint64] = table["value"].astype(np.uint64) + starts[table["shndx"]]
    return values
