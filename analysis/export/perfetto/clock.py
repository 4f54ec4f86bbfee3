"""The time axis of an exported trace, in whole nanoseconds."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xtrace.probes.reader.batches import I64


@dataclass(frozen=True, slots=True)
class Clock:
    """A line from the TSC to nanoseconds.

    Attributes:
        tsc, ns: a point on it.
        hz: cycles per second.
    """

    tsc: int
    ns: int
    hz: float

    def ns_of(self, tscs: I64) -> I64:
        """Return the time of each TSC; never negative, as an unsigned number has to be."""
        off = np.rint((tscs - self.tsc) * (1e9 / self.hz)).astype(np.int64)
        times: I64 = np.maximum(off + self.ns, 0)
        return times
