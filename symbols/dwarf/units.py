"""The units and DIEs of .debug_info, read on demand and within a budget.

A unit's tree is never built: a walk yields the DIEs of one level and skips what is below them, by
DW_AT_sibling where there is one.

Source: DWARF 5 section 7.5 (units, abbreviations).
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property

from xtrace.symbols.dwarf.forms import (
    ADDRESS_INDICES,
    AT,
    FORM,
    STRING_INDICES,
    UNIT_REFERENCES,
    Value,
    Widths,
    initial_length,
    number,
    read_sized,
    uleb,
)
from xtrace.symbols.dwarf.range_lists import Range, range_list
from xtrace.symbols.dwarf.sections import DebugSections, DwarfError, plain_text, text_at
from xtrace.symbols.dwarf.shapes import Abbreviations, Budget

#: The largest kernels have some 5,000; a unit has at least 11 bytes, so a file may claim millions.
_MOST_UNITS = 200_000
_MOST_UNIT_BYTES = 256 << 20
_HEAD_BYTES = 4096
#: DW_UT_type and DW_UT_split_type: they hold the DIEs of a type and no code.
_TYPE_UNITS = (2, 6)
#: DW_UT_skeleton and DW_UT_split_compile.
_SPLIT_UNITS = (4, 5)
#: Tables kept in memory: units that share one are close together.
_MOST_TABLES = 64
#: Most DIEs to follow through abstract_origin and specification.
_LONGEST_CHAIN = 16


@dataclass(frozen=True, slots=True, eq=False)
class Die:
    """A DIE with its attributes: form and value by number.

    Attributes:
        at, end: offsets in the unit: of the DIE and after its attributes.
    """

    unit: Unit
    at: int
    end: int
    tag: int
    has_children: bool
    attributes: dict[int, tuple[int, Value]]

    def integer(self, attribute: int) -> int | None:
        """Return an attribute that is a number, None where it is absent or something else."""
        form_value = self.attributes.get(attribute)
        return form_value[1] if form_value and isinstance(form_value[1], int) else None

    def text(self, attribute: int) -> str:
        """Return an attribute that is a string, "" where there is none."""
        form_value = self.attributes.get(attribute)
        return self.unit.text(*form_value) if form_value else ""

    def referred(self, attribute: int) -> Die | None:
        """Return the DIE that an attribute refers to, None where it is absent or not followed."""
        form, value = self.attributes.get(attribute, (0, b""))
        if not isinstance(value, int):
            return None
        if form in UNIT_REFERENCES:
            return self.unit.die(value)
        if form == FORM["ref_addr"]:
            unit = self.unit.owner.unit_at(value)
            return unit.die(value - unit.offset)
        if form == FORM["ref_sig8"]:
            return self.unit.owner.type_of(value)
        return None  # in a supplementary file

    def name(self) -> str:
        """Return the linkage name, otherwise the name, of this DIE or of what it is an instance of."""
        die: Die | None = self
        for _ in range(_LONGEST_CHAIN):
            if die is None:
                return ""
            for attribute in (AT["linkage_name"], AT["MIPS_linkage_name"], AT["name"]):
                if name := die.text(attribute):
                    return name
            die = die.referred(AT["abstract_origin"]) or die.referred(AT["specification"])
        raise DwarfError("an endless chain of abstract origins")

    def ranges(self) -> list[Range]:
        """Return the addresses that the DIE covers as (start, end) pairs, end exclusive."""
        if AT["ranges"] in self.attributes:
            return range_list(self.unit, *self.attributes[AT["ranges"]])
        if AT["low_pc"] not in self.attributes or AT["high_pc"] not in self.attributes:
            return []
        low = self.unit.address(*self.attributes[AT["low_pc"]])
        form, _ = self.attributes[AT["high_pc"]]
        if form == FORM["addr"] or form in ADDRESS_INDICES:
            return [(low, self.unit.address(*self.attributes[AT["high_pc"]]))]
        return [(low, low + (self.integer(AT["high_pc"]) or 0))]


@dataclass(slots=True, eq=False)
class Unit:
    """One unit of .debug_info.

    Attributes:
        owner: all units of the image.
        offset, end: offsets in .debug_info: of the header and after the last DIE.
        first: offset of the top DIE in the unit.
        abbreviations_at: offset of its table in .debug_abbrev.
        signature: of a type unit, or of the unit of a .dwo file and its skeleton (DWARF 5); otherwise 0.
        type_at: of a type unit, the offset of its type's DIE; otherwise 0.
    """

    owner: Units
    offset: int
    end: int
    first: int
    widths: Widths
    abbreviations_at: int
    signature: int = 0
    type_at: int = 0
    _data: bytes = field(default=b"", repr=False)
    _abbreviations: Abbreviations | None = field(default=None, repr=False)
    _top: Die | None = field(default=None, repr=False)

    @property
    def data(self) -> bytes:
        """The unit's bytes."""
        if not self._data:
            if self.end - self.offset > _MOST_UNIT_BYTES:
                raise DwarfError(f"a unit of {self.end - self.offset:,} bytes")
            self._data = bytes(self.owner.sections.info[self.offset : self.end])
        return self._data

    @property
    def abbreviations(self) -> Abbreviations:
        """The shapes of the unit's DIEs."""
        if self._abbreviations is None:
            self._abbreviations = self.owner.abbreviations(self.abbreviations_at, self.widths)
        return self._abbreviations

    @property
    def top(self) -> Die:
        """The top DIE, which describes the unit itself."""
        if self._top is None:
            self._top = self._read_top()
        return self._top

    def forget(self) -> None:
        """Release what was read of the unit; it is read again on demand."""
        self._data = b""
        self._abbreviations = None
        self._top = None

    def die(self, at: int) -> Die:
        """Return the DIE at an offset in the unit."""
        if not self.first <= at < self.end - self.offset:
            raise DwarfError(f"a reference to {self.offset + at:#x}, outside its unit")
        die = self._die(self.data, at)
        if die is None:
            raise DwarfError(f"a reference to {self.offset + at:#x}, where there is no DIE")
        return die

    def children(self, parent: Die) -> Iterator[Die]:
        """Yield the children of a DIE."""
        if not parent.has_children:
            return
        at = parent.end
        data = self.data
        while at < len(data):
            child = self._die(data, at)
            if child is None:
                return
            yield child
            at = self._behind(child)

    def below(self, parent: Die) -> Iterator[tuple[int, Die]]:
        """Yield all DIEs below ``parent`` in order, with their depth below it: 1 for a child."""
        if not parent.has_children:
            return
        at, depth = parent.end, 1
        data = self.data
        while at < len(data):
            die = self._die(data, at)
            if die is None:
                depth -= 1
                at += 1
                if not depth:
                    return
                continue
            yield depth, die
            at = die.end
            depth += die.has_children

    def _die(self, data: bytes, at: int) -> Die | None:
        start = at
        code, at = uleb(data, at)
        self.owner.budget.spend(2)
        if not code:
            return None
        shape = self.abbreviations[code]
        attributes: dict[int, tuple[int, Value]] = {}
        value: Value
        for attribute, form, size, constant in shape.specifications:
            if size > 0:
                value = int.from_bytes(data[at : at + size], "little")
                at += size
            elif size < 0:
                value, at = read_sized(data, form, at)
            else:
                value = constant
            attributes[attribute] = (form, value)
        if at > len(data):
            raise DwarfError("a DIE that extends past its unit")
        return Die(self, start, at, shape.tag, shape.has_children, attributes)

    def _behind(self, die: Die) -> int:
        """Return the offset after a DIE and everything below it."""
        if not die.has_children:
            return die.end
        form, sibling = die.attributes.get(AT["sibling"], (0, 0))
        if form in UNIT_REFERENCES and isinstance(sibling, int):
            if sibling < die.end:
                raise DwarfError("a sibling reference that points backwards")
            return sibling
        return self._behind_children(die.end)

    def _behind_children(self, at: int) -> int:
        data = self.data
        abbreviations = self.abbreviations
        depth = 1
        while depth:
            code, at = uleb(data, at)
            self.owner.budget.spend(1)
            if not code:
                depth -= 1
                continue
            shape = abbreviations[code]
            depth += shape.has_children
            if shape.size >= 0:
                at += shape.size
                continue
            for _, form, size, _ in shape.specifications:
                if size >= 0:
                    at += size
                else:
                    _, at = read_sized(data, form, at)
        return at

    def text(self, form: int, value: Value) -> str:
        """Return the string of an attribute."""
        sections = self.owner.sections
        if isinstance(value, bytes):
            return plain_text(value)
        if form == FORM["strp"]:
            return text_at(sections.str, value)
        if form == FORM["line_strp"]:
            return text_at(sections.line_str, value)
        if form in STRING_INDICES:
            at = self.string_base + value * self.widths.offset
            return text_at(sections.str, number(sections.str_offsets, at, self.widths.offset))
        return ""  # in a supplementary file

    @property
    def string_base(self) -> int:
        """Where the unit's part of .debug_str_offsets begins; if not stated, after the section's header."""
        stated = self.top.integer(AT["str_offsets_base"])
        if stated is not None:
            return stated
        return (8 if self.widths.offset == 4 else 16) if self.widths.version >= 5 else 0

    def address(self, form: int, value: Value) -> int:
        """Return an attribute that is an address."""
        if not isinstance(value, int):
            raise DwarfError("an address attribute that is not a number")
        return self.indexed_address(value) if form in ADDRESS_INDICES else value

    def _read_top(self) -> Die:
        # The top DIEs of all units may be asked for, to see what they cover: copy no more than that.
        head = bytes(self.owner.sections.info[self.offset : min(self.end, self.offset + _HEAD_BYTES)])
        try:
            die = self._die(head, self.first)
        except (DwarfError, IndexError):
            die = self._die(self.data, self.first)
        if die is None:
            raise DwarfError("a unit without a DIE")
        return die

    @property
    def list_base(self) -> int:
        """Where the offsets of the unit's range lists begin."""
        return self.top.integer(AT["rnglists_base"]) or 0

    @property
    def base(self) -> int:
        """The base address of the unit's range lists."""
        low = self.top.attributes.get(AT["low_pc"])
        return self.address(*low) if low else 0

    def indexed_address(self, index: int) -> int:
        """Return an address from the unit's part of .debug_addr."""
        base = self.top.integer(AT["addr_base"])
        if base is None:
            base = self.top.integer(AT["GNU_addr_base"]) or 0
        width = self.widths.address
        return number(self.owner.sections.addr, base + index * width, width)


class Units:
    """The units of an image's DWARF.

    Attributes:
        sections: where they are read from.
        budget: what may be spent on reading them.
        damage: a short reason why some units are missing; "" while none are known to be.
    """

    def __init__(self, sections: DebugSections, budget: Budget) -> None:
        self.sections = sections
        self.budget = budget
        self.damage = ""
        self._in_types_section = False
        self._tables: dict[tuple[int, Widths], Abbreviations] = {}

    @cached_property
    def all(self) -> list[Unit]:
        """The units that are not type units, in order of their offset."""
        return [unit for unit in self.every if not unit.type_at]

    @cached_property
    def type_units(self) -> Units | None:
        """The type units of DWARF 4, which are in a section of their own; None where there are none."""
        if self._in_types_section or not self.sections.types:
            return None
        units = Units(replace(self.sections, info=self.sections.types, types=memoryview(b"")), self.budget)
        units._in_types_section = True
        return units

    def type_of(self, signature: int) -> Die | None:
        """Return the type with a signature, None where no type unit has it."""
        unit = self._signatures.get(signature)
        return unit.die(unit.type_at) if unit is not None else None

    @cached_property
    def _signatures(self) -> dict[int, Unit]:
        others = self.type_units.every if self.type_units is not None else []
        return {unit.signature: unit for unit in (*self.every, *others) if unit.type_at}

    @cached_property
    def every(self) -> list[Unit]:
        """The units in order of their offset, up to the first damaged header."""
        found: list[Unit] = []
        at = 0
        try:
            while at < len(self.sections.info):
                if len(found) == _MOST_UNITS:
                    raise DwarfError(f"more than {_MOST_UNITS:,} units")
                found.append(self._header(at))
                at = self._next
        except (DwarfError, IndexError) as error:
            self.damage = f".debug_info at {at:#x}: {error}"
        return found

    def unit_at(self, offset: int) -> Unit:
        """Return the unit that contains an offset in .debug_info.

        Raises:
            DwarfError: none does.
        """
        unit = self.unit_holding(offset)
        if unit is None:
            raise DwarfError(f"a reference to {offset:#x}, where there is no unit")
        return unit

    def unit_holding(self, offset: int) -> Unit | None:
        """Return the unit that contains an offset in .debug_info, None if none does."""
        place = bisect.bisect_right(self._offsets, offset) - 1
        return self.every[place] if place >= 0 and offset < self.every[place].end else None

    def abbreviations(self, offset: int, widths: Widths) -> Abbreviations:
        """Return the table at an offset in .debug_abbrev."""
        key = offset, widths
        if key not in self._tables:
            if len(self._tables) == _MOST_TABLES:
                del self._tables[next(iter(self._tables))]
            self._tables[key] = Abbreviations(self.sections.abbrev, offset, widths, self.budget)
        return self._tables[key]

    @cached_property
    def _offsets(self) -> list[int]:
        return [unit.offset for unit in self.every]

    def _header(self, at: int) -> Unit:
        """Return the unit at an offset; set ``_next`` to where the next one begins."""
        info = self.sections.info
        start = at
        self.budget.spend(3)
        length, offset_bytes, at = initial_length(info, at)
        self._next = at + length
        if self._next > len(info):
            raise DwarfError("a unit that extends past its section")
        version = number(info, at, 2)
        if not 2 <= version <= 5:
            raise DwarfError(f"unsupported DWARF version {version}")
        at += 2
        signature = type_at = 0
        if version == 5:
            kind, address_bytes = info[at], info[at + 1]
            table = number(info, at + 2, offset_bytes)
            at += 2 + offset_bytes
            is_type = kind in _TYPE_UNITS
            if kind in _SPLIT_UNITS:
                signature = number(info, at, 8)
                at += 8
        else:
            table = number(info, at, offset_bytes)
            address_bytes = info[at + offset_bytes]
            at += offset_bytes + 1
            is_type = self._in_types_section
        if is_type:
            signature, type_at = number(info, at, 8), number(info, at + 8, offset_bytes)
            at += 8 + offset_bytes
            if not at - start <= type_at < self._next - start:
                raise DwarfError("a type unit whose type is outside it")
        if address_bytes not in (4, 8):
            raise DwarfError(f"unsupported address size of {address_bytes} bytes")
        widths = Widths(version, address_bytes, offset_bytes)
        return Unit(self, start, self._next, at - start, widths, table, signature, type_at)
