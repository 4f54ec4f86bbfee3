"""Find the kallsyms tables that a Linux kernel contains, without symbols that say where they are.

The tables of scripts/kallsyms.c are in read-only data, in this order:

    to 6.3    offsets, relative base, count, names, markers, (6.2 on: order of names,) tokens, token index
    from 6.4  count, names, markers, tokens, token index, offsets, relative base, order of names
    to 4.5, and without CONFIG_KALLSYMS_BASE_RELATIVE: addresses instead of offsets and base

A name is a length (from 6.1 on, above 127 in two bytes) and that many bytes, each of which encodes a
token; the first character is nm's letter.  Markers say where each 256th name begins.  The token table can
be recognised because digits occur in names and are encoded as themselves.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xtrace.symbols.image.intervals import U64, Extents
from xtrace.symbols.image.symbol_table import Symbols

_TOKENS = 256
_DIGITS = b"".join(bytes((digit, 0)) for digit in b"0123456789")
_FIRST_DIGIT = ord("0")
#: A token is never longer than the longest name, 512 bytes.
_LONGEST_TOKEN = 512
#: There are at most three bytes per symbol between the markers and the tokens.
_MARKERS_REACH_BYTES = 4 << 20
#: 300,000 names take some 10 MB when expanded.
_MOST_PLAIN_BYTES = 32 << 20
_NAMES_A_MARKER = 256
_LEAST_MARKERS = 4
#: A name takes its length and at least one token, and at most 512 characters and two bytes.
_LONGEST_STEP = 514
_LEAST_STEP, _MOST_STEP = 2 * _NAMES_A_MARKER, _LONGEST_STEP * _NAMES_A_MARKER
_MOST_SYMBOLS = 1_000_000
# How many things may look like the tables, by chance or by forgery.
_MOST_DIGITS, _MOST_TABLES, _MOST_RUNS, _MOST_COUNTS, _MOST_WALKS = 64, 4, 8, 64, 4


@dataclass(frozen=True, slots=True)
class _Tokens:
    """The token table: where it begins, where its index ends, and the tokens."""

    start: int
    end: int
    texts: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where compressed names may be: their count, and the names themselves, which end at their markers."""

    count_at: int
    count: int
    start: int
    end: int
    markers: list[int]
    two_bytes: bool


@dataclass(frozen=True, slots=True)
class _Names:
    """Where each compressed name begins, after its length, and how many bytes it has."""

    starts: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int64]


def embedded(parts: Iterable[memoryview], bits: int, extents: Extents) -> Symbols | None:
    """Return the symbols of a Linux kernel's own kallsyms tables, None where there are none.

    Args:
        parts: the bytes of the sections that may hold them.
        bits: 32 or 64.
        extents: the image's sections, which contain most symbols.
    """
    for data in parts:
        for tokens in itertools.islice(_token_tables(data), _MOST_TABLES):
            for place in itertools.islice(_candidates(data, tokens.start, bits // 8), _MOST_WALKS):
                names = _walk(data, place, place.count)
                if names is None:
                    continue
                addresses = _find_addresses(data, tokens, place, bits // 8, extents)
                expanded = _expand(np.frombuffer(data, np.uint8), names, tokens.texts)
                if addresses is not None and expanded is not None:
                    text, offsets = expanded
                    letters = np.frombuffer(text, np.uint8)[offsets]
                    name_offsets = (offsets + 1).astype(np.uint32)
                    return Symbols.from_letters(
                        addresses, letters, name_offsets, text, "embedded kallsyms", extents
                    )
    return None


def _token_tables(data: memoryview) -> Iterator[_Tokens]:
    """Yield each table of 256 strings that is followed by an index that fits it."""
    whole = data.obj if isinstance(data.obj, bytes) and len(data.obj) == len(data) else bytes(data)
    place = whole.find(_DIGITS)
    for _ in range(_MOST_DIGITS):
        if place < 0:
            return
        end = place
        for _ in range(_TOKENS - _FIRST_DIGIT):
            stop = whole.find(b"\0", end, end + _LONGEST_TOKEN)
            if stop < 0:
                break
            end = stop + 1
        for alignment in (4, 8):
            index_at = -(-end // alignment) * alignment
            if index_at + 2 * _TOKENS > len(whole):
                continue
            index = struct.unpack_from(f"<{_TOKENS}H", whole, index_at)
            start = place - index[_FIRST_DIGIT]
            if (
                index[0] == 0
                and start >= 0
                and all(whole[start + at - 1] == 0 and start + at < end for at in index[1:])
            ):
                texts = tuple(
                    whole[start + at : whole.find(b"\0", start + at, start + at + _LONGEST_TOKEN)]
                    for at in index
                )
                yield _Tokens(start, index_at + 2 * _TOKENS, texts)
                break
        place = whole.find(_DIGITS, place + 1)


def _candidates(data: memoryview, tokens_at: int, word_bytes: int) -> Iterator[_Place]:
    """Yield where names may be before a token table: their markers rise from 0 in plausible steps."""
    low = max(tokens_at - _MARKERS_REACH_BYTES, 0) & ~7
    # Markers had the size of a pointer until 4.20.
    for size in (4, 8) if word_bytes == 8 else (4,):
        values = np.frombuffer(data, f"<u{size}", (tokens_at - low) // size, low)
        steps = values[1:] - values[:-1]
        rising = (steps >= _LEAST_STEP) & (steps <= _MOST_STEP)
        edges = np.flatnonzero(np.diff(np.concatenate(([0], rising.view(np.int8), [0]))))
        firsts, lasts = edges[::2], edges[1::2]
        likely = np.flatnonzero((values[firsts] == 0) & (lasts - firsts >= _LEAST_MARKERS - 1))
        for run in likely[np.argsort(firsts[likely] - lasts[likely])][:_MOST_RUNS].tolist():
            markers_at = low + int(firsts[run]) * size
            yield from _counts_before(data, markers_at, values[firsts[run] : lasts[run] + 1].astype(np.int64))


def _counts_before(data: memoryview, markers_at: int, markers: npt.NDArray[np.int64]) -> Iterator[_Place]:
    """Yield where names that end at their markers may begin: after a count that fits the markers."""
    low = max(markers_at - int(markers[-1]) - _MOST_STEP - 16, 0) & ~3
    counts = np.frombuffer(data, "<u4", max(markers_at - int(markers[-1]) - low, 0) // 4, low).astype(
        np.int64
    )
    fits = -(-counts // _NAMES_A_MARKER) == len(markers)
    expected = markers.tolist()
    # The last one first: names after the last marker mostly take few bytes; farther back are the offsets.
    for index in np.flatnonzero(fits & (counts <= _MOST_SYMBOLS))[::-1][:_MOST_COUNTS].tolist():
        count_at = low + 4 * index
        # On 64 bits the names are aligned to 8 after their count.
        for names_at, two_bytes in itertools.product((count_at + 8, count_at + 4), (True, False)):
            place = _Place(count_at, int(counts[index]), names_at, markers_at, expected, two_bytes)
            # Two markers that fit are not chance; only then is the full walk worth its time.
            if _walk(data, place, 2 * _NAMES_A_MARKER + 1) is not None:
                yield place


def _walk(data: memoryview, names: _Place, most: int) -> _Names | None:
    """Return up to ``most`` names by following their lengths; None if these do not match the markers."""
    count = min(names.count, most)
    raw = bytes(data[names.start : min(names.end, names.start + count * _LONGEST_STEP)])
    starts, lengths = [], []
    place = 0
    for number in range(count):
        if not number % _NAMES_A_MARKER and place != names.markers[number // _NAMES_A_MARKER]:
            return None
        if place + 2 > len(raw):
            return None
        length = raw[place]
        place += 1
        if names.two_bytes and length & 0x80:
            length = (length & 0x7F) | raw[place] << 7
            place += 1
        if not length:
            return None
        starts.append(place)
        lengths.append(length)
        place += length
    if place > len(raw):
        return None
    return _Names(np.array(starts, np.int64) + names.start, np.array(lengths, np.int64))


def _find_addresses(
    data: memoryview, tokens: _Tokens, names: _Place, word_bytes: int, extents: Extents
) -> U64 | None:
    """Return the addresses, read in the format that makes them rise and be in the image; None for none."""

    def aligned(place: int) -> int:
        return -(-place // word_bytes) * word_bytes

    offsets_bytes = aligned(4 * names.count)
    behind = aligned(tokens.end)
    readings: list[U64] = []
    for offsets_at, base_at in (
        (names.count_at - word_bytes - offsets_bytes, names.count_at - word_bytes),
        (behind, behind + offsets_bytes),
    ):
        if offsets_at >= 0 and base_at + word_bytes <= len(data):
            offsets = np.frombuffer(data, "<i4", names.count, offsets_at).astype(np.int64)
            base = np.uint64(int.from_bytes(data[base_at : base_at + word_bytes], "little"))
            unsigned = (offsets & 0xFFFF_FFFF).astype(np.uint64)
            # CONFIG_KALLSYMS_ABSOLUTE_PERCPU: offsets >= 0 are addresses, others count from the base.
            readings += (
                unsigned + base,
                np.where(offsets >= 0, unsigned, base + (-1 - offsets).astype(np.uint64)),
            )
    for place in (names.count_at - word_bytes * names.count, behind):
        if place >= 0 and place + word_bytes * names.count <= len(data):
            readings += (np.frombuffer(data, f"<u{word_bytes}", names.count, place).astype(np.uint64),)
    for addresses in readings:
        if word_bytes == 4:
            addresses &= np.uint64(0xFFFF_FFFF)
        rises = (addresses[1:] >= addresses[:-1]).all()
        if rises and addresses[0] != addresses[-1] and (extents.index(addresses) >= 0).mean() > 0.5:
            return addresses
    return None


def _expand(
    raw: npt.NDArray[np.uint8], names: _Names, texts: tuple[bytes, ...]
) -> tuple[bytes, npt.NDArray[np.int64]] | None:
    """Return the expanded names, each ended by a zero byte, and where each begins; None if far too long."""
    first, end = int(names.starts[0]), int(names.starts[-1] + names.lengths[-1])
    sizes = np.array([len(text) for text in texts])
    if int(sizes[raw[first:end]].sum()) > _MOST_PLAIN_BYTES:
        return None
    tokens = raw[first:end].astype(np.int16)
    # Between two names is a length; it becomes the zero byte that ends the first one.
    gaps = names.starts[1:] - first
    tokens[gaps - 1] = _TOKENS
    two_bytes = gaps - (names.starts[:-1] + names.lengths[:-1] - first) == 2
    tokens[gaps[two_bytes] - 2] = _TOKENS + 1
    text = b"".join(map((*texts, b"\0", b"").__getitem__, tokens.tolist())) + b"\0"
    ends = np.flatnonzero(np.frombuffer(text, np.uint8) == 0)
    return text, np.append(0, ends[:-1] + 1)
