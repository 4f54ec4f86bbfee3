"""On the samples whose guests logged upcalls and sends, the inferences are as right as the docs say."""

from __future__ import annotations

from lab import truth
from lab.truth import Found, samples
from xtrace.analysis.tables.delivery import TABLES as DELIVERY
from xtrace.analysis.tables.upcalls import TABLES as UPCALLS

#: Inferences that are never wrong on the samples, and inferences that rarely are.
ALWAYS = (
    "guests with an iret for each upcall",
    "upcalls that their own iret ends",
    "upcall ends that are an upcall's iret",
    "upcalls that begin after the upper bound does",
    "upcalls that begin before the lower bound does",
    "forced upcalls that begin after their hypercall",
)
MOSTLY = {
    "woken vCPUs that are the send's target": 0.99,
}


DOCUMENTED = (
    ("upcalls", ("upcalls that their own iret ends", "upcalls that begin after the upper bound does")),
    ("wakes", ("woken vCPUs that are the send's target",)),
)


def test_the_inferences_are_as_right_as_the_docs_say() -> None:
    """All in one test, so that the samples are read once and not by each process."""
    found = Found()
    for sample in samples():
        truth.measure(*truth.of_sample(sample), found)
    counts = found.counts
    assert [name for name in ALWAYS if not counts[f"{name} right"] == counts[name] > 0] == []
    for name, least in MOSTLY.items():
        assert counts[f"{name} right"] >= least * counts[name] > 100, name
    assert counts["irets taken as the end of a trap, wrongly"] == 0
    for table, names in DOCUMENTED:
        (measured,) = [one.measured for one in (*DELIVERY, *UPCALLS) if one.name == table]
        for name in names:
            right, count = counts[f"{name} right"], counts[name]
            shown = f"all {count:,}" if right == count else f"{right:,} of {count:,}"
            assert shown in measured, (table, name, shown)
