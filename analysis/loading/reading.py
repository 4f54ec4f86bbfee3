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

if TYPE_CHECKING:
    from xtrace.analysis.state_machine.collected import Collected

#: Entered by a child with the path of the trace that it reads: gives a function to call with the bytes read
#: so far, or None.  It is pickled, so it is a function of a module.
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
        from_s, to_s: count only what ends there, in seconds from the first record; None is open.
        hz: cycles a second of the TSC, where it is known beforehand; only a window needs it.
        progress: shows how far a child is.
    """

    strict: bool = False
    from_s: float | None = None
    to_s: float | None = None
    hz: float | None = None
    progress: Progress = unseen

    def start(self, paths: Sequence[str]) -> list[Forked[list[Collected]]]:
        """Begin to read ``paths`` in as many children as there are cores."""
        cores = len(os.sched_getaffinity(0))
        shares = [paths[first::cores] for first in range(min(cores, len(paths)))]
        return [Forked(partial(self._read_all, share), LOOPS) for share in shares]

    def _read_all(self, paths: Sequence[str]) -> list[Collected]:
        return [self._read(path) for path in paths]

    def _read(self, path: str) -> Collected:
        from xtrace.analysis.state_machine.one_pass import collect

        with self.progress(path) as update:
            if self.from_s is None and self.to_s is None:
                return collect(path, strict=self.strict, progress=update)
            whole = collect(path, strict=self.strict)
            return collect(path, strict=self.strict, window=self._window(path, whole), progress=update)

    def _window(self, path: str, whole: Collected) -> tuple[int, int]:
        """Return the window in TSCs; the whole trace tells how fast the TSC runs."""
        hz = self.hz
        if hz is None:
            import pandas as pd

            from xtrace.analysis.summary import clock

            rate = clock.estimate(pd.DataFrame(whole.pairs, columns=["ns", "cycles", "source"]))
            if rate is None:
                raise TraceError(
                    f"{path}: --from and --to need --cpu-hz, for the trace does not tell the TSC rate"
                )
            hz = rate.hz
        from_tsc = whole.first_tsc + round((self.from_s or 0) * hz)
        return from_tsc, whole.last_tsc if self.to_s is None else whole.first_tsc + round(self.to_s * hz)
