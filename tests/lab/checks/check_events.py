"""A Xen that records event delivery: its records are what our own guests did and what the analysis infers."""

from __future__ import annotations

from bisect import bisect_right
from functools import cache

import pytest

from lab import accuracy, truth
from lab.accuracy import FIGURES, INFERRED, Found
from lab.checks.made import chosen, counters, domain_ids, folder, own_guests, report, total, trace
from oracle import delivery
from oracle.reader import read
from xtrace.analysis.state_machine.metrics import Metric

EVENTS = chosen("events-*")
KEPT = [name for name in EVENTS if name != "events-lost"]
OWN = [(name, guest) for name in KEPT for guest in own_guests(name)]
#: The inferred figures that must be nearly always right, and how often.
NEARLY = {"by send": 0.9, "by other": 0.98, "after block": 0.999, "least": 0.98, "trap": 0.9}


@cache
def found(name: str) -> Found:
    every = Found()
    accuracy.measure(name, trace(name).read_bytes(), every)
    return every


@pytest.mark.parametrize("name", EVENTS)
def test_no_exact_figure_and_no_bound_is_wrong(name: str) -> None:
    judged = [key for key, figure in FIGURES.items() if figure.mark != INFERRED and found(name).judged[key]]
    assert judged
    assert {key: found(name).wrong[key] for key in judged if found(name).wrong[key]} == {}, found(name).why


@pytest.mark.parametrize("name", KEPT)
@pytest.mark.parametrize(("key", "least"), NEARLY.items())
def test_inferred_figures_are_nearly_always_right(name: str, key: str, least: float) -> None:
    judged, wrong = found(name).judged[key], found(name).wrong[key]
    assert judged - wrong >= least * judged, found(name).why


@pytest.mark.parametrize(("name", "guest"), OWN)
def test_each_upcall_of_our_own_guest_is_recorded(name: str, guest: str) -> None:
    said, domain = counters(name, guest), domain_ids(name)[guest]
    rows = [row for row in report(name)["recorded_upcalls"] if row["domain"] == domain]
    assert sum(row["entry_count"] for row in rows) == said["upcall"]
    assert sum(row["nested_count"] for row in rows) == sum(row["slept_count"] for row in rows) == 0
    assert total(name, "upcalls", "iret_trap_count", "domain")[domain,] == 0


@pytest.mark.parametrize(("name", "guest"), OWN)
def test_its_log_is_within_what_is_recorded(name: str, guest: str) -> None:
    """The handler logs its begin after Xen's record of the upcall, and its end before the iret's."""
    log = (folder(name) / f"guest-{guest}.log").read_text(errors="replace")
    rows = delivery.run(read(trace(name).read_bytes()).records_and_holes)
    domain = domain_ids(name)[guest]
    mine = [
        (row.tsc - row.value, row.tsc)
        for row in rows
        if row.metric is Metric.UPCALL and row.a >> 16 == domain
    ]
    begins = [begin for begin, _ in mine]
    logged = truth.guest_of(log).upcalls
    assert logged
    for upcall in logged:
        begin, end = mine[bisect_right(begins, upcall.begin) - 1]
        assert begin < upcall.begin < upcall.end < end
