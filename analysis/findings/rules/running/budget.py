"""vCPUs that wait because their budget is used up."""

from __future__ import annotations

from collections.abc import Iterator

from xtrace.analysis.coverage.needs import RUNSTATES, Reach
from xtrace.analysis.findings.evidence import Evidence, guests, vcpu_name
from xtrace.analysis.findings.finding import Found, Rule
from xtrace.analysis.measures.table import Quality
from xtrace.analysis.state_machine.keys import domain_of, vcpu_of
from xtrace.analysis.state_machine.metrics import Metric
from xtrace.probes.words import count_of

_NOTE_RATIO, _PROBLEM_RATIO = 0.01, 0.25


def find(evidence: Evidence) -> Iterator[Found]:
    """Yield vCPUs that were stopped by their budget for a part of the time."""
    for row in guests(evidence.measures.all_times(Metric.RUNNABLE_BUDGET)).rows():
        ratio = row["total_cycles"] / evidence.span_cycles
        if ratio < _NOTE_RATIO:
            continue
        count = row["count"] + row["cut_count"]
        span, when = evidence.longest(Metric.RUNNABLE_BUDGET, row["a"])
        yield Found(
            is_problem=ratio >= _PROBLEM_RATIO,
            sentence=f"{vcpu_name(row['a'])} waited for its budget {ratio:.0%} of the time, "
            f"{count_of(count, 'time')}: it wants more than its scheduler's parameters give it, whether or "
            "not pCPUs idle",
            figures=(
                evidence.figure("budget_share_ratio", ratio, Quality.EXACT, (RUNSTATES,), Reach.VCPU),
                evidence.figure("budget_wait_count", count, Quality.EXACT, (RUNSTATES,), Reach.VCPU),
            ),
            concerned_count=count,
            concerned_cycles=row["total_cycles"],
            domain=domain_of(row["a"]),
            vcpu=vcpu_of(row["a"]),
            span=span,
            when=when,
        )


RULE = Rule(
    "budget",
    "time in which a vCPU could run but for its budget (RTDS, since Xen 4.10)",
    "a vCPU waited for it 1 % or more of the time",
    "25 % or more",
    "0 %",
    "RTDS with extra time, or with a budget that covers what the vCPU wants",
    find,
    needs=(RUNSTATES,),
    needs_all_pcpus=True,
)
