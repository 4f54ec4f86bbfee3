"""On the samples whose guests logged upcalls and sends, the inferences are as right as the docs say."""

from __future__ import annotations

from functools import cache

import pytest

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


@cache
def found() -> Found:
    every = Found()
    for sample in samples():
        truth.measure(*truth.of_sample(sample), every)
    return every


@pytest.mark.parametrize("name", ALWAYS)
def test_what_is_always_right(name: str) -> None:
    counts = found().counts
    assert counts[f"{name} right"] == counts[name] > 0


@pytest.mark.parametrize(("name", "least"), MOSTLY.items())
def test_what_is_mostly_right(name: str, least: float) -> None:
    counts = found().counts
    assert counts[f"{name} right"] >= least * counts[name] > 100


def test_no_iret_of_these_guests_is_taken_for_the_end_of_a_trap() -> None:
    assert found().counts["irets taken as the end of a trap, wrongly"] == 0


@pytest.mark.parametrize(
    ("table", "names"),
    [
        ("upcalls", ("upcalls that their own iret ends", "upcalls that begin after the upper bound does")),
        ("wakes", ("woken vCPUs that are the send's target",)),
    ],
)
def test_the_documentation_has_the_current_counts(table: str, names: tuple[str, ...]) -> None:
    (measured,) = [one.measured for one in (*DELIVERY, *UPCALLS) if one.name == table]
    counts = found().counts
    for name in names:
        right, count = counts[f"{name} right"], counts[name]
        shown = f"all {count:,}" if right == count else f"{right:,} of {count:,}"
        assert shown in measured, (name, shown)
