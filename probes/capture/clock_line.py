"""The host's TSC and CLOCK_MONOTONIC on one axis, by pairs that a recorder read of both.

A pair is (TSC, CLOCK_MONOTONIC, TSC): the time lies between its two TSCs.  The
standard library alone, for the recorder fits as it ends and a reader once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

#: A pair between whose readings something else ran says little.
_WIDE = 8


@dataclass(frozen=True, slots=True)
class ClockPair:
    """Both clocks, read at once.

    Attributes:
        before, after: TSC cycles around the reading of the time.
        monotonic_ns: CLOCK_MONOTONIC.
        cpu: of the kernel that ran the recorder (in a dom0 a vCPU), or None.
    """

    before: int
    monotonic_ns: int
    after: int
    cpu: int | None = None

    @property
    def middle(self) -> int:
        """Return the TSC that the time is taken for: an integer, for a float has too few bits."""
        return (self.before + self.after) // 2


@dataclass(frozen=True, slots=True)
class ClockLine:
    """A line through clock pairs: ``monotonic_ns = ns + (tsc - this.tsc) * 1e9 / hz``.

    Attributes:
        hz: cycles a second.
        tsc, ns: a point of it.
        pair_count: pairs it was made of; wide_count: pairs left out, since their readings lay too far apart.
        bracket_ns: the widest pair's reading; half of it is what a pair may be wrong by.
        residual_ns: how far the worst pair lies from the line: clocks that were slewed, TSCs that differ.
        rms_ns: the root of the mean squared distance.
        span_s: from the first pair to the last.
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
        """Return how far a time may be off that the line gives, as far as the pairs show."""
        return self.residual_ns + self.bracket_ns / 2

    def ns_of(self, tsc: int) -> float:
        """Return CLOCK_MONOTONIC at ``tsc``."""
        return self.ns + (tsc - self.tsc) * 1e9 / self.hz

    def tsc_of(self, ns: float) -> float:
        """Return the TSC at CLOCK_MONOTONIC ``ns``."""
        return self.tsc + (ns - self.ns) * self.hz / 1e9


def narrow(pairs: Sequence[ClockPair]) -> list[ClockPair]:
    """Return the pairs, by time, but for those whose readings lie far more apart than most."""
    if not pairs:
        return []
    import statistics

    usual = statistics.median(pair.after - pair.before for pair in pairs)
    kept = [pair for pair in pairs if 0 <= pair.after - pair.before <= _WIDE * max(usual, 1)]
    return sorted(kept, key=lambda pair: pair.middle)


def fit(pairs: Sequence[ClockPair]) -> ClockLine | None:
    """Return the line of least squares, None where no two pairs differ in time."""
    import statistics

    kept = narrow(pairs)
    if len(kept) < 2:
        return None
    first = kept[0]
    # Relative to the first pair: 64-bit TSCs and squares of them do not fit a float.
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
