"""Woken vCPUs that wait long until they run."""

from __future__ import annotations

from collections.abc import Iterator

from xtrace.analysis.coverage.needs import RUNSTATES, SWITCHES, Reach
from xtrace.analysis.findings.evidence import Evidence, guests, vcpu_name
from xtrace.analysis.findings.finding import Found, Rule
from xtrace.analysis.measures.table import Quality
from xtrace.analysis.state_machine.keys import domain_of, vcpu_of
from xtrace.analysis.state_machine.metrics import Metric
from xtrace.probes.words import count_of

_NOTE_S, _PROBLEM_S = 1e-3, 0.1
#: A p99 of fewer wakes is one of the last few.
_FEWEST_WAKES = 100


def find(evidence: Evidence) -> Iterator[Found]:
    """Yield vCPUs whose p99 from wake to running is long."""
    times = guests(evidence.measures.proven_times(Metric.WAKE_TO_RUNNING))
    note, problem = evidence.cycles(_NOTE_S), evidence.cycles(_PROBLEM_S)
    for row in times.where((times["p99_cycles"] >= note) & (times["count"] >= _FEWEST_WAKES)).rows():
        span, when = evidence.longest(Metric.WAKE_TO_RUNNING, row["a"])
        count, p99 = row["count"], row["p99_cycles"]
        yield Found(
            is_problem=p99 >= problem,
            sentence=f"{vcpu_name(row['a'])} waits to run after a wake: p99 {evidence.time(p99)} over "
            f"{count_of(count, 'wake')}",
            figures=(
                evidence.figure(
                    "wake_to_running_p99_cycles", p99, Quality.EXACT, (RUNSTATES, SWITCHES), Reach.VCPU
                ),
                evidence.figure("wake_to_running_count", count, Quality.EXACT),
            ),
            concerned_count=count,
            concerned_cycles=row["sum_cycles"],
            domain=domain_of(row["a"]),
            vcpu=vcpu_of(row["a"]),
            span=span,
            when=when,
        )


RULE = Rule(
    "wake-latency",
    "time from wake to running",
    "the p99 of a vCPU with at least 100 wakes is 1 ms or more",
    "it is 100 ms or more: three time slices of credit, ten of credit2",
    "p99 10 to 18 us",
    "3 s of a VMX host that is not overloaded",
    find,
    needs=(RUNSTATES, SWITCHES),
    is_of_lengths=True,
    command="--section delivery",
)
