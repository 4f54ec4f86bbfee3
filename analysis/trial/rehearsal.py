"""Do everything of a domain's trial but the writes: what it would change, and what its pauses cost."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import median

from xtrace.analysis.trial import arms as arms_module
from xtrace.analysis.trial.whole import Request
from xtrace.probes.trial.xen.domain import DomainTarget
from xtrace.symbols.patching.exchange import Exchange

_READINGS = 40
_BETWEEN_S = 0.01
_MOST_LINES = 20


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What a rehearsal found.

    Attributes:
        pause_count, pause_median_s, pause_most_s: of pauses in which it was read, as dom0 saw them.
        running_ratio: running time of the vCPUs divided by the time that passed.
        counted: how far the counter went.
    """

    pause_count: int
    pause_median_s: float
    pause_most_s: float
    running_ratio: float
    counted: int


def rehearsed(request: Request, target: DomainTarget) -> Rehearsal:
    """Open and read a domain as a trial does, write nothing, close it.

    Raises:
        TrialError: a trial would not begin either.
    """
    try:
        chosen = arms_module.arms(request.exchanges, request.by)
        target.open(arms_module.patches(request.exchanges, (), chosen, target.offset))
        begin, last = time.monotonic(), target.reading()
        first = last
        for _ in range(_READINGS):
            target.wait(_BETWEEN_S)
            last = target.reading()
        passed = time.monotonic() - begin
        target.switch(0)
    finally:
        target.close()
    return Rehearsal(
        len(target.pauses_s),
        median(target.pauses_s),
        max(target.pauses_s),
        (last.running_ns - first.running_ns) / 1e9 / passed,
        last.counters[0] - first.counters[0],
    )


def intention(exchanges: Sequence[Exchange], name: str, image: str, seconds: float) -> Iterator[str]:
    """Yield lines that say what a trial does to a domain, before it does."""
    count = len(exchanges)
    yield (
        f"{name}: a trial exchanges {count} instruction{'s' * (count > 1)} of {image} in its memory, to and "
        f"fro, with short pauses, for at most {seconds:g} s:"
    )
    for item in exchanges[:_MOST_LINES]:
        where = f" in {item.symbol}" if item.symbol else ""
        yield f"{item.address:#x} {item.original.hex()} -> {item.removed.hex()}, {item.text}{where}"
    if count > _MOST_LINES:
        yield f"and {count - _MOST_LINES} more; --plan lists all"
