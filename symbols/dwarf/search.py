"""Find the units to read for some addresses and the functions in a unit; collect notes on damage."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator

from xtrace.symbols.dwarf.coverage import Coverage
from xtrace.symbols.dwarf.forms import TAG
from xtrace.symbols.dwarf.units import Die, Unit, Units

_MOST_DAMAGE = 20
#: How many of the units that claim an address are read.
_MOST_CANDIDATES = 4
#: DIEs that contain functions, besides the unit itself.
_SCOPES = (TAG["namespace"], TAG["module"])


class Notes:
    """Notes on damage, each once, up to a limit that a person can read."""

    def __init__(self, notes: list[str] | None) -> None:
        self._notes = [] if notes is None else notes

    def add(self, note: str) -> None:
        """Add a note; "" adds none."""
        if note and note not in self._notes and len(self._notes) < _MOST_DAMAGE:
            self._notes.append(note)


def candidates(
    units: Units, covering: Coverage, addresses: list[int], found: Collection[int]
) -> Iterator[tuple[Unit, list[int]]]:
    """Yield each unit with the addresses that it claims to cover and that are not in ``found`` yet."""
    claims = {address: covering.units_of(address) for address in addresses}
    for rank in range(_MOST_CANDIDATES):
        by_unit: dict[int, list[int]] = defaultdict(list)
        for address, offsets in claims.items():
            if rank < len(offsets) and address not in found:
                by_unit[offsets[rank]].append(address)
        for offset, group in sorted(by_unit.items()):
            unit = units.unit_holding(offset)
            if unit is not None:
                yield unit, group
                unit.forget()


def subprograms(unit: Unit) -> Iterator[Die]:
    """Yield the functions of a unit, including those in namespaces and modules."""
    scopes = [unit.top]
    while scopes:
        for die in unit.children(scopes.pop()):
            if die.tag == TAG["subprogram"]:
                yield die
            elif die.tag in _SCOPES:
                scopes.append(die)
