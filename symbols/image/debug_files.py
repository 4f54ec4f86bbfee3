"""The files that go with an image: its debug file and its symbol map.

A debug file is looked for by build-id where gdb does, and beside the image.  One with another build-id is
from another build and would silently give wrong lines.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from xtrace.symbols.errors import ImageError
from xtrace.symbols.image import headers
from xtrace.symbols.image.files import map_file
from xtrace.symbols.image.headers import Headers
from xtrace.symbols.image.intervals import Extents
from xtrace.symbols.image.symbol_table import Symbols

_DEBUG_ROOT = Path("/usr/lib/debug")
_VERSIONED = re.compile(r"vmlinu[xz]-(?P<version>.+)")


def debug_file(path: str, build_id: str, given: str | None) -> tuple[str, memoryview, Headers] | None:
    """Return path, bytes and headers of an image's debug file, None where none is found.

    Raises:
        OSError: the given one cannot be opened.
        ImageError: the given one is not an ELF file, or is from another build.
    """
    if given is not None:
        data = map_file(given)
        found = headers.read_headers(data, given)
        other = headers.build_id(data, found)
        if build_id and other != build_id:
            raise ImageError(
                f"{given}: has build-id {other or 'none'}, the image {path} has {build_id}; "
                "give the debug file of the same build"
            )
        return given, data, found
    for candidate in _debug_candidates(Path(path), build_id):
        try:
            data = map_file(str(candidate))
            found = headers.read_headers(data, str(candidate))
        except (OSError, ImageError):
            continue
        if headers.build_id(data, found) == build_id:
            return str(candidate), data, found
    return None


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
