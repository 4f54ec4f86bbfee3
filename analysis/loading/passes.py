"""Read a trace once, or again where the first pass shows what it needed to know from the beginning.

That is how far the TSCs of pCPUs are apart, and that Xen schedules by core.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from xtrace.analysis.state_machine.collected import AlignedPcpu, Collected, SkewedPair, Unaligned
from xtrace.analysis.state_machine.one_pass import Window, collect
from xtrace.analysis.summary import clock
from xtrace.analysis.summary.alignment import Placed, alignment
from xtrace.analysis.summary.partial import partial_of
from xtrace.probes.capture.layout import trace_in
from xtrace.probes.format import MAX_PCPUS
from xtrace.probes.reader.ahead import Source
from xtrace.probes.reader.batches import I64
from xtrace.probes.reader.sources import STDIN, Pieces

#: Where the records of two pCPUs do not overlap, the first alignment is coarse and the second one is not.
_MOST_ALIGNMENTS = 2


def read(
    path: str | os.PathLike[str],
    *,
    source: Source | None = None,
    strict: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Collected:
    """Read a trace, again where TSCs turn out to be apart or Xen to schedule by core.

    Args:
        source, strict, progress: as for collect().

    Raises:
        OSError, TraceError: as collect() does.
    """
    found = collect(path, source=source, strict=strict, progress=progress)
    can_repeat = _can_repeat(path)
    if found.has_cores and can_repeat:
        del found  # of a trace with very many keys it is large
        found = collect(path, strict=strict, core=True, progress=progress)
    shown = clock.skew(partial_of(found))
    if not shown["skewed"].any():
        return found
    if not can_repeat or len(found.segments) > 1:
        reason = Unaligned.RESTARTS if can_repeat else Unaligned.READ_ONCE
        found.skewed = clock.proven(shown, reason)
        return found
    groups = alignment(shown)
    pairs = [_told(pair, groups) for pair in clock.proven(shown, Unaligned.OPEN)]
    placed: dict[int, Placed] = {}
    for _ in range(_MOST_ALIGNMENTS):
        more = {pcpu: place for group in groups for pcpu, place in group.items() if place.offset_cycles}
        if not more:
            break
        placed |= {pcpu: _added(placed.get(pcpu), place) for pcpu, place in more.items()}
        offsets = _offsets({pcpu: place.offset_cycles for pcpu, place in placed.items()})
        core = found.has_cores
        del found
        found = collect(path, strict=strict, tsc_offsets=offsets, core=core, progress=progress)
        groups = alignment(clock.skew(partial_of(found)), placed)
    found.skewed, found.aligned = pairs, _aligned(placed, groups)
    return found


def read_windows(
    path: str | os.PathLike[str],
    whole: Collected,
    windows: Sequence[Window],
    *,
    strict: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Collected:
    """Read windows of a trace of which ``whole`` is what read() returned; its alignment applies.

    Args:
        windows, strict, progress: as for collect().

    Raises:
        OSError, TraceError: as collect() does.
    """
    offsets = _offsets({pcpu: offset for pcpu, offset, _ in whole.aligned})
    found = collect(
        path, strict=strict, windows=windows, tsc_offsets=offsets, core=whole.has_cores, progress=progress
    )
    found.skewed, found.aligned = whole.skewed, whole.aligned
    return found


def _can_repeat(path: str | os.PathLike[str]) -> bool:
    """Return whether a trace can be read a second time: standard input and pipes cannot."""
    if isinstance(path, Pieces):
        return True
    return os.fspath(path) != STDIN and Path(trace_in(path)).is_file()


def _told(pair: SkewedPair, groups: Sequence[Mapping[int, Placed]]) -> SkewedPair:
    """Return a pair that says whether it is aligned."""
    is_aligned = any(pair.pcpu in group and pair.other_pcpu in group for group in groups)
    return pair._replace(unaligned=int(Unaligned.ALIGNED)) if is_aligned else pair


def _added(before: Placed | None, more: Placed) -> Placed:
    return Placed(before.offset_cycles + more.offset_cycles, more.uncertain_cycles) if before else more


def _offsets(cycles: Mapping[int, int]) -> I64:
    """Return offsets by pCPU as the reader takes them."""
    found = np.zeros(MAX_PCPUS, np.int64)
    for pcpu, offset in cycles.items():
        found[pcpu] = offset
    return found


def _aligned(placed: Mapping[int, Placed], groups: Sequence[Mapping[int, Placed]]) -> list[AlignedPcpu]:
    """Return the aligned pCPUs; the bounds that are left after it may be narrower than those before."""
    after = {
        pcpu: abs(place.offset_cycles) + place.uncertain_cycles
        for group in groups
        for pcpu, place in group.items()
    }
    return [
        AlignedPcpu(pcpu, offset, min(uncertain, after.get(pcpu, uncertain)))
        for pcpu, (offset, uncertain) in sorted(placed.items())
    ]
