"""The first screen of a report: it fits, it answers, and it survives any name and any terminal."""

from __future__ import annotations

import json
import lzma
import os
import pty
import re
import shutil
import struct
import subprocess
import sys
import termios
from fcntl import ioctl
from pathlib import Path

import pytest
from wcwidth import wcswidth

from builders import ready
from builders.host import simulate
from builders.reported import SAMPLES, report
from xtrace.cli.main import main

LINES = 23
PROGRAM = "from xtrace.cli.start import main; main()"
(PV,) = (path for path in SAMPLES if "pv-all" in path.name)


def screen(*arguments: str | Path, **changes: str) -> list[str]:
    dropped = ("COLUMNS", "LINES", "NO_COLOR", "TERM", "PYTHONIOENCODING")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    done = ready.run(["report", *map(str, arguments)], environment={**kept, **changes})
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.parametrize("width", [80, 200])
@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name.split(".")[0])
def test_it_fits(path: Path, width: int) -> None:
    lines = screen(path, COLUMNS=str(width))
    assert len(lines) <= LINES
    assert max(map(wcswidth, lines)) <= width
    if width == 200:
        assert not any("..." in line for line in lines)  # nothing is cut that fits
        assert any("spread" in line for line in lines)


def test_it_answers_what_a_newcomer_asks() -> None:
    """What was recorded, is something wrong, who waits, how long does an event take, what is certain."""
    text = "\n".join(screen(PV))
    assert re.search(
        r"^6\.195 s of pCPUs 0-1, 99\.94% of it covered: sched, pv, hw; Xen ", text, re.MULTILINE
    )
    assert "found    no problem, 2 notes" in text
    assert "* d0v1 waits to run after a wake: p99 2.07ms over 1,305 wakes; 2 more (exact)" in text
    assert "the vCPU that waits most first" in text
    assert "3,400 wakes to running, by vCPU: p50 84us to 99us, p99 947us to 2.1ms (exact)" in text
    words = re.search(r"^vcpu +(.*)$", text, re.MULTILINE)
    assert words is not None
    assert re.split(r"  +", words[1]) == ["inferred", "exact", "exact", "at most", "at most", "at least"]


def test_at_80_columns_the_spread_of_all_wakes_is_drawn() -> None:
    octaves: dict[int, int] = {}
    for row in report(PV)["tables"]["wake_spread"]["rows"]:
        octaves[row["low_cycles"]] = octaves.get(row["low_cycles"], 0) + row["count"]
    (line,) = (line for line in screen(PV, TERM="xterm") if line.startswith("all vCPUs: "))
    low, drawn, high = line.partition(", ")[0].removeprefix("all vCPUs: ").split()
    hz = report(PV)["trace"]["tsc_hz"]
    assert float(low.removesuffix("us")) * 1e3 == pytest.approx(min(octaves) / hz * 1e9, rel=0.05)
    assert float(high.removesuffix("ms")) * 1e6 == pytest.approx(2 * max(octaves) / hz * 1e9, rel=0.05)
    scale = [1 << power for power in range(min(octaves).bit_length() - 1, max(octaves).bit_length())]
    assert len(drawn) == len(scale)
    assert drawn.index("\u2588") == max(range(len(scale)), key=lambda place: octaves.get(scale[place], 0))
    dumb = screen(PV, TERM="dumb")
    assert any(re.fullmatch(r"of all vCPUs' wakes, \d+% in \w+ to \w+", line) for line in dumb)


def test_figures_are_those_of_the_json() -> None:
    rows = {f"d{row['domain']}v{row['vcpu']}": row for row in report(PV)["tables"]["event_way"]["rows"]}
    lines = [line for line in screen(PV, COLUMNS="200") if re.match(r"d\dv\d ", line)]
    assert [line.split()[0] for line in lines] == list(rows)
    stages = (
        "send_to_wake", "wake_to_runnable", "runnable_to_running", "running_to_entry_most",
        "running_to_iret_most", "wake_to_running",
    )  # fmt: skip
    for line in lines:
        vcpu, wakes, *figures = line.split()
        row = rows[vcpu]
        assert int(wakes.replace(",", "")) == row["wake_to_running_count"]
        for place, stage in enumerate(stages):
            for number, name in enumerate(("p50", "p99")):
                shown = figures[2 * place + number]
                size = {"ns": 1, "us": 1e3, "ms": 1e6}[shown[-2:]]
                assert float(shown[:-2]) * size == pytest.approx(row[f"{stage}_{name}_ns"], rel=0.006)
        assert float(figures[12].rstrip("%")) == pytest.approx(100 * row["running_share_ratio"], abs=0.051)


def test_many_vcpus_are_cut_with_a_count(tmp_path: Path) -> None:
    path = tmp_path / "many.bin"
    path.write_bytes(simulate(4, 6, [(domain, 5, "pv") for domain in range(9)], 60_000_000).data)
    lines = screen(path, "--cpu-hz", "1G")
    assert len(lines) <= LINES
    (said,) = (line for line in lines if "quieter" in line)
    shown = [line for line in lines if re.match(r"d\dv\d ", line)]
    assert said == f"{45 - len(shown)} quieter vCPUs: --section way --rows 0"
    waits = [float(line.split()[-1].rstrip("%")) for line in shown]
    assert waits == sorted(waits, reverse=True)
    whole = screen(path, "--cpu-hz", "1G", "--section", "way", "--rows", "0")
    assert len({line.split()[0] for line in whole if re.match(r"d\dv\d ", line)}) == 45


NAMES = (
    "\u4e2d\u6587" * 40,
    "e\u0301" * 30,
    "\u05e9\u05dc\u05d5\u05dd",
    "\x1b[31m\x1b]0;x\x07",
    "\u202eabc",
    "n" * 10_000,
)


@pytest.mark.parametrize("width", [80, 200])
@pytest.mark.parametrize("name", NAMES, ids=range(len(NAMES)))
def test_names_break_neither_columns_nor_the_terminal(name: str, width: int, tmp_path: Path) -> None:
    folder = tmp_path / "named.xtrace"
    folder.mkdir()
    (folder / "xentrace.bin").write_bytes(lzma.decompress(PV.read_bytes()))
    domains = [{"id": domain, "name": name} for domain in (0, 2)]
    (folder / "meta.json").write_text(
        json.dumps({"schema_version": 1, "state": "ended", "tsc_hz": 2.3e9, "domains": domains})
    )
    lines = screen(folder, COLUMNS=str(width))
    assert len(lines) <= LINES
    assert "\x1b" not in "".join(lines)
    assert max(wcswidth(line.replace("\u200e", "")) for line in lines) <= width
    rows = [line.replace("\u200e", "") for line in lines if re.match(r"d\dv\d ", line)]
    if width == 80:
        assert {wcswidth(line) for line in rows} == {wcswidth(rows[0])}
    else:
        ends = {wcswidth(line[: line.index("%")]) for line in rows}
        assert len(ends) == 1


def test_plain_terminals_get_words_and_ascii() -> None:
    dumb = screen(PV, TERM="dumb", COLUMNS="200")
    assert any(re.search(r"\d+% in 57us to 114us$", line) for line in dumb)
    assert any(line.startswith("note: d0v1 waits") for line in dumb)
    assert "\n".join(dumb).isascii()
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM, "report"],
        env={**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "200", "TERM": "xterm"},
        capture_output=True,
        check=True,
    )
    assert done.stdout.isascii()
    assert b"\\u" not in done.stdout
    assert b"spread" in done.stdout


def test_the_list_and_the_legend(capfd: pytest.CaptureFixture[str]) -> None:
    from xtrace.analysis.report.build import SECTIONS, TABLES
    from xtrace.cli.render.report.sections import ANSWERS

    assert tuple(ANSWERS) == SECTIONS
    assert main(["report", "--list"]) == 0
    listed = capfd.readouterr().out
    for section in SECTIONS:
        assert re.search(rf"^{section} ", listed, re.MULTILINE)
    assert main(["report", "--legend"]) == 0
    legend = capfd.readouterr().out
    for word in ("exact", "at most", "at least", "inferred", "send to wake", "upcall to iret", "waits"):
        assert word in legend
    for section in SECTIONS:
        assert main(["report", "--legend", "--section", section]) == 0
        legend = capfd.readouterr().out
        assert max(map(len, legend.splitlines())) <= 80
        for table in TABLES:
            if table.section == section and any(column.heading for column in table.columns):
                assert table.title[:60] in legend


# --- the pager -----------------------------------------------------------------------------------


def on_a_terminal(*arguments: str, **changes: str) -> tuple[int, str]:
    """Run `xtrace report` on a terminal, and return its exit code and what it wrote there."""
    parent, child = pty.openpty()
    ioctl(child, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    dropped = ("COLUMNS", "LINES", "NO_COLOR", "PAGER", "XTRACE_PAGER", "LESS")
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    running = subprocess.Popen(
        [sys.executable, "-P", "-c", PROGRAM, "report", *arguments],
        stdin=child, stdout=child, stderr=child,
        env={**kept, "TERM": "xterm-256color", **changes},
    )  # fmt: skip
    os.close(child)
    shown = b""
    try:
        while piece := os.read(parent, 1 << 16):
            shown += piece
    except OSError:  # EIO: the other end was closed
        pass
    finally:
        os.close(parent)
    return running.wait(60), shown.decode()


def test_output_goes_through_the_pager_that_is_named(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    for changes in ({"XTRACE_PAGER": f"cat >{kept}", "PAGER": "false"}, {"PAGER": f"cat >{kept}"}):
        code, shown = on_a_terminal(**changes)
        assert (code, shown) == (0, "")
        assert "The way of an event" in kept.read_text()
        assert "\x1b[1m" in kept.read_text()  # as on the terminal itself
        kept.unlink()
    code, shown = on_a_terminal("--no-pager", PAGER=f"cat >{kept}")
    assert code == 0
    assert "The way of an event" in shown
    code, shown = on_a_terminal(PAGER="")
    assert "The way of an event" in shown
    assert not kept.exists()


def test_less_is_asked_to_end_where_everything_fits() -> None:
    if shutil.which("less") is None:
        pytest.skip("less is not installed")
    code, shown = on_a_terminal()
    assert code == 0
    assert "The way of an event" in shown
    assert shown.count("\r\n") <= LINES + 1


def test_a_pager_that_does_not_exist_or_leaves_early_is_not_a_failure() -> None:
    code, shown = on_a_terminal(PAGER="no-such-pager-here")
    assert code == 0
    assert "The way of an event" in shown
    code, shown = on_a_terminal("--full", PAGER="head -n 1")
    assert code == 0
    assert shown.count("\r\n") == 1


def test_colour_is_left_out_where_it_is_not_wanted() -> None:
    for arguments, changes in (((), {"NO_COLOR": "1"}), (("--no-color",), {}), ((), {"TERM": "dumb"})):
        _, shown = on_a_terminal("--no-pager", *arguments, **changes)
        assert "\x1b" not in shown, (arguments, changes)
    _, shown = on_a_terminal("--no-pager")
    assert "\x1b[1m" in shown
