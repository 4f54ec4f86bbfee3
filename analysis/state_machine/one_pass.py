"""One pass over a trace: read, run the machines, tally, each stage in a thread of its own.

The loops are compiled and leave the interpreter lock, so the stages run on as
many cores as there are.  What comes out are plain arrays: they can be
pickled, and making them needs no pandas.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from xtrace.analysis.state_machine.collected import Collected
from xtrace.analysis.state_machine.machine import ALWAYS, Machine, Tallies
from xtrace.analysis.state_machine.metrics import G, P, V
from xtrace.probes.reader.reader import open_trace

Item = TypeVar("Item")

#: Batches under way between two stages; with the two at work this many must stay valid.
_QUEUED = 2
_KEEP = _QUEUED + 3


def collect(
    path: str | os.PathLike[str],
    *,
    strict: bool = False,
    window: tuple[int, int] = ALWAYS,
    progress: Callable[[int], None] | None = None,
) -> Collected:
    """Read the trace ``path`` (``-`` is standard input) and return what the machines make of it.

    Args:
        strict: stop at the first damage.
        window: count only what ends within these TSCs, both included.
        progress: called now and then with the bytes read so far.

    Raises:
        OSError, TraceError: as open_trace() and its reader do.
    """
    machine = Machine(window, keep=_KEEP)
    tallies = Tallies(window)
    with open_trace(path, strict=strict, keep=_KEEP) as reader:
        batches = _Stage(iter(reader))
        intervals = _Stage(piece for batch in batches for piece in machine.feed(batch))
        for piece in intervals:
            tallies.add(piece)
            if progress is not None:
                progress(reader.facts.bytes_read)
    tallies.add(machine.finish())
    shapes = reader.shapes.size
    pcpus = len(reader.facts.pcpus) and max(reader.facts.pcpus) + 1
    machine.make_room(pcpus)
    vcpus = int(machine.glob[G.VCPUS])
    if machine.glob[G.VCPU_OVERFLOW]:
        vcpus = len(machine.vcpus)
    return Collected(
        facts=reader.facts,
        shape_headers=reader.shapes.header[:shapes].copy(),
        record_counts=reader.record_counts[:pcpus, :shapes].copy(),
        tallies=tallies.columns(),
        vcpu_keys=machine.vcpus[:vcpus, V.KEY].copy(),
        vcpu_types=machine.vcpus[:vcpus, V.TYPE].copy(),
        vcpu_counts=machine.counts[:vcpus].copy(),
        vcpus_left_out=int(machine.glob[G.VCPU_OVERFLOW]),
        pcpu_first_tsc=machine.pcpus[:pcpus, P.FIRST_TSC].copy(),
        pcpu_last_tsc=machine.pcpus[:pcpus, P.LAST_TSC].copy(),
        pcpu_blind_cycles=machine.pcpus[:pcpus, P.BLIND].copy(),
        pairs=machine.pairs,
        first_tsc=max(int(machine.glob[G.FIRST_TSC]), window[0]),
        last_tsc=max(
            min(int(machine.glob[G.LAST_TSC]), window[1]), int(machine.glob[G.FIRST_TSC]), window[0]
        ),
    )


class _Stage(Generic[Item]):
    """Run an iterable in a thread and hand its items on, a few at a time.

    An exception in the thread is raised where the items are taken.  A consumer that stops early
    lets the thread end at its next item.
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
        except BaseException as error:  # noqa: BLE001 - it is raised again in the consumer
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
                # Make room for a put() that waits.
                try:
                    self._queue.get(timeout=0.01)
                except queue.Empty:
                    continue
