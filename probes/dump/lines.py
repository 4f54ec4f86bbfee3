"""Render batches of records as lines of text or JSON, by name and field.

One loop tracks the vCPU that runs on each pCPU through the trace and chooses
the rows to show; several threads write their lines, each into its own buffer,
and the buffers are returned in order.  templates.py defines the line formats.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xtrace.probes.catalog import VersionRange, by_id
from xtrace.probes.catalog.exits import Vendor, vendor_of
from xtrace.probes.catalog.sched import runstate_change_id
from xtrace.probes.dump import loops as k
from xtrace.probes.dump.templates import UNKNOWN_NAME, Arrays, Style, TemplateBook, Unit, read_shape
from xtrace.probes.format import (
    EVENT_MASK,
    EXTRA_MASK,
    EXTRA_SHIFT,
    LOST_RECORDS,
    MAX_PCPUS,
    TIMED_BIT,
    WRAP_BUFFER,
    Runstate,
)
from xtrace.probes.reader.batches import I64, MAX_SHAPES, OVERFLOW_SHAPE, U8, U32, RecordBatch, ShapeTable
from xtrace.probes.reader.read_facts import Restart
from xtrace.probes.reader.reader import TraceReader
from xtrace.probes.selection.times import Moment

I32 = npt.NDArray[np.int32]

#: Batches of the reader that must stay valid while their lines are written.
KEEP_BATCHES = 3

_CONTINUE_RUNNING = 0x21002
_RUNS = frozenset(
    {_CONTINUE_RUNNING, *(runstate_change_id(old, Runstate.RUNNING) for old in Runstate if old)}
)
_STOPS = frozenset(runstate_change_id(Runstate.RUNNING, new) for new in Runstate if new)
_TRACKED = _RUNS | _STOPS | {LOST_RECORDS}
_LOST_HEADER = TIMED_BIT | 4 << EXTRA_SHIFT | LOST_RECORDS
_EXITS = (0x81002, 0x81102)
_SVM_HAS_OWN_EXITS = (4, 19)

# Lines that a thread writes per call: enough to hide the cost of the call, few enough for the cache.
_ROWS_PER_JOB = 8192
# Templates that depend on word 0: a trace has a few dozen.  Beyond _MAX_BY_WORD, as in a hostile trace,
# the argument words are shown raw.
_SLOTS = 4096
_MAX_BY_WORD = 1024
_MAX_TSC = np.iinfo(np.int64).max
_MIN_TSC = np.iinfo(np.int64).min

_FIXED = np.frombuffer(b"idle".ljust(16) + b"null".ljust(32), np.uint8).copy()


@dataclass(frozen=True, slots=True)
class Choice:
    """Which records to show; the defaults show all.

    Attributes:
        event: returns for an event id and name whether to show the event.
        pcpus: the pCPUs to show; None means all.
        domains, vcpus: show records while one of these runs on their pCPU.  A vCPU is (domain, number),
            with None for any domain.  Empty means all.
        begin, end: the time to show, ``end`` exclusive; None is open.
        limit: maximum number of lines in total.
    """

    event: Callable[[int, str], bool] | None = None
    pcpus: frozenset[int] | None = None
    domains: frozenset[int] = frozenset()
    vcpus: frozenset[tuple[int | None, int]] = frozenset()
    begin: Moment | None = None
    end: Moment | None = None
    limit: int | None = None

    @property
    def in_seconds(self) -> Moment | None:
        """Return a time that is in seconds, so that the TSC's rate must be known; None if there is none."""
        return next((moment for moment in (self.begin, self.end) if moment and moment.unit == "s"), None)


EVERYTHING = Choice()


class Pushdown:
    """The choice by event as a filter for the reader, in effect after the trace's first timed record.

    That record must not be filtered out, because times count from it; nor must those that show which
    vCPU runs.
    """

    def __init__(self, event: Callable[[int, str], bool] | None) -> None:
        self._event = event
        self._begins = False

    def __call__(self, event_id: int) -> bool:
        """Return whether the reader must return records of the id."""
        if event_id == WRAP_BUFFER:
            return False
        if not self._begins or self._event is None or event_id in _TRACKED:
            return True
        names = [event.name for event in by_id(event_id)] or [UNKNOWN_NAME]
        return any(self._event(event_id, name) for name in names)

    def batches(self, reader: TraceReader) -> Iterator[RecordBatch]:
        """Yield the batches of ``reader``, which must have this filter as its ``wanted``."""
        for batch in reader:
            if not self._begins and _has_time(batch).any():
                self._begins = True
                shapes = batch.shapes
                for shape, event_id in enumerate(shapes.event.tolist()):
                    shapes.wanted[shape] = self(event_id)
            yield batch


class Renderer:
    """Render the lines of a trace, batch by batch in order.

    Args:
        versions: the Xen versions that may have written the trace.
        hz: TSC cycles per second, for Unit.SECONDS and for a choice of time in seconds.
        restarts: of the TSC, as the reader finds them: times go on there without a gap.
        threads: number of threads that write lines.

    Attributes:
        origin: the TSC that times count from, once a timed record has been seen; after a restart of the
            TSC it is moved back as far as the TSC went, and may be negative.
        is_done: whether no more lines can follow, because the limit or ``to_time`` is reached.
    """

    def __init__(
        self,
        style: Style,
        versions: VersionRange,
        choice: Choice = EVERYTHING,
        *,
        unit: Unit = Unit.CYCLES,
        hz: float | None = None,
        restarts: Sequence[Restart] = (),
        threads: int | None = None,
    ) -> None:
        self.origin: int | None = None
        self.is_done = False
        self._restarts = restarts
        self._segment = 0
        self._versions = versions
        self._choice = choice
        self._unit = unit
        self._hz = hz
        self._threads = threads or min(os.cpu_count() or 1, 4)
        self._book = TemplateBook(style, unit)
        self._vendor: Vendor | None = "vmx" if versions.low >= _SVM_HAS_OWN_EXITS else None
        self._left = _MAX_TSC if choice.limit is None else choice.limit
        self._role = np.zeros(MAX_SHAPES, np.uint8)
        self._shown = np.ones(MAX_SHAPES, np.uint8)
        self._template = np.full(MAX_SHAPES, k.TEMPLATE_MISSING, np.int32)
        self._shapes_known = 0
        self._slot_key = np.zeros(_SLOTS, np.int64)
        self._slot_template = np.full(_SLOTS, -1, np.int32)
        self._by_word = 0
        self._running = np.full(MAX_PCPUS, k.UNKNOWN_VCPU, np.int64)
        self._pcpus = np.ones(MAX_PCPUS, np.uint8)
        if choice.pcpus is not None:
            self._pcpus[:] = 0
            self._pcpus[[pcpu for pcpu in choice.pcpus if pcpu < MAX_PCPUS]] = 1
        self._domains = np.array(sorted(choice.domains), np.int64)
        self._vcpus = np.array([d << 16 | number for d, number in choice.vcpus if d is not None], np.int64)
        self._numbers = np.array([number for d, number in choice.vcpus if d is None], np.int64)
        self._spare: list[U8] = []

    def lines(self, batches: Iterable[RecordBatch]) -> Iterator[memoryview]:
        """Yield blocks of complete lines; each is valid until the next one is requested.

        The reader must keep KEEP_BATCHES batches valid.
        """
        older: deque[Future[tuple[U8, int]]] = deque()
        with ThreadPoolExecutor(self._threads) as pool:
            for batch in batches:
                jobs = deque(pool.submit(job) for job in self._jobs(batch))
                yield from self._finished(older)
                older = jobs
                if self.is_done:
                    break
            yield from self._finished(older)

    def _finished(self, jobs: deque[Future[tuple[U8, int]]]) -> Iterator[memoryview]:
        while jobs:
            out, count = jobs.popleft().result()
            yield out[:count].data
            self._spare.append(out)

    def _jobs(self, batch: RecordBatch) -> list[Callable[[], tuple[U8, int]]]:
        """Choose the rows of ``batch`` and return the jobs that write them, in order."""
        self._learn(batch.shapes)
        self._begin_segments(batch.segment)
        self._find_origin(batch)
        row, vcpu, template, count = self._choose(batch)
        self._left -= count
        self.is_done = self._left == 0 or self._is_beyond(batch)
        templates = self._book.arrays()
        return [
            self._job(batch, row, vcpu, template, templates, first, min(first + _ROWS_PER_JOB, count))
            for first in range(0, count, _ROWS_PER_JOB)
        ]

    def _job(
        self,
        batch: RecordBatch,
        row: U32,
        vcpu: I64,
        template: I32,
        templates: Arrays,
        first: int,
        end: int,
    ) -> Callable[[], tuple[U8, int]]:
        origin = self.origin or 0

        def job() -> tuple[U8, int]:
            out = self._buffer((end - first) * templates.longest_bytes)
            count = k.render(
                first, end,
                row, vcpu, template,
                batch.tsc, batch.pcpu, batch.start, batch.words,
                templates.first_op, templates.timed, templates.ops, templates.literals,
                templates.table_name, templates.name_value, templates.name_place, templates.name_bytes,
                _FIXED,
                self._unit.value, origin, round(self._hz or 1),
                out,
            )  # fmt: skip
            return out, int(count)

        return job

    def _buffer(self, size: int) -> U8:
        """Return a spare buffer if it is large enough, otherwise a new one."""
        try:
            spare = self._spare.pop()
        except IndexError:
            return np.empty(size, np.uint8)
        return spare if len(spare) >= size else np.empty(size, np.uint8)

    # --- which rows ------------------------------------------------------------------------

    def _choose(self, batch: RecordBatch) -> tuple[U32, I64, I32, int]:
        """Return the rows to show, the running vCPU and the template of each, and their number."""
        size = len(batch)
        row, vcpu, template = np.empty(size, np.uint32), np.empty(size, np.int64), np.empty(size, np.int32)
        at = count = 0
        begin, last = self._window()
        limit = min(self._left, size)
        while True:
            at, count = k.choose(
                at, count, limit,
                batch.tsc, batch.pcpu, batch.shape, batch.start, batch.words,
                self._role, self._shown, self._template,
                self._slot_key, self._slot_template,
                self._running,
                self._pcpus, self._domains, self._vcpus, self._numbers,
                begin, last,
                row, vcpu, template,
            )  # fmt: skip
            if at == size or count == limit:
                return row, vcpu, template, count
            self._add_template(batch, at)

    def _window(self) -> tuple[int, int]:
        """Return the first and the last TSC that is shown."""
        origin = self.origin or 0
        begin, end = (
            None if moment is None else origin + moment.cycles(origin, self._hz)
            for moment in (self._choice.begin, self._choice.end)
        )
        return (
            _MIN_TSC if begin is None else max(_MIN_TSC, min(begin, _MAX_TSC)),
            _MAX_TSC if end is None else max(_MIN_TSC, min(end - 1, _MAX_TSC)),
        )

    def _is_beyond(self, batch: RecordBatch) -> bool:
        """Return whether all of ``batch`` is later than the choice's ``end``.

        It does not wait for a pCPU whose TSC goes backwards after that.  After a restart a TSC comes again.
        """
        if self._choice.end is None or self._choice.end.unit == "tsc" or not len(batch):
            return False
        return bool(batch.tsc.min() > self._window()[1])

    def _begin_segments(self, segment: int) -> None:
        """Forget at a restart what runs, and let times go on."""
        for restart in self._restarts[self._segment : segment]:
            if self.origin is not None:
                self.origin -= restart.back_cycles
            self._running[:] = k.UNKNOWN_VCPU
        self._segment = segment

    def _find_origin(self, batch: RecordBatch) -> None:
        if self.origin is not None or not len(batch):
            return
        timed = _has_time(batch)
        if not timed.any():
            return
        first = int(timed.argmax())
        self.origin = int(batch.tsc[first])
        if batch.shapes.header[batch.shape[first]] == _LOST_HEADER:
            # It is sorted by the start of its blind interval.
            extra = batch.extra(first)
            self.origin = min(self.origin, int(extra[2]) | int(extra[3]) << 32)

    def _learn(self, shapes: ShapeTable) -> None:
        """Note for each new shape whether to show it and what it shows about the running vCPU."""
        for shape in range(self._shapes_known, shapes.size):
            header = int(shapes.header[shape])
            self._role[shape] = _role(header)
            if header & EVENT_MASK == WRAP_BUFFER:
                self._shown[shape] = False
            elif self._choice.event is not None:
                reading = read_shape(header, self._versions)
                self._shown[shape] = self._choice.event(header & EVENT_MASK, reading.name)
        self._shapes_known = shapes.size

    # --- templates -------------------------------------------------------------------------

    def _add_template(self, batch: RecordBatch, row: int) -> None:
        """Make the missing template of ``row``."""
        shape = int(batch.shape[row])
        header = int(batch.shapes.header[shape])
        if shape != OVERFLOW_SHAPE and header & EVENT_MASK in _EXITS and self._vendor is None:
            self._vendor = _vendor(batch)
        reading = read_shape(header, self._versions, self._vendor)
        if not reading.by_word or self._by_word == _MAX_BY_WORD:
            self._template[shape] = self._book.add(shape, header, reading)
            return
        self._template[shape] = k.TEMPLATE_BY_WORD
        word0 = int(batch.extra(row)[0])
        reading = read_shape(header, self._versions, self._vendor, word0)
        self._put_slot(shape << 32 | word0, self._book.add(shape, header, reading))

    def _put_slot(self, key: int, template: int) -> None:
        slot = k.slot_of(key, _SLOTS)
        while self._slot_template[slot] >= 0:
            slot = (slot + 1) % _SLOTS
        self._slot_key[slot] = key
        self._slot_template[slot] = template
        self._by_word += 1


def _has_time(batch: RecordBatch) -> npt.NDArray[np.bool_]:
    """Return which rows have a TSC of their own; that of a filler does not count."""
    shapes = batch.shapes
    has_time: npt.NDArray[np.bool_] = shapes.timed & (shapes.event != WRAP_BUFFER)
    return has_time[batch.shape]


def _role(header: int) -> int:
    event_id = header & EVENT_MASK
    if header == _LOST_HEADER:
        return k.ROLE_LOST
    if not header & TIMED_BIT or header >> EXTRA_SHIFT & EXTRA_MASK == 0:
        return k.ROLE_NONE
    if event_id in _RUNS:
        return k.ROLE_RUNS
    return k.ROLE_STOPS if event_id in _STOPS else k.ROLE_NONE


def _vendor(batch: RecordBatch) -> Vendor | None:
    """Return the CPU vendor that the batch's exit reasons belong to."""
    shapes = batch.shapes
    exits = np.isin(shapes.event, _EXITS) & (shapes.words > 0)
    rows = exits[batch.shape]
    reasons, counts = np.unique(batch.words[batch.start[rows]], return_counts=True)
    # vendor_of() weighs by occurrence; up to 1000 of each reason are enough.
    return vendor_of(
        reason
        for reason, count in zip(reasons.tolist(), counts.tolist(), strict=True)
        for _ in range(min(count, 1000))
    )
