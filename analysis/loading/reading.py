"""Read traces; several at a time, in threads, because the compiled loops release the interpreter lock."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

# Loaded before the threads begin: its modules import each other, and where two threads each import one of
# them first, one thread can see a module of which only a part is there.
import xtrace.probes.catalog  # noqa: F401
from xtrace.probes.errors import TraceError
from xtrace.probes.reader.sources import STDIN, open_source
from xtrace.probes.selection.times import Moment

if TYPE_CHECKING:
    from xtrace.analysis.state_machine.collected import Collected, Segment

Result = TypeVar("Result")
#: How often to look whether Ctrl-C was pressed.
_LOOK_S = 0.1
#: A pipe is read on for so long after Ctrl-C, which also ends the program that writes to it.
_DRAIN_S = 0.5
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

    Args:
        ended: set at Ctrl-C if standard input is read; the calls end with what came until then.

    Attributes:
        was_interrupted: whether it was set.
    """

    def __init__(
        self,
        read: Callable[[str, Callable[[int], None]], Result],
        paths: Sequence[str],
        ended: threading.Event | None = None,
    ) -> None:
        self.was_interrupted = False
        self._ended = ended if STDIN in paths else None
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
            KeyboardInterrupt: Ctrl-C, of a pipe the second one, or nothing can be made of what came.
        """
        with progress(self._paths) as self._update:
            for _ in self._paths:
                try:
                    error = self._wait()
                except KeyboardInterrupt:
                    if self._ended is None or self.was_interrupted:
                        raise
                    error = self._wait_on(self._ended)
                if error is not None:
                    raise KeyboardInterrupt if self.was_interrupted else error
        return [self._results[place] for place in range(len(self._paths))]

    def _wait(self) -> BaseException | None:
        """Wait for the next call to end and return what it raised."""
        while True:
            # Linux may give Ctrl-C to a thread that is just being started, and then nothing wakes this one.
            with suppress(queue.Empty):
                return self._done.get(timeout=_LOOK_S)

    def _wait_on(self, ended: threading.Event) -> BaseException | None:
        """Have a pipe end soon, and wait for the next call to end."""
        self.was_interrupted = True
        timer = threading.Timer(_DRAIN_S, ended.set)
        timer.daemon = True
        timer.start()
        return self._wait()

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
        ended: has a pipe on standard input end.
    """

    strict: bool = False
    begin: Moment | None = None
    end: Moment | None = None
    hz: float | None = None
    progress: Progress = unseen
    ended: threading.Event = field(default_factory=threading.Event)

    def start(self, paths: Sequence[str]) -> Started[Collected]:
        """Start to read ``paths``."""
        return Started(self._read, paths, self.ended)

    def _read(self, path: str, progress: Callable[[int], None]) -> Collected:
        if self.begin is None and self.end is None:
            # Decompression begins here, and goes on while NumPy is imported.
            with open_source(path, ended=self.ended) as source:
                from xtrace.analysis.loading.passes import read

                return read(path, source=source, strict=self.strict, progress=progress)
        from xtrace.analysis.loading.passes import read, read_windows

        whole = read(path, strict=self.strict)
        return read_windows(path, whole, self._windows(path, whole), strict=self.strict, progress=progress)

    def _windows(self, path: str, whole: Collected) -> list[tuple[int, int]]:
        """Return the first and last TSC of the window in each segment of the trace.

        Times count from the trace's first record; segments follow each other without a gap.  A TSC counts in
        each segment that has it.  Without ``hz`` the rate comes from the whole trace.
        """
        hz = self.hz
        if hz is None:
            from xtrace.analysis.summary import clock
            from xtrace.analysis.summary.partial import pairs_of

            rate = clock.estimate(pairs_of(whole))
            hz = rate.hz if rate else None
        windows: list[tuple[int, int]] = []
        before = 0
        try:
            for segment in whole.segments:
                windows.append(self._window(segment, before, hz))
                before += segment.cycles
        except TraceError as error:
            raise TraceError(f"{path}: {error}") from None
        pairs = list(zip(whole.segments, windows, strict=True))
        if all(last < max(first, segment.first_tsc) for segment, (first, last) in pairs):
            tscs = ", ".join(f"{segment.first_tsc} to {segment.last_tsc}" for segment in whole.segments[:3])
            raise TraceError(
                f"{path}: no records from {self.begin or 'its start'} to {self.end or 'its end'}: "
                f"its TSCs are {tscs}{', ...' if len(windows) > 3 else ''}"
            )
        return windows

    def _window(self, segment: Segment, before: int, hz: float | None) -> tuple[int, int]:
        """Return the window in a segment that has ``before`` cycles of the trace before it."""
        first, last = segment.first_tsc, segment.last_tsc
        if self.begin is not None:
            first += _cycles(self.begin, segment, before, hz)
        if self.end is not None:
            last = min(last, segment.first_tsc + _cycles(self.end, segment, before, hz) - 1)
        return first, last


def _cycles(moment: Moment, segment: Segment, before: int, hz: float | None) -> int:
    """Return where a point is, counted from the segment's first record."""
    cycles = moment.cycles(segment.first_tsc, hz)
    return cycles if moment.unit == "tsc" else cycles - before
