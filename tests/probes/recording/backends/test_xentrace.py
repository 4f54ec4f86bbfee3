"""The xentrace backend with a stand-in for the tool, which needs Xen; tests/lab runs the real one."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from builders.processes import running
from xtrace.probes.capture.stream import CaptureFullError
from xtrace.probes.capture.writer import CaptureWriter
from xtrace.probes.errors import TraceError
from xtrace.probes.host import dom0, run_folder, trace_buffers, xen_tools
from xtrace.probes.reader.writer import pack_record, pack_window
from xtrace.probes.recording import restore
from xtrace.probes.recording.backends import xentrace
from xtrace.probes.recording.backends.base import Options
from xtrace.probes.recording.backends.xentrace import XentraceBackend

#: Appends a window every hundredth of a second; on SIGTERM one more, then exits cleanly.
STAND_IN = """
import os, signal, sys, time
if sys.argv[1:] == ["--version"]:
    print("xentrace v1.2")
    raise SystemExit
ended = []
signal.signal(signal.SIGTERM, lambda number, frame: ended.append(1))
window = bytes.fromhex(os.environ["STAND_IN_WINDOW"])
print("change buffer size to 32")
sys.stdout.flush()
with open(sys.argv[-1], "wb", buffering=0) as file:
    for number in range(int(os.environ.get("STAND_IN_LIVES", "100000"))):
        file.write(window)
        if ended:
            raise SystemExit(0)
        time.sleep(0.01)
print(os.environ.get("STAND_IN_LAST", "gone"), file=sys.stderr)
raise SystemExit(1)
"""
WINDOW = pack_window(0, pack_record(0x28004, 5, [1, 2]) * 3 + pack_record(0x1F001, 9, [7, 0, 5, 0]))


@pytest.fixture
def switched_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace the tool with the stand-in; return the calls that would have switched tracing off."""
    tool = tmp_path / "xentrace"
    tool.write_text(f"#!{sys.executable} -S\n{STAND_IN}")
    tool.chmod(0o755)
    calls: list[str] = []
    monkeypatch.setenv(run_folder.RUN_DIRECTORY_VARIABLE, str(tmp_path / "run"))
    monkeypatch.setenv("STAND_IN_WINDOW", WINDOW.hex())
    monkeypatch.setattr(dom0, "why_no_dom0", lambda: "")
    monkeypatch.setattr(xen_tools, "tool", lambda name: str(tool))
    monkeypatch.setattr(dom0, "running", lambda name: [])
    monkeypatch.setattr(trace_buffers, "is_sized", lambda: False)
    monkeypatch.setattr(xen_tools, "pcpus", lambda: frozenset({0, 1}))
    monkeypatch.setattr(trace_buffers, "switch_off", lambda: calls.append("off"))
    return calls


def notes(tmp_path: Path) -> list[Path]:
    return list((tmp_path / "run").glob("*.note"))


def started(tmp_path: Path, **wanted: Any) -> tuple[XentraceBackend, CaptureWriter]:
    capture = CaptureWriter(tmp_path / "a.xtrace")
    backend = XentraceBackend()
    backend.start(capture, Options(**wanted))
    return backend, capture


def test_from_start_to_end(tmp_path: Path, switched_off: list[str]) -> None:
    backend, capture = started(tmp_path, mask="sched+pv", ring_pages=64, pcpus="0-1", memory_mib=2)
    assert len(notes(tmp_path)) == 1
    time.sleep(0.1)
    first = backend.poll()
    counts = backend.stop()
    assert 0 < first.records <= counts.records
    data = (capture.directory / "xentrace.bin").read_bytes()
    assert counts.byte_count == len(data)
    assert counts.records == 4 * (len(data) // len(WINDOW))
    assert counts.lost == 7 * (len(data) // len(WINDOW))
    facts = backend.facts()
    assert facts["command"][1:] == [
        *("-D", "-e", "0x22f000", "-s", "100", "-c", "0-1", "-S", "64", "-M", str(2 << 20), "-r", "32"),
        "xentrace.bin",
    ]
    assert (facts["exit_code"], facts["version"]) == (0, "xentrace v1.2")
    assert facts["marks_are_traced"] is True
    assert facts["said"] == ["change buffer size to 32"]
    assert backend.stop() == counts
    assert (notes(tmp_path), switched_off) == ([], [])
    assert (tmp_path / "run" / "ring_pages").read_text() == "64\n"
    capture.close()


@pytest.mark.parametrize(
    ("last", "error"),
    [
        ("gone", TraceError),
        ("Failed to write trace data 14 = Bad address; this file system", TraceError),
        ("Failed to write: No space left on device", CaptureFullError),
    ],
)
def test_an_end_by_itself_is_reported_with_its_last_line(
    last: str,
    error: type[TraceError],
    tmp_path: Path,
    switched_off: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STAND_IN_LIVES", "5")
    monkeypatch.setenv("STAND_IN_LAST", last.partition(";")[0])
    backend, capture = started(tmp_path)
    with pytest.raises(error, match=f"xentrace ended by itself, exit code 1: {last}") as caught:  # noqa: PT012
        while True:
            backend.poll()
            time.sleep(0.01)
    assert isinstance(caught.value, CaptureFullError) == (error is CaptureFullError)
    assert backend.stop().records == 20
    # It may have left tracing on.
    assert (switched_off, notes(tmp_path)) == (["off"], [])
    capture.close()


def test_after_a_killed_xentrace_tracing_is_switched_off(tmp_path: Path, switched_off: list[str]) -> None:
    backend, capture = started(tmp_path)
    assert backend._process is not None
    backend._process.kill()
    backend._process.wait()
    with pytest.raises(TraceError, match="signal SIGKILL"):
        backend.poll()
    backend.stop()
    assert switched_off == ["off"]
    capture.close()


def test_tracing_is_left_on_for_another_xentrace(
    tmp_path: Path, switched_off: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    note = restore.note("xen_tracing", {})
    monkeypatch.setattr(dom0, "running", lambda name: [4711])
    note.undo()
    assert (switched_off, notes(tmp_path)) == ([], [])


def test_tracing_that_cannot_be_switched_off_keeps_its_note(
    tmp_path: Path, switched_off: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise TraceError("Xen does not answer")

    backend, capture = started(tmp_path)
    assert backend._process is not None
    backend._process.kill()
    monkeypatch.setattr(trace_buffers, "switch_off", refuse)
    with pytest.raises(TraceError, match="does not answer"):
        backend.stop()
    assert len(notes(tmp_path)) == 1
    capture.close()


@pytest.mark.parametrize("wanted", ["9", "0-4", "0x4"])
def test_pcpus_that_the_host_lacks_are_refused(wanted: str, tmp_path: Path, switched_off: list[str]) -> None:
    """xentrace would end at once, or record the others."""
    with pytest.raises(TraceError, match=rf"--pcpu {wanted}: this host has no pCPU .*, only 0-1$"):
        started(tmp_path, pcpus=wanted)
    assert notes(tmp_path) == []


def test_another_xentrace_that_starts_meanwhile_is_said(
    tmp_path: Path, switched_off: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each gets a part of the records, so that none is known to be lost says nothing."""
    monkeypatch.setattr(xentrace, "_LOOK_S", 0.0)
    backend, capture = started(tmp_path)
    assert backend._process is not None
    own = backend._process.pid
    monkeypatch.setattr(dom0, "running", lambda name: [own])
    assert backend.poll().lost_known
    monkeypatch.setattr(dom0, "running", lambda name: [own, 4711])
    assert not backend.poll().lost_known
    monkeypatch.setattr(dom0, "running", lambda name: [own])
    assert not backend.stop().lost_known
    (said,) = backend.facts()["warnings"]
    assert "process 4711" in said
    assert backend.facts()["shared_with"] == [4711]
    capture.close()


def test_what_it_has_set_is_no_reason_of_its_end(
    tmp_path: Path, switched_off: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STAND_IN_LIVES", "0")
    monkeypatch.setenv("STAND_IN_LAST", "change evtmask to 0xffff000")
    with pytest.raises(TraceError, match=r"xentrace ended by itself, exit code 1, without a reason$"):
        started(tmp_path)


def test_a_tool_that_does_not_start(
    tmp_path: Path, switched_off: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(xentrace, "_BEGIN_LIMIT_S", 0.3)
    monkeypatch.setenv("STAND_IN_WINDOW", "")
    capture = CaptureWriter(tmp_path / "a.xtrace")
    backend = XentraceBackend()
    with pytest.raises(TraceError, match="did not start tracing"):
        backend.start(capture, Options())
    backend.stop()
    assert notes(tmp_path) == []
    capture.close()


def test_xentrace_ends_in_an_orderly_way_when_its_recorder_is_killed(
    tmp_path: Path, switched_off: list[str]
) -> None:
    recorder = os.fork()
    if recorder == 0:
        backend, _ = started(tmp_path)
        assert backend._process is not None
        (tmp_path / "pid").write_text(str(backend._process.pid))
        signal.pause()
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
        time.sleep(0.01)
    tool = int((tmp_path / "pid").read_text())
    os.kill(recorder, signal.SIGKILL)
    os.waitpid(recorder, 0)
    for _ in range(500):
        if not Path(f"/proc/{tool}").exists() or "State:\tZ" in Path(f"/proc/{tool}/status").read_text():
            break
        time.sleep(0.01)
    else:
        pytest.fail("xentrace is still running")
    assert (tmp_path / "a.xtrace" / "xentrace.bin").stat().st_size % len(WINDOW) == 0
    # The next start finds the note.
    assert len(notes(tmp_path)) == 1
    assert ["undid" in line for line in restore.recover()] == [True]
    assert (switched_off, notes(tmp_path)) == (["off"], [])


def test_reasons_why_it_cannot_record(
    tmp_path: Path, switched_off: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def none() -> bool:
        raise TraceError("Xen has no trace buffer: Function not implemented")

    backend = XentraceBackend()
    assert backend.probe().usable
    monkeypatch.setattr(trace_buffers, "is_sized", none)
    found = backend.probe()
    assert (found.usable, found.remedy) == (False, "build Xen with CONFIG_TRACEBUFFER=y")
    monkeypatch.setattr(dom0, "running", lambda name: [4711])
    assert backend.probe().remedy == "kill -INT 4711"
    monkeypatch.setattr(xen_tools, "tool", lambda name: None)
    assert "apt-get install xen-utils" in backend.probe().remedy
    monkeypatch.setattr(dom0, "why_no_dom0", lambda: "this is a Xen guest, not dom0")
    assert backend.probe().reason == "this is a Xen guest, not dom0"


def test_buffers_keep_their_first_size(
    tmp_path: Path, switched_off: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trace_buffers, "is_sized", lambda: True)
    backend, capture = started(tmp_path, ring_pages=64)
    assert backend.facts()["sized_before"] == "unknown"
    assert "-S 64 has no effect" in backend.facts()["warnings"][0]
    backend.stop()
    capture.close()
    # The size that another recorder set is not overwritten with one that had no effect.
    assert not (tmp_path / "run" / "ring_pages").exists()


@pytest.mark.parametrize("pcpus", ["", "one", "0-", "1;2", "-e all", "0x"])
def test_pcpus_that_are_invalid(pcpus: str, tmp_path: Path, switched_off: list[str]) -> None:
    with pytest.raises(TraceError, match="pCPU"):
        started(tmp_path, pcpus=pcpus)
    assert not running(str(tmp_path / "xentrace"))
