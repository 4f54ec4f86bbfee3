"""The marks of histograms: those of the report, and true of traces that lack classes, pCPUs or windows."""

from __future__ import annotations

import functools
import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builders import emulated
from builders.cut import of_classes, of_pcpus, packed, windows_of
from builders.cut_windows import middle
from oracle.reading import SAMPLES, sample_bytes
from xtrace import samples
from xtrace.analysis import analyse, build_report
from xtrace.analysis.export import histograms, tables, write_table
from xtrace.analysis.export.source import Exported, ExportRequest
from xtrace.analysis.state_machine.metrics import FIRST_COUNT, Metric

HVM = next(path for path in SAMPLES if "pvh-all" in path.name)
LOST = next(path for path in SAMPLES if "lost" in path.name)
#: What is left of a trace.
CUTS: dict[str, Callable[[bytes], bytes]] = {
    "whole": lambda data: data,
    "sched": lambda data: packed(of_classes(windows_of(data), "sched")),
    "no sched": lambda data: packed(of_classes(windows_of(data), "pv,hvm,hw")),
    "pCPU 0": lambda data: packed(of_pcpus(windows_of(data), {0})),
    "windows lost": middle,
    "windows of pCPU 1 lost": lambda data: middle(data, 1),
}


@functools.cache
def cut(name: str, sample: Path) -> bytes:
    return CUTS[name](sample_bytes(sample))


def rows(path: Path) -> list[dict[str, Any]]:
    of = Exported(ExportRequest(path=path, cpu_hz=2.3e9))
    out = io.BytesIO()
    write_table.write(of, tables.table(of, "histograms"), out, "json")
    found: list[dict[str, Any]] = json.loads(out.getvalue())["rows"]
    return found


def marks(found: list[dict[str, Any]]) -> dict[str, str]:
    """Return the mark of each metric: all rows of it have the same."""
    pairs = {(row["metric"], row["quality"]) for row in found}
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def test_each_metric_with_values_has_a_mark() -> None:
    timed = {metric for metric in Metric if metric < FIRST_COUNT}
    others = {Metric.HANDOFF, Metric.TICK, *histograms._OTHERS}
    assert set(histograms.FIGURES) | others == timed
    assert not set(histograms.FIGURES) & others


@pytest.mark.parametrize("name", CUTS)
@pytest.mark.parametrize("sample", [HVM, LOST], ids=["pvh", "lost"])
def test_marks_are_those_of_the_report(name: str, sample: Path, tmp_path: Path) -> None:
    path = tmp_path / "t.bin"
    path.write_bytes(cut(name, sample))
    found = marks(rows(path))
    assert found
    report = build_report(analyse(path))
    for metric, mark in found.items():
        table, column = histograms.FIGURES.get(Metric[metric.upper()], ("", ""))
        if table:
            assert mark == str(report.quality[table][column])


@pytest.mark.parametrize("name", list(CUTS)[1:])
def test_what_is_exact_of_a_part_is_right(name: str, tmp_path: Path) -> None:
    """What keeps the mark exact is what the whole trace has: no value is another one, and none is more."""
    whole, part = tmp_path / "whole.bin", tmp_path / "part.bin"
    whole.write_bytes(cut("whole", HVM))
    part.write_bytes(cut(name, HVM))
    keys = ("metric", "domain", "vcpu", "subject", "argument", "low_cycles", "high_cycles")

    def counted(found: list[dict[str, Any]]) -> Counter[tuple[Any, ...]]:
        return Counter({tuple(row[key] for key in keys): row["count"] for row in found})

    of_part = rows(part)
    known = marks(of_part)
    of_whole = rows(whole)
    expected = counted(of_whole)
    exact = counted([row for row in of_part if known[row["metric"]] == "exact"])
    assert not exact - expected
    falls = {metric for metric, mark in known.items() if mark != "exact"}
    assert falls or set(known) < set(marks(of_whole))
    if name.startswith("windows"):
        assert "wake_to_running" in falls


def test_marks_fall_where_records_were_lost(tmp_path: Path) -> None:
    path = tmp_path / "t.bin"
    path.write_bytes(emulated.trace())
    before = marks(rows(path))
    assert before["access"] == before["wake_to_halt"] == "exact"
    assert before["ipi_to_entry"] == "inferred"
    path.write_bytes(sample_bytes(LOST))
    after = marks(rows(path))
    assert after["running"] != "exact"
    assert marks(rows(samples.path()))["wake_to_running"] == "exact"
