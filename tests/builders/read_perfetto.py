"""Read a trace in Perfetto's format by the package's own messages, and answer what its SQL would.

trace_processor is a program that only a network gives. So what it makes of the messages is done here, as far
as the tests ask: slices of threads, the states between them, slices of tracks, flows.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from perfetto.protos.perfetto.trace.perfetto_trace_pb2 import Trace, TrackEvent

NEEDED = 2


@dataclass(frozen=True, slots=True)
class Slice:
    track: str
    thread: int | None
    name: str
    category: str
    begin: int
    end: int
    flows: tuple[int, ...]
    ending: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Run:
    cpu: int
    tid: int
    begin: int
    end: int | None
    end_state: int | None


@dataclass(slots=True)
class Read:
    """What a trace contains; times in ns."""

    threads: dict[int, tuple[str, int]] = field(default_factory=dict)  # name, process
    processes: dict[int, str] = field(default_factory=dict)
    switches: dict[int, list[tuple[int, int, int]]] = field(default_factory=lambda: defaultdict(list))
    wakings: list[tuple[int, int, int]] = field(default_factory=list)  # time, thread, CPU of the waker
    slices: list[Slice] = field(default_factory=list)
    instants: list[tuple[str, int | None, str, int]] = field(default_factory=list)
    counters: list[tuple[str, int, int]] = field(default_factory=list)

    @property
    def runs(self) -> list[Run]:
        """What Perfetto's table sched has."""
        found = []
        for cpu, switches in self.switches.items():
            for at, (begin, _, tid) in enumerate(switches):
                following = switches[at + 1] if at + 1 < len(switches) else (None, None, None)
                found.append(Run(cpu, tid, begin, following[0], following[1]))
        return found

    def wake_latencies(self) -> dict[int, list[int]]:
        """Return for each thread the times from a waking to the next run, as sched.latency has them."""
        events = [(time, 0, tid) for time, tid, _ in self.wakings]
        events += [(run.begin, 1, run.tid) for run in self.runs]
        waking: dict[int, int] = {}
        found = defaultdict(list)
        for time, what, tid in sorted(events):
            if what == 0:
                waking.setdefault(tid, time)
            elif tid in waking:
                found[tid].append(time - waking.pop(tid))
        return found


def read(data: bytes) -> Read:
    """Read a trace, and check what holds of any: names known, slices nested, clocks in order per sequence."""
    trace = Trace.FromString(data)
    found = Read()
    sequences: dict[int, _Sequence] = defaultdict(_Sequence)
    tracks: dict[int, Any] = {}
    for packet in trace.packet:
        sequence = sequences[packet.trusted_packet_sequence_id]
        assert packet.trusted_packet_sequence_id
        if packet.HasField("process_tree"):
            for process in packet.process_tree.processes:
                found.processes[process.pid] = process.cmdline[0]
            for thread in packet.process_tree.threads:
                found.threads[thread.tid] = (thread.name, thread.tgid)
        if packet.HasField("track_descriptor"):
            assert packet.track_descriptor.uuid not in tracks
            tracks[packet.track_descriptor.uuid] = packet.track_descriptor
        sequence.take(packet)
        if packet.HasField("ftrace_events"):
            _take_bundle(found, packet.ftrace_events, sequence)
        if packet.HasField("track_event"):
            sequence.event(found, packet, tracks)
    assert all(not sequence.open for sequence in sequences.values())
    return found


def _take_bundle(found: Read, bundle: Any, sequence: _Sequence) -> None:
    compact = bundle.compact_sched
    columns = zip(
        compact.switch_timestamp, compact.switch_prev_state, compact.switch_next_pid,
        compact.switch_next_comm_index, strict=True,
    )  # fmt: skip
    time = 0
    for delta, state, tid, comm in columns:
        time += delta
        assert tid == 0 or found.threads[tid][0] == compact.intern_table[comm]
        found.switches[bundle.cpu].append((time, state, tid))
    times = [time for time, _, _ in found.switches[bundle.cpu]]
    assert times == sorted(times)
    time = 0
    for delta, tid, comm in zip(
        compact.waking_timestamp, compact.waking_pid, compact.waking_comm_index, strict=True
    ):
        time += delta
        assert found.threads[tid][0] == compact.intern_table[comm]
        found.wakings.append((time, tid, bundle.cpu))


@dataclass(slots=True)
class _Sequence:
    """The incremental state of a packet sequence."""

    names: dict[int, str] = field(default_factory=dict)
    categories: dict[int, str] = field(default_factory=dict)
    track: int = 0
    last: int = 0
    is_cleared: bool = False
    open: list[Any] = field(default_factory=list)

    def take(self, packet: Any) -> None:
        self.is_cleared |= bool(packet.sequence_flags & 1)
        self.names |= {each.iid: each.name for each in packet.interned_data.event_names}
        self.categories |= {each.iid: each.name for each in packet.interned_data.event_categories}
        if packet.HasField("trace_packet_defaults"):
            self.track = packet.trace_packet_defaults.track_event_defaults.track_uuid

    def event(self, found: Read, packet: Any, tracks: dict[int, Any]) -> None:
        assert self.is_cleared
        assert packet.sequence_flags & NEEDED
        assert packet.timestamp >= self.last
        self.last = packet.timestamp
        event = packet.track_event
        track = tracks[self.track]
        parent = tracks[track.parent_uuid] if track.parent_uuid else None
        tid = parent.thread.tid if parent is not None else None
        if event.type == TrackEvent.TYPE_COUNTER:
            found.counters.append((track.name, packet.timestamp, event.counter_value))
        elif event.type == TrackEvent.TYPE_INSTANT:
            found.instants.append((track.name, tid, self.names[event.name_iid], packet.timestamp))
        elif event.type == TrackEvent.TYPE_SLICE_BEGIN:
            self.open.append(packet)
        else:
            begin = self.open.pop()
            found.slices.append(
                Slice(
                    track.name, tid, self.names[begin.track_event.name_iid],
                    self.categories[begin.track_event.category_iids[0]], begin.timestamp, packet.timestamp,
                    tuple(begin.track_event.flow_ids), tuple(begin.track_event.terminating_flow_ids),
                )
            )  # fmt: skip
