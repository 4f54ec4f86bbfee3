"""`xtrace stat`: its lines add up to the report's totals for the whole trace."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from builders.reported import SAMPLES, SOME, objects, printed, report, rows
from soak.shapes import calm
from xtrace.cli.live import feed
from xtrace.cli.main import main

EACH_SAMPLE = pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name.split(".")[0])

SOME_SAMPLES = pytest.mark.parametrize("path", SOME, ids=lambda path: path.name.split(".")[0])


@EACH_SAMPLE
def test_lines_add_up_to_the_report(path: Path) -> None:
    lines = objects("stat", "1", "--json", "-i", str(path))
    trace = report(path)["trace"]
    assert sum(line["record_count"] for line in lines) == trace["records"]
    assert sum(line["lost_record_count"] for line in lines) == trace["lost_records"]
    assert sum(line["irq_count"] for line in lines) == sum(row["count"] for row in rows(path, "irqs"))
    for name, table in {
        "wake_count": "wakes",
        "send_count": "sends",
        "xen_version_count": "upcalls",
        "upcall_least_count": "upcalls",
        "upcall_most_count": "upcalls",
    }.items():
        expected = sum(row[name] for row in rows(path, table))
        if name == "wake_count":
            # stat counts those, too, whose vCPU may have been awake.
            expected += sum(row["wake_of_unknown_count"] for row in rows(path, "wakes"))
        found = sum(line["total"][name] for line in lines)
        # The report leaves out irets before which no event can have been pending.
        assert found >= expected if name == "upcall_most_count" else found == expected
    assert all("vcpus" not in line for line in lines)


@SOME_SAMPLES
def test_the_text_shows_the_json_to_three_digits(path: Path) -> None:
    (whole,) = objects("stat", "100000", "--json", "-i", str(path))
    text = printed("stat", "100000", "-i", str(path)).splitlines()
    assert len(text) == 5
    assert max(map(len, text)) <= 80
    cells = text[4].split()
    total, span_s = whole["total"], whole["span_s"]
    assert float(cells[0]) == pytest.approx(span_s, abs=0.01)
    expected = (
        whole["record_count"], total["wake_count"], None, None, None, total["send_count"],
        total["xen_version_count"], total["run_count"], whole["irq_count"],
    )  # fmt: skip
    for cell, count in zip(cells[1:], expected, strict=False):
        if count is not None:
            shown = float(cell.replace("k", "")) * (1000 if cell.endswith("k") else 1)
            assert shown == pytest.approx(count / span_s, rel=0.01, abs=0.05)
    assert int(cells[-1].replace(",", "")) == whole["lost_record_count"]
    if total["upcall_most_count"]:
        least, most = cells[5].split("-")
        assert float(least) == pytest.approx(total["upcall_least_count"] / span_s, rel=0.01, abs=0.05)
        assert float(most.replace("k", "")) == pytest.approx(
            total["upcall_most_count"] / span_s / (1000 if most.endswith("k") else 1), rel=0.01, abs=0.05
        )


def test_the_header_is_repeated() -> None:
    text = printed("stat", "0.1", "-i", str(SOME[0])).splitlines()
    headers = [number for number, line in enumerate(text) if line.lstrip().startswith("time")]
    # The first line says what is covered.
    assert headers == list(range(2, len(text), 24))
    assert len(text) > 48


def test_count_limits_the_lines() -> None:
    assert len(printed("stat", "1", "2", "-i", str(SOME[0])).splitlines()) == 6


@pytest.fixture
def years(tmp_path: Path) -> str:
    """Return a small trace with a record every 3 seconds for 8 hours."""
    path = tmp_path / "years.bin"
    path.write_bytes(calm(random.Random(1), 200_000, 5, cycles=3 * 2_400_000_000))
    return str(path)


@pytest.mark.parametrize(("command", "option"), [("stat", "INTERVAL"), ("top -b", "--delay")])
def test_a_trace_is_not_printed_for_ever(
    command: str, option: str, years: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(feed, "MAX_ROWS", 2_000)
    assert main([*command.split(), "--json", "--cpu-hz", "2.4e9", "-i", years]) == 1
    told = capfd.readouterr()
    assert told.err.count("\n") == 1
    assert f"more than 2,000 rows so far, from {len(told.out.splitlines()):,} intervals" in told.err
    assert option in told.err
    # So many were asked for.
    count = "1" if command == "stat" else "-d1"
    how = [count, "5000"] if command == "stat" else [count, "-n", "5000"]
    assert main([*command.split(), *how, "--json", "--cpu-hz", "2.4e9", "-i", years]) == 0
    assert len(capfd.readouterr().out.splitlines()) == 5_000


def test_counters_of_many_intervals_are_those_of_one(
    years: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def counters(*interval: str) -> str:
        assert main(["stat", *interval, "--openmetrics", "--cpu-hz", "2.4e9", "-i", years]) == 0
        return capfd.readouterr().out

    found = counters()
    monkeypatch.setattr(feed, "MAX_ROWS", 2_000)
    assert counters() == found
    assert counters("1000000") == found


def test_without_xen_it_fails(capfd: pytest.CaptureFixture[str]) -> None:
    if Path("/sys/hypervisor/type").exists():
        pytest.skip("this is a Xen host")
    assert main(["stat"]) == 1
    err = capfd.readouterr().err
    assert "not run under Xen" in err
    assert "-i FILE" in err
