"""The types of the catalogue: versions, fields, layouts, events.

A layout's fields are written in a compact notation and parsed on first use, so
that importing the catalogue costs no more than building its tables::

    name:place[:flag]...

    dom:w0               a whole 32-bit extra word
    unit:w0[15:0]        bits 15 to 0 of word 0
    flag:w1[15]          one bit
    rip:w1-w2            64 bits, low word first
    ...:signed           two's complement
    ...:hex              shown in hexadecimal (addresses, values, masks)
    ...:@hypercall       values have names: names.TABLES["hypercall"]
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Literal, NamedTuple

from xtrace.probes.catalog.names import TABLES
from xtrace.probes.format import TraceClass

Base = Literal["dec", "hex"]
Quality = Literal["exact", "ambiguous", "length"]

_VERSION = re.compile(r"(\d{1,4})\.(\d{1,4})(?:\.\d{1,4})?", re.ASCII)
_FIELD = re.compile(
    r"(?P<name>[a-z][a-z0-9_]*):w(?P<word>[0-6])"
    r"(?:-w(?P<last>[0-6])|\[(?P<high>\d+)(?::(?P<low>\d+))?\])?"
    r"(?P<flags>(?::[a-z0-9_@]+)*)"
)


class Version(NamedTuple):
    """A Xen release line, such as 4.17; point releases do not change the records."""

    major: int
    minor: int

    @classmethod
    def parse(cls, text: str) -> Version:
        """Return the version of "4.17" or "4.17.3".  Raises ValueError."""
        found = _VERSION.fullmatch(text.strip())
        if found is None:
            raise ValueError(f"not a Xen version: {text!r} (expected one like 4.17)")
        return cls(int(found[1]), int(found[2]))

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


OLDEST = Version(4, 0)
#: The newest release that the tables cover; later ones are assumed to write the same.
NEWEST = Version(4, 22)


@dataclass(frozen=True, slots=True)
class VersionRange:
    """Releases from ``low`` to ``high``, both included; open-ended if ``high`` is None."""

    low: Version = OLDEST
    high: Version | None = None

    def __post_init__(self) -> None:
        if self.low < OLDEST:
            raise ValueError(f"Xen {self.low} is too old: records are known since {OLDEST}")
        if self.high is not None and self.high < self.low:
            raise ValueError(f"empty range of Xen versions: {self.low} to {self.high}")

    @classmethod
    def parse(cls, text: str) -> VersionRange:
        """Return the range of "4.17", "4.13-4.17" or "4.13+".  Raises ValueError."""
        text = text.strip()
        if text.endswith("+"):
            return cls(Version.parse(text[:-1]))
        first, dash, last = text.partition("-")
        low = Version.parse(first)
        return cls(low, Version.parse(last) if dash else low)

    def __contains__(self, version: Version) -> bool:
        return self.low <= version and (self.high is None or version <= self.high)

    def overlaps(self, since: Version, until: Version | None) -> bool:
        """Return whether the range contains a version from ``since`` to ``until`` (None: open-ended)."""
        return (until is None or self.low <= until) and (self.high is None or since <= self.high)

    def __str__(self) -> str:
        if self.high is None:
            return f"{self.low}+"
        return str(self.low) if self.low == self.high else f"{self.low}-{self.high}"


@dataclass(frozen=True, slots=True)
class Field:
    """The place of a value in a record's extra words.

    Attributes:
        word: index of its (first) extra word, 0 to 6.
        words: 1, or 2 for 64 bits with the low word first.
        shift, bits: lowest bit in the word, and width; 0 and 64 for two words.
        table: name of the table with the names of its values, or "".
    """

    name: str
    word: int
    words: int = 1
    shift: int = 0
    bits: int = 32
    signed: bool = False
    base: Base = "dec"
    table: str = ""

    @property
    def names(self) -> Mapping[int, str] | None:
        """Names of the values, or None."""
        return TABLES[self.table] if self.table else None

    def value(self, extra: Sequence[int]) -> int:
        """Return the value in ``extra``, a record's extra words.  Raises IndexError."""
        raw = extra[self.word]
        if self.words == 2:
            raw |= extra[self.word + 1] << 32
        value = (raw >> self.shift) & ((1 << self.bits) - 1)
        return value - (1 << self.bits) if self.signed and value >> (self.bits - 1) else value


def _field(text: str) -> Field:
    found = _FIELD.fullmatch(text)
    if found is None:
        raise ValueError(f"bad field notation: {text!r}")
    word = int(found["word"])
    words, shift, bits = 1, 0, 32
    if found["last"] is not None:
        if int(found["last"]) != word + 1:
            raise ValueError(f"a field takes one word or two adjacent ones: {text!r}")
        words, bits = 2, 64
    elif found["high"] is not None:
        high = int(found["high"])
        shift = int(found["low"] or high)
        bits = high - shift + 1
        if not 0 < bits <= 32 - shift:
            raise ValueError(f"bits outside the word: {text!r}")
    signed, table, base = False, "", "dec"
    for flag in found["flags"].split(":")[1:]:
        if flag == "signed":
            signed = True
        elif flag == "hex":
            base = "hex"
        elif flag.startswith("@") and flag[1:] in TABLES:
            table = flag[1:]
        else:
            raise ValueError(f"unknown flag {flag!r} in {text!r}")
    return Field(found["name"], word, words, shift, bits, signed, "hex" if base == "hex" else "dec", table)


@cache
def parse_fields(text: str) -> tuple[Field, ...]:
    """Return the fields that ``text`` describes.  Raises ValueError."""
    return tuple(_field(part) for part in text.split())


@dataclass(frozen=True, slots=True)
class Layout:
    """What an event's extra words mean, in a range of versions.

    Attributes:
        since, until: releases, both included; ``until`` is None if it is still written.
        words: the possible lengths.  Fields past the end of a shorter record are absent.
        timed: whether a TSC follows the header word.
        text: the fields in the notation of this module.
    """

    since: Version
    until: Version | None
    words: tuple[int, ...]
    timed: bool
    text: str = ""
    note: str = ""

    @property
    def fields(self) -> tuple[Field, ...]:
        """All fields, in the order of the record."""
        return parse_fields(self.text)

    def present(self, words: int) -> tuple[Field, ...]:
        """Return the fields that a record with ``words`` extra words contains."""
        return tuple(field for field in self.fields if field.word + field.words <= words)

    def fits(self, words: int, timed: bool) -> bool:
        """Return whether a record of that shape can have this layout."""
        return timed == self.timed and words in self.words


@dataclass(frozen=True, slots=True)
class Event:
    """One event id, for the versions in which it has one meaning.

    Attributes:
        id: the 28 bits of the header word; events of different versions may share an id.
        name: for output and filters, [a-z0-9_]+; the forms for 32- and 64-bit guests share it.
        xen_name: as in xen/include/public/trace.h.
        layouts: oldest first; empty for an id that is reserved but never written.
        constants: fields that follow from the id alone, such as a transition's states.
        source: the file or folder in Xen that writes it.
    """

    id: int
    name: str
    xen_name: str
    cls: TraceClass
    layouts: tuple[Layout, ...]
    note: str = ""
    source: str = ""
    constants: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Match:
    """How to decode a record's shape.

    Attributes:
        layout: None if quality is "length".
        quality: "exact"; "ambiguous" if several layouts are possible and this is the newest;
            or "length" if no layout of the event fits and only the raw words can be shown.
        alternatives: the other possible readings of an ambiguous shape, oldest first.
    """

    event: Event
    layout: Layout | None
    quality: Quality
    alternatives: tuple[tuple[Event, Layout], ...] = ()
