"""Put events on the kernel's clock and records on the TSC on one time axis, with a stated error.

Time is interpolated linearly between two clock pairs, which follows clocks that NTP slews or that Xen
corrects.  The pairs themselves show the error: each is predicted from its neighbours, and the error
is the worst difference plus half the time that it takes to read a pair.
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
        tscs: int64 [pairs], ascending.
        monotonic_ns: int64 [pairs], CLOCK_MONOTONIC at these TSCs.
        hz: TSC rate, by a line through all pairs.
        error_ns: error bound of a time between the first and the last pair; None with fewer than three pairs.
    """

    tscs: I64
    monotonic_ns: I64
    hz: float
    error_ns: float | None

    def ns_of(self, tscs: npt.ArrayLike) -> I64:
        """Return CLOCK_MONOTONIC at ``tscs``, in ns; outside the pairs it is extrapolated by ``hz``."""
        return _along(np.asarray(tscs, np.int64), self.tscs, self.monotonic_ns, 1e9 / self.hz)

    def tscs_of(self, monotonic_ns: npt.ArrayLike) -> I64:
        """Return the TSC at times of CLOCK_MONOTONIC; outside the pairs it is extrapolated by ``hz``."""
        return _along(np.asarray(monotonic_ns, np.int64), self.monotonic_ns, self.tscs, self.hz / 1e9)


@dataclass(frozen=True, slots=True)
class Marks:
    """How many markers were sent, and how many of them are in the trace.

    Attributes:
        sent: markers that the recorder sent.
        found: markers with a record in the trace, which has Xen's TSC.
        outside: those found whose TSC is not between the two readings around the send.
        worst_cycles: how far outside the worst of these is: Xen's TSC is not that of user space, or the TSCs
            of two pCPUs differ.
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
            f"{capture.path}: fewer than two clock pairs, so kernel events cannot be aligned with the trace"
        )
    return made


def of_pairs(pairs: Sequence[ClockPair]) -> Timeline | None:
    """Return the timeline through clock pairs, None where no two of them differ in time."""
    line = fit(pairs)
    if line is None:
        return None
    kept = narrow(pairs)
    tscs = np.array([pair.middle for pair in kept], np.int64)
    times = np.array([pair.monotonic_ns for pair in kept], np.int64)
    # Pairs from several CPUs may be slightly out of order in one of the clocks.
    inside = (np.diff(tscs, prepend=tscs[0] - 1) > 0) & (np.diff(times, prepend=times[0] - 1) > 0)
    tscs, times = tscs[inside], times[inside]
    if len(tscs) < 2:
        return None
    return Timeline(tscs, times, line.hz, _error_ns(tscs, times, line.bracket_ns))


def compare_marks(sent: Sequence[Mark], found_numbers: I64, found_tscs: I64) -> Marks:
    """Compare the markers that were sent with their records in the trace.

    Args:
        sent: as the recorder noted them.
        found_numbers, found_tscs: int64, number and TSC of each marker record.
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
    """Return the values at ``wanted``: interpolated between known points, extrapolated by ``slope``."""
    left = np.clip(np.searchsorted(known, wanted, side="right") - 1, 0, len(known) - 2)
    # Only differences become floats: a 64-bit TSC has more bits than a float's mantissa.
    steps = np.diff(values) / np.diff(known)
    slopes = np.where((wanted < known[0]) | (wanted > known[-1]), slope, steps[left])
    start = np.where(wanted > known[-1], len(known) - 1, left)
    moved: I64 = values[start] + np.rint((wanted - known[start]) * slopes).astype(np.int64)
    return moved
