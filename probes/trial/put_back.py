"""Put the bytes of arm 0 back, whatever memory they are in."""

from __future__ import annotations

from collections.abc import Sequence

from xtrace.probes.trial.target import Memory, Patch, TrialError


def put_back(memory: Memory, patches: Sequence[Patch]) -> int:
    """Write arm 0 wherever another arm's bytes are, and check it; return how many places had others.

    Raises:
        TrialError: a place has bytes that no arm has; all others are put back first.
    """
    foreign = changed = 0
    for patch in patches:
        found = memory.read(patch.address, len(patch.original))
        if found in (patch.original, patch.arms[0]):
            continue
        if found not in patch.arms:
            foreign = foreign or patch.address
            continue
        write_checked(memory, patch.address, patch.arms[0])
        changed += 1
    if foreign:
        raise TrialError(
            f"code at {foreign:#x} has bytes that the trial did not write: something else changed it; "
            "restart the program"
        )
    return changed


def write_checked(memory: Memory, address: int, data: bytes) -> None:
    """Write bytes and read them again.

    Raises:
        TrialError: they are not there.
    """
    memory.write(address, data)
    if memory.read(address, len(data)) != data:
        raise TrialError(f"code at {address:#x} could not be written")
