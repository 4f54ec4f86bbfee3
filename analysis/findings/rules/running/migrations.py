"""vCPUs that migrate again soon after they migrated."""

from __future__ import annotations

from collections.abc import Iterator

from xtrace.analysis.coverage.needs import RUNSTATES, Reach
from xtrace.analysis.findings.evidence import Evidence, Span, guests, vcpu_name
from xtrace.analysis.findings.finding import Found, Rule
from xtrace.analysis.measures.table import Quality
from xtrace.analysis.state_machine.kept import Slotted
from xtrace.analysis.state_machine.keys import domain_of, vcpu_of
from xtrace.analysis.state_machine.metrics import Metric
from xtrace.probes.words import scaled

_NOTE_PER_S, _PROBLEM_PER_S = 200.0, 1_000.0
_SHORT_S = 1e-3
_FEWEST = 100


def find(evidence: Evidence) -> Iterator[Found]:
    """Yield vCPUs that migrate often, half of the time within a millisecond of the migration before."""
    stays = guests(evidence.measures.times(Metric.RESIDENCE))
    short = evidence.cycles(_SHORT_S)
    slots = evidence.slots
    for row in stays.where(stays["count"] >= _FEWEST).rows():
        rate = evidence.per_s(row["count"], evidence.span_cycles)
        if rate < _NOTE_PER_S or row["p50_cycles"] > short:
            continue
        span = None
        if slots.has_one_axis:
            place, _, _ = slots.densest(slots.series(Slotted.MIGRATIONS, row["a"]).counts, 1)
            span = Span(slots.begin_tsc(place), slots.end_tsc(place))
        yield Found(
            is_problem=rate >= _PROBLEM_PER_S,
            sentence=f"{vcpu_name(row['a'])} migrates {scaled(rate)} times per second: half of its stays "
            f"on a pCPU are shorter than {evidence.time(row['p50_cycles'])}",
            figures=(
                evidence.figure("migration_per_s", rate, Quality.EXACT, (RUNSTATES,), Reach.HOST),
                evidence.figure(
                    "residence_p50_cycles", row["p50_cycles"], Quality.EXACT, (RUNSTATES,), Reach.HOST
                ),
            ),
            concerned_count=row["count"],
            domain=domain_of(row["a"]),
            vcpu=vcpu_of(row["a"]),
            span=span,
            when="most",
        )


RULE = Rule(
    "migrations",
    "migrations of vCPUs that follow each other",
    "a vCPU migrates 200 times per second or more, and half of its stays on a pCPU are shorter than 1 ms",
    "it migrates 1,000 times per second or more",
    "at most 80 per second",
    "a vCPU of the bundled sample, 2 vCPUs of dom0 on 2 pCPUs",
    find,
    needs=(RUNSTATES,),
    needs_all_pcpus=True,
)
