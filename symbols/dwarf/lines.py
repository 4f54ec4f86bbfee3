"""Run one unit's line program to find the file and line of the addresses asked for.

Where several rows have the same address, the last one counts, as in GNU addr2line.

Source: DWARF 4 section 6.2, DWARF 5 section 6.2.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from elftools.dwarf.enums import ENUM_DW_LNCT

from xtrace.symbols.dwarf.forms import (
    AT,
    Value,
    Widths,
    initial_length,
    number,
    read_sized,
    read_string,
    sleb,
    uleb,
)
from xtrace.symbols.dwarf.sections import DwarfError, plain_text
from xtrace.symbols.dwarf.shapes import Budget
from xtrace.symbols.dwarf.units import Unit

_MOST_PROGRAM_BYTES = 64 << 20
_MOST_FILES = 100_000
_MOST_FORMATS = 16
#: Bytes of a line program that cost as much as one unit of the budget.
_BYTES_A_UNIT_OF_BUDGET = 4
_PATH, _DIRECTORY = ENUM_DW_LNCT["DW_LNCT_path"], ENUM_DW_LNCT["DW_LNCT_directory_index"]
# DW_LNS_*, then DW_LNE_*.
_COPY, _ADVANCE_PC, _ADVANCE_LINE, _SET_FILE, _CONST_ADD_PC, _FIXED_ADVANCE_PC = 1, 2, 3, 4, 8, 9
_END_SEQUENCE, _SET_ADDRESS = 1, 2


@dataclass(frozen=True, slots=True)
class LineTable:
    """The files of a unit, and the file and line of each address asked for.

    Attributes:
        rows: file number and line by address; line 0 means no line.
    """

    rows: dict[int, tuple[int, int]]
    version: int
    directories: tuple[str, ...]
    files: tuple[tuple[str, int], ...]
    compiled_in: str

    def path(self, file: int) -> str:
        """Return the path of a file by its number; "" for none.

        A relative path is joined to the compilation directory.  Files are numbered from 1 before DWARF 5
        and from 0 since; directory 0 is the compilation directory.
        """
        first = 0 if self.version >= 5 else 1
        if not first <= file < len(self.files) + first:
            return ""
        name, directory = self.files[file - first]
        folder = self._directory(directory - first) if directory or not first else ""
        return _joined(self.compiled_in, folder, name)

    def _directory(self, index: int) -> str:
        folder = self.directories[index] if index < len(self.directories) else ""
        return "" if folder == self.compiled_in else folder


def line_table(unit: Unit, offset: int, addresses: Sequence[int]) -> LineTable:
    """Return the files of a unit's line program and the rows for some addresses.

    Args:
        offset: of the program in .debug_line.
        addresses: sorted.

    Raises:
        DwarfError: the program is damaged, or longer than any real one.
    """
    section = unit.owner.sections.line
    length, offset_bytes, at = initial_length(section, offset)
    if at + length > len(section) or length > _MOST_PROGRAM_BYTES:
        raise DwarfError(f"a line program of {length:,} bytes at {offset:#x} in .debug_line")
    unit.owner.budget.spend(length // _BYTES_A_UNIT_OF_BUDGET)
    data = bytes(section[at : at + length])
    program = _header(unit, data, offset_bytes)
    return LineTable(
        _rows(program, addresses, unit.owner.budget),
        program.version,
        program.directories,
        program.files,
        unit.top.text(AT["comp_dir"]),
    )


def _joined(*parts: str) -> str:
    path = ""
    for part in parts:
        path = part if part.startswith("/") or not path else f"{path}/{part}" if part else path
    return path


@dataclass(frozen=True, slots=True)
class _Program:
    """A line program's header; ``data`` begins after the length field."""

    data: bytes
    start: int
    version: int
    address_bytes: int
    least_instruction: int
    line_base: int
    line_range: int
    operands: bytes
    directories: tuple[str, ...]
    files: tuple[tuple[str, int], ...]


def _header(unit: Unit, data: bytes, offset_bytes: int) -> _Program:
    version = int.from_bytes(data[:2], "little")
    if not 2 <= version <= 5:
        raise DwarfError(f"unsupported line program version {version}")
    at = 2
    address_bytes = unit.widths.address
    if version >= 5:
        address_bytes = data[at]
        at += 2
    start = number(memoryview(data), at, offset_bytes) + at + offset_bytes
    at += offset_bytes
    least_instruction = data[at]
    at += 1
    if version >= 4:
        at += 1  # operations per instruction: one on x86
    line_base = data[at + 1] - 256 if data[at + 1] > 127 else data[at + 1]
    line_range, opcode_base = data[at + 2], data[at + 3]
    at += 4
    if not line_range or not opcode_base or start > len(data):
        raise DwarfError("an invalid line program header")
    operands = data[at : at + opcode_base - 1]
    at += opcode_base - 1
    if version >= 5:
        if address_bytes not in (4, 8):
            raise DwarfError(f"a line program with {address_bytes}-byte addresses")
        widths = Widths(version, address_bytes, offset_bytes)
        folders, at = _entries(unit, data, at, widths)
        files, at = _entries(unit, data, at, widths)
        directories = tuple(name for name, _ in folders)
    else:
        directories, files = _old_entries(data, at)
    return _Program(
        data,
        start,
        version,
        address_bytes,
        least_instruction,
        line_base,
        line_range,
        operands,
        directories,
        tuple(files),
    )


def _entries(unit: Unit, data: bytes, at: int, widths: Widths) -> tuple[list[tuple[str, int]], int]:
    """Return (name, directory) of each entry in a DWARF 5 table, and the offset after the table."""
    format_count = data[at]
    at += 1
    if format_count > _MOST_FORMATS:
        raise DwarfError(f"a file table with {format_count} columns")
    formats = []
    for _ in range(format_count):
        content, at = uleb(data, at)
        form, at = uleb(data, at)
        if form not in widths.sizes:
            raise DwarfError(f"unknown form {form:#x}")
        formats.append((content, form, widths.sizes[form]))
    count, at = uleb(data, at)
    # With entries of 0 bytes a forged file could claim any number of them.
    if count > _MOST_FILES or (count and not any(size for _, _, size in formats)):
        raise DwarfError(f"a file table with {count:,} entries")
    unit.owner.budget.spend(count)
    found = []
    for _ in range(count):
        name, directory = "", 0
        for content, form, size in formats:
            value: Value
            if size < 0:
                value, at = read_sized(data, form, at)
            else:
                value = int.from_bytes(data[at : at + size], "little")
                at += size
            if content == _PATH:
                name = unit.text(form, value)
            elif content == _DIRECTORY and isinstance(value, int):
                directory = value
        found.append((name, directory))
    if at > len(data):
        raise DwarfError("a file table that extends past its line program")
    return found, at


def _old_entries(data: bytes, at: int) -> tuple[tuple[str, ...], list[tuple[str, int]]]:
    """Return the directories and the files (name, directory) of a DWARF 2 to 4 header."""
    directories: list[str] = []
    files: list[tuple[str, int]] = []
    while data[at]:
        if len(directories) == _MOST_FILES:
            raise DwarfError(f"more than {_MOST_FILES:,} directories")
        raw, at = read_string(data, at)
        directories.append(plain_text(raw))
    at += 1
    while data[at]:
        if len(files) == _MOST_FILES:
            raise DwarfError(f"more than {_MOST_FILES:,} files")
        raw, at = read_string(data, at)
        directory, at = uleb(data, at)
        _, at = uleb(data, at)
        _, at = uleb(data, at)
        files.append((plain_text(raw), directory))
    return tuple(directories), files


def _rows(  # noqa: C901
    program: _Program, wanted: Sequence[int], budget: Budget
) -> dict[int, tuple[int, int]]:
    """Run the program.  It is one loop because it takes most of the time."""
    data, at, end = program.data, program.start, len(program.data)
    base, step, line_range = program.line_base, program.least_instruction, program.line_range
    first_special = len(program.operands) + 1
    found: dict[int, tuple[int, int]] = {}
    addresses: list[int] = []
    places: list[tuple[int, int]] = []
    address, file, line = 0, 1, 1
    while at < end:
        opcode = data[at]
        at += 1
        if opcode >= first_special:
            advance, lines = divmod(opcode - first_special, line_range)
            address += advance * step
            line += base + lines
            addresses.append(address)
            places.append((file, line))
        elif opcode == _COPY:
            addresses.append(address)
            places.append((file, line))
        elif opcode == _ADVANCE_PC:
            advance, at = uleb(data, at)
            address += advance * step
        elif opcode == _ADVANCE_LINE:
            lines, at = sleb(data, at)
            line += lines
        elif opcode == _SET_FILE:
            file, at = uleb(data, at)
        elif opcode == _CONST_ADD_PC:
            address += (255 - first_special) // line_range * step
        elif opcode == _FIXED_ADVANCE_PC:
            address += int.from_bytes(data[at : at + 2], "little")
            at += 2
        elif opcode:
            for _ in range(program.operands[opcode - 1]):
                _, at = uleb(data, at)
        else:
            length, at = uleb(data, at)
            if not length or at + length > end:
                raise DwarfError("an extended opcode that extends past its line program")
            kind = data[at]
            if kind == _END_SEQUENCE:
                budget.spend(_keep(found, addresses, places, address, wanted))
                addresses, places = [], []
                address, file, line = 0, 1, 1
            elif kind == _SET_ADDRESS:
                address = int.from_bytes(data[at + 1 : at + length], "little")
            at += length
    return found


def _keep(
    found: dict[int, tuple[int, int]],
    addresses: list[int],
    places: list[tuple[int, int]],
    end: int,
    wanted: Sequence[int],
) -> int:
    """Add to ``found`` the file and line of the addresses that a sequence covers; return how many."""
    if not addresses:
        return 0
    first = bisect.bisect_left(wanted, min(addresses))
    last = bisect.bisect_left(wanted, end)
    if first >= last:
        return 0
    if any(later < earlier for earlier, later in itertools.pairwise(addresses)):
        order = sorted(range(len(addresses)), key=addresses.__getitem__)
        addresses, places = [addresses[i] for i in order], [places[i] for i in order]
    for address in wanted[first:last]:
        found[address] = places[bisect.bisect_right(addresses, address) - 1]
    return last - first
