"""Which units cover which addresses: from .debug_aranges, or otherwise from the units' own DIEs.

Source: DWARF 5 section 6.1.2 and 7.21 (.debug_aranges).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from xtrace.symbols.dwarf.forms import initial_length, number
from xtrace.symbols.dwarf.sections import DwarfError
from xtrace.symbols.dwarf.units import Units

_MOST_ENTRIES = 2_000_000
#: Units overlap where the linker discarded sections, or where a file is forged.
_MOST_OVERLAPS = 64
_LAST_ADDRESS = 0xFFFF_FFFF_FFFF_FFFF


class Coverage:
    """Which units cover which addresses."""

    def __init__(
        self, starts: npt.NDArray[np.uint64], ends: npt.NDArray[np.uint64], units: npt.NDArray[np.int64]
    ) -> None:
        """Take three columns: first address, end address (exclusive), offset of the unit in .debug_info."""
        # A range that ends before it starts is empty; one that starts at 0 was discarded by the linker.
        real = (starts < ends) & (starts > 0)
        order = np.argsort(starts[real], kind="stable")
        self._starts = starts[real][order]
        self._ends = ends[real][order]
        self._units = units[real][order]
        self._reach = np.maximum.accumulate(self._ends)

    @property
    def units(self) -> set[int]:
        """The offsets of all units that cover any address."""
        return set(self._units.tolist())

    def units_of(self, address: int) -> list[int]:
        """Return the offsets of the units that cover an address, the closest start first."""
        found: list[int] = []
        place = int(np.searchsorted(self._starts, np.uint64(address), "right")) - 1
        for index in range(place, max(place - _MOST_OVERLAPS, -1), -1):
            if self._reach[index] <= address:
                break
            if address < self._ends[index]:
                found.append(int(self._units[index]))
        return list(dict.fromkeys(found))


def coverage(units: Units, known: set[int]) -> Coverage:
    """Return the coverage that unit DIEs state themselves, without the units in ``known``."""
    found: list[tuple[int, int, int]] = []
    for unit in units.all:
        if unit.offset in known:
            continue
        try:
            found += [(low, high, unit.offset) for low, high in unit.top.ranges() if high <= _LAST_ADDRESS]
            unit.forget()
        except (DwarfError, IndexError):
            continue  # its DIE does not say what it covers
        if len(found) > _MOST_ENTRIES:
            break
    table = np.array(found, np.uint64).reshape(-1, 3)
    return Coverage(table[:, 0], table[:, 1], table[:, 2].astype(np.int64))


def aranges(section: memoryview) -> Coverage:
    """Return the coverage in .debug_aranges, up to the first damaged set.

    For units that it lacks, ask ``coverage``.
    """
    pairs: list[npt.NDArray[np.uint64]] = [np.empty((0, 2), np.uint64)]
    units: list[npt.NDArray[np.int64]] = [np.empty(0, np.int64)]
    at, entries = 0, 0
    try:
        while at < len(section) and entries <= _MOST_ENTRIES:
            start = at
            length, width, at = initial_length(section, at)
            end = at + length
            unit = number(section, at + 2, width)
            address_bytes = section[at + 2 + width]
            if end > len(section) or address_bytes not in (4, 8) or unit >> 63:
                break
            # The pairs are aligned to their own size.
            at += 4 + width
            at += -(at - start) % (2 * address_bytes)
            count = max(end - at, 0) // (2 * address_bytes)
            table = np.frombuffer(section, f"<u{address_bytes}", 2 * count, at).reshape(-1, 2)
            pairs.append(table.astype(np.uint64))
            units.append(np.full(count, unit, np.int64))
            entries += 1 + count
            at = end
    except (ValueError, IndexError):
        pass
    both = np.concatenate(pairs)
    return Coverage(both[:, 0], both.sum(axis=1, dtype=np.uint64), np.concatenate(units))
