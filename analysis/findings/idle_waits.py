"""Time in which vCPUs waited to run although a pCPU idled on which they also ran."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from xtrace.analysis.findings.evidence import Evidence, guests
from xtrace.analysis.state_machine.kept import Slotted
from xtrace.analysis.state_machine.keys import high_of, low_of
from xtrace.analysis.state_machine.metrics import Metric


class IdleWait(NamedTuple):
    """The least time in which a vCPU waited while a pCPU idled, of the pCPU for which it is longest.

    Attributes:
        by_slot: cycles in each slot.
    """

    pcpu: int
    by_slot: npt.NDArray[np.int64]

    @property
    def cycles(self) -> int:
        """All of it."""
        return int(self.by_slot.sum())


def idle_waits(evidence: Evidence) -> dict[int, IdleWait]:
    """Return them by vCPU; none where the traces' slots have no common axis.

    In a slot, waiting and idle time that together are longer than the slot overlap by at least the rest.
    """
    slots = evidence.slots
    if not slots.has_one_axis or not slots.count:
        return {}
    idle = {pcpu: slots.series(Slotted.IDLE, pcpu).totals for pcpu, _ in slots.keys(Slotted.IDLE)}
    found = {}
    for key, _ in slots.keys(Slotted.WAITING):
        waiting = slots.series(Slotted.WAITING, key).totals
        overlaps = [
            IdleWait(pcpu, np.maximum(waiting + idle[pcpu] - slots.lengths, 0))
            for pcpu in _pcpus_of(evidence, key)
            if pcpu in idle
        ]
        if overlaps:
            found[key] = max(overlaps, key=lambda one: one.cycles)
    return found


def _pcpus_of(evidence: Evidence, key: int) -> list[int]:
    """Return the pCPUs on which a vCPU was."""
    stays = evidence.measures.counts(Metric.RESIDENCE)
    opened = guests(evidence.measures.counts(Metric.OPEN))
    whole = stays["b"][stays["a"] == key].tolist()
    own = opened["b"][opened["a"] == key]
    cut = low_of(own[high_of(own) == int(Metric.RESIDENCE)]).tolist()
    return sorted({*whole, *cut})
