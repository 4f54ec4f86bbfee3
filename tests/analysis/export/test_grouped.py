"""Rows by their values, and sums by columns and slots of time, against values by hand and plain loops."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest

from builders import emulated
from oracle.reading import SAMPLES, sample_bytes
from xtrace import samples
from xtrace.analysis import events
from xtrace.analysis.export import grouped, tables, write_table
from xtrace.analysis.export.grouped import Condition
from xtrace.analysis.export.source import Exported, ExportRequest
from xtrace.analysis.report.request import RequestError
from xtrace.cli.main import main
from xtrace.probes.errors import TraceError
from xtrace.probes.selection.times import Moment

LOST = next(path for path in SAMPLES if "lost" in path.name)


def rows(
    of: Exported, what: str, by: tuple[str, ...] = (), slot: str = "", where: tuple[str, ...] = ()
) -> list[dict[str, Any]]:
    made = grouped.where(tables.table(of, what), [Condition.parse(text) for text in where])
    if by or slot:
        made = grouped.grouped(of, made, by, Moment.parse(slot) if slot else None)
    out = io.BytesIO()
    write_table.write(of, made, out, "json")
    found: list[dict[str, Any]] = json.loads(out.getvalue())["rows"]
    return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    path = tmp_path_factory.mktemp("grouped") / "t.bin"
    path.write_bytes(emulated.trace())
    return Exported(ExportRequest(path=path, cpu_hz=1e9))


def test_a_run_counts_in_each_slot_with_its_part(made: Exported) -> None:
    """d1v0 runs from 0 to 30100 and 35000 to 50000, d1v1 from 0 to 14100 and 20200 to 24000."""
    found = rows(made, "runs", ("domain",), "10000c")
    assert [(row["slot_tsc"] - emulated.BEGIN, row["count"], row["sum_cycles"]) for row in found] == [
        (0, 0, 20_000), (10_000, 1, 14_100), (20_000, 1, 13_800), (30_000, 1, 5100), (40_000, 1, 10_000)
    ]  # fmt: skip
    assert [row["share_ratio"] for row in found] == [2, 1.41, 1.38, 0.51, 1]
    assert [row["slot_s"] for row in found] == [0, 1e-5, 2e-5, 3e-5, 4e-5]
    assert [(row["least_cycles"], row["most_cycles"]) for row in found][1:] == [
        (14_100, 14_100), (3800, 3800), (30_100, 30_100), (15_000, 15_000)
    ]  # fmt: skip
    assert not any(row["is_part"] for row in found)


def test_groups_without_slots(made: Exported) -> None:
    found = rows(made, "runs", ("vcpu", "next_state"))
    assert [(row["vcpu"], row["next_state"], row["count"], row["sum_cycles"]) for row in found] == [
        (0, "blocked", 1, 30_100), (0, "runnable", 1, 15_000), (1, "blocked", 2, 17_900)
    ]  # fmt: skip


def test_an_open_end_is_part(made: Exported) -> None:
    found = rows(made, "address_spaces", ("page_table",))
    assert [(row["page_table"], row["is_part"]) for row in found] == [(0x1000, True), (0x2000, False)]


@pytest.mark.parametrize("slot", ["100ms", "7000000c"])
def test_slots_are_those_of_a_plain_loop(slot: str) -> None:
    of = Exported(ExportRequest(path=samples.path(), end=Moment.parse("2s")))
    first, length = of.first_tsc, Moment.parse(slot).cycles(0, of.hz)
    counts: dict[tuple[int, int], int] = {}
    sums: dict[tuple[int, int], int] = {}
    for frame in events(samples.path(), "runs", end=Moment.parse("2s")):
        for domain, begin, end in zip(frame["domain"], frame["begin_tsc"], frame["end_tsc"], strict=True):
            last = (max(end - 1, begin) - first) // length
            counts[last, domain] = counts.get((last, domain), 0) + 1
            for number in range((begin - first) // length, last + 1):
                low, high = first + number * length, first + (number + 1) * length
                part = min(end, high) - max(begin, low)
                sums[number, domain] = sums.get((number, domain), 0) + part
    found = {
        ((row["slot_tsc"] - first) // length, row["domain"]): (row["count"], row["sum_cycles"])
        for row in rows(of, "runs", ("domain",), slot)
    }
    assert found == {key: (counts.get(key, 0), total) for key, total in sums.items() if total}


def test_slots_with_losses_are_part(tmp_path: Path) -> None:
    path = tmp_path / "t.bin"
    path.write_bytes(sample_bytes(LOST))
    of = Exported(ExportRequest(path=path))
    losses = rows(of, "losses", ("what",), "10ms", ("what=lost",))
    lossy = {row["slot_tsc"] for row in losses if row["count"]}
    wakes = rows(of, "wakes", ("domain",), "10ms")
    assert {row["slot_tsc"] for row in wakes if row["slot_tsc"] in lossy and not row["is_part"]} == set()
    assert any(row["is_part"] for row in wakes)
    assert not all(row["is_part"] for row in wakes)


def test_too_many_cells_are_refused(made: Exported, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grouped, "MOST_CELLS", 100)
    with pytest.raises(RequestError, match="makes 501 slots; at most 100"):
        rows(made, "runs", (), "100c")
    with pytest.raises(TraceError, match="make more than 100 cells"):
        rows(made, "records", ("tsc",), "1000c")


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--where", "vector"], "is not a condition such as vector=0xfa"),
        (["--where", "nap=1"], "have no column 'nap', but domain, vcpu"),
        (["--where", "vcpu=x"], "vcpu is a number, not 'x'"),
        (["--where", "is_open=perhaps"], "is_open is true or false"),
        (["--sum-by", "nap"], "have no column 'nap'"),
        (["--slot", "tsc:5"], "not a length of time"),
        (["--slot", "0s"], "not a length of time"),
    ],
)
def test_wrong_usage_is_one_line(
    made: Exported, options: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["export", str(made.request.path), "-f", "csv", "-o", "-", "--what", "runs", "--cpu-hz", "1G"]
    assert main([*command, *options]) == 2
    said = capsys.readouterr().err
    assert why in said
    assert said.count("\n") == 1


def test_histograms_have_no_times(made: Exported) -> None:
    with pytest.raises(RequestError, match="have no times"):
        rows(made, "histograms", ("metric",))
