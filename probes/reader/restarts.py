"""Find where the TSC restarts, from the windows in file order.

Suspend to RAM, or a reboot into an appended file, sets the TSCs of all pCPUs back together.  Each pCPU's
windows show it: one begins earlier than the window before, or its end is.
A skew between pCPUs never shows this way, because each pCPU is only compared with itself.  One damaged
TSC must not: each side of the place shows two TSCs that agree, and the next window confirms it.
``tests/oracle/reader.py`` states the rules.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from xtrace.probes.format import MAX_PCPUS, WINDOW_HEADER_BYTES
from xtrace.probes.reader import loops
from xtrace.probes.reader.batches import I64, U32, ShapeTable
from xtrace.probes.reader.read_facts import Restart
from xtrace.probes.reader.windows import CURRENT, NEXT, UNSEEN, Rows, Windows

#: Restarts after which no more are looked for; only a damaged or a made trace has that many.
MAX_RESTARTS = 100


@dataclass(slots=True)
class _Suspect:
    """A restart that is suspected, and then known, while its windows arrive.

    Attributes:
        offset, pcpu: where it is, as in Restart.
        bound: the TSC that its first window is below.
        first, second, last: TSCs of that window, as times() returns them.
        after: least TSC after it so far.
        switched: pCPUs with a window after it.
        is_known: whether another window has confirmed it.
    """

    offset: int
    pcpu: int
    bound: int
    first: int
    second: int
    last: int
    after: int
    switched: set[int] = field(default_factory=set)
    is_known: bool = False


class RestartWatch:
    """Follows the windows of a trace.

    Attributes:
        restarts: those found so far.
    """

    def __init__(self) -> None:
        self.restarts: list[Restart] = []
        self._older = np.full(MAX_PCPUS, -1, np.int64)
        self._newer = np.full(MAX_PCPUS, -1, np.int64)
        self._suspect: _Suspect | None = None

    @property
    def is_suspecting(self) -> bool:
        """Whether windows are held until a restart is confirmed, refuted or complete."""
        return self._suspect is not None

    def examine(
        self, windows: Windows, rows: Rows, words: U32, shapes: ShapeTable, first: int, *, is_last: bool
    ) -> bool:
        """Set the state of all windows from ``first`` on, up to the first restart that is complete.

        Windows that are partly of the next segment are split.

        Args:
            first: the first window that has not been examined.
            is_last: whether no more windows will come to decide with.

        Returns:
            Whether there is a restart: the current segment is complete with the windows that are CURRENT.
        """
        windows.state[first : windows.count] = CURRENT
        if len(self.restarts) >= MAX_RESTARTS:
            return False
        step = _Step(windows, rows, words, shapes)
        at = first
        while True:
            if self._suspect is None:
                at, bound = step.steady(at, self._older, self._newer)
                if at == windows.count:
                    return False
                at = self._begin(step, at, bound)
            elif at < windows.count:
                follows = self._follow(step, at, self._suspect)
                if follows < 0:
                    return self._complete(windows, at, self._suspect)
                at = follows
            elif not is_last:
                return False
            elif self._suspect.is_known or self._suspect.second >= 0:
                return self._complete(windows, at, self._suspect)
            else:
                self._refute(windows, self._suspect)

    def _begin(self, step: _Step, at: int, bound: int) -> int:
        """Suspect a restart in a window and return the next window."""
        windows = step.windows
        pcpu = int(windows.pcpu[at])
        header_bytes = WINDOW_HEADER_BYTES if step.is_whole(at, bound) else 0
        at = self._cut(step, at, bound)
        first, second, last = step.times(at)
        windows.state[at] = NEXT
        offset = int(windows.offset[at]) - header_bytes
        self._suspect = _Suspect(offset, pcpu, bound, first, second, last, first, {pcpu})
        return at + 1

    def _follow(self, step: _Step, at: int, suspect: _Suspect) -> int:
        """Examine a window after a suspected restart.

        Returns:
            The window to go on with; -1 if this one, of a pCPU that had its first, completes the restart.
        """
        windows = step.windows
        pcpu = int(windows.pcpu[at])
        first, second, last = step.times(at)
        if first < 0:
            windows.state[at] = NEXT if pcpu in suspect.switched else CURRENT
            return at + 1
        bound = int(min(self._older[pcpu], self._newer[pcpu])) if self._older[pcpu] >= 0 else suspect.bound
        is_below = last < bound or (second >= 0 and max(first, second) < bound)
        if pcpu in suspect.switched:
            is_below = is_below and step.is_whole(at, bound)
            if suspect.is_known or is_below:
                return -1
        if not is_below:
            if not suspect.is_known:
                self._refute(windows, suspect)
                return at
            self._note(pcpu, first, second, last)
            return at + 1
        at = self._cut(step, at, bound)
        windows.state[at] = NEXT
        suspect.after = min(suspect.after, step.times(at)[0])
        suspect.switched.add(pcpu)
        suspect.is_known = True
        return at + 1

    def _cut(self, step: _Step, at: int, bound: int) -> int:
        """Split a window where its TSCs fall below ``bound`` and return the part after it."""
        if step.is_whole(at, bound):
            return at
        step.split(at, bound)
        self._note(int(step.windows.pcpu[at]), *step.times(at))
        return at + 1

    def _note(self, pcpu: int, first: int, second: int, last: int) -> None:
        self._older[pcpu] = first if second >= 0 else self._newer[pcpu]
        self._newer[pcpu] = last

    def _refute(self, windows: Windows, suspect: _Suspect) -> None:
        """Go on as if there had been no restart."""
        state = windows.state[: windows.count]
        state[state == NEXT] = CURRENT
        self._note(suspect.pcpu, suspect.first, suspect.second, suspect.last)
        self._suspect = None

    def _complete(self, windows: Windows, at: int, suspect: _Suspect) -> bool:
        """Note the restart; the windows from ``at`` on are still to be examined, like those after it."""
        before = int(self._newer.max())
        self.restarts.append(Restart(suspect.offset, suspect.pcpu, before, suspect.after))
        state = windows.state[: windows.count]
        state[at:] = UNSEEN
        state[state == NEXT] = UNSEEN
        self._older[:] = self._newer[:] = -1
        self._suspect = None
        return True


class _Step:
    """The windows and rows of one step of the reader, for the loops."""

    def __init__(self, windows: Windows, rows: Rows, words: U32, shapes: ShapeTable) -> None:
        self.windows = windows
        self._rows = rows
        self._words = words
        self._shapes = shapes

    def steady(self, at: int, older: I64, newer: I64) -> tuple[int, int]:
        """Return the next window that is below its pCPU's marks, or the number of windows, and the bound."""
        windows, rows = self.windows, self._rows
        return loops.steady(
            self._words, self._shapes.header, at, windows.count,
            windows.pcpu, windows.row, windows.row_end,
            rows.tsc, rows.shape, rows.start,
            older, newer,
        )  # fmt: skip

    def times(self, at: int) -> tuple[int, int, int]:
        """Return the first, second and last TSC of a window."""
        windows, rows = self.windows, self._rows
        return loops.times(
            self._words, self._shapes.header, int(windows.row[at]), int(windows.row_end[at]),
            rows.tsc, rows.shape, rows.start,
        )  # fmt: skip

    def is_whole(self, at: int, bound: int) -> bool:
        """Return whether all of a window that begins or ends below ``bound`` is after the restart."""
        return self._row_below(at, bound) == int(self.windows.row[at])

    def split(self, at: int, bound: int) -> None:
        """Split a window where its TSCs fall below ``bound``."""
        rows = self._rows
        row = self._row_below(at, bound)
        timed = self._shapes.header[rows.shape[row]] >> 31
        word = int(rows.start[row]) - (3 if timed else 1)
        self.windows.split(at, row, word, int(rows.key[row - 1]))

    def _row_below(self, at: int, bound: int) -> int:
        windows, rows = self.windows, self._rows
        return loops.split(
            self._words, self._shapes.header, int(windows.row[at]), int(windows.row_end[at]),
            rows.tsc, rows.shape, rows.start, bound,
        )  # fmt: skip
