"""What bpf recorded in dom0's kernel, on the clock of the trace: a capture has pairs of readings of both."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from xtrace.analysis.export.perfetto import wire
from xtrace.analysis.export.perfetto.clock import Clock
from xtrace.analysis.export.perfetto.tracks import Tracks
from xtrace.analysis.export.source import Exported, Tell
from xtrace.probes.bpf.abi import UNTIMED
from xtrace.probes.bpf.event_lines import kind_name, open_events
from xtrace.probes.capture.clock_line import fit
from xtrace.probes.capture.layout import META, has_events, open_capture
from xtrace.probes.words import printable

_NAME = 2
_NAME_MOST = 100


def clock_of(exported: Exported) -> Clock | None:
    """Return dom0's CLOCK_MONOTONIC as the time axis; None where no pairs of readings show it."""
    path = exported.request.path
    if not (path / META).is_file():
        return None
    line = fit(open_capture(path).clock_pairs())
    return None if line is None else Clock(line.tsc, line.ns, line.hz)


def events(exported: Exported, tracks: Tracks, tell: Tell) -> Iterator[bytes]:
    """Yield the packets of the events of a capture, if it has them and the clocks can be compared."""
    path = exported.request.path
    if not (path / META).is_file() or not has_events(path):
        return
    clock = clock_of(exported)
    if clock is None:
        tell("dom0's events left out: the capture does not show how its clock and the TSC go together")
        return
    found, names = open_events(open_capture(path))
    first, last = (int(each) for each in clock.ns_of(np.array(exported.window)))
    at = found.records["timestamp"].astype(np.int64)
    records = found.records[(at >= first) & (at <= last)]
    if exported.has_filter:
        records = records[exported.is_wanted(records["cpu"].astype(np.int64))]
    for kind in np.unique(records["kind"]).tolist():
        of_kind = records[records["kind"] == kind]
        for cpu in np.unique(of_kind["cpu"]).tolist():
            rows = of_kind[of_kind["cpu"] == cpu]
            ids, place = np.unique(rows["id"], return_inverse=True)
            texts = [_name(kind, names.of(kind, ident), ident) for ident in ids.tolist()]
            distinct = list(dict.fromkeys(texts))
            place = np.array([distinct.index(each) for each in texts])[place]
            end = rows["timestamp"].astype(np.int64)
            head = [wire.text(_NAME, f"dom0 vCPU {cpu}: {kind_name(kind)}")]
            key = ("dom0", kind, cpu)
            if kind in UNTIMED:
                yield from tracks.instants(key, "exact", head, end, distinct, place)
            else:
                begin = end - rows["duration_ns"].astype(np.int64)
                yield from tracks.slices(key, "exact", head, begin, end, distinct, place)


def _name(kind: int, name: str, ident: int) -> str:
    return printable(name)[:_NAME_MOST] if name else f"{kind_name(kind)} {ident}"
