"""Planted calls are between the bounds from bpf's lines; what bpf cannot bound has no most."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtrace.analysis.columns import Columns
from xtrace.analysis.cost.domain_facts import domain_facts
from xtrace.analysis.measures.measures import Measures
from xtrace.analysis.state_machine.collected import Segment
from xtrace.analysis.summary import dom0_columns
from xtrace.analysis.summary.dom0_calls import COLUMNS, KIND_OF_ROLE, Calls, calls_of, columns_of
from xtrace.analysis.summary.partial import Partial, merge, partial_of
from xtrace.analysis.summary.summary_file import Summary, _nothing, read_summary, write_summary
from xtrace.analysis.summary.summary_head import Origin
from xtrace.probes.bpf.abi import Kind
from xtrace.probes.bpf.functions import ROLES
from xtrace.probes.capture.layout import BPF_TABLES, Capture
from xtrace.probes.catalog import VersionRange
from xtrace.probes.errors import TraceError

INF = float("inf")
HZ = 2_000_000_000.0
#: The TSC at CLOCK_MONOTONIC 0.
TSC = 1 << 40
SECOND = 1_000_000_000
FUNCTIONS = {"upcall": "xen_evtchn_do_upcall", "port": "handle_irq_for_port", "late_eoi": "xen_irq_lateeoi"}
FACTS: dict[str, Any] = {
    "functions": FUNCTIONS,
    "probes": ["kprobe xen_irq_lateeoi", "raw irq_handler_exit"],
    "missed_while_busy": 0,
}


def meta(facts: Mapping[str, Any] = FACTS, until_ns: int = 100 * SECOND, **fit: Any) -> dict[str, Any]:
    """Return the contents of a meta.json in which bpf stopped after xentrace."""
    return {
        "backends": {
            "bpf": {"facts": facts, "monotonic_ns": [0, until_ns + SECOND]},
            "xentrace": {"facts": {}, "monotonic_ns": [SECOND, until_ns]},
        },
        "clocks": {"fit": {"hz": HZ, "tsc": TSC, "monotonic_ns": 0, "error_ns": 1000.0} | fit},
    }


def tsc(ns: int) -> int:
    return TSC + 2 * ns


def made(
    counts: Mapping[tuple[int, int], int], counters: Mapping[str, int] | None = None, **more: Any
) -> Calls:
    found = calls_of(Capture(Path("made"), meta(**more)), counts, counters or {})
    assert found is not None
    return found


def bounds(calls: Columns) -> dict[str, tuple[int, int | None]]:
    return {
        row["function"]: (row["count"], row["most_count"] if row["bounded"] else None) for row in calls.rows()
    }


#: One line at the start and one every second, five calls in each second.
STEADY = {(n * SECOND, int(Kind.LATE_EOI)): 5 if n else 0 for n in range(11)}


def test_lines_within_the_trace_are_the_least_and_overlapping_ones_the_most() -> None:
    found = made(STEADY).in_trace(tsc(5 * SECOND // 2), tsc(15 * SECOND // 2))
    # Line 4 begins at 3 s, line 6 was read before 7 s; line 2 was read before 3 s, line 8 begins at 7 s.
    assert bounds(found)["xen_irq_lateeoi"] == (5 * 3, 5 * 7)
    assert bounds(found)["xen_evtchn_do_upcall"] == (0, 0)
    # The error of the clock fit moves the ends.
    unsure = made(STEADY, error_ns=0.75e9).in_trace(tsc(5 * SECOND // 2), tsc(15 * SECOND // 2))
    assert bounds(unsure)["xen_irq_lateeoi"] == (5, 5 * 9)


def test_calls_that_probes_may_have_missed_raise_the_most() -> None:
    counts = STEADY | {(3 * SECOND, int(Kind.IRQ_HANDLER)): 40, (3 * SECOND, int(Kind.PORT_HANDLER)): 33}
    told = made(counts, {"unpaired": 2, "no_tally": 1}, facts=FACTS | {"missed_while_busy": 4})
    assert told.missed == 7 + 2 + 1 + 4
    most = bounds(told.in_trace(tsc(2 * SECOND), tsc(8 * SECOND)))["xen_irq_lateeoi"][1]
    plain = bounds(made(STEADY).in_trace(tsc(2 * SECOND), tsc(8 * SECOND)))["xen_irq_lateeoi"][1]
    assert plain is not None
    assert most == plain + 14


@pytest.mark.parametrize(
    "changes",
    [
        {"facts": {key: value for key, value in FACTS.items() if key != "missed_while_busy"}},
        {"facts": FACTS | {"probes": ["kprobe xen_irq_lateeoi"]}},
        {"facts": FACTS | {"functions": {"late_eoi": "xen_irq_lateeoi"}}},
        {"until_ns": 7 * SECOND},
        {"monotonic_ns": -2 * SECOND},
    ],
    ids=["killed", "no handlers", "no ports", "ended before the trace", "began after it"],
)
def test_without_all_watched_functions_there_is_only_a_least(changes: dict[str, Any]) -> None:
    least, most = bounds(made(STEADY, **changes).in_trace(tsc(SECOND), tsc(8 * SECOND)))["xen_irq_lateeoi"]
    assert least > 0
    assert most is None


def test_privcmd_has_no_most() -> None:
    facts = FACTS | {"functions": FUNCTIONS | {"privcmd": "privcmd_ioctl"}}
    counts = STEADY | {(time, int(Kind.PRIVCMD)): count for (time, _), count in STEADY.items()}
    found = bounds(made(counts, facts=facts).in_trace(tsc(SECOND), tsc(8 * SECOND)))
    assert found["privcmd_ioctl"] == (found["xen_irq_lateeoi"][0], None)


@pytest.mark.parametrize("lacking", [{}, {"backends": {}}, {"clocks": {"fit": None}}, {"backends": None}])
def test_without_functions_or_clock_fit_there_are_no_calls(lacking: dict[str, Any]) -> None:
    content = meta() | lacking if lacking else {}
    assert calls_of(Capture(Path("old"), content), STEADY, {}) is None


@pytest.mark.parametrize(
    "wrong",
    [
        meta(FACTS | {"functions": {"port": "a\x1b[31m"}}),
        meta(FACTS | {"functions": {"port": 7}}),
        meta(hz=0.0),
        meta(tsc="x"),
        meta(FACTS | {"missed_while_busy": -5}),
        meta() | {"backends": {"bpf": {"facts": FACTS, "monotonic_ns": 5}}},
    ],
)
def test_a_damaged_meta_is_an_error(tmp_path: Path, wrong: dict[str, Any]) -> None:
    path = tmp_path / BPF_TABLES
    path.parent.mkdir()
    path.write_text('{"t_ns":5,"rows":[]}\n')
    with pytest.raises(TraceError, match="damaged"):
        dom0_columns.read(Capture(tmp_path, wrong))


@given(st.data())
@settings(max_examples=150)
def test_planted_calls_are_between_the_bounds(data: st.DataObject) -> None:
    """Calls come at any time, reading takes a while, and probes miss some calls but no handlers."""
    times = st.integers(0, 12 * SECOND)
    calls = sorted(data.draw(st.lists(times, max_size=60)))
    lines = [0]
    while lines[-1] < 10 * SECOND:
        lines.append(lines[-1] + data.draw(st.integers(SECOND // 5, 2 * SECOND)))
    # Each line's time was taken before its tables were read, except that of the last line.
    reads = [
        begin + data.draw(st.integers(0, (end - begin) * 9 // 10)) for begin, end in itertools.pairwise(lines)
    ]
    reads.append(lines[-1])
    missed = set(data.draw(st.lists(st.integers(0, max(len(calls) - 1, 0)), max_size=10)))
    counts: Counter[tuple[int, int]] = Counter({(line, 0): 0 for line in lines})
    for number, time in enumerate(calls):
        at = next((place for place, end in enumerate(reads) if place and time <= end), None)
        if at is None:
            continue  # after bpf had stopped
        counts[lines[at], int(Kind.IRQ_HANDLER)] += 1
        if number not in missed:
            counts[lines[at], int(Kind.LATE_EOI)] += 1
            counts[lines[at], int(Kind.PORT_HANDLER)] += 1
    error = data.draw(st.integers(0, SECOND // 10))
    off = data.draw(st.integers(-error, error))
    first, last = sorted((data.draw(times), data.draw(times)))
    told = made(counts, monotonic_ns=off, error_ns=float(error) + 1, until_ns=lines[-1])
    found = told.in_trace(tsc(first), tsc(last))
    truth = sum(first <= time <= last for time in calls)
    if first == last:
        assert len(found) == 0
        return
    least, most = bounds(found)["xen_irq_lateeoi"]
    assert least <= truth
    assert most is None or truth <= most
    assert (most is not None) == (error + 1 <= first + off and last + off + error + 1 <= lines[-1])


def partial(rows: list[tuple[int, str, int, int, int, int]]) -> Partial:
    return replace(partial_of(_nothing()), dom0_calls=columns_of(rows))


def facts_of(*partials: Partial, domain: int = 0) -> Any:
    return domain_facts(Measures(merge(partials), VersionRange.parse("4.17")), domain)


UPCALL, EOI = int(Kind.UPCALL), int(Kind.LATE_EOI)
FIRST = [(UPCALL, "xen_evtchn_do_upcall", 1, 1, 100, 120), (EOI, "xen_irq_lateeoi", 1, 1, 7, 9)]


def test_merging_with_a_capture_without_a_most_leaves_no_most() -> None:
    one = partial(FIRST)
    both = facts_of(one, one)
    assert both.calls == {"xen_evtchn_do_upcall": (200, 240), "xen_irq_lateeoi": (14, 18)}
    assert both.upcalls_by_bpf == (200, 240)
    killed = partial([(UPCALL, "xen_evtchn_do_upcall", 1, 0, 50, 0)])
    assert facts_of(one, killed).calls == {"xen_evtchn_do_upcall": (150, INF), "xen_irq_lateeoi": (7, INF)}
    # The calls during a trace without bpf are not known.
    assert facts_of(one, partial([])).calls["xen_irq_lateeoi"] == (7, INF)
    assert facts_of(one, partial([])).upcalls_by_bpf == (100, INF)
    assert facts_of(partial([])).upcalls_by_bpf is None


def test_every_role_of_the_programs_is_known() -> None:
    assert set(KIND_OF_ROLE) == {role.name for role in ROLES}


def test_calls_are_of_dom0_only() -> None:
    assert facts_of(partial(FIRST), domain=3).calls == {}
    assert facts_of(partial(FIRST), domain=3).upcalls_by_bpf is None


def test_a_function_that_may_be_inlined_does_not_bound_upcalls() -> None:
    found = facts_of(partial([(UPCALL, "__xen_pv_evtchn_do_upcall", 1, 1, 100, 120)]))
    assert found.calls == {"__xen_pv_evtchn_do_upcall": (100, 120)}
    assert found.upcalls_by_bpf == (100, INF)


def test_summary_keeps_them(tmp_path: Path) -> None:
    write_summary(Summary(partial(FIRST), Origin("a")), tmp_path / "a.summary")
    kept = read_summary(tmp_path / "a.summary").partial
    assert [tuple(row.values()) for row in kept.dom0_calls.rows()] == FIRST
    assert {name: kept.dom0_calls[name].dtype for name in kept.dom0_calls.names} == COLUMNS
    assert merge([kept, kept]).dom0_calls["count"].tolist() == [200, 14]


def test_a_capture_gives_the_calls_during_its_trace(tmp_path: Path) -> None:
    path = tmp_path / BPF_TABLES
    path.parent.mkdir()
    lines = [{"t_ns": n * SECOND, "rows": [[EOI, 45, 1, 4, 400, 50, 200, 1]] if n else []} for n in range(11)]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    recorded = dom0_columns.read(Capture(tmp_path, meta()))
    ends = tsc(5 * SECOND // 2), tsc(15 * SECOND // 2)
    trace = replace(_nothing(), segments=(Segment(*ends, *ends),))
    found = bounds(partial_of(trace, recorded).dom0_calls)
    assert found["xen_irq_lateeoi"] == (15, 35)
    # bpf alone, and no trace: no time to count in.
    assert len(partial_of(_nothing(), recorded).dom0_calls) == 0
