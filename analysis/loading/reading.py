"""Read traces; several at a time, in threads, because the compiled loops release the interpreter lock."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from xtrace.probes.errors import TraceError
from xtrace.probes.selection.times import Moment

if TYPE_CHECKING:
    from xtrace.analysis.state_machine.collected import Collected

#: Called with a path and the number of its bytes read so far.
Update: TypeAlias = Callable[[str, int], None]
#: Makes a context manager from all paths to be read; it yields a function to call, or None.
Progress: TypeAlias = Callable[[Sequence[str]], AbstractContextManager[Update | None]]


@contextmanager
def unseen(_paths: Sequence[str]) -> Iterator[None]:
    """Show no progress."""
    yield None


class _StoppedError(Exception):
    """Another file cannot be read, or the user interrupted."""


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

    def read(self, paths: Sequence[str]) -> list[Collected]:
        """Read traces, at most one per core at a time, and return what each contains.

        Raises:
            OSError, TraceError: a file cannot be read.
        """
        with self.progress(paths) as update:
            if len(paths) < 2:
                return [self._read(path, update) for path in paths]
            stopped = threading.Event()

            def note(path: str, done: int) -> None:
                if stopped.is_set():
                    raise _StoppedError
                if update is not None:
                    update(path, done)

            with ThreadPoolExecutor(min(len(paths), len(os.sched_getaffinity(0)))) as pool:
                try:
                    return list(pool.map(lambda path: self._read(path, note), paths))
                except BaseException:
                    stopped.set()
                    raise

    def _read(self, path: str, update: Update | None) -> Collected:
        from xtrace.analysis.state_machine.one_pass import collect

        progress = None if update is None else lambda done: update(path, done)
        if self.begin is None and self.end is None:
            return collect(path, strict=self.strict, progress=progress)
        whole = collect(path, strict=self.strict)
        return collect(path, strict=self.strict, window=self._window(path, whole), progress=progress)

    def _window(self, path: str, whole: Collected) -> tuple[int, int]:
        """Return the first and last TSC of the window; without ``hz`` the rate comes from the whole trace."""
        hz = self.hz
        if hz is None:
            from xtrace.analysis.columns import Columns
            from xtrace.analysis.state_machine.collected import PAIRS
            from xtrace.analysis.summary import clock

            rate = clock.estimate(Columns(dict(zip(PAIRS, whole.pairs.T, strict=True))))
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
