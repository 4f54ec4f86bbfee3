"""Find the symbol that an address belongs to, and the address of a symbol.

A kernel's symbols do not partition its code: there are functions of size 0, untyped labels inside
functions, several names for one address, and ranges that overlap.  So an address belongs to the most
specific symbol: a typed one (function, object) before an exported label before a local label, and among
equals the one that starts last.  A typed or exported symbol of size 0 extends to the next typed or exported
one, a local label to the next symbol; no symbol extends past its section.
"""

from __future__ import annotations

import bisect
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from xtrace.symbols.errors import ImageError, shown
from xtrace.symbols.image.intervals import I64, U64, Extents, distinct, flatten, layered
from xtrace.symbols.image.system_map import map_lines, names_in

# st_type, st_bind and st_shndx, as in the System V ABI.
NOTYPE, OBJECT, FUNC, GNU_IFUNC = 0, 1, 2, 10
LOCAL, GLOBAL, WEAK = 0, 1, 2
UNDEFINED, RESERVED, ABSOLUTE = 0, 0xFF00, 0xFFF1

_ENTRY64 = np.dtype(
    [("name", "<u4"), ("info", "u1"), ("other", "u1"), ("shndx", "<u2"), ("value", "<u8"), ("size", "<u8")]
)
_ENTRY32 = np.dtype(
    [("name", "<u4"), ("value", "<u4"), ("size", "<u4"), ("info", "u1"), ("other", "u1"), ("shndx", "<u2")]
)
#: The largest real kernels have some 300,000.
_MOST_SYMBOLS = 4_000_000
_MOST_NAME_BYTES = 256 << 20
_LONGEST_NAME = 512
#: Ranks of symbols: an address belongs to the highest.
_TYPED, _EXPORTED, _LABEL, _NOWHERE = 3, 2, 1, 0
_LAST_ADDRESS = 0xFFFF_FFFF_FFFF_FFFF
#: From this many addresses on, a table of code in steps of 16 bytes pays: most steps are in one symbol.
_MANY_ADDRESSES = 50_000
_PIECE = 1 << 16
_LEAST_SHIFT, _MOST_BUCKETS = 4, 1 << 21
_SHARED = -2


def entries(table: memoryview, bits: int, path: str) -> npt.NDArray[Any]:
    """Return a copy of an ELF symbol table with the columns of its 64-bit form.

    Raises:
        ImageError: more symbols than any kernel has.
    """
    layout = _ENTRY64 if bits == 64 else _ENTRY32
    count = len(table) // layout.itemsize
    if count > _MOST_SYMBOLS:
        raise ImageError(f"{path}: {count:,} symbols, at most {_MOST_SYMBOLS:,}; is this a kernel?")
    raw = np.frombuffer(table, layout, count)
    wide = np.empty(count, _ENTRY64)
    for column in _ENTRY64.names or ():
        wide[column] = raw[column]
    return wide


def _letter_columns() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8], npt.NDArray[np.bool_]]:
    """Return st_type, st_bind and whether the symbol is absolute, for each letter of nm."""
    kinds = np.full(256, NOTYPE, np.uint8)
    binds = np.full(256, LOCAL, np.uint8)
    binds[ord("A") : ord("Z") + 1] = GLOBAL
    kinds[[ord(c) for c in "tTwWi"]] = FUNC
    kinds[[ord(c) for c in "bBdDgGrRsSvVu"]] = OBJECT
    binds[[ord(c) for c in "wWvV"]] = WEAK
    absolute = np.zeros(256, np.bool_)
    absolute[[ord(c) for c in "aAnN"]] = True
    return kinds, binds, absolute


_LETTERS = _letter_columns()


class Symbols:
    """The symbols of an image, sorted by address; at the same address, the most specific first.

    Attributes:
        addresses, sizes: uint64.
        kinds, binds: uint8, st_type and st_bind of ELF.
        name_offsets: uint32 into ``names``.
        names: the names, each ended by a zero byte.
        source: ".symtab", ".dynsym", "System.map", "kallsyms", "embedded kallsyms" or "none".
    """

    def __init__(
        self,
        addresses: U64,
        sizes: U64,
        kinds: npt.NDArray[np.uint8],
        binds: npt.NDArray[np.uint8],
        name_offsets: npt.NDArray[np.uint32],
        names: bytes,
        source: str,
        *,
        extents: Extents | None = None,
        absolute: npt.NDArray[np.bool_] | None = None,
    ) -> None:
        ranks = np.full(len(addresses), _TYPED, np.uint8)
        untyped = kinds == NOTYPE
        ranks[untyped] = np.where(binds[untyped] == LOCAL, _LABEL, _EXPORTED)
        if absolute is not None:
            ranks[absolute] = _NOWHERE  # a number, not a place
        # Global before weak before local, functions before objects, sized before size 0.
        bind_order = np.array([2, 0, 1], np.uint8)[np.minimum(binds, WEAK)]
        kind_order = (kinds == OBJECT).astype(np.uint8)
        worth = (
            (3 - ranks).astype(np.uint8) * 16
            + bind_order * 4
            + kind_order * 2
            + (sizes == 0).astype(np.uint8)
        )
        order = np.lexsort((worth, addresses))
        self.addresses = addresses[order]
        self.sizes = sizes[order]
        self.kinds = kinds[order]
        self.binds = binds[order]
        self.name_offsets = name_offsets[order]
        self.names = names if names.endswith(b"\0") else names + b"\0"
        self.source = source
        self._ranks = ranks[order]
        self._extents = extents

    @classmethod
    def empty(cls) -> Symbols:
        """Return an empty table."""
        none8, none64 = np.empty(0, np.uint8), np.empty(0, np.uint64)
        return cls(none64, none64, none8, none8, np.empty(0, np.uint32), b"", "none")

    @classmethod
    def from_elf(
        cls, table: npt.NDArray[Any], names: memoryview, extents: Extents, source: str, path: str
    ) -> Symbols:
        """Return the named, defined symbols of an ELF symbol table.

        Args:
            table: as from entries(), with st_value an address (laid out, if the image is relocatable).
            names: the string table.
            extents: the image's sections.
            source: ".symtab" or ".dynsym".
            path: the file, for the error.

        Raises:
            ImageError: a name is outside the string table, or the string table is too large.
        """
        if len(names) > _MOST_NAME_BYTES:
            raise ImageError(f"{path}: {len(names):,} bytes of symbol names; is this a kernel?")
        strings = bytes(names) or b"\0"
        kinds = table["info"] & 15
        shndx = table["shndx"]
        placed = (shndx != UNDEFINED) & ((shndx < RESERVED) | (shndx == ABSOLUTE))
        kept = table[placed & np.isin(kinds, (NOTYPE, OBJECT, FUNC, GNU_IFUNC)) & (table["name"] != 0)]
        beyond = np.flatnonzero(kept["name"] >= len(strings))
        if len(beyond):
            offset = int(kept["name"][beyond[0]])
            raise ImageError(
                f"{path}: a symbol's name is at offset {offset:#x} in {len(strings):#x} bytes of names; "
                "the symbol table is damaged: strip it and give the symbols separately"
            )
        return cls(
            kept["value"].copy(),
            kept["size"].copy(),
            kept["info"] & np.uint8(15),
            kept["info"] >> np.uint8(4),
            kept["name"].copy(),
            strings,
            source,
            extents=extents,
            absolute=kept["shndx"] == ABSOLUTE,
        )

    @classmethod
    def from_letters(
        cls,
        addresses: U64,
        letters: npt.NDArray[np.uint8],
        name_offsets: npt.NDArray[np.uint32],
        names: bytes,
        source: str,
        extents: Extents | None,
    ) -> Symbols:
        """Return symbols by nm's letters: "T" is exported code, "d" is local data."""
        kinds, binds, absolute = _LETTERS
        sizes = np.zeros(len(addresses), np.uint64)
        return cls(
            addresses,
            sizes,
            kinds[letters],
            binds[letters],
            name_offsets,
            names,
            source,
            extents=extents,
            absolute=absolute[letters],
        )

    @classmethod
    def from_map_text(
        cls,
        text: bytes,
        source: str,
        *,
        extents: Extents | None = None,
        text_address: int | None = None,
        path: str = "map",
    ) -> Symbols:
        """Return the symbols of a System.map or a copy of /proc/kallsyms.

        Args:
            text: lines of an address, a letter and a name; symbols of modules are left out.
            source: "System.map" or "kallsyms".
            extents: the image's sections, which bound the symbols.
            text_address: where the image has its .text section. A running kernel may be elsewhere
                (KASLR): the map's symbols from _text on are moved by the difference.
            path: the file, for the error.

        Raises:
            ImageError: it is not such a file.
        """
        addresses, letters, name_offsets = map_lines(text, path)
        names = names_in(text)
        symbols = cls.from_letters(addresses, letters, name_offsets, names, source, extents)
        start = symbols.find("_text")
        if text_address is None or start is None or start == text_address:
            return symbols
        moved = addresses.copy()
        moved[addresses >= np.uint64(start)] += np.uint64((text_address - start) & _LAST_ADDRESS)
        return cls.from_letters(moved, letters, name_offsets, names, source, extents)

    def __len__(self) -> int:
        return len(self.addresses)

    def name(self, index: int) -> str:
        """Return a symbol's name as printable text on one line."""
        start = int(self.name_offsets[index])
        end = self.names.find(b"\0", start, start + 4 * _LONGEST_NAME)
        return shown(self.names[start : end if end >= 0 else start + 4 * _LONGEST_NAME], _LONGEST_NAME)

    def index_of(self, address: int) -> int | None:
        """Return the index of the symbol that an address belongs to, None for none."""
        breaks, owners = self._ownership_lists
        place = bisect.bisect_right(breaks, address) - 1
        owner = owners[place] if place >= 0 else -1
        return owner if owner >= 0 else None

    def indices_of(self, addresses: U64) -> I64:
        """Return the index of the symbol of each address, -1 for none."""
        if len(addresses) < _MANY_ADDRESSES:
            return self._searched(addresses)
        first, shift, owners = self._buckets
        found = np.empty(len(addresses), np.int64)
        # In pieces that stay in the processor's cache.
        for start in range(0, len(addresses), _PIECE):
            piece = addresses[start : start + _PIECE]
            bucket = np.minimum((piece - first) >> shift, np.uint64(len(owners) - 1))
            here = owners[bucket.view(np.int64)].astype(np.int64)
            shared = np.flatnonzero(here == _SHARED)
            here[shared] = self._searched(piece[shared])
            found[start : start + _PIECE] = here
        return found

    def _searched(self, addresses: U64) -> I64:
        breaks, owners = self._ownership
        if not len(breaks):
            return np.full(len(addresses), -1, np.int64)
        places = np.searchsorted(breaks, addresses, "right") - 1
        return np.where(places >= 0, owners[places], -1)

    @cached_property
    def _buckets(self) -> tuple[np.uint64, np.uint64, npt.NDArray[np.int32]]:
        """First address, log2 of bytes per bucket, symbol of each: _SHARED for several and at the end."""
        code = self.function_starts()
        if not len(code):
            return np.uint64(0), np.uint64(0), np.full(1, _SHARED, np.int32)
        first, span = int(code[0]), int(code[-1] - code[0]) + 1
        shift = max(_LEAST_SHIFT, (span // _MOST_BUCKETS).bit_length())
        starts = np.uint64(first) + (np.arange((span >> shift) + 1, dtype=np.uint64) << np.uint64(shift))
        breaks, owners = self._ownership
        place = np.searchsorted(breaks, starts, "right")
        same = place == np.searchsorted(breaks, starts + np.uint64((1 << shift) - 1), "right")
        one = np.where(place > 0, owners[place - 1], -1)
        # Addresses beyond the last bucket are looked up like those in a shared one.
        return (
            np.uint64(first),
            np.uint64(shift),
            np.append(np.where(same, one, _SHARED), _SHARED).astype(np.int32),
        )

    def at(self, address: int) -> tuple[str, ...]:
        """Return all names at exactly this address, the most specific first."""
        if not 0 <= address <= _LAST_ADDRESS:
            return ()
        first, last = (
            int(np.searchsorted(self.addresses, np.uint64(address), side)) for side in ("left", "right")
        )
        return tuple(self.name(index) for index in range(first, last))

    def find(self, name: str) -> int | None:
        """Return the address of the symbol of exactly this name; of several, of the most specific one."""
        wanted = name.encode("utf-8", "surrogateescape")
        if not wanted or b"\0" in wanted:
            return None
        ended = wanted + b"\0"
        offsets = []
        offset = self.names.find(ended)
        # Linkers let names share their tails, so the name may be the end of another.
        while offset >= 0:
            offsets.append(offset)
            offset = self.names.find(ended, offset + 1)
        found = np.flatnonzero(np.isin(self.name_offsets, np.array(offsets, np.uint32)))
        if not len(found):
            return None
        best = min(found.tolist(), key=lambda i: (-int(self._ranks[i]), int(self.binds[i]) == LOCAL, i))
        return int(self.addresses[best])

    def matching(self, pattern: re.Pattern[bytes], names: Iterable[bytes] = ()) -> dict[str, int]:
        """Return the address by name of the symbols with some names, and of those that match a pattern.

        Args:
            pattern: also matches the zero byte that ends a name.
        """
        offsets = [match.start() for match in pattern.finditer(self.names)]
        for name in names:
            offset = self.names.find(name + b"\0")
            while offset >= 0:
                offsets.append(offset)
                offset = self.names.find(name + b"\0", offset + 1)
        if not offsets:
            return {}
        found = np.flatnonzero(np.isin(self.name_offsets, np.array(offsets, np.uint32)))
        return {self.name(index): int(self.addresses[index]) for index in found.tolist()}

    def ending_in(self, suffix: str) -> dict[str, tuple[int, int]]:
        """Return address and size by name of data and untyped symbols whose names end in ``suffix``."""
        ended = suffix.encode() + b"\0"
        found: dict[str, tuple[int, int]] = {}
        offset = self.names.find(ended)
        while offset >= 0:
            start = self.names.rfind(b"\0", 0, offset) + 1
            # Linkers let names share their tails: names may begin anywhere up to the suffix.
            inside = (self.name_offsets >= start) & (self.name_offsets <= offset)
            for index in np.flatnonzero(inside & (self.kinds != FUNC)).tolist():
                if self._ranks[index] != _NOWHERE:
                    found[self.name(index)] = int(self.addresses[index]), int(self.sizes[index])
            offset = self.names.find(ended, offset + 1)
        return found

    def function_starts(self) -> U64:
        """Return the sorted addresses of functions and labels in code, not of objects."""
        code = (self._ranks != _NOWHERE) & (self.kinds != OBJECT)
        if self._extents is not None:
            place = self._extents.index(self.addresses)
            code &= (place >= 0) & self._executable_at(place)
        else:
            code &= self.kinds != NOTYPE
        return distinct(self.addresses[code])

    def _executable_at(self, place: I64) -> npt.NDArray[np.bool_]:
        assert self._extents is not None
        if not len(self._extents.starts):
            return np.zeros(len(place), np.bool_)
        return self._extents.executable[place]

    @cached_property
    def _ownership_lists(self) -> tuple[Sequence[int], Sequence[int]]:
        breaks, owners = self._ownership
        return breaks.tolist(), owners.tolist()

    @cached_property
    def _ownership(self) -> tuple[U64, I64]:
        """Break points, and the symbol that owns the addresses from each to the next, -1 for none."""
        layers: list[tuple[U64, I64]] = []
        for rank in (_TYPED, _EXPORTED, _LABEL):
            if (self._ranks == rank).any():
                starts, ends, symbols = self._spans(rank)
                for breaks, owners in layers:
                    # A symbol that begins inside a more specific one ends with it.
                    behind = np.searchsorted(breaks, starts, "right")
                    inside = (behind > 0) & (owners[behind - 1] >= 0)
                    ends[inside] = np.minimum(ends[inside], breaks[behind[inside]])
                layers.append(flatten(starts, ends, symbols))
        return layered(layers)

    def _spans(self, rank: int) -> tuple[U64, U64, I64]:
        """Return start, end and index of the symbols of one rank; of aliases, only the first."""
        mine = np.flatnonzero(self._ranks == rank)
        first = np.ones(len(mine), np.bool_)
        first[1:] = self.addresses[mine][1:] != self.addresses[mine][:-1]
        mine = mine[first]
        starts = self.addresses[mine]
        least = min(rank, _EXPORTED)
        stops = distinct(self.addresses[self._ranks >= least])
        behind = np.searchsorted(stops, starts, "right")
        # The last one extends to the end of its section, or without sections over one byte.
        last = np.uint64(_LAST_ADDRESS) if self._extents is not None else starts[-1] + np.uint64(1)
        following = np.append(stops, last)[behind]
        sizes = self.sizes[mine]
        ends = np.where(sizes > 0, starts + sizes, following)
        ends[ends < starts] = _LAST_ADDRESS
        if self._extents is not None:
            place = self._extents.index(starts)
            bound = starts + np.uint64(1)
            if len(self._extents.ends):
                bound = np.where(place >= 0, self._extents.ends[place], bound)
            ends = np.minimum(ends, bound)
        return starts, ends, mine.astype(np.int64)
