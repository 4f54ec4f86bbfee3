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

_NOTE_RATIO, _FEWEST = 0.3, 100
_CPU_NOTE_RATIO, _CPU_PROBLEM_RATIO = 0.01, 0.05


def find(evidence: Evidence) -> Iterator[Found]:
    """Yield the recorder's CPU time, or the wakes of dom0 that may be for it, if they are many."""
    most = recorder_wakes_most(evidence.measures)
    wakes = int(of_domain(evidence.measures.count_by_a(Metric.WAKE_CAUSE), DOM0)["count"].sum())
    bounds = (
        evidence.figure("recorder_wake_most_count", most, Quality.BOUNDED, (SWITCHES,), is_most=True),
        evidence.figure("dom0_wake_count", wakes, Quality.EXACT, (SWITCHES,)),
    )
    pcpus = max(len(evidence.coverage.pcpus), 1)
    cpu = evidence.cycles(evidence.recorder_cpu_s) if evidence.recorder_cpu_s else 0.0
    ratio = cpu / (pcpus * evidence.span_cycles)
    if _CPU_NOTE_RATIO <= ratio <= 1:
        yield Found(
            is_problem=ratio >= _CPU_PROBLEM_RATIO,
            sentence=f"recording took {ratio:.1%} of the time of {pcpus} pCPUs, and up to {most:,} of "
            f"{wakes:,} wakes of d0 were for it: fewer classes of records change less",
            figures=(evidence.figure("recorder_cpu_ratio", ratio, Quality.EXACT), *bounds),
            concerned_count=max(most, 1),
            concerned_cycles=round(cpu),
            domain=DOM0,
        )
    elif most >= max(_FEWEST, _NOTE_RATIO * wakes):
        yield Found(
            is_problem=False,
            sentence=f"up to {most:,} of {wakes:,} wakes of d0 are for its recorder, because a trace buffer "
            "was half full: larger buffers or fewer classes of records change less",
            figures=bounds,
            concerned_count=most,
            domain=DOM0,
        )


RULE = Rule(
    "recorder-share",
    "what recording itself costs the host",
    "it took 1 % or more of the pCPUs' time, as the recorder measured it; or 100 or more of dom0's wakes, "
    "and 30 % or more of them, can be for it",
    "it took 5 % or more of the pCPUs' time",
    "below 1 % of the wakes",
    "the bundled sample: 1 of 2,514",
    find,
    command="--section trace",
)
