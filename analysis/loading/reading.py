"""Read traces; several at a time, in threads, because the compiled loops release the interpreter lock."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

from xtrace.probes.errors import TraceError
from xtrace.probes.reader.sources import open_source
from xtrace.probes.selection.times import Moment

if TYPE_CHECKING:
    from xtrace.analysis.state_machine.collected import Collected

Result = TypeVar("Result")
#: Called with a path and the number of its bytes read so far.
Update: TypeAlias = Callable[[str, int], None]
#: Makes a context manager from all paths to be read; it yields a function to call, or None.
Progress: TypeAlias = Callable[[Sequence[str]], AbstractContextManager[Update | None]]


@contextmanager
def unseen(_paths: Sequence[str]) -> Iterator[None]:
    """Show no progress."""
    yield None


class Started(Generic[Result]):
    """Calls of a function in threads, one call per path, at most one per core at a time.

    The threads do not keep the process from ending: one may wait for a pipe for ever.
    """

    def __init__(self, read: Callable[[str, Callable[[int], None]], Result], paths: Sequence[str]) -> None:
        self._read = read
        self._paths = paths
        self._next = iter(range(len(paths)))
        self._results: dict[int, Result] = {}
        self._done: queue.SimpleQueue[BaseException | None] = queue.SimpleQueue()
        self._stopped = False
        self._update: Update | None = None
        for _ in range(min(len(paths), len(os.sched_getaffinity(0)))):
            threading.Thread(target=self._work, daemon=True).start()

    def result(self, progress: Progress) -> list[Result]:
        """Wait for all calls and return what they returned, in the order of the paths.

        Raises:
            Exception: whatever the first call to fail raised.
        """
        with progress(self._paths) as self._update:
            for _ in self._paths:
                error = self._done.get()
                if error is not None:
                    raise error
        return [self._results[place] for place in range(len(self._paths))]

    def stop(self) -> None:
        """Have the calls end when they next report progress."""
        self._stopped = True

    def _work(self) -> None:
        for place in self._next:
            try:
                self._results[place] = self._read(self._paths[place], partial(self._note, self._paths[place]))
            except BaseException as error:  # noqa: BLE001 - raised again where the results are wanted
                self._done.put(error)
                return
            self._done.put(None)

    def _note(self, path: str, done: int) -> None:
        if self._stopped:
            raise InterruptedError
        if self._update is not None:
            self._update(path, done)


@dataclass(frozen=True, slots=True)
class Reading:
    """How to read traces.

    Attributes:
        strict: stop at the first damage.
        begin, end: count only what ends between these points, the end not included; None is open.
        hz: TSC rate, where it is known beforehand; only a window in seconds needs it.
        progress: shows how far the reading is.
    """

    strict: bool = False
    begin: Moment | None = None
    end: Moment | None = None
    hz: float | None = None
    progress: Progress = unseen

    def start(self, paths: Sequence[str]) -> Started[Collected]:
        """Start to read ``paths``."""
        return Started(self._read, paths)

    def _read(self, path: str, progress: Callable[[int], None]) -> Collected:
        if self.begin is None and self.end is None:
            # Decompression begins here, and goes on while NumPy is imported.
            with open_source(path) as source:
                from xtrace.analysis.state_machine.one_pass import collect

                return collect(path, source=source, strict=self.strict, progress=progress)
        from xtrace.analysis.state_machine.one_pass import collect

        whole = collect(path, strict=self.strict)
        return collect(path, strict=self.strict, window=self._window(path, whole), progress=progress)

    def _window(self, path: str, whole: Collected) -> tuple[int, int]:
        """Return the first and last TSC of the window; without ``hz`` the rate comes from the whole trace."""
        hz = self.hz
        if hz is None:
            from xtrace.analysis.summary import clock
            from xtrace.analysis.summary.partial import pairs_of

            rate = clock.estimate(pairs_of(whole))
            hz = rate.hz if rate else None
        first_tsc, last_tsc = whole.first_tsc, whole.last_tsc
        try:
            if self.begin is not None:
                first_tsc += self.begin.cycles(whole.first_tsc, hz)
            if self.end is not None:
                last_tsc = min(last_tsc, whole.first_tsc + self.end.cycles(whole.first_tsc, hz) - 1)
        except TraceError as error:
            raise TraceError(f"{path}: {error}") from None
        if last_tsc < max(first_tsc, whole.first_tsc):
            raise TraceError(
                f"{path}: no records from {self.begin or 'its start'} to {self.end or 'its end'}: "
                f"its TSCs are {whole.first_tsc} to {whole.last_tsc}"
            )
        return first_tsc, last_tsc
