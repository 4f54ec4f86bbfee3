"""Lay out loops as calibrate does, and run them in its child."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from xtrace.analysis.calibrate.plan import Builder
from xtrace.probes.timing.program import Loop, Program
from xtrace.probes.timing.session import Session
from xtrace.symbols.replay import timed_loop
from xtrace.symbols.replay.site_loop import Replay

#: How long the driver may run before the child is killed.
LIMIT_S = 20.0


@dataclass(frozen=True, slots=True)
class Laid:
    """A program and its loops, one place each."""

    program: Program
    loops: tuple[Loop, ...]


def laid(codes: Sequence[timed_loop.LoopCode]) -> Laid:
    """Return loops laid out after the driver."""
    builder = Builder(0)
    loops = tuple(builder.add(code)[0] for code in codes)
    return Laid(builder.program(), loops)


def run(laid_out: Laid, count: int = 4) -> list[int]:
    """Run each loop once, all in one confined child; return their cycles.

    Raises:
        ChildError: one of them killed the child.
    """
    if not laid_out.loops:
        return []
    with Session(laid_out.program, cpu()) as session:
        assert session.confined
        entries = np.array([[loop.address, 1, count] for loop in laid_out.loops])
        cycles, _ = session.run(entries, LIMIT_S)
        return [int(item) for item in cycles]


def cpu() -> int:
    """Return the CPU that calibrate would choose."""
    return max(os.sched_getaffinity(0))


def bodies(replay: Replay) -> Iterator[timed_loop.Body]:
    """Yield all bodies of a replay."""
    for variants in (replay.core, replay.whole):
        if variants is not None:
            yield from (item for item in (variants.fenced, variants.plain, variants.lean) if item is not None)
