"""Start and end the process that puts the code back when the trial dies: watchdog_process.py."""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys

from xtrace.probes.trial.journal import Subject
from xtrace.probes.trial.target import TrialError

READY, DONE = b"+", b"."
_START_LIMIT_S = 30.0


class Watchdog:
    """The watchdog of one trial, started and waited for until it is ready.

    Raises:
        TrialError: it did not start.
    """

    def __init__(self, subject: Subject) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "xtrace.probes.trial.watchdog_process", subject.file_name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        ready, _, _ = select.select((self._process.stdout,), (), (), _START_LIMIT_S)
        if not ready or os.read(self._process.stdout.fileno(), 1) != READY:
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
            self._process.stdin.write(DONE)
            self._process.stdin.flush()
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()
