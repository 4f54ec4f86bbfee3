"""Domains that keep events waiting because they mask them for long."""

from __future__ import annotations

from collections.abc import Iterator

from xtrace.analysis.columns import Columns
from xtrace.analysis.coverage.needs import ENTRIES, HANDLERS, RUNSTATES, Reach, Records
from xtrace.analysis.findings.evidence import Evidence, guests, vcpu_name
from xtrace.analysis.findings.finding import Found, Rule
from xtrace.analysis.measures.table import Quality
from xtrace.analysis.state_machine.keys import domain_of, vcpu_of
from xtrace.analysis.state_machine.metrics import Metric
from xtrace.probes.words import count_of

_NOTE_S, _PROBLEM_S = 1e-3, 1e-2
_FEWEST = 20


def find(evidence: Evidence) -> Iterator[Found]:
    """Yield vCPUs that were not ready for an interrupt, or took events late while they ran."""
    yield from _of(
        evidence,
        evidence.measures.times(Metric.INTR_WINDOW_WAIT),
        Metric.INTR_WINDOW_WAIT,
        "was not ready for an interrupt that Xen had for it",
        (HANDLERS,),
    )
    yield from _of(
        evidence,
        evidence.measures.times(Metric.SEND_TO_UPCALL_RUNNING),
        Metric.SEND_TO_UPCALL_RUNNING,
        "ran and did not take an event that another sent, as far as it can be matched",
        (RUNSTATES, ENTRIES),
    )


def _of(
    evidence: Evidence, times: Columns, metric: Metric, what: str, needs: tuple[Records, ...]
) -> Iterator[Found]:
    if not evidence.coverage.holds(needs):
        return
    note, problem = evidence.cycles(_NOTE_S), evidence.cycles(_PROBLEM_S)
    times = guests(times)
    for row in times.where((times["p95_cycles"] >= note) & (times["count"] >= _FEWEST)).rows():
        span, when = evidence.longest(metric, row["a"])
        yield Found(
            is_problem=row["p95_cycles"] >= problem,
            sentence=f"{vcpu_name(row['a'])} {what}: p95 {evidence.time(row['p95_cycles'])} over "
            f"{count_of(row['count'], 'event')}",
            figures=(
                evidence.figure("masked_p95_cycles", row["p95_cycles"], Quality.INFERRED, needs, Reach.VCPU),
                evidence.figure("masked_count", row["count"], Quality.INFERRED, needs),
            ),
            concerned_count=row["count"],
            concerned_cycles=row["sum_cycles"],
            domain=domain_of(row["a"]),
            vcpu=vcpu_of(row["a"]),
            span=span,
            when=when,
        )


RULE = Rule(
    "long-masks",
    "events that wait because a guest masks them",
    "of 20 or more, 5 % waited 1 ms or more for an HVM guest's interrupt window, or for a running PV guest's "
    "upcall",
    "5 % waited 10 ms or more",
    "p95 3.6 us for an interrupt window, 0.4 to 1.2 ms for an upcall of a running PV guest",
    "a VMX host; the bundled sample, which is emulated",
    find,
    is_of_lengths=True,
)
