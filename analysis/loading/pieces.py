"""Find out which files are pieces of one recording, as a rotation or `split` makes them, and in which order.

A piece goes on where another ends: its times follow on each pCPU, and it begins at once, or with exactly the
bytes that the other one's last window lacks.  What each file holds was found by reading it by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xtrace.probes.capture.sidecar import sidecar_of
from xtrace.probes.reader.sources import STDIN

if TYPE_CHECKING:
    from xtrace.analysis.state_machine.collected import Collected

#: The time between two pieces of a recording is at most this share of the shorter one's.
_GAP_RATIO = 0.1


@dataclass(frozen=True, slots=True)
class _Piece:
    """A file: its least and greatest TSC, by pCPU too, and the bytes that it has of a window cut in two.

    Attributes:
        lacks_bytes: that its last window lacks; extra_bytes: before its first window.
    """

    path: Path
    first: int
    last: int
    firsts: Mapping[int, int]
    lasts: Mapping[int, int]
    lacks_bytes: int
    extra_bytes: int


def recordings(read: Sequence[tuple[Path, Collected]]) -> list[list[Path]]:
    """Return the files of each recording that is in several pieces, in the order of time.

    Args:
        read: each file and what was read of it.
    """
    found = (_piece(path, collected) for path, collected in read)
    pieces = sorted((piece for piece in found if piece), key=lambda piece: piece.first)
    groups: list[list[_Piece]] = []
    for piece in pieces:
        if groups and _follows(groups[-1][-1], piece):
            groups[-1].append(piece)
        else:
            groups.append([piece])
    return [[piece.path for piece in group] for group in groups if len(group) > 1]


def _piece(path: Path, found: Collected) -> _Piece | None:
    """Return what is known of a file; None if it cannot be a piece."""
    if str(path) == STDIN or not path.is_file() or len(found.segments) != 1 or not found.segments[0].last_tsc:
        return None
    facts = found.facts
    pcpus = np.flatnonzero(found.pcpu_first_tsc > 0).tolist()
    first = facts.damages[0] if facts.damages else None
    return _Piece(
        path,
        found.segments[0].first_tsc,
        found.segments[0].last_tsc,
        {pcpu: int(found.pcpu_first_tsc[pcpu]) for pcpu in pcpus},
        {pcpu: int(found.pcpu_last_tsc[pcpu]) for pcpu in pcpus},
        facts.missing_bytes,
        first.skipped_bytes if first is not None and first.offset == 0 else 0,
    )


def _follows(before: _Piece, after: _Piece) -> bool:
    """Return whether a piece goes on where another ends."""
    if not _is_told_alike(before.path, after.path):
        return False
    if any(after.firsts[pcpu] < before.lasts[pcpu] for pcpu in after.firsts.keys() & before.lasts.keys()):
        return False
    if before.lacks_bytes and before.lacks_bytes == after.extra_bytes:
        return True
    shorter = min(before.last - before.first, after.last - after.first)
    return after.first - before.last <= _GAP_RATIO * shorter


def _is_told_alike(one: Path, other: Path) -> bool:
    """Return whether the files beside them, if both have one, do not say that their hosts differ."""
    here, there = sidecar_of(one), sidecar_of(other)
    if here is None or there is None:
        return True
    return (here.tsc_hz, here.emulated, here.event_mask) == (there.tsc_hz, there.emulated, there.event_mask)


def told(groups: Sequence[Sequence[Path]], count: int, tell: Callable[[str], None]) -> None:
    """Say which files are pieces of one recording, and that the others are not."""
    for group in groups:
        tell(f"{len(group)} files are pieces of one recording, in this order: {', '.join(map(str, group))}")
    recorded = count - sum(len(group) - 1 for group in groups)
    if count > 1 and recorded > 1:
        tell(f"{recorded} different recordings: counts and times are added up, each has a clock of its own")
