"""The recorder as a process: the signals that end it, the CPU time it uses."""

from __future__ import annotations

import contextlib
import resource
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass

#: The signals that end a recording in an orderly way, and the end reason of each.
SIGNALS = {signal.SIGINT: "interrupt", signal.SIGTERM: "signal", signal.SIGHUP: "signal"}


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds and voluntary waits of this process and its children that have ended."""

    cpu_s: float
    wait_count: int


def usage() -> Usage:
    """Return the usage so far."""
    rows = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return Usage(sum(row.ru_utime + row.ru_stime for row in rows), sum(row.ru_nvcsw for row in rows))


@contextlib.contextmanager
def signals(handler: Callable[[int], None]) -> Iterator[None]:
    """Call ``handler`` for the signals that end a recording, for as long as the context lasts."""
    previous = {}
    for number in SIGNALS:
        # Under nohup, SIGHUP stays ignored.
        if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
            continue
        previous[number] = signal.signal(number, lambda got, _frame: handler(got))
    try:
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, old)
