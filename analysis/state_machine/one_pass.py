"""Run one pass over a trace: read it, run the state machines and tally, each stage in its own thread.

The compiled loops release the interpreter lock, so the stages run in parallel.  The result is
plain arrays, which can be pickled; pandas is not needed.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeAlias, TypeVar

import numpy as np

from xtrace.analysis.state_machine.collected import Collected, Segment
from xtrace.analysis.state_machine.delivery import Delivery
from xtrace.analysis.state_machine.machine import ALWAYS, Machine, Tallies
from xtrace.analysis.state_machine.metrics import MOST_SUM, G, P, V
from xtrace.probes.reader.ahead import Source
from xtrace.probes.reader.batches import I64, RecordBatch
from xtrace.probes.reader.reader import TraceReader, open_trace

Item = TypeVar("Item")

#: Batches queued between two stages.  With those that the stages work on, _KEEP must stay valid; where single
#: events come with their records, those that are queued after the machines, too.
_QUEUED = 2
_KEEP = _QUEUED + 3
_KEEP_RECORDS = _KEEP + _QUEUED + 1
Window: TypeAlias = tuple[int, int]
#: A window of TSCs that includes nothing.
_NEVER: Window = (1, 0)
#: Of fewer records, one silence is likely to be much longer than the others.
_SILENCE_RECORDS = 1000


def collect(
    path: str | os.PathLike[str],
    *,
    source: Source | None = None,
    strict: bool = False,
    window: Window = ALWAYS,
    windows: Sequence[Window] | None = None,
    tsc_offsets: I64 | None = None,
    core: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Collected:
    """Read the trace ``path`` (``-`` is standard input) and return the result of the state machines.

    Args:
        source: the trace's bytes, if it is open.
        strict: stop at the first damage.
        window: (first, last) TSC, both inclusive; count only what ends in it.
        windows: in place of it, one for each segment of the trace.
        tsc_offsets: int64 [MAX_PCPUS], cycles to add to the TSCs of each pCPU.
        core: Xen is known to schedule by core; otherwise that is only known from a record on that shows it.
        progress: called from time to time with the bytes read so far.

    Raises:
        OSError, TraceError: as open_trace() and its reader do.
    """
    segments = _Segments(
        lambda number: window if windows is None else windows[number] if number < len(windows) else _NEVER,
        lambda inside: Machine(inside, keep=_KEEP, tsc_offsets=tsc_offsets, core=core),
    )
    tallies = Tallies()
    with open_trace(
        path, source=source, strict=strict, keep=_KEEP, tsc_offsets=tsc_offsets, holes=True
    ) as reader:
        batches = _Stage(iter(reader))
        for inside, axis, piece in _Stage(segments.intervals(batches)):
            tallies.add(piece, inside, axis)
            if progress is not None:
                progress(reader.facts.bytes_read)
    shapes = reader.shapes.size
    pcpus = len(reader.facts.pcpus) and max(reader.facts.pcpus) + 1
    ended = segments.ended
    keys, types, counts = _vcpus_of(ended)
    firsts, lasts, blind = _pcpus_of(ended, pcpus)
    return Collected(
        facts=reader.facts,
        shape_headers=reader.shapes.header[:shapes].copy(),
        record_counts=reader.record_counts[:pcpus, :shapes].copy(),
        tallies=tallies.columns(),
        kept=tallies.kept(),
        vcpu_keys=keys,
        vcpu_types=types,
        vcpu_counts=counts,
        vcpus_left_out=sum(each.vcpus_left_out for each in ended),
        pcpu_first_tsc=firsts,
        pcpu_last_tsc=lasts,
        pcpu_blind_cycles=blind,
        named_pcpus=np.bitwise_or.reduce([each.named for each in ended]),
        has_cores=any(each.has_cores for each in ended),
        silence_cycles=sum(each.silence_cycles for each in ended) if _has_many(reader) else 0,
        hidden_hole_count=sum(each.hidden_hole_count for each in ended),
        pairs=np.concatenate([each.pairs for each in ended]),
        segments=tuple(each.segment for each in ended),
    )


class Piece(NamedTuple):
    """What single events come in: intervals that end one after the other, and the records of that time.

    It is valid until the next one is taken.

    Attributes:
        intervals: int64 [n, 4], as Machine.feed() returns them, with what Detail lists.
        records: the batch whose records ended them; None for what is only known at the end of a segment, and
            where a batch has more pieces than one.
        axis: what makes TSCs go on from the segment before.
        who: the vCPU that its pCPU ran at each of the records, as Machine.who.
    """

    intervals: I64
    records: RecordBatch | None
    axis: int
    who: I64


def stream(
    path: str | os.PathLike[str],
    *,
    strict: bool = False,
    tsc_offsets: I64 | None = None,
    core: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Iterator[Piece]:
    """Read the trace ``path`` and yield its single events, in memory that does not grow with its length.

    Args:
        strict, tsc_offsets, core, progress: as for collect().

    Raises:
        OSError, TraceError: as open_trace() and its reader do.
    """
    segments = _Segments(
        lambda number: ALWAYS,
        lambda inside: Machine(inside, keep=_KEEP, tsc_offsets=tsc_offsets, core=core, detailed=True),
    )
    with open_trace(path, strict=strict, keep=_KEEP_RECORDS, tsc_offsets=tsc_offsets, holes=True) as reader:
        batches = _Stage(iter(reader))
        for piece in _Stage(segments.pieces(batches)):
            yield piece
            if progress is not None:
                progress(reader.facts.bytes_read)


def _has_many(reader: TraceReader) -> bool:
    """Return whether there are enough records to say that a silence is unlike others."""
    return int(reader.record_counts.sum()) >= _SILENCE_RECORDS


@dataclass(frozen=True, slots=True)
class _Ended:
    """What the machines of a segment leave, apart from intervals.

    Attributes:
        segment, vcpus_left_out, pairs: as in Collected.
        vcpus: int64 [vCPUs, 2], key and type.
        counts: int64 [vCPUs, C_COLUMNS].
        pcpus: int64 [pCPUs, 3], first TSC, last TSC and blind cycles.
        named: as Collected.named_pcpus.
        has_cores, silence_cycles, hidden_hole_count: as in Collected.
    """

    segment: Segment
    vcpus: I64
    counts: I64
    vcpus_left_out: int
    pcpus: I64
    named: I64
    has_cores: bool
    silence_cycles: int
    hidden_hole_count: int
    pairs: I64

    @classmethod
    def of(cls, machine: Machine, window: Window) -> _Ended:
        left_out = int(machine.glob[G.VCPU_OVERFLOW])
        vcpus = len(machine.vcpus) if left_out else int(machine.glob[G.VCPUS])
        first = int(machine.glob[G.FIRST_TSC])
        last = max(int(machine.glob[G.LAST_TSC]), first)
        return cls(
            Segment(first, last, first, last).limited(window),
            machine.vcpus[:vcpus, [V.KEY, V.TYPE]],
            machine.counts[:vcpus].copy(),
            left_out,
            machine.pcpus[:, [P.FIRST_TSC, P.LAST_TSC, P.BLIND]],
            machine.named,
            bool(machine.glob[G.CORE]),
            machine.silence_cycles,
            machine.hidden_hole_count,
            machine.pairs,
        )


class _Segments:
    """Machines for one segment of the trace after the other.

    Attributes:
        ended: what those of each segment left, after the last record.
        inside: the window that the present segment's intervals count in.
    """

    def __init__(self, window_of: Callable[[int], Window], machine_for: Callable[[Window], Machine]) -> None:
        self.ended: list[_Ended] = []
        self._window_of = window_of
        self._machine_for = machine_for
        self.inside = window_of(0)

    def intervals(self, batches: Iterable[RecordBatch]) -> Iterator[tuple[Window, int, I64]]:
        """Yield intervals as feed() and finish() of the machines do, with how they count.

        Yields:
            (the window that they count in, what makes their TSCs go on from the segment before, intervals).
        """
        for piece in self.pieces(batches):
            yield self.inside, piece.axis, piece.intervals

    def pieces(self, batches: Iterable[RecordBatch]) -> Iterator[Piece]:
        """Yield the same with the records; ``inside`` is the window that each counts in."""
        machine, delivery = self._machine_for(self.inside), Delivery()
        for batch in batches:
            if batch.segment > len(self.ended):
                yield self._end(machine)
                self.inside = self._window_of(batch.segment)
                machine, delivery = self._machine_for(self.inside), Delivery()
            records: RecordBatch | None = batch
            for intervals in (*machine.feed(batch), *delivery.feed(batch)):
                yield Piece(intervals, records, self._axis(machine), machine.who)
                records = None
        yield self._end(machine)

    def _axis(self, machine: Machine) -> int:
        if not self.ended:
            return 0
        begin = self.ended[0].segment.first_tsc + sum(each.segment.cycles for each in self.ended)
        begin = min(begin, MOST_SUM // 2)  # a TSC of up to 62 bits is added to it
        return begin - int(machine.glob[G.FIRST_TSC])

    def _end(self, machine: Machine) -> Piece:
        piece = Piece(machine.finish(), None, self._axis(machine), machine.who)
        self.ended.append(_Ended.of(machine, self.inside))
        return piece


def _vcpus_of(ended: Sequence[_Ended]) -> tuple[I64, I64, I64]:
    """Return keys, types and counts of the vCPUs of all segments."""
    if len(ended) == 1:
        return ended[0].vcpus[:, 0], ended[0].vcpus[:, 1], ended[0].counts
    keys, place = np.unique(np.concatenate([each.vcpus[:, 0] for each in ended]), return_inverse=True)
    types = np.zeros(len(keys), np.int64)
    counts = np.zeros((len(keys), ended[0].counts.shape[1]), np.int64)
    np.maximum.at(types, place, np.concatenate([each.vcpus[:, 1] for each in ended]))
    np.add.at(counts, place, np.concatenate([each.counts for each in ended]))
    return keys, types, counts


def _pcpus_of(ended: Sequence[_Ended], count: int) -> tuple[I64, I64, I64]:
    """Return the least first TSC, the greatest last TSC and the blind cycles of each pCPU."""
    unseen = np.iinfo(np.int64).max
    firsts = np.full(count, unseen)
    lasts, blind = np.zeros((2, count), np.int64)
    for each in ended:
        first, last, cycles = each.pcpus[:count].T
        here = slice(len(first))
        firsts[here] = np.minimum(firsts[here], np.where(first > 0, first, unseen))
        lasts[here] = np.maximum(lasts[here], last)
        blind[here] += cycles
    return np.where(firsts == unseen, 0, firsts), lasts, blind


class _Stage(Generic[Item]):
    """Run an iterable in a thread and pass on its items through a short queue.

    An exception in the thread is raised again in the consumer.  When the consumer stops early, the
    thread ends at its next item.
    """

    def __init__(self, items: Iterable[Item]) -> None:
        self._items = items
        self._queue: queue.Queue[tuple[Item | None, BaseException | None]] = queue.Queue(_QUEUED)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def _work(self) -> None:
        try:
            for item in self._items:
                self._queue.put((item, None))
                if self._stopped.is_set():
                    return
        except BaseException as error:  # noqa: BLE001 - raised again in the consumer
            self._queue.put((None, error))
        else:
            self._queue.put((None, None))

    def __iter__(self):  # type: ignore[no-untyped-def]
        self._thread.start()
        try:
            while True:
                item, error = self._queue.get()
                if error is not None:
                    raise error
                if item is None:
                    return
                yield item
        finally:
            self._stopped.set()
            while self._thread.is_alive():
                # Make room for a put() that blocks.
                try:
                    self._queue.get(timeout=0.01)
                except queue.Empty:
                    continue
