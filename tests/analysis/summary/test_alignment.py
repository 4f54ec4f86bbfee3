"""What to add to the TSCs of pCPUs that are apart, from the bounds of their differences."""

from __future__ import annotations

import math

import numpy as np
import pytest

from xtrace.analysis.columns import Columns
from xtrace.analysis.summary.alignment import Placed, alignment

OPEN = (math.nan, math.nan)


def shown(*rows: tuple[int, int, bool, tuple[float, float]]) -> Columns:
    """Return rows (pcpu, other pCPU, skewed, bounds) as clock.skew() does."""
    return Columns(
        {
            "pcpu": np.array([row[0] for row in rows], np.int64),
            "other_pcpu": np.array([row[1] for row in rows], np.int64),
            "skewed": np.array([row[2] for row in rows], bool),
            "low_cycles": np.array([row[3][0] for row in rows], float),
            "high_cycles": np.array([row[3][1] for row in rows], float),
        }
    )


def test_the_second_of_two_gets_the_middle() -> None:
    assert alignment(shown((0, 1, True, (200, 300)))) == [{0: Placed(0, 0), 1: Placed(-250, 50)}]
    assert alignment(shown((0, 1, True, (-300, -201)))) == [{0: Placed(0, 0), 1: Placed(250, 50)}]


def test_nothing_is_known_without_bounds() -> None:
    assert alignment(shown()) == []
    assert alignment(shown((0, 1, True, OPEN))) == []


@pytest.mark.parametrize(("high", "groups"), [(300, 1), (301, 0)])
def test_no_difference_within_the_bounds_may_become_greater(high: int, groups: int) -> None:
    """From 100 to 300 the middle is 200: a true difference of 100 stays 100 apart."""
    assert len(alignment(shown((0, 1, True, (100, high))))) == groups
    assert len(alignment(shown((0, 1, True, (-high, -100))))) == groups


def test_most_pcpus_keep_their_tsc() -> None:
    found = alignment(
        shown((0, 1, True, (200, 220)), (0, 2, True, (190, 230)), (1, 2, False, (-15, 5)))
    )  # fmt: skip
    assert found == [{0: Placed(210, 10), 1: Placed(0, 0), 2: Placed(0, 15)}]


def test_pcpus_that_were_moved_are_no_reference() -> None:
    rows = shown((0, 1, False, (-4, 5)))
    assert alignment(rows) == [{0: Placed(0, 0), 1: Placed(0, 5)}]
    assert alignment(rows, {0}) == [{1: Placed(0, 0), 0: Placed(0, 5)}]


def test_the_narrowest_bounds_are_used_first() -> None:
    found = alignment(
        shown((0, 1, True, (500, 700)), (0, 2, True, (490, 510)), (1, 2, True, (-105, -95)))
    )  # fmt: skip
    assert found == [{0: Placed(0, 0), 2: Placed(-500, 10), 1: Placed(-600, 15)}]


def test_pcpus_that_do_not_prove_a_difference_are_apart_if_others_say_so_precisely() -> None:
    precise = (0, 1, True, (490, 510)), (1, 2, True, (-310, -290))
    assert alignment(shown(*precise, (0, 2, False, (-900, 900)))) == [
        {0: Placed(0, 0), 1: Placed(-500, 10), 2: Placed(-200, 20)}
    ]
    assert alignment(shown(*precise, (0, 2, False, (-30, 30))))[0][2].offset_cycles == 0


def test_groups_without_a_bound_between_them() -> None:
    found = alignment(shown((0, 1, True, (90, 110)), (2, 3, True, (-60, -40)), (1, 2, True, OPEN)))
    assert found == [{0: Placed(0, 0), 1: Placed(-100, 10)}, {2: Placed(0, 0), 3: Placed(50, 10)}]
