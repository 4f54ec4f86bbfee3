"""Events that arrive while a PV guest masks upcalls, so that it has to call Xen for them."""

from __future__ import annotations

from collections.abc import Iterator

from xtrace.analysis.coverage.needs import PV, RUNSTATES
from xtrace.analysis.findings.evidence import Evidence, guests, vcpu_name
from xtrace.analysis.findings.finding import Found, Rule
from xtrace.analysis.measures.table import Quality
from xtrace.analysis.tables.upcalls import upcalls

_NOTE_RATIO, _PROBLEM_RATIO = 0.05, 0.3
_FEWEST = 20


def find(evidence: Evidence) -> Iterator[Found]:
    """Yield vCPUs of which many upcalls were forced."""
    for row in guests(upcalls(evidence.measures)).rows():
        forced, most = row["xen_version_count"], row["upcall_most_count"]
        if forced < _FEWEST or forced < _NOTE_RATIO * most:
            continue
        yield Found(
            is_problem=forced >= _PROBLEM_RATIO * most,
            sentence=f"{vcpu_name(row['a'])} forced a callback at most {forced:,} times, in "
            f"{row['upcall_least_count']:,} to {most:,} upcalls: events came while it masked them",
            figures=(
                evidence.figure("xen_version_count", forced, Quality.EXACT, (PV,)),
                evidence.figure("upcall_least_count", row["upcall_least_count"], Quality.INFERRED, (PV,)),
                evidence.figure("upcall_most_count", most, Quality.BOUNDED, (PV,), is_most=True),
            ),
            concerned_count=forced,
            domain=row["domain"],
            vcpu=row["vcpu"],
        )


RULE = Rule(
    "forced-callbacks",
    "callbacks that a PV guest forces because an event came while upcalls were masked",
    "a vCPU forced 20 or more, and 5 % or more of the most upcalls that it can have taken",
    "it forced 30 % or more",
    "about 1 % of hypercalls",
    "two Linux PV guests on Xen 4.17",
    find,
    needs=(PV, RUNSTATES),
    command="--section upcalls",
)
