"""xtrace record in dom0: readable captures, exact losses, markers, and a host left as it was."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lab.checks import made
from lab.checks.made import chosen, folder, known, known_rows
from oracle.reader import Trace, read
from peer.xenalyze import raw_records
from xtrace.analysis.summary.timeline import compare_marks, of_capture
from xtrace.probes.capture.layout import Capture, open_capture

RECORD = chosen("record-xentrace")
ENDED = ("lost", "sized", "step", "died", "full", "bounded", "ring")
CAPTURES = (*ENDED, "killed")
CODES = {
    **dict.fromkeys(("lost", "sized", "step", "bounded", "ring"), 0),
    **dict.fromkeys(("second", "died", "foreign", "full", "called"), 1),
    "uncalled": 2,
    "killed": 128 + 9,
    "while": 7,
}
every = pytest.mark.parametrize("name", RECORD)


def said(name: str, what: str) -> str:
    return (folder(name) / f"{what}.said").read_text()


def capture(name: str, what: str) -> Capture:
    return open_capture(folder(name) / f"{what}.xtrace")


@functools.cache
def records(name: str, what: str) -> Trace:
    return read((folder(name) / f"{what}.xtrace" / "xentrace.bin").read_bytes())


def backend(name: str, what: str) -> dict[str, Any]:
    found: dict[str, Any] = capture(name, what).meta["backends"]["xentrace"]
    return found


@every
def test_exit_codes(name: str) -> None:
    assert {row[1]: int(row[2]) for row in known_rows(name) if row[0] == "code"} == CODES


@every
@pytest.mark.parametrize("what", CAPTURES)
def test_xenalyze_finds_the_records_that_the_recorder_counted(what: str, name: str) -> None:
    trace = records(name, what)
    path = folder(name) / f"{what}.xtrace" / "xentrace.bin"
    assert len(trace.records) > 0
    assert len(raw_records(path)) == len(trace.records) + trace.wrap_count
    assert capture(name, what).has_ended == (what in ENDED)
    if what in ENDED:
        assert backend(name, what)["counts"]["records"] == len(trace.records)
        assert backend(name, what)["counts"]["byte_count"] == path.stat().st_size


@every
@pytest.mark.parametrize("what", CAPTURES)
def test_losses_are_exact(what: str, name: str) -> None:
    lost = [record.words[0] for record in records(name, what).records if record.event == made.LOST_RECORDS]
    if what in ENDED:
        assert capture(name, what).lost == {"xentrace": sum(lost)}
        assert backend(name, what)["facts"]["gaps"] == len(lost)
        assert f"{sum(lost):,} lost" in said(name, what)
    if what == "lost":
        assert sum(lost) > 100


@every
@pytest.mark.parametrize("what", ["sized", "step", "killed", "died"])
def test_every_marker_is_in_the_trace_between_its_readings(what: str, name: str) -> None:
    found = capture(name, what)
    command = found.meta["clocks"]["mark_command"]
    hits = [
        (record.words[2], record.tsc)
        for record in records(name, what).records
        if record.event == made.HYPERCALL
        and record.words[0] & 0xFFFFF == made.VCPU_OP
        and len(record.words) > 2
        and record.words[1] == command
    ]
    sent = found.marks()
    numbers, tscs = (np.array(column, np.int64) for column in zip(*hits, strict=True))
    result = compare_marks(sent, numbers, tscs)
    assert len(sent) > 3
    assert result.outside == 0
    lost = any(record.event == made.LOST_RECORDS for record in records(name, what).records)
    if what in ("sized", "step") and not lost:
        # One is sent before xentrace begins, and one after it has ended.
        assert result.found == result.sent - 2


@every
@pytest.mark.parametrize("what", ["sized", "step"])
def test_the_clocks_agree(what: str, name: str) -> None:
    found = capture(name, what)
    fitted = found.meta["clocks"]["fit"]
    assert found.meta["tsc_hz"] == pytest.approx(float(found.meta["xen"]["info"]["cpu_mhz"]) * 1e6, rel=1e-3)
    assert fitted["pairs"] >= 5
    error = of_capture(found).error_ns
    assert error is not None
    assert error < 50e6


@every
def test_the_host_is_described(name: str) -> None:
    meta = capture(name, "lost").meta
    assert (meta["xen_version"], meta["scheduler"], meta["timing"]) == ("4.17", "credit2", "emulated")
    assert "dom0_mem" in meta["xen"]["info"]["xen_commandline"]
    assert meta["xen"]["missing"] == []
    assert len(meta["xen"]["topology"]) == 2
    assert any("MHz processor" in line for line in meta["xen"]["tsc_lines"])


@every
def test_domains_include_one_that_ended_meanwhile(name: str) -> None:
    rows = {row["id"]: row for row in capture(name, "lost").meta["domains"]}
    dom0, guest = rows[0], rows[int(known(name)["domid_a"][0])]
    assert (dom0["name"], len(dom0["vcpus"])) == ("Domain-0", 2)
    assert {port["kind"] for port in dom0["event_channels"]} >= {"virq", "ipi", "Interdomain (Connected)"}
    assert dom0["seen"]["to"] is None
    assert (guest["name"], guest["type"], guest["kernel"]) == ("a", "pv", "/boot/vmlinux")
    assert guest["event_channels"]
    assert guest["seen"]["to"] is not None
    assert set(rows) - {0, guest["id"]} == set()


@every
def test_a_clock_step_is_noticed(name: str) -> None:
    (step,) = capture(name, "step").meta["clocks"]["realtime_steps_ns"]
    assert step == pytest.approx(3600e9, abs=5e9)
    assert capture(name, "sized").meta["clocks"]["realtime_steps_ns"] == []


@every
def test_refusals_say_why(name: str) -> None:
    assert "another recorder is running" in said(name, "second")
    assert "xentrace is already running" in said(name, "foreign")
    assert "no domain is called 'nobody'; it has Domain-0 (d0)" in said(name, "uncalled")
    assert "--domain is for xenctx, which would not record" in said(name, "called")
    assert all(said(name, what).count("\n") == 1 for what in ("second", "foreign", "uncalled", "called"))
    assert "-S 64 has no effect" in said(name, "sized")
    assert backend(name, "sized")["facts"]["sized_before"] == 16


@every
def test_recordings_that_fail_say_so(name: str) -> None:
    assert "xentrace ended by itself, signal SIGKILL" in said(name, "died").splitlines()[-1]
    last = said(name, "full").splitlines()[-1]
    assert "No space left" in last or "the disk is full" in last
    assert "--max-size" in said(name, "bounded").splitlines()[-1]
    size = (folder(name) / "bounded.xtrace" / "xentrace.bin").stat().st_size
    assert 200_000 < size < 2_000_000
    assert 0 < (folder(name) / "ring.xtrace" / "xentrace.bin").stat().st_size < 1_200_000


@every
@pytest.mark.parametrize("what", ["killed", "died", "end"])
def test_tracing_is_not_left_on(what: str, name: str) -> None:
    before = int((folder(name) / f"{what}.before").read_text().split()[0])
    second = int(capture(name, "sized").meta["tsc_hz"])
    found = read((folder(name) / f"{what}.after").read_bytes()).records
    assert found
    for record in found:
        # Records from before the recorder's end may still be in Xen's buffers.
        assert not before - second < record.tsc < before
        if record.event == made.LOST_RECORDS:
            assert record.words[2] | record.words[3] << 32 > before
    assert known(name)["xentrace_left"] == ["0"]


@every
def test_the_overhead_is_recorded(name: str) -> None:
    overhead = capture(name, "step").meta["overhead"]
    assert 0 < overhead["cpu_s"] < 60
    facts = backend(name, "step")["facts"]
    assert overhead["own_upcalls"] >= facts["buffer_interrupts"]


@every
@pytest.mark.parametrize("what", ["lost", "killed"])
def test_the_report_reads_a_capture(what: str, name: str) -> None:
    program = "import sys; from xtrace.cli.main import main; sys.exit(main(sys.argv[1:]))"
    path: Path = folder(name) / f"{what}.xtrace"
    done = subprocess.run(
        [sys.executable, "-c", program, "report", "--json", str(path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    trace = json.loads(done.stdout)["trace"]
    assert trace["emulated"] is True
    assert trace["domains"]["0"] == "Domain-0"
    assert trace["records"] == len(records(name, what).records)
    assert trace["tsc_hz"] == capture(name, what).meta["tsc_hz"]


@pytest.mark.parametrize("name", chosen("record-untraced"))
def test_a_xen_without_a_trace_buffer(name: str) -> None:
    reason = "xentrace: Xen has no trace buffer: Function not implemented"
    codes = {row[1]: int(row[2]) for row in known_rows(name) if row[0] == "code"}
    assert codes == {"named": 1, "default": 0}
    assert said(name, "named") == f"xtrace: {reason} (build Xen with CONFIG_TRACEBUFFER=y)\n"
    assert f"not using {reason}" in said(name, "default")
    assert "left" not in known(name)
    found = capture(name, "default")
    assert found.has_ended
    assert found.meta["backends"]["xentrace"]["used"] is False
    assert found.meta["backends"]["bpf"]["used"] is True
