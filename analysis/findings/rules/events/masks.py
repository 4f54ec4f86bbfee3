"""Domains that keep events waiting because they mask them for long."""

from __future__ import annotations

from collections.abc import Iterator

from xtrace.analysis.columns import Columns
from xtrace.analysis.coverage.needs import EVENTS, HANDLERS, Reach, Records
from xtrace.analysis.findings.evidence import Evidence, guests, vcpu_name
from xtrace.analysis.findings.finding import Found, Rule
from xtrace.analysis.measures.table import Quality
from xtrace.analysis.state_machine.delivery_columns import Waited
from xtrace.analysis.state_machine.keys import domain_of, vcpu_of
from xtrace.analysis.state_machine.metrics import Metric
from xtrace.analysis.tables.event_delivery import masked_waits
from xtrace.probes.words import count_of

_NOTE_S, _PROBLEM_S = 1e-3, 1e-2
_FEWEST = 20


def find(evidence: Evidence) -> Iterator[Found]:
    """Yield vCPUs that were not ready for an interrupt, or masked upcalls for long while an event came."""
    yield from _of(
        evidence,
        evidence.measures.times(Metric.INTR_WINDOW_WAIT),
        Metric.INTR_WINDOW_WAIT,
        "was not ready for an interrupt that Xen had for it",
        (HANDLERS,),
    )
    yield from _of(
        evidence,
        evidence.measures.times_of(Metric.MASKED_WAIT, lambda b: b == int(Waited.MASKED)),
        Metric.MASKED_WAIT,
        "masked upcalls, outside an upcall, while an event came",
        (EVENTS,),
    )


def find_masked(evidence: Evidence) -> Iterator[Found]:
    """Yield the vCPUs of which events found the upcall mask set outside an upcall."""
    needs, reach = (EVENTS,), Reach.VCPU
    for row in guests(masked_waits(evidence.measures)).rows():
        if not row["outside_count"]:
            continue
        sentence = (
            f"{vcpu_name(row['a'])}: {row['masked_count']:,} of {count_of(row['mark_count'], 'event')} "
            f"found the upcall mask set, {row['outside_count']:,} outside an upcall"
        )
        figures = [
            evidence.figure(name, row[name], Quality.EXACT, needs)
            for name in ("mark_count", "masked_count", "outside_count")
        ]
        if row["outside_wait_count"]:
            p50, p99 = (row[f"outside_wait_{name}_cycles"] for name in ("p50", "p99"))
            sentence += f", where they waited p50 {evidence.time(p50)}, p99 {evidence.time(p99)}"
            figures += [
                evidence.figure("outside_wait_p50_cycles", p50, Quality.EXACT, needs, reach),
                evidence.figure("outside_wait_p99_cycles", p99, Quality.EXACT, needs, reach),
            ]
        span, when = evidence.longest(Metric.MASKED_WAIT, row["a"])
        yield Found(
            is_problem=False,
            sentence=sentence,
            figures=tuple(figures),
            concerned_count=row["outside_count"],
            domain=row["domain"],
            vcpu=row["vcpu"],
            span=span,
            when=when,
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
    "of 20 or more, 5 % waited 1 ms or more for an HVM guest's interrupt window, or for a PV guest's mask, "
    "where Xen records that",
    "5 % waited 10 ms or more",
    "p95 3.6 us for an interrupt window",
    "a VMX host",
    find,
    is_of_lengths=True,
)
MASKED = Rule(
    "masked-waits",
    "events that find the upcall mask set, where Xen records that",
    "one does, outside an upcall",
    "",
    "14 % of the events",
    "a Linux PV guest on the lab's emulated host",
    find_masked,
    needs=(EVENTS,),
    command="--section delivery",
)
