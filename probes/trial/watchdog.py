"""The process that puts the code back when the trial dies.

It waits at a pipe whose other end only the trial has.  The end of the pipe without a word before means that
the trial died: it takes the journal's lock, stops the target and restores it.  It has its own session, so
that what is sent to the trial's process group does not reach it.

Usage: python -m xtrace.probes.trial.watchdog PID < pipe
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import time

from xtrace.probes.trial.journal import Journal
from xtrace.probes.trial.restore import restore_of
from xtrace.probes.trial.target import TrialError

_READY, _DONE = b"+", b"."
_START_LIMIT_S = 30.0
_LOCK_LIMIT_S = 5.0
_RETRY_S = 0.001
#: The target may have been stopped by the dying trial, or be in a wait that ends later.
_ATTEMPTS = 5


class Watchdog:
    """The watchdog of one trial, started and waited for until it is ready.

    Raises:
        TrialError: it did not start.
    """

    def __init__(self, pid: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "xtrace.probes.trial.watchdog", str(pid)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        ready, _, _ = select.select((self._process.stdout,), (), (), _START_LIMIT_S)
        if not ready or os.read(self._process.stdout.fileno(), 1) != _READY:
            self._process.kill()
            self.end()
            why = "" if ready else f" within {_START_LIMIT_S:g} s"
            raise TrialError(
                f"the watchdog, which restores the code if the trial is killed, did not start{why}"
            )

    @property
    def pid(self) -> int:
        """Return its process id."""
        return self._process.pid

    def alive(self) -> bool:
        """Return whether it is still there."""
        return self._process.poll() is None

    def end(self) -> None:
        """Say that the code is as it was, and wait for its end."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(_DONE)
            self._process.stdin.flush()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


def main(arguments: list[str]) -> int:
    """Wait for the trial's end; restore unless it said that it did."""
    pid = int(arguments[0])
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGPIPE, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.write(1, _READY)
    if os.read(0, 1) == _DONE:
        return 0
    for _ in range(_ATTEMPTS):
        mine = _journal(pid)
        if mine is None:
            return 1
        said = restore_of(mine)
        if not mine.path.exists():
            return 0
        with contextlib.suppress(OSError):
            sys.stderr.write(f"xtrace: {said}\n")
        time.sleep(_RETRY_S)
    return 1


def _journal(pid: int) -> Journal | None:
    """Take over the journal: its lock is free once the dead trial's files are closed."""
    end = time.monotonic() + _LOCK_LIMIT_S
    while time.monotonic() < end:
        with contextlib.suppress(TrialError):
            return Journal(pid)
        time.sleep(_RETRY_S)
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
