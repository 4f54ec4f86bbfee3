"""Which share of the time stands at a fence: of samples in time, those at it and right behind it.

Of use are samples of time (perf with Xen's VPMU, a paused vCPU's address), never the addresses in
xentrace's records, which are of what traps.

The skid model: an interrupt that comes while an instruction waits is taken when that retires, so its
time falls on the next instruction's address; a precise sample names the instruction itself.  Both
addresses count.  Known bias: that includes the next instruction's own time, and waits that a kernel
without the fence would have later; it leaves out registers spilled around a call, and all that the fence
keeps from overlapping, whose time stands where it is spent: behind a load that misses, at that load.  Of a
fence in a callee all callers count.  So the share bounds what a fence costs on neither side, and says
little of what is in flight there: measured in docs/cost.md.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

_SIGMAS = 1.96


@dataclass(frozen=True, slots=True)
class FenceShare:
    """The share of samples at fences.

    Attributes:
        sample_count: all samples of the domain, user code included.
        at_count: at a fence.  behind_count: at the instruction right behind one.
        low, high: 95 % interval of the share of both together; 0 to 1 without a sample.
    """

    sample_count: int
    at_count: int
    behind_count: int
    low: float
    high: float


def fence_share(
    addresses: npt.NDArray[np.uint64],
    counts: npt.NDArray[np.int64],
    fences: Collection[int],
    behind: Collection[int],
) -> FenceShare:
    """Return the share of samples of a domain that stand at its fences.

    Args:
        addresses: in the image: the load offset taken off.
        counts: samples at each address.
        fences: addresses of fences.
        behind: of the instructions that follow them.
    """
    at = np.isin(addresses, np.array(sorted(fences), np.uint64))
    after = np.isin(addresses, np.array(sorted(set(behind) - set(fences)), np.uint64))
    total, hits = int(counts.sum()), int(counts[at | after].sum())
    low, high = _wilson(hits, total)
    return FenceShare(total, int(counts[at].sum()), int(counts[after].sum()), low, high)


def _wilson(hits: int, total: int) -> tuple[float, float]:
    """Return the 95 % interval of a share.  Source: Wilson 1927."""
    if not total:
        return 0.0, 1.0
    share, slack = hits / total, _SIGMAS**2 / total
    middle = (share + slack / 2) / (1 + slack)
    width = _SIGMAS * np.sqrt(share * (1 - share) / total + slack / (4 * total)) / (1 + slack)
    return max(float(middle - width), 0.0), min(float(middle + width), 1.0)
