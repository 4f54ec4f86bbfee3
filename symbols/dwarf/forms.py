"""DWARF attribute forms and numbers: the size of each, and how to read one.

pyelftools reads a form through a parser object, which takes some ten microseconds and sets no bounds
on what a damaged file asks for.  Walking a kernel's DIEs needs bounds and one microsecond per form, so
the constants come from pyelftools' tables and the reading is done here.

Source: DWARF 5 section 7.5, DWARF 4 section 7.5, GCC's split-DWARF extensions.
"""

from __future__ import annotations

from dataclasses import dataclass

from elftools.dwarf.enums import ENUM_DW_AT, ENUM_DW_FORM, ENUM_DW_TAG

from xtrace.symbols.dwarf.sections import DwarfError

AT = {name.removeprefix("DW_AT_"): number for name, number in ENUM_DW_AT.items() if isinstance(number, int)}
FORM = {
    name.removeprefix("DW_FORM_"): number for name, number in ENUM_DW_FORM.items() if isinstance(number, int)
}
TAG = {
    name.removeprefix("DW_TAG_"): number for name, number in ENUM_DW_TAG.items() if isinstance(number, int)
}

#: Forms whose size is the same in every unit.
_SIZES = {
    "data1": 1, "data2": 2, "data4": 4, "data8": 8, "data16": 16, "flag": 1, "flag_present": 0,
    "implicit_const": 0, "ref1": 1, "ref2": 2, "ref4": 4, "ref8": 8, "ref_sup4": 4, "ref_sup8": 8,
    "ref_sig8": 8, "strx1": 1, "strx2": 2, "strx3": 3, "strx4": 4,
    "addrx1": 1, "addrx2": 2, "addrx3": 3, "addrx4": 4,
}  # fmt: skip
_OFFSETS = ("strp", "line_strp", "sec_offset", "strp_sup", "GNU_ref_alt", "GNU_strp_alt")
_UNSIGNED = {
    FORM[name]
    for name in (
        *("udata", "ref_udata", "strx", "addrx", "loclistx", "rnglistx"),
        *("GNU_addr_index", "GNU_str_index"),
    )
}
_BLOCK_LENGTHS = {FORM["block1"]: 1, FORM["block2"]: 2, FORM["block4"]: 4}
_BLOCKS = {FORM["block"], FORM["exprloc"]}
_READ_TO_KNOW = _UNSIGNED | _BLOCKS | set(_BLOCK_LENGTHS) | {FORM["sdata"], FORM["string"]}

UNIT_REFERENCES = frozenset(FORM[name] for name in ("ref1", "ref2", "ref4", "ref8", "ref_udata"))
ADDRESS_INDICES = frozenset(
    FORM[name] for name in ("addrx", "addrx1", "addrx2", "addrx3", "addrx4", "GNU_addr_index")
)
STRING_INDICES = frozenset(
    FORM[name] for name in ("strx", "strx1", "strx2", "strx3", "strx4", "GNU_str_index")
)

Value = int | bytes


@dataclass(frozen=True, slots=True)
class Widths:
    """The sizes of a unit's fields, from its header.

    Attributes:
        version: of DWARF, 2 to 5.
        address: bytes per address, 4 or 8.
        offset: bytes per section offset, 4 or 8.
    """

    version: int
    address: int
    offset: int

    @property
    def sizes(self) -> dict[int, int]:
        """Return the size of each form in bytes, -1 where it must be read from the data."""
        return _ALL_SIZES[self.version == 2, self.address, self.offset]


def _sizes(old: bool, address: int, offset: int) -> dict[int, int]:
    sizes = dict.fromkeys(_READ_TO_KNOW, -1)
    sizes |= {FORM[name]: size for name, size in _SIZES.items()}
    sizes |= {FORM[name]: offset for name in _OFFSETS}
    # In DWARF 2 a reference across units has the size of an address.
    sizes |= {FORM["addr"]: address, FORM["ref_addr"]: address if old else offset}
    return sizes


_ALL_SIZES = {
    (old, address, offset): _sizes(old, address, offset)
    for old in (False, True)
    for address in (4, 8)
    for offset in (4, 8)
}


def uleb(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """Return an unsigned LEB128 number and the offset after it."""
    byte = data[at]
    if byte < 0x80:
        return byte, at + 1
    value = byte & 0x7F
    shift = 7
    while True:
        at += 1
        byte = data[at]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at + 1
        shift += 7
        if shift > 70:
            raise DwarfError("a LEB128 number longer than ten bytes")


def uleb_bytes(value: int) -> bytes:
    """Return a number encoded as unsigned LEB128."""
    octets = bytearray()
    while value > 0x7F:
        octets.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*octets, value))


def sleb(data: bytes | memoryview, at: int) -> tuple[int, int]:
    """Return a signed LEB128 number and the offset after it."""
    value, behind = uleb(data, at)
    sign = 1 << (7 * (behind - at) - 1)
    return (value ^ sign) - sign, behind


def read_sized(data: bytes, form: int, at: int) -> tuple[Value, int]:
    """Return the value of a form whose size must be read from the data, and the offset after it."""
    if form in _UNSIGNED:
        return uleb(data, at)
    if form == FORM["sdata"]:
        return sleb(data, at)
    if form == FORM["string"]:
        return read_string(data, at)
    if form in _BLOCKS:
        length, at = uleb(data, at)
    else:
        length = int.from_bytes(data[at : at + _BLOCK_LENGTHS[form]], "little")
        at += _BLOCK_LENGTHS[form]
    if at + length > len(data):
        raise DwarfError("a block that extends past its unit")
    return data[at : at + length], at + length


def read_string(data: bytes, at: int) -> tuple[bytes, int]:
    """Return the bytes of a string and the offset after its zero byte."""
    end = data.find(b"\0", at)
    if end < 0:
        raise DwarfError("an unterminated string")
    return data[at:end], end + 1


def number(section: memoryview, at: int, width: int) -> int:
    """Return the unsigned number at an offset in a section."""
    if not 0 <= at <= len(section) - width:
        raise DwarfError(f"a number at {at:#x}, outside its section")
    return int.from_bytes(section[at : at + width], "little")


def initial_length(section: memoryview, at: int) -> tuple[int, int, int]:
    """Return a unit's length, the size of its offsets (4 or 8) and the offset after the length field."""
    length = number(section, at, 4)
    if length == 0xFFFF_FFFF:
        return number(section, at + 4, 8), 8, at + 12
    if length >= 0xFFFF_FFF0:
        raise DwarfError(f"a unit with the reserved length {length:#x}")
    return length, 4, at + 4
