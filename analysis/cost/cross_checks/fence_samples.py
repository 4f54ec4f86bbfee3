"""What share of the time is spent at fences: the share of samples at a fence or right after one.

The samples must be samples in time (perf with Xen's VPMU, a paused vCPU's address), never the addresses in
xentrace's records, which are of code that traps.

Skid model: an interrupt that arrives while an instruction waits is taken when that instruction retires, so
the time is attributed to the address of the next instruction; a precise sample names the instruction
itself.  Both addresses count.

Known bias: the share includes the time of the next instruction itself, and waits that a kernel without the
fence would have later.  It leaves out registers spilled around a call, and the overlap that the fence
prevents: that time is attributed to where it is spent, for example to a load that misses.  A fence in a
callee counts for all its callers.  So the share is neither an upper nor a lower bound of what a fence
costs, and says little about what is in flight there; docs/cost.md has measurements.
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
        at_count: samples at a fence.  behind_count: at the instruction right after one.
        low, high: 95 % interval of the share of both together; 0 to 1 without samples.
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
    following: Collection[int],
) -> FenceShare:
    """Return the share of a domain's samples that are at its fences.

    Args:
        addresses: as in the image, without the load offset.
        counts: samples at each address.
        fences: addresses of fences.
        following: addresses of the instructions that follow them.
    """
    at = np.isin(addresses, np.array(sorted(fences), np.uint64))
    after = np.isin(addresses, np.array(sorted(set(following) - set(fences)), np.uint64))
    total, hits = int(counts.sum()), int(counts[at | after].sum())
    low, high = _wilson(hits, total)
    return FenceShare(total, int(counts[at].sum()), int(counts[after].sum()), low, high)


def _wilson(hits: int, total: int) -> tuple[float, float]:
    """Return the 95 % interval of a share (Wilson 1927)."""
    if not total:
        return 0.0, 1.0
    share, slack = hits / total, _SIGMAS**2 / total
    middle = (share + slack / 2) / (1 + slack)
    width = _SIGMAS * np.sqrt(share * (1 - share) / total + slack / (4 * total)) / (1 + slack)
    return max(float(middle - width), 0.0), min(float(middle + width), 1.0)
