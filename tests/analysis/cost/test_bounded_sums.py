"""Sums of executions times prices match an enumeration of all ways to distribute the executions."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.made_costs import INF
from xtrace.analysis.cost.bounded_sums import greatest, least
from xtrace.analysis.cost.executions import Executions, Group

F64 = npt.NDArray[np.float64]


def executed(low: Sequence[float], high: Sequence[float], *groups: Group) -> Executions:
    return Executions(np.array(low, float), np.array(high, float), [], [], groups)


def drawn(*values: float) -> F64:
    """Return the prices of sites, one draw each."""
    return np.array(values, float)[:, None]


def both(counts: Executions, price: F64, mine: Sequence[bool]) -> tuple[float, float]:
    return least(counts, price, mine), greatest(counts, price, mine)


def test_a_sum_without_groups() -> None:
    counts = executed([1, 0, 5], [3, INF, 5])
    all_of = [True] * 3
    assert both(counts, drawn(10, 7, 2), all_of) == (20, INF)
    # Sites with a price of 0 or not in ``mine`` need no bound; an unbounded gain counts the least executions.
    assert greatest(counts, drawn(10, 0, 2), all_of) == 40
    assert greatest(counts, drawn(10, 7, 2), [True, False, True]) == 40
    assert both(counts, drawn(10, -7, 2), all_of) == (20, 40)
    assert least(counts, drawn(-10, 0, 0), all_of) == -30


def test_an_unbounded_gain_counts_the_least_executions() -> None:
    counts = executed([3], [INF])
    assert least(counts, drawn(-10), [True]) == -30
    assert least(executed([3], [9]), drawn(-10), [True]) == -90
    # An unbounded cost does not affect the least sum.
    assert both(counts, drawn(10), [True]) == (30, INF)


def test_prices_of_less_than_a_cycle() -> None:
    assert both(executed([1], [3]), drawn(0.25), [True]) == (0.25, 0.75)
    assert both(executed([1], [3]), drawn(-0.25), [True]) == (-0.75, -0.25)
    counts = executed([0, 0], [4, 4], Group((0, 1), 2.0, 6.0))
    assert both(counts, drawn(0.5, 0.25), [True, True]) == (0.5, 2.5)
    assert both(counts, drawn(-0.5, -0.25), [True, True]) == (-2.5, -0.5)


def test_zero_cost_is_not_negative_zero() -> None:
    assert math.copysign(1.0, least(executed([0], [0]), drawn(5), [True])) == 1.0


def test_a_site_without_a_price_leaves_the_sum_unbounded() -> None:
    counts = executed([1, 2], [3, 2])
    price = drawn(np.nan, 5)
    assert both(counts, price, [True, True]) == (10, INF)
    assert greatest(counts, price, [False, True]) == 10
    # Unless its upper bound is 0 executions.
    assert greatest(executed([0, 2], [0, 2]), price, [True, True]) == 10
    assert greatest(executed([0, 2], [1, 2]), price, [True, True]) == INF


def test_one_draw_without_a_price_leaves_the_sum_unbounded() -> None:
    price = np.array([[1.0, np.nan, 1.0], [5.0, 5.0, 5.0]])
    assert greatest(executed([1, 2], [3, 2]), price, [True, True]) == INF


@pytest.mark.parametrize(
    ("draws", "from_low", "from_high"), [(1, 0, 0), (2, 0, 0), (40, 0, 0), (41, 1, 1), (81, 2, 2)]
)
def test_the_ends_are_the_tails_of_the_draws(draws: int, from_low: int, from_high: int) -> None:
    """At most 2.5 % of the draws are beyond each end; each end is one of the draws, not interpolated."""
    assert from_low == math.floor(0.025 * (draws - 1))
    price = np.random.default_rng(3).permutation(np.arange(1.0, draws + 1))[None, :]
    assert both(executed([1], [1]), price, [True]) == (1 + from_low, draws - from_high)
    assert both(executed([2], [3]), price, [True]) == (2 * (1 + from_low), 3 * (draws - from_high))


def test_some_draws_may_have_no_bound() -> None:
    """With 81 draws, two of them are beyond the end."""
    price = np.zeros((1, 81))
    price[0, :2] = 4.0
    assert greatest(executed([0], [INF]), price, [True]) == 0
    price[0, :3] = 4.0
    assert greatest(executed([0], [INF]), price, [True]) == INF


def test_group_members_without_an_upper_bound() -> None:
    counts = executed([1, 0], [INF, INF], Group((0, 1), 5.0, 7.0))
    assert both(counts, drawn(10, 2), [True, True]) == (10 + 4 * 2, 70)
    assert both(counts, drawn(2, -10), [True, True]) == (2 - 60, 14)


def test_executions_that_no_site_of_a_group_can_have_are_dropped() -> None:
    counts = executed([1, 1], [2, 2], Group((0, 1), 9.0, 9.0))
    assert both(counts, drawn(10, 3), [True, True]) == (26, 26)
    # Each site has at least its low count.
    counts = executed([4, 4], [5, 5], Group((0, 1), 1.0, 2.0))
    assert both(counts, drawn(10, 3), [True, True]) == (52, 52)


def test_other_sites_of_a_group_take_their_share() -> None:
    """Sites not in ``mine`` cost nothing but may have had some of the executions."""
    counts = executed([0, 0], [8, 8], Group((0, 1), 10.0, 10.0))
    assert both(counts, drawn(3, 5), [True, False]) == (6, 24)
    assert both(counts, drawn(3, 5), [False, True]) == (10, 40)


# --- against enumeration -------------------------------------------------------------------------


def ways(low: Sequence[int], high: Sequence[int], groups: Sequence[Group]) -> Iterator[tuple[int, ...]]:
    """Yield all combinations of executions that the bounds and the groups' sums allow."""
    for shares in itertools.product(*(range(a, b + 1) for a, b in zip(low, high, strict=True))):
        if all(group.low <= sum(shares[place] for place in group.members) <= group.high for group in groups):
            yield shares


@given(st.data())
@settings(max_examples=200)
def test_sums_match_enumeration_of_all_shares(data: st.DataObject) -> None:
    count = data.draw(st.integers(1, 4))
    low = [data.draw(st.integers(0, 2)) for _ in range(count)]
    high = [first + data.draw(st.integers(0, 3)) for first in low]
    mine = [data.draw(st.booleans()) for _ in range(count)]
    grouped = data.draw(st.permutations(range(count)))[: data.draw(st.integers(0, count))]
    # One group, or two without common members.
    cut = data.draw(st.integers(0, len(grouped)))
    groups = []
    for members in filter(None, (tuple(grouped[:cut]), tuple(grouped[cut:]))):
        least_sum, most_sum = sum(low[place] for place in members), sum(high[place] for place in members)
        total = data.draw(st.integers(least_sum, most_sum))
        groups.append(Group(members, total, data.draw(st.integers(total, most_sum))))
    price = [data.draw(st.integers(-3, 5)) for _ in range(count)]
    sums = [
        sum(number * cycles for number, cycles, asked in zip(shares, price, mine, strict=True) if asked)
        for shares in ways(low, high, groups)
    ]
    assert both(executed(low, high, *groups), drawn(*price), mine) == (min(sums), max(sums))


def test_each_draw_distributes_executions_by_its_own_prices() -> None:
    """If the dearest site differs between draws, the sums are not those of the mean price."""
    counts = executed([0, 0, 1], [4, 4, 2], Group((0, 1), 5.0, 5.0))
    price = np.array([[9.0, 1.0], [1.0, 9.0], [2.0, 2.0]])
    # With two draws, these are the ends.
    assert both(counts, price, [True] * 3) == (4 * 1 + 1 * 9 + 2, 4 * 9 + 1 * 1 + 4)
