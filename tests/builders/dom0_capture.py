"""Captures of dom0, by bpf and by a sampling clock, made by hand and written as the recorder does."""

from __future__ import annotations

import json
import shutil
import struct
from pathlib import Path
from typing import Any

from xtrace.probes.bpf import ctf_writer
from xtrace.probes.bpf.abi import Kind
from xtrace.probes.capture import layout
from xtrace.probes.capture.layout import BPF_TABLES, Capture
from xtrace.probes.capture.writer import CaptureWriter
from xtrace.probes.live.histogram import bucket_of

#: Durations by kind, id and vCPU.
Values = dict[tuple[Kind, int, int], list[int]]

META = {"domains": [{"id": 0, "event_channels": [{"port": 17, "kind": "Interdomain", "domain": 3}]}]}
_SAMPLE = struct.Struct("<IIQQQII16sQ")
_EVENT = struct.Struct("<IIQQII")


def bpf_capture(folder: Path, values: Values, irq_name: str = "blkif") -> Capture:
    """Write durations as the recorder would, half of them in a first second and half in a second."""
    lines: list[dict[str, Any]] = [{"schema_version": 1}, {"t_ns": 10**9, "interrupts_begin": {"45": [7, 1]}}]
    for half in range(2):
        rows, buckets = [], []
        for (kind, ident, vcpu), durations in values.items():
            part = durations[half::2]
            timed = [value for value in part if value]
            upto = [value for value in durations[: None if half else 1] if value]
            rows.append(
                [kind, ident, vcpu, len(timed), sum(timed), min(upto, default=0), max(upto, default=0),
                 len(part) - len(timed)]
            )  # fmt: skip
            buckets += [[kind, ident, vcpu, bucket_of(value), 1] for value in timed]
        lines += [
            {"t_ns": (half + 2) * 10**9, "rows": rows},
            {"t_ns": (half + 2) * 10**9, "buckets": buckets},
        ]
    lines.append(
        {"t_ns": 3 * 10**9, "irqs": {"45": ["xen-dyn-lateeoi-event", irq_name]}, "ports": {"17": 45}}
    )
    lines.append({"t_ns": 3 * 10**9, "interrupts_end": {"45": [10, 3], "46": [1, 0]}})
    path = folder / BPF_TABLES
    path.parent.mkdir(parents=True)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return Capture(folder, META)


def sampled_capture(folder: Path, event: str, samples: list[tuple[int, int, int]]) -> Capture:
    """Write samples {CPU, address, flags} as the recorder does."""
    made = CaptureWriter(folder)
    made.stream("samples/metadata").write(ctf_writer.sample_metadata("made").encode())
    for cpu in {cpu for cpu, _, _ in samples}:
        records = b"".join(
            _SAMPLE.pack(56, 7, 1000 + at, Kind.SAMPLE, ip, 1, 1, b"sh", flags)
            for at, (own, ip, flags) in enumerate(samples)
            if own == cpu
        )
        ctf_writer.CpuStreams(made, "samples", cpu).write(1000, 2000, records, 0)
    heading = {"schema_version": 1, "event": event, "sample_hz": 99}
    made.stream(layout.SYMBOLS).write(json.dumps(heading).encode() + b"\n")
    made.close()
    return Capture(folder, {})


def streamed_capture(
    folder: Path, events: list[tuple[int, int, Kind, int, int, int]], discarded: int = 0
) -> Capture:
    """Write events {ns, vCPU, kind, duration_ns, id, pid}, by time, into a capture, as the recorder does."""
    made = CaptureWriter(folder.with_name(f"{folder.name}.events"))
    made.stream(f"{layout.BPF_EVENTS}/metadata").write(ctf_writer.event_metadata().encode())
    for cpu in sorted({cpu for _, cpu, *_ in events} | {0}):
        own = [event for event in events if event[1] == cpu]
        records = b"".join(
            _EVENT.pack(24, 7, at, duration_ns << 8 | kind, ident, pid)
            for at, _, kind, duration_ns, ident, pid in own
        )
        times = [at for at, *_ in own] or [0]
        streams = ctf_writer.CpuStreams(made, layout.BPF_EVENTS, cpu)
        streams.write(times[0], times[-1], records, discarded if cpu == 0 else 0)
    made.close()
    folder.mkdir(exist_ok=True)
    (made.directory / layout.BPF_EVENTS).rename(folder / layout.BPF_EVENTS)
    shutil.rmtree(made.directory)
    return Capture(folder, {})
