"""Determine the TSC's rate from the run times that Xen's scheduler records, in plain Python.

On a pCPU one run ends where the next begins, so the recorded run times, in ns of Xen's own clock, add up to
that clock, and only the ends of a sum are off by the delay of a record.  Each sum of half a second, compared
with its length in TSC cycles, gives a rate; the result is the median of these.

A sum is wrong where records are missing without a trace of it, and where a run was longer than 4.29 s: a run
time has 32 bits of ns.  Sums with such a run can agree with one another, for example on a pCPU that wakes up
every 5 s.  The run times by length show it: the ratio of all short runs, added up, is near the right one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

#: TSC rates that are believed, in Hz: from the slowest generic timer of an Arm processor, with a wide margin.
HZ_RANGE = (10**6, 20 * 10**9)

#: Up to this rate, the output says how long a cycle is: no time can be known better.
COARSE_HZ = 200_000_000

#: A sum this long is one measurement; in a shorter one than the least, the delays at its ends dominate.
SUM_NS = 500_000_000
LEAST_NS = 10_000_000
#: Run times are 32 bits of ns: a value just below 2^32 means that the clock went back a little, unless this
#: many cycles went by: then it is a run of 4.03 s or more.  (At 20 GHz these are 0.2 ms.)
NS_NEGATIVE = 0xF000_0000
NEGATIVE_CYCLES = 4_000_000
#: A run is short of the time between its ends by more than these: ns, and a share of that time (Xen's clock
#: steps where the host is emulated, by 45 ms at most as far as seen).  Below the last sum of ns, the rate
#: counts as unknown.
SHORT_NS = 60_000_000
SHORT_SHARE = 0.02
SHORT_KNOWN_NS = 100_000_000
#: Longer runs are left out: they may have wrapped hundreds of times, or their TSC is damaged.
BREAK_CYCLES = 1 << 45
#: A run is left out of its sum if its ratio differs from that of the sum so far by this share of the run, and
#: that is also this share of the sum so far.
DIFFERENCE = 0.25

_WRAP_TICKS = 1 << 32
_LEAST_SUMS = 3
#: A measured rate at an end of HZ_RANGE may be outside by this share.
_AT_THE_ENDS = 0.001
#: More than half of the sums must agree with the median to within this share, plus the delays at their ends.
_AGREEMENT = 0.005
_DELAY_S = 100e-6
#: In runs shorter than this on average, the delays dominate; those longer than the most may have wrapped.
_LEAST_RUN_S = 5e-6
_MOST_RUN_S = 1.0
#: Ratios of runs of different lengths are the same if they differ by no more than this factor.  Where most
#: runs of a length wrapped, theirs is at least 4 times the right one.
_SAME = 1.5
#: So a rate is wrong if that of shorter runs is lower than this share of it, unless records that are late by
#: this much explain it.
_TOO_LOW = 0.45
_LATE_S = 10e-6
#: Runs of a length below this one show the rate if there are many of them, of several lengths, or others that
#: are much longer.  (All can be wrong alike only if all are multiples of one that is longer than 4.29 s.)
_SHORT_S = 0.268
_MANY_RUNS = 256
_SEVERAL = 2.5
_FAR_APART = 16


@dataclass(frozen=True, slots=True)
class Measured:
    """A rate in Hz, its 95 % interval, and the number of sums that it is based on."""

    hz: float
    low_hz: float
    high_hz: float
    count: int


def is_possible(hz: float) -> bool:
    """Return whether a TSC can have this rate."""
    return HZ_RANGE[0] <= hz <= HZ_RANGE[1]


def measure(
    sums: Iterable[tuple[int, int]], by_length: Mapping[int, tuple[int, int]], ticks_per_s: float = 1e9
) -> Measured | None:
    """Return the rate, or None where there are too few sums or these do not agree.

    Args:
        sums: (ticks of the other clock, cycles) of each.
        by_length: (ticks, cycles) of all runs of 2**key to 2**(key + 1) cycles.
        ticks_per_s: rate of the other clock, whose times have 32 bits.
    """
    rough = _rough_hz(by_length, ticks_per_s)
    if rough is None:
        return None
    # Sums without a wrapped run.
    kept = [
        (ticks, cycles)
        for ticks, cycles in sums
        if abs(cycles / rough * ticks_per_s - ticks) < _WRAP_TICKS / 2
    ]
    found = median(kept, ticks_per_s)
    return found if found is not None and rough / _SAME <= found.hz <= rough * _SAME else None


def median(sums: Iterable[tuple[int, int]], ticks_per_s: float = 1e9) -> Measured | None:
    """Return the median rate of ``sums``; None where they are too few or do not agree.

    Args:
        sums: (ticks, cycles) of each; a sum with a run that wrapped must not be among them.
        ticks_per_s: rate of the other clock.
    """
    rates = sorted((cycles / ticks * ticks_per_s, ticks / ticks_per_s) for ticks, cycles in sums)
    count = len(rates)
    if count < _LEAST_SUMS:
        return None
    hz = (rates[(count - 1) // 2][0] + rates[count // 2][0]) / 2
    if not any(map(is_possible, (hz * (1 - _AT_THE_ENDS), hz * (1 + _AT_THE_ENDS)))):
        return None
    agreeing = sum(abs(rate / hz - 1) <= _AGREEMENT + _DELAY_S / seconds for rate, seconds in rates)
    if 2 * agreeing <= count:
        return None
    # Ranks of a distribution-free 95 % interval for the median.
    reach = math.ceil(0.98 * math.sqrt(count))
    middle = (count - 1) / 2
    low = rates[max(math.floor(middle - reach), 0)][0]
    high = rates[min(math.ceil(middle + reach), count - 1)][0]
    return Measured(hz, low, high, count)


def length_of(cycles: int) -> int:
    """Return the key of a run in ``by_length``."""
    return cycles.bit_length() - 1


def _rough_hz(by_length: Mapping[int, tuple[int, int]], ticks_per_s: float) -> float | None:
    """Return the ratio that the runs of most lengths agree on, None where that does not show the rate."""
    lengths: list[_Length] = []
    for length, (ticks, cycles) in by_length.items():
        # The mean of lengths that are spread evenly on a logarithmic scale.
        runs = max(cycles / (2**length / math.log(2)), 1.0)
        if ticks / ticks_per_s >= _LEAST_RUN_S * runs:
            lengths.append(_Length(ticks / ticks_per_s, cycles, runs))
    candidates = [one for one in lengths if one.mean_s <= _MOST_RUN_S]
    if not candidates:
        return None
    groups = [[other for other in candidates if other.is_like(one.hz)] for one in candidates]
    most = max(map(len, groups))
    hz = min(_hz(group) for group in groups if len(group) == most)
    if any(one.hz < hz * _TOO_LOW and one.mean_s - one.mean_cycles / hz > _LATE_S for one in candidates):
        return None
    alike = [one for one in lengths if one.is_like(hz)]
    short = [one for one in alike if one.mean_s <= _SHORT_S]
    if not short:
        return None
    least_s = min(one.mean_s for one in short)
    is_shown = (
        sum(one.runs for one in short) >= _MANY_RUNS
        or max(one.mean_s for one in short) >= _SEVERAL * least_s
        or max(one.mean_s for one in alike) >= _FAR_APART * least_s
    )
    return hz if is_shown else None


@dataclass(frozen=True, slots=True)
class _Length:
    """All runs of about the same length: recorded seconds, cycles, and about how many they are."""

    seconds: float
    cycles: int
    runs: float

    @property
    def hz(self) -> float:
        return self.cycles / self.seconds

    @property
    def mean_s(self) -> float:
        return self.seconds / self.runs

    @property
    def mean_cycles(self) -> float:
        return self.cycles / self.runs

    def is_like(self, hz: float) -> bool:
        return hz / _SAME <= self.hz <= hz * _SAME


def _hz(lengths: Iterable[_Length]) -> float:
    listed = list(lengths)
    return sum(one.cycles for one in listed) / sum(one.seconds for one in listed)
