"""Ports of `xtrace top -p`: lines of the bpf backend, live and from a capture, against hand-made values."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from builders.reported import objects, printed
from xtrace.cli.main import main
from xtrace.probes.bpf.tables import heading
from xtrace.probes.capture.layout import open_capture
from xtrace.probes.errors import TraceError
from xtrace.probes.live.histogram import bucket_of
from xtrace.probes.live.ports import PortTable, ReplayedPorts
from xtrace.probes.reader.writer import pack_record, pack_window

UPCALL, DISPATCH, PORT_HANDLER, IRQ_HANDLER = 1, 2, 3, 4
HZ, ORIGIN_NS, ORIGIN_TSC = 1e9, 5_000_000_000, 1 << 40


def row(kind: int, number: int, times: list[int], zeros: int = 0, cpu: int = 0) -> list[int]:
    return [kind, number, cpu, len(times), sum(times), min(times), max(times), zeros]


def line(second: float, *rows: list[int], buckets: list[list[int]] | None = None) -> dict[str, Any]:
    return {"t_ns": ORIGIN_NS + round(second * 1e9), "rows": list(rows), "buckets": buckets or []}


LINES = [
    json.loads(json.dumps(heading())),
    {"t_ns": ORIGIN_NS, "interrupts_begin": {}},
    {"t_ns": ORIGIN_NS, "irqs": {"40": ["xen-dyn", "vif\x1b1.0"], "41": ["xen-dyn", "xenbus"]},
     "ports": {"7": 40, "9": 41}, "counters": {}},
    line(1, row(PORT_HANDLER, 7, [1000, 3000], zeros=1), row(UPCALL, 0, [5000, 7000]),
         buckets=[[PORT_HANDLER, 7, 0, bucket_of(1000), 1], [PORT_HANDLER, 7, 0, bucket_of(3000), 1],
                  [UPCALL, 0, 0, bucket_of(5000), 1], [UPCALL, 0, 0, bucket_of(7000), 1]]),
    line(2, row(PORT_HANDLER, 7, [1000]), row(PORT_HANDLER, 9, [500]), row(DISPATCH, 9, [64]),
         buckets=[[PORT_HANDLER, 7, 1, bucket_of(1000), 1], [PORT_HANDLER, 9, 0, bucket_of(500), 1],
                  [DISPATCH, 9, 0, bucket_of(64), 1]]),
]  # fmt: skip


def test_lines_are_added_up_by_port() -> None:
    table = PortTable()
    for each in LINES:
        table.take(each)
    found = table.period()
    assert found.seconds == 2
    assert found.upcalls == 2
    assert found.upcall.quantile(0.99) == pytest.approx(7000, rel=0.01)
    first, second = sorted(found.ports, key=lambda each: each.port or 0)
    assert (first.port, first.irq, first.name, first.handled, first.zero_count) == (7, 40, "vif\x1b1.0", 4, 1)
    assert first.handler.count == 3
    assert first.handler.quantile(0.5) == pytest.approx(1000, rel=0.01)
    assert (second.port, second.name, second.handled) == (9, "xenbus", 1)
    assert second.dispatch.quantile(0.5) == 64
    assert table.period().ports == []


def test_without_kprobes_interrupts_replace_ports() -> None:
    table = PortTable()
    table.take(LINES[2])
    table.take(line(1, row(IRQ_HANDLER, 40, [10]), buckets=[[IRQ_HANDLER, 40, 0, 10, 1]]))
    (found,) = table.period().ports
    assert (found.port, found.irq, found.handled) == (None, 40, 1)


@pytest.mark.parametrize(
    "bad", [{"t_ns": "x"}, {"rows": [[1]]}, {"irqs": 5}, {"buckets": [["a", 1, 2, 3, 4]]}]
)
def test_an_invalid_line_is_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(TraceError, match="invalid line"):
        PortTable().take(bad)


def capture(folder: Path) -> Path:
    """Make a capture of 3 s with a wake every 100 ms."""
    path = folder / "made.xtrace"
    (path / "bpf").mkdir(parents=True)
    body = b"".join(pack_record(0x28004, ORIGIN_TSC + tenth * 100_000_000, (1, 0)) for tenth in range(31))
    (path / "xentrace.bin").write_bytes(pack_window(0, body))
    (path / "meta.json").write_text(json.dumps({"schema_version": 1, "tsc_hz": HZ, "domains": []}))
    pair = {"kind": "pair", "tsc": [ORIGIN_TSC - 10, ORIGIN_TSC + 10], "monotonic_ns": ORIGIN_NS}
    (path / "clocks.jsonl").write_text(json.dumps(pair) + "\n")
    (path / "bpf" / "tables.jsonl").write_text("".join(json.dumps(each) + "\n" for each in LINES))
    return path


def test_a_replay_uses_the_lines_of_each_period(tmp_path: Path) -> None:
    ports = ReplayedPorts(open_capture(capture(tmp_path)), HZ)
    handled = []
    for second in (1.5, 2.5, 3.5):
        found = ports.period(ORIGIN_TSC + round(second * HZ))
        handled.append({each.port: each.handled for each in found.ports})
    assert handled == [{7: 3}, {7: 1, 9: 1}, {}]


def test_top_shows_them(tmp_path: Path) -> None:
    path = str(capture(tmp_path))
    periods = objects("top", "--json", "-p", "-d", "1.5", "-i", path)
    found = [period["ports"]["rows"] for period in periods]
    handled = [{each["port"]: each["handled_count"] for each in ports} for ports in found]
    assert handled == [{7: 3}, {7: 1, 9: 1}, {}]
    assert periods[0]["ports"]["upcall_count"] == 2
    text = printed("top", "-b", "-p", "-d", "100", "-i", path)
    assert max(map(len, text.splitlines())) <= 80
    assert "\x1b" not in text
    assert "vif\\x1b1.0" in text
    assert text.index("vif") < text.index("xenbus")


def test_captures_without_ports_are_refused(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = capture(tmp_path)
    assert main(["top", "-b", "-p", "-i", str(path / "xentrace.bin"), "--cpu-hz", "1e9"]) == 1
    assert "xentrace.bin" in capfd.readouterr().err
    (path / "bpf" / "tables.jsonl").unlink()
    assert main(["top", "-b", "-p", "-i", str(path)]) == 1
    assert "recorded without bpf" in capfd.readouterr().err
