"""Summarise a capture without Xen's trace: from meta.json and the counts of bpf, without its events.

meta.json may be of another version, or from a recorder that was killed: what it lacks is None or empty.
Uses only the standard library.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtrace.probes.bpf.abi import Kind
from xtrace.probes.bpf.event_names import sound_tables
from xtrace.probes.capture import inside
from xtrace.probes.capture.layout import BPF_TABLES, Capture, has_events, open_capture

#: Columns of a row of bpf's tables.
_KIND, _COUNT, _ZERO_COUNT = 0, 3, 7
_MAX_HZ = 1e12


@dataclass(frozen=True, slots=True)
class Recorder:
    """A backend, as meta.json describes it.

    Attributes:
        used: it recorded.
        reason: how it recorded, or why not.
        records, lost: what it wrote, and what is known to be lost; None where that is not known.
        is_least: ``lost`` is only a lower bound.
    """

    name: str
    used: bool
    reason: str
    records: int | None
    lost: int | None
    is_least: bool


@dataclass(frozen=True, slots=True)
class Dom0Survey:
    """What `xtrace info` shows of a capture without Xen's trace.

    Attributes:
        size_bytes, file_count: of its files.
        has_ended: the recorder ended normally; end_reason: why it ended.
        length_s: how long it recorded.
        recorders: the backends, used or not.
        kernel, cpus: of dom0.
        xen_version: as `xl info` said, empty if it failed; None where the host was no dom0.
        tsc_hz, tsc_hz_source: TSC rate, and how it is known.
        emulated: software emulated the host.
        domains: names by id; guests chose them.
        counts: events that bpf counted, by kind.
        streams_events: bpf also wrote each event.
    """

    name: str
    size_bytes: int
    file_count: int
    has_ended: bool
    end_reason: str
    length_s: float | None
    recorders: tuple[Recorder, ...]
    kernel: str
    cpus: int | None
    xen_version: str | None
    tsc_hz: float | None
    tsc_hz_source: str
    emulated: bool
    domains: Mapping[int, str]
    counts: Mapping[str, int]
    streams_events: bool


def survey_dom0(path: str | os.PathLike[str]) -> Dom0Survey:
    """Survey a capture without Xen's trace.

    Raises:
        OSError: a file cannot be read.
        TraceError: meta.json or bpf's tables are damaged.
    """
    capture = open_capture(path)
    meta = capture.meta
    kernel, hz = _of(meta, "kernel"), meta.get("tsc_hz")
    files = list(inside.files(Path(path)))
    return Dom0Survey(
        name=os.fspath(path),
        size_bytes=sum(each.stat().st_size for each in files),
        file_count=len(files),
        has_ended=capture.has_ended,
        end_reason=_text(meta.get("end_reason")),
        length_s=capture.length_s,
        recorders=tuple(_recorders(capture)),
        kernel=_text(kernel.get("release")),
        cpus=_whole(kernel.get("cpus")),
        xen_version=_text(_of(xen, "info").get("xen_version")) if (xen := _of(meta, "xen")) else None,
        tsc_hz=float(hz) if isinstance(hz, int | float) and 0 < hz < _MAX_HZ else None,
        tsc_hz_source=_text(meta.get("tsc_hz_source")),
        emulated=meta.get("timing") == "emulated",
        domains=capture.domain_names,
        counts=_counts(capture),
        streams_events=has_events(path),
    )


def _recorders(capture: Capture) -> Iterator[Recorder]:
    rows = _of(capture.meta, "backends")
    progress = {} if capture.has_ended else _of(capture.last_progress(), "backends")
    for name in rows:
        row = _of(rows, name)
        counts = _of(row, "counts") if capture.has_ended else _of(progress, name)
        yield Recorder(
            name,
            row.get("used") is True,
            _text(row.get("reason")),
            _whole(counts.get("records")),
            _whole(counts.get("lost")),
            counts.get("lost_known") is False,
        )


def _counts(capture: Capture) -> dict[str, int]:
    """Return the events by kind, most frequent first, with those whose duration read 0."""
    counts = Counter[int]()
    with sound_tables(capture):
        for line in capture.lines(BPF_TABLES):
            for row in line.get("rows", ()) if "t_ns" in line else ():
                counts[int(row[_KIND])] += int(row[_COUNT]) + int(row[_ZERO_COUNT])
    names = {int(kind): kind.name.lower() for kind in Kind}
    return {names.get(kind, f"kind {kind}"): count for kind, count in counts.most_common() if count}


def _of(found: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    inner = found.get(key)
    return inner if isinstance(inner, dict) else {}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
