"""The xenctx backend with a script in place of the tool that prints what Xen 4.17's prints."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from xtrace.probes.capture.layout import XENCTX_SAMPLES
from xtrace.probes.capture.writer import CaptureWriter
from xtrace.probes.errors import TraceError
from xtrace.probes.host import dom0, xen_tools
from xtrace.probes.recording.backends import xenctx
from xtrace.probes.recording.backends.base import Counts, Options
from xtrace.probes.recording.backends.xenctx import BIAS, XenctxBackend, samples_of

#: Output of Xen 4.17 for a PV guest with two vCPUs, the second one shortened.
_TOLD = """\
vcpu0:
rip: ffffffff81a442b5
flags: 00001246 i z p
rsp: ffffffff82a03db8
rax: 0000000000000000\trcx: ffffffff81a442b5\trdx: 4000000000000000
 cs: e033\t ss: e02b\t ds: 0000\t es: 0000
Code (instr addr ffffffff81a442b5)
cc cc cc cc cc cc cc cc cc cc cc cc cc cc cc cc 51 41 53 0f 05 <41> 5b 59 c3 cc cc cc cc 0f 1f 00


vcpu1:
rip: 0000000000401136
flags: 00001202 i
rsp: 00007ffd00001000
"""


def test_each_vcpu_has_its_registers() -> None:
    assert samples_of(_TOLD) == [
        {"vcpu": 0, "rip": "0xffffffff81a442b5", "flags": "0x1246", "rsp": "0xffffffff82a03db8"},
        {"vcpu": 1, "rip": "0x401136", "flags": "0x1202", "rsp": "0x7ffd00001000"},
    ]


@pytest.mark.parametrize(
    "text", ["", "vcpu0:\n", "rip: 12\n", "vcpu0:\nrip: zz\n", "vcpu99999999:\nrip: 1\n"]
)
def test_invalid_output_gives_no_sample(text: str) -> None:
    assert samples_of(text) == []


@pytest.fixture
def tool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "xenctx"
    path.write_text(f"#!/bin/sh\necho \"$@\" >>{tmp_path}/calls\ncat <<'END'\n{_TOLD}END\n")
    path.chmod(0o755)
    monkeypatch.setattr(dom0, "why_no_dom0", lambda: "")
    monkeypatch.setattr(xen_tools, "tool", lambda name: str(path))
    monkeypatch.setattr(xenctx, "_LEAST_PERIOD_S", 0.01)
    return path


def _poll(backend: XenctxBackend, records: int) -> Counts:
    end = time.monotonic() + 20
    while (counts := backend.poll()).records < records and time.monotonic() < end:
        time.sleep(0.01)
    return counts


def test_samples_are_lines_after_the_bias(tool: Path, tmp_path: Path) -> None:
    capture = CaptureWriter(tmp_path / "c.xtrace")
    backend = XenctxBackend()
    backend.start(capture, Options(domains=(7, 9)))
    _poll(backend, 6)
    counts = backend.stop()
    assert backend.stop() == counts
    capture.close()
    heading, *rows = map(json.loads, (tmp_path / "c.xtrace" / XENCTX_SAMPLES).read_text().splitlines())
    assert heading["bias"] == BIAS == backend.facts()["bias"]
    assert counts.records == len(rows) >= 6
    assert {row["domain"] for row in rows} == {7, 9}
    assert {row["rip"] for row in rows} == {"0xffffffff81a442b5", "0x401136"}
    assert all(0 < row["t_ns"][0] < row["t_ns"][1] for row in rows)
    calls = (tmp_path / "calls").read_text().splitlines()
    assert set(calls) == {"-C -k 0xffffffffffffffff 7", "-C -k 0xffffffffffffffff 9"}
    assert backend.facts()["calls"] == len(calls)


def test_a_domain_that_is_gone_is_counted_and_does_not_end_it(tool: Path, tmp_path: Path) -> None:
    tool.write_text("#!/bin/sh\necho 'xc_domain_getinfo: No such domain' >&2\nexit 1\n")
    capture = CaptureWriter(tmp_path / "c.xtrace")
    backend = XenctxBackend()
    backend.start(capture, Options(domains=(7,)))
    end = time.monotonic() + 20
    while backend.facts()["failed_calls"] < 2 and time.monotonic() < end:
        backend.poll()
        time.sleep(0.01)
    assert backend.stop().records == 0
    capture.close()
    assert backend.facts()["failed_calls"] >= 2
    assert "No such domain" in backend.facts()["last_error"]


def test_outside_a_dom0_it_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dom0, "why_no_dom0", lambda: "this is a Xen guest, not dom0")
    backend = XenctxBackend()
    assert backend.probe().reason == "this is a Xen guest, not dom0"
    with pytest.raises(TraceError, match="not dom0"):
        backend.start(CaptureWriter(tmp_path / "c.xtrace"), Options())
