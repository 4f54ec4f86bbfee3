"""Which units to read for some addresses, the functions in one, and notes of what is damaged there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator

from xtrace.symbols.dwarf.coverage import Coverage
from xtrace.symbols.dwarf.forms import TAG
from xtrace.symbols.dwarf.units import Die, Unit, Units

_MOST_DAMAGE = 20
#: Of the units that claim an address, so many are asked.
_MOST_CANDIDATES = 4
#: What functions lie in, besides the unit itself.
_SCOPES = (TAG["namespace"], TAG["module"])


class Notes:
    """What is damaged, each thing once and no more than can be read."""

    def __init__(self, notes: list[str] | None) -> None:
        self._notes = [] if notes is None else notes

    def add(self, note: str) -> None:
        """Take a note; "" is none."""
        if note and note not in self._notes and len(self._notes) < _MOST_DAMAGE:
            self._notes.append(note)


def candidates(
    units: Units, covering: Coverage, addresses: list[int], found: Collection[int]
) -> Iterator[tuple[Unit, list[int]]]:
    """Yield units with the addresses, not found by then, that they claim to cover."""
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
    """Yield the functions of a unit, those in namespaces and modules too."""
    scopes = [unit.top]
    while scopes:
        for die in unit.children(scopes.pop()):
            if die.tag == TAG["subprogram"]:
                yield die
            elif die.tag in _SCOPES:
                scopes.append(die)
