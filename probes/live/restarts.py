"""Find where the TSC restarts, window by window as they arrive; tests/oracle/reader.py states the rules.

In plain Python, like all of ``live``; the reader's form is ``xtrace.probes.reader.restarts``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

#: A larger TSC is treated as damage.
MAX_TSC = (1 << 62) - 1
#: Restarts after which no more are looked for.
MAX_RESTARTS = 100

Handler = Callable[[Any, int, Any, Any], None]
#: Sort key, handler, pCPU, TSC, number of the pCPU's records up to here, and the handler's two arguments.
Entry = tuple[int, Handler, Any, int, int, Any, Any]
#: The TSCs of a window: first, second and last, -1 for those that it does not have.
Times = tuple[int, int, int]

NO_TIMES: Times = (-1, -1, -1)


def is_low(times: Times, bound: int) -> bool:
    """Return whether a window begins or ends below ``bound``."""
    first, second, last = times
    return last < bound or (second >= 0 and max(first, second) < bound)


def times_of(tscs: Sequence[int]) -> Times:
    """Return the times of a window with these TSCs."""
    if not tscs:
        return NO_TIMES
    first, second, last = (min(tsc, MAX_TSC) for tsc in (tscs[0], tscs[min(1, len(tscs) - 1)], tscs[-1]))
    return first, second if len(tscs) > 1 else -1, last


class Lane:
    """The state of one pCPU's records.

    Attributes:
        number: of the pCPU; pcpu: the object that the handlers get.
        held: records that wait for the other pCPUs, in order.
        fresh: those of the window that has not ended.
        key: of the last record; tsc: of the last timed one; before: that before the window.
        seen: records so far, wanted or not, without fillers.
        is_watched: return every record: the first ones, and the first after a loss.
        older, newer: the last two of the first and last TSCs of its windows, -1 before that.
    """

    __slots__ = (
        "before", "fresh", "held", "is_watched", "key", "newer", "number", "older", "pcpu", "seen", "tsc",
    )  # fmt: skip

    def __init__(self, number: int, pcpu: Any) -> None:
        self.number = number
        self.pcpu = pcpu
        self.held: list[Entry] = []
        self.fresh: list[Entry] = []
        self.key = 0
        self.tsc = self.before = 0
        self.seen = 0
        self.is_watched = True
        self.older = self.newer = -1

    def bound(self, times: Times) -> int:
        """Return the TSC that a window with these times must not end below."""
        first, second, _ = times
        if self.older >= 0:
            return min(self.older, self.newer)
        if self.newer >= 0:
            return min(self.newer, first)
        return min(first, second) if second >= 0 else -1

    def note(self, times: Times) -> None:
        """Note the times of a window of the current segment."""
        first, second, last = times
        self.older = first if second >= 0 else self.newer
        self.newer = last

    def keep(self) -> None:
        """Put the records of the window that has ended with the others."""
        self.held += self.fresh
        self.fresh.clear()


class Part:
    """A window, or the end of one, that may belong to the next segment.

    Attributes:
        lane, entries, tscs: its pCPU, records and TSCs.
        bound: the TSC that it is below.
        before: TSC of its first untimed records, which is of the current segment; -1 if there are none.
    """

    def __init__(
        self, lane: Lane, entries: list[Entry], tscs: Sequence[int], bound: int, before: int
    ) -> None:
        self.lane = lane
        self.entries = entries
        self.tscs = tscs
        self.bound = bound
        self.before = before


class Restarts:
    """Sorts windows into the current segment and what may be the next one.

    Attributes:
        count: restarts that are complete.
    """

    def __init__(self) -> None:
        self.count = 0
        self._parts: list[Part] = []
        self._switched: set[int] = set()
        self._is_known = False

    @property
    def waiting(self) -> int:
        """Number of records that wait until a restart is confirmed or refuted."""
        return sum(len(part.entries) for part in self._parts)

    def end_window(self, lane: Lane, times: Times, tscs_of: Callable[[], Sequence[int]]) -> bool:
        """Take the records that a lane has ``fresh``.

        Args:
            tscs_of: returns all TSCs of the window, as far as they are known.

        Returns:
            Whether the current segment is complete, without that window: call complete(), then this again.
        """
        if times[0] < 0:
            if self._parts and lane.number in self._switched:
                self._parts.append(Part(lane, lane.fresh, (), 0, -1))
                lane.fresh = []
            else:
                lane.keep()
            return False
        bound = lane.bound(times)
        if not self._parts:
            if not is_low(times, bound) or self.count >= MAX_RESTARTS:
                lane.note(times)
                lane.keep()
            else:
                self._cut(lane, tscs_of(), bound)
            return False
        if lane.older < 0:
            bound = self._parts[0].bound
        is_below = is_low(times, bound)
        if lane.number in self._switched:
            is_below = is_below and _high_count(tscs_of(), bound) == 0
            if self._is_known or is_below:
                return True
        if is_below:
            self._cut(lane, tscs_of(), bound)
            self._is_known = True
        elif self._is_known:
            lane.note(times)
            lane.keep()
        else:
            self.refute()
            return self.end_window(lane, times, tscs_of)
        return False

    def decide(self) -> bool:
        """Decide without a further window; return whether the current segment is complete."""
        if not self._parts:
            return False
        if self._is_known or len(self._parts[0].tscs) > 1:
            return True
        self.refute()
        return False

    def refute(self) -> None:
        """Go on as if there had been no restart."""
        for part in self._parts:
            part.lane.held += part.entries
        self._parts[0].lane.note(times_of(self._parts[0].tscs))
        self._forget()

    def complete(self) -> list[Part]:
        """Begin the next segment and return its windows so far, in the order of the file."""
        self.count += 1
        parts = self._parts
        self._forget()
        return parts

    def _forget(self) -> None:
        self._parts = []
        self._switched = set()
        self._is_known = False

    def _cut(self, lane: Lane, tscs: Sequence[int], bound: int) -> None:
        """Split the lane's window where its TSCs fall below ``bound``, and put the end aside."""
        high = _high_count(tscs, bound)
        if high:
            lane.note(times_of(tscs[:high]))
            entries = lane.fresh
            count = len(entries)
            while count and min(entries[count - 1][3], MAX_TSC) < bound:
                count -= 1
            lane.held += entries[:count]
            lane.fresh = entries[count:]
        self._parts.append(Part(lane, lane.fresh, tscs[high:], bound, -1 if high else lane.before))
        lane.fresh = []
        self._switched.add(lane.number)


def _high_count(tscs: Sequence[int], bound: int) -> int:
    """Return how many of the TSCs of a window that is_low() are before the restart."""
    if len(tscs) > 1 and max(tscs[:2]) < bound:
        return 0
    return max((place + 1 for place, tsc in enumerate(tscs) if min(tsc, MAX_TSC) >= bound), default=0)
