"""Domains that get much less than their share while others get more."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from xtrace.analysis.coverage.needs import RUNSTATES, Reach
from xtrace.analysis.findings.demand import demands
from xtrace.analysis.findings.evidence import Evidence
from xtrace.analysis.findings.finding import Found, Rule
from xtrace.analysis.findings.idle_waits import idle_waits
from xtrace.analysis.measures.table import Quality

_NOTE_RATIO, _PROBLEM_RATIO = 0.75, 0.5
#: It wants to run for so much of the span, and waits for so much of that.
_WANTED_RATIO, _WAITING_RATIO = 0.1, 0.3
#: What it lacks is more than the scheduler's time slices explain.
_LEAST_S = 0.1


def find(evidence: Evidence) -> Iterator[Found]:
    """Yield domains that ran for less than their share, which others must have had."""
    weights = evidence.weights
    ran: defaultdict[int, float] = defaultdict(float)
    waited: defaultdict[int, float] = defaultdict(float)
    shares: defaultdict[int, float] = defaultdict(float)
    counts: defaultdict[int, int] = defaultdict(int)
    for one in demands(evidence.measures, weights, idle=idle_waits(evidence)):
        ran[one.domain] += one.running_cycles
        waited[one.domain] += one.waiting_cycles
        shares[one.domain] += one.equal_cycles
        counts[one.domain] += one.wait_count
    if len(ran) < 2:
        return
    more = max(ran, key=lambda domain: ran[domain] - shares[domain])
    by_weight = bool(weights) and set(ran) <= set(weights)
    for domain in ran:
        wanted = ran[domain] + waited[domain]
        if wanted < _WANTED_RATIO * evidence.span_cycles or waited[domain] < _WAITING_RATIO * wanted:
            continue
        if ran[domain] > _NOTE_RATIO * shares[domain]:
            continue
        if shares[domain] - ran[domain] < evidence.cycles(_LEAST_S):
            continue
        share = shares[domain] / evidence.span_cycles
        got = ran[domain] / evidence.span_cycles
        whose = "its share by weight" if by_weight else "an equal share for each vCPU"
        yield Found(
            is_problem=ran[domain] <= _PROBLEM_RATIO * shares[domain],
            sentence=f"d{domain} ran {got:.2f} pCPUs' time and waited to run; {whose} is {share:.2f}, and "
            f"d{more} ran {ran[more] / evidence.span_cycles:.2f}"
            + (f" (weights {weights[domain]:g} and {weights[more]:g})" if by_weight else ""),
            figures=(
                evidence.figure("running_pcpus", got, Quality.EXACT, (RUNSTATES,), Reach.VCPU),
                evidence.figure("share_pcpus", share, Quality.INFERRED, (RUNSTATES,), Reach.HOST),
                evidence.figure(
                    "other_running_pcpus",
                    ran[more] / evidence.span_cycles,
                    Quality.EXACT,
                    (RUNSTATES,),
                    Reach.VCPU,
                ),
            ),
            concerned_count=counts[domain],
            concerned_cycles=round(waited[domain]),
            domain=domain,
        )


RULE = Rule(
    "starved-domain",
    "whether a domain gets its share of what all domains ran",
    "a domain waits 30 % or more of the time in which it wants to run, and runs for 75 % or less of its "
    "share: by the weights that were recorded, or an equal share for each vCPU; what a vCPU does not want, "
    "the others share; waits while one of its pCPUs idled do not count; it lacks 100 ms or more",
    "it runs for 50 % or less of its share",
    "its share",
    "credit and credit2 share by weight",
    find,
    needs=(RUNSTATES,),
    command="--section runstates",
    needs_all_pcpus=True,
)
