"""A recording from start to end: what ends it, its failures, and a kill at any moment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from builders import ticker
from builders.ticker import BLOCK_BYTES, BLOCKS, LINES, Ticker
from xtrace.probes.capture.layout import Capture, open_capture
from xtrace.probes.errors import TraceError
from xtrace.probes.host import dom0, run_folder, xen_tools
from xtrace.probes.recording import session
from xtrace.probes.recording.backends.base import Counts, Options
from xtrace.probes.recording.lock import only_recorder
from xtrace.probes.recording.session import Request, Summary, record

TESTS = Path(__file__).parents[2]
_POLL = Ticker.poll


@pytest.fixture(autouse=True)
def own_run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(run_folder.RUN_DIRECTORY_VARIABLE, str(tmp_path / "run"))
    ticker.install(monkeypatch)


def run(output: Path, **wanted: Any) -> tuple[Summary, list[str], Capture]:
    lines: list[str] = []
    options = wanted.pop("options", Options(reserve_mib=0))
    request = Request(output, options, wanted.pop("backends", ("ticker",)), **wanted)
    summary = record(request, say=lines.append, watch=lambda *told: None)
    return summary, lines, open_capture(output)


def ticks(capture: Capture) -> list[int]:
    return [line["tick"] for line in capture.lines(LINES)]


def signal_when(monkeypatch: pytest.MonkeyPatch, number: signal.Signals, is_time: Callable[[], bool]) -> None:
    """Send this process a signal, once, at a poll when it is due: a recording is in progress then."""
    sent: list[int] = []

    def poll(self: Ticker) -> Counts:
        counts = _POLL(self)
        if not sent and is_time():
            sent.append(number)
            os.kill(os.getpid(), number)
        return counts

    monkeypatch.setattr(Ticker, "poll", poll)


def test_a_recording_of_a_given_time(tmp_path: Path) -> None:
    seen: list[tuple[float, int, Mapping[str, Counts]]] = []
    request = Request(tmp_path / "a.xtrace", Options(reserve_mib=0), ("ticker",), duration_s=1.3)
    summary = record(request, say=lambda line: None, watch=lambda *told: seen.append(told))
    capture = open_capture(tmp_path / "a.xtrace")
    meta = capture.meta
    assert (summary.end_reason, summary.failures, summary.command_code) == ("duration", {}, None)
    assert 1.3 <= summary.duration_s < 5
    assert capture.has_ended
    assert capture.lost == {"ticker": 0}
    assert ticks(capture) == list(range(summary.counts["ticker"].records))
    assert meta["end_reason"] == "duration"
    assert meta["backends"]["ticker"]["facts"] == {"polls": len(ticks(capture))}
    assert meta["backends"]["ticker"]["counts"]["records"] == len(ticks(capture))
    begin, end = meta["backends"]["ticker"]["monotonic_ns"]
    assert meta["started"]["monotonic_ns"] < begin < end < meta["ended"]["monotonic_ns"]
    assert meta["overhead"]["cpu_s"] == summary.overhead.cpu_s > 0
    progress = [line for line in capture.lines("progress.jsonl") if line["kind"] == "progress"]
    assert len(progress) == len(seen) >= 2
    assert progress[-1]["backends"]["ticker"]["records"] == len(ticks(capture))
    assert summary.byte_count == sum(
        path.stat().st_size for path in capture.path.rglob("*") if path.is_file()
    )
    if meta["clocks"]["fit"] is not None:
        assert meta["tsc_hz"] == meta["clocks"]["fit"]["hz"]
        assert len(capture.clock_pairs()) == meta["clocks"]["pairs"]


@pytest.mark.parametrize(("number", "reason"), [(signal.SIGINT, "interrupt"), (signal.SIGTERM, "signal")])
def test_a_signal_ends_it_in_an_orderly_way(
    number: signal.Signals, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(number)
    signal_when(monkeypatch, number, lambda: True)
    summary, _, capture = run(tmp_path / "a.xtrace")
    assert summary.end_reason == reason
    assert capture.has_ended
    assert signal.getsignal(number) == before


def test_a_command_is_recorded_and_its_exit_code_reported(tmp_path: Path) -> None:
    command = (sys.executable, "-S", "-c", "sum(range(10_000_000)); raise SystemExit(7)")
    summary, _, capture = run(tmp_path / "a.xtrace", command=command)
    assert (summary.end_reason, summary.command_code) == ("command", 7)
    assert capture.meta["command"] == list(command)
    used = os.times()
    # The command's CPU time does not count as the recorder's.
    assert summary.overhead.cpu_s < used.user + used.system
    killed = (sys.executable, "-S", "-c", "import os; os.kill(os.getpid(), 9)")
    assert run(tmp_path / "b.xtrace", command=killed)[0].command_code == -9


def test_a_missing_command_makes_no_capture(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="no such command"):
        run(tmp_path / "a.xtrace", command=("no-such-command-here",))
    assert not (tmp_path / "a.xtrace").exists()


def test_the_duration_ends_the_recording_but_not_the_command(tmp_path: Path) -> None:
    begin = time.monotonic()
    summary, _, _ = run(tmp_path / "a.xtrace", command=("sleep", "2"), duration_s=0.3)
    assert (summary.end_reason, summary.command_code) == ("duration", 0)
    assert summary.duration_s < 2 <= time.monotonic() - begin


def test_a_signal_also_ends_a_command_that_ignores_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "_COMMAND_LIMIT_S", 0.2)
    for trap, code in (("", -signal.SIGTERM), ("trap '' TERM; ", -signal.SIGKILL)):
        ready = tmp_path / f"ready{code}"
        signal_when(monkeypatch, signal.SIGINT, ready.exists)
        summary, _, _ = run(tmp_path / "a.xtrace", command=("sh", "-c", f"{trap}: >{ready}; exec sleep 300"))
        assert (summary.end_reason, summary.command_code) == ("interrupt", code)


def test_the_size_limit_ends_it_as_a_success(tmp_path: Path) -> None:
    summary, _, capture = run(tmp_path / "a.xtrace", max_bytes=200_000)
    assert summary.end_reason == "max-size"
    assert "--max-size of 200,000 bytes" in summary.message
    assert capture.has_ended
    blocks = (capture.path / BLOCKS).stat().st_size
    assert blocks % BLOCK_BYTES == 0
    assert 100_000 < blocks < 200_000


def test_a_full_disk_keeps_what_was_recorded(small_disk: Path) -> None:
    summary, _, capture = run(small_disk / "a.xtrace")
    assert summary.end_reason == "disk"
    assert "No space left on device" in summary.message
    # There was room for the last meta.json.
    assert capture.meta["state"] == "ended"
    assert capture.meta["end_reason"] == "disk"
    assert (capture.path / BLOCKS).stat().st_size % BLOCK_BYTES == 0
    assert ticks(capture) == list(range(len(ticks(capture))))
    assert len(ticks(capture)) > 0


def test_the_disks_reserve_ends_it_as_a_failure(small_disk: Path) -> None:
    subprocess.run(["mount", "-o", "remount,size=4m", str(small_disk)], check=True)
    summary, _, capture = run(small_disk / "a.xtrace", options=Options(reserve_mib=2))
    assert summary.end_reason == "disk"
    assert "reserve of 2 MiB" in summary.message
    assert capture.has_ended


def test_a_backend_that_dies_ends_it_and_everything_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Ticker, "lives", 3)
    summary, _, capture = run(tmp_path / "a.xtrace")
    assert summary.end_reason == "backend"
    assert "it fell silent" in summary.message
    assert capture.meta["backends"]["ticker"]["reason"] == "it fell silent"
    assert ticks(capture) == [0, 1, 2]


def test_an_unusable_backend_is_reported_and_another_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dom0, "why_no_dom0", lambda: "")
    monkeypatch.setattr(xen_tools, "xen_facts", lambda: {"missing": []})
    summary, lines, capture = run(tmp_path / "a.xtrace", backends=None, duration_s=0.2)
    assert "not using absent: it is not here (fetch it)" in lines
    assert "recording by ticker" in lines
    assert set(capture.meta["overhead"]["cpu_s_by_backend"]) == {"ticker"}
    assert set(summary.counts) == {"ticker"}
    assert capture.meta["backends"]["absent"]["used"] is False


def test_a_backend_that_was_named_must_be_usable(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"absent: it is not here \(fetch it\)"):
        run(tmp_path / "a.xtrace", backends=("absent", "ticker"))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            Options(pcpus="1"),
            "--pcpu is for xentrace, which would not record: add --backend xentrace",
        ),
        (Options(mask="sched"), "--class is for xentrace"),
        (Options(events=True), "--events is for bpf"),
        (Options(sample_hz=10), "--frequency is for perf and xenctx, .* add --backend perf"),
        (Options(domains=(3,)), "--domain is for xenctx"),
    ],
)
def test_an_option_that_no_backend_honours_is_refused(options: Options, said: str, tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=said):
        run(tmp_path / "a.xtrace", options=options)
    assert not (tmp_path / "a.xtrace").exists()


def test_outside_a_dom0_it_refuses_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"this is a test; --backend bpf"):
        run(tmp_path / "a.xtrace", backends=None)


def test_a_second_recorder_is_refused_and_the_first_goes_on(tmp_path: Path) -> None:
    with only_recorder(), pytest.raises(TraceError, match=f"another recorder .* process {os.getpid()}"):
        run(tmp_path / "a.xtrace")
    assert run(tmp_path / "a.xtrace", duration_s=0.1)[0].end_reason == "duration"


def test_the_previous_capture_stays_if_nothing_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(tmp_path / "a.xtrace", duration_s=0.1)
    with pytest.raises(TraceError):
        run(tmp_path / "a.xtrace", backends=("absent",))
    assert open_capture(tmp_path / "a.xtrace").has_ended


def test_a_backend_that_does_not_start_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Ticker, folder: object, options: object) -> None:
        raise TraceError("the kernel refuses")

    monkeypatch.setattr(Ticker, "start", refuse)
    with pytest.raises(TraceError, match="the kernel refuses"):
        run(tmp_path / "a.xtrace")
    assert not (tmp_path / "a.xtrace").exists()


def test_every_capture_of_a_killed_recorder_is_readable(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "builders.killed", str(tmp_path), "100", "5"],
        cwd=TESTS,
        capture_output=True,
        text=True,
        check=True,
    )
    places = [Path(line) for line in done.stdout.splitlines()]
    assert len(places) == 100
    lengths = []
    for place in places:
        folder = place / "a.xtrace"
        if not folder.exists():
            continue  # killed before it started: no partial capture is in the way
        capture = open_capture(folder)
        assert capture.meta["state"] == "recording"
        found = ticks(capture)
        assert found == list(range(len(found)))
        lengths.append(len(found))
        pairs = capture.clock_pairs()
        assert [pair.monotonic_ns for pair in pairs] == sorted(pair.monotonic_ns for pair in pairs)
        told = [line for line in capture.lines("progress.jsonl") if line["kind"] == "progress"]
        # Everything that progress lines counted is there.
        assert not told or told[-1]["backends"]["ticker"]["records"] <= len(found)
        assert capture.lost == ({"ticker": 0} if told else {})
    # They were killed while recording, not before.
    assert sum(length > 0 for length in lengths) > 30
    assert len(set(lengths)) > 10
