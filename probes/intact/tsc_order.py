"""Whether the TSCs of a window can be right: those of a pCPU never go back, unless they restart."""

from __future__ import annotations

from collections.abc import Sequence

#: A larger TSC is damage.
MAX_TSC = (1 << 62) - 1
#: A step back of less is left to the reader, which counts it.
STEP_CYCLES = 1 << 21
#: A TSC that is farther after all others is confirmed by the windows that follow, or is damage.
FAR_CYCLES = 1 << 40

#: A fault.
BACK = "the TSC goes back and on"
_RANGE = "a TSC is out of range"


def is_after(first: int, last: int, before: int, greatest: int) -> bool:
    """Return whether a window whose TSCs do not go back simply follows.

    Args:
        first, last: its first and last TSC.
        before: the last TSC of its pCPU, -1 without.
        greatest: that of all pCPUs, -1 without.
    """
    is_new = before < first or before == first < last  # otherwise it may be there twice
    return is_new and last <= MAX_TSC and greatest >= 0 and last - greatest <= FAR_CYCLES


def fault_in(tscs: Sequence[int], before: int, greatest: int) -> tuple[str, int]:
    """Return what is wrong with the TSCs of a window, or "", and the first one that is far after all others.

    Args:
        tscs: in the order of the records; at least one.
        before, greatest: as for is_after().
    """
    if max(tscs) > MAX_TSC:
        return _RANGE, -1
    steps = [at for at in range(1, len(tscs)) if tscs[at] < tscs[at - 1] - STEP_CYCLES]
    if steps:
        at = steps[0]
        is_restart = (
            len(steps) == 1
            and 1 < at < len(tscs) - 1
            and max(tscs[at:]) < min(tscs[:at])
            and (before < 0 or tscs[0] >= before - STEP_CYCLES)
        )
        if not is_restart:
            return BACK, -1
    if len(tscs) > 1 and tscs[0] < before - STEP_CYCLES and tscs[1] >= before:
        return BACK, -1
    so_far = greatest if greatest >= 0 else tscs[0]
    for at, tsc in enumerate(tscs):
        if tsc - so_far > FAR_CYCLES:
            if greatest < 0 and at == 1:
                return BACK, -1  # the first TSC of the file is the one that is wrong
            return "", tsc
        so_far = max(so_far, tsc)
    return "", -1
