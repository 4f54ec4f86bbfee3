"""Where the TSCs of pCPUs are apart, find what to add to each, from the bounds of their differences."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import NamedTuple

from xtrace.analysis.columns import Columns

#: Bounds of two pCPUs that count as equal go before others that are narrower by less than this factor.
_MOST_WIDER = 4


class Placed(NamedTuple):
    """What to add to a pCPU's TSCs, and how far they may then still be from those of the other pCPUs."""

    offset_cycles: int
    uncertain_cycles: int


class _Edge(NamedTuple):
    """TSC of ``other`` minus that of ``pcpu``, how far from that it may be, and what is used first."""

    rank: float
    pcpu: int
    other: int
    cycles: int
    uncertain: int


def alignment(shown: Columns, moved: Container[int] = ()) -> list[Mapping[int, Placed]]:
    """Return groups of pCPUs whose TSCs can be aligned with each other, with what to add to each TSC.

    Two pCPUs whose TSCs differ get the middle of the bounds, if it is nearer to all differences within them
    than 0 is.  All others count as equal as far as their bounds go.  The narrowest bounds are used first.
    The TSC that most pCPUs of a group have stays as it is.

    Args:
        shown: as clock.skew() returns it.
        moved: pCPUs whose TSCs are aligned already; the others' are kept rather than theirs.
    """
    groups: dict[int, set[int]] = {}
    edges: dict[int, list[_Edge]] = {}
    for edge in sorted(_edges(shown)):
        one, two = (groups.setdefault(end, {end}) for end in (edge.pcpu, edge.other))
        if one is two:
            continue
        one |= two
        groups |= dict.fromkeys(two, one)
        for end in (edge.pcpu, edge.other):
            edges.setdefault(end, []).append(edge)
    distinct = {min(group): group for group in groups.values()}
    return [_placed(_reference(pcpu, edges, moved), edges) for pcpu in sorted(distinct)]


def _edges(shown: Columns) -> Iterable[_Edge]:
    for row in shown.rows():
        low, high = row["low_cycles"], row["high_cycles"]
        if math.isnan(low):
            continue
        nearest, farthest = sorted((abs(low), abs(high)))
        if not row["skewed"]:
            uncertain = math.ceil(farthest)
            yield _Edge(uncertain / _MOST_WIDER, row["pcpu"], row["other_pcpu"], 0, uncertain)
        elif low * high > 0 and farthest <= 3 * nearest:
            middle = round((low + high) / 2)
            uncertain = math.ceil((high - low) / 2)
            yield _Edge(uncertain, row["pcpu"], row["other_pcpu"], middle, uncertain)


def _reference(pcpu: int, edges: Mapping[int, Sequence[_Edge]], moved: Container[int]) -> int:
    """Return the first pCPU that has the TSC of most pCPUs of a group."""
    placed = _placed(pcpu, edges)
    counts = Counter(place.offset_cycles for place in placed.values())
    most = max(counts.values())
    found = [pcpu for pcpu, place in placed.items() if counts[place.offset_cycles] == most]
    return min(found, key=lambda pcpu: (pcpu in moved, pcpu))


def _placed(reference: int, edges: Mapping[int, Sequence[_Edge]]) -> dict[int, Placed]:
    """Return what to add to the TSCs of all pCPUs of a group so that they are like those of ``reference``."""
    placed = {reference: Placed(0, 0)}
    left = [reference]
    while left:
        pcpu = left.pop()
        offset, uncertain = placed[pcpu]
        for edge in edges[pcpu]:
            is_first = edge.pcpu == pcpu
            other = edge.other if is_first else edge.pcpu
            if other not in placed:
                cycles = edge.cycles if is_first else -edge.cycles
                placed[other] = Placed(offset - cycles, uncertain + edge.uncertain)
                left.append(other)
    return placed
