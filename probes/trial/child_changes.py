"""Sleep until a traced thread may have changed its state.

The kernel says so by SIGCHLD to the process, and any thread of it may take the signal: those of numerical
libraries do not block it.  So it is not waited for with sigtimedwait, which loses what another thread took,
but turned into a byte in a pipe by the interpreter's own handler, whichever thread that runs in.

Source: signal(7), "Standard signals"; Linux kernel/signal.c, complete_signal and do_notify_parent_cldstop.
"""

from __future__ import annotations

import os
import select
import signal
from contextlib import suppress
from types import FrameType
from typing import Any

_DRAINED_BYTES = 4096


def _taken(_number: int, _frame: FrameType | None) -> None:
    """Do nothing: a signal with a handler is written to the pipe."""


class ChildChanges:
    """Wakes the main thread, which must be the caller, from open() to close()."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._old_handler: Any = signal.signal(signal.SIGCHLD, _taken)
        self._old_pipe = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)

    def sleep(self, seconds: float) -> None:
        """Return after a time, or earlier if a child may have changed since the last return."""
        select.select((self._read,), (), (), max(seconds, 0.0))
        with suppress(BlockingIOError):
            os.read(self._read, _DRAINED_BYTES)

    def close(self) -> None:
        """Handle signals as before."""
        signal.set_wakeup_fd(self._old_pipe)
        signal.signal(signal.SIGCHLD, self._old_handler)
        os.close(self._read)
        os.close(self._write)
