"""Split a trace into periods of equal length, by its own clock, as it arrives."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field
from operator import itemgetter

from xtrace.probes.live.counters import Figures, HostFigures, Machine
from xtrace.probes.live.framer import Framer
from xtrace.probes.live.restarts import Entry

#: Most periods without any record that are yielded one by one; of a longer pause only the length is given.
_MAX_EMPTY = 64

_key = itemgetter(0)


@dataclass(frozen=True, slots=True)
class Period:
    """What happened between two TSCs.

    Attributes:
        begin_tsc, end_tsc: of the period; a trace's last period ends with its last record.
        vcpus: figures by ``domain << 16 | vcpu``, of the vCPUs that did something; none unless they are kept.
        total: of all vCPUs but the idle domain's together.
        host: figures of the host.
        pause_cycles: time without records before this period that was left out.
        since_cycles: time from the trace's first record to the beginning; it goes on where the TSC restarts.
    """

    begin_tsc: int
    end_tsc: int
    vcpus: dict[int, Figures] = field(default_factory=dict)
    total: Figures = field(default_factory=Figures)
    host: HostFigures = field(default_factory=HostFigures)
    pause_cycles: int = 0
    since_cycles: int = 0

    @property
    def span_cycles(self) -> int:
        """The period's length."""
        return self.end_tsc - self.begin_tsc


class Periods:
    """Takes a trace's bytes and yields the periods that are complete.

    The first period begins with the first timed record, and another one where the TSC restarts.  A
    measurement counts in the period in which it ends.

    Attributes:
        framer: frames the bytes into records; machine: counts the records.
    """

    def __init__(self, cycles: int, name: str = "trace", *, by_vcpu: bool = True) -> None:
        """Start without any record.

        Args:
            cycles: length of a period.
            name: of the source, in messages.
            by_vcpu: keep figures of each vCPU, not only of all together.
        """
        self.machine = Machine(by_vcpu=by_vcpu)
        self.framer = Framer(
            self.machine.meaning, self.machine.pcpu_of, self.machine.on_other, self.machine.on_tick, name,
            on_hole=self.machine.on_hole,
        )  # fmt: skip
        self._cycles = self._next_cycles = cycles
        self._begin = 0
        self._last = 0
        self._pause = 0
        self._since = 0

    def resize(self, cycles: int) -> None:
        """Make the next periods ``cycles`` long; the current one is not shortened."""
        self._cycles = max(cycles, self._last - self._begin + 1)
        self._next_cycles = cycles

    def hole(self) -> None:
        """Take it that windows can be missing before the next bytes: nothing is measured across."""
        self.framer.hole()

    def feed(self, data: bytes) -> Iterator[Period]:
        """Take the next bytes and yield the periods that they complete."""
        self.framer.feed(data)
        yield from self._take()

    def pause(self) -> Iterator[Period]:
        """Yield what came so far, because nothing arrives for now."""
        self.framer.pause()
        yield from self._take()
        if self._begin and self._last > self._begin:
            yield self._period(self._last)

    def end(self) -> Iterator[Period]:
        """End the trace and yield the last periods, including the one that its end cuts off.

        Raises:
            TraceError: it was not a trace.
        """
        self.framer.end()
        yield from self._take()
        if self._begin:
            yield self._period(self._last)

    def _take(self) -> Iterator[Period]:
        for entries, is_over in self.framer.take():
            yield from self._walk(entries)
            if is_over:
                if self._begin:
                    yield self._period(self._last)
                self.machine.restart()
                self._begin = 0

    def _walk(self, entries: list[Entry]) -> Iterator[Period]:
        at, count = 0, len(entries)
        if not self._begin:
            # Records before the first timed one have no time, and so no period.
            at = bisect_left(entries, 1, key=_key)
            self.machine.take(entries[:at])
            if at < count:
                self._begin = self._last = entries[at][0]
        while at < count:
            end = self._begin + self._cycles
            key = entries[at][0]
            if key >= end:
                yield self._period(end)
                if (empty := (key - end) // self._cycles) > _MAX_EMPTY:
                    self._pause = empty * self._cycles
                    self._begin += self._pause
                    self.machine.skip(self._begin)
                continue
            stop = count if entries[-1][0] < end else bisect_left(entries, end, at, key=_key)
            self.machine.take(entries[at:stop])
            self._last = max(self._last, entries[stop - 1][0])
            at = stop

    def _period(self, end: int) -> Period:
        vcpus, total, host = self.machine.period(end)
        made = Period(self._begin, end, vcpus, total, host, self._pause, self._since + self._pause)
        self._since = made.since_cycles + made.span_cycles
        self._begin, self._pause = end, 0
        self._cycles = self._next_cycles
        return made
