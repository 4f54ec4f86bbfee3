"""Measure slices of a running program: units and running time while it has the bytes of one arm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xtrace.analysis.trial.design import dropped_s
from xtrace.analysis.trial.estimate import Slices
from xtrace.probes.trial.target import Reading, Target, TrialError

#: A slice without progress is given this many times its length before it is dropped.
_PATIENCE = 40
_MOST_IDLE_SLICES = 200
#: A slice may end when this share of its running time is still left.
_EARLY_SHARE = 0.1
_SHORTEST_WAIT_S = 50e-6
#: Shorter ones are not read in the middle, too: a reading takes some microseconds.
_LEAST_HALVED_S = 400e-6


@dataclass(frozen=True, slots=True)
class Slice:
    """What one slice gave: in all that counts, and in its first half."""

    units: float
    running_ns: float
    early_units: float
    early_ns: float
    covariates: tuple[float, ...]


def table(blocks: Sequence[Sequence[Slice]], arm_count: int) -> Slices:
    """Return slices by block and arm as the statistics take them."""

    def column(value: Callable[[Slice], float | tuple[float, ...]]) -> npt.NDArray[np.float64]:
        values = [[value(item) for item in block] for block in blocks]
        return np.array(values, float).reshape(len(blocks), arm_count, -1)

    return Slices(
        column(lambda item: item.units)[:, :, 0],
        column(lambda item: item.running_ns)[:, :, 0],
        column(lambda item: item.early_units)[:, :, 0],
        column(lambda item: item.early_ns)[:, :, 0],
        column(lambda item: item.covariates),
    )


class Slicer:
    """Takes slices of a target.

    Args:
        wanted: returns False once the user wants it to end.

    Attributes:
        idle_count: slices without progress, which were dropped.
    """

    def __init__(self, target: Target, wanted: Callable[[], bool]) -> None:
        self._target, self._wanted = target, wanted
        self.idle_count = 0
        self._in_a_row = 0

    def block(self, order: Sequence[int], length: float) -> list[Slice] | None:
        """Return one slice of each arm, None if one had no progress."""
        found: dict[int, Slice] = {}
        for arm in order:
            measured = self._slice(arm, length)
            if measured is None:
                return None
            found[arm] = measured
        return [found[arm] for arm in sorted(found)]

    def _slice(self, arm: int, length: float) -> Slice | None:
        target = self._target
        target.switch(arm)
        # What is dropped, and what counts, is running time: a thread may have to wait for a processor first.
        before = self._after(target.reading(), dropped_s(length))
        kept = length - dropped_s(length)
        middle = self._after(before, kept / 2) if kept >= _LEAST_HALVED_S else before
        after = self._after(before, kept, middle)
        units = after.counters[0] - before.counters[0]
        ran = after.running_ns - before.running_ns
        if units <= 0 or ran <= 0:
            self.idle_count += 1
            self._in_a_row += 1
            if self._in_a_row >= _MOST_IDLE_SLICES:
                raise TrialError(
                    "the counter does not advance while the program runs: it does nothing now, or the "
                    "counter counts something else; --counter names another"
                )
            return None
        self._in_a_row = 0
        others = [
            (late - early) / units
            for early, late in zip(before.counters[1:], after.counters[1:], strict=True)
        ]
        return Slice(
            float(units),
            float(ran),
            float(middle.counters[0] - before.counters[0]),
            float(middle.running_ns - before.running_ns),
            (*others, ran / 1e9),
        )

    def _after(self, since: Reading, seconds: float, last: Reading | None = None) -> Reading:
        """Return a reading after the threads ran for a time, or did not within many times as long.

        Args:
            last: a later reading, if there is one.
        """
        tries = 0
        left = seconds - ((last or since).running_ns - since.running_ns) / 1e9
        while True:
            self._target.wait(max(left, _SHORTEST_WAIT_S))
            now = self._target.reading()
            left = seconds - (now.running_ns - since.running_ns) / 1e9
            tries += 1
            if left <= seconds * _EARLY_SHARE or tries == _PATIENCE or not self._wanted():
                return now
