"""Find the structs that a kernel's variables are or point to, and that its functions' parameters point to.

A function is found through the units that cover its address.  Nothing says which unit has a variable,
so .debug_info is searched for bytes that are a location at the variable's address, and the DIE that
contains them is read.  One pass finds all variables, including those static in functions.

Types in type units and in supplementary files are not followed: variables and functions with such a type
are left out, with a note.

Source: DWARF 5 section 2.5.1.1 (DW_OP_addr, DW_OP_addrx), section 3.3 (subroutines), section 4.1
(variables and parameters), section 5.3 (type modifiers).
"""

from __future__ import annotations

import bisect
import itertools
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

from xtrace.symbols.dwarf.coverage import aranges, coverage
from xtrace.symbols.dwarf.forms import AT, TAG, uleb, uleb_bytes
from xtrace.symbols.dwarf.search import Notes, candidates, subprograms
from xtrace.symbols.dwarf.sections import DwarfError, debug_sections, find_all, find_words
from xtrace.symbols.dwarf.shapes import Budget, ExhaustedError
from xtrace.symbols.dwarf.units import Die, Unit, Units
from xtrace.symbols.image.image import Image

_BUDGET = 8_000_000
_SCANNED_BYTES_A_UNIT_OF_BUDGET = 4096
_MOST_PARAMETERS = 256
#: Most DIEs to follow through qualifiers, typedefs, origins and specifications.
_LONGEST_CHAIN = 32
_LAST_ADDRESS = 0xFFFF_FFFF_FFFF_FFFF
_STRUCTS = (TAG["structure_type"], TAG["class_type"], TAG["union_type"])
_SAME_VALUE = tuple(
    TAG[name] for name in ("typedef", "const_type", "volatile_type", "restrict_type", "atomic_type")
)
_OP_ADDR, _OP_ADDRX = 0x03, 0xA1
_NOT_FOLLOWED = "a type in a type unit or another file, which is not followed"
#: GCC's suffix for a function whose pointer parameters it replaced with parts of what they point to.
_SCALARS_REPLACED = ".isra."


def parameter_structs(
    image: Image, functions: Iterable[int], damage: list[str] | None = None
) -> dict[int, tuple[str, ...]]:
    """Return the tags of the structs that the parameters of functions point to, in order.

    "" is a parameter that is not a pointer, of exactly one level, to a struct or union with a tag.
    Functions that DWARF does not describe are left out, as are those whose symbol (.isra) says that their
    parameters differ from what DWARF lists.  Parameters that a clone (.constprop, .part) does not take
    come after the others, as GCC lists them.

    Args:
        functions: addresses at which functions begin.
        damage: is extended with short reasons why functions may be missing.
    """
    wanted = [
        address
        for address in _sorted_addresses(functions)
        if not any(_SCALARS_REPLACED in name for name in image.symbols.at(address))
    ]
    notes = _Notes(damage)
    found: dict[int, tuple[str, ...]] = {}
    units = _units(image, notes) if wanted else None
    if units is None:
        return found
    try:
        for unit, group in _units_covering(units, wanted, found):
            with notes.of(unit):
                _read_functions(unit, set(group), found, notes)
    except (DwarfError, IndexError) as error:
        notes.add(_what(error))
    notes.add(units.damage)
    notes.add(units.budget.damage)
    return found


def variable_structs(
    image: Image, addresses: Iterable[int], damage: list[str] | None = None
) -> dict[int, str]:
    """Return the tags of the structs that variables are, or otherwise point to by exactly one level.

    "" is a variable that is neither: an array, a number, a struct without a tag.  Variables that DWARF
    does not describe are left out.

    Args:
        addresses: where variables begin; an address inside a variable finds nothing.
        damage: is extended with short reasons why variables may be missing.
    """
    wanted = frozenset(_sorted_addresses(addresses))
    notes = _Notes(damage)
    found: dict[int, str] = {}
    units = _units(image, notes) if wanted else None
    if units is None:
        return found
    try:
        for unit, places in itertools.chain(
            _stated_places(units, wanted), _indexed_places(units, wanted, notes)
        ):
            with notes.of(unit):
                _read_variables(unit, places, wanted, found, notes)
            unit.forget()
    except (DwarfError, IndexError) as error:
        notes.add(_what(error))
    notes.add(units.damage)
    notes.add(units.budget.damage)
    return found


class _Notes(Notes):
    @contextmanager
    def of(self, unit: Unit, at: int = 0) -> Iterator[None]:
        """Note damage at an offset in a unit, and continue after the ``with`` block."""
        try:
            yield
        except ExhaustedError:
            raise
        except (DwarfError, IndexError) as error:
            self.add(f".debug_info at {unit.offset + at:#x}: {_what(error)}")


def _what(error: ValueError | IndexError) -> str:
    return "the DWARF ends early" if isinstance(error, IndexError) else str(error)


def _sorted_addresses(numbers: Iterable[int]) -> list[int]:
    return sorted({int(number) for number in numbers if 0 <= number <= _LAST_ADDRESS})


def _units(image: Image, notes: _Notes) -> Units | None:
    try:
        sections = debug_sections(image)
    except DwarfError as error:
        notes.add(str(error))
        return None
    return Units(sections, Budget(_BUDGET)) if sections is not None else None


def _units_covering(
    units: Units, addresses: list[int], found: Collection[int]
) -> Iterator[tuple[Unit, list[int]]]:
    """Yield each unit with the addresses that it covers and that are not in ``found`` yet."""
    listed = aranges(units.sections.aranges)
    yield from candidates(units, listed, addresses, found)
    left = [address for address in addresses if address not in found]
    if left:
        yield from candidates(units, coverage(units, listed.units), left, found)


def _read_functions(unit: Unit, wanted: set[int], found: dict[int, tuple[str, ...]], notes: _Notes) -> None:
    """Add the parameters of a unit's functions, and remove the functions from ``wanted``."""
    for die in subprograms(unit):
        with notes.of(unit, die.at):
            entry = _entry(die)
            if entry is not None and entry in wanted:
                found[entry] = tuple(_pointed(_plain(_type(each))) for each in _parameters(die))
                wanted.remove(entry)
        if not wanted:
            return


def _entry(function: Die) -> int | None:
    """Return where a function begins; if it has several ranges, the first, as compilers list them."""
    low = function.attributes.get(AT["low_pc"])
    if low is not None:
        return function.unit.address(*low)
    ranges = function.ranges()
    return ranges[0][0] if ranges else None


def _parameters(function: Die) -> list[Die]:
    """Return the parameters of a function, or those of what it is an instance or the definition of."""
    for die in _origins(function):
        own = (child for child in die.unit.children(die) if child.tag == TAG["formal_parameter"])
        if parameters := list(itertools.islice(own, _MOST_PARAMETERS)):
            return parameters
    return []


def _origins(die: Die) -> Iterator[Die]:
    """Yield a DIE, what it is an instance or the definition of, and so on."""
    following: Die | None = die
    for _ in range(_LONGEST_CHAIN):
        if following is None:
            return
        yield following
        following = following.referred(AT["abstract_origin"]) or following.referred(AT["specification"])
    raise DwarfError("an endless chain of abstract origins")


def _type(die: Die) -> Die | None:
    """Return the type of a DIE, None for void."""
    for owner in _origins(die):
        if AT["type"] in owner.attributes:
            found = owner.referred(AT["type"])
            if found is None:
                raise DwarfError(_NOT_FOLLOWED)
            return found
    return None


def _plain(kind: Die | None) -> Die | None:
    """Return a type without its qualifiers and typedefs."""
    for _ in range(_LONGEST_CHAIN):
        if kind is None or kind.tag not in _SAME_VALUE:
            return kind
        kind = _type(kind)
    raise DwarfError("an endless chain of types")


def _pointed(kind: Die | None) -> str:
    """Return the tag of the struct that a plain type points to, "" for none."""
    return _tag(_plain(_type(kind))) if kind is not None and kind.tag == TAG["pointer_type"] else ""


def _tag(kind: Die | None) -> str:
    if kind is None or kind.tag not in _STRUCTS:
        return ""
    name = kind.text(AT["name"])
    # For a struct in a type unit, GCC emits a nameless DIE with the unit's signature.
    if not name and AT["signature"] in kind.attributes:
        raise DwarfError(_NOT_FOLLOWED)
    return name


def _stated_places(units: Units, wanted: Collection[int]) -> Iterator[tuple[Unit, list[int]]]:
    """Yield each unit with the offsets in it that may hold DW_OP_addr and a wanted address."""
    info = units.sections.info
    for unit, group in itertools.groupby(_words_at(units, info, wanted), units.unit_holding):
        if unit is None:
            continue
        width = unit.widths.address
        places = [
            place - 1 - unit.offset
            for place in group
            if info[place - 1] == _OP_ADDR and int.from_bytes(info[place : place + width], "little") in wanted
        ]
        if places:
            yield unit, places


def _indexed_places(units: Units, wanted: Collection[int], notes: _Notes) -> Iterator[tuple[Unit, list[int]]]:
    """Yield each unit with the offsets in it that may hold the index of a wanted address."""
    places = list(_words_at(units, units.sections.addr, wanted))
    if not places:
        return
    owners: dict[int, list[Unit]] = defaultdict(list)
    for unit in units.all:
        with notes.of(unit):
            if (base := unit.top.integer(AT["addr_base"])) is not None:
                owners[base].append(unit)
    bases = sorted(owners)
    indices: dict[int, set[int]] = defaultdict(set)
    for place in places:
        which = bisect.bisect_right(bases, place) - 1
        for unit in owners[bases[which]] if which >= 0 else ():
            units.budget.spend(1)
            index, odd = divmod(place - bases[which], unit.widths.address)
            if not odd:
                indices[unit.offset].add(index)
    for offset, its_indices in sorted(indices.items()):
        unit = units.unit_at(offset)
        with notes.of(unit):
            found = sorted(place for index in its_indices for place in _index_places(unit, index))
            yield unit, found


def _index_places(unit: Unit, index: int) -> Iterator[int]:
    """Yield the offsets in a unit at which DW_OP_addrx of an index may be a whole location."""
    expression = bytes((_OP_ADDRX, *uleb_bytes(index)))
    unit.owner.budget.spend(1 + len(unit.data) // _SCANNED_BYTES_A_UNIT_OF_BUDGET)
    for place in find_all(memoryview(unit.data), bytes((len(expression), *expression))):
        unit.owner.budget.spend(1)
        yield place + 1


def _words_at(units: Units, section: memoryview, wanted: Collection[int]) -> Iterator[int]:
    """Yield the offsets in a section of the lower 32 bits of wanted addresses."""
    words = {address & 0xFFFF_FFFF for address in wanted}
    passes = len({word >> 16 for word in words})
    units.budget.spend(len(section) * passes // _SCANNED_BYTES_A_UNIT_OF_BUDGET)
    for place in find_words(section, words):
        units.budget.spend(4)
        yield place


def _read_variables(
    unit: Unit, places: list[int], wanted: Collection[int], found: dict[int, str], notes: _Notes
) -> None:
    """Add the variables whose locations are at some offsets in a unit."""
    for die in _dies_over(unit, places):
        if die.tag != TAG["variable"]:
            continue
        with notes.of(unit, die.at):
            address = _address(die)
            if address is not None and address in wanted and not found.get(address):
                kind = _plain(_type(die))
                found[address] = _tag(kind) or _pointed(kind)


def _dies_over(unit: Unit, places: list[int]) -> Iterator[Die]:
    """Yield once each DIE whose own bytes contain any of some ascending offsets in a unit."""
    scopes = [(unit.top, places)]
    while scopes:
        parent, inside = scopes.pop()
        dies = itertools.chain(unit.children(parent), (None,))
        for die, behind in itertools.pairwise(dies):
            if die is None:
                break
            first = bisect.bisect_left(inside, die.at)
            last = bisect.bisect_left(inside, behind.at) if behind is not None else len(inside)
            below = bisect.bisect_left(inside, die.end, first, last)
            if first < below:
                yield die
            if below < last:
                scopes.append((die, inside[below:last]))
            if last == len(inside):
                break


def _address(variable: Die) -> int | None:
    """Return the address of a variable, None where it has no fixed one."""
    _, block = variable.attributes.get(AT["location"], (0, b""))
    if not isinstance(block, bytes) or not block:
        return None
    width = variable.unit.widths.address
    if block[0] == _OP_ADDR and len(block) == 1 + width:
        return int.from_bytes(block[1:], "little")
    if block[0] == _OP_ADDRX:
        index, end = uleb(block, 1)
        return variable.unit.indexed_address(index) if end == len(block) else None
    return None
