"""Single events as columns, out of the rows that the state machines emit."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from xtrace.analysis.state_machine.keys import high_of, low_of
from xtrace.analysis.state_machine.metrics import METRIC_SHIFT, Detail, Metric
from xtrace.analysis.state_machine.one_pass import Piece
from xtrace.probes.reader.batches import I64

_A_MASK = (1 << METRIC_SHIFT) - 1
#: The metrics of the runstates of vCPUs.
RUNSTATES = (
    Metric.RUNNING,
    Metric.RUNNABLE_WAKE,
    Metric.RUNNABLE_PREEMPT,
    Metric.RUNNABLE_OTHER,
    Metric.BLOCKED,
    Metric.OFFLINE,
    Metric.STATE_LOST,
    Metric.STATE_UNKNOWN,
    Metric.RUNNABLE_BUDGET,
)


def table_of(metrics: Iterable[Metric | Detail]) -> npt.NDArray[np.bool_]:
    """Return which metrics are wanted, for Rows.of(); of these also the intervals that are open."""
    wanted = np.zeros(256, np.bool_)
    wanted[[*metrics, Metric.OPEN]] = True
    return wanted


class Rows:
    """Rows of a piece of the stream, in the order in which they were emitted.

    Attributes:
        metric: int64 [n], a Metric or a Detail.  Where is_open, that of the interval that is open.
        a, b, value: int64 [n], as the metric says.
        end: int64 [n], TSC of the end, as if the TSC had never restarted.
        is_open: bool [n], an end was not recorded, so that the interval lasted at least ``value``.
    """

    __slots__ = ("a", "b", "end", "is_open", "metric", "value")

    def __init__(
        self, metric: I64, a: I64, b: I64, value: I64, end: I64, is_open: npt.NDArray[np.bool_]
    ) -> None:
        self.metric, self.a, self.b = metric, a, b
        self.value, self.end, self.is_open = value, end, is_open

    @classmethod
    def of(cls, piece: Piece, wanted: npt.NDArray[np.bool_]) -> Rows:
        """Return rows of a piece of the stream; ``wanted`` says of each metric whether they are."""
        key = piece.intervals[:, 0]
        chosen = np.flatnonzero(wanted[key >> METRIC_SHIFT])
        key, b, value, tsc = np.ascontiguousarray(piece.intervals[chosen].T)
        metric = key >> METRIC_SHIFT
        is_open = metric == Metric.OPEN
        if is_open.any():
            metric = np.where(is_open, high_of(b), metric)
            b = np.where(is_open, low_of(b), b)
        found = cls(metric, key & _A_MASK, b, value, tsc + piece.axis, is_open)
        return found.where(~is_open | wanted[metric]) if is_open.any() else found

    def __len__(self) -> int:
        return len(self.metric)

    @property
    def begin(self) -> I64:
        """int64 [n]: TSC of the beginning."""
        return self.end - self.value

    def where(self, chosen: npt.NDArray[np.bool_] | npt.NDArray[np.intp]) -> Rows:
        """Return these rows: a mask, or row numbers."""
        return Rows(
            self.metric[chosen], self.a[chosen], self.b[chosen],
            self.value[chosen], self.end[chosen], self.is_open[chosen],
        )  # fmt: skip

    def only(self, *metrics: Metric | Detail) -> Rows:
        """Return the rows of some metrics."""
        if len(metrics) == 1:
            return self.where(self.metric == metrics[0])
        return self.where(np.isin(self.metric, metrics))

    def pairs(self, first: Metric, second: Metric | Detail) -> tuple[Rows, Rows]:
        """Return rows of two metrics that are emitted together, the second one right after the first."""
        places = np.flatnonzero(self.metric == first)
        places = places[places + 1 < len(self)]
        places = places[self.metric[places + 1] == second]
        return self.where(places), self.where(places + 1)

    def runs(self) -> tuple[Rows, I64]:
        """Return the runs that end, and the state of each vCPU after it; -1 where no record shows that.

        The state is a runstate, STATE_LOST or STATE_INIT.
        """
        is_run = self.metric == Detail.RUN
        is_stop = (self.metric == Detail.STATE) & (self.b >> 4 == 0)
        both = self.where(is_run | is_stop)
        places = np.flatnonzero(both.metric == Detail.RUN)
        found = both.where(places)
        after = np.full(len(found), -1, np.int64)
        has_next = places + 1 < len(both)
        following = places[has_next] + 1
        is_its_own = (both.metric[following] == Detail.STATE) & (
            both.a[following] == both.a[places[has_next]]
        )
        after[has_next] = np.where(is_its_own & ~both.is_open[places[has_next]], both.b[following] & 0xF, -1)
        return found, after
