"""Trials of a simulated program: a warm cache, which one arm leaves to the next, does not hide the truth."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from xtrace.analysis.trial.design import LONGEST_S, WANTED_BLOCKS, best_length, longer, longest_length
from xtrace.analysis.trial.run import Outcome, Settings, Trial
from xtrace.probes.trial.target import Reading

AS_IS_NS, REMOVED_NS = 150.0, 10.0
#: How much longer a unit takes while the cache holds nothing of its data.
COLD = 1.0


class Simulated:
    """A program on a clock of its own, whose units are cheaper the more of its data a cache holds.

    The cache fills at the pace of the work and others empty it: each arm has its own balance, which it
    approaches with a time constant.

    Args:
        cache_s: the time constant of the arm as it is.
        warm: share of the data in the cache, in the balance of the arm as it is and of the last.
    """

    def __init__(self, cache_s: float, warm: tuple[float, float], noise: float = 0.05) -> None:
        self.now = 0.0
        self._arm = 0
        self._units = 0.0
        self._cache_s, self._balance = cache_s, warm
        self._warm = warm[0]
        self._noise, self._draw = noise, np.random.default_rng(1)

    def _removed(self) -> int:
        return int(self._arm == 2)

    def unit_ns(self, warm: float) -> float:
        return (AS_IS_NS, REMOVED_NS)[self._removed()] * (1 + COLD * (1 - warm))

    def read(self, address: int, size: int) -> bytes:
        return bytes(size)

    def switch(self, arm: int) -> None:
        self._arm = arm
        self.now += 20e-6

    def reading(self) -> Reading:
        return Reading(round(self.now * 1e9), 1, (int(self._units),))

    def wait(self, seconds: float) -> None:
        steps = max(round(seconds / (self._cache_s / 20)), 1) if self._cache_s else 1
        for _ in range(steps):
            step = seconds / steps
            target = self._balance[self._removed()]
            keep = math.exp(-step / self._cache_s) if self._cache_s else 0.0
            self._warm = target + (self._warm - target) * keep
            noise = 1 + self._noise * float(self._draw.normal()) * math.sqrt(1e-3 / step)
            self._units += step * 1e9 / self.unit_ns(self._warm) * max(noise, 0.1)
            self.now += step

    def alive(self) -> bool:
        return True

    def close(self) -> None:
        pass


def _tried(target: Simulated, monkeypatch: pytest.MonkeyPatch, slice_s: float | None = None) -> Outcome:
    monkeypatch.setattr(time, "monotonic", lambda: target.now)
    settings = Settings(30.0, 0.001, slice_s)
    return Trial(target, 3, settings, lambda *_: None, lambda: True).run()


def _truth(warm: tuple[float, float]) -> float:
    """Return what the last arm saves where each arm runs for ever."""
    return 1 - REMOVED_NS * (1 + COLD * (1 - warm[1])) / (AS_IS_NS * (1 + COLD * (1 - warm[0])))


@pytest.mark.parametrize("cache_s", [0.0, 0.001, 0.01])
def test_what_an_arm_leaves_in_the_caches_does_not_move_the_figure(
    cache_s: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    warm = (0.2, 0.9)
    found = _tried(Simulated(cache_s, warm), monkeypatch)
    saved = found.effects[1].saved_ratio
    assert saved.value == pytest.approx(_truth(warm), abs=5e-4)
    assert saved.low - 1e-4 < _truth(warm) < saved.high + 1e-4
    assert found.slice_s >= 3 * cache_s
    assert not found.effects[0].saved_ratio.excludes(0.0)


def test_short_slices_that_disturb_each_other_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    warm = (0.2, 0.9)
    found = _tried(Simulated(0.005, warm), monkeypatch, slice_s=0.01)
    # The figure is wrong; so the halves of the slices must differ, and the interval contain the truth.
    saved = found.effects[1].saved_ratio
    assert saved.value < _truth(warm) - (saved.value - saved.low)
    assert found.carried.low > 0
    assert not saved.excludes(_truth(warm))


def test_longer_slices_are_preferred_where_they_cost_little() -> None:
    spreads = {0.001: (0.1, 0.003, 100.0), 0.01: (0.04, 0.03, 1e3), 0.1: (0.5, 0.3, 1e4)}
    assert best_length(spreads, 1.0) == 0.01
    assert best_length(spreads, 0.005) == 0.001
    assert best_length(spreads, 0.0005) == 0.001
    assert best_length({0.001: (0.1, 0.1, 100.0), 0.01: (0.02, 0.11, 1e3)}, 0.0005) == 0.01
    assert best_length({0.001: (0.1, 0.003, 3.0), 0.01: (0.9, 0.03, 30.0)}, 1.0) == 0.01
    assert best_length({0.001: (0.1, 0.003, 3.0), 0.01: (0.9, 0.03, 3.0)}, 1.0) == 0.01


def test_slices_get_longer_as_far_as_time_permits() -> None:
    assert longer(0.01, 1.0) == pytest.approx(0.03)
    assert longer(0.01, 0.02) == pytest.approx(0.02)
    assert longer(0.01, 0.012) is None
    assert longer(LONGEST_S, 10.0) is None


def test_what_a_slice_waits_for_a_processor_is_no_reason_for_shorter_ones() -> None:
    time_of_one = 30.0 / (WANTED_BLOCKS * 3)
    assert longest_length(0.005, 0.005, 1.0, 30.0, 3) == pytest.approx(time_of_one)
    # It waits for nearly all of the time that it has; the rest is for running, at half of a processor.
    assert longest_length(0.005, time_of_one - 0.01, 0.5, 30.0, 3) == pytest.approx(0.01)
