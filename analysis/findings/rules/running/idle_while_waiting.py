"""vCPUs that could run and did not while a pCPU idled on which they also ran."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from xtrace.analysis.coverage.needs import RUNSTATES, Reach
from xtrace.analysis.findings.evidence import Evidence, Span, vcpu_name
from xtrace.analysis.findings.finding import Found, Rule
from xtrace.analysis.findings.idle_waits import idle_waits
from xtrace.analysis.measures.table import Quality
from xtrace.analysis.state_machine.keys import domain_of, vcpu_of

_NOTE_RATIO, _PROBLEM_RATIO = 0.01, 0.05
#: An emulated host takes so long to begin to run what was woken: 7 % of the time in the lab.
_PROBLEM_RATIO_EMULATED = 0.3


def find(evidence: Evidence) -> Iterator[Found]:
    """Yield vCPUs that waited in slots of time in which one of their pCPUs idled for too long."""
    least = _PROBLEM_RATIO_EMULATED if evidence.emulated else _PROBLEM_RATIO
    for key, wait in idle_waits(evidence).items():
        ratio = wait.cycles / evidence.span_cycles
        if ratio < _NOTE_RATIO:
            continue
        place = int(np.argmax(wait.by_slot))
        yield Found(
            is_problem=ratio >= least,
            sentence=f"{vcpu_name(key)} waited to run for {ratio:.0%} of the time at least while pCPU "
            f"{wait.pcpu} idled, on which it also ran: its budget, its affinity or the scheduler kept it "
            "from there",
            figures=(
                evidence.figure("waiting_while_idle_ratio", ratio, Quality.BOUNDED, (RUNSTATES,), Reach.HOST),
            ),
            concerned_count=int((wait.by_slot > 0).sum()),
            concerned_cycles=wait.cycles,
            domain=domain_of(key),
            vcpu=vcpu_of(key),
            pcpu=wait.pcpu,
            span=Span(evidence.slots.begin_tsc(place), evidence.slots.end_tsc(place)),
            when="most",
        )


RULE = Rule(
    "idle-while-waiting",
    "pCPUs that idle while a vCPU waits that also ran there",
    "1 % or more of the time, as far as the sums of slots of time prove it",
    "5 % or more; on an emulated host 30 % or more",
    "0 %",
    "a scheduler that gives a waiting vCPU an idle pCPU",
    find,
    needs=(RUNSTATES,),
    needs_all_pcpus=True,
)
