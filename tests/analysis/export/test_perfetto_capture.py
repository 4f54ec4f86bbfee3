"""A capture in Perfetto's format: one clock for Xen's records and dom0's events; names are only text."""

from __future__ import annotations

import io
import json
import lzma
from pathlib import Path

import pytest

from builders import read_perfetto
from builders.dom0_capture import streamed_capture
from builders.hostile import NAMES
from builders.read_perfetto import Read
from xtrace import samples
from xtrace.analysis import events
from xtrace.analysis.export.names import Part
from xtrace.analysis.export.perfetto.write import write
from xtrace.analysis.export.source import Exported, ExportRequest
from xtrace.probes.bpf.abi import Kind
from xtrace.probes.capture import layout
from xtrace.probes.selection.vcpus import Vcpu

FIRST_TSC, LAST_TSC, HZ = 66066713510, 80315454927, 2.3e9
#: CLOCK_MONOTONIC at the first record.
FIRST_NS = 5_000_000_000
PARTS = (Part.SCHED, Part.DOM0)


def ns_of(tsc: int) -> int:
    return FIRST_NS + round((tsc - FIRST_TSC) * 1e9 / HZ)


#: {ns, vCPU, kind, duration_ns, id, pid}: a second after the first record, and one before it.
EVENTS = [
    (FIRST_NS - 1000, 0, Kind.IRQ_HANDLER, 10, 5, 1),
    (FIRST_NS + 10**9, 0, Kind.IRQ_HANDLER, 700, 36, 1),
    (FIRST_NS + 10**9 + 500, 1, Kind.SEND, 0, 36, 1),
    (FIRST_NS + 2 * 10**9, 0, Kind.SOFTIRQ, 900, 3, 1),
]


@pytest.fixture
def capture(tmp_path: Path) -> Path:
    folder = tmp_path / "c.xtrace"
    streamed_capture(folder, EVENTS)
    (folder / layout.TRACE).write_bytes(lzma.decompress(samples.path().read_bytes()))
    pairs = [
        {"kind": "pair", "tsc": [tsc - 10, tsc + 10], "monotonic_ns": ns_of(tsc), "cpu": 0}
        for tsc in range(FIRST_TSC, LAST_TSC, (LAST_TSC - FIRST_TSC) // 10)
    ]
    (folder / layout.CLOCKS).write_text("".join(f"{json.dumps(pair)}\n" for pair in pairs))
    domains = [{"id": number, "name": name} for number, name in enumerate(NAMES)]
    (folder / layout.META).write_text(json.dumps({"schema_version": 1, "domains": domains}))
    return folder


def written(path: Path, told: list[str], **request: object) -> Read:
    out = io.BytesIO()
    exported = Exported(ExportRequest(path=path, **request))  # type: ignore[arg-type]
    write(exported, out, parts=PARTS, tell=told.append)
    return read_perfetto.read(out.getvalue())


def test_events_of_dom0_are_on_the_clock_of_the_trace(capture: Path) -> None:
    told: list[str] = []
    found = written(capture, told)
    assert not told
    assert {(each.track, each.begin, each.end) for each in found.slices} == {
        ("dom0 vCPU 0: irq_handler", FIRST_NS + 10**9 - 700, FIRST_NS + 10**9),
        ("dom0 vCPU 0: softirq", FIRST_NS + 2 * 10**9 - 900, FIRST_NS + 2 * 10**9),
    }
    assert [(track, at) for track, _, _, at in found.instants] == [
        ("dom0 vCPU 1: send", FIRST_NS + 10**9 + 500)
    ]
    begins = [tsc for frame in events(samples.path(), "runs") for tsc in frame["begin_tsc"].tolist()]
    switches = sorted(run.begin for run in found.runs)
    assert min(abs(switches[0] - ns_of(tsc)) for tsc in begins[:4]) <= 2
    assert abs(switches[-1] - ns_of(LAST_TSC)) <= 2


def test_names_of_domains_are_text(capture: Path) -> None:
    processes = written(capture, []).processes
    assert set(processes) >= {10_000, 20_000, 30_000}
    for pid, name in processes.items():
        if pid <= 30_000:
            assert name.startswith(f"d{pid // 10_000 - 1} ")
        assert name.isprintable()


def test_a_vcpu_of_dom0_has_its_own_events(capture: Path) -> None:
    found = written(capture, [], vcpus=[Vcpu.parse("d0v1")])
    assert not found.slices
    assert len(found.instants) == 1


def test_without_pairs_of_clock_readings_the_events_are_left_out(capture: Path) -> None:
    (capture / layout.CLOCKS).unlink()
    told: list[str] = []
    found = written(capture, told)
    assert len(told) == 1
    assert "does not show how its clock and the TSC go together" in told[0]
    assert not found.slices
    assert min(run.begin for run in found.runs) < 10**9
