"""Find where a process has an image in its memory, and compare the code there with the file's.

Source: proc_pid_maps(5); System V ABI, program header (a segment is mapped at its address plus one offset).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from xtrace.probes.trial.target import FileMemory, Memory, TargetGoneError, TrialError
from xtrace.probes.xen_abi import HYPERCALL_PAGE_BYTES

_CHUNK_BYTES = 1 << 20
_BREAKPOINT = 0xCC
_MOST_MAPS_BYTES = 64 << 20


class Code(NamedTuple):
    """A piece of an image's code: its address as linked, its offset in the file, and its bytes."""

    address: int
    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Mapping:
    """One executable mapping of a file."""

    start: int
    end: int
    offset: int
    device: str
    inode: int
    path: str


def without_page(piece: Code, page: int | None) -> list[Code]:
    """Return a piece of code without the hypercall page, whose bytes are Xen's."""
    end = piece.address + len(piece.data)
    if page is None or page >= end or page + HYPERCALL_PAGE_BYTES <= piece.address:
        return [piece]
    found = []
    if page > piece.address:
        found.append(piece._replace(data=piece.data[: page - piece.address]))
    after = page + HYPERCALL_PAGE_BYTES - piece.address
    if after < len(piece.data):
        found.append(Code(piece.address + after, piece.offset + after, piece.data[after:]))
    return found


def executable_mappings(pid: int) -> list[Mapping]:
    """Return the executable mappings of files.

    Raises:
        TrialError: they cannot be read.
    """
    try:
        with open(f"/proc/{pid}/maps", "rb") as file:
            lines = file.read(_MOST_MAPS_BYTES).decode(errors="backslashreplace").splitlines()
    except FileNotFoundError:
        raise TargetGoneError(f"process {pid} does not exist") from None
    except OSError as error:
        raise TrialError(f"process {pid}: cannot read its mappings: {error.strerror}") from None
    found = []
    for line in lines:
        span, rights, offset, device, inode, *path = line.split(maxsplit=5)
        start, _, end = span.partition("-")
        if "x" in rights and int(inode):
            found.append(
                Mapping(
                    int(start, 16), int(end, 16), int(offset, 16), device, int(inode), path[0] if path else ""
                )
            )
    return found


def load_offset(pid: int, memory: int, image: Path, code: Sequence[Code]) -> int:
    """Return what to add to an address as linked to get the process's, after the code was compared.

    Args:
        memory: a descriptor of /proc/PID/mem.
        code: the image's executable sections.

    Raises:
        TrialError: the process does not have this image, or its code differs.
    """
    mappings = executable_mappings(pid)
    stat = image.stat()
    same = [item for item in mappings if item.inode == stat.st_ino and _device(item.device) == stat.st_dev]
    offsets = {base for item in same or mappings if (base := _base(item, code)) is not None}
    first_difference = ""
    for base in sorted(offsets):
        difference = difference_of(FileMemory(memory), base, code)
        if not difference:
            return base
        first_difference = first_difference or difference
    if same and first_difference:
        raise TrialError(f"process {pid}: its code is not that of {image}: {first_difference}")
    raise TrialError(
        f"process {pid} does not run the code of {image}; give the file that /proc/{pid}/exe is, unstripped"
    )


def verify(memory: int, base: int, code: Sequence[Code], pid: int) -> None:
    """Compare the code with the image's once more.

    Raises:
        TrialError: it differs.
    """
    if difference := difference_of(FileMemory(memory), base, code):
        raise TrialError(f"process {pid}: after the trial its code is not the image's: {difference}")


def _device(text: str) -> int:
    major, _, minor = text.partition(":")
    return os.makedev(int(major, 16), int(minor, 16))


def _base(mapping: Mapping, code: Sequence[Code]) -> int | None:
    """Return the load offset if a mapping holds one of the pieces, judged by offsets in the file."""
    for piece in code:
        if (
            mapping.offset
            <= piece.offset
            < piece.offset + len(piece.data)
            <= (mapping.offset + mapping.end - mapping.start)
        ):
            base = mapping.start + piece.offset - mapping.offset - piece.address
            return base if base % 4096 == 0 else None
    return None


def difference_of(memory: Memory, base: int, code: Sequence[Code]) -> str:
    """Return where the code in some memory differs from the image's, "" if it does not."""
    for piece in code:
        for start in range(0, len(piece.data), _CHUNK_BYTES):
            expected = piece.data[start : start + _CHUNK_BYTES]
            try:
                found = memory.read(base + piece.address + start, len(expected))
            except OSError:
                found = b""
            if found == expected:
                continue
            if len(found) < len(expected):
                return f"nothing is mapped at {base + piece.address + start + len(found):#x}"
            at = next(place for place in range(len(expected)) if found[place] != expected[place])
            where = f"{piece.address + start + at:#x} as linked has {found[at]:02x}, not {expected[at]:02x}"
            if found[at] == _BREAKPOINT:
                where += " (a breakpoint: a uprobe, or one that a debugger left)"
            return where
    return ""
