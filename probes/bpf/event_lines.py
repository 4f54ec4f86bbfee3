"""The raw events of a capture as lines of text or JSON.

Text::

    0.058958365 d0v1  irq_handler duration_ns=916 pid=0 irq=36 name=blkif-backend

The columns are the time since the first event, dom0's vCPU, event, fields.  JSON, one object per line, has
dom0's own clock instead: ``t_ns``.  An event that took a time is written at its end.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from xtrace.probes.bpf.abi import ID_OF, UNTIMED, Kind
from xtrace.probes.bpf.ctf_reader import Events, read_events
from xtrace.probes.bpf.event_names import EventNames, names_of_events
from xtrace.probes.capture.layout import BPF_EVENTS, BPF_TABLES, Capture, has_events
from xtrace.probes.errors import TraceError

_WITH_HOST_NAME = ("irq", "port")
_LINES = 8192


@dataclass(frozen=True, slots=True)
class EventChoice:
    """Which events to show; the defaults show all.

    Attributes:
        event: returns for a kind and its name whether to show it.
        vcpus: numbers of dom0's vCPUs; None means all.
        begin_ns, end_ns: the time to show, since the first event, ``end_ns`` exclusive; None is open.
        limit: maximum number of lines.
    """

    event: Callable[[int, str], bool] | None = None
    vcpus: frozenset[int] | None = None
    begin_ns: int | None = None
    end_ns: int | None = None
    limit: int | None = None


def open_events(capture: Capture) -> tuple[Events, EventNames]:
    """Return the raw events of a capture, and the names of their ids.

    Raises:
        TraceError: it has none, or a file is damaged.
        OSError: a file cannot be read.
    """
    if not has_events(capture.path):
        counts = "; xtrace report shows what bpf counted" if (capture.path / BPF_TABLES).is_file() else ""
        raise TraceError(f"{capture.path}: has no events of bpf: xtrace record --events writes them{counts}")
    names = names_of_events(capture)
    return read_events(capture.path / BPF_EVENTS), names


def event_lines(
    found: Events, names: EventNames, choice: EventChoice, *, as_json: bool
) -> Iterator[list[str]]:
    """Yield the lines of the chosen events, by time, some thousands at once."""
    records = found.records
    if not len(records):
        return
    first = int(records["timestamp"][0])
    chosen = records[_is_chosen(records, first, choice)][: choice.limit]
    line = _json if as_json else _text
    for at in range(0, len(chosen), _LINES):
        rows = chosen[at : at + _LINES].tolist()
        yield [line(Event(*row), first, names) for row in rows]


@dataclass(frozen=True, slots=True)
class Event:
    """An event, as ctf_reader.EVENT_DTYPE has it."""

    timestamp: int
    cpu: int
    kind: int
    duration_ns: int
    ident: int
    pid: int


def kind_name(kind: int) -> str:
    """Return the name of a kind of events."""
    return Kind(kind).name.lower() if kind in set(Kind) else "unknown"


def _is_chosen(records: Any, first: int, choice: EventChoice) -> Any:
    wanted = np.ones(len(records), bool)
    if choice.event is not None:
        kinds = [kind for kind in np.unique(records["kind"]).tolist() if choice.event(kind, kind_name(kind))]
        wanted &= np.isin(records["kind"], kinds)
    if choice.vcpus is not None:
        wanted &= np.isin(records["cpu"], list(choice.vcpus))
    since = records["timestamp"] - np.uint64(first)
    if choice.begin_ns is not None:
        wanted &= since >= choice.begin_ns
    if choice.end_ns is not None:
        wanted &= since < choice.end_ns
    return wanted


def _text(event: Event, first: int, names: EventNames) -> str:
    fields = [] if event.kind in UNTIMED else [f"duration_ns={event.duration_ns}"]
    fields.append(f"pid={event.pid}")
    id_is, name = _id_of(event.kind), names.of(event.kind, event.ident)
    if id_is:
        own = id_is in _WITH_HOST_NAME
        known = name and name != f"{id_is} {event.ident}"
        fields.append(f"{id_is}={name if known and not own else event.ident}")
        fields += [f"name={name}"] if own and name else []
    seconds = (event.timestamp - first) / 1e9
    return f"{seconds:12.9f} {f'd0v{event.cpu}':<5} {kind_name(event.kind)} {' '.join(fields)}"


def _json(event: Event, first: int, names: EventNames) -> str:
    row: dict[str, Any] = {
        "t_ns": event.timestamp,
        "vcpu": event.cpu,
        "event": event.kind,
        "name": kind_name(event.kind),
    }
    if event.kind not in UNTIMED:
        row["duration_ns"] = event.duration_ns
    row["pid"] = event.pid
    if id_is := _id_of(event.kind):
        row[id_is] = event.ident
        if name := names.of(event.kind, event.ident):
            row[f"{id_is}_name"] = name
    return json.dumps(row, separators=(",", ":"))


def _id_of(kind: int) -> str:
    return ID_OF.get(Kind(kind), "") if kind in set(Kind) else "id"
