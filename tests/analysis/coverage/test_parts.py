"""Samples cut by pCPU, windows and time: accounts add up, and a part gives no more than the whole.

test_stretches compares each figure with a second program; this holds for all samples and is fast.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from builders import cut
from builders.partials import partial
from oracle.reader import Window
from oracle.reading import ALL_SAMPLES, sample_bytes
from xtrace.analysis.coverage.coverage import coverage_of
from xtrace.analysis.coverage.needs import Reach
from xtrace.analysis.measures.table import Column, Quality, Table
from xtrace.analysis.report.build import TABLES, Report, build

MOST_BYTES = 1_000_000
NAMES = [path.name.split(".")[0] for path in ALL_SAMPLES]
OF_TRACE = [table for table in TABLES if table.section not in ("kernel", "dom0", "cost", "trace", "rips")]
Cut = Callable[[list[Window]], list[Window]]


@cache
def windows_of(name: str) -> list[Window]:
    """Return the windows of a sample's first complete rounds, about MOST_BYTES."""
    path = next(path for path in ALL_SAMPLES if path.name.startswith(name))
    windows = cut.windows_of(sample_bytes(path))
    kept, size = 0, 0
    for number, window in enumerate(windows):
        size += window.size
        if size > MOST_BYTES:
            break
        if number + 1 == len(windows) or windows[number + 1].pcpu <= window.pcpu:
            kept = number + 1
    return windows[:kept]


@cache
def whole(name: str) -> Report:
    return reported(windows_of(name))


def reported(windows: list[Window]) -> Report:
    return build(partial(cut.packed(windows)), hz=2.3e9)


def columns() -> list[tuple[Table[Any], Column]]:
    return [
        (table, column) for table in OF_TRACE for column in table.columns if column.quality is not Quality.KEY
    ]


def assert_absent_where_needed(report: Report) -> None:
    """Check that a figure is absent exactly where one of the kinds of records that it needs is."""
    assert report.coverage is not None
    for table, column in columns():
        lacks = report.coverage.lacking(table.needs_of(column))
        is_absent = report.quality[table.name][column.name] is Quality.ABSENT
        assert is_absent == bool(lacks), (table.name, column.name, lacks)
        if is_absent:
            assert all(math.isnan(row[column.name]) for row in report.columns[table.name].rows())


def third(number: int) -> Cut:
    """Return a cut that leaves a third of the windows out."""

    def of(windows: list[Window]) -> list[Window]:
        size = len(windows) // 3
        return (
            windows[: number * size] + windows[(number + 1) * size :] if number < 2 else windows[: 2 * size]
        )

    return of


def in_the_middle(windows: list[Window]) -> list[Window]:
    """Return the records of the middle third of the time."""
    tscs = [raw.tsc for window in windows for raw in window.records if raw.tsc is not None]
    first, last = min(tscs), max(tscs)
    return cut.in_time(windows, first + (last - first) // 3, first + 2 * (last - first) // 3)


PARTS: dict[str, Cut] = {
    "pCPU 0": lambda windows: cut.of_pcpus(windows, {0}),
    "pCPU 1": lambda windows: cut.of_pcpus(windows, {1}),
    "start missing": third(0),
    "middle missing": third(1),
    "end missing": third(2),
    "middle of the time": in_the_middle,
}
#: Sums over the vCPUs' time in states that need no judgement of what came before.
STATES = ("running", "blocked")


@pytest.mark.parametrize("kind", PARTS)
@pytest.mark.parametrize("name", NAMES)
def test_a_part_gives_no_more_than_the_whole(name: str, kind: str) -> None:
    windows = PARTS[kind](windows_of(name))
    if not any(window.records for window in windows):
        pytest.skip("the sample has no such pCPU")
    found, truth = reported(windows), whole(name)
    assert_absent_where_needed(found)
    assert found.coverage is not None
    span = found.trace["span_cycles"]
    for table, keys in (("vcpu_states", ("domain", "vcpu")), ("domain_states", ("domain",))):
        totals: Counter[tuple[int, ...]] = Counter()
        for row in found.columns[table].rows():
            totals[tuple(row[key] for key in keys)] += row["total_cycles"]
        assert set(totals.values()) <= {span}
    for row in found.columns["pcpus"].rows():
        parts = ("running_cycles", "idle_cycles", "lost_cycles", "unknown_cycles")
        assert sum(row[part] for part in parts) == span
    states = {(row["domain"], row["vcpu"], row["state"]): row for row in truth.columns["vcpu_states"].rows()}
    for row in found.columns["vcpu_states"].rows():
        key = row["domain"], row["vcpu"], row["state"]
        if row["state"] in STATES and row["domain"] < 0x7FFF and "missing" not in kind:
            # Half a per mille for waits that the scheduler's clock confirms only so far.
            assert row["total_cycles"] <= states[key]["total_cycles"] * 1.0005, key
    for each, column in columns():
        is_count = column.name == "count" and each.reach_of(column) is Reach.RECORDS
        if is_count and found.quality[each.name]["count"] is Quality.EXACT:
            there = truth.columns[each.name]["count"].sum()
            assert found.columns[each.name]["count"].sum() <= there, each.name


@pytest.mark.parametrize("name", [name for name in NAMES if name != "xen417-sched-credit"])
def test_one_pcpu_of_several_is_not_taken_for_all(name: str) -> None:
    found = reported(cut.of_pcpus(windows_of(name), {0}))
    assert found.coverage is not None
    if found.coverage.has_all_pcpus:
        # Pinned vCPUs never leave their pCPU, and nothing in its records names another one.
        assert "null" in name
        return
    for table, column in columns():
        mark = found.quality[table.name][column.name]
        if table.reach_of(column) is Reach.HOST:
            assert mark is not Quality.EXACT, (table.name, column.name)


@pytest.mark.parametrize("name", NAMES)
def test_a_whole_sample_covers_all_pcpus(name: str) -> None:
    covered = coverage_of(partial(cut.packed(windows_of(name))), 2.3e9)
    assert covered.has_all_pcpus
    assert not covered.missing_pcpus
