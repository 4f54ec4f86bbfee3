"""Which slice has which arm, and how long a slice is."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

#: Slices that the pilot tries, in seconds.  Long ones come first: on a busy machine each slice waits for a
#: processor, whatever its length, and there is no time for all.
LENGTHS_S = (0.005, 0.05, 0.015, 0.0005, 0.0015)
SHORTEST_S, LONGEST_S = 150e-6, 0.2
#: For a domain, which is paused for each reading.
DOMAIN_LENGTHS_S = (0.03, 0.1, 0.01)
#: Dropped at the start of each slice: the slice before left the caches in its own arm's state.
_DROPPED_SHARE, _LEAST_DROPPED_S = 0.3, 50e-6
#: A slice with fewer units says little: which part of a unit was left over weighs too much.
LEAST_UNITS = 20
#: How much wider an interval may be than the narrowest, so that slices are longer.
_WIDER = 5.0
#: Slices in which the arms disturb each other are replaced by longer ones.
_LONGER, _LEAST_LONGER = 3.0, 1.5
#: So many blocks must fit into the time that is left.
WANTED_BLOCKS = 64


def dropped_s(length_s: float) -> float:
    """Return how much of a slice's start is dropped."""
    return max(length_s * _DROPPED_SHARE, _LEAST_DROPPED_S)


def orders(arm_count: int, seed: int) -> Iterator[list[int]]:
    """Yield the order of the arms in each block, drawn independently."""
    draw = np.random.default_rng(seed)
    while True:
        order: list[int] = draw.permutation(arm_count).tolist()
        yield order


def best_length(spreads: dict[float, tuple[float, float, float]], longest: float) -> float:
    """Return the longest length that gives an interval at most five times as wide as the narrowest.

    What one arm leaves in the caches weighs less in a longer slice.

    Args:
        spreads: for each length, the spread of one pair's difference, the time that a pair takes, and the
            units in a slice.
        longest: lengths above it do not fit into the time; if none fits, the narrowest is taken.
    """
    usable = {length: item for length, item in spreads.items() if item[2] >= LEAST_UNITS}
    if not usable:
        return max(spreads)
    variances = {length: spread**2 * took for length, (spread, took, _) in usable.items()}
    fitting = {length: variance for length, variance in variances.items() if length <= longest}
    if not fitting:
        return min(variances, key=lambda length: variances[length])
    narrowest = min(fitting.values())
    return max(length for length, variance in fitting.items() if variance <= _WIDER**2 * narrowest)


def longest_length(length_s: float, took_s: float, running_ratio: float, left_s: float, arms: int) -> float:
    """Return the longest slice of which enough blocks fit into the time that is left.

    Args:
        took_s: what a slice of ``length_s`` took: it waits for a processor, too, whatever its length.
        running_ratio: how much of the time the program runs.
    """
    return length_s + (left_s / (WANTED_BLOCKS * arms) - took_s) * running_ratio


def longer(length_s: float, longest: float) -> float | None:
    """Return the next longer slice, None if it does not fit into the time that is left."""
    found = min(length_s * _LONGER, LONGEST_S, longest)
    return found if found >= length_s * _LEAST_LONGER else None
