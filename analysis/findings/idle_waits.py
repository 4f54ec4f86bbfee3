"""Time in which vCPUs waited to run although a pCPU idled on which they also ran."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from xtrace.analysis.columns import joined
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
    pcpus = _pcpus_of_vcpus(evidence) if idle else {}
    found = {}
    for key, _ in slots.keys(Slotted.WAITING):
        its_idle = [pcpu for pcpu in pcpus.get(key, ()) if pcpu in idle]
        if not its_idle:
            continue
        waiting = slots.series(Slotted.WAITING, key).totals
        overlaps = [IdleWait(pcpu, np.maximum(waiting + idle[pcpu] - slots.lengths, 0)) for pcpu in its_idle]
        found[key] = max(overlaps, key=lambda one: one.cycles)
    return found


def _pcpus_of_vcpus(evidence: Evidence) -> dict[int, list[int]]:
    """Return the pCPUs on which each vCPU was, ascending."""
    stays = evidence.measures.counts(Metric.RESIDENCE).only(["a", "b"])
    opened = guests(evidence.measures.counts(Metric.OPEN)).only(["a", "b"])
    opened = opened.where(high_of(opened["b"]) == int(Metric.RESIDENCE))
    found: dict[int, list[int]] = {}
    for row in joined([stays, opened.having(b=low_of(opened["b"]))]).grouped(["a", "b"]).keys.rows():
        found.setdefault(row["a"], []).append(row["b"])
    return found
