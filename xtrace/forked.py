"""Run a call in a forked child while this process does something else.

Loading numba in one process and typer and pandas in the other halves the time of a short command; a long
call does not block the parent's interpreter.  A spare child can be forked before its call is known: it loads
what such a call needs, then waits for it.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any, Generic, NamedTuple, TypeVar

Result = TypeVar("Result")

_PATIENCE_S = 5


class Preload(NamedTuple):
    """What a child imports before its call.

    Attributes:
        module: the module to import.
        patience: text for standard error if the import takes longer than 5 s.
    """

    module: str
    patience: str


class ChildEndedError(Exception):
    """A child ended before it answered; the text says how: "was ended by SIGKILL..."."""


class Forked(Generic[Result]):
    """A call of ``function`` in a child process; fork before anything heavy is imported.

    ``function`` is pickled, so it must be a module-level function or a partial of one.  A spare child that
    loads ``preload`` takes the call if there is one.
    """

    def __init__(self, function: Callable[[], Result], preload: Preload) -> None:
        spare = next((child for child in _spares if child.preload == preload), None)
        if spare is not None:
            _spares.remove(spare)
        self._child = spare or _Child(preload)
        self._child.send(function)

    def result(self) -> Result:
        """Wait for the call and return what it returned, or raise what it raised.

        Raises:
            ChildEndedError: the child ended before it answered.
        """
        answer, code = self._child.answer()
        if code < 0:
            raise ChildEndedError(f"was ended by {signal.Signals(-code).name}; is there enough memory?")
        if not answer:
            raise ChildEndedError(f"ended without an answer, exit code {code}")
        value, error = pickle.loads(answer)
        if error is not None:
            raise error
        return value  # type: ignore[no-any-return]

    def stop(self) -> None:
        """End the child, if it still runs."""
        self._child.end()


def prepare(preload: Preload) -> None:
    """Fork a child that loads ``preload`` and waits for a call."""
    _spares.append(_Child(preload))


def discard_spares() -> None:
    """End the spare children that were not used."""
    while _spares:
        _spares.pop().end()


class _Child:
    """A forked process with a pipe for the call and one for the answer."""

    def __init__(self, preload: Preload) -> None:
        self.preload = preload
        call_read, self._call = os.pipe()
        self._answer, answer_write = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self._call)
            os.close(self._answer)
            _be_the_child(preload, call_read, answer_write)
        os.close(call_read)
        os.close(answer_write)

    def send(self, function: Callable[[], object]) -> None:
        # If the child is already dead, answer() finds no answer and reports it.
        with contextlib.suppress(BrokenPipeError), os.fdopen(self._call, "wb") as pipe:
            pipe.write(pickle.dumps(function))

    def answer(self) -> tuple[bytes, int]:
        with os.fdopen(self._answer, "rb") as pipe:
            content = pipe.read()
        _, status = os.waitpid(self._pid, 0)
        return content, os.waitstatus_to_exitcode(status)

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)


_spares: list[_Child] = []


def _be_the_child(preload: Preload, call_read: int, answer_write: int) -> None:
    code = 1
    try:
        answer: tuple[Any, BaseException | None]
        try:
            with _patience(preload.patience):
                import_module(preload.module)
            with os.fdopen(call_read, "rb") as pipe:
                call = pipe.read()
            answer = (pickle.loads(call)(), None) if call else (None, None)
        except Exception as error:  # noqa: BLE001 - it is raised again in the parent
            answer = (None, error)
        with os.fdopen(answer_write, "wb") as pipe:
            pipe.write(pickle.dumps(answer, protocol=pickle.HIGHEST_PROTOCOL))
        code = 0
    except KeyboardInterrupt:
        code = 130
    finally:
        # Not sys.exit(): the child must not flush or close what the parent has open.
        os._exit(code)


@contextlib.contextmanager
def _patience(text: str) -> Iterator[None]:
    """Write ``text`` to standard error if the block takes longer than 5 s."""
    timer = threading.Timer(_PATIENCE_S, os.write, (2, text.encode()))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
