"""Find the symbol, source line and site range of each of millions of sampled addresses.

The ranges that symbols cover are turned once into a partition of the address space.  A table indexed by
the upper bits of an address leads close to its piece of the partition; a few steps find the piece itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from xtrace.symbols.addresses.load_offset import LoadOffset, fit_load_offset
from xtrace.symbols.dwarf.source_locations import SourceLocation, lines_of
from xtrace.symbols.image.image import Image

__all__ = ["AddressResolver", "LoadOffset", "Partition", "Resolved", "fit_load_offset", "ranges_partition"]

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

_MOST_BUCKETS = 1 << 21
#: Addresses handled at a time: they stay in a processor's cache.
_CHUNK = 1 << 15
#: Steps from a bucket's first piece before the remaining addresses are looked up by bisection.
_MOST_STEPS = 4
_ADDRESS_COUNT = 1 << 64


class Partition:
    """Disjoint pieces of the address space, each with its owner."""

    def __init__(self, breaks: U64, owners: I64) -> None:
        """Take the start of each piece, sorted and unique, and its owner; the last owner must be -1."""
        self._base = breaks[0] if len(breaks) else np.uint64(0)
        self._reach = breaks[-1] - self._base if len(breaks) else np.uint64(0)
        # A kernel's code spans less than 4 GiB: half the bytes to move.
        narrow = self._reach < np.uint64(0xFFFF_FFFF)
        self._word = np.dtype(np.uint32 if narrow else np.uint64)
        steps = (breaks - self._base).astype(self._word)
        self._breaks = steps
        # The greatest distance ends the last piece.  An address can reach it only if the breaks span all
        # addresses: then each step must still find an end, and the bisection decides.
        ends = np.full(1 + _MOST_STEPS, (1 << 8 * self._word.itemsize) - 1, self._word)
        self._ends = np.concatenate((steps[1:], ends))
        self.owner = owners if len(breaks) else np.array([-1], np.int64)
        shift = max(int(self._reach).bit_length() - _MOST_BUCKETS.bit_length() + 1, 0)
        self._shift = np.array(shift, self._word)
        buckets = np.arange((int(self._reach) >> shift) + 1, dtype=np.uint64) << np.uint64(self._shift)
        self._table = np.maximum(np.searchsorted(steps, buckets.astype(self._word), "right") - 1, 0).astype(
            np.uint32
        )

    def places(self, addresses: U64) -> npt.NDArray[np.int64]:
        """Return the piece of each address."""
        found = np.empty(len(addresses), np.int64)
        for start in range(0, len(addresses), _CHUNK):
            found[start : start + _CHUNK] = self._places(addresses[start : start + _CHUNK])
        return found

    def owners(self, addresses: U64) -> I64:
        """Return the owner of each address, -1 for none."""
        return self.owner[self.places(addresses)]

    def _places(self, addresses: U64) -> npt.NDArray[np.int64]:
        # An address before the first piece wraps around to after the last one.
        distances: U64 = np.minimum(addresses - self._base, self._reach).astype(self._word)
        places: I64 = self._table.take((distances >> self._shift).astype(np.int64)).astype(np.int64)
        behind = self._ends.take(places) <= distances
        places += behind
        left = np.flatnonzero(behind)
        for _ in range(_MOST_STEPS):
            left = left[self._ends[places[left]] <= distances[left]]
            if not len(left):
                return places
            places[left] += 1
        places[left] = np.searchsorted(self._breaks, distances[left], "right") - 1
        return places


@dataclass(frozen=True, slots=True)
class Resolved:
    """The symbols of addresses, one row per address.

    Attributes:
        symbols: int64, index into the image's symbols, -1 for none.
        offsets: uint64, bytes from the symbol's start; without a symbol, the address in the image.
    """

    symbols: I64
    offsets: U64


class AddressResolver:
    """Resolves sampled addresses against one image.

    Attributes:
        image: whose code was sampled.
        load_offset: what was added to the image's addresses when it was loaded.
    """

    def __init__(self, image: Image, load_offset: int = 0) -> None:
        self.image = image
        self.load_offset = load_offset

    def resolve(self, rips: U64) -> Resolved:
        """Return symbol and offset of each address, at some ten million addresses per second."""
        partition, starts = self._symbols
        symbols = np.empty(len(rips), np.int64)
        offsets = np.empty(len(rips), np.uint64)
        for start in range(0, len(rips), _CHUNK):
            part = slice(start, start + _CHUNK)
            addresses = self.in_image(rips[part])
            places = partition.places(addresses)
            symbols[part] = partition.owner.take(places)
            offsets[part] = addresses - starts.take(places)
        return Resolved(symbols, offsets)

    def names(self, symbols: I64) -> dict[int, str]:
        """Return the name of each symbol that occurs, by its index; -1 is left out."""
        return {index: self.image.symbols.name(index) for index in np.unique(symbols).tolist() if index >= 0}

    def places(self, rips: Sequence[int], damage: list[str] | None = None) -> dict[int, SourceLocation]:
        """Return the source locations of the addresses that the image's DWARF covers; see lines_of.

        Args:
            rips: as sampled, a few thousand distinct addresses at most.
        """
        there = {rip: (rip - self.load_offset) % _ADDRESS_COUNT for rip in map(int, rips)}
        found = lines_of(self.image, list(there.values()), damage)
        return {rip: found[address] for rip, address in there.items() if address in found}

    def ranges(self, rips: U64, starts: U64, ends: U64) -> I64:
        """Return the index of the range that contains each address, -1 for none; the shortest if nested.

        Args:
            rips: as sampled.
            starts, ends: addresses in the image, ends exclusive.
        """
        partition = ranges_partition(starts, ends)
        found = np.empty(len(rips), np.int64)
        for start in range(0, len(rips), _CHUNK):
            found[start : start + _CHUNK] = partition.owners(self.in_image(rips[start : start + _CHUNK]))
        return found

    def in_image(self, rips: U64) -> U64:
        """Return the image addresses of sampled ones."""
        return rips - np.uint64(self.load_offset % _ADDRESS_COUNT)

    @cached_property
    def _symbols(self) -> tuple[Partition, U64]:
        """Return the partition of the code, and where the symbol of each piece starts."""
        symbols = self.image.symbols
        edges = [np.array([s.address, s.address + s.size], np.uint64) for s in self.image.code]
        if not edges:
            edges = [np.zeros(2, np.uint64)]
        code = np.concatenate(edges)
        breaks = np.unique(np.concatenate((code, symbols.addresses, symbols.addresses + symbols.sizes)))
        breaks = breaks[(breaks >= code.min()) & (breaks <= code.max())]
        owners = symbols.indices_of(breaks)
        owners[-1] = -1
        # A piece begins only where the owner changes.
        kept = np.append(True, owners[1:] != owners[:-1])
        breaks, owners = breaks[kept], owners[kept]
        starts = np.zeros(len(owners), np.uint64)
        starts[owners >= 0] = symbols.addresses[owners[owners >= 0]]
        return Partition(breaks, owners), starts


def ranges_partition(starts: U64, ends: U64) -> Partition:
    """Return the partition that ranges make; the shortest range over a piece owns it."""
    breaks = np.unique(np.concatenate((starts, ends)))
    owners = np.full(len(breaks), -1, np.int64)
    first, last = np.searchsorted(breaks, starts), np.searchsorted(breaks, ends)
    longest_first = np.argsort((ends - starts).astype(np.uint64), kind="stable")[::-1]
    for index in longest_first.tolist():
        if starts[index] < ends[index]:
            owners[first[index] : last[index]] = index
    return Partition(breaks, owners)
