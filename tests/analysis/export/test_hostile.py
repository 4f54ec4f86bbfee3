"""Names that attack, and damaged traces, in each format, read back by a foreign reader of it."""

from __future__ import annotations

import csv
import io
import json
import random
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from builders import emulated, read_perfetto
from builders.bpf.system import require_tool
from builders.damaged import damaged
from builders.hostile import NAMES
from builders.mutated import case_of
from builders.restarted import suspended
from builders.sampled import PRIVOP, TEXT, MadeKernel, trace
from oracle.reading import SAMPLES, sample_bytes
from xtrace.analysis.export import ctf, flame, tables, write_table
from xtrace.analysis.export.names import What
from xtrace.analysis.export.perfetto.write import write
from xtrace.analysis.export.source import Exported, ExportRequest
from xtrace.cli.main import main
from xtrace.probes.errors import TraceError

HZ = 1e9
_NAME_MOST = 400
LOST = next(path for path in SAMPLES if "lost" in path.name)


def table(of: Exported, name: str, format_: str) -> bytes:
    out = io.BytesIO()
    write_table.write(of, tables.table(of, name), out, format_)
    return out.getvalue()


def perfetto(of: Exported) -> read_perfetto.Read:
    """Read a trace for Perfetto, which checks that clocks are in order and slices nested."""
    out = io.BytesIO()
    write(of, out, tell=lambda line: None)
    return read_perfetto.read(out.getvalue())


def stacks(of: Exported, format_: str, *kernels: MadeKernel) -> bytes:
    out = io.BytesIO()
    flame.write(of, out, format_, kernels)
    return out.getvalue()


def frames(folded: bytes) -> list[str]:
    """Return the frames of folded stacks, as flame graphs split them."""
    found = []
    for line in folded.decode().split("\n")[:-1]:
        stack, _, count = line.rpartition(" ")
        assert int(count) > 0
        found += stack.split(";")
    return found


def babeltrace2(folder: Path) -> list[int]:
    """Return the times of the events that babeltrace2 reads."""
    tool = require_tool("babeltrace2", "babeltrace2")
    command = [tool, "--clock-cycles", "--names=none", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert done.stderr == ""
    return [int(line[1 : line.index("]")]) for line in done.stdout.splitlines()]


def arrow(data: bytes, format_: str) -> Any:
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    return pa.ipc.open_stream(data).read_all() if format_ == "arrow" else parquet.read_table(io.BytesIO(data))


# --- names ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    path = tmp_path_factory.mktemp("hostile") / "t.bin"
    path.write_bytes(emulated.trace())
    return Exported(ExportRequest(path=path, cpu_hz=HZ))


@pytest.fixture(scope="module")
def sampled(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    path = tmp_path_factory.mktemp("hostile") / "s.bin"
    path.write_bytes(trace((PRIVOP, TEXT + 1), (PRIVOP, TEXT + 0x1004)))
    return Exported(ExportRequest(path=path, cpu_hz=HZ))


def is_harmless(text: str) -> bool:
    """Return whether text is one short line that a terminal shows as it is."""
    return text.isprintable() and len(text) <= _NAME_MOST


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_name_of_a_domain_in_perfetto(made: Exported, name: str) -> None:
    made.names = {emulated.DOMAIN: name}
    processes = perfetto(made).processes
    assert is_harmless(processes[20_000])
    assert processes[20_000].startswith("d1 ")


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_names_of_a_domain_and_of_functions_in_stacks(sampled: Exported, name: str) -> None:
    sampled.names = {3: name}
    kernel = MadeKernel(names=(name, f"+{name}", ""))
    found = frames(stacks(sampled, "folded", kernel))
    assert all(map(is_harmless, found))
    assert len(found) == 6
    profile = json.loads(stacks(sampled, "speedscope", kernel))
    assert {frame["name"] for frame in profile["shared"]["frames"]} == set(found)
    assert is_harmless(profile["profiles"][0]["name"])


@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_a_name_of_a_domain_is_data_in_tables(made: Exported, name: str) -> None:
    """It comes back as it was, and is nowhere in what a spreadsheet or a terminal shows."""
    made.names = {emulated.DOMAIN: name}
    assert json.loads(table(made, "runs", "json"))["domains"] == {"1": name}
    for format_ in ("parquet", "arrow"):
        metadata = arrow(table(made, "runs", format_), format_).schema.metadata
        assert json.loads(metadata[b"xtrace.domains"]) == {"1": name}
    rows = list(csv.reader(io.StringIO(table(made, "runs", "csv").decode("ascii"))))
    assert len({len(row) for row in rows}) == 1
    assert table(made, "runs", "json").isascii()


def test_a_name_of_a_file_is_data(made: Exported, tmp_path: Path) -> None:
    path = tmp_path / "=x\n\x1b[31m\u202e\udcff.bin"
    path.write_bytes(emulated.trace())
    of = Exported(ExportRequest(path=path, cpu_hz=HZ))
    assert json.loads(table(of, "runs", "json"))["trace"] == str(path)
    assert arrow(table(of, "runs", "arrow"), "arrow").num_rows == len(
        json.loads(table(of, "runs", "json"))["rows"]
    )
    assert babeltrace2(_ctf(of, tmp_path / "c"))


# --- damage --------------------------------------------------------------------------------------


def _ctf(of: Exported, folder: Path) -> Path:
    ctf.write(of, folder)
    return folder


def _restarting(chance: random.Random) -> bytes:
    whole, _, _ = suspended(emulated.trace(), chance.uniform(0.2, 0.8), to=100)
    return whole


#: Cut, joined and packed recordings; flipped bits, moved blocks, inserted losses; a TSC that restarts.
DAMAGES: list[Callable[[random.Random], bytes]] = [
    lambda chance: damaged(chance).data,
    lambda chance: damaged(chance).data,
    case_of,
    case_of,
    case_of,
    _restarting,
]


@pytest.mark.parametrize("number", range(len(DAMAGES)))
def test_a_damaged_trace_is_valid_in_each_format(number: int, tmp_path: Path) -> None:
    path = tmp_path / "t.bin"
    path.write_bytes(DAMAGES[number](random.Random(number)))
    try:
        of = Exported(ExportRequest(path=path, cpu_hz=HZ))
    except TraceError:
        return  # nothing can be read of it
    records = json.loads(table(of, "records", "json"))["rows"]
    times = babeltrace2(_ctf(of, tmp_path / "ctf"))
    assert len(times) == len(records)
    assert times == sorted(times)
    read = perfetto(of)
    assert all(each.begin <= each.end for each in read.slices)
    for name in What:
        rows = json.loads(table(of, name, "json"))["rows"]
        if name in (What.INTERVALS, What.RUNS, What.LOSSES):
            assert len(arrow(table(of, name, "parquet"), "parquet")) == len(rows)
            assert len(arrow(table(of, name, "arrow"), "arrow")) == len(rows)
            assert table(of, name, "csv").decode().count("\n") == len(rows) + 1
    if len(json.loads(table(of, "rips", "json"))["rows"]):
        assert all(map(is_harmless, frames(stacks(of, "folded"))))
        json.loads(stacks(of, "speedscope"))


def test_what_was_lost_is_said_in_each_format(tmp_path: Path) -> None:
    """Of a recording that lost records in 126 gaps."""
    path = tmp_path / "t.bin"
    path.write_bytes(sample_bytes(LOST))
    of = Exported(ExportRequest(path=path))
    gaps = [row for row in json.loads(table(of, "losses", "json"))["rows"] if row["what"] == "lost"]
    cycles = sum(row["loss_cycles"] for row in gaps)
    tallied = of.report.trace["lost_records"]
    lost = [row for row in json.loads(table(of, "records", "json"))["rows"] if row["name"] == "lost_records"]
    assert sum(row["w0"] for row in lost) == tallied == 38_991
    assert len(lost) == 126
    slices = [each for each in perfetto(of).slices if each.name == "records lost"]
    assert len(slices) == len(gaps)
    assert sum(each.end - each.begin for each in slices) == pytest.approx(cycles / of.hz * 1e9, abs=len(gaps))
    tool = require_tool("babeltrace2", "babeltrace2")
    done = subprocess.run(
        [tool, str(_ctf(of, tmp_path / "ctf"))], capture_output=True, text=True, check=True, timeout=120
    )
    counts = re.findall(r" lost_records: .*?count = (\d+)", done.stdout)
    assert sum(map(int, counts)) == tallied


@pytest.mark.parametrize("option", ["--mail", "--markdown", "--json"])
@pytest.mark.parametrize("number", range(2, len(DAMAGES), 2))
def test_a_damaged_trace_in_a_report(
    number: int, option: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "t.bin"
    path.write_bytes(DAMAGES[number](random.Random(number)))
    status = main(["report", option, str(path)])
    said = capsys.readouterr()
    assert status in (0, 1)
    assert "Traceback" not in said.err
    if status == 0 and option == "--json":
        json.loads(said.out)
    if status == 0 and option == "--mail":
        assert all(len(line) <= 72 and line.isascii() for line in said.out.splitlines())
