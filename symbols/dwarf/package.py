"""Read a .dwp package: the .dwo files of an image joined in one file, with indices of their units.

Each unit has a part of each section. Offsets in a unit are relative to its parts, except those of strings:
all units share .debug_str.dwo.

Source: DWARF 5 section 7.3.5 (DWARF package files); GCC's DebugFissionDWP for version 2, of DWARF 4.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

import numpy as np

from xtrace.symbols.dwarf.forms import number
from xtrace.symbols.dwarf.sections import DebugSections, DwarfError, find_all, find_words, name_offsets
from xtrace.symbols.dwarf.shapes import Budget

#: The largest kernels have some 5,000 units, and as many types again.
_MOST_UNITS = 200_000
#: There are eight kinds of section.
_MOST_COLUMNS = 16
_HEAD_BYTES = 16
#: DW_SECT_*: which section a column is about, by the version of the index; others are not read here.
_COLUMNS = {
    2: {1: "info", 2: "types", 3: "abbrev", 4: "line", 6: "str_offsets"},
    5: {1: "info", 3: "abbrev", 4: "line", 6: "str_offsets", 8: "rnglists"},
}
#: The sections that are parts of a unit in either version.
_PARTS = ("info", "types", "abbrev", "line", "str_offsets", "rnglists")
_NOTHING = memoryview(b"")


@dataclass(frozen=True, slots=True)
class _Entry:
    """A unit in an index: its signature, and offset and size of its part of each section."""

    signature: int
    parts: dict[str, tuple[int, int]]


class Package:
    """The units of a .dwp file.

    Args:
        sections: of the file.

    Attributes:
        signatures: of the units that are not type units.

    Raises:
        DwarfError: an index is damaged, or there is none.
    """

    def __init__(self, sections: DebugSections) -> None:
        if not sections.cu_index:
            raise DwarfError("has no .debug_cu_index")
        self._sections = sections
        self._units = _index(sections.cu_index, ".debug_cu_index")
        self._types = _index(sections.tu_index, ".debug_tu_index") if sections.tu_index else []
        self.signatures = frozenset(unit.signature for unit in self._units)

    def naming(
        self, names: Collection[bytes], wanted: Collection[int], budget: Budget
    ) -> Iterator[tuple[DebugSections, list[int]]]:
        """Yield each unit that may have a DIE with one of some names, types first.

        Yields:
            the unit's parts of the sections, and where the names are in .debug_str.dwo.

        Args:
            names: each ends in a zero byte.
            wanted: signatures of the units to look at, besides type units.
        """
        sections = self._sections
        spelled = len(sections.str) + len(sections.info) + len(sections.types)
        budget.scan(spelled * len(names) + len(sections.str_offsets))
        offsets = name_offsets(sections.str, names)
        places = {
            "info": sorted(itertools.chain.from_iterable(find_all(sections.info, name) for name in names)),
            "types": sorted(itertools.chain.from_iterable(find_all(sections.types, name) for name in names)),
            "str_offsets": list(find_words(sections.str_offsets, offsets)) if offsets else [],
        }
        seen: set[tuple[int, int]] = set()
        units = [unit for unit in self._units if unit.signature in wanted]
        for unit in (*self._types, *units):
            own = unit.parts.get("types", unit.parts.get("info", (0, 0)))
            if own in seen or not any(_has(places[name], unit.parts.get(name)) for name in places):
                continue
            seen.add(own)
            yield self._part(unit), offsets

    def _part(self, unit: _Entry) -> DebugSections:
        """Return a unit's parts of the sections."""
        parts: dict[str, memoryview] = dict.fromkeys(_PARTS, _NOTHING)
        for name, (start, size) in unit.parts.items():
            section: memoryview = getattr(self._sections, name)
            if start + size > len(section):
                raise DwarfError(f"an index entry past the end of .debug_{name}.dwo")
            parts[name] = section[start : start + size]
        return replace(
            self._sections,
            info=parts["info"],
            types=parts["types"],
            abbrev=parts["abbrev"],
            line=parts["line"],
            str_offsets=parts["str_offsets"],
            rnglists=parts["rnglists"],
        )


def _has(places: list[int], part: tuple[int, int] | None) -> bool:
    """Return whether some of the sorted offsets are in a unit's part."""
    if part is None:
        return False
    first = int(np.searchsorted(places, part[0]))
    return first < len(places) and places[first] < part[0] + part[1]


def _index(section: memoryview, name: str) -> list[_Entry]:
    """Return the units of an index in the order of its rows."""
    version = number(section, 0, 2)
    if version not in _COLUMNS or number(section, 2, 2):
        raise DwarfError(f"{name}: unsupported version {number(section, 0, 4):#x}")
    columns, units, slots = (number(section, at, 4) for at in (4, 8, 12))
    if not units:
        return []
    if not 1 <= columns <= _MOST_COLUMNS or units > _MOST_UNITS or slots > 4 * _MOST_UNITS:
        raise DwarfError(f"{name}: {units:,} units with {columns:,} sections in {slots:,} slots")
    rows_at = _HEAD_BYTES + 8 * slots
    table_at = rows_at + 4 * slots
    if table_at + 4 * columns * (1 + 2 * units) > len(section):
        raise DwarfError(f"{name}: ends early")
    keys = np.frombuffer(section, "<u8", slots, _HEAD_BYTES)
    rows = np.frombuffer(section, "<u4", slots, rows_at)
    table = np.frombuffer(section, "<u4", columns * (1 + 2 * units), table_at).reshape(-1, columns)
    used = np.flatnonzero(rows)
    if (rows[used] > units).any():
        raise DwarfError(f"{name}: a slot for a unit that it does not have")
    known = _COLUMNS[version]
    names = [known.get(int(kind)) for kind in table[0]]
    found = []
    for slot in used[np.argsort(rows[used], kind="stable")].tolist():
        row = int(rows[slot])
        pairs = zip(names, table[row].tolist(), table[row + units].tolist(), strict=True)
        found.append(
            _Entry(int(keys[slot]), {part: (start, size) for part, start, size in pairs if part is not None})
        )
    return found
