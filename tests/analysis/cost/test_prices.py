"""Prices come from the rows of the standard sequences, and a site's own rows widen them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from builders.made_costs import BUILD_ID, LFENCE, calibration, fenced, plain, row, rows_of
from builders.made_sites import fence
from xtrace.analysis.cost.prices import prices
from xtrace.symbols.flow.walk import Paths
from xtrace.symbols.sites.model import How, Kind


def near(value: float) -> Any:
    return pytest.approx(value, abs=0.15)


def ends(found: object, place: int = 0) -> tuple[float, float, float]:
    low, hot, high = (getattr(found, name)[place : place + 1] for name in ("low", "hot", "high"))
    interval = found.interval  # type: ignore[attr-defined]
    return float(interval(low)[0][0]), float(interval(hot)[1][0]), float(interval(high)[1][0])


def test_an_unknown_context_spans_all_measured_contexts() -> None:
    found = prices([fenced("a", 1)], calibration(*rows_of(LFENCE, 2.0)), BUILD_ID)
    assert ends(found) == (near(11), near(26), near(2902))
    assert found.source == ("standard",)


def test_prices_are_negative_only_if_measured_so_and_only_in_contexts_that_miss() -> None:
    rows = [*rows_of(LFENCE, 2.0), row("store_stream_4", -50.0, 5.0), row("store_stream_1", -3.0, 5.0)]
    found = prices([fenced("a", 1)], calibration(*rows), BUILD_ID)
    assert ends(found) == (near(-55), near(26), near(2902))
    assert float(found.interval(found.hot_low)[0][0]) == near(11)
    # Noise around 0 is cut off at 0.
    found = prices([fenced("a", 1)], calibration(row("store_stream_1", -3.0, 5.0)), BUILD_ID)
    assert ends(found)[0] == 0.0


def test_weights_of_contexts_give_one_price_with_a_model_error() -> None:
    weights = {"empty": 0.9, "load_miss_1": 0.1, "store_miss_4": 0.5}
    found = prices([fenced("a", 1)], calibration(*rows_of(LFENCE, 0.0)), BUILD_ID, weights)
    # Contexts that were not measured are left out of the weights.  No work is quite like them.
    mean = 0.9 * 19 + 0.1 * 2900
    assert ends(found) == (near(0.7 * mean), near(1.3 * mean), near(1.3 * mean))
    # A fence that costs nothing in a context may cost a little in such work.
    nothing = prices([fenced("a", 1)], calibration(row(median=0.0, spread=0.0)), BUILD_ID, {"empty": 1.0})
    assert ends(nothing) == (near(-0.6), near(0.6), near(0.6))
    none = prices([fenced("a", 1)], calibration(*rows_of(LFENCE)), BUILD_ID, {"site": 1.0})
    assert none.lacking == ("none of the contexts with a weight was measured",)
    assert np.isnan(none.low).all()


def test_a_replayed_sites_rows_widen_the_standard_sequences() -> None:
    one = fenced("a", 1)
    own = [
        row("site", 30.0, 0.0, place="site", address=one.address, build_id=BUILD_ID),
        row("empty", 28.0, 0.0, place="site", address=one.address, build_id=BUILD_ID),
        row("empty", 99.0, 0.0, place="site", address=one.address, build_id="another"),
        row("empty", 99.0, 0.0, place="site", address=one.address + 1, build_id=BUILD_ID),
    ]
    found = prices([one], calibration(*own), BUILD_ID)
    assert (ends(found), found.source) == ((28, 30, 30), ("site",))
    # Contexts in which it was not replayed come from the standard sequences.
    found = prices([one], calibration(*own, *rows_of(LFENCE, 0.0)), BUILD_ID)
    assert ends(found) == (13, 30, 2900)


@pytest.mark.parametrize(
    ("median", "least", "most"), [(19, 18, 20), (15, 15, 20), (25, 18, 25), (18.5, 18, 20)]
)
def test_a_sites_own_row_of_a_context_never_narrows_it(median: float, least: float, most: float) -> None:
    """One run at one place shows less than its interval says."""
    one = fenced("a", 1)
    own = row("empty", median, 0.0, place="site", address=one.address, build_id=BUILD_ID)
    standard = [row("empty", cycles, 0.0, kind=kind) for kind, cycles in (("mask", 18.0), ("restore", 20.0))]
    found = prices([one], calibration(own, *standard), BUILD_ID)
    assert ends(found) == (least, most, most)


def test_a_price_spans_what_only_the_call_of_a_fence_requires() -> None:
    one = fenced("a", 1)
    more = {"lean_median_cycles": 41.0, "lean_low_cycles": 40.0, "lean_high_cycles": 42.0}
    own = row("site", 30.0, 1.0, place="site", address=one.address, build_id=BUILD_ID, **more)
    found = prices([one], calibration(own), BUILD_ID)
    assert ends(found) == (near(29), near(42), near(42))


def test_a_price_spans_the_standard_sequences_of_its_fence() -> None:
    rows = [
        row("empty", 10.0 * number, 0.0, kind=kind, place=place)
        for number, (kind, place) in enumerate(
            itertools.product(("mask", "restore", "unmask"), ("inline", "outofline")), 1
        )
    ]
    called = (fence(),)
    jumped = (fence(how=How.TAIL_JUMP),)
    sites = [
        fenced("a", 1),
        fenced("b", 2, Kind.RESTORE),
        plain("c", 3, Kind.UNMASK, fences=called),
        plain("d", 4, fences=jumped),
        plain("e", 5),
    ]
    found = prices(sites, calibration(*rows), BUILD_ID)
    assert [ends(found, place)[::2] for place in range(5)] == [(10, 60)] * 4 + [(0, 0)]


def test_several_fences_cost_between_the_dearest_and_their_sum() -> None:
    rows = [row(median=20.0, spread=0.0), row(median=50.0, spread=0.0, fence="mfence")]
    lfence, mfence = fence(via=""), fence("mfence", via="")
    both = plain("a", 1, fences=(lfence, mfence))
    sometimes = plain("b", 2, fences=(fence(via="", paths=Paths.SOME),))
    mixed = plain("c", 3, fences=(lfence, fence("mfence", via="", paths=Paths.SOME)))
    found = prices([both, sometimes, mixed], calibration(*rows), BUILD_ID)
    assert [ends(found, place)[::2] for place in range(3)] == [(50, 70), (0, 20), (20, 70)]


def test_fences_that_were_not_measured() -> None:
    sites = [fenced("a", 1, mnemonic="cpuid"), fenced("b", 2, mnemonic="lock or"), fenced("c", 3)]
    rows = [row(median=21.0, spread=0.0, fence="lock add"), row(median=None)]
    found = prices(sites, calibration(*rows), BUILD_ID)
    assert found.lacking == (
        "no figure for cpuid inline at a mask",
        "",
        "no figure for lfence inline at a mask",
    )
    assert ends(found, 1) == (21, 21, 21)


def test_draws_follow_the_interval_on_each_side() -> None:
    uneven = row(median=20.0, low_cycles=19.0, high_cycles=30.0)
    values = prices([fenced("a", 1)], calibration(uneven), BUILD_ID, draws=50_000).low[0]
    assert np.quantile(values, [0.025, 0.5, 0.975]) == pytest.approx([19, 20, 30], abs=0.3)


def test_sites_priced_by_one_row_vary_together() -> None:
    found = prices([fenced("a", 1), fenced("b", 2)], calibration(row(spread=5.0)), BUILD_ID)
    assert (found.low[0] == found.low[1]).all()
    again = prices([fenced("a", 1)], calibration(row(spread=5.0)), BUILD_ID)
    assert (again.low[0] == found.low[0]).all()


def test_prices_are_scaled_between_tscs() -> None:
    found = prices([fenced("a", 1)], calibration(row(spread=0.0)), BUILD_ID, scale=0.5)
    assert ends(found) == (10, 10, 10)


def test_noise_does_not_make_a_price_negative() -> None:
    noisy = row(median=5.0, low_cycles=-300_000.0, high_cycles=40.0)
    found = prices([fenced("a", 1)], calibration(noisy), BUILD_ID)
    assert found.low.min() == 0
    assert ends(found)[2] == pytest.approx(40, abs=2)
