"""Is the image the kernel that the domain ran?  In another build, recorded addresses are inside instructions.

Each record of a guest's address was taken between two instructions.  In the right image, such an address is
where an instruction begins; code that a fence or another change moved puts most addresses into the middle of
one.  What precedes the first difference does not move, so a small share is enough to doubt the image.

Known bias: code that the kernel patched itself is not that of the image.
"""

from __future__ import annotations

import numpy as np

from xtrace.analysis.cost.inputs import CostKernel
from xtrace.analysis.cost.rows import IMAGE, CheckRow
from xtrace.analysis.measures.kernel_samples import KernelSamples
from xtrace.probes.words import share_text
from xtrace.probes.xen_abi import HYPERCALL_PAGE_BYTES

#: Addresses that are looked at, the most frequent ones.
_MOST_ADDRESSES = 400
#: Further into a function its code is not followed.
_MOST_OFFSET_BYTES = 1 << 14
_LEAST_ADDRESSES, _LEAST_MISPLACED = 4, 2
_MOST_MISPLACED_RATIO = 0.1


def image_check(samples: KernelSamples, kernel: CostKernel) -> list[CheckRow]:
    """Return whether recorded addresses fit the image, one row; none without enough addresses."""
    found = samples.addresses
    mine = found.where(
        (found["domain"] == kernel.domain)
        & found["inside"]
        & (found["function"] != "")
        & (found["offset"] < _MOST_OFFSET_BYTES)
    )
    images = samples.images
    loaded = images["load_offset"][images["domain"] == kernel.domain].tolist()
    if not len(mine) or not loaded or not loaded[0]:
        return []
    places = mine["rip"] - np.uint64(int(loaded[0], 16) % 2**64)
    page = kernel.sites.facts.hypercall_page
    if page is not None:
        # Xen writes its code when the domain starts.
        kept = places - np.uint64(page) >= np.uint64(HYPERCALL_PAGE_BYTES)
        places, mine = places[kept], mine.where(kept)
    by_place = dict(zip(places.tolist(), mine["offset"].tolist(), strict=True))
    by_place = dict(list(by_place.items())[:_MOST_ADDRESSES])
    if len(by_place) < _LEAST_ADDRESSES:
        return []
    misplaced = kernel.misplaced(by_place)
    agrees = misplaced < _LEAST_MISPLACED or misplaced <= _MOST_MISPLACED_RATIO * len(by_place)
    meaning = "addresses in the trace are where the image's instructions begin"
    if not agrees:
        meaning = (
            f"{misplaced:,} of {len(by_place):,} addresses in the trace "
            f"({share_text(misplaced / len(by_place))}) are "
            "inside instructions of the image: the domain ran another kernel, such as one with other fences"
        )
    return [
        CheckRow(
            domain=kernel.domain,
            what=IMAGE,
            meaning=meaning,
            counted_count=float(len(by_place) - misplaced),
            traced_low_count=float(len(by_place)),
            traced_high_count=float(len(by_place)),
            agrees="yes" if agrees else "no",
        )
    ]
