"""Looking several times does not make the interval miss more often."""

from __future__ import annotations

import numpy as np
import pytest

from xtrace.analysis.trial.sequential import LOOKS, critical_t, critical_value, look_level, look_shares


def test_one_look_needs_what_a_fixed_sample_does() -> None:
    assert critical_value(1) == pytest.approx(1.95996, abs=1e-4)


def test_two_looks_at_a_half_and_the_whole_need_pococks_value() -> None:
    # Pocock (1977), table 1: 2.178 for two equally spaced looks at a level of 5 %.
    assert critical_value(2) == pytest.approx(2.178, abs=2e-3)


def test_a_random_walk_stays_within_the_bounds_of_all_looks_in_95_percent() -> None:
    draw = np.random.default_rng(7)
    shares = np.array(look_shares())
    steps = draw.normal(size=(200_000, LOOKS)) * np.sqrt(np.diff(shares, prepend=0.0))
    within = (np.abs(steps.cumsum(axis=1)) <= critical_value() * np.sqrt(shares)).all(axis=1).mean()
    assert within == pytest.approx(0.95, abs=0.003)


def test_few_clusters_need_more_and_the_looks_level_is_below_the_whole() -> None:
    assert critical_t(10) > critical_t(60) > critical_value()
    assert 0.005 < look_level() < 0.05
