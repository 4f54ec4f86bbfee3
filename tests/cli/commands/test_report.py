"""`xtrace report` as users run it: its text, JSON and files, and how it fails."""

from __future__ import annotations

import csv
import functools
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from builders import ready
from builders.cores import cores
from builders.host import simulate
from builders.hosts import DOMAINS
from oracle.reading import SAMPLES
from xtrace import samples
from xtrace.probes.reader.writer import pack_record, pack_window
from xtrace.probes.xen_abi import IDLE_DOMAIN

PROGRAM = "from xtrace.cli.start import main; main()"
WIDTH = 80
ESCAPE = "\x1b"
#: Titles in the default report of the default sample.
TITLES = ("Wakes", "Who wakes whom", "PV upcalls", "vCPU runstates", "pCPU use", "Hypercalls")

Done = subprocess.CompletedProcess[str]


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-P", "-c", PROGRAM, "report", *map(str, arguments)]


def environment(**changes: str) -> dict[str, str]:
    dropped = ("COLUMNS", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TERM")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return {**kept, **changes}


def run(*arguments: str | Path, stdin: bytes | None = None, **changes: str) -> Done:
    """Run `xtrace report` with ``arguments`` and check that it shows no traceback."""
    done = ready.run(["report", *arguments], stdin=stdin or b"", environment=environment(**changes))
    assert "Traceback" not in done.stderr, done.stderr
    return Done(done.args, done.returncode, done.stdout, done.stderr)


@functools.cache
def default() -> Done:
    """Run it with --full, once for several tests."""
    return run("--full")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a short trace of a PV and an HVM guest."""
    path = tmp_path_factory.mktemp("made") / "made.bin"
    path.write_bytes(simulate(8, 2, [(0, 2, "pv"), (3, 1, "hvm")], 20_000_000).data)
    return path


def one_line(done: Done, code: int, said: str) -> None:
    """Check that a command failed with one line on standard error and nothing on standard output."""
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr.startswith("xtrace: ")
    assert done.stderr.count("\n") == 1
    assert said in done.stderr


# --- text --------------------------------------------------------------------------------------


def test_without_arguments_it_reports_on_the_sample() -> None:
    done = default()
    assert (done.returncode, done.stderr) == (0, "")
    assert samples.NAME in done.stdout.splitlines()[0]
    for title in TITLES:
        assert re.search(f"^{title}", done.stdout, re.MULTILINE), title
    assert "270,414 in 124 windows of 2 pCPUs" in done.stdout
    assert re.search(r"^TSC +2299\.\d+ MHz, from xen417-pv-all\.bin\.xz\.json$", done.stdout, re.MULTILINE)


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name.split(".")[0])
def test_lines_fit_80_columns(path: Path) -> None:
    done = default() if path.name == samples.NAME else run(path, "--full")
    assert done.returncode == 0
    assert max(map(len, done.stdout.splitlines())) <= WIDTH


def test_lines_of_every_section_fit_80_columns(made: Path) -> None:
    sections = ("delivery", "upcalls", "runstates", "hypercalls", "hvm", "irqs", "rips", "trace")
    done = run(made, *[word for section in sections for word in ("--section", section)], "--rows", "0")
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) > 150
    assert max(map(len, done.stdout.splitlines())) <= WIDTH


def test_no_escape_codes_without_a_terminal() -> None:
    assert ESCAPE not in default().stdout
    assert default().stdout == run("--full", NO_COLOR="1").stdout


@pytest.mark.parametrize(("no_color", "coloured"), [("", True), ("1", False)])
def test_no_color_is_obeyed_on_a_terminal(no_color: str, coloured: bool, made: Path) -> None:
    pty = pytest.importorskip("pty")
    parent, child = pty.openpty()
    changes = {"TERM": "xterm-256color", "COLUMNS": "80"} | ({"NO_COLOR": no_color} if no_color else {})
    running = subprocess.Popen(
        command(made), stdout=child, stderr=subprocess.DEVNULL, env=environment(**changes)
    )
    os.close(child)
    shown = b""
    try:
        while piece := os.read(parent, 1 << 16):
            shown += piece
    except OSError:  # EIO: the terminal's other end was closed
        pass
    finally:
        os.close(parent)
    assert running.wait() == 0
    codes = set(re.findall(rb"\x1b\[([0-9;]*)m", shown))
    assert bool(codes) or not coloured
    # Without colour there may still be bold and dim.
    assert coloured or not [code for code in codes if re.search(rb"(^|;)[34]\d", code)]


def test_rows_limits_a_table_and_says_how_to_see_more() -> None:
    short = run("--section", "hypercalls", "--rows", "2")
    assert re.search(r"^ +\d+ more: --section hypercalls --rows 0$", short.stdout, re.MULTILINE)
    whole = run("--section", "hypercalls", "--rows", "0")
    assert "more:" not in whole.stdout
    assert len(whole.stdout.splitlines()) > len(short.stdout.splitlines()) + 20


def test_domain_and_vcpu_select_rows() -> None:
    done = run("--section", "runstates", "--domain", "0", "--vcpu", "1", "--rows", "0")
    assert set(re.findall(r"^(d\d+v\d+) ", done.stdout, re.MULTILINE)) == {"d0v1"}


def test_the_report_of_a_damaged_and_cut_trace_says_so(made: Path, tmp_path: Path) -> None:
    path = tmp_path / "damaged"
    path.write_bytes(bytes(8) + made.read_bytes()[:-7])
    done = run(path)
    assert done.returncode == 0
    assert "8 bytes skipped" in done.stdout
    assert "cut " in done.stdout
    one_line(run(path, "--strict"), 1, "offset 0")


def test_control_characters_in_a_file_name_are_escaped(made: Path, tmp_path: Path) -> None:
    path = tmp_path / f"a{ESCAPE}[31m\n[bold]b"
    shutil.copy(made, path)
    done = run(path)
    assert done.returncode == 0
    assert ESCAPE not in done.stdout
    assert r"\x1b[31m\n[bold]b" in done.stdout.replace("\n", "")
    path.write_bytes(b"this is not a trace")
    one_line(run(path), 1, r"\x1b[31m\n[bold]b")


# --- JSON, CSV, Parquet ------------------------------------------------------------------------


@functools.cache
def as_json(*arguments: str | Path) -> Any:
    done = run("--json", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_json() -> None:
    found = as_json()
    trace = found["trace"]
    assert found["schema_version"] == 5
    assert (trace["records"], trace["lost_records"], trace["skipped_bytes"], trace["pcpus"]) == (
        270_414,
        0,
        0,
        2,
    )
    assert trace["tsc_hz"] == 2_299_999_000
    assert trace["span_ns"] == pytest.approx(6.195e9, rel=1e-3)
    assert {"wakes", "upcalls", "vcpu_states", "hypercalls", "events"} <= set(found["tables"])


def test_standard_input_and_compressed_files_give_the_same(made: Path, tmp_path: Path) -> None:
    packed = tmp_path / "made.gz"
    packed.write_bytes(gzip.compress(made.read_bytes()))
    plain = as_json(made)
    assert as_json(packed) == plain
    done = run("--json", "-", stdin=made.read_bytes())
    assert json.loads(done.stdout) == plain


def test_several_files_are_reported_together(made: Path, tmp_path: Path) -> None:
    copies = [tmp_path / name for name in ("b", "c")]
    for copy in copies:
        copy.write_bytes(made.read_bytes())
    one, done = as_json(made), run("--json", made, *copies)
    three = json.loads(done.stdout)
    assert done.stderr == (
        "xtrace: 3 different recordings: counts and times are added up, each has a clock of its own\n"
    )
    assert three["trace"]["files"] == 3
    assert three["trace"]["records"] == 3 * one["trace"]["records"]
    assert three["trace"]["span_cycles"] == 3 * one["trace"]["span_cycles"]


@pytest.mark.parametrize(
    ("skew_cycles", "said"),
    [
        (-300_000, r": -\d+us to -\d+us; not aligned \(a stream is read only once\)"),
        (4_000_000, r": at least [\d.]+ms, in either direction; not aligned \(a stream is read only once\)"),
    ],
)
def test_clock_skew_is_reported(skew_cycles: int, said: str, tmp_path: Path) -> None:
    data = simulate(7, 3, DOMAINS, 40_000_000, skew_cycles=(0, 0, skew_cycles)).data
    head = joined_head(run("-", "--full", stdin=data).stdout)
    lines = [line for line in head if line.startswith("skew")]
    assert [re.findall(r"pCPU (\d+)", line) for line in lines] == [["2", "0"], ["2", "1"]]
    assert all(re.search(said, line) for line in lines), lines


def joined_head(printed: str) -> list[str]:
    """Return the lines above the first table, each with what continues it."""
    return printed.split("\n\n")[0].replace("\n         ", " ").splitlines()


@pytest.mark.parametrize(
    ("skew_cycles", "said"),
    [
        (
            (0, 0, -300_000),
            r"aligned  pCPU 2 by 11\dus \(within \d\.\d+us\); figures across pCPUs are inferred",
        ),
        (
            (0, 0, 4_000_000),
            r"skew     .*; not aligned \(the bounds are open or too wide\): figures across .*",
        ),
        (
            (0, 300_000, 600_000, 900_000, 0, 0, 1_200_000),
            r"aligned  pCPU 1 by -1.*, pCPU 2 by -2\d\dus .*, pCPU 3 by -3.*, 1 more; figures .*",
        ),
    ],
)
def test_skewed_clocks_are_aligned(skew_cycles: tuple[int, ...], said: str, tmp_path: Path) -> None:
    path = tmp_path / "skewed.bin"
    length = 40_000_000 if len(skew_cycles) == 3 else 400_000_000
    path.write_bytes(simulate(7, len(skew_cycles), DOMAINS, length, skew_cycles=skew_cycles).data)
    head = joined_head(run(path, "--full").stdout)
    assert any(re.fullmatch(said, line) for line in head), head
    assert "missing" not in "\n".join(head)
    aligned = {pair["unaligned"] for pair in as_json(path)["trace"]["skewed_pcpu_pairs"]}
    assert ("" in aligned) == said.startswith("aligned")


def test_core_scheduling_is_said(tmp_path: Path) -> None:
    path = tmp_path / "cores.bin"
    path.write_bytes(cores())
    (said,) = (line for line in joined_head(run(path, "--full").stdout) if line.startswith("cores"))
    assert said == (
        "cores    Xen schedules by core: vCPUs are placed by the pairs of records that one pCPU writes "
        "for its siblings"
    )
    path.write_bytes(simulate(7, 3, DOMAINS, 4_000_000).data)
    assert "cores  " not in run(path, "--full").stdout


def head_of(data: bytes, path: Path) -> str:
    """Return the lines above the first table as one text, where each label begins a line."""
    path.write_bytes(data)
    head = run(path, "--full").stdout.split("\n\n")[0]
    return head.replace("\n         ", " ") + "\n"


def test_restarts_of_the_tsc_are_reported(tmp_path: Path) -> None:
    def windows(*tscs: int) -> bytes:
        return b"".join(pack_window(0, pack_record(0x28004, tsc, (1, 2)) * 2) for tsc in tscs)

    late, early = windows(10_000_000, 20_000_000), windows(100, 200)
    head = head_of(late + early, tmp_path / "trace.bin")
    assert (
        f"\nrestart  the TSC restarted after 10.0Mc (offset {len(late)}): it went back by 20.0Mc; "
        "both parts are counted on their own\n"
    ) in head
    assert "skew" not in head
    assert "order" not in head
    head = head_of((late + early) * 5, tmp_path / "trace.bin")
    assert head.count("restart  the TSC restarted") == 3
    assert "\nrestart  2 more restarts of the TSC\n" in head
    facts = json.loads(run(tmp_path / "trace.bin", "--json").stdout)["trace"]
    assert facts["tsc_restart_count"] == len(facts["tsc_restarts"]) == 5
    assert [row["after_cycles"] for row in facts["tsc_restarts"][:2]] == [10_000_000, 29_999_900]


def test_missing_windows_are_reported(tmp_path: Path) -> None:
    def window(begin: int, vcpu: int, pcpu: int = 0) -> bytes:
        leaves, enters = pack_record(0x21021, begin, (vcpu,)), pack_record(0x21101, begin + 100, (vcpu,))
        return pack_window(pcpu, leaves + enters)

    whole = window(1000, 1) + window(2000, 1)
    assert "missing from the file" not in head_of(whole, tmp_path / "trace.bin")
    head = head_of(whole + window(5100, 2), tmp_path / "trace.bin")
    assert (
        "missing  1 stretch of pCPU 0, 3,000 cycles: windows are missing from the file (xentrace -M drops "
        "the oldest); nothing is counted across them\n"
    ) in head
    head = head_of(whole + window(5100, 2) + window(1000, 1, 2) + window(7000, 2, 2), tmp_path / "trace.bin")
    assert (
        "missing  no pCPU was recorded for 3,000 cycles: another recording follows there, or all windows are "
        "missing; 2 stretches of pCPUs 0,2, 8,900 cycles in all, and nothing is counted across them\n"
    ) in head
    covered = json.loads(run(tmp_path / "trace.bin", "--json").stdout)["trace"]["coverage"]
    assert (covered["hole_count"], covered["hole_cycles"]) == (2, 8900)
    assert covered["holes"] == [
        {"pcpu": 0, "begin_tsc": 2100, "end_tsc": 5100},
        {"pcpu": 2, "begin_tsc": 1100, "end_tsc": 7000},
    ]


def test_tscs_that_go_back_are_reported(tmp_path: Path) -> None:
    tscs = (1000, 2000, 2500, 1500, 3000)
    data = pack_window(0, b"".join(pack_record(0x28004, tsc, (1, 2)) for tsc in tscs))
    head = head_of(data, tmp_path / "trace.bin")
    assert (
        "\norder    1 record has a TSC below an earlier one on its pCPU: damage or a TSC that was set back; "
        "intervals there are not exact\n"
    ) in head


def test_from_and_to_select_a_time_span() -> None:
    whole, part = as_json(), as_json("--from", "2", "--to", "3.5")
    assert part["trace"]["span_ns"] == pytest.approx(1.5e9, rel=1e-3)

    def calls(found: Any) -> int:
        return sum(row["count"] for row in found["tables"]["hypercalls"]["rows"])

    assert 0 < calls(part) < calls(whole) / 2


def test_adjacent_time_spans_do_not_overlap() -> None:
    """The end of a time span is excluded, whichever unit it is given in."""
    first, second, both = (
        as_json(*window)
        for window in (
            ("--from", "2", "--to", "2500ms"),
            ("--from", "2.5s", "--to", "3"),
            ("--from", "2000000us", "--to", "3s"),
        )
    )
    for name, column in (("hypercalls", "count"), ("wakes", "wake_count")):
        counts = [
            sum(row[column] for row in found["tables"][name]["rows"]) for found in (first, second, both)
        ]
        assert counts[0] + counts[1] == counts[2] > counts[0] > 0, name


def test_a_time_span_in_cycles_and_tscs() -> None:
    hz = as_json()["trace"]["tsc_hz"]
    first = min(row["first_tsc"] for row in as_json()["tables"]["pcpus"]["rows"])
    by_seconds = as_json("--from", "2", "--to", "3")
    begin, end = round(2 * hz), round(3 * hz)
    for window in (
        (f"{begin}c", f"{end}c"),
        (f"tsc:{first + begin}", f"tsc:{first + end:#x}"),
        ("2s", f"tsc:{first + end}"),
    ):
        found = as_json("--from", window[0], "--to", window[1])
        assert found["tables"]["hypercalls"] == by_seconds["tables"]["hypercalls"]


def test_an_empty_time_span_is_an_error() -> None:
    one_line(run("--from", "tsc:5", "--to", "tsc:7"), 1, "tsc:5 to tsc:7")
    one_line(run("--from", "1000s"), 1, "1000s")


def test_seconds_without_a_known_rate(tmp_path: Path) -> None:
    path = tmp_path / "short"
    path.write_bytes(simulate(8, 1, [(0, 1, "pv")], 200_000).data)
    one_line(run(path, "--from", "0.00001"), 1, "--cpu-hz")
    assert run(path, "--from", "1000c").returncode == 0


def test_a_domain_by_name(made: Path, tmp_path: Path) -> None:
    folder = tmp_path / "busy.xtrace"
    folder.mkdir()
    shutil.copy(made, folder / "xentrace.bin")
    meta = {
        "schema_version": 1,
        "state": "ended",
        "domains": [{"id": 0, "name": "Domain-0"}, {"id": 3, "name": "web"}],
    }
    (folder / "meta.json").write_text(json.dumps(meta))
    found = [as_json(folder, "--domain", text)["tables"] for text in ("3", "d3", "web")]
    assert found[0] == found[1] == found[2]
    assert {row["domain"] for row in found[0]["vcpu_states"]["rows"]} == {3}
    summary = tmp_path / "stored.summary"
    assert run(folder, "--summary", summary).returncode == 0
    assert as_json(summary, "--domain", "web")["tables"] == found[0]
    one_line(run(folder, "--domain", "wbe"), 2, "web (d3)")
    one_line(run(made, "--domain", "web"), 2, "'web'")


def test_vcpus_of_one_domain_and_of_all(made: Path) -> None:
    def shown(*texts: str) -> set[tuple[int, int]]:
        options = [word for text in texts for word in ("--vcpu", text)]
        rows = as_json(made, *options)["tables"]["vcpu_states"]["rows"]
        return {(row["domain"], row["vcpu"]) for row in rows}

    assert shown("0") == {(0, 0), (3, 0), (IDLE_DOMAIN, 0)}
    assert shown("d0v1", "d3v0") == {(0, 1), (3, 0)}


def test_cpu_hz_sets_the_rate(made: Path) -> None:
    trace = as_json(made, "--cpu-hz", "2e9")["trace"]
    assert (trace["tsc_hz"], trace["tsc_hz_source"]) == (2e9, "--cpu-hz")
    assert trace["tsc_resolution_ns"] == 0.5


@pytest.mark.parametrize(
    ("hz", "line"),
    [
        ("1M", "TSC      1.000 MHz, --cpu-hz; resolution 1000 ns"),
        ("24M", "TSC      24.000 MHz, --cpu-hz; resolution 41.7 ns"),
        ("200M", "TSC      200.000 MHz, --cpu-hz; resolution 5.00 ns"),
        ("201M", "TSC      201.000 MHz, --cpu-hz"),
        ("20G", "TSC      20000.000 MHz, --cpu-hz"),
    ],
)
def test_the_resolution_of_a_slow_tsc(made: Path, hz: str, line: str) -> None:
    assert line in run(made, "--full", "--cpu-hz", hz).stdout.splitlines()


def test_csv_and_parquet_files(made: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    done = run(made, "--csv", tmp_path / "csv", "--parquet", tmp_path / "parquet")
    assert (done.returncode, done.stdout) == (0, "")
    csv_line, parquet_line = done.stderr.splitlines()
    assert re.search(rf"\d+ files .*{re.escape(str(tmp_path / 'csv'))}$", csv_line)
    assert re.search(rf"\d+ files .*{re.escape(str(tmp_path / 'parquet'))}$", parquet_line)
    with (tmp_path / "csv" / "hypercalls.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    found = as_json(made)["tables"]["hypercalls"]["rows"]
    assert [(row["domain"], row["count"]) for row in rows] == [
        (str(row["domain"]), str(row["count"])) for row in found
    ]
    assert (tmp_path / "parquet" / "hypercalls.parquet").stat().st_size > 0


# --- errors ------------------------------------------------------------------------------------


def test_a_closed_pipe_is_not_a_failure() -> None:
    with subprocess.Popen(
        command("--json"), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        assert running.stdout.readline() == b"{\n"
        running.stdout.close()
        assert running.stderr.read().decode() == ""
        assert running.wait() == 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_a_full_disk_is_a_failure(made: Path) -> None:
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(
            command(made),
            stdout=full,
            stderr=subprocess.PIPE,
            env=environment(),
            check=False,
            text=True,
        )
    lost = "xtrace: standard output: No space left on device\n"
    assert (done.returncode, done.stderr) == (1, lost)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("missing", None, "No such file"),
        ("text", b"#!/bin/sh\nexit 0\n", "not a xentrace file"),
        ("hostname", b"vm\n", "not a xentrace file: its 3 bytes "),
        ("cut.gz", gzip.compress(os.urandom(9000))[:-4000], "damaged or cut short"),
    ],
)
def test_an_unreadable_file_is_one_line(name: str, content: bytes | None, said: str, tmp_path: Path) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    done = run(path)
    one_line(done, 1, said)
    assert str(path) in done.stderr


def test_a_folder_is_not_a_trace(tmp_path: Path) -> None:
    one_line(run(tmp_path), 1, "is a folder")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may read anything")
def test_a_file_without_permission(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.touch(mode=0)
    one_line(run(path), 1, "Permission denied")


def test_one_bad_file_among_good_ones(made: Path, tmp_path: Path) -> None:
    one_line(run(made, tmp_path / "missing"), 1, "missing: No such file")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--section", "nonsense"], "'nonsense' is not one of way, delivery"),
        (["--section", "delivry"], "do you mean delivery?"),
        (["--xen", "nonsense"], "--xen"),
        (["--rows", "-1"], "--rows"),
        (["--from", "1", "-"], "--from"),
        (["--from", "2", "--to", "1"], "--from"),
        (["--cpu-hz", "5"], "--cpu-hz"),
        (["--nonsense"], "--nonsense"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_one_line(arguments: Sequence[str], said: str) -> None:
    one_line(run(*arguments), 2, said)


#: Limits the process to the memory that it has and that of its argument, in MiB.
LITTLE_MEMORY = """
import resource, sys
import xtrace.analysis.report.request, xtrace.analysis.report.build, xtrace.analysis.state_machine.one_pass
from xtrace.cli.main import main
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (int(sys.argv[1]) << 20),) * 2)
sys.exit(main(["report"]))
"""


@pytest.mark.parametrize("mib", [1, 12, 30])
def test_too_little_memory_is_one_line(mib: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LITTLE_MEMORY, str(mib)],
        capture_output=True, check=False, env=environment(), text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr in (
        "xtrace: not enough memory\n",
        "xtrace: no thread can be started: there is too little memory, or there are too many threads\n",
    )
