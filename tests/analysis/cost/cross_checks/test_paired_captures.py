"""Estimates from two captures and from samples, next to the model."""

from __future__ import annotations

import itertools
from dataclasses import dataclass, replace

import numpy as np
import pytest

from builders.host import simulate
from builders.made_costs import HZ, CostedKernel, calibration, fenced, paths_of, row
from builders.made_sites import FACTS
from builders.partials import partial
from builders.sampled import TEXT, MadeKernel
from xtrace.analysis.columns import Columns, joined
from xtrace.analysis.cost.cross_checks.fence_samples import fence_share
from xtrace.analysis.cost.cross_checks.paired_captures import (
    Difference,
    agreement,
    measures_of,
    running_difference,
    upcall_difference,
)
from xtrace.analysis.cost.guest_counters import Rates
from xtrace.analysis.cost.inputs import CostInputs
from xtrace.analysis.measures.measures import Measures
from xtrace.analysis.report.build import Selection, build
from xtrace.analysis.state_machine.metrics import Metric, RipSource
from xtrace.probes.reader.writer import pack_record, pack_window

ADDED = 4_000
#: RUNSTATE_CHANGE from runnable to running, running to blocked, blocked to runnable.
TO_RUNNING, TO_BLOCKED, TO_RUNNABLE = 0x21101, 0x21021, 0x21211
WAKE, BLOCK, HYPERCALL = 0x28004, 0x28006, 0x20100D
D3V0 = (3 << 16, 0)
SCHED_OP, EVENT_CHANNEL_OP, IRET = 29, 32, 23


def capture(seed: int, added: int, upcalls: int = 400) -> Measures:
    """Return a trace of d3v0, which blocks, is woken, and runs upcalls of 20,000 + ``added`` cycles."""
    random = np.random.default_rng(seed)
    now = 1 << 32
    records = []

    def put(event: int, *words: int) -> None:
        records.append(pack_record(event, now, words))

    put(TO_RUNNING, *D3V0)
    for _ in range(upcalls):
        now += 1000
        put(HYPERCALL, SCHED_OP | 1 << 20, 1)
        put(BLOCK, 3, 0)
        put(TO_BLOCKED, *D3V0)
        now += 50_000
        put(WAKE, 3, 0)
        put(TO_RUNNABLE, *D3V0)
        now += 2_000
        put(TO_RUNNING, *D3V0)
        now += 500
        put(HYPERCALL, EVENT_CHANNEL_OP)
        now += int(random.normal(20_000, 3_000)) + added
        put(HYPERCALL, IRET)
    return measures_of(partial(pack_window(0, b"".join(records))), HZ)


def test_the_planted_difference_is_in_the_interval() -> None:
    plain, slow = capture(1, 0), capture(2, ADDED)
    assert plain.counts(Metric.UPCALL_MIN)["count"].sum() == 400
    found = upcall_difference(slow, plain, 3, 3)
    assert found.low < ADDED < found.high
    assert found.high - found.low < ADDED
    assert (found.fenced_count, found.plain_count) == (400, 400)
    none = upcall_difference(capture(3, 0), plain, 3, 3)
    assert none.low < 0 < none.high


def test_the_interval_holds_as_often_as_it_says() -> None:
    captures = [capture(seed, 0, 60) for seed in range(21)]
    held = sum(
        found.low <= 0 <= found.high
        for one, other in itertools.pairwise(captures)
        for found in [upcall_difference(one, other, 3, 3)]
    )
    assert held >= 17


def test_too_few_upcalls_give_no_figure() -> None:
    found = upcall_difference(capture(1, 0), capture(2, 0, 20), 3, 3)
    assert np.isnan(found.low)
    assert found.basis == "fewer than 30 upcalls after a block: 400 with fences, 20 without"
    assert np.isnan(upcall_difference(capture(1, 0), capture(2, 0), 3, 5).low)


def test_running_time_needs_repetitions() -> None:
    plain = [capture(seed, 0, 100) for seed in range(6)]
    slow = [capture(seed, ADDED, 100) for seed in range(10, 16)]
    found = running_difference(slow, plain, 3, 3)
    assert found.low < ADDED < found.high
    assert (found.fenced_count, found.plain_count) == (6, 6)
    assert np.isnan(running_difference(slow[:1], plain[:1], 3, 3).low)
    assert running_difference(slow, plain, 3, 9).basis == "no upcalls in one group of captures"


def test_agreement_of_two_intervals() -> None:
    measured = Difference(10.0, 20.0, 1, 1, "")
    lies = {
        (5.0, 12.0): "overlap",
        (25.0, 30.0): "the model is higher",
        (1.0, 9.0): "the model is lower",
        (0.0, np.nan): "overlap",
        (25.0, np.nan): "the model is higher",
        (np.nan, 2.0): "-",
    }
    assert {(low, high): agreement(low, high, measured) for low, high in lies} == lies
    assert agreement(1, 2, Difference(np.nan, np.nan, 0, 0, "")) == "-"


def test_the_report_shows_the_model_and_the_two_captures() -> None:
    kernel = CostedKernel(paths_of([fenced("a", 1)], upcall=[(100.0, 200.0)]), domain=3)
    slow, plain = capture(2, ADDED), capture(1, 0)
    inputs = CostInputs([kernel], calibration(row(median=30.0)), unfenced={3: (plain, 3)})
    found = build(slow.partial, hz=HZ, costs=inputs, selection=Selection(("cost",))).tables["cost_estimates"]
    model, captures = found.to_dict("records")
    assert (model["estimate"], captures["estimate"]) == ("model", "two captures")
    assert model["of"] == captures["of"] == "upcall"
    assert model["low_cycles"] == pytest.approx(2900, rel=0.01)
    assert model["high_cycles"] == pytest.approx(6200, rel=0.01)
    assert captures["low_cycles"] < ADDED < captures["high_cycles"]
    assert model["agrees"] == captures["agrees"] == "overlap"


def test_a_simulated_host_against_itself() -> None:
    one, other = (
        measures_of(partial(simulate(seed, 2, [(1, 2, "pv")], int(HZ / 10)).data), HZ) for seed in (1, 2)
    )
    found = upcall_difference(one, other, 1, 1)
    assert found.low < 0 < found.high


def test_the_share_of_samples_at_fences() -> None:
    addresses = np.array([0x100, 0x103, 0x108, 0x200], np.uint64)
    found = fence_share(addresses, np.array([5, 40, 900, 55]), {0x100}, {0x103, 0x100})
    assert (found.sample_count, found.at_count, found.behind_count) == (1000, 5, 40)
    # Wilson's interval of 45 in 1000.
    assert [found.low, found.high] == pytest.approx([0.0338, 0.0597], abs=1e-4)
    none = fence_share(addresses[:0], np.array([], np.int64), {1}, {2})
    assert (none.low, none.high) == (0.0, 1.0)


@dataclass
class Dom0Kernel(MadeKernel):
    """An image of dom0 whose last function makes all hypercalls, as in newer Linux."""

    domain: int = 0
    names: tuple[str, ...] = ("idle", "spl", "xen_hypercall_pv")


@pytest.mark.parametrize("with_page", [True, False])
def test_the_report_shows_the_model_and_samples_by_dom0s_clock(with_page: bool) -> None:
    at, behind, elsewhere, page = TEXT + 0x10, TEXT + 0x13, TEXT + 0x1020, FACTS.hypercall_page
    assert page is not None
    made = partial(simulate(1, 2, [(0, 1, "pv")], int(HZ / 20)).data)
    samples = {at: 3, behind: 7, elsewhere: 990, TEXT + 0x2005: 400, page + 29 * 32 + 7: 5000}
    samples |= {page + 17 * 32 + 7: 10}
    told = Columns(
        {
            "metric": int(Metric.RIP),
            "a": int(RipSource.PERF_CLOCK) << 32,
            "b": np.array(list(samples), np.uint64).view(np.int64),
            "count": list(samples.values()),
            "sum_cycles": 0,
            "min_cycles": 0,
            "max_cycles": 0,
        }
    )
    part = replace(made, tallies=joined([made.tallies, told]))
    kernel = CostedKernel(paths_of([fenced("a", 1)]), domain=0, fences={at: behind}, has_page=with_page)
    inputs = CostInputs([kernel], calibration(row(median=30.0)))
    found = build(part, hz=HZ, kernels=[Dom0Kernel()], costs=inputs, selection=Selection(("cost",)))
    model, sampled = found.tables["cost_estimates"].to_dict("records")
    assert (model["estimate"], sampled["estimate"]) == ("model", "samples by clock")
    assert (model["of"], sampled["of"]) == ("running time", "running time")
    basis = "by dom0's software clock: 3 samples at a fence, 7 right after one, "
    # Without a hypercall page, its addresses are ordinary code, and a forced callback looks like a block.
    basis += "10 where a callback is forced, of 1010" if with_page else "none of masked code, of 6010"
    assert sampled["basis"].startswith(f"{basis} outside other hypercalls; masked code is sampled where")
    share = 20 / 1010 if with_page else 10 / 6010
    assert share / 2 < sampled["cost_low_ratio"] < share < sampled["cost_high_ratio"] < 2 * share


def test_the_report_shows_the_model_and_samples_of_paused_vcpus() -> None:
    fence, behind, elsewhere, page = TEXT + 0x10, TEXT + 0x13, TEXT + 0x1020, FACTS.hypercall_page
    assert page is not None
    plain = capture(1, 0)
    samples = {fence: 3, behind: 7, elsewhere: 990, page + 29 * 32: 5000}
    told = Columns(
        {
            "metric": int(Metric.RIP),
            "a": 3 << 16 | int(RipSource.XENCTX) << 32,
            "b": np.array(list(samples), np.uint64).view(np.int64),
            "count": list(samples.values()),
            "sum_cycles": 0,
            "min_cycles": 0,
            "max_cycles": 0,
        }
    )
    part = replace(plain.partial, tallies=joined([plain.partial.tallies, told]))
    kernel = CostedKernel(paths_of([fenced("a", 1)]), domain=3, fences={fence: behind})
    counted = Rates("rates", {"mask": 1000}, None, True, None, {})
    inputs = CostInputs([kernel], calibration(row(median=30.0)), {3: counted})
    found = build(part, hz=HZ, kernels=[MadeKernel()], costs=inputs, selection=Selection(("cost",)))
    model, sampled = found.tables["cost_estimates"].to_dict("records")
    assert (model["of"], sampled["of"], sampled["estimate"]) == ("running time", "running time", "samples")
    basis = "3 samples at a fence, 7 right after one, of 1000 outside the hypercall page; not a bound"
    assert sampled["basis"].startswith(basis)
    assert sampled["cost_low_ratio"] == pytest.approx(0.0054, abs=1e-3)
    assert sampled["cost_high_ratio"] == pytest.approx(0.0183, abs=1e-3)
    ran = found.tables["cost_domains"]["running_cycles"][0]
    assert model["cost_low_ratio"] == pytest.approx(29_000 / ran, rel=0.01)
    assert model["agrees"] == "the model is lower"
