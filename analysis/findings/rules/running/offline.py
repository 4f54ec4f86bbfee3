"""vCPUs that are offline: paused, capped or not up; and wakes that wait for these."""

from __future__ import annotations

from collections.abc import Iterator

from xtrace.analysis.coverage.needs import RUNSTATES, SWITCHES, Reach
from xtrace.analysis.findings.evidence import Evidence, Span, guests, vcpu_name
from xtrace.analysis.findings.finding import Found, Rule
from xtrace.analysis.measures.slots import Interval
from xtrace.analysis.measures.table import Quality
from xtrace.analysis.state_machine.keys import domain_of, high_of, vcpu_of
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
    """Yield vCPUs with wakes that waited because they were offline.

    A vCPU that is unpaused is woken, too; what counts is how long it was offline after the wake.
    """
    wakes = guests(evidence.measures.proven(evidence.measures.times_by_b(Metric.WAKE_TO_RUNNING)))
    paused = wakes.where(wakes["b"] & int(Woken.PAUSED) > 0).sums(["a"], ["count"])
    needs = (RUNSTATES, SWITCHES)
    for row in paused.rows() if evidence.slots.has_one_axis else ():
        wait, cycles = _longest(evidence, row["a"])
        if wait is None or cycles < evidence.cycles(_NOTE_WAKE_S):
            continue
        yield Found(
            is_problem=cycles >= evidence.cycles(_PROBLEM_WAKE_S),
            sentence=f"{count_of(row['count'], 'wake')} of {vcpu_name(row['a'])} waited up to "
            f"{evidence.time(cycles)} for an offline vCPU, and count with that wait",
            figures=(
                evidence.figure("paused_count", row["count"], Quality.EXACT, needs, Reach.VCPU),
                evidence.figure("paused_wake_max_cycles", cycles, Quality.EXACT, needs, Reach.VCPU),
            ),
            concerned_count=row["count"],
            concerned_cycles=cycles,
            domain=domain_of(row["a"]),
            vcpu=vcpu_of(row["a"]),
            span=Span(wait.begin_tsc, wait.end_tsc),
            when="the longest",
        )


def _longest(evidence: Evidence, key: int) -> tuple[Interval | None, int]:
    """Return the kept wake during which a vCPU was offline for longest, and for how long."""
    waits = [wait for wait in evidence.slots.worst(Metric.WAKE_TO_RUNNING, key) if wait.b & int(Woken.PAUSED)]
    offline = evidence.slots.worst(Metric.OFFLINE, key)
    offline += [
        one for one in evidence.slots.worst(Metric.OPEN, key) if high_of(one.b) == int(Metric.OFFLINE)
    ]
    found = [(sum(_shared(wait, one) for one in offline), wait) for wait in waits]
    cycles, longest = max(found, default=(0, None), key=lambda one: one[0])
    return longest, cycles


def _shared(one: Interval, other: Interval) -> int:
    return max(min(one.end_tsc, other.end_tsc) - max(one.begin_tsc, other.begin_tsc), 0)


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
    needs_all_pcpus=True,
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
    needs_all_pcpus=True,
)
