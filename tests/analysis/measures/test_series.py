"""Distributions and time in slots, against the single intervals that they were made from."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from builders.hosts import HOSTS
from builders.partials import partial
from oracle.machine import Interval
from oracle.runs import as_intervals, run
from xtrace.analysis.columns import Columns
from xtrace.analysis.comparison.distributions import group_times, times_of
from xtrace.analysis.measures.distributions import distributions, kept_points
from xtrace.analysis.measures.measures import Measures
from xtrace.analysis.measures.over_time import over_time
from xtrace.analysis.measures.slots import Slots
from xtrace.analysis.state_machine.keys import vcpu_key
from xtrace.analysis.state_machine.metrics import Metric
from xtrace.analysis.summary.partial import Partial, merge
from xtrace.probes.catalog import VersionRange

VERSIONS = VersionRange.parse("4.17")


def intervals(data: bytes) -> list[Interval]:
    done = run(data)
    return as_intervals(np.concatenate((done.rows, done.ends)))


def measures(part: Partial) -> Measures:
    return Measures(part, VERSIONS)


@pytest.mark.parametrize("kind", ["calm", "lossy"])
def test_counts_of_a_distribution_are_those_of_the_values(kind: str) -> None:
    data = HOSTS[kind](7)
    found = distributions(measures(partial(data)))
    assert {each.figure for each in found} == {"wake_to_running", "send_to_wake"}
    values: dict[tuple[str, int, int | None], list[int]] = {}
    for each in intervals(data):
        if each.metric == Metric.WAKE_TO_RUNNING:
            values.setdefault(("wake_to_running", each.a, None), []).append(each.value)
        elif each.metric == Metric.SEND_TO_WAKE:
            values.setdefault(("send_to_wake", each.a, each.b), []).append(each.value)
    assert len(values) >= 10
    seen = set()
    for made in found:
        key = made.figure, vcpu_key(made.domain, made.vcpu), made.waker
        seen.add(key)
        mine = np.sort(values[key])
        assert made.count == len(mine)
        assert made.upto_cycles[-1] == mine[-1]
        assert made.upto_counts[-1] == len(mine)
        assert np.array_equal(made.upto_counts, np.searchsorted(mine, made.upto_cycles, side="right"))
    assert seen == {key for key in values if key[1] >> 16 < 0x7FF0}


def test_points_that_are_left_out_are_near_a_kept_one() -> None:
    chance = np.random.default_rng(5)
    upto = np.unique(np.exp(chance.uniform(3, 18, 3000)).astype(np.int64))
    counts = np.cumsum(chance.integers(1, 4, len(upto)))
    kept = kept_points(upto, counts)
    assert kept[0]
    assert kept[-1]
    assert kept.sum() < len(upto) / 5
    times, tails = np.log2(upto), -np.log10(1 - (counts - 0.5) / counts[-1])
    last = 0
    for place in range(len(upto)):
        if kept[place]:
            last = place
        else:
            assert times[place] - times[last] < 1 / 16
            assert tails[place] - tails[last] < 1 / 50


def test_a_group_is_all_its_captures_in_their_own_time() -> None:
    parts = [partial(HOSTS["calm"](seed)) for seed in (1, 2)]
    rates = 1e9, 2e9
    found = [times_of(part, hz) for part, hz in zip(parts, rates, strict=True)]
    for domain in (0, 1, 5):
        group = group_times(f"d{domain}", "old", [each[domain] for each in found])
        values = np.sort(
            [
                each.value * 1e9 / hz
                for seed, hz in zip((1, 2), rates, strict=True)
                for each in intervals(HOSTS["calm"](seed))
                if each.metric == Metric.WAKE_TO_RUNNING and each.a >> 16 == domain
            ]
        )
        assert group.count == len(values)
        assert group.quantiles["max"] == pytest.approx(values[-1])
        # A value counts up to the end of its bucket.
        assert (group.upto_counts <= np.searchsorted(values, group.upto + 1e-6, side="right")).all()
        assert (group.upto_counts >= np.searchsorted(values, group.upto / 1.017, side="right")).all()
        for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99)):
            exact = values[int(np.ceil(share * len(values))) - 1]
            assert exact <= group.quantiles[name] * (1 + 1e-9) <= exact * 1.017


@pytest.mark.parametrize("kind", HOSTS)
def test_time_in_slots_is_that_of_the_intervals(kind: str) -> None:
    data = HOSTS[kind](3)
    part = partial(data)
    found = over_time(measures(part), Slots(part))
    assert found is not None
    sums = Counter[tuple[int, int]]()
    for each in intervals(data):
        metric = each.b >> 32 if each.metric == Metric.OPEN else each.metric
        sums[metric, each.a] += each.value
    span = int(part.facts["span_cycles"].sum())
    assert int(found.length_cycles.sum()) == span
    assert found.begin_cycles[0] == 0
    assert np.array_equal(found.begin_cycles[1:], np.cumsum(found.length_cycles)[:-1])
    for pcpu in found.pcpus:
        for name, metric in (
            ("running", Metric.PCPU_RUNNING),
            ("idle", Metric.PCPU_IDLE),
            ("lost", Metric.PCPU_LOST),
            ("unknown", Metric.PCPU_UNKNOWN),
        ):
            assert int(pcpu.cycles[name].sum()) == sums[metric, pcpu.pcpu], name
    waiting = (Metric.RUNNABLE_WAKE, Metric.RUNNABLE_PREEMPT, Metric.RUNNABLE_OTHER, Metric.RUNNABLE_BUDGET)
    for vcpu in found.vcpus:
        key = vcpu_key(vcpu.domain, vcpu.vcpu)
        assert int(vcpu.cycles["running"].sum()) == sums[Metric.RUNNING, key]
        assert int(vcpu.cycles["blocked"].sum()) == sums[Metric.BLOCKED, key]
        assert int(vcpu.cycles["waiting"].sum()) == sum(sums[metric, key] for metric in waiting)
        hidden = sums[Metric.STATE_LOST, key] + sums[Metric.STATE_UNKNOWN, key]
        assert int(vcpu.cycles["unknown"].sum()) == hidden
        assert min(int(cycles.min()) for cycles in vcpu.cycles.values()) >= 0
    wakes = sum(int(each.counts.sum()) for each in found.wake_to_running)
    assert wakes == sum(each.metric == Metric.WAKE_TO_RUNNING for each in intervals(data))


def test_traces_one_after_the_other_have_one_axis_and_others_none() -> None:
    part = partial(HOSTS["calm"](3))
    again = moved(part, 1 << 33)
    both = merge([part, again])
    found = over_time(measures(both), Slots(both))
    assert found is not None
    assert int(found.length_cycles.sum()) == 2 * int(part.facts["span_cycles"].sum())
    for each in found.vcpus:
        assert np.array_equal(sum(each.cycles.values()), found.length_cycles)
        assert min(int(cycles.min()) for cycles in each.cycles.values()) >= 0
    overlapping = merge([part, moved(part, 1 << 20)])
    assert over_time(measures(overlapping), Slots(overlapping)) is None


def moved(part: Partial, cycles: int) -> Partial:
    """Return the Partial of a trace that is this much later."""
    shift = int(part.slots["shift"][0])
    assert cycles % (1 << shift) == 0
    return Partial(
        **{
            name: getattr(part, name)
            for name in Partial.__dataclass_fields__
            if name not in ("slots", "spans", "worst", "sample")
        },
        slots=part.slots.having(slot=part.slots["slot"] + (cycles >> shift)),
        spans=part.spans.having(
            first_tsc=part.spans["first_tsc"] + cycles, last_tsc=part.spans["last_tsc"] + cycles
        ),
        worst=_later(part.worst, cycles),
        sample=_later(part.sample, cycles),
    )


def _later(rows: Columns, cycles: int) -> Columns:
    return rows.having(end_tsc=rows["end_tsc"] + cycles)


def test_parts_that_exceed_a_slot_leave_no_rest() -> None:
    """A stranger's summary may say anything."""
    part = partial(HOSTS["calm"](3))
    part = replace(part, slots=part.slots.having(total=3 * part.slots["total"]))
    found = over_time(measures(part), Slots(part))
    assert found is not None
    cycles = [*(each.cycles for each in found.pcpus), *(each.cycles for each in found.vcpus)]
    assert min(int(parts["unknown"].min()) for parts in cycles) == 0
