"""The recorder as a process: the signals that end it, the time that it takes."""

from __future__ import annotations

import contextlib
import resource
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass

#: What ends a recording in order, and the reason that is told.
SIGNALS = {signal.SIGINT: "interrupt", signal.SIGTERM: "signal", signal.SIGHUP: "signal"}


@dataclass(frozen=True, slots=True)
class Usage:
    """Of this process and its children that have ended: CPU seconds, waits."""

    cpu_s: float
    wait_count: int


def usage() -> Usage:
    """Return what was used up to now."""
    rows = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return Usage(sum(row.ru_utime + row.ru_stime for row in rows), sum(row.ru_nvcsw for row in rows))


@contextlib.contextmanager
def signals(handler: Callable[[int], None]) -> Iterator[None]:
    """Let the signals that end a recording end it in order."""
    previous = {}
    for number in SIGNALS:
        # Under nohup the terminal's end is to be ignored.
        if number == signal.SIGHUP and signal.getsignal(number) == signal.SIG_IGN:
            continue
        previous[number] = signal.signal(number, lambda got, _frame: handler(got))
    try:
        yield
    finally:
        for number, old in previous.items():
            signal.signal(number, old)
