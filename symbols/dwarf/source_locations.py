"""Find the source location of an address, and the functions inlined there.

Only the units that cover the addresses are read, found by .debug_aranges or otherwise by the units' own DIEs.

Source: DWARF 5 section 3.3.8 (inlined subroutines), section 6.1.2 (lookup by address).
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from xtrace.symbols.dwarf.coverage import Coverage, aranges, coverage
from xtrace.symbols.dwarf.forms import AT, TAG
from xtrace.symbols.dwarf.lines import LineTable, line_table
from xtrace.symbols.dwarf.search import Notes, candidates, subprograms
from xtrace.symbols.dwarf.sections import DwarfError, debug_sections
from xtrace.symbols.dwarf.shapes import Budget
from xtrace.symbols.dwarf.types import member_offsets
from xtrace.symbols.dwarf.units import Die, Unit, Units
from xtrace.symbols.image.image import Image

__all__ = ["Frame", "SourceLocation", "lines_of", "member_offsets"]

_BUDGET = 8_000_000
_LAST_ADDRESS = 0xFFFF_FFFF_FFFF_FFFF


@dataclass(frozen=True, slots=True)
class Frame:
    """A function that an address lies in, and the line there: the address's own, or of the inlined call."""

    function: str
    file: str
    line: int


@dataclass(frozen=True, slots=True)
class SourceLocation:
    """Where an address comes from.

    Attributes:
        file, line: of the source; line 0 is code without a line.
        function: the innermost function, inlined or not; "" where DWARF names none.
        inline: where code was inlined, the functions from the innermost out to the one that contains
            the code; otherwise empty.
    """

    file: str
    line: int
    function: str = ""
    inline: tuple[Frame, ...] = ()


def lines_of(
    image: Image, addresses: Sequence[int], damage: list[str] | None = None
) -> dict[int, SourceLocation]:
    """Return the source location of each address that the image's DWARF covers.

    Args:
        damage: is extended with short reasons why locations or inlined functions may be missing.
    """
    notes = Notes(damage)
    found: dict[int, SourceLocation] = {}
    wanted = sorted({int(address) for address in addresses if 0 <= address <= _LAST_ADDRESS})
    try:
        sections = debug_sections(image)
    except DwarfError as error:
        notes.add(str(error))
        return found
    if sections is None or not wanted:
        return found
    units = Units(sections, Budget(_BUDGET))
    listed = aranges(sections.aranges)
    _find(units, listed, wanted, found, notes)
    left = [address for address in wanted if address not in found]
    if left:
        _find(units, coverage(units, listed.units), left, found, notes)
    notes.add(units.damage)
    notes.add(units.budget.damage)
    return found


def _find(
    units: Units, covering: Coverage, addresses: list[int], found: dict[int, SourceLocation], notes: Notes
) -> None:
    for unit, group in candidates(units, covering, addresses, found):
        try:
            found |= _places(unit, group, notes)
        except (DwarfError, IndexError) as error:
            notes.add(_note(unit.offset, error))


def _note(offset: int, error: ValueError | IndexError) -> str:
    what = "ends early" if isinstance(error, IndexError) else str(error)
    return f"unit at {offset:#x} in .debug_info: {what}"


def _places(unit: Unit, addresses: list[int], notes: Notes) -> dict[int, SourceLocation]:
    program = unit.top.integer(AT["stmt_list"])
    if program is None:
        return {}
    table = line_table(unit, program, addresses)
    places = {
        address: SourceLocation(path, line)
        for address, (file, line) in table.rows.items()
        if (path := table.path(file))
    }
    try:
        for address, functions in _functions(unit, sorted(places)).items():
            places[address] = _framed(places[address], functions, table)
    except (DwarfError, IndexError) as error:
        notes.add(_note(unit.offset, error))
    return places


def _framed(place: SourceLocation, functions: tuple[Die, ...], table: LineTable) -> SourceLocation:
    """Return a location with its functions, which are given from the innermost out."""
    frames = [Frame(functions[0].name(), place.file, place.line)]
    for inlined, caller in itertools.pairwise(functions):
        file = table.path(inlined.integer(AT["call_file"]) or 0)
        frames.append(Frame(caller.name(), file, inlined.integer(AT["call_line"]) or 0))
    return SourceLocation(
        place.file, place.line, frames[0].function, tuple(frames) if len(frames) > 1 else ()
    )


def _functions(unit: Unit, addresses: list[int]) -> dict[int, tuple[Die, ...]]:
    """Return the functions that each address lies in, from the innermost out.

    The innermost has the smallest range; of ranges of equal size the later one counts, as in GNU addr2line.
    """
    best: dict[int, tuple[int, tuple[Die, ...]]] = {}

    def offer(chain: tuple[Die, ...]) -> bool:
        here = False
        for low, high in chain[0].ranges():
            first, last = bisect.bisect_left(addresses, low), bisect.bisect_left(addresses, high)
            for address in addresses[first:last]:
                here = True
                if address not in best or high - low <= best[address][0]:
                    best[address] = high - low, chain
            unit.owner.budget.spend(max(last - first, 0))
        return here

    for function in subprograms(unit):
        if not offer((function,)):
            continue
        open_dies = [function]
        for depth, die in unit.below(function):
            del open_dies[depth:]
            open_dies.append(die)
            if die.tag == TAG["inlined_subroutine"]:
                offer(_chain(open_dies))
            elif die.tag == TAG["subprogram"]:
                offer((die,))
    return {address: chain for address, (_, chain) in best.items()}


def _chain(open_dies: list[Die]) -> tuple[Die, ...]:
    """Return the functions among nested DIEs, from the innermost out to the one that is not inlined."""
    chain = []
    for die in reversed(open_dies):
        if die.tag == TAG["inlined_subroutine"]:
            chain.append(die)
        elif die.tag == TAG["subprogram"]:
            return (*chain, die)
    return tuple(chain)
