"""The bpf backend on this kernel: real tracepoints, a full capture, a kill, no root, no bcc."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from builders.bpf.system import drive, require_bpf, require_tool
from xtrace.analysis.measures.measures import Measures
from xtrace.analysis.summary import dom0_columns
from xtrace.analysis.summary.partial import merge, partial_of
from xtrace.analysis.summary.summary_file import _nothing
from xtrace.analysis.tables import dom0
from xtrace.probes.bpf.abi import Kind
from xtrace.probes.bpf.ctf_reader import read_events
from xtrace.probes.capture.layout import BPF_TABLES, Capture
from xtrace.probes.catalog import VersionRange

#: Sleeps often enough to cause softirqs and switches for certain.
_WORK = ("/bin/sh", "-c", "while :; do sleep 0.001; done")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Capture, Any]:
    require_bpf()
    folder = tmp_path_factory.mktemp("bpf") / "c.xtrace"
    return Capture(folder, {}), drive("record", "bpf", folder, "2.5", "events", *_WORK)


def _totals(capture: Capture) -> Counter[int]:
    totals: Counter[int] = Counter()
    for line in capture.lines(BPF_TABLES):
        for row in line["rows"] if "t_ns" in line and "rows" in line else ():
            totals[row[0]] += row[3] + row[7]
    return totals


def test_the_lines_add_up_to_the_counts(recorded: tuple[Capture, Any]) -> None:
    capture, said = recorded
    totals = {Kind(kind).name.lower(): count for kind, count in _totals(capture).items()}
    assert totals == said["facts"]["counted"]
    assert totals["softirq"] > 0


def test_each_counted_event_was_streamed(recorded: tuple[Capture, Any]) -> None:
    capture, said = recorded
    events = read_events(capture.path / "events")
    assert said["lost"] == events.discarded == 0
    streamed = Counter(events.records["kind"].tolist())
    assert streamed == _totals(capture)
    assert said["records"] == len(events.records)
    # Each tally's sum equals that of the streamed durations.
    softirqs = events.records[events.records["kind"] == int(Kind.SOFTIRQ)]
    added = sum(
        row[4]
        for line in capture.lines(BPF_TABLES)
        if "t_ns" in line
        for row in line.get("rows", ())
        if row[0] == Kind.SOFTIRQ
    )
    assert int(softirqs["duration_ns"].sum()) == added


def test_the_file_describes_its_content(recorded: tuple[Capture, Any]) -> None:
    capture, said = recorded
    heading, *lines = capture.lines(BPF_TABLES)
    assert heading["schema_version"] == 1
    assert heading["kinds"]["10"]["name"] == "softirq"
    assert heading["buckets"] == ["kind", "id", "vcpu", "bucket", "count"]
    assert "interrupts_begin" in lines[0]
    assert "interrupts_end" in lines[-1]
    assert any(line.get("irqs") for line in lines)
    assert said["facts"]["headers"].startswith("xtrace's shim")
    assert said["facts"]["load_s"] > 0
    files = [path for path in capture.path.rglob("*") if path.is_file()]
    written = sum(path.stat().st_size for path in files if path.name not in ("metadata", "meta.json"))
    assert said["byte_count"] == written


def test_handler_runs_match_proc_interrupts(recorded: tuple[Capture, Any]) -> None:
    # At both ends the two are read within moments: few interrupts arrive in between.
    capture, _ = recorded
    measures = _measures(capture)
    (row,) = dom0.losses(measures).rows()
    assert abs(row["irq_handler_count"] - row["interrupt_count"]) <= max(20, row["interrupt_count"] // 20)


def _measures(*captures: Capture) -> Measures:
    nothing = _nothing()
    partial = merge([partial_of(nothing, dom0_columns.read(capture)) for capture in captures])
    return Measures(partial, VersionRange.parse("4.17"))


def test_the_report_has_the_same_counts(recorded: tuple[Capture, Any]) -> None:
    capture, said = recorded
    table = dom0.work(_measures(capture))
    softirqs = table.where(table["what"] == "softirq")
    assert softirqs["count"].sum() + softirqs["zero_count"].sum() == said["facts"]["counted"]["softirq"]
    assert (softirqs["p50_ns"] <= softirqs["max_ns"]).all()
    twice = dom0.work(_measures(capture, capture))
    assert (twice["count"] == 2 * table["count"]).all()
    assert (twice["p99_ns"] == table["p99_ns"]).all()


def test_babeltrace2_reads_every_event(recorded: tuple[Capture, Any]) -> None:
    import subprocess

    tool = require_tool("babeltrace2", "babeltrace2")
    capture, said = recorded
    done = subprocess.run([tool, str(capture.path / "events")], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    assert len(done.stdout.splitlines()) == said["records"]


def test_a_full_capture_ends_the_recording_and_is_readable(tmp_path: Path) -> None:
    require_bpf()
    folder = tmp_path / "c.xtrace"
    said = drive("full", "bpf", folder, "16000")
    assert "--max-size" in said["said"]
    assert said["byte_count"] <= 16000
    capture = Capture(folder, {})
    events = read_events(folder / "events")
    assert events.cut_bytes == 0
    list(capture.lines(BPF_TABLES))
    # What was taken from the rings and did not fit is counted as lost.
    assert said["lost"] == said["facts"]["unwritten_events"] + said["facts"]["counters"]["dropped"]
    assert said["facts"]["unwritten_events"] > 0


def test_a_kill_leaves_nothing_in_the_kernel_and_a_readable_capture(tmp_path: Path) -> None:
    require_bpf()
    folder = tmp_path / "c.xtrace"
    said = drive("killed", "bpf", folder)
    assert said["programs_before"] > 5
    assert said["left"] == []
    capture = Capture(folder, {})
    assert sum(_totals(capture).values()) > 0
    assert len(read_events(folder / "events").records) > 0
    found = dom0_columns.read(capture)
    assert found.facts["span_ns"][0] > 0


def as_nobody(name: str, *capabilities: str) -> Any:
    require_bpf()
    # Not pytest's folder, which other users may not enter.
    with tempfile.TemporaryDirectory(prefix="xtrace-tests-") as folder:
        Path(folder).chmod(0o777)
        return drive("as_nobody", name, Path(folder) / "c.xtrace", *capabilities)


@pytest.mark.parametrize("name", ["bpf", "perf"])
@pytest.mark.parametrize("held", [(), ("CAP_BPF",), ("CAP_PERFMON", "CAP_SYSLOG", "CAP_DAC_READ_SEARCH")])
def test_without_a_capability_it_is_refused(name: str, held: tuple[str, ...]) -> None:
    said = as_nobody(name, *held)
    lacking = " and ".join(one for one in ("CAP_BPF", "CAP_PERFMON") if one not in held)
    assert not said["usable"]
    assert said["reason"] == f"without root it needs {lacking}"
    assert said["error"].startswith(f"{name}: without root it needs {lacking}")


@pytest.mark.parametrize("name", ["bpf", "perf"])
def test_two_capabilities_are_enough(name: str) -> None:
    said = as_nobody(name, "CAP_BPF", "CAP_PERFMON")
    assert said["usable"]
    assert said["records"] > 0
    assert said["user"] == 65534
    # What more would give is said.
    lacking = {"bpf": "tracefs needs CAP_DAC_READ_SEARCH without root", "perf": "without CAP_SYSLOG"}[name]
    assert any(lacking in line for line in said["missing"]) == (name == "bpf" or not said["named"])


def test_two_more_give_all_that_root_has() -> None:
    held = ("CAP_BPF", "CAP_PERFMON", "CAP_SYSLOG", "CAP_DAC_READ_SEARCH")
    assert not any("CAP_" in line for name in ("bpf", "perf") for line in as_nobody(name, *held)["missing"])
    assert as_nobody("perf", *held)["named"]


SYSTEM_PYTHON = "/usr/bin/python3"


@pytest.mark.parametrize("present", [False, True])
def test_without_bcc_it_names_the_package(tmp_path: Path, present: bool) -> None:
    require_bpf()
    if present:
        # PyPI's bcc is about crystals.
        (tmp_path / "bcc").mkdir()
        (tmp_path / "bcc" / "__init__.py").touch()
    said = drive("without_bcc", "bpf", tmp_path)
    assert not said["usable"]
    # It names the interpreter that has bcc, if one has it; the command that installs it otherwise.
    if "which has bcc" in said["remedy"]:
        assert subprocess.run([SYSTEM_PYTHON, "-c", "from bcc import BPF"], check=False).returncode == 0
        assert said["remedy"].startswith(f"run xtrace.pyz with {SYSTEM_PYTHON}")
    else:
        assert said["remedy"].startswith("apt-get install python3-bpfcc")
    assert ("another package" if present else "bcc is missing") in said["reason"]
    assert "\n" not in said["reason"]


@pytest.mark.parametrize(
    "line",
    [
        '{"t_ns":1,"rows":[[10,1,0,-5,1,1,1,0]]}',
        '{"t_ns":1,"rows":[[10,1]]}',
        '{"t_ns":1,"rows":[["a",1,0,5,1,1,1,0]]}',
        '{"t_ns":1,"rows":7}',
        '{"t_ns":1,"buckets":[[10,1,0,99999999999999999999999,1]]}',
        '{"t_ns":1,"irqs":[]}',
        '{"t_ns":1,"interrupts_begin":{"1":[1]}}\n{"t_ns":1,"interrupts_end":{"1":["x"]}}',
    ],
)
def test_a_damaged_line_is_reported(tmp_path: Path, line: str) -> None:
    from xtrace.probes.errors import TraceError

    path = tmp_path / BPF_TABLES
    path.parent.mkdir()
    path.write_text(line + "\n")
    with pytest.raises(TraceError, match="damaged"):
        dom0_columns.read(Capture(tmp_path, {}))


def test_unknown_kinds_are_kept(tmp_path: Path) -> None:
    path = tmp_path / BPF_TABLES
    path.parent.mkdir()
    rows = [[200, 1, 0, 5, 10, 1, 4, 0], [int(Kind.PRIVCMD), 0, 1, 3, 30, 5, 20, 2]]
    path.write_text(
        json.dumps({"t_ns": 5, "rows": rows}) + "\n" + json.dumps({"t_ns": 10, "rows": []}) + "\n"
    )
    measures = _measures(Capture(tmp_path, {}))
    table = dom0.work(measures)
    assert table.only(["what", "name", "count", "zero_count"]).rows() == [
        {"what": "privcmd", "name": "hypercall", "count": 3, "zero_count": 2}
    ]
    assert measures.partial.dom0_tallies["count"].sum() == 8
