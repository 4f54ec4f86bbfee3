"""Each format read back by another program or library: counts, units, marks, harmless names."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders.bpf.system import require_tool
from builders.sampled import PRIVOP, TEXT, TRAP, MadeKernel, trace
from oracle.reader import read as read_slowly
from oracle.reading import SAMPLES, sample_bytes
from xtrace import samples
from xtrace.analysis import events
from xtrace.analysis.export import ctf, flame, tables, write_table
from xtrace.analysis.export.kinds import KINDS
from xtrace.analysis.export.names import EVENTS, TABLE_FORMATS, What
from xtrace.analysis.export.source import Exported, ExportRequest
from xtrace.analysis.export.times import TIMES
from xtrace.analysis.state_machine.metrics import Metric
from xtrace.cli.main import main
from xtrace.probes.selection.times import Moment
from xtrace.symbols.errors import shown

PV = samples.path()
HVM = next(path for path in SAMPLES if "pvh" in path.name)


def exported(path: Path = PV, **request: Any) -> Exported:
    return Exported(ExportRequest(path=path, **request))


def written(name: str, format_: str, of: Exported) -> bytes:
    out = io.BytesIO()
    write_table.write(of, tables.table(of, name), out, format_)
    return out.getvalue()


def test_each_name_is_that_of_a_table() -> None:
    assert set(KINDS) == set(EVENTS)
    assert {*EVENTS, What.RECORDS, What.INTERVALS, What.HISTOGRAMS} == set(What)
    assert set(TIMES) == set(What) - {What.HISTOGRAMS}


# --- tables ------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample", [PV, HVM], ids=["pv", "hvm"])
def test_records_are_those_of_the_reference_reader(sample: Path) -> None:
    arrow = pytest.importorskip("pyarrow")
    found = arrow.ipc.open_stream(written("records", "arrow", exported(sample))).read_all().to_pandas()
    expected = read_slowly(sample_bytes(sample)).records
    assert len(found) == len(expected)
    assert found["tsc"].tolist() == [each.tsc for each in expected]
    assert found["event"].tolist() == [each.event for each in expected]
    assert found["pcpu"].tolist() == [each.pcpu for each in expected]
    words = found[[f"w{place}" for place in range(7)]].to_numpy()
    assert words.sum() == sum(sum(each.words) for each in expected)
    assert found["word_count"].tolist() == [len(each.words) for each in expected]


@pytest.mark.parametrize("format_", TABLE_FORMATS)
def test_wakes_are_the_same_in_each_format(format_: str) -> None:
    whole = next(iter(events(PV, "wakes"))).columns
    of = exported(begin=Moment.parse("1s"), end=Moment.parse("2s"))
    data = written("wakes", format_, of)
    if format_ == "csv":
        rows = list(csv.DictReader(io.StringIO(data.decode())))
        cycles = [int(row["wake_to_running_cycles"]) for row in rows]
        assert list(rows[0]) == list(whole)
    elif format_ == "json":
        made = json.loads(data)
        assert [column["name"] for column in made["columns"]] == list(whole)
        assert made["tsc_hz"] == of.hz
        described = {column["name"]: column for column in made["columns"]}
        assert described["wake_to_running_cycles"]["unit"] == "TSC cycles"
        assert described["waker_domain"]["quality"] == "inferred"
        cycles = [row["wake_to_running_cycles"] for row in made["rows"]]
    else:
        arrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        table = (
            arrow.ipc.open_stream(data).read_all()
            if format_ == "arrow"
            else parquet.read_table(io.BytesIO(data))
        )
        field = table.schema.field("wake_to_running_cycles")
        assert field.metadata[b"unit"] == b"TSC cycles"
        assert field.metadata[b"quality"] == b"exact"
        assert json.loads(table.schema.metadata[b"xtrace.tsc_hz"]) == of.hz
        cycles = table["wake_to_running_cycles"].to_pylist()
    expected = np.concatenate(
        [
            each["wake_to_running_cycles"]
            for each in events(PV, "wakes", begin=Moment.parse("1s"), end=Moment.parse("2s"))
        ]
    )
    assert cycles == expected.tolist()
    assert len(cycles) > 100


def test_all_intervals_are_those_of_their_kinds() -> None:
    made = json.loads(written("intervals", "json", exported(HVM)))
    count = Counter(row["kind"] for row in made["rows"])
    for kind in ("wakes", "runs", "exits", "injections", "irqs"):
        assert count[kind] == sum(map(len, events(HVM, kind)))
    assert all(row["end_tsc"] - row["begin_tsc"] == row["duration_cycles"] for row in made["rows"])
    assert {row["quality"] for row in made["rows"]} <= {"exact", "bounded", "inferred"}


def test_histograms_add_up_to_the_tallies() -> None:
    of = exported()
    made = json.loads(written("histograms", "json", of))
    rows = [row for row in made["rows"] if row["metric"] == "wake_to_running"]
    tallies = of.partial.tallies
    wakes = tallies.where(tallies["metric"] == Metric.WAKE_TO_RUNNING)
    assert sum(row["count"] for row in rows) == wakes["count"].sum() == 3400
    assert min(row["low_cycles"] for row in rows) <= wakes["min_cycles"].min()
    assert max(row["high_cycles"] for row in rows) >= wakes["max_cycles"].max()
    assert all(row["low_cycles"] <= row["high_cycles"] for row in made["rows"])


def test_a_table_without_rows_has_its_columns() -> None:
    arrow = pytest.importorskip("pyarrow")
    of = exported()
    table = arrow.ipc.open_stream(written("exits", "arrow", of)).read_all()
    assert table.num_rows == 0
    assert table.column_names == [column.name for column in tables.table(of, "exits").columns]
    assert written("exits", "csv", of).decode().count("\n") == 1
    assert json.loads(written("exits", "json", of))["rows"] == []


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@x", "\t=1", "\r=1"])
def test_text_in_csv_is_no_formula(text: str) -> None:
    assert write_table._cell(text) == f"'{shown(text)}"
    assert write_table._cell(-5) == -5


# --- CTF ---------------------------------------------------------------------------------------


def babeltrace2(folder: Path) -> list[str]:
    tool = require_tool("babeltrace2", "babeltrace2")
    done = subprocess.run(
        [tool, "--clock-cycles", str(folder)], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stderr == ""
    return done.stdout.splitlines()


@pytest.mark.parametrize("sample", [PV, HVM], ids=["pv", "hvm"])
def test_babeltrace2_reads_every_record(sample: Path, tmp_path: Path) -> None:
    """Counts by name and pCPU, and values of fields, are those of the records."""
    of = exported(sample, begin=Moment.parse("1s"), end=Moment.parse("1.5s"))
    count = ctf.write(of, tmp_path / "t")
    lines = babeltrace2(tmp_path / "t")
    assert len(lines) == count > 1000
    made = json.loads(written("records", "json", of))["rows"]
    heads = [
        re.match(r"\[(\d+)\] \(.*?\) (\w+): \{ cpu_id = (\d+) \}, \{ ?(.*?) ?\}$", line) for line in lines
    ]
    assert all(heads)
    assert Counter((head[2], int(head[3])) for head in heads if head) == Counter(
        (row["name"], row["pcpu"]) for row in made
    )
    wakes = Counter(head[4] for head in heads if head and head[2] == "wake")
    assert wakes == Counter(f"dom = {row['w0']}, vcpu = {row['w1']}" for row in made if row["name"] == "wake")
    assert sorted(int(head[1]) for head in heads if head) == [int(head[1]) for head in heads if head]


# --- samples -----------------------------------------------------------------------------------


def test_stacks_have_all_samples_and_the_functions_of_an_image(tmp_path: Path) -> None:
    path = tmp_path / "t.bin"
    addresses = [TEXT + 1, TEXT + 2, TEXT + 0x1004, TEXT + 0x9000]
    path.write_bytes(trace(*((PRIVOP, address) for address in addresses), (TRAP, TEXT + 3)))
    kernel = MadeKernel(names=("idle;x", "spl", ""))
    out = io.BytesIO()
    assert flame.write(exported(path, cpu_hz=1e9), out, "folded", [kernel]) == 5
    assert out.getvalue().decode().splitlines() == [
        "d3;privop;idle:x 2",
        f"d3;privop;{TEXT + 0x9000:#x} 1",
        "d3;privop;spl 1",
        "d3;trap;idle:x 1",
    ]


def test_all_samples_of_a_real_trace_are_in_stacks() -> None:
    of = exported()
    tallies = of.partial.tallies
    out = io.BytesIO()
    count = flame.write(of, out, "folded")
    assert count == tallies.where(tallies["metric"] == Metric.RIP)["count"].sum() == 37595
    lines = out.getvalue().decode().splitlines()
    assert all(re.fullmatch(r"d\d+;\w+;0x[0-9a-f]+ \d+", line) for line in lines)
    assert sum(int(line.rpartition(" ")[2]) for line in lines) == count


def test_a_profile_for_speedscope_is_consistent() -> None:
    out = io.BytesIO()
    count = flame.write(exported(), out, "speedscope")
    made = json.loads(out.getvalue())
    frames = made["shared"]["frames"]
    assert sum(profile["endValue"] for profile in made["profiles"]) == count
    for profile in made["profiles"]:
        assert sum(profile["weights"]) == profile["endValue"]
        assert len(profile["samples"]) == len(profile["weights"])
        assert all(frame < len(frames) for sample in profile["samples"] for frame in sample)


# --- the command -------------------------------------------------------------------------------


def test_an_output_that_exists_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "o.csv"
    out.write_text("mine")
    arguments = ["export", str(HVM), "-f", "csv", "--what", "irqs", "-o", str(out)]
    assert main(arguments) == 1
    assert "exists; --force replaces it" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert main([*arguments, "--force"]) == 0
    assert out.read_text().startswith("irq,pcpu,")


def test_the_input_is_never_the_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = tmp_path / "t.bin"
    trace.write_bytes(HVM.read_bytes())
    (tmp_path / "link").symlink_to(trace)
    for out in (trace, tmp_path / "link"):
        assert main(["export", str(trace), "-f", "csv", "-o", str(out), "--force"]) == 1
        assert "choose another name" in capsys.readouterr().err
    assert trace.read_bytes() == HVM.read_bytes()


def test_a_failure_leaves_no_file(tmp_path: Path) -> None:
    assert main(["export", str(tmp_path / "none.bin"), "-f", "csv", "-o", str(tmp_path / "o.csv")]) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["-f", "perfetto", "--what", "runs"], "is for json, csv, parquet, arrow"),
        (["-f", "csv", "--parts", "sched"], "is for perfetto"),
        (["-f", "csv", "--kernel", "1=x"], "is for folded, speedscope"),
        (["-f", "cvs"], "'cvs' is not one of"),
        (["-f", "csv", "--what", "naps"], "'naps' is not one of"),
        (["-f", "ctf"], "which stdout cannot be"),
    ],
)
def test_wrong_usage_is_one_line(options: list[str], why: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["export", str(HVM), "-o", "-", *options]) == 2
    said = capsys.readouterr().err
    assert why in said
    assert said.count("\n") == 1
