"""vCPUs that are offline: paused, capped or not up; and wakes that wait for these."""

from __future__ import annotations

from collections.abc import Iterator

from xtrace.analysis.coverage.needs import RUNSTATES, SWITCHES, Reach
from xtrace.analysis.findings.evidence import Evidence, guests, vcpu_name
from xtrace.analysis.findings.finding import Found, Rule
from xtrace.analysis.measures.table import Quality
from xtrace.analysis.state_machine.keys import domain_of, vcpu_of
from xtrace.analysis.state_machine.metrics import Metric, Woken
from xtrace.probes.words import count_of

_NOTE_RATIO, _PROBLEM_RATIO = 0.01, 0.5
_CAP_COUNT = 5
_NOTE_WAKE_S, _PROBLEM_WAKE_S = 1e-3, 1.0


def find_offline(evidence: Evidence) -> Iterator[Found]:
    """Yield vCPUs that were offline for a part of the time, after they were up."""
    measures = evidence.measures
    times = guests(measures.all_times(Metric.OFFLINE))
    for row in times.where(times["count"] > 0).rows():
        ratio = row["total_cycles"] / max(measures.span_cycles, 1)
        if ratio < _NOTE_RATIO:
            continue
        often = row["count"] >= _CAP_COUNT
        yield Found(
            is_problem=often and ratio >= _PROBLEM_RATIO,
            sentence=f"{vcpu_name(row['a'])} was offline {ratio:.0%} of the time, "
            f"{count_of(row['count'] + row['cut_count'], 'time')}: "
            + ("paused again and again, or capped" if often else "paused, capped or not up"),
            figures=(
                evidence.figure("offline_share_ratio", ratio, Quality.EXACT, (RUNSTATES,), Reach.VCPU),
                evidence.figure("offline_count", row["count"], Quality.EXACT, (RUNSTATES,), Reach.VCPU),
            ),
            concerned_count=row["count"],
            concerned_cycles=row["total_cycles"],
            domain=domain_of(row["a"]),
            vcpu=vcpu_of(row["a"]),
        )


def find_paused_wakes(evidence: Evidence) -> Iterator[Found]:
    """Yield vCPUs with wakes that waited because they were offline."""
    wakes = guests(evidence.measures.proven(evidence.measures.times_by_b(Metric.WAKE_TO_RUNNING)))
    paused = wakes.where(wakes["b"] & int(Woken.PAUSED) > 0)
    groups = paused.grouped(["a"])
    table = groups.keys.having(
        count=groups.sum("count"), sum_cycles=groups.sum("sum_cycles"), max_cycles=groups.max("max_cycles")
    )
    for row in table.where(table["max_cycles"] >= evidence.cycles(_NOTE_WAKE_S)).rows():
        span, when = evidence.longest(Metric.WAKE_TO_RUNNING, row["a"])
        if span is None or span.end_tsc - span.begin_tsc != row["max_cycles"]:
            span = None
        yield Found(
            is_problem=row["max_cycles"] >= evidence.cycles(_PROBLEM_WAKE_S),
            sentence=f"{count_of(row['count'], 'wake')} of {vcpu_name(row['a'])} waited up to "
            f"{evidence.time(row['max_cycles'])} for an offline vCPU, and count with that wait",
            figures=(
                evidence.figure(
                    "paused_count", row["count"], Quality.EXACT, (RUNSTATES, SWITCHES), Reach.VCPU
                ),
                evidence.figure(
                    "paused_wake_max_cycles",
                    row["max_cycles"],
                    Quality.EXACT,
                    (RUNSTATES, SWITCHES),
                    Reach.VCPU,
                ),
            ),
            concerned_count=row["count"],
            concerned_cycles=row["sum_cycles"],
            domain=domain_of(row["a"]),
            vcpu=vcpu_of(row["a"]),
            span=span,
            when=when,
        )


OFFLINE = Rule(
    "offline",
    "time in which a vCPU that was up may not run",
    "a vCPU was offline 1 % or more of the time",
    "it was offline half or more of the time, at least five times: its cap or what pauses it stops its guest",
    "0 %",
    "a vCPU without a cap, which nobody pauses",
    find_offline,
    needs=(RUNSTATES,),
    command="--section runstates",
)
PAUSED_WAKES = Rule(
    "paused-wakes",
    "wakes of vCPUs that are paused or capped",
    "one waited for 1 ms or more",
    "one waited for a second or more",
    "none",
    "a vCPU without a cap, which nobody pauses",
    find_paused_wakes,
    needs=(RUNSTATES, SWITCHES),
    is_of_lengths=True,
    command="--section delivery",
)
