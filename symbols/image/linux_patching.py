"""Find the bytes of a Linux kernel's code that may change after it is loaded.

Linux lists them in tables whose entries name the place of an instruction: paravirt calls, alternatives
for a CPU feature, static calls and branches, lock prefixes that a single CPU can do without.  The layout
of an entry differs between versions; the right one is recognised because each place must be in code.

Source: Linux arch/x86/include/asm/alternative.h (struct alt_instr: two pointers until 2.6.38, then
12 bytes; 13 with padlen in 4.0 to 5.12; 14 with flags from 6.3), paravirt_types.h (struct
paravirt_patch_site, until 6.7), include/linux/static_call_types.h, include/linux/jump_label.h,
arch/x86/kernel/vmlinux.lds.S.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from xtrace.symbols.image.image import Image

U8 = npt.NDArray[np.uint8]
U64 = npt.NDArray[np.uint64]

#: A distribution's kernel has 50,000 entries in its largest table, 200 KB.
_MOST_BYTES = 16 << 20
#: A table is accepted if this share of it makes sense: init code may be discarded and its entries zeroed.
_LEAST_SENSE = 0.95


@dataclass(frozen=True, slots=True)
class PatchTable:
    """One table of places that may be patched.

    Attributes:
        name: its section, or the section that it would have.
        count: number of entries.
        entry_bytes: bytes per entry, which differ between versions of the layout.
        starts: the places, sorted.
        reach: for each place, the greatest end up to it.
    """

    name: str
    count: int
    entry_bytes: int
    starts: U64 = field(repr=False, compare=False)
    reach: U64 = field(repr=False, compare=False)

    def touches(self, address: int, length: int) -> bool:
        """Return whether any of ``length`` bytes from ``address`` may change."""
        before = int(np.searchsorted(self.starts, np.uint64(min(address + length, _LAST_ADDRESS)), "left"))
        return before > 0 and int(self.reach[before - 1]) > address


@dataclass(frozen=True, slots=True)
class Patching:
    """What of an image's code may change at run time.

    Attributes:
        tables: those that were found and read.
        unknown: why more than they list may change, one line for each reason.
    """

    tables: tuple[PatchTable, ...]
    unknown: tuple[str, ...]

    def patched(self, address: int, length: int) -> str | None:
        """Return the name of the first table that may change these bytes, None for none."""
        return next((table.name for table in self.tables if table.touches(address, length)), None)


@dataclass(frozen=True, slots=True)
class _Layout:
    """One layout of an entry, which begins with the place.

    Attributes:
        entry_bytes: bytes per entry.
        place: type of the place; a signed one is relative to the field.
        length_at: offset of the instruction's length in the entry; -1 if ``lengths`` gives it.
        lengths: the instruction's length by its first byte, and for all other first bytes.
        replacement_at, replacement_length_at: offsets of the replacement code and its length; -1 for none.
    """

    entry_bytes: int
    place: str
    length_at: int = -1
    lengths: tuple[dict[int, int], int] = ({}, 0)
    replacement_at: int = -1
    replacement_length_at: int = -1


@dataclass(frozen=True, slots=True)
class _Kind:
    """One table: its section, the symbols around it, and its layouts on x86-64 and on i386.

    If several layouts make equally much sense, the first is taken: an 8-bit feature before the 16-bit one,
    whose upper byte would be a length of 0.
    """

    section: str
    begin: str
    end: str
    wide: tuple[_Layout, ...]
    narrow: tuple[_Layout, ...]


_LAST_ADDRESS = 0xFFFF_FFFF_FFFF_FFFF
_CALL_BYTES: tuple[dict[int, int], int] = ({0x0F: 6, 0x2E: 6}, 5)
_BRANCH_BYTES: tuple[dict[int, int], int] = ({0xEB: 2, 0x66: 2}, 5)
_ALTERNATIVES = tuple(
    _Layout(size, "<i4", size - 2 - padded, ({}, 0), 4, size - 1 - padded)
    for size, padded in ((14, 0), (13, 1), (12, 0))
)


def _offsets(entry_bytes: int, lengths: tuple[dict[int, int], int]) -> tuple[_Layout, ...]:
    return (_Layout(entry_bytes, "<i4", lengths=lengths),)


_KINDS = (
    _Kind(
        ".parainstructions",
        "__parainstructions",
        "__parainstructions_end",
        (_Layout(16, "<u8", 9),),
        (_Layout(8, "<u4", 5),),
    ),
    _Kind(
        ".altinstructions",
        "__alt_instructions",
        "__alt_instructions_end",
        (*_ALTERNATIVES, _Layout(24, "<u8", 17, ({}, 0), 8, 18), _Layout(24, "<u8", 18, ({}, 0), 8, 19)),
        (*_ALTERNATIVES, _Layout(12, "<u4", 9, ({}, 0), 4, 10), _Layout(12, "<u4", 10, ({}, 0), 4, 11)),
    ),
    _Kind(
        ".static_call_sites",
        "__start_static_call_sites",
        "__stop_static_call_sites",
        _offsets(8, _CALL_BYTES),
        _offsets(8, _CALL_BYTES),
    ),
    _Kind(
        "__jump_table",
        "__start___jump_table",
        "__stop___jump_table",
        (*_offsets(16, _BRANCH_BYTES), _Layout(24, "<u8", lengths=_BRANCH_BYTES)),
        (*_offsets(12, _BRANCH_BYTES), _Layout(12, "<u4", lengths=_BRANCH_BYTES)),
    ),
    _Kind(
        ".smp_locks",
        "__smp_locks",
        "__smp_locks_end",
        (*_offsets(4, ({}, 1)), _Layout(8, "<u8", lengths=({}, 1))),
        (*_offsets(4, ({}, 1)), _Layout(4, "<u4", lengths=({}, 1))),
    ),
    *(
        _Kind(section, begin, f"{begin}_end", _offsets(4, lengths), _offsets(4, lengths))
        for section, begin, lengths in (
            (".retpoline_sites", "__retpoline_sites", _CALL_BYTES),
            (".return_sites", "__return_sites", _CALL_BYTES),
            (".call_sites", "__call_sites", _CALL_BYTES),
            (".ibt_endbr_seal", "__ibt_endbr_seal", ({}, 4)),
        )
    ),
)


def patching(image: Image) -> Patching:
    """Return which bytes of an image's code Linux may patch; other kernels have no tables."""
    code = _Code(image)
    tables: list[PatchTable] = []
    unknown: list[str] = []
    if image.sections and all(section.name.startswith("segment ") for section in image.sections):
        unknown.append("the image has no section headers, so tables of patched code may be missed")
    for kind in _KINDS:
        found = _bytes_of(image, kind)
        if found is None:
            continue
        address, data = found
        if len(data) > _MOST_BYTES:
            unknown.append(f"{kind.section}: {len(data):,} bytes, more than any kernel has")
            continue
        layouts = kind.wide if image.bits == 64 else kind.narrow
        table = _best(kind.section, address, data, layouts, code)
        if table is None:
            unknown.append(f"{kind.section}: no known layout fits its {len(data):,} bytes")
        elif table.count:
            tables.append(table)
    return Patching(tuple(tables), tuple(unknown))


def _bytes_of(image: Image, kind: _Kind) -> tuple[int, U8] | None:
    """Return the address and bytes of a table, None where the image does not have it."""
    section = next((s for s in image.sections if s.name == kind.section and len(s.data)), None)
    if section is not None:
        return section.address, np.frombuffer(section.data, np.uint8)
    begin, end = image.symbols.find(kind.begin), image.symbols.find(kind.end)
    if begin is None or end is None or not 0 < end - begin <= _MOST_BYTES:
        return None
    data = image.read(begin, end - begin)
    return (begin, np.frombuffer(data, np.uint8)) if len(data) == end - begin else None


class _Code:
    """The executable sections of an image, for many addresses at once."""

    def __init__(self, image: Image) -> None:
        ordered = sorted(image.code, key=lambda section: section.address)
        self.wraps = 32 if image.bits == 32 else 64
        self._starts = np.array([section.address for section in ordered], np.uint64)
        self._ends = np.array([section.address + len(section.data) for section in ordered], np.uint64)
        self._bytes = [np.frombuffer(section.data, np.uint8) for section in ordered]

    def holds(self, addresses: U64) -> npt.NDArray[np.bool_]:
        """Return which addresses are in code, as flags."""
        index = np.searchsorted(self._starts, addresses, "right").astype(np.int64) - 1
        if not len(self._starts):
            return np.zeros(len(addresses), np.bool_)
        return (index >= 0) & (addresses < self._ends[index])

    def first_bytes(self, addresses: U64) -> U8:
        """Return the byte at each address; all must be in code."""
        index = np.searchsorted(self._starts, addresses, "right") - 1
        found = np.zeros(len(addresses), np.uint8)
        for place in np.unique(index).tolist():
            here = index == place
            found[here] = self._bytes[place][(addresses[here] - self._starts[place]).astype(np.int64)]
        return found


def _best(name: str, address: int, data: U8, layouts: tuple[_Layout, ...], code: _Code) -> PatchTable | None:
    """Return the table as read by the layout that makes most sense, None if none makes enough."""
    best, best_sense = None, 0.0
    for layout in layouts:
        table, sense = _read(name, address, data, layout, code)
        if sense > best_sense:
            best, best_sense = table, sense
    return best if best_sense >= _LEAST_SENSE else None


def _read(name: str, address: int, data: U8, layout: _Layout, code: _Code) -> tuple[PatchTable, float]:
    """Return a table and the share of its entries that make sense."""
    size = layout.entry_bytes
    # The linker pads the table to a page; an entry of zeros would point to itself, which is not code.
    used = int(data.nonzero()[0][-1]) + 1 if data.any() else 0
    count = -(-used // size)
    rows = np.zeros((count, size), np.uint8)
    whole = data[: count * size]
    rows.reshape(-1)[: len(whole)] = whole
    at = np.uint64(address) + np.arange(count, dtype=np.uint64) * np.uint64(size)
    places = _pointed(rows, 0, at, layout.place, code.wraps)
    sensible = code.holds(places)
    if layout.length_at >= 0:
        lengths = rows[:, layout.length_at].astype(np.uint64)
    else:
        by_byte = np.full(256, layout.lengths[1], np.uint64)
        for first, length in layout.lengths[0].items():
            by_byte[first] = length
        lengths = np.zeros(count, np.uint64)
        lengths[sensible] = by_byte[code.first_bytes(places[sensible])]
    sensible &= lengths > 0
    if layout.replacement_at >= 0:
        replacements = _pointed(rows, layout.replacement_at, at, layout.place, code.wraps)
        sizes = rows[:, layout.replacement_length_at].astype(np.uint64)
        sensible &= (sizes <= lengths) & ((sizes == 0) | code.holds(replacements))
    starts = places[sensible]
    order = np.argsort(starts, kind="stable")
    starts = starts[order]
    reach = np.maximum.accumulate(starts + lengths[sensible][order])
    share = float(sensible.mean()) if count else 1.0
    return PatchTable(name, count, size, starts, reach), share


def _pointed(rows: U8, offset: int, at: U64, kind: str, wraps: int) -> U64:
    """Return the addresses that one field of each entry points to."""
    width = int(kind[-1])
    raw = np.ascontiguousarray(rows[:, offset : offset + width]).view(kind).reshape(-1)
    if kind != "<i4":
        return raw.astype(np.uint64)
    # Unsigned sums wrap as the processor's do.
    pointed: U64 = at + np.uint64(offset) + raw.astype(np.int64).view(np.uint64)
    return pointed & np.uint64((1 << wraps) - 1)
