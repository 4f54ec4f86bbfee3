"""Records that were lost, and whether that began with the load."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from xtrace.analysis.findings.evidence import Evidence, Span
from xtrace.analysis.findings.finding import Found, Rule
from xtrace.analysis.measures.table import Quality
from xtrace.analysis.state_machine.kept import Slotted
from xtrace.analysis.state_machine.metrics import Metric
from xtrace.probes.words import count_of

_PROBLEM_RATIO = 0.01
#: Loss comes with load if pCPUs are busier by this much of their time in the parts of the trace with a gap.
_BUSIER_RATIO, _PARTS = 0.1, 16


def find(evidence: Evidence) -> Iterator[Found]:
    """Yield the loss of records, if there is any."""
    lost = evidence.measures.counts(Metric.LOST_RECORDS)
    records, gaps = int(lost["sum_cycles"].sum()), int(lost["count"].sum())
    if not records:
        return
    kept = int(evidence.measures.partial.records["count"].sum())
    ratio = records / (records + kept)
    cycles = int(evidence.measures.partial.pcpus["blind_cycles"].sum())
    sentence = f"{records:,} records ({ratio:.1%}) were lost in {count_of(gaps, 'gap')}"
    figures = [
        evidence.figure("lost_records", records, Quality.EXACT),
        evidence.figure("lost_records_ratio", ratio, Quality.EXACT),
    ]
    span, slots = None, evidence.slots
    if slots.has_one_axis and slots.count:
        counts = slots.series(Slotted.LOST).counts
        places = np.flatnonzero(counts)
        span = Span(slots.begin_tsc(int(places[0])), slots.end_tsc(int(places[0])))
        # A gap is where a vCPU ran, so its own slot says little of the load around it.
        part = np.arange(slots.count) * _PARTS // slots.count
        with_gap = np.isin(part, part[places])
        busy, quiet = _busy(evidence, with_gap), _busy(evidence, ~with_gap)
        if not with_gap.all() and busy - quiet >= _BUSIER_RATIO:
            sentence += (
                f", with load: pCPUs were busy {busy:.0%} of the time in the parts of the trace with a gap, "
                f"{quiet:.0%} in others"
            )
            figures += [
                evidence.figure("busy_around_loss_ratio", busy, Quality.BOUNDED),
                evidence.figure("busy_without_loss_ratio", quiet, Quality.BOUNDED),
            ]
    yield Found(
        is_problem=ratio >= _PROBLEM_RATIO,
        sentence=sentence,
        figures=tuple(figures),
        concerned_count=records,
        concerned_cycles=cycles,
        span=span,
        when="first",
    )


def _busy(evidence: Evidence, chosen: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> float:
    """Return for which share of the known time of these slots pCPUs ran guests."""
    slots = evidence.slots
    running = int(slots.series(Slotted.RUNNING).totals[chosen].sum())
    idle = int(slots.series(Slotted.IDLE).totals[chosen].sum())
    return running / max(running + idle, 1)


RULE = Rule(
    "lost-records",
    "records that Xen had no room for",
    "any; with load if pCPUs are busier by 10 % of their time in those sixteenths of the trace that have a "
    "gap",
    "1 % or more of all records",
    "none",
    "rings that are large enough for the load, and a recorder that gets to run",
    find,
    command="--section trace",
)
