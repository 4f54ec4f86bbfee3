"""Map the host's TSC to CLOCK_MONOTONIC with a line through pairs of readings of both.

A pair is (TSC, CLOCK_MONOTONIC, TSC): the time lies between its two TSCs.  Uses only
the standard library, because the recorder fits the line too, when it ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: Pairs wider than this many times the median are dropped: something else ran between their readings.
_WIDE = 8


@dataclass(frozen=True, slots=True)
class ClockPair:
    """Both clocks, read together.

    Attributes:
        before, after: TSC cycles before and after the time was read.
        monotonic_ns: CLOCK_MONOTONIC.
        cpu: the kernel's number of the CPU that the recorder ran on (in dom0 a vCPU), or None.
    """

    before: int
    monotonic_ns: int
    after: int
    cpu: int | None = None

    @property
    def middle(self) -> int:
        """Return the TSC that the time is assigned to, as an integer: a float has too few bits."""
        return (self.before + self.after) // 2


@dataclass(frozen=True, slots=True)
class ClockLine:
    """A line through clock pairs: ``monotonic_ns = ns + (tsc - this.tsc) * 1e9 / hz``.

    Attributes:
        hz: cycles per second.
        tsc, ns: a point on it.
        pair_count: pairs used for the fit.
        wide_count: pairs dropped because their two TSCs were too far apart or in the wrong order.
        bracket_ns: width of the widest pair; a pair can be wrong by half of it.
        residual_ns: distance of the worst pair from the line, due to slewed clocks or TSCs that differ.
        rms_ns: the root mean square distance.
        span_s: time from the first pair to the last.
    """

    hz: float
    tsc: int
    ns: int
    pair_count: int
    wide_count: int
    bracket_ns: float
    residual_ns: float
    rms_ns: float
    span_s: float

    @property
    def error_ns(self) -> float:
        """Return the error bound of a time computed from the line, as far as the pairs show it."""
        return self.residual_ns + self.bracket_ns / 2

    def ns_of(self, tsc: int) -> float:
        """Return CLOCK_MONOTONIC at ``tsc``."""
        return self.ns + (tsc - self.tsc) * 1e9 / self.hz

    def tsc_of(self, ns: float) -> float:
        """Return the TSC at CLOCK_MONOTONIC ``ns``."""
        return self.tsc + (ns - self.ns) * self.hz / 1e9


def narrow(pairs: Sequence[ClockPair]) -> list[ClockPair]:
    """Return the pairs in order of time, without those much wider than the median."""
    if not pairs:
        return []
    import statistics

    usual = statistics.median(pair.after - pair.before for pair in pairs)
    kept = [pair for pair in pairs if 0 <= pair.after - pair.before <= _WIDE * max(usual, 1)]
    return sorted(kept, key=lambda pair: pair.middle)


def fit(pairs: Sequence[ClockPair]) -> ClockLine | None:
    """Return the least-squares line, or None if no two pairs differ in time."""
    import statistics

    kept = narrow(pairs)
    if len(kept) < 2:
        return None
    first = kept[0]
    # Relative to the first pair, because 64-bit TSCs and their squares do not fit in a float.
    tscs = [float(pair.middle - first.before) for pair in kept]
    times = [float(pair.monotonic_ns - first.monotonic_ns) for pair in kept]
    if tscs[-1] <= 0 or times[-1] <= times[0]:
        return None
    slope, start = statistics.linear_regression(tscs, times)
    if slope <= 0:
        return None
    off = [time - (start + slope * tsc) for tsc, time in zip(tscs, times, strict=True)]
    return ClockLine(
        hz=1e9 / slope,
        tsc=first.before,
        ns=first.monotonic_ns + round(start),
        pair_count=len(kept),
        wide_count=len(pairs) - len(kept),
        bracket_ns=max(pair.after - pair.before for pair in kept) * slope,
        residual_ns=max(abs(distance) for distance in off),
        rms_ns=statistics.fmean(distance * distance for distance in off) ** 0.5,
        span_s=(times[-1] - times[0]) / 1e9,
    )
