"""What is inferred about event delivery, held against the records of the samples that have them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from itertools import dropwhile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders.cut import packed
from builders.reported import printed
from lab import accuracy
from lab.accuracy import BOUNDED, EXACT, FIGURES, INFERRED, Found
from lab.stripped import DELIVERY, stripped
from oracle import delivery
from oracle.machine import Interval
from oracle.reader import frame, read
from xtrace.analysis.coverage.needs import EVENTS
from xtrace.analysis.measures.table import Quality
from xtrace.analysis.report.build import TABLES
from xtrace.analysis.report.delivery_errors import ERRORS
from xtrace.analysis.state_machine.delivery_columns import NOBODY, Mark, Returned, Waited
from xtrace.analysis.state_machine.metrics import Metric
from xtrace.analysis.tables import event_delivery

SAMPLES = sorted((Path(__file__).parents[2] / "samples").glob("xen417-events-*.bin.xz"))
PAGE = (Path(__file__).parents[2] / "docs" / "accuracy-delivery.md").read_text()
NEW_TABLES = {table.name for table in event_delivery.TABLES}
#: Columns of other tables that come from the records.
NEW_COLUMNS = {
    (table.name, column.name)
    for table in TABLES
    for column in table.columns
    if table.name not in NEW_TABLES and EVENTS in table.needs_of(column)
}
HZ = "2596097000"


@cache
def found() -> Found:
    """Return how right the inference is on the three samples."""
    every = Found()
    for path in SAMPLES:
        accuracy.measure(path.name.partition(".")[0], accuracy.read_trace(path), every)
        every.hz = accuracy.tsc_hz(path)
    return every


def published() -> dict[str, tuple[int, int]]:
    """Return how often the page says that each figure was judged and wrong on the samples."""
    rows = accuracy.part_of(PAGE, "samples").splitlines()
    cells = [[cell.strip() for cell in row.split("|")] for row in rows if row.count("|") > 6]
    names = {figure.name: key for key, figure in FIGURES.items()}
    return {
        names[row[1]]: (int(row[3].replace(",", "")), int(row[4].replace(",", "")))
        for row in cells
        if row[1] in names
    }


@pytest.mark.parametrize("key", FIGURES)
def test_figures_are_as_right_as_published(key: str) -> None:
    judged, wrong = found().judged[key], found().wrong[key]
    assert (judged, 0) >= (judged, wrong) or FIGURES[key].mark == INFERRED, found().why
    if judged:
        assert published()[key][0] == judged
        assert wrong <= published()[key][1]
    else:
        assert key == "by call"  # there is none in the samples


def test_the_samples_judge_each_kind_of_figure() -> None:
    kinds = Counter(FIGURES[key].mark for key in FIGURES if found().judged[key])
    assert set(kinds) == {EXACT, BOUNDED, INFERRED}
    assert found().judged["most"] > 1000
    assert found().judged["by send"] > 500


def test_errors_are_of_columns_that_exist_and_have_that_mark() -> None:
    columns = {(table.name, column.name): column for table in TABLES for column in table.columns}
    for figure in FIGURES.values():
        for place in figure.columns:
            assert place in ERRORS or figure.mark == EXACT, place
            quality = columns[place].quality
            assert quality is Quality(figure.mark), (place, quality)


# --- with the records ----------------------------------------------------------------------------


@cache
def tables(path: Path) -> dict[str, list[dict[str, Any]]]:
    shown = json.loads(printed("report", "--json", "--cpu-hz", HZ, str(path)))
    return {name: table["rows"] for name, table in shown["tables"].items()}


@cache
def truth(path: Path) -> list[Interval]:
    return delivery.run(read(accuracy.read_trace(path)).records_and_holes)


def of(path: Path, metric: Metric, holds: Callable[[int], bool] = lambda b: True) -> Counter[tuple[int, int]]:
    """Return the number of intervals by domain and vCPU."""
    rows = [row for row in truth(path) if row.metric is metric and holds(row.b)]
    return Counter((row.a >> 16, row.a & 0xFFFF) for row in rows)


def by_vcpu(path: Path, table: str, column: str) -> Counter[tuple[int, int]]:
    rows = tables(path)[table]
    return +Counter({(row["domain"], row["vcpu"]): row[column] for row in rows})


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name.split(".")[0])
@pytest.mark.parametrize(
    ("table", "column", "metric", "holds"),
    [
        ("masked_waits", "mark_count", Metric.EVENT_MARK, lambda b: True),
        ("masked_waits", "masked_count", Metric.EVENT_MARK, lambda b: b & Mark.MASKED),
        ("masked_waits", "outside_count", Metric.EVENT_MARK, lambda b: b & 14 == Mark.MASKED),
        ("masked_waits", "inside_count", Metric.EVENT_MARK, lambda b: b & 14 == Mark.MASKED | Mark.INSIDE),
        ("masked_waits", "outside_wait_count", Metric.MASKED_WAIT, lambda b: b == Waited.MASKED),
        ("masked_waits", "taken_most_wait_count", Metric.MASKED_WAIT, lambda b: b & Waited.TAKEN),
        ("recorded_upcalls", "entry_count", Metric.UPCALL_ENTRY, lambda b: True),
        ("recorded_upcalls", "nested_count", Metric.UPCALL_ENTRY, lambda b: b & Returned.INSIDE),
        ("recorded_upcalls", "slept_count", Metric.UPCALL, lambda b: b & Returned.SLEPT),
        ("recorded_upcalls", "upcall_count", Metric.UPCALL, lambda b: not b & Returned.SLEPT),
    ],
)
def test_the_report_counts_what_the_records_say(
    path: Path, table: str, column: str, metric: Metric, holds: Callable[[int], bool]
) -> None:
    assert by_vcpu(path, table, column) == of(path, metric, holds)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name.split(".")[0])
def test_the_report_has_the_times_of_the_records(path: Path) -> None:
    for row in tables(path)["ports"]:
        values = [
            found.value
            for found in truth(path)
            if found.metric is Metric.EVENT_TO_UPCALL
            and (found.a >> 16, found.a & 0xFFFF) == (row["domain"], row["vcpu"])
            and found.b & 0xFFFFF == row["port"]
        ]
        assert row["delivered_count"] == len(values)
        assert (row["event_to_upcall_max_cycles"] or 0) == max(values, default=0)
        if values:
            p50 = np.percentile(values, 50, method="inverted_cdf")
            assert row["event_to_upcall_p50_cycles"] == pytest.approx(p50, rel=0.01)
    waits = {(row["domain"], row["vcpu"]): row for row in tables(path)["masked_waits"]}
    for (domain, vcpu), row in waits.items():
        outside = [
            found.value
            for found in truth(path)
            if (found.metric, found.a, found.b) == (Metric.MASKED_WAIT, domain << 16 | vcpu, Waited.MASKED)
        ]
        assert (row["outside_wait_max_cycles"] or 0) == max(outside, default=0)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name.split(".")[0])
def test_wakes_have_the_cause_that_the_records_say(path: Path) -> None:
    said = +Counter(
        {
            (row["domain"], row["vcpu"], row["source"]): row["woke_count"]
            for row in tables(path)["event_sources"]
        }
    )
    true = Counter[tuple[int, int, str]]()
    names = {0: "no event", 4: "pirq", 5: "virq", 7: "unmask"}
    for row in truth(path):
        if row.metric is Metric.EVENT_WAKE:
            sender = f"d{row.b >> 16}v{row.b & 0xFFFF}" if row.b < NOBODY else names[row.b >> 32]
            true[row.a >> 16, row.a & 0xFFFF, sender] += 1
    assert said == true
    # The report's own count of wakes, from the scheduler's records.
    wakes = by_vcpu(path, "wakes", "wake_count")
    found_wakes = Counter((domain, vcpu) for domain, vcpu, _ in true.elements())
    assert sum((wakes - found_wakes).values()) <= 4  # before the first record of event delivery


def from_first_kept(data: bytes) -> bytes:
    """Return a trace in which each pCPU begins, and is covered from, a record that stripped() keeps."""
    begun: set[int] = set()
    windows = []
    for window in frame(data).windows:
        records = window.records
        if window.pcpu not in begun:
            records = tuple(dropwhile(lambda raw: raw.event >> 12 == DELIVERY, records))
        if records:
            begun.add(window.pcpu)
        windows.append(replace(window, records=records))
    return packed(windows)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name.split(".")[0])
def test_the_rest_of_the_report_is_as_without_the_records(path: Path, tmp_path: Path) -> None:
    data = from_first_kept(accuracy.read_trace(path))
    traces = {"whole": data, "plain": stripped(data)}
    for each, content in traces.items():
        (tmp_path / f"{each}.bin").write_bytes(content)
        (tmp_path / f"{each}.bin.json").write_text(path.with_name(f"{path.name}.json").read_text())
    without, whole = tables(tmp_path / "plain.bin"), tables(tmp_path / "whole.bin")
    assert set(without) == set(whole)
    for name in without.keys() - NEW_TABLES - {"events", "volume"}:
        for before, after in zip(without[name], whole[name], strict=True):
            for column in before.keys() - {"window_bytes"}:
                if (name, re.sub("_ns$", "_cycles", column)) in NEW_COLUMNS:
                    assert before[column] is None, (name, column)
                elif name == "injections" and column.endswith(("_cycles", "_ns")):
                    # A record without a TSC takes that of the one before, so these bounds are narrower.
                    assert (after[column] or 0) <= (before[column] or 0)
                else:
                    assert before[column] == after[column], (name, column)
    for name in NEW_TABLES:
        assert not without[name], name
        assert whole[name], name
