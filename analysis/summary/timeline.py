"""Events of the kernel's clock and records of the TSC on one axis, with the error stated.

Between two clock pairs a straight line is taken: clocks that NTP slews, or that Xen corrects,
are followed from second to second.  How far that holds is shown by the pairs themselves:
each one is foretold from its neighbours, and the worst surprise, with half the time
that a pair takes to read, is the error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xtrace.probes.capture.clock_line import ClockPair, fit, narrow
from xtrace.probes.capture.layout import Capture, Mark
from xtrace.probes.errors import TraceError

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Timeline:
    """Both clocks at some moments.

    Attributes:
        tscs: int64 [pairs], ascending; monotonic_ns: int64 [pairs], CLOCK_MONOTONIC then.
        hz: cycles a second, by a line through all.
        error_ns: how far a time may be off between the first and the last pair; None where fewer than
            three pairs leave it open.
    """

    tscs: I64
    monotonic_ns: I64
    hz: float
    error_ns: float | None

    def ns_of(self, tscs: npt.ArrayLike) -> I64:
        """Return CLOCK_MONOTONIC ns at ``tscs``; before the first pair and after the last by ``hz``."""
        return _along(np.asarray(tscs, np.int64), self.tscs, self.monotonic_ns, 1e9 / self.hz)

    def tscs_of(self, monotonic_ns: npt.ArrayLike) -> I64:
        """Return the TSC at times of CLOCK_MONOTONIC."""
        return _along(np.asarray(monotonic_ns, np.int64), self.monotonic_ns, self.tscs, self.hz / 1e9)


@dataclass(frozen=True, slots=True)
class Marks:
    """Markers that were sent and those that stand in the trace.

    Attributes:
        sent: how many; found: with Xen's TSC; outside: found with a TSC outside the readings around it.
        worst_cycles: by how much the worst of these lies outside: the TSC of Xen is not that of user space,
            or those of two pCPUs differ.
    """

    sent: int
    found: int
    outside: int
    worst_cycles: int


def of_capture(capture: Capture) -> Timeline:
    """Return the timeline of a capture.

    Raises:
        TraceError: it has too few clock pairs.
    """
    made = of_pairs(capture.clock_pairs())
    if made is None:
        raise TraceError(
            f"{capture.path}: has no two clock pairs to put kernel events and the trace together"
        )
    return made


def of_pairs(pairs: Sequence[ClockPair]) -> Timeline | None:
    """Return the timeline through clock pairs, None where no two differ in time."""
    line = fit(pairs)
    if line is None:
        return None
    kept = narrow(pairs)
    tscs = np.array([pair.middle for pair in kept], np.int64)
    times = np.array([pair.monotonic_ns for pair in kept], np.int64)
    # Pairs of several CPUs may be a little out of order in one clock.
    inside = (np.diff(tscs, prepend=tscs[0] - 1) > 0) & (np.diff(times, prepend=times[0] - 1) > 0)
    tscs, times = tscs[inside], times[inside]
    if len(tscs) < 2:
        return None
    return Timeline(tscs, times, line.hz, _error_ns(tscs, times, line.bracket_ns))


def compare_marks(sent: Sequence[Mark], found_numbers: I64, found_tscs: I64) -> Marks:
    """Compare the markers that were sent with the records of them in the trace.

    Args:
        sent: as the recorder noted them.
        found_numbers, found_tscs: int64, of each record of a marker.
    """
    known = dict(zip(found_numbers.tolist(), found_tscs.tolist(), strict=True))
    met = [(mark, known[mark.number]) for mark in sent if mark.number in known]
    off = [max(mark.before - tsc, tsc - mark.after) for mark, tsc in met]
    outside = [distance for distance in off if distance > 0]
    return Marks(len(sent), len(met), len(outside), max(outside, default=0))


def _error_ns(tscs: I64, times: I64, bracket_ns: float) -> float | None:
    if len(tscs) < 3:
        return None
    before, after = tscs[:-2], tscs[2:]
    share = (tscs[1:-1] - before) / (after - before)
    foretold = times[:-2] + share * (times[2:] - times[:-2])
    return float(np.abs(foretold - times[1:-1]).max() + bracket_ns / 2)


def _along(wanted: I64, known: I64, values: I64, slope: float) -> I64:
    """Return the values at ``wanted``: between two known points by their line, outside by ``slope``."""
    left = np.clip(np.searchsorted(known, wanted, side="right") - 1, 0, len(known) - 2)
    # By differences: a 64-bit TSC has more bits than a float.
    steps = np.diff(values) / np.diff(known)
    slopes = np.where((wanted < known[0]) | (wanted > known[-1]), slope, steps[left])
    start = np.where(wanted > known[-1], len(known) - 1, left)
    moved: I64 = values[start] + np.rint((wanted - known[start]) * slopes).astype(np.int64)
    return moved
