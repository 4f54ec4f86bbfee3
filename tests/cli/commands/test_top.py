"""`xtrace top`: its figures for a whole trace equal the report's, and it restores the terminal."""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import json
import lzma
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from builders.host import WAKE, simulate
from builders.reported import SAMPLES, SOME, objects, printed, report, rows
from xtrace.cli.main import main
from xtrace.cli.render.live import History
from xtrace.cli.render.screen import keys_of
from xtrace.probes.live.counters import Figures
from xtrace.probes.live.periods import Period
from xtrace.probes.reader.writer import pack_record, pack_window
from xtrace.probes.xen_abi import IDLE_DOMAIN

PROGRAM = "from xtrace.cli.start import main; main()"
EACH_SAMPLE = pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name.split(".")[0])
SOME_SAMPLES = pytest.mark.parametrize("path", SOME, ids=lambda path: path.name.split(".")[0])
WHOLE = "100000"


def by_vcpu(found: list[dict[str, Any]]) -> dict[tuple[int, int], dict[str, Any]]:
    return {(row["domain"], row["vcpu"]): row for row in found}


@EACH_SAMPLE
def test_one_period_over_a_whole_trace_equals_the_report(path: Path) -> None:
    (period,) = objects("top", "--json", "-d", WHOLE, "-i", str(path))
    trace = report(path)["trace"]
    assert period["record_count"] == trace["records"]
    assert period["lost_record_count"] == trace["lost_records"]
    assert period["loss_count"] == trace["loss_count"]
    assert period["end_tsc"] - period["begin_tsc"] == trace["span_cycles"]
    assert period["tsc_hz"] == pytest.approx(trace["tsc_hz"], rel=1e-4)
    assert period["emulated"] is trace["emulated"]
    live = by_vcpu(period["vcpus"])
    seen = set()
    for table, names in {
        "wakes": ("wake_count", "wake_to_running_p50_cycles", "wake_to_running_p99_cycles",
                  "wake_to_running_max_cycles"),
        "upcalls": ("upcall_least_count", "upcall_most_count", "xen_version_count",
                    "upcall_most_p50_cycles", "upcall_most_p99_cycles",
                    "upcall_least_p50_cycles", "upcall_least_p99_cycles"),
        "sends": ("send_count",),
    }.items():  # fmt: skip
        for row in map(dict, rows(path, table)):
            key = row["domain"], row["vcpu"]
            seen.add((table, key))
            if table == "wakes":
                # top counts those, too, whose vCPU may have been awake.
                row["wake_count"] += row["wake_of_unknown_count"]
            if table == "upcalls":
                # The report leaves out irets before which no event can have been pending.
                assert live[key]["upcall_most_count"] >= row["upcall_most_count"]
                row["upcall_most_count"] = live[key]["upcall_most_count"]
            assert {name: live[key][name] for name in names} == {name: row[name] for name in names}
    # Where the report has no row, the count is zero.
    for key, row in live.items():
        assert ("wakes", key) in seen or row["wake_count"] == 0
        assert ("upcalls", key) in seen or row["upcall_most_count"] == 0
        assert ("sends", key) in seen or row["send_count"] == 0
    hypercalls = Counter[tuple[int, int]]()
    for row in rows(path, "hypercalls"):
        hypercalls[row["domain"], row["vcpu"]] += row["count"] * (row["kind"] == "call")
    injections = Counter[tuple[int, int]]()
    for row in rows(path, "injections"):
        injections[row["domain"], row["vcpu"]] += row["injection_count"]
    assert {key: row["injection_count"] for key, row in live.items() if row["injection_count"]} == injections
    if not injections:
        assert {
            key: row["hypercall_count"] for key, row in live.items() if row["hypercall_count"]
        } == +hypercalls


@SOME_SAMPLES
def test_periods_add_up_to_the_whole(path: Path) -> None:
    (whole,) = objects("top", "--json", "-d", WHOLE, "-i", str(path))
    periods = objects("top", "--json", "-d", "0.5", "-i", str(path))
    assert len(periods) == int(whole["span_s"] / 0.5) + 1
    for name, total in whole["total"].items():
        if name.endswith("_count"):
            assert sum(period["total"][name] for period in periods) == total
    for name in ("record_count", "lost_record_count", "loss_count", "irq_count"):
        assert sum(period[name] for period in periods) == whole[name]
    edges = [period["begin_tsc"] for period in periods] + [periods[-1]["end_tsc"]]
    assert edges[0] == whole["begin_tsc"]
    assert edges[-1] == whole["end_tsc"]
    assert all(period["end_tsc"] == edge for period, edge in zip(periods, edges[1:], strict=True))


@SOME_SAMPLES
def test_a_block_fits_80_columns_and_shows_every_vcpu(path: Path) -> None:
    text = printed("top", "-b", "-d", WHOLE, "-i", str(path))
    lines = text.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("lost ") for line in lines)
    for row in rows(path, "wakes"):
        if row["domain"] != IDLE_DOMAIN:
            assert any(line.startswith(f"d{row['domain']}v{row['vcpu']} ") for line in lines)


def test_rows_are_sorted_and_added_up_by_domain() -> None:
    path = str(SOME[0])
    (whole,) = objects("top", "--json", "-d", WHOLE, "-i", path)
    wakes = Counter[int]()
    for row in whole["vcpus"]:
        if row["domain"] != IDLE_DOMAIN:
            wakes[row["domain"]] += row["wake_count"]
    text = printed("top", "-b", "-d", WHOLE, "--domains", "-i", path)
    table = text.partition("vcpu ")[2].splitlines()[1:]
    shown = [line.split()[0] for line in table if line.startswith("d")]
    assert [f"d{domain}" for domain, count in wakes.most_common() if count] == shown[: len(+wakes)]
    for sort in ("cpu", "lag", "run", "upcalls", "time", "forced", "vcpu"):
        assert printed("top", "-b", "-d", WHOLE, "-s", sort, "-i", path)


def test_usage(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["top", "-b", "-s", "nothing", "-i", str(SOME[0])]) == 2
    assert "'nothing'" in capfd.readouterr().err
    assert main(["top", "-b", "-i", "/nonexistent"]) == 1


def test_without_xen_it_fails(capfd: pytest.CaptureFixture[str]) -> None:
    if Path("/sys/hypervisor/type").exists():
        pytest.skip("this is a Xen host")
    assert main(["top", "-b"]) == 1
    err = capfd.readouterr().err
    assert err.count("\n") == 1
    assert "not run under Xen" in err
    assert "-i FILE" in err


def test_a_trace_without_a_rate_is_shown_in_cycles(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "trace.bin"
    path.write_bytes(pack_window(0, b"".join(pack_record(WAKE, tsc, (1, 0)) for tsc in (1000, 3_000_000))))
    assert main(["top", "-b", "-i", str(path)]) == 0
    out, err = capfd.readouterr()
    assert err == ""
    assert "rate not known (yet)" in out
    assert "--cpu-hz" in out
    assert " Gc from 0.00 Gc" in out
    assert " wakes/Gc " in out
    assert "/s" not in out
    assert main(["stat", "-i", str(path)]) == 0
    names, units = (
        line for line in capfd.readouterr().out.splitlines() if " time " in line or " Gc " in line
    )
    assert units.split() == ["Gc", "/Gc", "/Gc", "p50", "p99", *["/Gc"] * 5]
    assert len(units) <= len(names)
    periods = objects("top", "--json", "-d", "1", "--cpu-hz", "1e6", "-i", str(path))
    assert [period["total"]["wake_count"] for period in periods] == [1, 0, 1]
    (tmp_path / "trace.bin.json").write_text('{"tsc_hz": 1000000000.0}')
    (period,) = objects("top", "--json", "-i", str(path))
    assert period["tsc_hz_source"] == "from trace.bin.json"


def test_domain_names_from_a_capture_are_escaped(tmp_path: Path) -> None:
    folder = tmp_path / "made.xtrace"
    folder.mkdir()
    (folder / "xentrace.bin").write_bytes(lzma.decompress(SOME[0].read_bytes()))
    domain = rows(SOME[0], "wakes")[0]["domain"]
    meta = {
        "schema_version": 1, "tsc_hz": 2.5e9, "timing": "emulated",
        "domains": [{"id": domain, "name": "a\x1b[2Jb"}],
    }  # fmt: skip
    (folder / "meta.json").write_text(json.dumps(meta))
    text = printed("top", "-b", "-d", WHOLE, "-i", str(folder))
    assert "\x1b" not in text
    assert "a\\x..2Jb" in text  # shortened to its column
    (period,) = objects("top", "--json", "-d", WHOLE, "-i", str(folder))
    assert (period["tsc_hz"], period["tsc_hz_source"]) == (2.5e9, "from meta.json")
    assert {row["name"] for row in period["vcpus"] if row["domain"] == domain} == {"a\x1b[2Jb"}


def test_damage_is_reported(tmp_path: Path) -> None:
    data = bytearray(lzma.decompress(SOME[0].read_bytes()))
    data[100_000:100_400] = bytes(400)
    path = tmp_path / "damaged.bin"
    path.write_bytes(data)
    assert re.search(r"^damage +1 ", printed("top", "-b", "-d", WHOLE, "-i", str(path)), re.MULTILINE)


def test_count_limits_the_periods_and_stdin_is_read() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM, "top", "-n", "2", "-i", "-"],
        input=SOME[0].read_bytes(), capture_output=True, check=True,
    )  # fmt: skip
    assert done.stdout.count(b"lost ") == 2
    assert done.stderr == b""


# --- the terminal ------------------------------------------------------------------------------


class Terminal:
    """A pseudo-terminal of 80x24 with a command running on it."""

    def __init__(self, *arguments: str) -> None:
        self.primary, self.secondary = pty.openpty()
        self.size(24, 80)
        self.mode = termios.tcgetattr(self.secondary)
        environment = {
            name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")
        }
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", PROGRAM, *arguments],
            stdin=self.secondary, stdout=self.secondary, stderr=self.secondary,
            env=environment, start_new_session=True,
            # A shell starts background jobs, such as these tests, with SIGINT ignored.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip
        self.output = ""
        # A read may end inside a character.
        self.decoder = codecs.getincrementaldecoder("utf-8")()

    def size(self, rows_: int, columns: int) -> None:
        fcntl.ioctl(self.secondary, termios.TIOCSWINSZ, struct.pack("HHHH", rows_, columns, 0, 0))

    def until(self, text: str, limit_s: float = 60.0) -> str:
        """Read until ``text`` appears and return what this call has read."""
        end = time.monotonic() + limit_s
        begin = len(self.output)
        while text not in self.output[begin:]:
            assert time.monotonic() < end, self.output[begin:]
            if select.select([self.primary], [], [], 0.1)[0]:
                self.output += self.decoder.decode(os.read(self.primary, 1 << 16))
        return self.output[begin:]

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for fd in (self.primary, self.secondary):
            with contextlib.suppress(OSError):
                os.close(fd)

    def end(self) -> int:
        code = self.process.wait(60)
        while select.select([self.primary], [], [], 0.2)[0]:
            self.output += self.decoder.decode(os.read(self.primary, 1 << 16))
        assert termios.tcgetattr(self.secondary) == self.mode
        assert self.output.rstrip("\r\n").endswith("\x1b[?25h\x1b[?1049l")
        return code


def screen_of(drawn: str) -> list[str]:
    """Return the lines of the last screen drawn, without escape codes."""
    last = drawn.rpartition("\x1b[H")[2]
    for code in ("\x1b[K", "\x1b[J", "\x1b[7m", "\x1b[0m", "\x1b[?2026h", "\x1b[?2026l"):
        last = last.replace(code, "")
    return [line.rstrip("\r") for line in last.split("\n")]


def test_keys_sort_and_q_quits() -> None:
    with Terminal("top", "-d", "5", "-i", str(SOME[0])) as terminal:
        first = screen_of(terminal.until("[wakes]"))
        assert len(first) == 24
        assert max(map(len, first)) <= 80
        os.write(terminal.primary, b"u")
        terminal.until("[upcalls]")
        os.write(terminal.primary, b"d")
        lines = screen_of(terminal.until("\x1b[J"))
        assert any(line.startswith("d0 ") for line in lines)
        assert not any(line.startswith("d0v") for line in lines)
        os.write(terminal.primary, b"q")
        assert terminal.end() == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGQUIT])
def test_a_signal_ends_it_and_restores_the_terminal(number: signal.Signals) -> None:
    with Terminal("top", "-d", "5", "-i", str(SOME[0])) as terminal:
        terminal.until("[wakes]")
        terminal.process.send_signal(number)
        assert terminal.end() == 0


def test_a_resized_terminal_is_redrawn() -> None:
    with Terminal("top", "-d", "5", "-i", str(SOME[0])) as terminal:
        terminal.until("[wakes]")
        terminal.size(12, 60)
        terminal.process.send_signal(signal.SIGWINCH)
        lines = screen_of(terminal.until("\x1b[J"))
        assert len(lines) == 12
        assert max(map(len, lines)) <= 60
        os.write(terminal.primary, b"q")
        assert terminal.end() == 0


def test_ctrl_z_restores_the_terminal_while_stopped() -> None:
    """The signal arrives while the screen is being drawn to the same stream."""
    with Terminal("top", "-d", "5", "-i", str(SOME[0])) as terminal:
        terminal.until("[wakes]")
        terminal.process.send_signal(signal.SIGTSTP)
        terminal.until("\x1b[?1049l")
        _, status = os.waitpid(terminal.process.pid, os.WUNTRACED)
        assert os.WIFSTOPPED(status)
        assert termios.tcgetattr(terminal.secondary) == terminal.mode
        terminal.process.send_signal(signal.SIGCONT)
        terminal.until("[wakes]")
        os.write(terminal.primary, b"q")
        assert terminal.end() == 0


def test_a_failure_restores_the_terminal(tmp_path: Path) -> None:
    """The compressed file is cut in the middle."""
    path = tmp_path / "cut.bin.xz"
    whole = SOME[0].read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with Terminal("top", "--strict", "-d", "0.05", "--cpu-hz", "2.6e9", "-i", str(path)) as terminal:
        terminal.until("\x1b[?1049l")
        code = terminal.process.wait(60)
        while select.select([terminal.primary], [], [], 0.2)[0]:
            terminal.output += terminal.decoder.decode(os.read(terminal.primary, 1 << 16))
        assert termios.tcgetattr(terminal.secondary) == terminal.mode
        assert "xtrace: " in terminal.output.rpartition("\x1b[?1049l")[2]
        assert code == 1


def test_it_ends_when_its_terminal_closes() -> None:
    with Terminal("top", "-d", "5", "-i", str(SOME[0])) as terminal:
        terminal.until("[wakes]")
        os.close(terminal.primary)
        assert terminal.process.wait(60) in (0, 1)


# --- keys: pause, help, scrolling ----------------------------------------------------------------


@pytest.fixture(scope="module")
def crowd(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A trace of a host with 40 vCPUs."""
    path = tmp_path_factory.mktemp("crowd") / "crowd.bin"
    host = simulate(3, 4, [(0, 4, "pv"), *((domain, 4, "pv") for domain in range(1, 10))], 40_000_000)
    path.write_bytes(host.data)
    return str(path)


def shown_rows(lines: list[str]) -> list[str]:
    return [line.split()[0] for line in lines if re.match(r"d\d+v\d+ ", line)]


def test_keys_pause_scroll_and_explain(crowd: str) -> None:
    """All in one session, with resizes between them, because starting it takes the time."""
    arguments = ("top", "-d", "10ms", "-s", "vcpu", "--cpu-hz", "100M", "-i", crowd)
    every = shown_rows(printed(*arguments, "-b").rpartition("\nvcpu ")[2].splitlines())
    assert len(every) > 30
    with Terminal(*arguments) as terminal:
        terminal.until("[end of the trace]")

        def ended() -> bool:
            return terminal.output.endswith("\x1b[?2026l")

        def next_screen() -> list[str]:
            terminal.until("\x1b[?2026h")
            if not ended():
                terminal.until("\x1b[?2026l")
            return screen_of(terminal.output)

        def after(key: str) -> list[str]:
            os.write(terminal.primary, key.encode())
            return next_screen()

        while not ended():
            terminal.until("\x1b[?2026l")
        top_lines = after("g")
        first = shown_rows(top_lines)
        page = len(first)
        assert first == every[:page]
        assert f"1 to {page} of {len(every)}" in top_lines
        assert shown_rows(after("j"))[0] == every[1]
        assert shown_rows(after("\x1b[B"))[0] == every[2]
        assert shown_rows(after("\x1b[A"))[0] == every[1]
        assert shown_rows(after("\x1b[6~"))[0] == every[1 + page]
        assert shown_rows(after("G"))[-1] == every[-1]
        assert shown_rows(after("\x1b[B"))[-1] == every[-1]  # it stays at the end
        assert shown_rows(after("g")) == first
        assert shown_rows(after("\x1b[Z")) == first  # a key that means nothing

        explained = after("h")
        assert explained[0].rstrip() == "xtrace top: keys"
        assert any(line.startswith("space, p") for line in explained)
        assert max(map(len, explained)) <= 80
        assert shown_rows(after("x")) == first

        for rows_, columns in ((12, 60), (40, 200), (24, 80), (3, 20)):
            terminal.size(rows_, columns)
            terminal.process.send_signal(signal.SIGWINCH)
            lines = next_screen()
            assert len(lines) == rows_
            assert max(map(len, lines)) <= columns
        os.write(terminal.primary, b"q")
        assert terminal.end() == 0


def test_a_paused_replay_stands_still(crowd: str) -> None:
    with Terminal("top", "-d", "20ms", "--cpu-hz", "100M", "-i", crowd) as terminal:
        terminal.until("\x1b[?2026l")
        os.write(terminal.primary, b" ")
        paused = screen_of(terminal.until("[paused]"))
        if not terminal.output.endswith("\x1b[?2026l"):
            terminal.until("\x1b[?2026l")
        with pytest.raises(AssertionError):
            terminal.until("\x1b[?2026l", 0.5)
        assert paused[0].startswith("[paused] ")
        os.write(terminal.primary, b"p")
        terminal.until("[end of the trace]")
        os.write(terminal.primary, b"q")
        assert terminal.end() == 0


@pytest.mark.parametrize(
    ("text", "keys"),
    [
        ("\x1b[A\x1b[Bq", ["up", "down", "q"]),
        ("\x1bOAh", ["up", "h"]),
        ("\x1b[5~\x1b[6~", ["page up", "page down"]),
        ("\x1b[1;5C\x1b[24~w", ["", "", "w"]),
        ("\x1b", [""]),
        ("", []),
    ],
)
def test_keys_of_a_terminal(text: str, keys: list[str]) -> None:
    assert keys_of(text) == keys


# --- the share of time that vCPUs ran and waited ---------------------------------------------------


@EACH_SAMPLE
def test_running_and_waiting_time_is_that_of_the_report(path: Path) -> None:
    (period,) = objects("top", "--json", "-d", WHOLE, "-i", str(path))
    live = by_vcpu(period["vcpus"])
    whole = report(path)["trace"]["span_cycles"]
    has_losses = report(path)["trace"]["lost_records"] > 0
    for name, state in (("running_cycles", "running"), ("waiting_cycles", "runnable")):
        expected = Counter[tuple[int, int]]()
        for row in rows(path, "vcpu_states"):
            if row["domain"] != IDLE_DOMAIN and row["state"].startswith(state):
                expected[row["domain"], row["vcpu"]] += row["total_cycles"]
        for key, cycles in expected.items():
            # The report also counts what the first record of a vCPU says about the time before it; at the end
            # of a trace, it stops at the last record of a pCPU.
            difference = live[key][name] - cycles if key in live else -cycles
            assert -whole * (0.2 if has_losses else 0.012) <= difference <= whole * 0.001, (key, name)


def test_periods_divide_the_time() -> None:
    (path,) = (str(path) for path in SAMPLES if "pv-all" in path.name)
    (whole,) = objects("top", "--json", "-d", WHOLE, "-i", path)
    periods = objects("top", "--json", "-d", "0.25", "-i", path)
    for name in ("running_cycles", "waiting_cycles"):
        # Time before a record that contradicts the state is not counted, unless a period has ended in it.
        total = sum(period["total"][name] for period in periods)
        assert total == pytest.approx(whole["total"][name], rel=0.01)
    for period in periods:
        for row in period["vcpus"]:
            spent = row["running_cycles"] + row["waiting_cycles"]
            assert 0 <= spent <= period["end_tsc"] - period["begin_tsc"]


def test_the_history_is_that_of_the_last_periods() -> None:
    history = History()
    for number in range(1, 70):
        figures = Figures()
        figures.wake_to_running.put(number)
        history.add(Period(0, 100, {1 << 16: figures} if number % 2 else {}))
    values = history.of(1 << 16)
    assert len(values) == 60
    assert values[-1] == 69
    assert [value == value for value in values[-3:]] == [True, False, True]
