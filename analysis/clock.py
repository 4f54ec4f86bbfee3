"""How fast the TSC runs and how far the pCPUs' TSCs are apart, from the trace itself.

Rate: Xen records how long each vCPU ran, in nanoseconds of its own clock.  On
a pCPU one run ends where the next begins, so run times add up to that clock,
and only the ends of a sum carry the delay of a record.  Sums of half a second
against their distance in TSC cycles give the rate; the median of all of them is
taken, with the interval of order statistics around it.

Skew: a vCPU that leaves pCPU A and then runs on B, or is woken on A and runs on
B, bounds the difference of their TSCs from one side.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from xtrace.analysis.metrics import Metric

#: The rates that are believed: outside, the pairs are not what they seem.
_HZ_RANGE = (1e8, 2e10)
_PM_TIMER_HZ = 3_579_545
_SCHEDULER, _IDLE = 0, 1
#: A pair shorter than this is mostly the delay of its ends.
_LEAST_NS = 10_000_000


@dataclass(frozen=True, slots=True)
class TscRate:
    """Cycles a second of the TSC.

    Attributes:
        hz: the rate.
        low_hz, high_hz: 95 % interval; equal to hz where it was given by the user.
        source: how it is known, in words.
        pairs: measurements behind it.
    """

    hz: float
    low_hz: float
    high_hz: float
    source: str
    pairs: int = 0

    @property
    def error_ppm(self) -> float:
        """Half the width of the interval, in parts per million."""
        return (self.high_hz - self.low_hz) / 2 / self.hz * 1e6


def given(hz: float) -> TscRate:
    """Return a rate that the user or a sidecar file states."""
    return TscRate(hz, hz, hz, "given")


def estimate(pairs: pd.DataFrame) -> TscRate | None:
    """Return the TSC rate that the pairs show, or None where they do not suffice.

    Args:
        pairs: columns ns, cycles, source, as in Partial.pairs.
    """
    scheduler = pairs[(pairs["source"] == _SCHEDULER) & (pairs["ns"] >= _LEAST_NS)]
    rate = _median_rate(scheduler, 1e9, "run times that the scheduler recorded")
    if rate is not None:
        return rate
    idle = pairs[pairs["source"] == _IDLE]
    for ticks_per_s, name in ((1e9, "idle times in ns"), (_PM_TIMER_HZ, "idle times in PM timer ticks")):
        rate = _median_rate(idle[idle["ns"] >= ticks_per_s / 100], ticks_per_s, name)
        if rate is not None:
            return rate
    return None


def _median_rate(pairs: pd.DataFrame, ticks_per_s: float, source: str) -> TscRate | None:
    ratios = np.sort((pairs["cycles"] / pairs["ns"] * ticks_per_s).to_numpy(dtype=float))
    count = len(ratios)
    if count < 3:
        return None
    hz = float(np.median(ratios))
    if not _HZ_RANGE[0] <= hz <= _HZ_RANGE[1]:
        return None
    # Ranks of a distribution-free 95 % interval for the median.
    reach = math.ceil(0.98 * math.sqrt(count))
    middle = (count - 1) / 2
    low = ratios[max(math.floor(middle - reach), 0)]
    high = ratios[min(math.ceil(middle + reach), count - 1)]
    return TscRate(hz, float(low), float(high), source, count)


def skew(tallies: pd.DataFrame) -> pd.DataFrame:
    """Return the bounds on how far the pCPUs' TSCs are apart.

    Args:
        tallies: as in Partial.

    Returns:
        One row a pair of pCPUs seen in both directions: pcpu, other_pcpu, low_cycles, high_cycles
        (TSC of other_pcpu less TSC of pcpu lies between), skewed (0 lies outside).
    """
    rows = tallies[tallies["metric"] == int(Metric.HANDOFF)]
    bounds = rows.groupby("a", as_index=False)[["min_cycles"]].min()
    least = {
        (a >> 16, a & 0xFFFF): value
        for a, value in zip(bounds["a"].tolist(), bounds["min_cycles"].tolist(), strict=True)
    }
    found = [
        (pcpu, other, -least[other, pcpu], bound, not -least[other, pcpu] <= 0 <= bound)
        for (pcpu, other), bound in least.items()
        if pcpu < other and (other, pcpu) in least
    ]
    table = pd.DataFrame(found, columns=["pcpu", "other_pcpu", "low_cycles", "high_cycles", "skewed"])
    return table.astype({"skewed": bool})
