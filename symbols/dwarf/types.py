"""Find the offsets of the members of a few structs in DWARF of any size.

A kernel's DWARF has no index of types.  So the struct's name is looked up in .debug_str, and .debug_info
is searched for bytes that refer to it; where these bytes may be the name of a struct's DIE, the DIE is
read.  Members of unnamed structs and unions inside a struct do not count as its members here.

Source: DWARF 5 section 5.7 (structure types), section 7.5.5 (forms of a name).
"""

from __future__ import annotations

import bisect
import itertools
from collections import defaultdict
from collections.abc import Iterator, Set

from xtrace.symbols.dwarf.forms import AT, FORM, TAG, uleb, uleb_bytes
from xtrace.symbols.dwarf.sections import DwarfError, debug_sections, find_all, find_words, name_offsets
from xtrace.symbols.dwarf.shapes import Budget, ExhaustedError
from xtrace.symbols.dwarf.split import split_of
from xtrace.symbols.dwarf.units import Die, Unit, Units
from xtrace.symbols.image.image import Image

_STRUCTS = (TAG["structure_type"], TAG["class_type"], TAG["union_type"])
#: About a second of reading DIEs or searching sections.
_BUDGET = 1_000_000
_MOST_MEMBERS = 10_000
#: DW_OP_plus_uconst, as DWARF 2 writes a member's offset.
_PLUS_UCONST = 0x23


def member_offsets(
    image: Image, members: Set[tuple[str, str]], damage: list[str] | None = None
) -> dict[tuple[str, str], int]:
    """Return the offsets in bytes of the members that the image's DWARF describes.

    Args:
        members: (struct, member) names; a struct's name is its tag.
        damage: is extended with short reasons why members may be missing.
    """
    notes: list[str] = [] if damage is None else damage
    found: dict[tuple[str, str], int] = {}
    try:
        sections = debug_sections(image)
    except DwarfError as error:
        notes.append(str(error))
        return found
    if sections is None:
        return found
    wanted: dict[str, set[str]] = defaultdict(set)
    for struct, member in members:
        wanted[struct].add(member)
    units = Units(sections, Budget(_BUDGET))
    missing = set(wanted)
    try:
        for struct, die in _in_all(image, units, missing, notes):
            offsets = _offsets(die)
            found |= {(struct, name): offsets[name] for name in wanted[struct] if name in offsets}
    except (DwarfError, IndexError) as error:
        notes.append(f"struct members: {error}; give their offsets by hand")
    if units.damage:
        notes.append(units.damage)
    return found


def _in_all(image: Image, units: Units, missing: set[str], notes: list[str]) -> Iterator[tuple[str, Die]]:
    """Yield the definitions in the units, in DWARF 4's type units, and in .dwo files or their package."""
    yield from _definitions(units, missing)
    if missing and units.type_units is not None:
        yield from _definitions(units.type_units, missing)
    if not missing:
        return
    split = split_of(image, units)
    for sections, offsets in split.sections(_spelled(missing), units.budget):
        others = Units(sections, units.budget)
        yield from _definitions(others, missing, offsets)
        if missing and others.type_units is not None:
            yield from _definitions(others.type_units, missing, offsets)
        if not missing:
            return
    if split.note():
        notes.append(split.note())


def _spelled(missing: set[str]) -> set[bytes]:
    return {struct.encode() + b"\0" for struct in missing}


def _definitions(
    units: Units, missing: set[str], offsets: list[int] | None = None
) -> Iterator[tuple[str, Die]]:
    """Yield the first DIE found that defines each struct, and remove the struct from ``missing``.

    Args:
        offsets: where the structs' names are in .debug_str, if that is known.
    """
    names = _spelled(missing)
    if offsets is None:
        offsets = name_offsets(units.sections.str, names)
    for die in itertools.chain(
        _dies_by_offset(units, offsets), _dies_by_spelling(units, names), _dies_by_index(units, offsets)
    ):
        struct = die.text(AT["name"])
        if struct in missing and _defines(die):
            missing.remove(struct)
            yield struct, die
        if not missing:
            return


def _dies_by_offset(units: Units, offsets: list[int]) -> Iterator[Die]:
    """Yield the struct DIEs whose name is an offset into .debug_str."""
    if not offsets:
        return
    info = units.sections.info
    units.budget.scan(len(info) * len({offset >> 16 for offset in offsets}))
    yield from _dies_named_at(units, find_words(info, offsets), FORM["strp"])


def _dies_by_spelling(units: Units, names: set[bytes]) -> Iterator[Die]:
    """Yield the struct DIEs that hold their name inline (DW_FORM_string)."""
    for name in sorted(names):
        units.budget.scan(len(units.sections.info))
        yield from _dies_named_at(units, find_all(units.sections.info, name), FORM["string"])


def _dies_by_index(units: Units, offsets: list[int]) -> Iterator[Die]:
    """Yield the DIEs of the units whose part of .debug_str_offsets has one of the names."""
    places = list(find_words(units.sections.str_offsets, offsets)) if offsets else []
    if not places:
        return
    owners: dict[int, list[int]] = defaultdict(list)
    for unit in units.every:
        owners[unit.string_base].append(unit.offset)
    bases = sorted(owners)
    indices = {bisect.bisect_right(bases, place) - 1 for place in places}
    # Type units share the table of the unit that they come from.
    for index in sorted(indices - {-1}):
        for offset in owners[bases[index]]:
            unit = units.unit_at(offset)
            yield from unit.children(unit.top)
            unit.forget()


def _dies_named_at(units: Units, places: Iterator[int], form: int) -> Iterator[Die]:
    """Yield the struct DIEs whose name, in the given form, is at one of some offsets in .debug_info."""
    for holder, group in itertools.groupby(places, units.unit_holding):
        if holder is None:
            continue
        for place in group:
            try:
                yield from _dies_at(holder, place - holder.offset, form)
            except ExhaustedError:
                raise
            except (DwarfError, IndexError):
                continue  # these bytes only looked like a name
        holder.forget()


def _dies_at(unit: Unit, place: int, form: int) -> list[Die]:
    starts = [
        place - before - len(code)
        for code, before in _name_places(unit, form)
        if unit.data.startswith(code, max(place - before - len(code), 0))
    ]
    return [unit.die(start) for start in starts if start >= unit.first]


def _name_places(unit: Unit, form: int) -> Iterator[tuple[bytes, int]]:
    """Yield the code of each shape of a unit's struct DIEs, and the bytes between it and the name."""
    for code, shape in unit.abbreviations.all():
        if shape.tag not in _STRUCTS:
            continue
        before = 0
        for attribute, its_form, size, _ in shape.specifications:
            if attribute == AT["name"] and its_form == form:
                yield uleb_bytes(code), before
            if size < 0:
                break
            before += size


def _defines(die: Die) -> bool:
    return (
        die.tag in _STRUCTS
        and die.has_children
        and AT["declaration"] not in die.attributes
        and AT["byte_size"] in die.attributes
    )


def _offsets(struct: Die) -> dict[str, int]:
    found: dict[str, int] = {}
    for member in struct.unit.children(struct):
        if member.tag != TAG["member"] or len(found) == _MOST_MEMBERS:
            continue
        # The members of a union have no location: all are at offset 0.
        _, location = member.attributes.get(AT["data_member_location"], (0, 0))
        if isinstance(location, bytes):
            if not location or location[0] != _PLUS_UCONST:
                continue
            location, _ = uleb(location, 1)
        found.setdefault(member.text(AT["name"]), location)
    return found
