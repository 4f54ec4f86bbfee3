"""Which slice has which arm, and how long a slice is."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

#: Slices that the pilot tries, in seconds.
LENGTHS_S = (0.0005, 0.0015, 0.005, 0.010)
SHORTEST_S, LONGEST_S = 150e-6, 10e-3
#: Dropped at the start of each slice: code and data that stopping and writing pushed out come back.
_DROPPED_SHARE, _LEAST_DROPPED_S = 0.2, 50e-6
#: A slice with fewer units says little: which part of a unit was left over weighs too much.
LEAST_UNITS = 20


def dropped_s(length_s: float) -> float:
    """Return how much of a slice's start is dropped."""
    return max(length_s * _DROPPED_SHARE, _LEAST_DROPPED_S)


def orders(arm_count: int, seed: int) -> Iterator[list[int]]:
    """Yield the order of the arms in each block, drawn independently."""
    draw = np.random.default_rng(seed)
    while True:
        order: list[int] = draw.permutation(arm_count).tolist()
        yield order


def best_length(spreads: dict[float, tuple[float, float, float]]) -> float:
    """Return the length at which the same time gives the narrowest interval.

    Args:
        spreads: for each length, the spread of one pair's difference, the time that a pair takes, and the
            units in a slice.
    """
    usable = {length: item for length, item in spreads.items() if item[2] >= LEAST_UNITS}
    if not usable:
        return max(spreads)
    return min(usable, key=lambda length: usable[length][0] ** 2 * usable[length][1])
