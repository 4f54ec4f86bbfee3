"""Rank test, interval and Holm's method, against published tables and scipy, and by their properties."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from xtrace.analysis.comparison import rank_test as module
from xtrace.analysis.comparison.rank_test import (
    ALPHA,
    EXACT_MOST,
    MISS,
    holm,
    least_p,
    neighbours_correlate,
    rank_test,
    runs_needed,
    shift,
)

few = st.lists(st.integers(0, 5).map(float), min_size=1, max_size=5)
positive = st.lists(st.floats(0.5, 1e6), min_size=4, max_size=9)


def counted_out(old: Sequence[float], new: Sequence[float]) -> float:
    """Return p by enumerating all divisions of the values: slow and obvious."""
    values = [*old, *new]
    ranks = [sum(other < value for other in values) + (values.count(value) + 1) / 2 for value in values]
    middle = len(old) * (len(values) + 1) / 2
    seen = abs(sum(ranks[: len(old)]) - middle)
    ways = list(itertools.combinations(ranks, len(old)))
    return sum(abs(sum(way) - middle) >= seen - 1e-9 for way in ways) / len(ways)


# --- the rank test -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "m", "critical"),
    # Greatest U with a two-sided p of at most 0.05, from a table of Mann and Whitney's U.
    [(4, 4, 0), (5, 5, 2), (5, 8, 6), (6, 6, 5), (8, 8, 13), (10, 10, 23), (12, 12, 37), (20, 20, 127)],
)
def test_critical_values_match_published_tables(n: int, m: int, critical: int) -> None:
    for u, is_significant in ((critical, True), (critical + 1, False)):
        assert (rank_test(*with_u(n, m, u)) <= 0.05) is is_significant


def with_u(n: int, m: int, u: int) -> tuple[list[float], list[float]]:
    """Return two groups without ties, with the old value above the new one in u pairs."""
    old: list[float] = []
    new = [float(value) for value in range(m)]
    for _ in range(n):
        above = min(u, m)
        u -= above
        old.append(above - 0.5 - len(old) * 0.001)
    return old, new


@given(few, few)
def test_p_matches_enumeration_of_all_divisions(old: list[float], new: list[float]) -> None:
    assert rank_test(old, new) == pytest.approx(counted_out(old, new))


@given(few, few, st.randoms())
def test_p_does_not_depend_on_order_or_on_a_monotone_scale(
    old: list[float], new: list[float], chance: random.Random
) -> None:
    p = rank_test(old, new)
    assert 0 < p <= 1
    mixed = chance.sample(old, len(old))
    assert rank_test(new, mixed) == pytest.approx(p)
    assert rank_test([math.exp(value) for value in old], [math.exp(value) for value in new]) == pytest.approx(
        p
    )


def test_p_bounds_the_frequency_of_chance_differences() -> None:
    """Of all divisions of ten values, a share of at most p has a p this low."""
    values = [float(value) for value in (3, 1, 4, 1, 5, 9, 2, 6, 5, 3)]
    p_values = []
    for chosen in itertools.combinations(range(10), 5):
        old = [values[index] for index in chosen]
        new = [values[index] for index in range(10) if index not in chosen]
        p_values.append(rank_test(old, new))
    for p in set(p_values):
        assert sum(other <= p + 1e-12 for other in p_values) / len(p_values) <= p + 1e-9


def test_the_normal_approximation_is_close_to_the_exact_p(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(1)
    for digits in (0, 1, 9):  # fewer digits, more equal values
        old = [round(chance.gauss(0, 1), digits) for _ in range(EXACT_MOST // 2)]
        new = [round(chance.gauss(0.4, 1), digits) for _ in range(EXACT_MOST // 2)]
        exact = rank_test(old, new)
        with monkeypatch.context() as patched:
            patched.setattr(module, "EXACT_MOST", 10)
            assert rank_test(old, new) == pytest.approx(exact, rel=0.05)


def test_many_equal_values_have_p_1() -> None:
    assert rank_test([1.0] * 60, [1.0] * 60) == 1


@pytest.mark.parametrize("groups", [([], [1.0]), ([1.0], []), ([math.nan], [1.0])])
def test_values_that_cannot_be_ranked_are_an_error(groups: tuple[list[float], list[float]]) -> None:
    with pytest.raises(ValueError, match="groups"):
        rank_test(*groups)


def test_p_agrees_with_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    chance = random.Random(2)
    for n, m in [(1, 4), (3, 9), (8, 8), (10, 10), (25, 25), (30, 40)]:
        old = [chance.gauss(0, 1) for _ in range(n)]
        new = [chance.gauss(0.5, 1) for _ in range(m)]
        method = "exact" if n + m <= EXACT_MOST else "asymptotic"
        assert rank_test(old, new) == pytest.approx(stats.mannwhitneyu(old, new, method=method).pvalue)
        old, new = [round(value) for value in old], [round(value) for value in new]
        if n + m > EXACT_MOST:
            assert rank_test(old, new) == pytest.approx(stats.mannwhitneyu(old, new).pvalue)


# --- the interval ------------------------------------------------------------------------------


def test_the_interval_of_a_published_example() -> None:
    """Hollander and Wolfe, permeability of membranes: R's wilcox.test says -0.76 to 0.15, shift -0.305."""
    term = [0.80, 0.83, 1.89, 1.04, 1.45, 1.38, 1.91, 1.64, 0.73, 1.46]
    weeks = [1.15, 0.88, 0.90, 0.74, 1.21]
    found = shift(term, weeks, ratio=False)
    assert found.estimate == pytest.approx(-0.305)
    assert found.low == pytest.approx(-0.76)
    assert found.high == pytest.approx(0.15)
    assert rank_test(term, weeks) == pytest.approx(0.2544, abs=1e-4)


@given(positive, positive)
def test_the_interval_excludes_no_change_exactly_if_the_test_does(old: list[float], new: list[float]) -> None:
    """Only without equal values: ties make the test more cautious than the interval."""
    for ratio in (False, True):
        found = shift(old, new, ratio=ratio)
        if found.low is None or found.high is None:
            assert least_p(len(old), len(new)) > MISS
            continue
        assert found.low <= found.estimate <= found.high
        if len({*old, *new}) == len(old) + len(new):
            assert (rank_test(old, new) <= MISS) == (found.low > 0 or found.high < 0)


@given(positive, st.floats(0.5, 2))
def test_a_factor_on_all_values_is_found(old: list[float], factor: float) -> None:
    found = shift(old, [value * factor for value in old], ratio=True)
    assert found.low is not None
    assert found.high is not None
    assert found.low <= factor - 1 + 1e-9
    assert found.high >= factor - 1 - 1e-9


def test_the_interval_covers_the_truth_in_95_percent_of_cases() -> None:
    chance = random.Random(3)
    for n in (4, 10):
        covered = 0
        for _ in range(1000):
            old = [chance.expovariate(1) + 1 for _ in range(n)]
            new = [(chance.expovariate(1) + 1) * 1.05 for _ in range(n)]
            found = shift(old, new, ratio=True)
            assert found.low is not None
            assert found.high is not None
            covered += found.low <= 0.05 <= found.high
        # Three standard errors below 95 %.
        assert covered >= 930


@pytest.mark.parametrize(("n", "m"), [(1, 1), (3, 3), (2, 7)])
def test_too_few_values_have_no_interval(n: int, m: int) -> None:
    found = shift([1.0] * n, [2.0] * m, ratio=True)
    assert (found.estimate, found.low, found.high) == (1.0, None, None)


def test_large_groups_have_an_interval_too() -> None:
    old = [float(value) for value in range(1, 61)]
    found = shift(old, [value + 10 for value in old], ratio=False)
    assert found.low is not None
    assert found.high is not None
    assert 0 < found.low < 10 < found.high < 20


@pytest.mark.parametrize(
    ("values", "correlation"),
    [
        ([], 0),
        ([1, 2], 0),
        ([3, 3, 3, 3], 0),
        ([1, -1, 1, -1, 1, -1], -5 / 6),
        ([1, 1, 1, -1, -1, -1], 3 / 6),
    ],
)
def test_correlation_of_neighbours(values: list[float], correlation: float) -> None:
    assert neighbours_correlate(values) == pytest.approx(correlation)


# --- many tests --------------------------------------------------------------------------------


def test_holm_on_a_worked_example() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([]) == []


@given(st.lists(st.floats(1e-9, 1), min_size=1, max_size=8))
def test_holm_raises_p_and_keeps_the_order(p_values: list[float]) -> None:
    raised = holm(p_values)
    assert all(one <= other <= 1 for one, other in zip(p_values, raised, strict=True))
    assert max(raised) <= max(max(p_values), min(1, len(p_values) * max(p_values)))
    for (p, q), (r, s) in itertools.combinations(zip(p_values, raised, strict=True), 2):
        assert p >= r or q <= s


@settings(max_examples=30)
@given(st.integers(1, 9), st.integers(1, 9))
def test_the_least_p_is_that_of_separate_groups(n: int, m: int) -> None:
    old, new = [float(value) for value in range(n)], [float(value + n) for value in range(m)]
    assert rank_test(old, new) == pytest.approx(least_p(n, m))


@pytest.mark.parametrize(("tests", "needed"), [(1, 5), (2, 5), (10, 7), (40, 8), (100, 8), (300, 9)])
def test_runs_needed(tests: int, needed: int) -> None:
    assert runs_needed(tests) == needed
    assert least_p(needed, needed) * tests <= ALPHA < least_p(needed - 1, needed - 1) * tests
