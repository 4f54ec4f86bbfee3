"""The raw TSC from Python, and the clock lines of a recording."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import platform
import struct
import termios
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from xtrace.probes.capture.layout import CLOCKS, Capture
from xtrace.probes.capture.writer import CaptureWriter
from xtrace.probes.host.raw_tsc import RawTsc
from xtrace.probes.recording.clocks import Clocks, step_between

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="the TSC is specific to x86")


def test_pairs_ascend_and_bracket_the_time() -> None:
    tsc = RawTsc()
    rows = []
    for _ in range(100):
        begin = time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        rows.append((begin, tsc.pair(), time.clock_gettime_ns(time.CLOCK_MONOTONIC)))
    for begin, (before, ns, after), end in rows:
        assert begin <= ns <= end
        assert before < after
    for earlier, later in pairwise(rows):
        assert earlier[1][2] < later[1][0]


def test_a_call_between_two_readings_returns_its_result() -> None:
    tsc = RawTsc()
    reader, writer = os.pipe()
    os.write(writer, b"12345")
    count = ctypes.c_int(0)
    before, result, code, after = tsc.ioctl(reader, termios.FIONREAD, ctypes.addressof(count))
    assert before < after
    assert (result, code, count.value) == (0, 0, 5)
    assert tsc.ioctl(reader, termios.TIOCGWINSZ, ctypes.addressof(count))[1:3] == (-1, errno.ENOTTY)
    os.close(reader)
    os.close(writer)


def test_cpuid_matches_proc_cpuinfo() -> None:
    _eax, ebx, ecx, edx = RawTsc().cpuid(0)
    vendor = struct.pack("<3I", ebx, edx, ecx).decode()
    assert f": {vendor}\n" in Path("/proc/cpuinfo").read_text()


def test_a_recordings_lines_are_read_back(tmp_path: Path) -> None:
    capture = CaptureWriter(tmp_path / "a.xtrace")
    clocks = Clocks()
    clocks.start(capture.stream(CLOCKS))
    affinity = os.sched_getaffinity(0)
    clocks.every_cpu()
    time.sleep(0.02)
    clocks.tick()
    clocks.stop()
    capture.close()
    assert os.sched_getaffinity(0) == affinity
    read = Capture(capture.directory, {})
    assert read.clock_pairs() == clocks.pairs
    assert {pair.cpu for pair in clocks.pairs} >= affinity - {None}
    facts = clocks.facts()
    assert facts["fit"]["pairs"] + facts["fit"]["wide_pairs"] == len(clocks.pairs) == 2 + len(affinity)
    assert set(facts["cpu_off_ns"]) == {str(cpu) for cpu in affinity}
    assert facts["fit"]["error_ns"] >= facts["fit"]["bracket_ns"] / 2
    json.dumps(facts)


def test_pairs_in_memory_are_bounded_and_the_file_has_all(tmp_path: Path) -> None:
    capture = CaptureWriter(tmp_path / "a.xtrace")
    clocks = Clocks()
    clocks.start(capture.stream(CLOCKS))
    for _ in range(4200):
        clocks.tick()
    capture.close()
    assert len(clocks.pairs) <= 4096
    assert len(Capture(capture.directory, {}).clock_pairs()) == 4201
    assert clocks.facts()["fit"]["span_s"] > 0


SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("passed", "realtime", "step"),
    [
        (SECOND, SECOND, 0),
        (SECOND, SECOND + 400_000, 0),  # slewed by NTP, almost at its limit
        (60 * SECOND, 60 * SECOND + 30_000_000, 0),
        (SECOND, SECOND + 5_000_000, 5_000_000),
        (SECOND, -3600 * SECOND, -3601 * SECOND),
    ],
)
def test_a_clock_that_is_set_is_distinguished_from_one_that_is_slewed(
    passed: int, realtime: int, step: int
) -> None:
    assert step_between((7, 1000, 0), (7 + passed, 1000 + realtime, 0)) == step


def test_a_difference_within_the_readings_is_not_a_step() -> None:
    assert step_between((0, 0, 100), (10**9, 10**9 + 8_000_000, 7_500_000)) == 0
    assert step_between((0, 0, 100), (10**9, 10**9 + 10_000_000, 7_500_000)) == 10_000_000


def test_a_step_is_a_line_and_a_fact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    capture = CaptureWriter(tmp_path / "a.xtrace")
    clocks = Clocks()
    clocks.start(capture.stream(CLOCKS))
    real = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: real() + 7 * SECOND)
    clocks.tick()
    clocks.tick()
    capture.close()
    lines: list[dict[str, Any]] = [
        line for line in Capture(capture.directory, {}).lines(CLOCKS) if line["kind"] == "step"
    ]
    (step,) = clocks.facts()["realtime_steps_ns"]
    assert [line["step_ns"] for line in lines] == [step]
    assert step == pytest.approx(7 * SECOND, abs=50_000_000)


def test_the_hypercall_ioctl_number_is_the_kernels() -> None:
    # Linux, include/uapi/xen/privcmd.h; compared with the number that the _IOC() rule gives.
    from xtrace.probes.recording.clocks import _IOCTL_HYPERCALL

    size = struct.calcsize("<6Q")
    assert size << 16 | ord("P") << 8 == _IOCTL_HYPERCALL
    with open("/dev/null") as file, pytest.raises(OSError, match=r"Inappropriate|Invalid"):
        fcntl.ioctl(file, _IOCTL_HYPERCALL)
