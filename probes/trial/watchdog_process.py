"""The process that puts the code back when the trial dies.

It waits at a pipe whose other end only the trial has.  The end of the pipe without a word before means that
the trial died: it takes the journal's lock, stops the target and restores it.  It has its own session, so
that what is sent to the trial's process group does not reach it.

Usage: python -m xtrace.probes.trial.watchdog_process NAME < pipe, where NAME is that of the journal
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time

from xtrace.probes.trial.journal import Journal, Subject
from xtrace.probes.trial.restore import restore_of
from xtrace.probes.trial.target import TrialError
from xtrace.probes.trial.watchdog import DONE, READY

_LOCK_LIMIT_S = 5.0
_RETRY_S = 0.001
#: The target may have been stopped by the dying trial, or be in a wait that ends later.
_ATTEMPTS = 5


def main(arguments: list[str]) -> int:
    """Wait for the trial's end; restore unless it said that it did."""
    subject = Subject.of(arguments[0])
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.write(1, READY)
    if os.read(0, 1) == DONE:
        return 0
    for _ in range(_ATTEMPTS):
        mine = _journal(subject)
        if mine is None:
            return 1
        said = restore_of(mine)
        if not mine.path.exists():
            return 0
        with contextlib.suppress(OSError):
            sys.stderr.write(f"xtrace: {said}\n")
        time.sleep(_RETRY_S)
    return 1


def _journal(subject: Subject) -> Journal | None:
    """Take over the journal: its lock is free once the dead trial's files are closed."""
    end = time.monotonic() + _LOCK_LIMIT_S
    while time.monotonic() < end:
        with contextlib.suppress(TrialError):
            return Journal(subject)
        time.sleep(_RETRY_S)
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
