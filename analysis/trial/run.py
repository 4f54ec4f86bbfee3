"""Run a trial: a pilot that chooses the slices, then blocks of slices until the figure is precise enough."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from xtrace.analysis.trial.design import (
    LENGTHS_S,
    LONGEST_S,
    SHORTEST_S,
    best_length,
    dropped_s,
    orders,
)
from xtrace.analysis.trial.estimate import (
    AGAIN,
    LEAST_BLOCKS,
    Effect,
    Estimate,
    Slices,
    blocks_needed,
    effect,
    unit_ns,
)
from xtrace.analysis.trial.sequential import look_shares
from xtrace.probes.trial.target import Reading, Target, TrialError

_PILOT_SHARE = 0.1
_LEAST_PILOT_BLOCKS = 8
#: A slice without progress is given this many times its length before it is dropped.
_PATIENCE = 40
_MOST_IDLE_SLICES = 200
#: A slice may end when this share of its running time is still left.
_EARLY_SHARE = 0.1
_SHORTEST_WAIT_S = 50e-6


@dataclass(frozen=True, slots=True)
class Settings:
    """How a trial is run.

    Attributes:
        seconds: at most; the pilot included.
        precision: the half-width, as a share of the running time, at which it stops.
        slice_s: length of a slice; None lets the pilot choose.
        seed: of the arms' order and of the tests.
    """

    seconds: float
    precision: float
    slice_s: float | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a trial found.

    Attributes:
        effects: of each arm from 1 on (1: A/A).
        unit_ns: running time per unit, of each arm.
        unit_count: units counted in the slices of all arms.
        block_count, slice_s, seconds: how it was run.
        idle_count: slices dropped because no unit was done in them.
        ended_by: "precision", "time" or "request".
        slices: as measured.
    """

    effects: tuple[Effect, ...]
    unit_ns: tuple[Estimate, ...]
    unit_count: int
    block_count: int
    slice_s: float
    seconds: float
    idle_count: int
    ended_by: str
    slices: Slices


#: Takes progress: blocks done, and how many are needed at the present spread (0: not known yet).
Progress = Callable[[int, int], None]


@dataclass(slots=True)
class _Rows:
    """Slices as they are measured."""

    units: list[list[float]] = field(default_factory=list)
    running_ns: list[list[float]] = field(default_factory=list)
    covariates: list[list[list[float]]] = field(default_factory=list)

    def add(self, block: Sequence[tuple[float, float, list[float]]]) -> None:
        self.units.append([item[0] for item in block])
        self.running_ns.append([item[1] for item in block])
        self.covariates.append([item[2] for item in block])

    def slices(self) -> Slices:
        count = len(self.units)
        arms = len(self.units[0]) if count else 0
        return Slices(
            np.array(self.units).reshape(count, arms),
            np.array(self.running_ns).reshape(count, arms),
            np.array(self.covariates).reshape(count, arms, -1),
        )


class Trial:
    """A trial of one target.

    Args:
        arm_count: of the target's patches; arm 1 has the same bytes as arm 0.
        wanted: returns False once the user wants it to end.
    """

    def __init__(
        self,
        target: Target,
        arm_count: int,
        settings: Settings,
        progress: Progress,
        wanted: Callable[[], bool],
    ) -> None:
        self._target = target
        self._arm_count = arm_count
        self._settings = settings
        self._progress = progress
        self._wanted = wanted
        self._idle = 0
        self._idle_in_a_row = 0

    def run(self) -> Outcome:
        """Run it.

        Raises:
            TrialError: it had to end before there was a figure.
        """
        begin = time.monotonic()
        end = begin + self._settings.seconds
        length = self._settings.slice_s or self._pilot(begin + _PILOT_SHARE * self._settings.seconds)
        rows = _Rows()
        ended_by = "time"
        start = time.monotonic()
        looks = [start + (end - start) * share for share in look_shares()]
        needed = 0
        for order in orders(self._arm_count, self._settings.seed):
            block = self._block(order, length)
            if block is not None:
                rows.add(block)
            now = time.monotonic()
            self._progress(len(rows.units), needed)
            if not self._wanted():
                ended_by = "request"
                break
            if now >= end:
                break
            if now >= looks[0] and len(rows.units) >= LEAST_BLOCKS:
                while looks[0] <= now:
                    looks.pop(0)
                found = effect(rows.slices(), self._arm_count - 1, self._settings.seed).saved_ratio
                needed = blocks_needed(found, self._settings.precision, len(rows.units))
                if found.half <= self._settings.precision:
                    ended_by = "precision"
                    break
        return self._outcome(rows.slices(), length, time.monotonic() - begin, ended_by)

    def _outcome(self, slices: Slices, length: float, seconds: float, ended_by: str) -> Outcome:
        blocks = len(slices.units)
        if blocks < LEAST_BLOCKS:
            raise TrialError(
                f"no figure: only {blocks} blocks of slices, and it takes {LEAST_BLOCKS}; give more time "
                "(--duration)"
            )
        return Outcome(
            tuple(effect(slices, arm, self._settings.seed) for arm in range(AGAIN, self._arm_count)),
            tuple(unit_ns(slices, arm) for arm in range(self._arm_count)),
            int(slices.units.sum()),
            blocks,
            length,
            seconds,
            self._idle,
            ended_by,
            slices,
        )

    def _pilot(self, end: float) -> float:
        """Return the length of slices that is best here, tried with the program as it is in all of them."""
        spreads: dict[float, tuple[float, float, float]] = {}
        begin = time.monotonic()
        for number, length in enumerate(LENGTHS_S):
            until = begin + (end - begin) * (number + 1) / len(LENGTHS_S)
            if spreads and time.monotonic() > until:
                break  # the program runs too little of the time to try longer slices
            pairs: list[list[tuple[float, float, list[float]]]] = []
            since = time.monotonic()
            while (time.monotonic() < until or len(pairs) < _LEAST_PILOT_BLOCKS) and self._wanted():
                block = self._block([0, 1], length)
                if block is not None:
                    pairs.append(block)
            if len(pairs) < _LEAST_PILOT_BLOCKS:
                raise TrialError("no figure: it was ended before it had measured anything")
            took = (time.monotonic() - since) / len(pairs)
            rates = np.array([[item[0] / item[1] for item in block] for block in pairs])
            difference = (rates[:, 1] - rates[:, 0]) / rates.mean()
            low, high = np.quantile(difference, (0.25, 0.75))
            units = float(np.mean([item[0] for block in pairs for item in block]))
            # The interquartile range gives the spread from few pairs; no spread at all gives nothing.
            spreads[length] = (max(float(high - low), 1e-9), took, units)
        return min(max(best_length(spreads), SHORTEST_S), LONGEST_S)

    def _block(self, order: Sequence[int], length: float) -> list[tuple[float, float, list[float]]] | None:
        """Return units, running time and covariates of one slice of each arm, None if one had no progress."""
        found: dict[int, tuple[float, float, list[float]]] = {}
        for arm in order:
            measured = self._slice(arm, length)
            if measured is None:
                return None
            found[arm] = measured
        return [found[arm] for arm in sorted(found)]

    def _slice(self, arm: int, length: float) -> tuple[float, float, list[float]] | None:
        target = self._target
        target.switch(arm)
        # What is dropped, and what counts, is running time: a thread may have to wait for a processor first.
        before = self._after(target.reading(), dropped_s(length))
        after = self._after(before, length - dropped_s(length))
        units = after.counters[0] - before.counters[0]
        ran = after.running_ns - before.running_ns
        if units <= 0 or ran <= 0:
            self._idle += 1
            self._idle_in_a_row += 1
            if self._idle_in_a_row >= _MOST_IDLE_SLICES:
                raise TrialError(
                    "the counter does not advance while the program runs: it does nothing now, or the "
                    "counter counts something else; --counter names another"
                )
            return None
        self._idle_in_a_row = 0
        others = [
            (late - early) / units
            for early, late in zip(before.counters[1:], after.counters[1:], strict=True)
        ]
        return float(units), float(ran), [*others, ran / 1e9]

    def _after(self, since: Reading, seconds: float) -> Reading:
        """Return a reading after the threads ran for a time, or did not within many times as long."""
        left, tries = seconds, 0
        while True:
            self._target.wait(max(left, _SHORTEST_WAIT_S))
            now = self._target.reading()
            left = seconds - (now.running_ns - since.running_ns) / 1e9
            tries += 1
            if left <= seconds * _EARLY_SHARE or tries == _PATIENCE or not self._wanted():
                return now
