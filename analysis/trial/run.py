"""Run a trial: a pilot that chooses the slices, then blocks of slices until the figure is precise enough."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from xtrace.analysis.trial.design import (
    LENGTHS_S,
    LONGEST_S,
    SHORTEST_S,
    best_length,
    longer,
    longest_length,
    orders,
)
from xtrace.analysis.trial.estimate import (
    AGAIN,
    LEAST_BLOCKS,
    Effect,
    Slices,
    added_ns,
    blocks_needed,
    carry_over,
    effect,
    unit_ns,
)
from xtrace.analysis.trial.result import Interval
from xtrace.analysis.trial.sequential import look_shares
from xtrace.analysis.trial.slicer import Slice, Slicer, table
from xtrace.probes.trial.target import Target, TrialError

_PILOT_SHARE = 0.15
_LEAST_PILOT_BLOCKS = 8


@dataclass(frozen=True, slots=True)
class Settings:
    """How a trial is run.

    Attributes:
        seconds: at most; the pilot included.
        precision: the half-width, as a share of the running time, at which it stops.
        slice_s: length of a slice; None lets the pilot choose.
        seed: of the arms' order and of the tests.
        lengths_s: what the pilot tries.
    """

    seconds: float
    precision: float
    slice_s: float | None = None
    seed: int = 0
    lengths_s: tuple[float, ...] = LENGTHS_S


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a trial found.

    Attributes:
        effects: of each arm from 1 on (1: A/A).
        unit_ns: running time per unit, of each arm.
        added_ns: running time per unit that each more fence takes, if some arms have more.
        carried: by how much the last arm saves more in the second half of its slices than in the first.
        unit_count: units counted in the slices of all arms.
        block_count, slice_s, seconds: how it was run.
        lengthened_count: how often all was begun again with longer slices.
        idle_count: slices dropped because no unit was done in them.
        ended_by: "precision", "time" or "request".
        slices: as measured.
    """

    effects: tuple[Effect, ...]
    unit_ns: tuple[Interval, ...]
    added_ns: Interval | None
    carried: Interval
    unit_count: int
    block_count: int
    slice_s: float
    seconds: float
    lengthened_count: int
    idle_count: int
    ended_by: str
    slices: Slices


#: Takes progress: blocks done, and how many are needed at the present spread (0: not known yet).
Progress = Callable[[int, int], None]


class Trial:
    """A trial of one target.

    Args:
        arm_count: of the target's patches; arm 1 has the same bytes as arm 0.
        wanted: returns False once the user wants it to end.
        doses: how many more fences an arm has, for those with more.
    """

    def __init__(
        self,
        target: Target,
        arm_count: int,
        settings: Settings,
        progress: Progress,
        wanted: Callable[[], bool],
        doses: Mapping[int, int] | None = None,
    ) -> None:
        self._target = target
        self._arm_count = arm_count
        self._settings = settings
        self._progress = progress
        self._wanted = wanted
        self._doses = doses or {}
        self._since = 0.0, 0
        self._slicer = Slicer(target, wanted)

    def run(self) -> Outcome:
        """Run it.

        Raises:
            TrialError: it had to end before there was a figure.
        """
        begin = time.monotonic()
        self._since = begin, self._target.reading().running_ns
        end = begin + self._settings.seconds
        length = self._settings.slice_s or self._pilot(begin + _PILOT_SHARE * self._settings.seconds, end)
        lengthened = 0
        while True:
            blocks, ended_by, next_length = self._blocks(length, end)
            if next_length is None:
                return self._outcome(blocks, length, time.monotonic() - begin, lengthened, ended_by)
            length, lengthened = next_length, lengthened + 1

    def _blocks(self, length: float, end: float) -> tuple[list[list[Slice]], str, float | None]:
        """Return blocks, what ended them, and the length to begin again with if one arm disturbs another."""
        blocks: list[list[Slice]] = []
        start = time.monotonic()
        looks = [start + (end - start) * share for share in look_shares()]
        needed = 0
        for order in orders(self._arm_count, self._settings.seed):
            block = self._slicer.block(order, length)
            if block is not None:
                blocks.append(block)
            now = time.monotonic()
            self._progress(len(blocks), needed)
            if not self._wanted():
                return blocks, "request", None
            if now >= end:
                return blocks, "time", None
            if now < looks[0] or len(blocks) < LEAST_BLOCKS:
                continue
            while looks[0] <= now:
                looks.pop(0)
            slices = table(blocks, self._arm_count)
            if self._settings.slice_s is None and carry_over(slices, self._arm_count - 1).excludes(0.0):
                took = (now - start) / len(blocks) / self._arm_count
                next_length = longer(length, self._longest(length, took, end - now))
                if next_length is not None:
                    return blocks, "", next_length
            found = effect(slices, self._arm_count - 1, self._settings.seed).saved_ratio
            needed = blocks_needed(found, self._settings.precision, len(blocks))
            if found.half <= self._settings.precision:
                return blocks, "precision", None
        raise AssertionError("orders end")

    def _longest(self, length: float, took: float, left: float) -> float:
        """Return the longest slice that fits into the time left, by what one of a length took."""
        passed = time.monotonic() - self._since[0]
        ran = (self._target.reading().running_ns - self._since[1]) / 1e9
        return longest_length(length, took, ran / max(passed, 1e-9), left, self._arm_count)

    def _outcome(
        self, blocks: list[list[Slice]], length: float, seconds: float, lengthened: int, ended_by: str
    ) -> Outcome:
        if len(blocks) < LEAST_BLOCKS:
            raise TrialError(
                f"no figure: only {len(blocks)} blocks of slices, and it takes {LEAST_BLOCKS}; give more "
                "time (--duration)"
            )
        slices = table(blocks, self._arm_count)
        return Outcome(
            tuple(effect(slices, arm, self._settings.seed) for arm in range(AGAIN, self._arm_count)),
            tuple(unit_ns(slices, arm) for arm in range(self._arm_count)),
            added_ns(slices, self._doses) if self._doses else None,
            carry_over(slices, self._arm_count - 1),
            int(slices.units.sum()),
            len(blocks),
            length,
            seconds,
            lengthened,
            self._slicer.idle_count,
            ended_by,
            slices,
        )

    def _pilot(self, until_all: float, end: float) -> float:
        """Return the length of slices that is best here, tried as it is and in the last arm."""
        spreads: dict[float, tuple[float, float, float]] = {}
        begin = time.monotonic()
        longest = LONGEST_S
        draw = orders(2, self._settings.seed)
        tried = (0, self._arm_count - 1)
        for number, length in enumerate(self._settings.lengths_s):
            until = begin + (until_all - begin) * (number + 1) / len(self._settings.lengths_s)
            if spreads and time.monotonic() > until_all:
                break
            if spreads and length > longest:
                continue
            pairs: list[list[Slice]] = []
            since = time.monotonic()
            while (time.monotonic() < until or len(pairs) < _LEAST_PILOT_BLOCKS) and self._wanted():
                block = self._slicer.block([tried[place] for place in next(draw)], length)
                if block is not None:
                    pairs.append(block)
            if len(pairs) < _LEAST_PILOT_BLOCKS:
                raise TrialError("no figure: it was ended before it had measured anything")
            took = (time.monotonic() - since) / len(pairs)
            rates = np.array([[item.units / item.running_ns for item in block] for block in pairs])
            difference = (rates[:, 1] - rates[:, 0]) / rates.mean()
            low, high = np.quantile(difference, (0.25, 0.75))
            units = float(np.mean([item.units for block in pairs for item in block]))
            # The interquartile range gives the spread from few pairs; no spread at all gives nothing.
            spreads[length] = (max(float(high - low), 1e-9), took, units)
            longest = self._longest(length, took / 2, end - time.monotonic())
        return min(max(best_length(spreads, longest), SHORTEST_S), LONGEST_S)
