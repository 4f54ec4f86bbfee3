"""Sources of live figures: files, and an xentrace on a pipe, played by a script that ends as it does."""

from __future__ import annotations

import lzma
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from builders.processes import running
from xtrace.probes.errors import TraceError
from xtrace.probes.host import dom0, xen_tools
from xtrace.probes.host.run_folder import RUN_DIRECTORY_VARIABLE, run_path
from xtrace.probes.live import feed
from xtrace.probes.live.feed import LiveFeed, mask_of, open_file, open_live
from xtrace.probes.recording import restore
from xtrace.probes.recording.backends.base import Availability
from xtrace.probes.recording.backends.xentrace import XentraceBackend

SAMPLES = sorted((Path(__file__).parents[3] / "samples").glob("*.bin.xz"))
CLASSES = {"sched": 0x20000, "pv": 0x200000, "hw": 0x800000, "hvm": 0x80000}

#: Writes a file repeatedly until SIGTERM, then some more bytes, as xentrace does to empty Xen's buffers.
PLAYER = """
import os, signal, sys, time
ended = []
signal.signal(signal.SIGTERM, lambda *_: ended.append(1))
content = open(sys.argv[1], "rb").read()
times = {times}
def put(data):
    while data:
        try:
            data = data[os.write(1, data):]
        except InterruptedError:
            pass
while not ended and times:
    put(content)
    times -= 1
while not ended and {waits}:
    time.sleep(0.01)
put(b"last")
sys.stderr.write("{says}")
sys.exit({code})
"""

Player = Callable[..., None]


@pytest.fixture
def player(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Player:
    """Replace the host's xentrace by a script."""

    def install(content: bytes, *, times: int = 1, waits: bool = True, says: str = "", code: int = 0) -> None:
        (tmp_path / "content").write_bytes(content)
        (tmp_path / "player.py").write_text(PLAYER.format(times=times, waits=waits, says=says, code=code))
        script = tmp_path / "xentrace"
        script.write_text(
            f'#!/bin/sh\necho "$@" >{tmp_path}/arguments\n'
            f"exec {sys.executable} {tmp_path}/player.py {tmp_path}/content\n"
        )
        script.chmod(0o755)

    monkeypatch.setenv(RUN_DIRECTORY_VARIABLE, str(tmp_path / "run"))
    monkeypatch.setattr(dom0, "why_no_dom0", lambda: "")
    monkeypatch.setattr(
        xen_tools, "tool", lambda name: str(tmp_path / "xentrace") if name == "xentrace" else None
    )
    monkeypatch.setattr(XentraceBackend, "probe", lambda self: Availability(True, "a player"))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(feed, "_END_LIMIT_S", 10.0)
    return install


@pytest.fixture
def undone(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    done: list[str] = []

    def undo(data: Mapping[str, Any]) -> None:
        done.append("switched off")

    monkeypatch.setitem(restore.UNDO, "xen_tracing", undo)
    return done


def notes() -> list[Path]:
    return list(run_path().glob("*.note"))


def read_for(source: LiveFeed, seconds: float, enough: int = sys.maxsize) -> bytes:
    content, end = b"", time.monotonic() + seconds
    while time.monotonic() < end and len(content) < enough:
        content += source.read(0.05) or b""
    return content


def test_the_mask_has_only_the_needed_classes() -> None:
    assert mask_of() == CLASSES["sched"] | CLASSES["pv"] | 0xB000
    assert mask_of(irqs=True) == mask_of() | CLASSES["hw"]
    assert mask_of(hvm=True) == mask_of() | CLASSES["hvm"]


def test_bytes_arrive_as_written_and_tracing_ends(player: Player, undone: list[str], tmp_path: Path) -> None:
    player(b"abcd" * 1000)
    with open_live(mask_of(), 2.5e9) as source:
        assert len(notes()) == 1
        content = read_for(source, 30.0, enough=4000)
        content += read_for(source, 0.2)
    assert content == b"abcd" * 1000
    assert source.rate == feed.TscRate(2.5e9, "--cpu-hz")
    said = (tmp_path / "arguments").read_text().split()
    assert said == ["-D", "-e", f"{mask_of():#x}", "-s", "100", "/proc/self/fd/1"]
    assert notes() == []
    assert undone == []


def test_a_full_pipe_does_not_keep_it_from_ending(player: Player, undone: list[str]) -> None:
    player(bytes(1 << 20), times=1000)
    begin = time.monotonic()
    with open_live(mask_of(), 2.5e9):
        time.sleep(0.3)
    assert time.monotonic() - begin < 8
    assert undone == []


def test_after_an_xentrace_that_fails_tracing_is_switched_off(player: Player, undone: list[str]) -> None:
    player(b"abcd", code=1)
    with open_live(mask_of(), 2.5e9) as source:
        assert source.read(30.0)
    assert undone == ["switched off"]
    assert notes() == []


def test_its_death_is_reported_with_its_message(player: Player, undone: list[str]) -> None:
    player(b"abcd", waits=False, says="Failed to get trace buffer size", code=1)
    death = pytest.raises(TraceError, match="exit code 1: Failed to get trace buffer size")
    with open_live(mask_of(), 2.5e9) as source, death:
        read_for(source, 30.0)
    assert undone == ["switched off"]


def test_silence_is_reported(player: Player, undone: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    player(b"")
    monkeypatch.setattr(feed, "_BEGIN_LIMIT_S", 0.3)
    with open_live(mask_of(), 2.5e9) as source, pytest.raises(TraceError, match="wrote no record"):
        read_for(source, 30.0)


def test_one_at_a_time(player: Player, undone: list[str]) -> None:
    player(b"abcd")
    refusal = pytest.raises(TraceError, match="another recorder")
    with open_live(mask_of(), 2.5e9), refusal, open_live(mask_of(), 2.5e9):
        pass


def test_after_a_kill_the_next_start_switches_tracing_off(
    player: Player, undone: list[str], tmp_path: Path
) -> None:
    player(b"abcd")
    pid = os.fork()
    if pid == 0:
        try:
            with open_live(mask_of(), 2.5e9) as source:
                source.read(1.0)
                (tmp_path / "ready").write_text("")
                time.sleep(60)
        finally:
            os._exit(1)
    end = time.monotonic() + 20
    while not (tmp_path / "ready").exists() and time.monotonic() < end:
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert len(notes()) == 1
    playing = f"{tmp_path}/player.py"
    end = time.monotonic() + 5
    # The kernel signals it when its parent dies.
    while running(playing) and time.monotonic() < end:
        time.sleep(0.05)
    assert not running(playing)
    with open_live(mask_of(), 2.5e9) as source:
        assert source.read(30.0)
    assert undone == ["switched off"]
    assert notes() == []


def test_without_dom0_or_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dom0, "why_no_dom0", lambda: "this machine does not run under Xen")
    with pytest.raises(TraceError, match="-i FILE"), open_live(mask_of(), None):
        pass
    monkeypatch.setattr(dom0, "why_no_dom0", lambda: "")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(TraceError, match="needs root"), open_live(mask_of(), None):
        pass


# --- files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("hz", [None, 2.5e9])
def test_a_file_is_read_completely(hz: float | None) -> None:
    content = b""
    with open_file(str(SAMPLES[0]), hz) as source:
        while (piece := source.read(0.0)) is not None:
            content += piece
    assert content == lzma.decompress(SAMPLES[0].read_bytes())
    assert source.rate.source == ("--cpu-hz" if hz else source.rate.source)
    assert 1e8 < source.rate.hz < 1e10


def test_a_folder_that_is_not_a_capture(tmp_path: Path) -> None:
    with pytest.raises(TraceError), open_file(str(tmp_path), None):
        pass
