"""Time the compiled loops of one pass, and compare each with the time that its memory traffic takes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import xtrace.analysis.state_machine.loops as state_machine
import xtrace.analysis.state_machine.tally_loops as tallies
import xtrace.probes.reader.loops as reader
from xtrace.analysis.state_machine.machine import Machine, Tallies
from xtrace.probes.reader.reader import open_trace

#: Each loop's module, its name there, and what it does.
LOOPS = (
    (reader, "decode", "decode"),
    (reader, "merge", "merge over pCPUs"),
    (state_machine, "run", "state machines"),
    (tallies, "tally", "tallies"),
)
#: Bytes of a decoded row (key, TSC, shape, start), of a merged one (TSC, pCPU, shape, start), of an interval.
ROW, MERGED, INTERVAL = 8 + 8 + 2 + 4, 8 + 2 + 2 + 4, 4 * 8


def rows(path: Path, runs: int, copy_gb_s: float) -> list[str]:
    """Return a row of the page per loop: best time per record in one thread, and its limit.

    The traffic is what the loop must read and write once.  Copying reads and writes, so the machine moves
    twice its copy bandwidth.
    """
    best: dict[str, float] = {}
    records = intervals = size = 0
    with timed() as spent:
        for _ in range(runs + 1):
            spent.clear()
            records, intervals, size = one_pass(path)
            best = {name: min(seconds, best.get(name, seconds)) for name, seconds in spent.items()}
    words, interval = size / records, INTERVAL * intervals / records
    traffic = {
        "decode": words + ROW,
        "merge": ROW + MERGED,
        "run": MERGED + words + interval,
        "tally": interval,
    }
    lines = []
    for _, name, what in LOOPS:
        ns, limit_ns = best[name] / records * 1e9, traffic[name] / (2 * copy_gb_s)
        lines.append(f"| {what} | {ns:.1f} | {traffic[name]:.0f} | {limit_ns:.1f} | {ns / limit_ns:.1f} |")
    return lines


def one_pass(path: Path) -> tuple[int, int, int]:
    """Run all stages in this thread; return the numbers of records, intervals and bytes."""
    records = intervals = 0
    machine, tallied = Machine(keep=2), Tallies()
    with open_trace(path, keep=2) as trace:
        for batch in trace:
            records += len(batch)
            for piece in machine.feed(batch):
                intervals += len(piece)
                tallied.add(piece)
    return records, intervals, trace.facts.bytes_read


@contextmanager
def timed() -> Iterator[dict[str, float]]:
    """Have the loops' CPU seconds added up, by name."""
    spent: dict[str, float] = {}

    def wrapped(name: str, loop: Callable[..., object]) -> Callable[..., object]:
        def call(*arguments: object) -> object:
            begin = time.thread_time()
            found = loop(*arguments)
            spent[name] = spent.get(name, 0) + time.thread_time() - begin
            return found

        return call

    whole = [(module, name, getattr(module, name)) for module, name, _ in LOOPS]
    for module, name, loop in whole:
        setattr(module, name, wrapped(name, loop))
    try:
        yield spent
    finally:
        for module, name, loop in whole:
            setattr(module, name, loop)
