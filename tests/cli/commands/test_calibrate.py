"""`xtrace calibrate` as users run it, and its text for a hand-made result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from xtrace.cli.main import main
from xtrace.cli.render.calibration import figure, print_calibration, sentence
from xtrace.cli.terminal.style import put
from xtrace.probes.timing import this_host
from xtrace.probes.timing.calibration import CONTEXTS, Calibration, Row, read

WIDTH = 80
Capture = pytest.CaptureFixture[str]
HOST = {
    "cpu_model": "A processor with a name that needs two lines (family 6, model 207, stepping 2)",
    "microcode": "0x1",
    "hypervisor": "Xen 4.17 PV dom0",
    "kernel": "Linux 6.1",
}


def row(kind: str, place: str, context: str, median: float | None, **changes: object) -> Row:
    low, high = (None, None) if median is None else (median - 0.4, median + 12.3)
    return Row(kind, "lock add", place, context, median, low, high, 96, True, **changes)  # type: ignore[arg-type]


SITE = 0xFFFF_FFFF_8020_1234
FOUND = Calibration(
    HOST,
    "2026-01-02T03:04:05+00:00",
    2.3e9,
    26,
    1.25,
    "hardware",
    {},
    (
        *(
            row("mask", "inline", context, 10.0 ** (number - 2))
            for number, context in enumerate(CONTEXTS[:7])
        ),
        row("unmask", "outofline", "empty", None),
        *(
            row("unmask", "site", context, 14.0, address=SITE, lean_median_cycles=15.0)
            for context in CONTEXTS[:3]
        ),
        row("unmask", "site", "site", 1.0, address=SITE + 1, note="not replayed: hlt at 0x1"),
    ),
    ("0x1: cpuid is not replayed as a fence",),
)


@pytest.mark.parametrize("ns", [False, True])
def test_lines_fit_80_columns(capsys: Capture, ns: bool) -> None:
    name = "xen_a_function_with_a_name_that_is_wider_than_its_column+0x12  lfence call x86_lfence"
    print_calibration(put, FOUND, {(SITE, "lock add"): name}, ns=ns)
    out = capsys.readouterr().out
    assert max(len(line) for line in out.splitlines()) <= WIDTH
    assert ("in ns" in out) is ns
    assert "not replayed: hlt at 0x1" in out
    assert "cpuid is not replayed" in out
    assert "measured on this host" in out


def test_text_of_a_result(capsys: Capture) -> None:
    print_calibration(put, FOUND, {(SITE, "lock add"): "spllower+0x12  lock add inline"}, ns=False)
    lines = capsys.readouterr().out.splitlines()
    assert "TSC      2300.000 MHz in steps of 26; the core ran at 1.250 of it" in lines
    assert "ffffffff80201234  unmask  spllower+0x12  lock add inline" in lines
    assert [line for line in lines if line.startswith("lean ")]


@pytest.mark.parametrize(
    ("values", "scale", "tight", "text"),
    [
        ((12.34, 12.0, 12.5), 1.0, True, "12.3±0.3"),
        ((12.34, 12.0, 12.5), 10.0, False, "123±3?"),
        ((-0.01, -0.4, 0.3), 1.0, True, "0.0±0.4"),
        ((361.0, 340.0, 399.0), 1.0, True, "361±38"),
        ((0.5, 0.1, 31.5), 1.0, False, "0.5±31?"),
        ((19.7, 19.0, 20.94), 1.0, False, "19.7±1?"),
        ((390.0, 380.0, 1391.0), 1.0, False, "390±1k?"),
        ((5.0, 4.0, 727_866.0), 1.0, False, "5±728k?"),
        ((None, None, None), 1.0, False, "-"),
    ],
)
def test_text_of_a_figure(
    values: tuple[float | None, float | None, float | None], scale: float, tight: bool, text: str
) -> None:
    assert figure(*values, scale, tight=tight) == text


def test_it_ends_with_the_sentence_that_people_quote(capsys: Capture) -> None:
    rows = [
        row("mask", "inline", "empty", 20.0),
        row("unmask", "inline", "alu_chain", 10.0),
        row("mask", "inline", "load_miss_1", 300.0),  # it misses
        row("mask", "outofline", "empty", 2.0),
    ]
    rows = [replace(each, fence="lfence") for each in rows] + [row("mask", "inline", "empty", 0.2)]
    found = replace(FOUND, rows=tuple(rows), notes=())
    # The ends of the intervals are 0.4 below and 12.3 above; a cycle takes 0.435 ns.
    said = (
        "lfence adds 9 to 33 cycles (4 to 14 ns) while nothing misses the caches; "
        "lock add -1 to 13 cycles (0 to 6 ns)"
    )
    assert sentence(found) == said
    print_calibration(put, found, {}, ns=False)
    assert " ".join(capsys.readouterr().out.split("\n\n")[-1].split()) == said
    assert sentence(replace(FOUND, rows=(row("mask", "inline", "empty", None),))) == ""


def test_it_says_where_the_result_is(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("xtrace.analysis.calibrate.run.calibrate", lambda *_: replace(FOUND, notes=()))
    path = tmp_path / "c.json"
    assert main(["calibrate", "-o", str(path)]) == 0
    assert capsys.readouterr().err == f"xtrace: written to {path}\n"
    assert main(["calibrate"]) == 0
    assert "not written; -o " in capsys.readouterr().err


def test_a_run_prints_what_it_writes(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "calibration.json"
    code = main(["calibrate", "--duration", "0.5", "--cpu", "0", "-o", str(path), "--json"])
    captured = capsys.readouterr()
    found = read(path)
    assert json.loads(captured.out)["date"] == found.date
    # On a test machine that is too noisy it keeps no figures, says so, and fails.
    assert code == (0 if found.timing == "hardware" else 1)
    assert bool(found.rows) is (found.timing == "hardware")
    first, *rest = captured.err.splitlines()
    assert first == f"xtrace: written to {path}"
    assert [f"timing is {found.timing}" in line for line in rest] == [True] * code


def test_emulated_timing_fails_with_the_reason(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    reason = "cpuid names the hypervisor TCGTCGTCGTCG"
    monkeypatch.setattr(this_host, "emulation", lambda *_: reason)
    path = tmp_path / "calibration.json"
    assert main(["calibrate", "--quick", "-o", str(path)]) == 1
    captured = capsys.readouterr()
    assert "timing   emulated" in captured.out
    assert captured.err.count("\n") == 2
    assert f"timing is emulated: {reason}; " in captured.err
    assert read(path).timing == "emulated"


def test_output_before_a_failure_is_not_lost() -> None:
    """Python buffers output to a pipe, and the process ends with os._exit(), which does not flush it."""
    code = (
        "from xtrace.probes.timing import this_host; this_host.emulation = lambda *_: 'a test says so'\n"
        "from xtrace.cli.start import main; main()"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    command = [sys.executable, "-c", code, "calibrate", "--quick", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert (done.returncode, done.stderr.count("\n")) == (1, 1)
    assert json.loads(done.stdout)["timing"] == "emulated"


def test_an_existing_file_is_kept(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "calibration.json"
    path.write_text("mine")
    assert main(["calibrate", "-o", str(path)]) == 2
    assert "--force" in capsys.readouterr().err
    assert path.read_text() == "mine"


@pytest.mark.parametrize(
    "arguments",
    [
        ["--quick", "--duration", "5"],
        ["--duration", "0"],
        ["--symbols", "x"],
        ["--cpu", "-1"],
    ],
)
def test_wrong_usage(arguments: list[str], capsys: Capture) -> None:
    assert main(["calibrate", *arguments]) == 2
    assert capsys.readouterr().err.startswith("xtrace: ")


def test_a_file_that_is_not_an_image(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "not-a-kernel"
    path.write_text("text")
    assert main(["calibrate", str(path)]) == 1
    assert capsys.readouterr().err.count("\n") == 1
