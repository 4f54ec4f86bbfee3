"""The TSC: its rate against the kernel's clock, and its smallest step."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from xtrace.probes.timing.native import Native
from xtrace.probes.timing.session import I64

_TRIES = 64


@dataclass(frozen=True, slots=True)
class Reading:
    """The TSC and CLOCK_MONOTONIC_RAW at one moment, at most ``gap_ns`` apart."""

    tsc: int
    ns: float
    gap_ns: int


def reading(clock: Native) -> Reading:
    """Read both clocks; return the try with the smallest gap."""
    best: Reading | None = None
    for _ in range(_TRIES):
        begin = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
        tsc = clock.call(0, 0, None)
        end = time.clock_gettime_ns(time.CLOCK_MONOTONIC_RAW)
        if best is None or end - begin < best.gap_ns:
            best = Reading(tsc, (begin + end) / 2, end - begin)
    assert best is not None
    return best


def rate_hz(begin: Reading, end: Reading) -> tuple[float, float]:
    """Return the TSC's rate between two readings and its possible error, in Hz."""
    span = end.ns - begin.ns
    hz = (end.tsc - begin.tsc) / span * 1e9
    return hz, hz * (begin.gap_ns + end.gap_ns) / span


def quantum_cycles(samples: I64) -> int:
    """Return the TSC's smallest step, of which all distances between readings are multiples."""
    return max(int(np.gcd.reduce(np.diff(samples))), 1)
