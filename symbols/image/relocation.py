"""Lay out a relocatable object as if it had been linked.

Sections get consecutive addresses, undefined symbols get 16 bytes each in a region after them, and the
relocations of code and data are applied to copies of their bytes.  So a call in an object file leads to
its callee, and %gs:symbol has that symbol's address.

Relocation types: System V ABI, AMD64 supplement 4.4 and Intel386 supplement 4.  There is no global
offset table, so a mov or call through one names the symbol itself, as a linker relaxes it (AMD64
supplement, appendix B.2); other instructions that need one stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from xtrace.symbols.errors import ImageError
from xtrace.symbols.image import headers
from xtrace.symbols.image.headers import Headers
from xtrace.symbols.image.symbol_table import RESERVED, UNDEFINED, entries

_FIRST_ADDRESS = 0x10_0000
_PAGE_BYTES = 0x1000
_UNDEFINED_BYTES = 16
_LARGEST_BYTES = 1 << 30
COMMON = 0xFFF2

#: By type: bytes written, and whether the address of the place is subtracted.
_X86_64 = {1: (8, False), 2: (4, True), 4: (4, True), 10: (4, False), 11: (4, False), 24: (8, True)}
#: R_X86_64_GOTPCREL, _GOTPCRELX and _REX_GOTPCRELX.
_GOT = (9, 41, 42)
#: The opcode of mov becomes that of lea; call *X, through the table, becomes call X.
_MOV, _LEA, _CALL, _RELAXED_CALL = 0x8B, 0x8D, (0xFF, 0x15), (0x67, 0xE8)
_I386 = {1: (4, False), 2: (4, True), 4: (4, True)}

_RELA64 = np.dtype([("offset", "<u8"), ("info", "<u8"), ("addend", "<i8")])
_REL64 = np.dtype([("offset", "<u8"), ("info", "<u8")])
_RELA32 = np.dtype([("offset", "<u4"), ("info", "<u4"), ("addend", "<i4")])
_REL32 = np.dtype([("offset", "<u4"), ("info", "<u4")])


@dataclass(frozen=True, slots=True)
class Layout:
    """Addresses of an object's parts.

    Attributes:
        addresses: of each section, the null one included; 0 if it is not loaded.
        undefined_address, undefined_bytes: the region of symbols that the object does not define.
        symbols: the symbol table, as from symbol_table.entries(), with addresses as values.
        contents: the relocated bytes of sections by number; other sections are as in the file.
    """

    addresses: tuple[int, ...]
    undefined_address: int
    undefined_bytes: int
    symbols: npt.NDArray[Any]
    contents: dict[int, memoryview]


def lay_out(data: memoryview, found: Headers, path: str) -> Layout:
    """Return addresses for an object's sections and symbols, and its relocated contents.

    Raises:
        ImageError: the object is damaged, or too large to lay out.
    """
    sections = found.sections
    addresses = np.zeros(len(sections), np.uint64)
    place = _FIRST_ADDRESS
    for index in np.flatnonzero(sections["flags"] & np.uint64(headers.SHF_ALLOC)).tolist():
        addresses[index] = place
        place += -(-max(int(sections["size"][index]), 1) // _PAGE_BYTES) * _PAGE_BYTES
        if place > _LARGEST_BYTES:
            raise ImageError(
                f"{path}: section {found.names[index] or index} of {int(sections['size'][index]):,} bytes "
                f"makes the object larger than {_LARGEST_BYTES:,}; the section headers are damaged"
            )
    table = next(iter(sections[sections["type"] == headers.SHT_SYMTAB]), None)
    symbols = entries(headers.stored(data, table) if table is not None else data[:0], found.bits, path)
    undefined = ((symbols["shndx"] == UNDEFINED) | (symbols["shndx"] == COMMON)) & (symbols["name"] != 0)
    placed = (symbols["shndx"] != UNDEFINED) & (symbols["shndx"] < RESERVED)
    if (symbols["shndx"][placed] >= len(sections)).any():
        raise ImageError(f"{path}: a symbol is in a section that does not exist; the symbol table is damaged")
    symbols["value"][placed] += addresses[symbols["shndx"][placed]]
    count = int(undefined.sum())
    symbols["value"][undefined] = place + _UNDEFINED_BYTES * np.arange(count, dtype=np.uint64)
    contents: dict[int, npt.NDArray[np.uint8]] = {}
    for index in np.flatnonzero(np.isin(sections["type"], (headers.SHT_RELA, headers.SHT_REL))).tolist():
        target = int(sections["info"][index])
        if target >= len(sections):
            raise ImageError(
                f"{path}: {found.names[index]} relocates section {target} of {len(sections)}; "
                "the section headers are damaged"
            )
        row = sections[target]
        if not int(row["flags"]) & headers.SHF_ALLOC or int(row["type"]) == headers.SHT_NOBITS:
            continue
        content = contents.get(target)
        content = np.array(np.frombuffer(headers.stored(data, row), np.uint8)) if content is None else content
        _apply(content, data, found, index, int(addresses[target]), symbols, path)
        contents[target] = content
    # Undefined symbols count as defined, each with bytes of its own, so a call to one shows its name.
    symbols["shndx"][undefined] = 1
    symbols["size"][undefined] = _UNDEFINED_BYTES
    return Layout(
        tuple(addresses.tolist()),
        place,
        count * _UNDEFINED_BYTES,
        symbols,
        {index: memoryview(content.data).toreadonly() for index, content in contents.items()},
    )


def _apply(
    content: npt.NDArray[np.uint8],
    data: memoryview,
    found: Headers,
    index: int,
    address: int,
    symbols: npt.NDArray[Any],
    path: str,
) -> None:
    """Apply one section of relocations to the bytes of another."""
    row = found.sections[index]
    with_addend = int(row["type"]) == headers.SHT_RELA
    wide = found.bits == 64
    layout = (_RELA64 if with_addend else _REL64) if wide else (_RELA32 if with_addend else _REL32)
    stored = headers.stored(data, row)
    table = np.frombuffer(stored, layout, len(stored) // layout.itemsize)
    info = table["info"].astype(np.uint64)
    kinds = info & np.uint64(0xFFFF_FFFF if wide else 0xFF)
    numbers = (info >> np.uint64(32 if wide else 8)).astype(np.int64)
    if wide:
        kinds = np.where(_relaxed(content, table["offset"], np.isin(kinds, _GOT)), np.uint64(2), kinds)
    for kind, (size, relative) in (_X86_64 if wide else _I386).items():
        mine = kinds == kind
        offsets = table["offset"][mine].astype(np.uint64)
        if not len(offsets):
            continue
        if (
            size > len(content)
            or (offsets > len(content) - size).any()
            or (numbers[mine] >= len(symbols)).any()
        ):
            raise ImageError(
                f"{path}: {found.names[index]} refers to bytes or symbols that do not exist; "
                "the object is damaged: compile it again"
            )
        places = offsets.astype(np.int64)[:, None] + np.arange(size)
        values = symbols["value"][numbers[mine]].copy()
        if with_addend:
            values += table["addend"][mine].astype(np.int64).view(np.uint64)
        else:
            values += (
                np.ascontiguousarray(content[places]).view(f"<i{size}")[:, 0].astype(np.int64).view(np.uint64)
            )
        if relative:
            values -= offsets + np.uint64(address)
        content[places] = values.view(np.uint8).reshape(-1, 8)[:, :size]


def _relaxed(
    content: npt.NDArray[np.uint8], offsets: npt.NDArray[Any], through_table: npt.NDArray[np.bool_]
) -> npt.NDArray[np.bool_]:
    """Rewrite the instructions that go through a global offset table; return which of them were."""
    done = np.zeros(len(offsets), np.bool_)
    for index in np.flatnonzero(through_table).tolist():
        place = int(offsets[index])
        if not 2 <= place <= len(content) - 4:
            continue  # what is wrong with it is said where relocations are applied
        before = int(content[place - 2]), int(content[place - 1])
        if before[0] == _MOV:
            content[place - 2] = _LEA
        elif before == _CALL:
            content[place - 2 : place] = _RELAXED_CALL
        else:
            continue
        done[index] = True
    return done
