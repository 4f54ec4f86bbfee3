"""Run one pass over a trace: read it, run the state machines and tally, each stage in its own thread.

The compiled loops release the interpreter lock, so the stages run in parallel.  The result is
plain arrays, which can be pickled; pandas is not needed.
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
from xtrace.probes.reader.ahead import Source
from xtrace.probes.reader.reader import open_trace

Item = TypeVar("Item")

#: Batches queued between two stages.  With those that the stages work on, _KEEP must stay valid.
_QUEUED = 2
_KEEP = _QUEUED + 3


def collect(
    path: str | os.PathLike[str],
    *,
    source: Source | None = None,
    strict: bool = False,
    window: tuple[int, int] = ALWAYS,
    progress: Callable[[int], None] | None = None,
) -> Collected:
    """Read the trace ``path`` (``-`` is standard input) and return the result of the state machines.

    Args:
        source: the trace's bytes, if it is open.
        strict: stop at the first damage.
        window: (first, last) TSC, both inclusive; count only what ends in it.
        progress: called from time to time with the bytes read so far.

    Raises:
        OSError, TraceError: as open_trace() and its reader do.
    """
    machine = Machine(window, keep=_KEEP)
    tallies = Tallies(window)
    with open_trace(path, source=source, strict=strict, keep=_KEEP) as reader:
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
        named_pcpus=machine.named.copy(),
        pairs=machine.pairs,
        first_tsc=max(int(machine.glob[G.FIRST_TSC]), window[0]),
        last_tsc=max(
            min(int(machine.glob[G.LAST_TSC]), window[1]), int(machine.glob[G.FIRST_TSC]), window[0]
        ),
    )


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
