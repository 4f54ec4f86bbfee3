"""Templates of lines, made from the catalogue; loops.render() fills them in.

Text, one record per line::

    0.058958365 p1  d3v0  pv_hypercall op=vcpu_op cmd=set_singleshot_timer vcpu=1

The columns are time, pCPU, the vCPU that runs there, event, fields.  A ``+`` after the time
marks an untimed record, written at that time or later.  JSON, one object per line, has the
same as keys; a field with the name of one of the other keys gets a ``_`` appended.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

import numpy as np

from xtrace.probes.catalog import Event, Field, VersionRange, find
from xtrace.probes.catalog.exits import SVM_CODES, VMX_REASONS, Vendor
from xtrace.probes.catalog.pv import hypercall_arguments
from xtrace.probes.dump import loops as k
from xtrace.probes.format import EVENT_MASK, EXTRA_MASK, EXTRA_SHIFT, GUEST_CLASS_BIT, TIMED_BIT
from xtrace.probes.reader.batches import I64, OVERFLOW_SHAPE, U8

#: Keys of a JSON line that are not fields; only untimed records have "timed", and it is false.
RESERVED_KEYS = frozenset({"tsc", "pcpu", "current", "event", "name", "words", "timed"})

#: Name of records whose id is not in the catalogue.
UNKNOWN_NAME = "unknown"
#: Name of records that do not fit in the reader's table of shapes: their ids are not kept.
OVERFLOW_NAME = "beyond_shape_table"

_TIME_WIDTH = 12
_TSC_WIDTH = 15
_PCPU_WIDTH = 3
_CURRENT_WIDTH = 5

_VENDOR_NAMES: Mapping[Vendor, Mapping[int, str]] = {"vmx": VMX_REASONS, "svm": SVM_CODES}

_ARGUMENT_MASK = "argmask"

# The most bytes that an operation writes after its literal, not counting columns and names.
_LONGEST = 64


class Style(Enum):
    """The format of a line."""

    TEXT = "text"
    JSON = "json"


class Unit(Enum):
    """Unit of the times in text lines: since the trace's first record, or for TSC the host's TSC itself."""

    CYCLES = k.UNIT_CYCLES
    SECONDS = k.UNIT_SECONDS
    TSC = k.UNIT_TSC


class Part(NamedTuple):
    """A field to show: its place in the record, and names of its values."""

    name: str
    place: Field
    names: Mapping[int, str] | None


@dataclass(frozen=True, slots=True)
class Reading:
    """How to show the records of a shape.

    Attributes:
        event: the catalogue's event, or None if the id is not in the catalogue.
        by_word: whether the fields depend on word 0, as with hypercalls.
    """

    name: str
    event: Event | None
    constants: tuple[tuple[str, str], ...]
    parts: tuple[Part, ...]
    by_word: bool = False


def read_shape(
    header: int, versions: VersionRange, vendor: Vendor | None = None, word0: int | None = None
) -> Reading:
    """Return how to show the records of a shape.

    Args:
        header: the shape's header word.
        vendor: the vendor of the exit reasons under the id that VMX and, before 4.19, SVM use.
        word0: the first extra word, if the fields depend on it.
    """
    words = header >> EXTRA_SHIFT & EXTRA_MASK
    timed = bool(header & TIMED_BIT)
    match = find(header & EVENT_MASK, words, timed, versions)
    if match is None or match.layout is None:
        # Another version may have a layout of this length.
        match = find(header & EVENT_MASK, words, timed, VersionRange()) or match
    if match is None:
        return Reading(UNKNOWN_NAME, None, (), tuple(_raw_parts(words)))
    event = match.event
    if match.layout is None:
        return Reading(event.name, event, event.constants, tuple(_raw_parts(words)))
    fields = match.layout.present(words)
    parts = tuple(Part(place.name, place, _names(event, place, vendor)) for place in fields)
    if not any(place.name == _ARGUMENT_MASK for place in fields):
        return Reading(event.name, event, event.constants, parts)
    if word0 is None:
        return Reading(event.name, event, event.constants, parts, by_word=True)
    kept = tuple(part for part in parts if not part.name.startswith("arg_"))
    return Reading(event.name, event, event.constants, kept + tuple(_argument_parts(word0, words)))


def _raw_parts(words: int) -> Iterator[Part]:
    for number in range(words):
        yield Part(f"w{number}", Field(f"w{number}", number, base="hex"), None)


def _names(event: Event, place: Field, vendor: Vendor | None) -> Mapping[int, str] | None:
    if event.name == "vmexit" and place.name == "reason" and vendor is not None:
        return _VENDOR_NAMES[vendor]
    return place.names


def _argument_parts(word0: int, words: int) -> Iterator[Part]:
    """Yield the arguments of a hypercall record with ``words`` extra words, the first one ``word0``."""
    at = 1
    widths = (word0 >> shift & 3 for shift in range(20, 32, 2))
    present = [width for width in widths if width]
    arguments = hypercall_arguments((word0, *[0] * (words - 1)))
    for argument, width in zip(arguments, present, strict=False):
        place = Field(argument.name, at, width, bits=32 * width, base="dec" if argument.names else "hex")
        if argument.name in _COUNTS:
            place = Field(argument.name, at, width, bits=32 * width)
        yield Part(argument.name, place, argument.names)
        at += width


# Arguments to show in decimal; the others are addresses and flags.
_COUNTS = frozenset({"count", "vcpu"})


class _Op(NamedTuple):
    put: int
    literal: bytes
    word: int = 0
    words: int = 1
    shift: int = 0
    bits: int = 32
    table: int = -1
    width: int = 0


class _Line:
    """Builds a template; literals accumulate until the next value."""

    def __init__(self) -> None:
        self.ops: list[_Op] = []
        self._literal = ""

    def say(self, text: str) -> None:
        self._literal += text

    def put(self, what: int, *, table: int = -1, width: int = 0) -> None:
        self.ops.append(_Op(what, self._take(), table=table, width=width))

    def put_field(self, what: int, place: Field, table: int = -1) -> None:
        self.ops.append(_Op(what, self._take(), place.word, place.words, place.shift, place.bits, table))

    def _take(self) -> bytes:
        literal, self._literal = self._literal, ""
        return literal.encode("ascii")


@dataclass(frozen=True, slots=True)
class Arrays:
    """The templates as arrays for loops.render().

    Attributes:
        first_op: int64 [templates + 1].
        timed: uint8 [templates].
        ops: int64 [operations, OP_COLUMNS].
        literals: uint8, all literal bytes and names.
        table_name: int64 [tables + 1], index of each table's first name.
        name_value, name_place, name_bytes: int64 [names].
        longest_bytes: upper bound on the length of a line.
    """

    first_op: I64
    timed: U8
    ops: I64
    literals: U8
    table_name: I64
    name_value: I64
    name_place: I64
    name_bytes: I64
    longest_bytes: int


@dataclass(slots=True)
class TemplateBook:
    """The templates in use, extended as new shapes appear; arrays that were returned never change."""

    style: Style
    unit: Unit
    first_op: list[int] = field(default_factory=lambda: [0])
    timed: list[bool] = field(default_factory=list)
    longest_bytes: int = 0
    _ops: list[tuple[int, ...]] = field(default_factory=list)
    _literals: bytearray = field(default_factory=bytearray)
    _tables: dict[tuple[tuple[int, str], ...], int] = field(default_factory=dict)
    _table_name: list[int] = field(default_factory=lambda: [0])
    _names: list[tuple[int, int, int]] = field(default_factory=list)
    _arrays: Arrays | None = None

    def add(self, shape: int, header: int, reading: Reading) -> int:
        """Add the template of ``reading`` and return its number."""
        line = _Line()
        if self.style is Style.TEXT:
            self._text(line, shape, header, reading)
        else:
            self._json(line, shape, header, reading)
        line.say("\n")
        line.put(k.PUT_NOTHING)
        longest = 16
        for op in line.ops:
            longest += len(op.literal) + op.width + max(_LONGEST, self._longest_name(op.table))
            self._ops.append((op.put, len(self._literals), len(op.literal), *op[2:]))
            self._literals += op.literal
        self.longest_bytes = max(self.longest_bytes, longest)
        self.first_op.append(len(self._ops))
        self.timed.append(bool(header & TIMED_BIT))
        self._arrays = None
        return len(self.timed) - 1

    def arrays(self) -> Arrays:
        """Return the templates added so far."""
        if self._arrays is None:
            names = np.array(self._names, np.int64).reshape(-1, 3)
            self._arrays = Arrays(
                first_op=np.array(self.first_op, np.int64),
                timed=np.array(self.timed, np.uint8),
                ops=np.array(self._ops, np.int64).reshape(-1, k.OP_COLUMNS),
                literals=np.frombuffer(bytes(self._literals) + bytes(16), np.uint8).copy(),
                table_name=np.array(self._table_name, np.int64),
                name_value=names[:, 0].copy(),
                name_place=names[:, 1].copy(),
                name_bytes=names[:, 2].copy(),
                longest_bytes=self.longest_bytes,
            )
        return self._arrays

    def _text(self, line: _Line, shape: int, header: int, reading: Reading) -> None:
        line.put(k.PUT_TIME, width=_TSC_WIDTH if self.unit is Unit.TSC else _TIME_WIDTH)
        line.say(" p" if header & TIMED_BIT else "+p")
        line.put(k.PUT_PCPU, width=_PCPU_WIDTH - 1)
        line.say(" ")
        line.put(k.PUT_CURRENT, width=_CURRENT_WIDTH)
        if shape == OVERFLOW_SHAPE:
            line.say(f" {OVERFLOW_NAME}")
            return
        line.say(f" {reading.name}")
        if reading.event is None or header & GUEST_CLASS_BIT:
            line.say(" event=")
            line.put(k.PUT_EVENT_HEX)
        for name, value in reading.constants:
            line.say(f" {name}={value}")
        for part in reading.parts:
            if part.name == _ARGUMENT_MASK and not reading.by_word:
                continue  # the arguments themselves follow
            line.say(f" {part.name}=")
            line.put_field(_text_put(part), part.place, self._table(part.names))

    def _json(self, line: _Line, shape: int, header: int, reading: Reading) -> None:
        line.say('{"tsc":')
        line.put(k.PUT_TSC)
        line.say(',"pcpu":')
        line.put(k.PUT_PCPU)
        line.say(',"current":')
        line.put(k.PUT_CURRENT_JSON)
        line.say(',"event":')
        if shape == OVERFLOW_SHAPE:
            line.say(f'null,"name":"{OVERFLOW_NAME}"}}')
            return
        if header & GUEST_CLASS_BIT:
            line.put(k.PUT_EVENT)
        else:
            line.say(str(header & EVENT_MASK))
        line.say(f',"name":"{reading.name}"')
        if not header & TIMED_BIT:
            line.say(',"timed":false')
        line.say(',"words":[')
        for number in range(header >> EXTRA_SHIFT & EXTRA_MASK):
            line.say("," if number else "")
            line.put_field(k.PUT_UNSIGNED, Field("word", number))
        line.say("]")
        for name, value in reading.constants:
            line.say(f',"{json_key(name)}":' + (value if value.isdigit() else f'"{value}"'))
        if reading.event is not None:
            for part in reading.parts:
                self._json_field(line, part)
        line.say("}")

    def _json_field(self, line: _Line, part: Part) -> None:
        line.say(f',"{json_key(part.name)}":')
        line.put_field(k.PUT_SIGNED if part.place.signed else k.PUT_UNSIGNED, part.place)
        if part.names:
            line.say(f',"{part.name}_name":"')
            line.put_field(k.PUT_NAME_IF_ANY, part.place, self._table(part.names))

    def _table(self, names: Mapping[int, str] | None) -> int:
        if not names:
            return -1
        key = tuple(sorted(names.items()))
        if key not in self._tables:
            for value, name in key:
                text = name.encode("ascii")
                self._names.append((value, len(self._literals), len(text)))
                self._literals += text
            self._tables[key] = len(self._tables)
            self._table_name.append(len(self._names))
        return self._tables[key]

    def _longest_name(self, table: int) -> int:
        if table < 0:
            return 0
        names = self._names[self._table_name[table] : self._table_name[table + 1]]
        return max(length for _, _, length in names) + 1


def json_key(name: str) -> str:
    """Return the key of a field in a JSON line."""
    return f"{name}_" if name in RESERVED_KEYS else name


def _text_put(part: Part) -> int:
    is_hex = part.place.base == "hex"
    if part.names:
        return k.PUT_NAME_ELSE_HEX if is_hex else k.PUT_NAME_ELSE_UNSIGNED
    if part.place.signed:
        return k.PUT_SIGNED
    return k.PUT_HEX if is_hex else k.PUT_UNSIGNED
