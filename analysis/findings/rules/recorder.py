"""The recorder's own share of what it records."""

from __future__ import annotations

from collections.abc import Iterator

from xtrace.analysis.coverage.needs import SWITCHES
from xtrace.analysis.findings.evidence import Evidence
from xtrace.analysis.findings.finding import Found, Rule
from xtrace.analysis.measures.lookup import of_domain
from xtrace.analysis.measures.table import Quality
from xtrace.analysis.state_machine.metrics import Metric
from xtrace.analysis.tables.trace import recorder_wakes_most
from xtrace.probes.xen_abi import DOM0

_NOTE_RATIO, _PROBLEM_RATIO = 0.1, 0.5
_FEWEST, _PROBLEM_PER_S = 20, 50.0


def find(evidence: Evidence) -> Iterator[Found]:
    """Yield the wakes of dom0 that may be for its recorder, if they are many."""
    most = recorder_wakes_most(evidence.measures)
    wakes = int(of_domain(evidence.measures.count_by_a(Metric.WAKE_CAUSE), DOM0)["count"].sum())
    if most < _FEWEST or most < _NOTE_RATIO * wakes:
        return
    yield Found(
        is_problem=most >= _PROBLEM_RATIO * wakes
        and evidence.per_s(most, evidence.span_cycles) >= _PROBLEM_PER_S,
        sentence=f"up to {most:,} of {wakes:,} wakes of d0 are for its recorder, because a trace buffer was "
        "half full: larger buffers or fewer classes of records change less",
        figures=(
            evidence.figure("recorder_wake_most_count", most, Quality.BOUNDED, (SWITCHES,)),
            evidence.figure("dom0_wake_count", wakes, Quality.EXACT, (SWITCHES,)),
        ),
        concerned_count=most,
        domain=DOM0,
    )


RULE = Rule(
    "recorder-share",
    "wakes of dom0 by the recorder's own interrupt",
    "20 or more of dom0's wakes, and 10 % or more of them, can be for the recorder",
    "50 % or more can be, and 50 per second",
    "below 1 %",
    "the bundled sample: 1 of 2,514",
    find,
    needs=(SWITCHES,),
    command="--section trace",
)
