"""Estimates from slices whose truth is known: coverage, drift, outliers, covariates, the test."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from xtrace.analysis.trial.estimate import (
    AGAIN,
    Slices,
    added_ns,
    blocks_needed,
    carry_over,
    effect,
    unit_ns,
)

TREATED = 2


def simulated(
    seed: int,
    saved: float,
    blocks: int = 200,
    noise: float = 0.02,
    drift: float = 0.01,
    spikes: float = 0.0,
    mix: float = 0.0,
) -> Slices:
    """Return slices of a program whose unit takes 100 ns, less a share of ``saved`` in arm 2.

    Args:
        noise: spread of a slice's rate.  drift: of a random walk from block to block.
        spikes: share of slices in which the processor was taken away.
        mix: how much a covariate, which differs from slice to slice, changes a unit's time.
    """
    draw = np.random.default_rng(seed)
    shape = (blocks, 3)
    walk = np.exp(np.cumsum(draw.normal(0, drift, blocks)))[:, None]
    kind = draw.normal(0, 1, shape)
    cost = 100.0 * walk * (1 + draw.normal(0, noise, shape)) * (1 + mix * kind)
    cost[:, TREATED] *= 1 - saved
    cost *= np.where(draw.random(shape) < spikes, 8.0, 1.0)
    running = draw.uniform(0.9e6, 1.1e6, shape)
    units = np.round(running / cost)
    return Slices(units, running, np.round(units / 2), running / 2, kind[:, :, None])


@pytest.mark.parametrize("saved", [0.0, 0.003, 0.05, -0.02, 0.6])
def test_the_interval_contains_the_truth_as_often_as_it_says(saved: float) -> None:
    found = [effect(simulated(seed, saved), TREATED, seed).saved_ratio for seed in range(100)]
    # One look of several: each interval is wider than 95 %, so more than 4 of 100 would be a fault.
    assert sum(item.excludes(saved) for item in found) <= 4
    assert float(np.mean([item.value for item in found])) == pytest.approx(saved, abs=1.5e-3)


def test_slices_with_the_same_bytes_hardly_ever_differ() -> None:
    found = [effect(simulated(seed, 0.2, drift=0.05, spikes=0.02), AGAIN, seed) for seed in range(100)]
    assert sum(item.saved_ratio.excludes(0.0) for item in found) <= 4
    # p is uniform without an effect.
    assert 1 <= sum(item.p < 0.05 for item in found) <= 14


def test_a_processor_taken_away_now_and_then_does_not_hide_an_effect() -> None:
    quiet = effect(simulated(1, 0.01, blocks=800), TREATED, 1)
    disturbed = effect(simulated(1, 0.01, blocks=800, spikes=0.005), TREATED, 1)
    assert quiet.clipped_count == 0
    assert 0 < disturbed.clipped_count < 40
    assert not disturbed.saved_ratio.excludes(0.01)
    assert disturbed.saved_ratio.half < 3 * quiet.saved_ratio.half


def test_a_covariate_that_explains_a_units_time_makes_the_interval_narrower() -> None:
    found = effect(simulated(3, 0.01, noise=0.005, mix=0.05), TREATED, 3)
    assert not found.saved_ratio.excludes(0.01)
    assert found.saved_ratio.half < 0.4 * found.raw_half


def test_the_randomisation_test_sees_an_effect() -> None:
    assert effect(simulated(4, 0.05), TREATED, 4).p < 0.001


def test_drift_that_lasts_over_blocks_widens_the_interval() -> None:
    slices = simulated(5, 0.0, blocks=640, noise=0.001, drift=0.0)
    steady = effect(slices, TREATED, 5).saved_ratio.half
    # An effect that changes slowly: consecutive blocks agree with each other, not with the truth.
    waves = 1 + 0.01 * np.sin(np.arange(640) / 100)
    uneven = slices.units * np.column_stack([np.ones(640), np.ones(640), waves])
    changing = replace(slices, units=uneven)
    assert effect(changing, TREATED, 5).saved_ratio.half > 5 * steady


def test_the_time_of_a_unit_is_the_whole_time_by_all_units() -> None:
    slices = simulated(6, 0.5, drift=0.0)
    as_is, treated = unit_ns(slices, 0), unit_ns(slices, TREATED)
    assert as_is.value == pytest.approx(slices.running_ns[:, 0].sum() / slices.units[:, 0].sum())
    assert not as_is.excludes(100.0)
    assert not treated.excludes(50.0)


def test_half_the_width_needs_four_times_the_blocks() -> None:
    found = effect(simulated(8, 0.0), TREATED, 8).saved_ratio
    assert blocks_needed(found, found.half / 2, 200) == pytest.approx(800, abs=1)


def test_the_slope_of_doses_is_what_each_more_fence_takes() -> None:
    draw = np.random.default_rng(11)
    missed = 0
    for _ in range(50):
        cost = 100.0 * (1 + draw.normal(0, 0.02, (200, 6)))
        cost[:, 2:5] += np.array([7.0, 14.0, 21.0])
        running = np.full((200, 6), 1e6)
        units = running / cost
        slices = Slices(units, running, units / 2, running / 2, np.zeros((200, 6, 0)))
        found = added_ns(slices, {2: 1, 3: 2, 4: 3})
        missed += found.excludes(7.0)
        assert found.value == pytest.approx(7.0, abs=0.6)
        assert found.half < 0.5
    assert missed <= 3


def test_halves_that_differ_are_seen_and_widen_the_interval_to_their_side() -> None:
    slices = simulated(12, 0.3, blocks=400)
    assert not carry_over(slices, TREATED).excludes(0.0)
    # The treated arm does 4 % fewer units in its first half: it saves more in the second.
    early = slices.early_units.copy()
    early[:, TREATED] *= 0.96
    changing = replace(slices, early_units=early)
    found = carry_over(changing, TREATED)
    assert found.low > 0.02
    plain, widened = (effect(one, TREATED, 12).saved_ratio for one in (slices, changing))
    assert widened.low == plain.low
    assert widened.high == pytest.approx(plain.high + 2 * found.high)
