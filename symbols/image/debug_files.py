"""The files that go with an image: its debug file and its symbol map.

A debug file is looked for by build-id where gdb does, and beside the image; then by .gnu_debuglink; and for
an image without a build-id by its name.  One from another build would silently give wrong lines, so its
build-id, its checksum or its code must be the image's.
"""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from xtrace.symbols.errors import ImageError, shown
from xtrace.symbols.image import headers
from xtrace.symbols.image.files import map_file
from xtrace.symbols.image.headers import Headers
from xtrace.symbols.image.intervals import Extents
from xtrace.symbols.image.symbol_table import Symbols

_DEBUG_ROOT = Path("/usr/lib/debug")
_DEBUG_INFO = (".debug_info", ".zdebug_info", ".debug_types")
_LONGEST_LINK_BYTES = 4096
_VERSIONED = re.compile(r"vmlinu[xz]-(?P<version>.+)")


DebugFile = tuple[str, memoryview, Headers]


@dataclass(frozen=True, slots=True)
class Owner:
    """The image whose debug file is looked for: its path, build-id ("" for none), bytes and headers."""

    path: str
    build_id: str
    data: memoryview
    headers: Headers


def debug_file(owner: Owner, given: str | None) -> tuple[DebugFile | None, str]:
    """Return path, bytes and headers of an image's debug file, None where none is found.

    The second value says why a file that .gnu_debuglink or its name points to is not used; "" for nothing.

    Raises:
        OSError: the given one cannot be opened.
        ImageError: the given one is not an ELF file, or is from another build.
    """
    path, build_id = owner.path, owner.build_id
    if given is not None:
        data = map_file(given)
        found = headers.read_headers(data, given)
        other = headers.build_id(data, found)
        if build_id and other != build_id:
            raise ImageError(
                f"{given}: has build-id {other or 'none'}, the image {path} has {build_id}; "
                "give the debug file of the same build"
            )
        return (given, data, found), ""
    for candidate in _debug_candidates(Path(path), build_id):
        made = _read(candidate)
        if made is not None and headers.build_id(made[1], made[2]) == build_id:
            return made, ""
    if _has_debug(owner.headers):
        return None, ""
    return _linked(owner)


def _linked(owner: Owner) -> tuple[DebugFile | None, str]:
    """Return the debug file that .gnu_debuglink names, or one beside an image without a build-id."""
    notes = []
    link = _debug_link(owner)
    if link is not None:
        name, checksum = link
        for candidate in _link_candidates(Path(owner.path), name):
            made = _read(candidate)
            if made is not None and zlib.crc32(made[1]) == checksum:
                return made, ""
            if made is not None:
                notes.append(
                    f"{shown(str(candidate))}: its checksum is not that in .gnu_debuglink: it is of "
                    "another build; give the right one with --debug"
                )
        if not notes:
            notes.append(
                f"debug information is in {shown(name)} (.gnu_debuglink), which is not beside the image or "
                "below /usr/lib/debug; give it with --debug"
            )
    if not owner.build_id:
        for candidate in _named_candidates(Path(owner.path)):
            made = _read(candidate)
            if made is not None and _same_code(owner, made):
                return made, ""
            if made is not None and _has_debug(made[2]):
                notes.append(
                    f"{shown(candidate.name)}: its code differs from the image's: it is from another build; "
                    "give the right one with --debug"
                )
    return None, notes[0] if notes else ""


def _read(path: Path) -> DebugFile | None:
    try:
        data = map_file(str(path))
        return str(path), data, headers.read_headers(data, str(path))
    except (OSError, ImageError):
        return None


def _has_debug(found: Headers) -> bool:
    return any(name in _DEBUG_INFO for name in found.names)


def _debug_link(owner: Owner) -> tuple[str, int] | None:
    """Return the name and the checksum in .gnu_debuglink."""
    for index, name in enumerate(owner.headers.names):
        if name == ".gnu_debuglink" and int(owner.headers.sections[index]["type"]) == headers.SHT_PROGBITS:
            content = bytes(headers.stored(owner.data, owner.headers.sections[index])[:_LONGEST_LINK_BYTES])
            text, zero, _ = content.partition(b"\0")
            place = (len(text) + 4) & ~3
            if zero and text and place + 4 <= len(content):
                # Only a file's name: a path could lead anywhere.
                return Path(os.fsdecode(text)).name, int.from_bytes(content[place : place + 4], "little")
    return None


def _link_candidates(path: Path, name: str) -> Iterator[Path]:
    for candidate in (path.parent / name, path.parent / ".debug" / name):
        if not (candidate.exists() and path.exists() and candidate.samefile(path)):
            yield candidate
    yield _DEBUG_ROOT / path.absolute().parent.relative_to("/") / name


def _named_candidates(path: Path) -> Iterator[Path]:
    for name in (f"{path.name}.gdb", f"{path.name}.debug", f".debug/{path.name}.debug"):
        yield path.parent / name


def _same_code(owner: Owner, other: DebugFile) -> bool:
    """Return whether two files have the same sections in memory, and the same code where both have it."""
    _, data, found = other

    def loaded(of: Headers) -> list[tuple[str, int, int]]:
        rows = ((name, of.sections[index]) for index, name in enumerate(of.names))
        return [
            (name, int(row["addr"]), int(row["size"]))
            for name, row in rows
            if int(row["flags"]) & headers.SHF_ALLOC
        ]

    if not loaded(owner.headers) or loaded(owner.headers) != loaded(found):
        return False
    kinds = (headers.SHT_PROGBITS, headers.SHT_NOTE)
    mine = {name: owner.headers.sections[index] for index, name in enumerate(owner.headers.names)}
    for index, name in enumerate(found.names):
        row, own = found.sections[index], mine.get(name)
        stored = int(row["type"]) in kinds and int(row["flags"]) & headers.SHF_ALLOC
        if stored and own is not None and headers.stored(data, row) != headers.stored(owner.data, own):
            return False
    return True


def _debug_candidates(path: Path, build_id: str) -> Iterator[Path]:
    if len(build_id) < 4:
        return
    by_id = Path(".build-id", build_id[:2], f"{build_id[2:]}.debug")
    yield _DEBUG_ROOT / by_id
    yield path.parent / by_id
    for name in (f"{path.name}.debug", f".debug/{path.name}.debug", f"{path.name}.gdb", f"{build_id}.debug"):
        yield path.parent / name
    versioned = _VERSIONED.fullmatch(path.name)
    if versioned:
        name = f"vmlinux-{versioned['version']}"
        if path.name != name:
            yield path.parent / name
        yield _DEBUG_ROOT / "boot" / name
        yield _DEBUG_ROOT / name


def read_map(path: str, extents: Extents, text_address: int | None) -> Symbols:
    """Return the symbols of a System.map or a copy of /proc/kallsyms.

    Args:
        path: the map.
        extents: the image's sections.
        text_address: where the image has its .text section, None if it has none.

    Raises:
        OSError: it cannot be opened.
        ImageError: it is not a map, or not of this image.
    """
    text = bytes(map_file(path))
    source = "kallsyms" if "kallsyms" in Path(path).name else "System.map"
    symbols = Symbols.from_map_text(text, source, extents=extents, text_address=text_address, path=path)
    if not len(symbols.function_starts()):
        raise ImageError(
            f"{path}: none of its {len(symbols):,} symbols is in the image's code; "
            "give the map of this kernel"
        )
    return symbols


def map_beside(path: str, extents: Extents, text_address: int | None) -> Symbols | None:
    """Return the symbols of the System.map beside a Linux image, None if there is none that fits.

    Debian's System.map is one line that says where the real one is; it is skipped.
    """
    versioned = _VERSIONED.fullmatch(Path(path).name)
    if not versioned:
        return None
    candidate = Path(path).with_name(f"System.map-{versioned['version']}")
    try:
        symbols = read_map(str(candidate), extents, None)
    except (OSError, ImageError):
        return None
    # A different _text: the map is from another build of the same version.
    return symbols if text_address is None or symbols.find("_text") in (None, text_address) else None
