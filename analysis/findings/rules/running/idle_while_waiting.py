"""vCPUs that could run and did not while a pCPU idled on which they also ran."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from xtrace.analysis.coverage.needs import RUNSTATES, Reach
from xtrace.analysis.findings.evidence import Evidence, Span, guests, vcpu_name
from xtrace.analysis.findings.finding import Found, Rule
from xtrace.analysis.measures.table import Quality
from xtrace.analysis.state_machine.kept import Slotted
from xtrace.analysis.state_machine.keys import domain_of, high_of, low_of, vcpu_of
from xtrace.analysis.state_machine.metrics import Metric

_NOTE_RATIO, _PROBLEM_RATIO = 0.01, 0.05


def find(evidence: Evidence) -> Iterator[Found]:
    """Yield vCPUs that waited in slots of time in which one of their pCPUs idled for too long.

    In a slot, waiting and idle time that together are longer than the slot overlap by at least the rest.
    """
    slots = evidence.slots
    if not slots.has_one_axis or not slots.count:
        return
    idle = {pcpu: slots.series(Slotted.IDLE, pcpu).totals for pcpu, _ in slots.keys(Slotted.IDLE)}
    for key, _ in slots.keys(Slotted.WAITING):
        waiting = slots.series(Slotted.WAITING, key).totals
        best: tuple[int, int, np.ndarray[tuple[int], np.dtype[np.int64]]] | None = None
        for pcpu in _pcpus_of(evidence, key):
            if pcpu in idle:
                both = np.maximum(waiting + idle[pcpu] - slots.lengths, 0)
                if best is None or int(both.sum()) > best[0]:
                    best = int(both.sum()), pcpu, both
        if best is None:
            continue
        cycles, pcpu, both = best
        ratio = cycles / evidence.span_cycles
        if ratio < _NOTE_RATIO:
            continue
        place = int(np.argmax(both))
        yield Found(
            is_problem=ratio >= _PROBLEM_RATIO,
            sentence=f"{vcpu_name(key)} waited to run for {ratio:.0%} of the time at least while pCPU {pcpu} "
            "idled, on which it also ran: its budget, its affinity or the scheduler kept it from there",
            figures=(
                evidence.figure("waiting_while_idle_ratio", ratio, Quality.BOUNDED, (RUNSTATES,), Reach.HOST),
            ),
            concerned_count=int((both > 0).sum()),
            concerned_cycles=cycles,
            domain=domain_of(key),
            vcpu=vcpu_of(key),
            pcpu=pcpu,
            span=Span(slots.begin_tsc(place), slots.end_tsc(place)),
            when="most",
        )


def _pcpus_of(evidence: Evidence, key: int) -> list[int]:
    """Return the pCPUs on which a vCPU was."""
    stays = evidence.measures.counts(Metric.RESIDENCE)
    opened = guests(evidence.measures.counts(Metric.OPEN))
    whole = stays["b"][stays["a"] == key].tolist()
    own = opened["b"][opened["a"] == key]
    cut = low_of(own[high_of(own) == int(Metric.RESIDENCE)]).tolist()
    return sorted({*whole, *cut})


RULE = Rule(
    "idle-while-waiting",
    "pCPUs that idle while a vCPU waits that also ran there",
    "1 % or more of the time, as far as the sums of slots of time prove it",
    "5 % or more",
    "0 %",
    "a scheduler that gives a waiting vCPU an idle pCPU",
    find,
    needs=(RUNSTATES,),
    needs_all_pcpus=True,
)
