"""A trace whose TSCs are apart is read again with aligned TSCs, and so is one with core scheduling."""

from __future__ import annotations

import io
import lzma
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from builders.cores import cores
from builders.host import simulate
from builders.hosts import DOMAINS, calm
from builders.restarted import halves
from builders.shifted import offsets, shifted
from oracle.reader import frame
from xtrace.analysis.columns import Columns
from xtrace.analysis.coverage.needs import Reach
from xtrace.analysis.loading import passes
from xtrace.analysis.loading.reading import Reading, unseen
from xtrace.analysis.loading.summaries import analyse
from xtrace.analysis.measures.table import Quality
from xtrace.analysis.report.build import TABLES, Report, build, json_object
from xtrace.analysis.state_machine.collected import Collected
from xtrace.analysis.state_machine.one_pass import collect
from xtrace.analysis.summary.partial import partial_of
from xtrace.analysis.summary.summary_file import Summary, read_summary, write_summary
from xtrace.probes.selection.times import Moment

SAMPLES = Path(__file__).parents[3] / "samples"
SHIFT = 230_000
LENGTH = 80_000_000
CUT_BYTES = 1_000_000
#: How far a share may be from that of the trace without skew; measured: 3.7e-4, on samples 1.2e-4.
NEAR = 5e-4

#: Names of cases: samples, and a made host.
CASES = ["xen417-pv-all", "xen417-pv-lost", "xen417-pvh-all", "xen417-netbsd7-idle", "made"]


@cache
def whole(case: str) -> bytes:
    """Return a trace whose TSCs are equal."""
    if case == "made":
        return simulate(7, 3, DOMAINS, LENGTH).data
    data = lzma.decompress((SAMPLES / f"{case}.bin.xz").read_bytes())
    return data[: max(window.offset for window in frame(data).windows if window.offset <= CUT_BYTES)]


def summary_of(data: bytes, folder: Path, name: str = "trace") -> Summary:
    path = folder / name
    path.write_bytes(data)
    return analyse(path)


def report_of(data: bytes, folder: Path) -> Report:
    return build(summary_of(data, folder).partial)


@contextmanager
def piped(data: bytes, folder: Path) -> Iterator[Path]:
    """Yield a named pipe into which the trace is written once."""
    path = folder / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(data,), daemon=True)
    writer.start()
    yield path
    writer.join(60)


def passes_of(monkeypatch: pytest.MonkeyPatch, read: Callable[[], object]) -> int:
    """Return how many times a trace is read."""
    count = 0

    def counted(*args: object, **more: object) -> Collected:
        nonlocal count
        count += 1
        return cast(Callable[..., Collected], collect)(*args, **more)

    monkeypatch.setattr(passes, "collect", counted)
    read()
    return count


def by_key(report: Report, table: str, column: str) -> Mapping[tuple[object, ...], float]:
    keys = [name for name, known in report.quality[table].items() if known is Quality.KEY]
    rows = report.columns[table]
    return {tuple(row[key] for key in keys): row[column] for row in rows.rows()}


@pytest.mark.parametrize("case", CASES)
def test_an_aligned_trace_gives_what_the_trace_without_skew_gives(case: str, tmp_path: Path) -> None:
    """The same wakes and sends are counted; times are as near as the bounds say."""
    plain = report_of(whole(case), tmp_path)
    assert not plain.trace["skewed_pcpu_pairs"]
    aligned = report_of(shifted(whole(case), {1: SHIFT}), tmp_path)
    ((_, offset, uncertain),) = (each.values() for each in aligned.trace["tsc_alignment"])
    assert abs(offset + SHIFT) <= uncertain <= SHIFT // 4
    assert {pair["unaligned"] for pair in aligned.trace["skewed_pcpu_pairs"]} == {""}
    for table, column in [
        ("wakes", "wake_count"), ("wakes", "event_channel_count"), ("wakes", "irq_count"),
        ("wakes", "wake_to_running_count"), ("sends", "woke_count"), ("sends", "send_count"),
    ]:  # fmt: skip
        assert by_key(aligned, table, column) == by_key(plain, table, column), (table, column)
    for table, column in [
        ("vcpu_states", "share_ratio"), ("domain_states", "share_ratio"), ("domain_vcpus", "share_ratio"),
        ("residence", "share_ratio"), ("pcpus", "running_ratio"), ("pcpus", "idle_ratio"),
    ]:  # fmt: skip
        mine, its = by_key(aligned, table, column), by_key(plain, table, column)
        for key in mine.keys() | its.keys():
            assert abs(mine.get(key, 0) - its.get(key, 0)) <= NEAR, (table, key)
    longest = by_key(aligned, "wakes", "wake_to_running_max_cycles")
    expected = by_key(plain, "wakes", "wake_to_running_max_cycles")
    assert longest == pytest.approx(expected, rel=0.02, abs=uncertain, nan_ok=True)


def quality_of(report: Report) -> Iterator[tuple[str, Quality]]:
    """Yield the quality of each figure that is made from the records of several pCPUs."""
    for table in TABLES:
        for column in table.columns:
            if table.name in report.quality and table.reach_of(column) in (Reach.VCPU, Reach.HOST):
                yield f"{table.name}.{column.name}", report.quality[table.name][column.name]


def test_no_figure_across_pcpus_is_exact_or_bounded(tmp_path: Path) -> None:
    data = shifted(whole("made"), {1: SHIFT})
    aligned = report_of(data, tmp_path)
    with piped(data, tmp_path) as pipe:
        unaligned = build(analyse(pipe).partial)
    assert not unaligned.trace["tsc_alignment"]
    assert {pair["unaligned"] for pair in unaligned.trace["skewed_pcpu_pairs"]} == {
        "a stream is read only once"
    }
    for report in (aligned, unaligned):
        found = dict(quality_of(report))
        assert not [name for name, known in found.items() if known in (Quality.EXACT, Quality.BOUNDED)]
        assert found["wakes.wake_count"] is Quality.INFERRED
        assert report.quality["events"]["count"] is report.quality["irqs"]["count"] is Quality.EXACT
        assert report.quality["irqs"]["per_s"] is Quality.INFERRED
        assert report.coverage is not None
        assert report.coverage.has_all_pcpus
    strip = ("low_cycles", "high_cycles", "evidence", "least_cycles")
    assert [[pair[name] for name in strip] for pair in aligned.trace["skewed_pcpu_pairs"]] == [
        [pair[name] for name in strip] for pair in unaligned.trace["skewed_pcpu_pairs"]
    ]
    calm_one = dict(quality_of(report_of(whole("made"), tmp_path)))
    assert calm_one["wakes.wake_count"] is Quality.EXACT


def test_standard_input_is_not_aligned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(shifted(whole("made"), {1: SHIFT})))
    monkeypatch.setattr(sys, "stdin", stream)
    trace = build(analyse("-").partial).trace
    assert trace["skewed_pcpu_pairs"]
    assert not trace["tsc_alignment"]


def test_pcpus_without_a_record_at_the_same_time_are_aligned_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "trace"
    path.write_bytes(shifted(whole("made"), {1: 1 << 40}))
    assert passes_of(monkeypatch, lambda: passes.read(path)) == 3
    found = passes.read(path)
    ((pcpu, offset, uncertain),) = found.aligned
    assert pcpu == 1
    assert abs(offset + (1 << 40)) <= uncertain < 20_000
    plain = tmp_path / "plain"
    plain.write_bytes(whole("made"))
    assert abs(found.span_cycles - passes.read(plain).span_cycles) <= uncertain


def test_what_is_not_skewed_is_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "trace"
    path.write_bytes(calm(3))
    assert passes_of(monkeypatch, lambda: passes.read(path)) == 1
    path.write_bytes(shifted(whole("made"), {1: SHIFT}))
    assert passes_of(monkeypatch, lambda: passes.read(path)) == 2


def test_open_bounds_are_not_aligned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "trace"
    path.write_bytes(simulate(7, 3, DOMAINS, 40_000_000, skew_cycles=(0, 0, 4_000_000)).data)
    assert passes_of(monkeypatch, lambda: passes.read(path)) == 1
    trace = build(analyse(path).partial).trace
    assert {pair["unaligned"] for pair in trace["skewed_pcpu_pairs"]} == {"the bounds are open or too wide"}


def test_with_restarts_nothing_is_aligned(tmp_path: Path) -> None:
    first, second = halves(shifted(whole("made"), {1: SHIFT}))
    trace = report_of(second + first, tmp_path).trace
    assert trace["tsc_restart_count"] == 1
    assert not trace["tsc_alignment"]
    assert {pair["unaligned"] for pair in trace["skewed_pcpu_pairs"]} == {"the TSC restarts in the trace"}


def test_windows_are_of_the_aligned_trace(tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_bytes(shifted(whole("made"), {1: SHIFT}))
    reading = Reading(begin=Moment.parse("20000000c"), end=Moment.parse("60000000c"))
    (found,) = reading.start([str(path)]).result(unseen)
    assert [each.pcpu for each in found.aligned] == [1]
    assert found.span_cycles == 39_999_999
    expected = collect(
        path,
        window=(found.segments[0].begin_tsc, found.segments[0].end_tsc),
        tsc_offsets=offsets({each.pcpu: each.offset_cycles for each in found.aligned}),
    )
    assert same(partial_of(expected).tallies, partial_of(found).tallies)


def same(one: Columns, two: Columns) -> bool:
    return all(np.array_equal(one[name], two[name]) for name in one.names)


def test_a_stored_summary_keeps_the_alignment(tmp_path: Path) -> None:
    made = summary_of(shifted(whole("made"), {1: SHIFT}), tmp_path)
    write_summary(made, tmp_path / "kept.summary")
    kept = read_summary(tmp_path / "kept.summary")
    assert json_object(build(kept.partial)) == json_object(build(made.partial))
    assert build(kept.partial).trace["tsc_alignment"]


def test_core_scheduling_is_known_from_the_first_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "trace"
    path.write_bytes(cores())
    assert passes_of(monkeypatch, lambda: passes.read(path)) == 2
    found = passes.read(path)
    assert found.has_cores
    known = partial_of(collect(path, core=True)).tallies
    assert same(partial_of(found).tallies, known)
    late = partial_of(collect(path)).tallies
    assert len(late) != len(known) or not same(late, known)
    assert json_object(report_of(cores(), tmp_path))["trace"]["coverage"]["core_scheduling"] is True
    assert json_object(report_of(calm(1), tmp_path))["trace"]["coverage"]["core_scheduling"] is False
