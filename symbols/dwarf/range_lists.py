"""The addresses that a DIE covers: .debug_ranges and .debug_rnglists.

Source: DWARF 4 section 2.17.3, DWARF 5 section 7.25.
"""

from __future__ import annotations

from typing import Protocol

from xtrace.symbols.dwarf.forms import FORM, Value, Widths, number, uleb
from xtrace.symbols.dwarf.sections import DebugSections, DwarfError
from xtrace.symbols.dwarf.shapes import Budget

_MOST_RANGES = 65_536

Range = tuple[int, int]


class _Owner(Protocol):
    @property
    def sections(self) -> DebugSections: ...

    @property
    def budget(self) -> Budget: ...


class RangesUnit(Protocol):
    """What reading a range list needs from the unit whose DIE names it."""

    @property
    def owner(self) -> _Owner:
        """The sections, and the budget for reading them."""

    @property
    def widths(self) -> Widths:
        """The unit's version and the sizes of its addresses and offsets."""

    @property
    def base(self) -> int:
        """The base address of the unit's range lists."""

    @property
    def list_base(self) -> int:
        """Where the unit's list offsets begin in .debug_rnglists."""

    def indexed_address(self, index: int) -> int:
        """Return an address from the unit's part of .debug_addr."""


def range_list(unit: RangesUnit, form: int, value: Value) -> list[Range]:
    """Return the ranges of a unit's DW_AT_ranges as (start, end) pairs, end exclusive."""
    if not isinstance(value, int):
        raise DwarfError("a DW_AT_ranges that is not an offset")
    if unit.widths.version < 5:
        return _old_list(unit, value)
    if form == FORM["rnglistx"]:
        base = unit.list_base
        width = unit.widths.offset
        value = base + number(unit.owner.sections.rnglists, base + value * width, width)
    return _new_list(unit, value)


def _old_list(unit: RangesUnit, at: int) -> list[Range]:
    width = unit.widths.address
    section = unit.owner.sections.ranges
    base = unit.base
    found: list[Range] = []
    chooses_base = (1 << (8 * width)) - 1
    for _ in range(_MOST_RANGES):
        low, high = number(section, at, width), number(section, at + width, width)
        at += 2 * width
        unit.owner.budget.spend(1)
        if not low and not high:
            return found
        if low == chooses_base:
            base = high
        else:
            found.append((base + low, base + high))
    raise DwarfError("an unterminated range list")


# DW_RLE_*: the operands of each kind: "x" an index into .debug_addr, "a" an address, "n" a number.
_END, _PAIR = 0, 4
_BASES = {1: "x", 5: "a"}
_ENTRIES = {2: "xx", 3: "xn", _PAIR: "nn", 6: "aa", 7: "an"}


def _new_list(unit: RangesUnit, at: int) -> list[Range]:
    section = unit.owner.sections.rnglists
    if not 0 <= at < len(section):
        raise DwarfError("a range list outside its section")
    width = unit.widths.address
    base = unit.base
    found: list[Range] = []
    for _ in range(_MOST_RANGES):
        kind = section[at]
        at += 1
        unit.owner.budget.spend(1)
        if kind == _END:
            return found
        operands = []
        for operand in _BASES.get(kind) or _ENTRIES.get(kind, ""):
            if operand == "a":
                value = number(section, at, width)
                at += width
            else:
                value, at = uleb(section, at)
            operands.append(unit.indexed_address(value) if operand == "x" else value)
        if kind in _BASES:
            base = operands[0]
        elif kind == _PAIR:
            found.append((base + operands[0], base + operands[1]))
        elif kind in _ENTRIES:
            low, high = operands
            found.append((low, low + high if _ENTRIES[kind][1] == "n" else high))
        else:
            raise DwarfError(f"a range list entry of unknown kind {kind}")
    raise DwarfError("an unterminated range list")
