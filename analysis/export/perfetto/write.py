"""Write a trace in Perfetto's format."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from xtrace.analysis.export.names import Part
from xtrace.analysis.export.perfetto import dom0, wire
from xtrace.analysis.export.perfetto.clock import Clock
from xtrace.analysis.export.perfetto.sched import Scheduling
from xtrace.analysis.export.perfetto.threads import ProcessTree, pid_of, thread_name, tid_of
from xtrace.analysis.export.perfetto.tracks import Tracks, packet, sequence
from xtrace.analysis.export.rows import RUNSTATES, Rows
from xtrace.analysis.export.source import Exported, Tell, vcpu_name
from xtrace.analysis.state_machine.keys import domain_of, high_of, low_of
from xtrace.analysis.state_machine.metrics import WAKE_CYCLES_MOST, Detail, Metric
from xtrace.probes.catalog.names import HYPERCALLS
from xtrace.probes.reader.batches import I64
from xtrace.probes.words import count_of, printable
from xtrace.probes.xen_abi import DEFAULT_DOMAIN, IDLE_DOMAIN

#: A pCPU writes on sequence 2 + its number; the process tree is on the first one.
_TREE_SEQUENCE, _PCPU_SEQUENCES, _FIRST_TRACK = 1, 2, 1 << 15
_DESCRIPTOR, _THREAD, _PARENT, _NAME, _COUNTER_TRACK = 60, 4, 5, 2, 8
_STATE_NAMES = {
    Metric.RUNNING: "running",
    Metric.RUNNABLE_WAKE: "runnable after a wake",
    Metric.RUNNABLE_PREEMPT: "runnable, preempted",
    Metric.RUNNABLE_OTHER: "runnable",
    Metric.RUNNABLE_BUDGET: "runnable without a budget",
    Metric.BLOCKED: "blocked",
    Metric.OFFLINE: "offline",
    Metric.STATE_LOST: "not known: records lost",
    Metric.STATE_UNKNOWN: "not known",
}
#: What each part is made of, if it is of the trace's records.
_METRICS: Mapping[Part, tuple[Metric | Detail, ...]] = {
    Part.SCHED: (Detail.RUN, Detail.RUN_BEGIN, Detail.STATE, Detail.WAKE),
    Part.RUNSTATES: RUNSTATES,
    Part.WAKES: (Metric.WAKE_TO_RUNNING, Metric.SEND_TO_WAKE),
    Part.UPCALLS: (Metric.UPCALL_MAX, Metric.HVM_UPCALL, Metric.UPCALL, Metric.FORCED_CALLBACK),
    Part.HYPERCALLS: (Detail.HYPERCALL,),
    Part.EXITS: (Metric.HVM_EXIT, Metric.INJECTION_TO_ENTRY),
    Part.IRQS: (Metric.IRQ_HANDLING,),
    Part.LOSSES: (Metric.PCPU_LOST, Metric.PCPU_UNKNOWN),
    Part.COUNTERS: (Detail.STATE,),
}
_LOSS_NAMES = {Metric.PCPU_LOST: "records lost", Metric.PCPU_UNKNOWN: "no records"}
#: Names of commands and events may be long; a track's name is at most this.
_NAME_MOST = 200


@dataclass(frozen=True, slots=True)
class Written:
    """What was written: numbers of events."""

    switches: int
    wakes: int
    slices: int
    instants: int
    flows: int


def write(
    exported: Exported, file: BinaryIO, *, parts: Collection[Part] = tuple(Part), tell: Tell
) -> Written:
    """Write the wanted part of a trace.

    Raises:
        OSError, TraceError: the trace cannot be read, or its TSC rate is not known.
    """
    writer = _Writer(exported, parts)
    for batch in exported.batches(writer.metrics):
        for chunk in writer.batch(batch.rows):
            file.write(chunk)
    for chunk in writer.end(tell):
        file.write(chunk)
    tracks = writer.tracks
    if tracks.left_out:
        tell(f"{count_of(tracks.left_out, 'slice')} left out, which overlap four others of one track")
    return Written(writer.switches, writer.wakes, tracks.slice_count, tracks.instant_count, tracks.flow_count)


class _Writer:
    """Turns batches of rows into packets."""

    def __init__(self, exported: Exported, parts: Collection[Part]) -> None:
        self._exported = exported
        self._parts = parts
        self.clock = dom0.clock_of(exported) or Clock(exported.first_tsc, 0, exported.hz)
        self._tree = ProcessTree(exported.names)
        self._sched = Scheduling()
        self.tracks = Tracks(_FIRST_TRACK)
        self._threads: set[int] = set()
        self._waiting = 0
        self.switches = self.wakes = 0

    @property
    def metrics(self) -> set[Metric | Detail]:
        """What the wanted parts are made of."""
        return {metric for part in self._parts for metric in _METRICS.get(part, ())}

    def batch(self, rows: Rows) -> Iterator[bytes]:
        """Yield the packets of a batch."""
        inside = rows.where(self._exported.is_inside(rows.end))
        if Part.SCHED in self._parts:
            yield from self._scheduling(inside)
        makers = {
            Part.RUNSTATES: self._runstates,
            Part.WAKES: self._wakes,
            Part.UPCALLS: self._upcalls,
            Part.HYPERCALLS: self._hypercalls,
            Part.EXITS: self._exits,
            Part.IRQS: self._irqs,
            Part.LOSSES: self._losses,
        }
        for part, make in makers.items():
            if part in self._parts:
                yield from make(inside)
        if Part.COUNTERS in self._parts:
            yield from self._counters(rows)

    def end(self, tell: Tell) -> Iterator[bytes]:
        """Yield what does not come from the trace's records: events of dom0's kernel, and findings."""
        if Part.DOM0 in self._parts:
            yield from dom0.events(self._exported, self.tracks, tell)
        if Part.FINDINGS in self._parts:
            yield from self._findings()

    def _scheduling(self, rows: Rows) -> Iterator[bytes]:
        if self._exported.has_filter:
            rows = rows.where(
                self._exported.is_wanted(rows.a) | ~np.isin(rows.metric, (Detail.RUN, Detail.RUN_BEGIN))
            )
        for bundle in self._sched.bundles(rows, self.clock.ns_of):
            yield self._named(bundle.vcpus)
            yield packet(bundle.content, sequence(_PCPU_SEQUENCES + bundle.pcpu))
            self.switches += bundle.switch_count
            self.wakes += bundle.wake_count

    def _named(self, vcpus: I64) -> bytes:
        content = self._tree.new(vcpus)
        return packet(content, sequence(_TREE_SEQUENCE)) if content else b""

    def _runstates(self, rows: Rows) -> Iterator[bytes]:
        found = rows.only(*RUNSTATES)
        yield from self._of_vcpus(
            "runstates",
            "exact",
            found,
            [_STATE_NAMES[each] for each in RUNSTATES],
            _place(found.metric, RUNSTATES),
        )

    def _wakes(self, rows: Rows) -> Iterator[bytes]:
        woken = rows.only(Metric.WAKE_TO_RUNNING)
        ids = _flow_ids(woken.a, woken.begin)
        yield from self._of_vcpus(
            "wakes", "exact", woken, ["wake to running"], np.zeros(len(woken), np.int64), ending=ids
        )
        sends = rows.only(Metric.SEND_TO_WAKE)
        ids = _flow_ids(sends.a, sends.end)
        senders = Rows(sends.metric, sends.b, sends.b, sends.value, sends.end, sends.is_open)
        names, place = np.unique(sends.a, return_inverse=True)
        texts = [f"send to {vcpu_name(key)}" for key in names.tolist()]
        yield from self._of_vcpus("sends", "inferred", senders, texts, place, flows=ids)

    def _upcalls(self, rows: Rows) -> Iterator[bytes]:
        found = rows.only(Metric.UPCALL_MAX, Metric.HVM_UPCALL)
        names = ["upcall after a block, at most", "callback, at most"]
        yield from self._of_vcpus(
            "upcalls", "at most", found, names, (found.metric == Metric.HVM_UPCALL).astype(np.int64)
        )
        recorded = rows.only(Metric.UPCALL)
        yield from self._of_vcpus(
            "upcalls recorded", "exact", recorded, ["upcall"], np.zeros(len(recorded), np.int64)
        )
        forced = rows.only(Metric.FORCED_CALLBACK)
        yield from self._of_vcpus(
            "forced callbacks", "inferred", forced, ["forced callback"], np.zeros(len(forced), np.int64)
        )

    def _hypercalls(self, rows: Rows) -> Iterator[bytes]:
        found = rows.only(Detail.HYPERCALL)
        for key, here in _groups(found.a):
            calls, place = np.unique(found.b[here], return_inverse=True)
            names = [_call_name(call) for call in calls.tolist()]
            yield self._thread(key)
            yield from self.tracks.instants(
                ("hypercalls", key),
                "exact",
                self._head(key, "hypercalls"),
                self.clock.ns_of(found.end[here]),
                names,
                place,
            )

    def _exits(self, rows: Rows) -> Iterator[bytes]:
        found = rows.only(Metric.HVM_EXIT)
        reasons, place = np.unique(found.b, return_inverse=True)
        yield from self._of_vcpus(
            "exits", "exact", found, [f"exit {reason}" for reason in reasons.tolist()], place
        )
        found = rows.only(Metric.INJECTION_TO_ENTRY)
        vectors, place = np.unique(found.b, return_inverse=True)
        yield from self._of_vcpus(
            "injections", "exact", found, [f"vector {each:#x}" for each in vectors.tolist()], place
        )

    def _irqs(self, rows: Rows) -> Iterator[bytes]:
        found = rows.only(Metric.IRQ_HANDLING)
        for pcpu, here in _groups(found.b):
            irqs, place = np.unique(found.a[here], return_inverse=True)
            yield from self._slices(
                ("irqs", pcpu), "exact", [wire.text(_NAME, f"pCPU {pcpu}: interrupts")],
                found.where(here), [f"irq {irq}" for irq in irqs.tolist()], place,
            )  # fmt: skip

    def _losses(self, rows: Rows) -> Iterator[bytes]:
        found = rows.only(*_LOSS_NAMES)
        # A pCPU also has no current vCPU while Xen switches.
        found = found.where((found.metric == Metric.PCPU_LOST) | (found.value > WAKE_CYCLES_MOST))
        for pcpu, here in _groups(found.a):
            each = found.where(here)
            yield from self._slices(
                ("losses", pcpu), "exact", [wire.text(_NAME, f"pCPU {pcpu}: without records")],
                each, list(_LOSS_NAMES.values()), _place(each.metric, tuple(_LOSS_NAMES)),
            )  # fmt: skip

    def _counters(self, rows: Rows) -> Iterator[bytes]:
        changes = rows.only(Detail.STATE)
        changes = changes.where(domain_of(changes.a) != IDLE_DOMAIN)
        step = (changes.b & 0xF == 1).astype(np.int64) - (changes.b >> 4 == 1)
        changes, step = changes.where(step != 0), step[step != 0]
        counts = self._waiting + np.cumsum(step)
        if len(counts):
            self._waiting = int(counts[-1])
        inside = self._exported.is_inside(changes.end)
        if inside.any():
            head = [wire.text(_NAME, "vCPUs that wait for a pCPU"), wire.message(_COUNTER_TRACK)]
            at = self.clock.ns_of(changes.end[inside])
            yield from self.tracks.counter(("waiting",), head, at, np.maximum(counts[inside], 0))

    def _findings(self) -> Iterator[bytes]:
        found = [each for each in self._exported.report.findings if each.moment_cycles is not None]
        found.sort(key=lambda each: each.moment_cycles or 0)
        if not found:
            return
        at = np.array([self._exported.first_tsc + (each.moment_cycles or 0) for each in found])
        names = [printable(f"{each.severity}: {each.sentence}")[:_NAME_MOST] for each in found]
        distinct = list(dict.fromkeys(names))
        place = np.array([distinct.index(name) for name in names])
        head = [wire.text(_NAME, "findings")]
        yield from self.tracks.instants(
            ("findings",), "inferred", head, self.clock.ns_of(at), distinct, place
        )

    def _of_vcpus(
        self,
        kind: str,
        category: str,
        rows: Rows,
        names: Sequence[str],
        name_of: npt.NDArray[np.integer],
        flows: npt.NDArray[np.uint64] | None = None,
        ending: npt.NDArray[np.uint64] | None = None,
    ) -> Iterator[bytes]:
        """Yield the slices of each vCPU in ``rows.a`` on a track of its own."""
        for key, here in _groups(rows.a):
            if domain_of(key) == IDLE_DOMAIN:
                continue
            yield self._thread(key)
            yield from self._slices(
                (kind, key), category, self._head(key, kind), rows.where(here), names, name_of[here],
                None if flows is None else flows[here], None if ending is None else ending[here],
            )  # fmt: skip

    def _slices(
        self,
        key: tuple[object, ...],
        category: str,
        head: Sequence[bytes],
        rows: Rows,
        names: Sequence[str],
        name_of: npt.NDArray[np.integer],
        flows: npt.NDArray[np.uint64] | None = None,
        ending: npt.NDArray[np.uint64] | None = None,
    ) -> Iterator[bytes]:
        """Yield slices; those of which an end was not recorded have a track of their own."""
        begin, end = self.clock.ns_of(rows.begin), self.clock.ns_of(rows.end)
        for chosen, known in ((~rows.is_open, category), (rows.is_open, "at least")):
            if not chosen.any():
                continue
            yield from self.tracks.slices(
                (*key, known), known, head, begin[chosen], end[chosen], names, name_of[chosen],
                None if flows is None else flows[chosen], None if ending is None else ending[chosen],
            )  # fmt: skip

    def _head(self, key: int, name: str) -> list[bytes]:
        """Return the descriptor of a track below a vCPU's thread."""
        if domain_of(key) == DEFAULT_DOMAIN:
            return [wire.text(_NAME, f"vCPU not known: {name}")]
        return [wire.text(_NAME, name), wire.number(_PARENT, _thread_uuid(key))]

    def _thread(self, key: int) -> bytes:
        """Return packets that describe the thread of a vCPU, where none has before."""
        if key in self._threads or domain_of(key) == DEFAULT_DOMAIN:
            return b""
        self._threads.add(key)
        tid = int(tid_of(np.array([key]))[0])
        thread = wire.message(
            _THREAD,
            wire.number(1, pid_of(domain_of(key))), wire.number(2, tid), wire.text(5, thread_name(key)),
        )  # fmt: skip
        described = wire.message(_DESCRIPTOR, wire.number(1, _thread_uuid(key)), thread)
        return self._named(np.array([key])) + packet(described, sequence(_TREE_SEQUENCE))


def _thread_uuid(key: int) -> int:
    return 1 << 62 | key


def _groups(keys: I64) -> Iterator[tuple[int, npt.NDArray[np.intp]]]:
    """Yield each key and the places that it has, in order."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.flatnonzero(np.diff(ordered, prepend=-1))
    for start, stop in pairwise([*starts.tolist(), len(keys)]):
        yield int(ordered[start]), order[start:stop]


def _place(metrics: I64, known: Sequence[Metric]) -> I64:
    """Return the place of each metric in ``known``."""
    places = np.zeros(256, np.int64)
    places[list(known)] = np.arange(len(known))
    return places[metrics]


def _flow_ids(vcpus: I64, tscs: I64) -> npt.NDArray[np.uint64]:
    """Return the id of the flow that ends in the wake of each vCPU at each TSC."""
    mixed = vcpus.astype(np.uint64) << np.uint64(32) ^ tscs.astype(np.uint64)
    mixed = (mixed ^ mixed >> np.uint64(30)) * np.uint64(0xBF58_476D_1CE4_E5B9)
    mixed = (mixed ^ mixed >> np.uint64(27)) * np.uint64(0x94D0_49BB_1331_11EB)
    return mixed ^ mixed >> np.uint64(31)


def _call_name(call: int) -> str:
    name = HYPERCALLS.get(low_of(call), f"hypercall {low_of(call)}")
    return f"{name} (multicall)" if high_of(call) else name
