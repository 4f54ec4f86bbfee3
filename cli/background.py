"""Run a function in a forked child while this process does something else.

Loading numba in one process and pandas in the other halves the time a short
command takes; and a long one keeps its interpreter free for the progress bar.
"""

from __future__ import annotations

import os
import pickle
import signal
from collections.abc import Callable
from typing import Generic, TypeVar

from xtrace.probes.errors import TraceError

Result = TypeVar("Result")


class Background(Generic[Result]):
    """A call of ``function`` in a child process; fork before anything heavy is imported."""

    def __init__(self, function: Callable[[], Result]) -> None:
        self._read_end, write_end = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._read_end)
            _be_the_child(function, write_end)
        os.close(write_end)

    def result(self) -> Result:
        """Wait for the call and return what it returned, or raise what it raised.

        Raises:
            TraceError: the child died before it could answer.
        """
        with os.fdopen(self._read_end, "rb") as pipe:
            answer = pipe.read()
        _, status = os.waitpid(self._pid, 0)
        code = os.waitstatus_to_exitcode(status)
        if code < 0:
            name = signal.Signals(-code).name
            raise TraceError(f"the process that reads the trace was ended by {name}; is there enough memory?")
        if not answer:
            raise TraceError(f"the process that reads the trace ended without an answer, exit code {code}")
        value, error = pickle.loads(answer)
        if error is not None:
            raise error
        return value  # type: ignore[no-any-return]

    def stop(self) -> None:
        """End the child, if it still runs."""
        try:
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass


def _be_the_child(function: Callable[[], object], write_end: int) -> None:
    code = 1
    try:
        try:
            answer = pickle.dumps((function(), None), protocol=pickle.HIGHEST_PROTOCOL)
        except Exception as error:  # noqa: BLE001 - it is raised again in the parent
            answer = pickle.dumps((None, error))
        with os.fdopen(write_end, "wb") as pipe:
            pipe.write(answer)
        code = 0
    except KeyboardInterrupt:
        code = 130
    finally:
        # Not sys.exit(): what the parent has open is the parent's to close.
        os._exit(code)
