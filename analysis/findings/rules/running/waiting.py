"""vCPUs that wait for a pCPU for a large part of the time in which they want to run."""

from __future__ import annotations

from collections.abc import Iterator

from xtrace.analysis.coverage.needs import RUNSTATES, Reach
from xtrace.analysis.findings.demand import demands
from xtrace.analysis.findings.evidence import Evidence, vcpu_name
from xtrace.analysis.findings.finding import Found, Rule
from xtrace.analysis.findings.idle_waits import idle_waits
from xtrace.analysis.measures.table import Quality
from xtrace.analysis.state_machine.keys import domain_of, vcpu_of

_NOTE_RATIO, _PROBLEM_RATIO = 0.1, 0.5
#: A vCPU that waits for less of the span is not worth a line.
_LEAST_OF_SPAN = 0.05
_LEVEL_RATIO = 0.5
#: What it lacks is more than the scheduler's time slices explain.
_LEAST_S = 0.1


def find(evidence: Evidence) -> Iterator[Found]:
    """Yield vCPUs that wait much, as a problem those that get less than half of an equal share."""
    measures = evidence.measures
    contended = {one.key: one for one in demands(measures, idle=idle_waits(evidence))}
    for one in demands(measures):
        for_others = contended[one.key]
        ratio = one.waiting_cycles / max(one.wanted_cycles, 1)
        of_span = one.waiting_cycles / max(measures.span_cycles, 1)
        if ratio < _NOTE_RATIO or of_span < _LEAST_OF_SPAN:
            continue
        lacks = for_others.equal_cycles - one.running_cycles
        is_behind = one.running_cycles < _LEVEL_RATIO * for_others.equal_cycles and lacks >= evidence.cycles(
            _LEAST_S
        )
        running = one.running_cycles / evidence.span_cycles
        equal = for_others.equal_cycles / evidence.span_cycles
        sentence = f"{vcpu_name(one.key)} waited to run {of_span:.0%} of the time and ran {running:.0%}"
        figures = [
            evidence.figure("waiting_share_ratio", of_span, Quality.EXACT, (RUNSTATES,), Reach.VCPU),
            evidence.figure("running_share_ratio", running, Quality.EXACT, (RUNSTATES,), Reach.VCPU),
        ]
        if is_behind:
            sentence += f"; an equal share of what all vCPUs ran is {equal:.0%}"
            figures.append(
                evidence.figure("equal_share_ratio", equal, Quality.INFERRED, (RUNSTATES,), Reach.HOST)
            )
        yield Found(
            is_problem=is_behind and for_others.waiting_cycles >= _PROBLEM_RATIO * for_others.wanted_cycles,
            sentence=sentence,
            figures=tuple(figures),
            concerned_count=one.wait_count,
            concerned_cycles=one.waiting_cycles,
            domain=domain_of(one.key),
            vcpu=vcpu_of(one.key),
        )


RULE = Rule(
    "waiting",
    "time in which a vCPU could run and did not",
    "a vCPU waited a tenth or more of the time in which it wanted to run, and 5 % or more of the span",
    "it waited half or more of that time, besides waits while one of its pCPUs idled, and ran less than half "
    "of an equal share of what all vCPUs ran, by 100 ms or more",
    "2 % of the time",
    "PV guests on pCPUs that are half idle",
    find,
    needs=(RUNSTATES,),
    command="--section runstates",
    needs_all_pcpus=True,
)
