"""Every figure of the cost's rows, computed by hand from planted executions and prices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest

from builders.host import simulate
from builders.made_costs import HZ, CostedKernel, fenced, paths_of
from builders.partials import partial
from xtrace.analysis.cost import model
from xtrace.analysis.cost.domain_cost import DomainCost
from xtrace.analysis.cost.domain_facts import DomainFacts
from xtrace.analysis.cost.executions import Executions
from xtrace.analysis.cost.inputs import CostInputs
from xtrace.analysis.cost.prices import Prices
from xtrace.analysis.cost.rows import Estimate
from xtrace.analysis.measures.kernel_samples import resolve
from xtrace.analysis.measures.measures import Measures
from xtrace.analysis.measures.table import Quality
from xtrace.probes.catalog import VersionRange
from xtrace.symbols.sites.execution_bounds import SitePaths
from xtrace.symbols.sites.model import Kind, Verdict

DOMAIN = 1
#: A separate object: code that compares it by identity is wrong.
INF = float("inf")
FACTS = DomainFacts(
    domain=DOMAIN,
    is_known=True,
    is_pv=True,
    is_hvm=False,
    running_cycles=10_000,
    running_most_cycles=10_000,
    upcalls=(20, 25),
    upcall_cycles=(300.0, 800.0),
    xen_version_count=0,
    block_count=0,
    yield_count=0,
    never=frozenset(),
)
MASK = fenced("mask", 1)
RESTORE = fenced("restore", 2, Kind.RESTORE)
UNMASK = fenced("unmask", 3, Kind.UNMASK, verdict=Verdict.UNDECIDED)


@dataclass(frozen=True)
class Planted:
    """A site's least and most executions, in total and in an upcall, and its price at each of COST_ENDS."""

    executed: tuple[float, float]
    in_upcall: tuple[float, float]
    low: float
    hot_low: float
    hot: float
    high: float


ALL = (
    Planted((100, 150), (1, 2), 2, 4, 10, 20),
    Planted((40, 60), (0, 3), 3, 5, 11, 21),
    Planted((7, INF), (0, INF), -5, 6, 12, 30),
)


@cache
def measures() -> Measures:
    data = simulate(1, 1, [(DOMAIN, 1, "pv")], int(HZ / 100)).data
    return Measures(partial(data), VersionRange.parse("4.17"), HZ)


def span_s() -> float:
    span = measures().span_s
    assert span is not None
    assert 0.005 < span < 0.02
    return span


def estimated(
    monkeypatch: pytest.MonkeyPatch,
    planted: Sequence[Planted] = ALL,
    *,
    facts: DomainFacts = FACTS,
    upcalls: tuple[float, float] = (20, 25),
    paths: SitePaths | None = None,
) -> Estimate:
    sites = (MASK, RESTORE, UNMASK) if planted is ALL else (MASK,) * len(planted)
    paths = paths or paths_of(sites, upcall=[one.in_upcall for one in planted])
    count = len(planted)
    counts = Executions(
        np.array([one.executed[0] for one in planted], float),
        np.array([one.executed[1] for one in planted], float),
        [Quality.BOUNDED] * count,
        [f"rule {number}" for number in range(count)],
        (),
    )
    low, hot_low, hot, high = (
        np.array([[value] for value in values], float)
        for values in zip(*((one.low, one.hot_low, one.hot, one.high) for one in planted), strict=True)
    )
    prices = Prices(low, hot_low, hot, high, ("site",) * count, ("",) * count)
    kernel = CostedKernel(paths)
    cost = DomainCost(facts, kernel, paths, counts, prices, upcalls)
    monkeypatch.setattr(model, "domain_cost", lambda *_: cost)
    return model.estimate(measures(), resolve(measures().partial, ()), CostInputs([kernel]))


def test_a_domains_row(monkeypatch: pytest.MonkeyPatch) -> None:
    removable, undecided = estimated(monkeypatch).domains
    assert (removable.domain, removable.part, removable.site_count) == (DOMAIN, "removable", 2)
    assert (removable.execution_low_count, removable.execution_high_count) == (140, 210)
    assert removable.execution_low_per_s == pytest.approx(140 / span_s())
    assert removable.execution_high_per_s == pytest.approx(210 / span_s())
    cycles = (2 * 100 + 3 * 40, 4 * 100 + 5 * 40, 10 * 150 + 11 * 60, 20 * 150 + 21 * 60)
    assert cycles == (320, 600, 2160, 4260)
    assert (
        removable.cost_low_cycles,
        removable.cost_hot_low_cycles,
        removable.cost_hot_cycles,
        removable.cost_high_cycles,
    ) == cycles
    assert removable.cost_low_cycles_per_s == pytest.approx(320 / span_s())
    assert removable.cost_high_cycles_per_s == pytest.approx(4260 / span_s())
    assert removable.running_cycles == 10_000
    assert removable.cost_ratios == pytest.approx((0.032, 0.06, 0.216, 0.426))
    assert removable.most_is == "usual"
    # The other's executions are bounded only by the running time; its gain counts the least executions.
    assert (undecided.execution_low_count, np.isnan(undecided.execution_high_count)) == (7, True)
    assert np.isnan(undecided.execution_high_per_s)
    assert (undecided.cost_low_cycles, undecided.cost_hot_low_cycles) == (-5 * 7, 6 * 7)
    assert (undecided.cost_hot_cycles, undecided.cost_high_cycles) == (10_000, 10_000)
    assert undecided.cost_high_cycles_per_s == pytest.approx(10_000 / span_s())
    assert undecided.most_is == "bound"


def test_a_cost_equal_to_the_running_time_is_bounded_by_executions(monkeypatch: pytest.MonkeyPatch) -> None:
    found = estimated(monkeypatch, facts=replace(FACTS, running_cycles=4260, running_most_cycles=4260))
    assert (found.domains[0].most_is, found.domains[0].cost_high_ratio) == ("usual", 1.0)
    found = estimated(monkeypatch, facts=replace(FACTS, running_cycles=4259, running_most_cycles=4259))
    assert (found.domains[0].most_is, found.domains[0].cost_high_cycles) == ("bound", 4259)


def test_an_upcalls_row(monkeypatch: pytest.MonkeyPatch) -> None:
    removable, undecided = estimated(monkeypatch).upcalls
    assert (removable.domain, removable.part) == (DOMAIN, "removable")
    assert (removable.upcall_least_count, removable.upcall_most_count) == (20, 25)
    assert (removable.execution_least_count, removable.execution_most_count) == (1, 5)
    # Bounds by each site's own counts; the lower end is one execution of the cheaper site.
    assert (removable.added_low_cycles, removable.added_hot_low_cycles) == (2, 4)
    assert (removable.added_hot_cycles, removable.added_high_cycles) == (10 * 2 + 11 * 3, 20 * 2 + 21 * 3)
    assert (removable.cost_low_ratio, removable.cost_high_ratio) == pytest.approx((2 / 800, 103 / 300))
    assert (removable.all_low_cycles, removable.all_high_cycles) == (320 / 25, 4260 / 20)
    assert (removable.entry, removable.unbounded_by) == ("symbol hypervisor_callback", "")
    assert (undecided.execution_least_count, np.isnan(undecided.execution_most_count)) == (0, True)
    assert undecided.unbounded_by == "a loop"
    # At most the greatest mean time of an upcall.
    assert undecided.added_high_cycles == 800
    assert undecided.cost_high_ratio == 1.0


def test_an_upcall_without_an_upper_bound_on_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    facts = replace(FACTS, upcall_cycles=(50.0, float("inf")))
    removable, undecided = estimated(monkeypatch, facts=facts).upcalls
    assert np.isnan(removable.cost_low_ratio)
    assert removable.cost_high_ratio == 1.0
    assert np.isnan(undecided.added_high_cycles)


@pytest.mark.parametrize(
    ("upcalls", "most"),
    [((20, 25), 150 / 20), ((1, 25), 150), ((0, 25), None)],
)
def test_executions_of_an_upcall_whose_entry_is_not_known(
    monkeypatch: pytest.MonkeyPatch, upcalls: tuple[float, float], most: float | None
) -> None:
    """The most is all executions divided by the least upcalls."""
    known = paths_of([MASK], upcall=[(1, 2)])
    for paths in (paths_of([MASK]), replace(known, parts=None)):
        (row,) = estimated(monkeypatch, ALL[:1], upcalls=upcalls, paths=paths).upcalls
        assert row.execution_least_count == 0
        assert row.execution_most_count == most or (most is None and np.isnan(row.execution_most_count))
        assert row.unbounded_by == ("" if most else "the entry of the upcall is not known")


def test_counters_bound_a_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    (row,) = estimated(monkeypatch, [replace(ALL[2], executed=(7, 30))]).upcalls
    assert (row.execution_most_count, row.unbounded_by) == (1.5, "")


def test_prices_below_one_cycle_are_not_rounded(monkeypatch: pytest.MonkeyPatch) -> None:
    planted = Planted((100, 1000), (1, 4), 0.5, 0.5, 0.5, 0.5)
    (row,) = estimated(monkeypatch, [planted]).upcalls
    assert (row.added_low_cycles, row.added_high_cycles) == (0.5, 2)
    (row,) = estimated(monkeypatch, [replace(planted, low=-0.5, hot_low=-0.5, hot=-0.5, high=-0.5)]).upcalls
    assert (row.added_low_cycles, row.added_high_cycles) == (-2, -0.5)


def test_a_gain_at_a_site_that_may_not_execute_is_0_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    planted = Planted((0, 1000), (0, 4), -2, -2, -2, -2)
    (row,) = estimated(monkeypatch, [planted]).upcalls
    assert (row.added_low_cycles, row.added_hot_cycles, row.added_high_cycles) == (-8, 0, 0)


def test_a_site_outside_upcalls_adds_nothing_to_them_even_without_a_price(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unknown = Planted((0, 1000), (0, 0), np.nan, np.nan, np.nan, np.nan)
    (row,) = estimated(monkeypatch, [unknown]).upcalls
    assert (row.added_hot_cycles, row.added_high_cycles) == (0, 0)
    (row,) = estimated(monkeypatch, [replace(unknown, in_upcall=(0, 1))]).upcalls
    # Bounded only by the upcall's time.
    assert row.added_high_cycles == 800


def test_one_upcall(monkeypatch: pytest.MonkeyPatch) -> None:
    removable, _ = estimated(monkeypatch, upcalls=(1, 1)).upcalls
    assert (removable.all_low_cycles, removable.all_high_cycles) == (320, 4260)


def test_a_sites_row(monkeypatch: pytest.MonkeyPatch) -> None:
    found = estimated(monkeypatch)
    assert [row.place for row in found.sites] == ["unmask+0x10", "mask+0x10", "restore+0x10"]
    unmask, _, restore = found.sites
    assert (restore.domain, restore.address) == (DOMAIN, f"{RESTORE.address:#x}")
    assert (restore.kind, restore.fence, restore.part) == ("restore", "lfence", "removable")
    assert (restore.execution_low_count, restore.execution_high_count) == (40, 60)
    assert (restore.executions_quality, restore.executions_rule) == ("bounded", "rule 1")
    assert restore.execution_low_per_s == pytest.approx(40 / span_s())
    assert restore.execution_high_per_s == pytest.approx(60 / span_s())
    assert (restore.added_low_cycles, restore.added_hot_low_cycles) == (3, 5)
    assert (restore.added_hot_cycles, restore.added_high_cycles) == (11, 21)
    assert restore.priced_by == "site"
    assert (restore.cost_low_cycles, restore.cost_hot_low_cycles) == (120, 200)
    assert (restore.cost_hot_cycles, restore.cost_high_cycles) == (660, 1260)
    assert (restore.cost_low_ratio, restore.cost_high_ratio) == (0.012, 0.126)
    assert (restore.upcall_least_count, restore.upcall_most_count) == (0, 3)
    assert restore.record_count == 0
    assert (unmask.execution_low_count, unmask.cost_low_cycles) == (7, -35)
    assert (unmask.cost_high_cycles, unmask.cost_high_ratio) == (10_000, 1.0)
    assert np.isnan(unmask.execution_high_count)
    assert np.isnan(unmask.execution_high_per_s)
    assert np.isnan(unmask.upcall_most_count)
