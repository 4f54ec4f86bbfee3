"""The shapes of DIEs (.debug_abbrev), and the budget for reading DWARF.

Source: DWARF 5 section 7.5.3.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from xtrace.symbols.dwarf.forms import FORM, Widths, sleb, uleb
from xtrace.symbols.dwarf.sections import DwarfError

_LEB_CONTINUES = 0x80
_IMPLICIT_CONST = FORM["implicit_const"]


class ExhaustedError(DwarfError):
    """The request takes longer than its budget allows."""


#: Bytes that are searched in a microsecond.
_SCANNED_BYTES_A_UNIT = 2048


@dataclass(slots=True)
class Budget:
    """What may still be spent on one request, in units of about a microsecond."""

    left: int

    def spend(self, amount: int) -> None:
        """Subtract an amount.

        Raises:
            ExhaustedError: less than that is left.
        """
        self.left -= amount
        if self.left < 0:
            raise ExhaustedError(self.damage)

    def scan(self, size_bytes: int) -> None:
        """Subtract what it costs to search some bytes."""
        self.spend(size_bytes // _SCANNED_BYTES_A_UNIT)

    @property
    def damage(self) -> str:
        """A note that reading was given up, "" while the budget lasts."""
        return "" if self.left >= 0 else "the requested DWARF takes too long to read; ask for less at once"


@dataclass(frozen=True, slots=True)
class Abbreviation:
    """The shape of a DIE.

    Attributes:
        specifications: attribute, form, size in bytes (-1: must be read), implicit constant.
        size: bytes of all attributes together, -1 where they must be read.
    """

    tag: int
    has_children: bool
    specifications: tuple[tuple[int, int, int, int], ...]
    size: int


class Abbreviations:
    """One table in .debug_abbrev, read only as far as the codes asked for."""

    def __init__(self, section: memoryview, offset: int, widths: Widths, budget: Budget) -> None:
        self._data = section
        self._at = offset
        self._sizes = widths.sizes
        self._budget = budget
        self._known: dict[int, Abbreviation] = {}

    def __getitem__(self, code: int) -> Abbreviation:
        known = self._known.get(code)
        while known is None:
            if not self._read_next():
                raise DwarfError(f"a DIE with abbreviation code {code}, which is not in its table")
            known = self._known.get(code)
        return known

    def all(self) -> Iterator[tuple[int, Abbreviation]]:
        """Yield code and shape of the whole table."""
        while self._read_next():
            pass
        self._budget.spend(1 + len(self._known) // 8)
        yield from self._known.items()

    def _read_next(self) -> bool:
        data, sizes = self._data, self._sizes
        code, at = uleb(data, self._at)
        if not code:
            return False
        tag, at = uleb(data, at)
        has_children = data[at] != 0
        at += 1
        specifications: list[tuple[int, int, int, int]] = []
        total = 0
        while True:
            attribute, form = data[at], data[at + 1]
            if attribute < _LEB_CONTINUES and form < _LEB_CONTINUES:
                at += 2
            else:
                attribute, at = uleb(data, at)
                form, at = uleb(data, at)
            if not attribute and not form:
                break
            constant = 0
            if form == _IMPLICIT_CONST:
                constant, at = sleb(data, at)
            size = sizes.get(form)
            if size is None:
                raise DwarfError(f"unknown form {form:#x}")
            total = -1 if size < 0 or total < 0 else total + size
            specifications.append((attribute, form, size, constant))
        self._budget.spend(1 + len(specifications) // 4)
        self._at = at
        self._known.setdefault(code, Abbreviation(tag, has_children, tuple(specifications), total))
        return True
