"""Write protobuf messages, many at a time, as arrays of bytes.

The field numbers are those of Perfetto's protos/perfetto/trace/.  The package `perfetto` has the same
messages as Python classes; to fill one in takes 12 times as long as an event takes here.  A number may be
written in more bytes than it needs, as Perfetto does for lengths that it does not know yet, so that all
messages of a kind have one length and are the rows of an array.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from xtrace.probes.reader.batches import I64

Bytes2D: TypeAlias = npt.NDArray[np.uint8]

_VARINT, _FIXED64, _LEN = 0, 1, 2
#: Bytes of a timestamp, of up to 63 bits, and of other numbers.
TIME_WIDTH = 9


def varint(value: int) -> bytes:
    """Return a number that is not negative."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def varints(values: npt.ArrayLike) -> bytes:
    """Return numbers that are not negative, one after the other."""
    left = np.asarray(values, np.uint64)
    sizes = np.ones(len(left), np.int64)
    for bits in range(7, 64, 7):
        more = left >> np.uint64(bits) > 0
        if not more.any():
            break
        sizes += more
    ends = np.cumsum(sizes)
    out = np.empty(int(ends[-1]) if len(ends) else 0, np.uint8)
    starts = ends - sizes
    for place in range(int(sizes.max(initial=0))):
        here = sizes > place
        part = (left[here] >> np.uint64(7 * place) & np.uint64(0x7F)).astype(np.uint8)
        out[starts[here] + place] = part | np.where(sizes[here] > place + 1, 0x80, 0).astype(np.uint8)
    return out.tobytes()


def padded(values: npt.ArrayLike, width: int) -> Bytes2D:
    """Return each number in ``width`` bytes, as uint8 [n, width].

    Raises:
        ValueError: one needs more.
    """
    left = np.asarray(values, np.uint64)
    if width < 10 and len(left) and int(left.max()) >> 7 * width:
        raise ValueError(f"{int(left.max())} does not fit in {width} bytes")
    out = np.empty((len(left), width), np.uint8)
    for place in range(width):
        out[:, place] = left >> np.uint64(7 * place) & np.uint64(0x7F)
        if place < width - 1:
            out[:, place] |= 0x80
    return out


def fixed64(values: npt.ArrayLike) -> Bytes2D:
    """Return each number in eight bytes, as uint8 [n, 8]."""
    return np.ascontiguousarray(values, np.uint64).astype("<u8").view(np.uint8).reshape(-1, 8)


def tag(field: int, kind: int = _VARINT) -> bytes:
    """Return what a field begins with."""
    return varint(field << 3 | kind)


def number(field: int, value: int) -> bytes:
    """Return a field with a number; a negative one takes ten bytes."""
    return tag(field) + varint(value & (1 << 64) - 1)


def message(field: int, *parts: bytes) -> bytes:
    """Return a field with a message, or a packed list of numbers."""
    content = b"".join(parts)
    return tag(field, _LEN) + varint(len(content)) + content


def text(field: int, value: str) -> bytes:
    """Return a field with text."""
    return message(field, value.encode("utf-8", "backslashreplace"))


def fixed_tag(field: int) -> bytes:
    """Return what a field with eight bytes begins with."""
    return tag(field, _FIXED64)


def rows(count: int, *parts: bytes | Bytes2D) -> Bytes2D:
    """Return the parts of ``count`` messages side by side: uint8 [count, bytes]."""
    columns = [
        np.broadcast_to(np.frombuffer(part, np.uint8), (count, len(part)))
        if isinstance(part, bytes)
        else part
        for part in parts
    ]
    return np.concatenate(columns, axis=1)


def framed(field: int, content: Bytes2D) -> Bytes2D:
    """Return messages of one length as fields."""
    return rows(len(content), tag(field, _LEN) + varint(content.shape[1]), content)


def signed(values: I64) -> npt.NDArray[np.uint64]:
    """Return numbers of which some are negative as the format has them: modulo 2^64."""
    return values.astype(np.uint64)
