"""Read traces in child processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from xtrace.analysis.loading.preload import LOOPS
from xtrace.forked import Forked
from xtrace.probes.errors import TraceError
from xtrace.probes.selection.times import Moment

if TYPE_CHECKING:
    from xtrace.analysis.state_machine.collected import Collected

#: A context manager that a child enters with the path of its trace; it yields a function to call with the
#: number of bytes read so far, or None.  It is pickled, so it must be a module-level function.
Progress = Callable[[str], AbstractContextManager[Callable[[int], None] | None]]


@contextmanager
def unseen(_path: str) -> Iterator[None]:
    """Show no progress."""
    yield None


@dataclass(frozen=True, slots=True)
class Reading:
    """How to read traces.

    Attributes:
        strict: stop at the first damage.
        begin, end: count only what ends between these points, the end not included; None is open.
        hz: TSC rate, where it is known beforehand; only a window in seconds needs it.
        progress: shows the progress of a child.
    """

    strict: bool = False
    begin: Moment | None = None
    end: Moment | None = None
    hz: float | None = None
    progress: Progress = unseen

    def start(self, paths: Sequence[str]) -> list[Forked[list[Collected]]]:
        """Start to read ``paths``, in at most one child per core; return the children."""
        cores = len(os.sched_getaffinity(0))
        shares = [paths[first::cores] for first in range(min(cores, len(paths)))]
        return [Forked(partial(self._read_all, share), LOOPS) for share in shares]

    def _read_all(self, paths: Sequence[str]) -> list[Collected]:
        return [self._read(path) for path in paths]

    def _read(self, path: str) -> Collected:
        from xtrace.analysis.state_machine.one_pass import collect

        with self.progress(path) as update:
            if self.begin is None and self.end is None:
                return collect(path, strict=self.strict, progress=update)
            whole = collect(path, strict=self.strict)
            return collect(path, strict=self.strict, window=self._window(path, whole), progress=update)

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
