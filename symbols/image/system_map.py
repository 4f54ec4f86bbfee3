"""Parse a symbol map in text form: System.map, a copy of /proc/kallsyms, the output of nm."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from xtrace.symbols.errors import ImageError, shown
from xtrace.symbols.image.intervals import U64

_MOST_LINES = 4_000_000
_MOST_BYTES = 256 << 20
_LINE_ENDS = bytes.maketrans(b"\n\r\t", b"\0\0\0")
_HEX = np.full(256, 0xFF, np.uint8)
_HEX[np.frombuffer(b"0123456789", np.uint8)] = np.arange(10)
_HEX[np.frombuffer(b"abcdef", np.uint8)] = np.arange(10, 16)
_HEX[np.frombuffer(b"ABCDEF", np.uint8)] = np.arange(10, 16)


def map_lines(text: bytes, path: str) -> tuple[U64, npt.NDArray[np.uint8], npt.NDArray[np.uint32]]:
    """Return the address, letter and offset of the name in each line of a map.

    Raises:
        ImageError: it is not a map, or its addresses are hidden.
    """
    width = text.find(b" ")
    if len(text) > _MOST_BYTES or not 1 <= width <= 16:
        raise ImageError(f"{path}: is not a System.map or a copy of /proc/kallsyms; make one: nm -n VMLINUX")
    raw = np.frombuffer(text if text.endswith(b"\n") else text + b"\n", np.uint8)
    ends = np.flatnonzero(raw == ord("\n"))
    starts = np.append(0, ends[:-1] + 1)
    lines = np.flatnonzero(ends > starts)  # line numbers from 0, without empty lines
    starts, ends = starts[lines], ends[lines]
    if len(lines) > _MOST_LINES:
        raise ImageError(f"{path}: {len(lines):,} lines, at most {_MOST_LINES:,}; is this a kernel's map?")
    whole = ends - starts > width + 3
    # For a short line the columns are read from offset 0; it is refused anyway.
    digits = _HEX[raw[np.where(whole, starts, 0)[:, None] + np.arange(width)]] if whole.any() else None
    spaces = np.flatnonzero(raw == ord(" "))
    spaces_in_name = np.searchsorted(spaces, ends) - np.searchsorted(spaces, starts + width + 3)
    shape = np.where(whole, starts, 0)
    sound = (
        whole
        & (spaces_in_name == 0)
        & (raw[shape + width] == ord(" "))
        & (raw[shape + width + 2] == ord(" "))
    )
    if digits is not None:
        sound &= (digits < 16).all(axis=1)
    if not sound.all():
        index = int(sound.argmin())
        line = shown(text[starts[index] : ends[index]], 80)
        raise ImageError(
            f"{path}: line {int(lines[index]) + 1} is not a line of a symbol map ({line!r}); give the real "
            "System.map, which may be in the kernel's debug package, or the output of nm -n VMLINUX"
        )
    assert digits is not None
    addresses = np.zeros(len(starts), np.uint64)
    for column in range(width):
        addresses = addresses << np.uint64(4) | digits[:, column]
    if not addresses.any():
        raise ImageError(
            f"{path}: every address is 0; copy /proc/kallsyms as root, with kernel.kptr_restrict=0"
        )
    # The symbols of a module are followed by a tab and its name.
    tabs = np.flatnonzero(raw == ord("\t"))
    kernel = np.searchsorted(tabs, ends) == np.searchsorted(tabs, starts)
    starts = starts[kernel]
    return addresses[kernel], raw[starts + width + 1], (starts + width + 3).astype(np.uint32)


def names_in(text: bytes) -> bytes:
    """Return a map's text with each name ended by a zero byte."""
    return text.translate(_LINE_ENDS)
