"""Counters and paths narrow the executions of sites, and contradictions are reported."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.made_costs import INF, fenced, paths_of, plain
from xtrace.analysis.cost.executions import executions
from xtrace.analysis.cost.guest_counters import Rates
from xtrace.analysis.measures.table import Quality
from xtrace.symbols.sites.model import Kind

ONCE = (1.0, 1.0)


def counters(counts: Mapping[str, float], seconds: float | None = None, counted: bool = True) -> Rates:
    return Rates("rates", counts, seconds, counted, None, {})


def test_the_lab_guests_counters_fix_every_site() -> None:
    # As in tests/lab/guest: a save and a mask in one function, another mask, a restore and an unmask.
    sites = [
        fenced("upcalls_mask", 1),
        plain("upcalls_save", 2, Kind.SAVE),
        fenced("upcalls_save", 5),
        fenced("upcalls_restore", 3, Kind.RESTORE),
        fenced("upcalls_unmask", 4, Kind.UNMASK),
    ]
    found = executions(
        paths_of(sites, [ONCE] * 5),
        203,
        counters({"mask": 15204, "save": 10000, "restore": 10000, "unmask": 5001}),
    )
    assert found.low.tolist() == found.high.tolist() == [5204, 10000, 10000, 10000, 5001]
    assert found.quality == [Quality.EXACT] * 5
    assert found.conflicts == []
    assert found.rule[2] == "the counter save, paths through its function"
    assert found.rule[0] == "the counter mask minus the other sites of its kind"


def test_counters_of_sites_and_functions() -> None:
    sites = [fenced("a", 1), fenced("b", 2), fenced("c", 3), fenced("c", 4, Kind.UNMASK)]
    rates = counters({hex(sites[0].address): 7, "b+0x10": 8, "c()": 5, "d": 9, "0x1": 4})
    found = executions(paths_of(sites, [ONCE, ONCE, (0, 2), (1, INF)]), 0, rates)
    assert list(zip(found.low, found.high, strict=True)) == [(7, 7), (8, 8), (0, 10), (5, INF)]
    assert found.unused == ["d", "0x1"]
    assert found.quality[2:] == [Quality.BOUNDED] * 2
    assert found.rule[3].endswith("no counter gives an upper bound")


def test_a_counter_of_a_whole_kind() -> None:
    sites = [fenced("a", 1), fenced("b", 2), plain("c", 3)]
    found = executions(paths_of(sites, upcall=[(2, 3), (0, INF), (0, 0)]), 10, counters({"mask": 100}))
    assert list(zip(found.low, found.high, strict=True)) == [(20, 100), (0, 80), (0, 80)]
    assert [(group.members, group.low, group.high) for group in found.groups] == [((0, 1, 2), 100, 100)]


def test_without_counters_upcalls_give_the_lower_bound() -> None:
    found = executions(paths_of([fenced("a", 1), fenced("b", 2)], upcall=[(2, 3), (0, 1)]), 10)
    assert (found.low.tolist(), found.high.tolist()) == ([20, 0], [INF, INF])
    assert found.rule == [
        "lower bound: the paths through an upcall; no counter gives an upper bound",
        "no lower bound; no counter gives an upper bound",
    ]


def test_a_rate_from_another_period_is_uncertain() -> None:
    paths = paths_of([fenced("a", 1)])
    found = executions(paths, 0, counters({"mask": 10_000}, seconds=10), 40)
    assert found.low[0] == pytest.approx(40_000 - 1.96 * (40_000 + 160_000) ** 0.5)
    assert found.high[0] == pytest.approx(40_000 + 1.96 * (40_000 + 160_000) ** 0.5)
    assert found.quality == [Quality.INFERRED]
    # Without the trace's span, the counter is not used.
    assert executions(paths, 0, counters({"mask": 10_000}, seconds=10), None).high[0] == INF
    rate = executions(paths, 0, counters({"mask": 1000}, seconds=1, counted=False), 40)
    assert rate.high[0] == pytest.approx(40_000 + 1.96 * 200)


def test_rounding_does_not_exclude_whole_numbers() -> None:
    assert 61 / 7 * 7 < 61
    sites = [fenced("a", 1), fenced("a", 2, Kind.UNMASK)]
    found = executions(paths_of(sites, [(7, 7), (7, 7)]), 0, counters({"mask": 61}))
    assert (found.low.tolist(), found.high.tolist()) == ([61, 61], [61, 61])


def test_contradictions() -> None:
    sites = [fenced("a", 1), fenced("b", 2, Kind.RESTORE)]
    found = executions(
        paths_of(sites, upcall=[(2, 2), (1, 1)]), 1000, counters({"mask": 500, "restore": 1010})
    )
    assert found.conflicts == ["all mask sites: counted 500 to 500, but executed at least 2,000 times"]
    assert found.high[1] == 1010
    sums = executions(paths_of(sites), 0, counters({"mask": 500, hex(sites[0].address): 900}))
    assert sums.conflicts == ["all mask sites: counted 500 to 500, but executed at least 900 times"]
    # A small difference is not a contradiction.
    near = executions(paths_of(sites), 0, counters({"mask": 500, hex(sites[0].address): 505}))
    assert near.conflicts == []


@given(st.data())
@settings(max_examples=60)
def test_the_truth_is_in_every_interval(data: st.DataObject) -> None:
    """For random calls to functions and executions per call within the bounds of the paths."""
    sites, call, truth = [], [], []
    calls = {}
    kinds = (Kind.MASK, Kind.SAVE, Kind.RESTORE, Kind.UNMASK)
    for function in range(data.draw(st.integers(1, 4))):
        calls[f"f{function}"] = number = data.draw(st.integers(0, 50))
        for place in range(data.draw(st.integers(1, 3))):
            least = data.draw(st.integers(0, 2))
            most = data.draw(st.sampled_from((least, least + 1, least + 3)))
            sites.append(plain(f"f{function}", 10 * function + place + 1, data.draw(st.sampled_from(kinds))))
            call.append((float(least), INF if data.draw(st.booleans()) and most else float(most)))
            truth.append(sum(data.draw(st.integers(least, most)) for _ in range(number)))
    counts: dict[str, float] = {}
    for kind in kinds:
        if data.draw(st.booleans()):
            counts[str(kind)] = sum(n for n, one in zip(truth, sites, strict=True) if one.kind is kind)
    for name, number in calls.items():
        if data.draw(st.booleans()):
            counts[f"{name}()"] = number
    for number, one in zip(truth, sites, strict=True):
        if data.draw(st.integers(0, 3)) == 0:
            counts[hex(one.address)] = number
    found = executions(paths_of(sites, call), 0, counters(counts))
    assert found.conflicts == []
    for place, number in enumerate(truth):
        assert found.low[place] <= number <= found.high[place]


def test_bpfs_calls_bound_the_sites_of_a_function_and_the_most_is_inferred() -> None:
    sites = [fenced("a", 1), fenced("a", 2, Kind.UNMASK), fenced("b", 3, Kind.RESTORE), fenced("c", 4)]
    paths = paths_of(sites, [ONCE, (0, 2), (1, 1), ONCE])
    found = executions(paths, 0, calls={"a": (100, 120), "b": (7, INF), "elsewhere": (5, 5)})
    assert list(zip(found.low, found.high, strict=True)) == [(100, 120), (0, 240), (7, INF), (0, INF)]
    assert found.quality == [Quality.INFERRED, Quality.INFERRED, Quality.BOUNDED, Quality.BOUNDED]
    assert found.rule[0] == "bpf's count of calls to a, paths through its function"
    assert found.rule[2].startswith("lower bound: bpf's count of calls to b, paths through its function")
    assert (found.conflicts, found.unused) == ([], [])


def test_a_counter_overrides_bpf_and_a_contradiction_is_reported() -> None:
    sites = [fenced("a", 1), fenced("b", 2, Kind.RESTORE), fenced("c", 3, Kind.UNMASK)]
    calls = {"a": (100.0, 120.0), "b": (100.0, 120.0), "c": (100.0, 120.0)}
    rates = counters({"a()": 110, "b()": 500, hex(sites[2].address): 500})
    found = executions(paths_of(sites, [ONCE] * 3), 0, rates, calls=calls)
    assert found.low.tolist() == found.high.tolist() == [110, 500, 500]
    assert found.quality == [Quality.EXACT] * 3
    assert found.conflicts == [
        "b was called at most 120 times according to bpf's count, but 500 to 500 according to calls to b",
        f"unmask at {sites[2].address:#x} executed at most 120 times according to bpf's count of calls "
        "to c, paths through its function, but 500 to 500 according to the counter " + hex(sites[2].address),
    ]


def test_bounds_derived_from_an_inferred_bound_are_inferred() -> None:
    sites = [fenced("a", 1), fenced("b", 2)]
    found = executions(
        paths_of(sites, [ONCE, ONCE]), 0, counters({"mask": 1000}), calls={"a": (100.0, 120.0)}
    )
    assert list(zip(found.low, found.high, strict=True)) == [(100, 120), (880, 900)]
    assert found.quality == [Quality.INFERRED] * 2
    # Only the most is inferred; without it, the derived bounds are certain.
    sure = executions(paths_of(sites, [ONCE, ONCE]), 0, counters({"mask": 1000}), calls={"a": (100.0, INF)})
    assert list(zip(sure.low, sure.high, strict=True)) == [(100, 1000), (0, 900)]
    assert sure.quality == [Quality.BOUNDED] * 2


@given(st.data())
@settings(max_examples=60)
def test_the_truth_is_in_every_interval_from_bpf(data: st.DataObject) -> None:
    """Probes miss some calls to functions, but the truth is within bpf's bounds."""
    sites, call, truth, calls = [], [], [], {}
    for function in range(data.draw(st.integers(1, 4))):
        number, counted = data.draw(st.integers(0, 50)), data.draw(st.integers(0, 50))
        low = min(number, counted)
        calls[f"f{function}"] = (float(low), data.draw(st.sampled_from((INF, number + counted - low))))
        for place in range(data.draw(st.integers(1, 3))):
            least = data.draw(st.integers(0, 2))
            most = data.draw(st.sampled_from((least, least + 1, least + 3)))
            sites.append(plain(f"f{function}", 10 * function + place + 1))
            call.append((float(least), INF if data.draw(st.booleans()) and most else float(most)))
            truth.append(sum(data.draw(st.integers(least, most)) for _ in range(number)))
    rates = counters({"mask": sum(truth)}) if data.draw(st.booleans()) else None
    found = executions(paths_of(sites, call), 0, rates, calls=calls)
    assert found.conflicts == []
    for place, number in enumerate(truth):
        assert found.low[place] <= number <= found.high[place]
