"""Packets read back by this project and by babeltrace2; times that go back; truncated files."""

from __future__ import annotations

import re
import struct
import subprocess
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.bpf.system import require_tool
from xtrace.probes.bpf import ctf_writer
from xtrace.probes.bpf.abi import EVENT_BYTES, SAMPLE_BYTES, Kind
from xtrace.probes.bpf.ctf_reader import read_events, read_samples
from xtrace.probes.bpf.ring import ascending_runs
from xtrace.probes.capture.writer import CaptureWriter
from xtrace.probes.errors import TraceError

_EVENT = struct.Struct("<IIQQII")
_SAMPLE = struct.Struct("<IIQQQII16sQ")


def _event(timestamp: int, kind: Kind, duration_ns: int, ident: int, pid: int) -> bytes:
    return _EVENT.pack(24, 7, timestamp, duration_ns << 8 | kind, ident, pid)


def _write(folder: Path, spans: list[tuple[int, bytes, int]]) -> Path:
    """Write spans {cpu, records, discarded} as the recorder does."""
    capture = CaptureWriter(folder)
    capture.stream("events/metadata").write(ctf_writer.event_metadata().encode())
    streams = {cpu: ctf_writer.CpuStreams(capture, "events", cpu) for cpu, _, _ in spans}
    for cpu, records, discarded in spans:
        for first, last, part in ascending_runs(records, EVENT_BYTES):
            streams[cpu].write(first, last, part, discarded)
    capture.close()
    return folder / "events"


def _peer(folder: Path) -> list[dict[str, int | str]]:
    """Return what babeltrace2 reads; any warning from it is a failure."""
    tool = require_tool("babeltrace2", "babeltrace2")
    done = subprocess.run(
        [tool, "--clock-cycles", str(folder)], capture_output=True, text=True, check=True, timeout=60
    )
    said = [line for line in done.stderr.splitlines() if "discarded" not in line]
    assert said == []
    rows = []
    for line in done.stdout.splitlines():
        head = re.match(r"\[(\d+)\] \(.*?\) (?:\S+ )?(\w+): \{ cpu_id = (\d+)", line)
        assert head is not None, line
        row: dict[str, int | str] = {"timestamp": int(head[1]), "name": head[2], "cpu": int(head[3])}
        for key, value in re.findall(r"(\w+) = (0x[0-9A-F]+|\d+|\"[^\"]*\")", line[head.end() :]):
            row[key] = value.strip('"') if value.startswith('"') else int(value, 0)
        rows.append(row)
    return rows


def test_babeltrace2_reads_the_same_events(tmp_path: Path) -> None:
    spans = []
    chosen = np.random.default_rng(3)
    kinds = [kind for kind in Kind if kind is not Kind.SAMPLE]
    for number in range(12):
        times = 1000 * number + np.sort(chosen.integers(0, 1000, 40))
        records = b"".join(
            _event(
                int(time),
                kinds[int(chosen.integers(len(kinds)))],
                int(chosen.integers(1 << 40)),
                number,
                4242,
            )
            for time in times
        )
        spans.append((number % 3, records, 0))
    folder = _write(tmp_path / "c.xtrace", spans)
    ours = read_events(folder).records
    theirs = _peer(folder)
    assert len(theirs) == len(ours) == 480
    told = sorted(
        (
            row["timestamp"],
            row["cpu"],
            row["name"],
            row.get("duration_ns", row.get("unused_duration")),
            row["pid"],
        )
        for row in theirs
    )
    known = sorted(
        (int(row["timestamp"]), int(row["cpu"]), Kind(int(row["kind"])).name.lower(), int(row["duration_ns"]),
         int(row["pid"]))
        for row in ours
    )  # fmt: skip
    assert told == known


def test_babeltrace2_reads_the_same_samples(tmp_path: Path) -> None:
    capture = CaptureWriter(tmp_path / "c.xtrace")
    capture.stream("samples/metadata").write(ctf_writer.sample_metadata("software clock").encode())
    records = b"".join(
        _SAMPLE.pack(56, 7, time, Kind.SAMPLE, 0xFFFFFFFF81000000 + time, 5, 6, b"a name", 0x246)
        for time in (100, 200, 200)
    )
    ctf_writer.CpuStreams(capture, "samples", 1).write(100, 200, records, 4)
    capture.close()
    found = read_samples(tmp_path / "c.xtrace" / "samples")
    assert found.discarded == 4
    theirs = _peer(tmp_path / "c.xtrace" / "samples")
    assert [(row["timestamp"], row["ip"], row["comm"], row["flags"]) for row in theirs] == [
        (int(row["timestamp"]), int(row["ip"]), row["comm"].decode(), int(row["flags"]))
        for row in found.records
    ]
    assert len(theirs) == 3


@given(st.lists(st.integers(0, 50), max_size=60))
def test_runs_ascend_and_keep_every_record_in_order(times: list[int]) -> None:
    span = b"".join(_event(time, Kind.SEND, 0, number, 0) for number, time in enumerate(times))
    runs = ascending_runs(span, EVENT_BYTES)
    assert b"".join(records for _, _, records in runs) == span
    for first, last, records in runs:
        inside = [_EVENT.unpack_from(records, at)[2] for at in range(0, len(records), EVENT_BYTES)]
        assert inside == sorted(inside)
        assert (inside[0], inside[-1]) == (first, last)
    assert all(after[0] < before[1] for before, after in pairwise(runs))


def test_a_record_after_a_later_one_goes_to_another_stream(tmp_path: Path) -> None:
    times = [10, 30, 20, 40, 35, 5, 50]
    records = b"".join(_event(time, Kind.SEND, 0, time, 0) for time in times)
    folder = _write(tmp_path / "c.xtrace", [(0, records, 3)])
    assert sorted(path.name for path in folder.iterdir()) == [
        "metadata",
        "stream_0",
        "stream_0_1",
        "stream_0_2",
    ]
    found = read_events(folder)
    assert found.records["timestamp"].tolist() == sorted(times)
    # Losses are counted once, however many streams a CPU has.
    assert found.discarded == 3
    assert [row["timestamp"] for row in _peer(folder)] == sorted(times)


@pytest.mark.parametrize("kept", [0, 1, 55, 56, 57, 56 + 31, 56 + 64 + 10, 56 + 96])
def test_a_truncated_stream_loses_at_most_its_last_packet(tmp_path: Path, kept: int) -> None:
    packets = [
        b"".join(_event(10 * number + at, Kind.SEND, 0, at, 0) for at in range(3)) for number in range(2)
    ]
    folder = _write(tmp_path / "c.xtrace", [(0, packet, 0) for packet in packets])
    stream = folder / "stream_0"
    whole = stream.read_bytes()
    size = len(whole) // 2
    stream.write_bytes(whole[: size + kept])
    found = read_events(folder)
    assert len(found.records) == (6 if kept == size else 3)
    assert found.cut_bytes == (0 if kept == size else kept)


@pytest.mark.parametrize(
    ("offset", "value"), [(0, 0), (24, 1 << 63), (24, 8), (32, 0), (32, 8 * 57), (48, 1 << 40)]
)
def test_a_damaged_packet_is_reported_with_its_offset(tmp_path: Path, offset: int, value: int) -> None:
    folder = _write(tmp_path / "c.xtrace", [(0, _event(1, Kind.SEND, 0, 1, 1), 0)])
    stream = folder / "stream_0"
    content = bytearray(stream.read_bytes())
    struct.pack_into("<Q", content, offset, value)
    stream.write_bytes(content)
    with pytest.raises(TraceError, match="offset 0: not a packet"):
        read_events(folder)


def test_a_trace_of_another_tracer_is_refused(tmp_path: Path) -> None:
    (tmp_path / "metadata").write_text("/* CTF 1.8 */\ntrace { major = 1; };\n")
    with pytest.raises(TraceError, match="not from a trace that xtrace wrote"):
        read_events(tmp_path)


def test_record_sizes_match_the_metadata() -> None:
    assert _EVENT.size == EVENT_BYTES
    assert _SAMPLE.size == SAMPLE_BYTES
    assert f"align({8 * EVENT_BYTES})" in ctf_writer.event_metadata()


def test_babeltrace2_reads_a_whole_capture(tmp_path: Path) -> None:
    """The two folders name one clock, which a reader needs to merge them by time."""
    capture = CaptureWriter(tmp_path / "c.xtrace")
    capture.stream("events/metadata").write(ctf_writer.event_metadata().encode())
    capture.stream("samples/metadata").write(ctf_writer.sample_metadata("software clock").encode())
    events = b"".join(_event(time, Kind.SEND, 0, time, 0) for time in (100, 300))
    ctf_writer.CpuStreams(capture, "events", 0).write(100, 300, events, 0)
    sample = _SAMPLE.pack(56, 7, 200, Kind.SAMPLE, 0xFFFFFFFF81000000, 5, 6, b"a name", 0x246)
    ctf_writer.CpuStreams(capture, "samples", 1).write(200, 200, sample, 0)
    capture.close()
    assert [row["timestamp"] for row in _peer(tmp_path / "c.xtrace")] == [100, 200, 300]
