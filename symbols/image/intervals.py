"""Resolve overlapping address ranges into break points, each of which starts the part of one owner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

U64 = npt.NDArray[np.uint64]
I64 = npt.NDArray[np.int64]

_LAST_ADDRESS = 0xFFFF_FFFF_FFFF_FFFF


@dataclass(frozen=True, slots=True)
class Extents:
    """The sections of an image in memory, sorted by address.

    Attributes:
        starts, ends: addresses, ends exclusive.
        executable: whether each section is.
    """

    starts: U64
    ends: U64
    executable: npt.NDArray[np.bool_]

    def index(self, addresses: U64) -> I64:
        """Return the extent of each address, -1 for none."""
        if not len(self.starts):
            return np.full(len(addresses), -1, np.int64)
        found = np.searchsorted(self.starts, addresses, "right").astype(np.int64) - 1
        return np.where((found >= 0) & (addresses < self.ends[found]), found, -1)


def distinct(addresses: U64) -> U64:
    """Return sorted addresses without duplicates; np.unique hashes them, which takes ten times as long."""
    return addresses[np.append(True, addresses[1:] != addresses[:-1])] if len(addresses) else addresses


def flatten(starts: U64, ends: U64, symbols: I64) -> tuple[U64, I64]:
    """Return break points and owners of spans sorted by start; where they overlap, the last start wins."""
    reach = np.maximum.accumulate(ends)
    fresh = np.append(True, reach[:-1] <= starts[1:])
    # Most spans do not overlap; only those that do need the loop in Python.
    alone = fresh & np.append(fresh[1:], True)
    nobody = np.full(int(alone.sum()), -1, np.int64)
    swept, swept_owners = _sweep(starts[~alone].tolist(), ends[~alone].tolist(), symbols[~alone].tolist())
    breaks = np.concatenate((starts[alone], ends[alone], np.array(swept, np.uint64)))
    owners = np.concatenate((symbols[alone], nobody, np.array(swept_owners, np.int64)))
    # Where one span ends and the next begins, the next one counts.
    order = np.lexsort((owners, breaks))
    breaks, owners = breaks[order], owners[order]
    last = np.append(breaks[1:] != breaks[:-1], True)
    return breaks[last], owners[last]


def _sweep(starts: list[int], ends: list[int], symbols: list[int]) -> tuple[list[int], list[int]]:
    breaks: list[int] = []
    owners: list[int] = []
    within: list[tuple[int, int]] = []

    def close(until: int) -> None:
        while within and within[-1][0] <= until:
            end, _ = within.pop()
            while within and within[-1][0] <= end:
                within.pop()
            breaks.append(end)
            owners.append(within[-1][1] if within else -1)

    for start, end, symbol in zip(starts, ends, symbols, strict=True):
        close(start)
        if breaks and breaks[-1] == start:
            owners[-1] = symbol
        else:
            breaks.append(start)
            owners.append(symbol)
        within.append((end, symbol))
    close(_LAST_ADDRESS)
    return breaks, owners


def layered(layers: Sequence[tuple[U64, I64]]) -> tuple[U64, I64]:
    """Return the break points and owners of several layers merged; an earlier layer takes precedence."""
    if not layers:
        return np.empty(0, np.uint64), np.empty(0, np.int64)
    breaks = distinct(np.sort(np.concatenate([starts for starts, _ in layers])))
    owners = np.full(len(breaks), -1, np.int64)
    for starts, symbols in layers:
        places = np.searchsorted(starts, breaks, "right") - 1
        here = np.where(places >= 0, symbols[places], -1)
        owners = np.where(owners < 0, here, owners)
    return breaks, owners
