"""Sums by slots of time and single intervals: against the slow ones, and merged in any order."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.hosts import HOSTS
from builders.partials import collected, partial
from builders.restarted import suspended
from oracle import kept as oracle
from oracle.machine import Interval
from oracle.runs import as_intervals, run, tally_of
from xtrace.analysis.columns import Columns
from xtrace.analysis.state_machine.collected import Segment
from xtrace.analysis.state_machine.kept import MAX_EXEMPLARS, NOT_KEPT, SLOTS, Slotted
from xtrace.analysis.state_machine.machine import Tallies
from xtrace.analysis.state_machine.metrics import METRIC_SHIFT, Metric
from xtrace.analysis.summary.partial import Partial, merge, partial_of
from xtrace.probes.reader.batches import I64

D1V0, D1V1, IDLE = 1 << 16, 1 << 16 | 1, 0x7FFF << 16
METRICS = [
    Metric.RUNNING, Metric.RUNNABLE_WAKE, Metric.RUNNABLE_PREEMPT, Metric.OFFLINE, Metric.BLOCKED,
    Metric.OPEN, Metric.RESIDENCE, Metric.PCPU_IDLE, Metric.WAKE_CAUSE, Metric.WAKE_TO_RUNNING,
    Metric.SEND_TO_WAKE, Metric.SEND_NOBODY_RAN, Metric.IRQ_HANDLING, Metric.LOST_RECORDS, Metric.RIP,
    Metric.UPCALL_MAX, Metric.HANDOFF,
]  # fmt: skip


@st.composite
def intervals(draw: st.DrawFn) -> list[Interval]:
    """Draw intervals in the order of their ends, with equal ones among them."""
    longest = draw(st.sampled_from([3, 50_000, 100_000_000]))
    now = draw(st.integers(1 << 21, 1 << 41))
    found = []
    for _ in range(draw(st.integers(0, 40))):
        now += draw(st.integers(0, longest))
        metric = draw(st.sampled_from(METRICS))
        a = draw(st.sampled_from([D1V0, D1V1, IDLE]))
        b = draw(st.integers(0, 2))
        if metric is Metric.OPEN:
            b |= draw(st.sampled_from([Metric.RUNNING, Metric.BLOCKED, Metric.DOMAIN_STATE])) << 32
        value = draw(st.integers(0 if metric is not Metric.HANDOFF else -5, min(2 * longest, 1 << 20)))
        found += [Interval(metric, a, b, value, now)] * draw(st.sampled_from([1, 1, 1, 2]))
    return found


def table(found: list[Interval]) -> I64:
    rows = [(each.metric << METRIC_SHIFT | each.a, each.b, each.value, each.tsc) for each in found]
    return np.array(rows, np.int64).reshape(-1, 4)


def kept(pieces: list[list[Interval]]) -> Partial:
    tallies = tally_of([table(piece) for piece in pieces])
    whole = replace(NOTHING, tallies=tallies.columns(), kept=tallies.kept())
    return partial_of(replace(whole, segments=(Segment(1, 2, 1, 2),)))


NOTHING = collected(b"")


def sums(part: Partial) -> oracle.Sums:
    cells = {
        oracle.Cell(row["slot"], row["kind"], row["a"], row["b"]): (row["count"], row["total"])
        for row in part.slots.rows()
    }
    assert len(cells) == len(part.slots)
    shifts = set(part.slots["shift"].tolist())
    return oracle.Sums(shifts.pop() if shifts else 16, cells)


def exemplars(rows: Columns) -> list[Interval]:
    return [
        Interval(Metric(row["metric"]), row["a"], row["b"], row["value_cycles"], row["end_tsc"])
        for row in rows.rows()
    ]


@given(intervals())
def test_sums_and_intervals_are_those_of_the_slow_ones(found: list[Interval]) -> None:
    part = kept([found])
    assert sums(part) == oracle.slotted(found)
    assert exemplars(part.worst) == oracle.worst(found)
    assert exemplars(part.sample) == oracle.sample(found)


@given(intervals(), st.data())
def test_parts_merge_in_any_order(found: list[Interval], data: st.DataObject) -> None:
    """However intervals are dealt out, and parts of parts merged, the result is the same."""
    dealt: list[list[Interval]] = [[], [], []]
    for each in found:
        dealt[data.draw(st.integers(0, 2))].append(each)
    parts = [kept([each]) for each in dealt]
    order = data.draw(st.permutations(range(3)))
    one, other = merge(parts), merge([merge([parts[order[0]], parts[order[1]]]), parts[order[2]]])
    assert sums(one) == sums(other)
    expected = oracle.slotted(found)
    shift = max(expected.shift, sums(one).shift)
    assert oracle.coarser(sums(one), shift) == oracle.coarser(expected, shift)
    for part in (one, other):
        assert exemplars(part.worst) == oracle.worst(found)
        assert exemplars(part.sample) == oracle.sample(found)


@settings(max_examples=25)
@given(intervals(), st.integers(0, 100), st.integers(0, 100))
def test_a_window_counts_what_the_tallies_count(found: list[Interval], begin: int, end: int) -> None:
    """The sums over all slots are those of the tallies, in a window, too."""
    if not found:
        return
    first, last = found[0].tsc, found[-1].tsc
    window = tuple(sorted((first + (last - first) * each // 100) for each in (begin, end)))
    tallies = tally_of([table(found)], (window[0], window[1]))
    part = partial_of(replace(NOTHING, tallies=tallies.columns(), kept=tallies.kept()))
    by_metric: Counter[int] = Counter()
    for row in part.tallies.rows():
        metric = row["b"] >> 32 if row["metric"] == Metric.OPEN else row["metric"]
        is_of_pcpu = metric in (Metric.PCPU_RUNNING, Metric.PCPU_IDLE, Metric.PCPU_LOST)
        if row["a"] >> 16 != 0x7FFF or is_of_pcpu:
            by_metric[metric] += row["sum_cycles"]
    by_kind: Counter[int] = Counter()
    for row in part.slots.rows():
        by_kind[row["kind"]] += row["total"]
        assert window[0] <= (row["slot"] + 1) << row["shift"]
        assert row["slot"] << row["shift"] <= window[1]
    waiting = (Metric.RUNNABLE_WAKE, Metric.RUNNABLE_PREEMPT, Metric.RUNNABLE_OTHER)
    assert by_kind[Slotted.RUNNING] == by_metric[Metric.RUNNING]
    assert by_kind[Slotted.WAITING] == sum(by_metric[metric] for metric in waiting)
    for kind, metric in _SAME.items():
        assert by_kind[kind] == by_metric[metric], kind


#: Kinds that are the time of one metric.
_SAME = {
    Slotted.BLOCKED: Metric.BLOCKED,
    Slotted.OFFLINE: Metric.OFFLINE,
    Slotted.IDLE: Metric.PCPU_IDLE,
    Slotted.PCPU_RUNNING: Metric.PCPU_RUNNING,
    Slotted.PCPU_LOST: Metric.PCPU_LOST,
}


@pytest.mark.parametrize("kind", HOSTS)
def test_hosts(kind: str) -> None:
    done = run(HOSTS[kind](4))
    found = as_intervals(np.concatenate((done.rows, done.ends)))
    part = kept([found])
    assert sums(part) == oracle.slotted(found)
    assert len(set(part.slots["slot"].tolist())) > SLOTS / 4
    assert exemplars(part.worst) == oracle.worst(found)
    assert exemplars(part.sample) == oracle.sample(found)
    seen = {Slotted(kind) for kind in part.slots["kind"].tolist()}
    assert seen >= {Slotted.LATENCY, Slotted.WAITING, Slotted.IRQS, Slotted.SENDS_RUNNING, Slotted.WINDOWS}


def test_time_before_the_first_slot_and_far_after_the_last() -> None:
    """Ends of a trace come last and reach back to its beginning."""
    late = 1 << 40
    found = [
        Interval(Metric.WAKE_CAUSE, D1V0, 0, 0, late),
        Interval(Metric.RUNNING, D1V0, 0, 10, late + 20),
        Interval(Metric.RUNNING, D1V1, 0, late - 5, late + 30),
        Interval(Metric.WAKE_CAUSE, D1V0, 0, 0, late << 10),
        Interval(Metric.RUNNING, D1V0, 0, (late << 10) - 1, late << 10),
    ]
    part = kept([found])
    assert sums(part) == oracle.slotted(found)
    assert sums(part).shift == 50 - (SLOTS.bit_length() - 1) + 1


def test_keys_over_the_limit_count_with_their_kind() -> None:
    count = 10_000
    found = [Interval(Metric.IRQ_HANDLING, irq, irq % 7, 3, (1 << 30) + irq) for irq in range(count)]
    part = kept([found])
    rows = part.slots.where(part.slots["kind"] == int(Slotted.IRQS))
    assert (int(rows["count"].sum()), int(rows["total"].sum())) == (count, 3 * count)
    others = rows.where(rows["a"] == NOT_KEPT)
    folded = int(part.facts["slot_keys_folded"][0])
    assert int(others["count"].sum()) == folded > 0
    assert len(rows.grouped(["a", "b"]).keys) - 1 + folded == count
    assert int(part.facts["exemplar_keys_left_out"][0]) == count - MAX_EXEMPLARS


def test_distinct_hosts_have_slots_of_their_own() -> None:
    far = [Interval(Metric.WAKE_CAUSE, D1V0, 0, 0, (1 << 20) + number * 65536) for number in range(SLOTS)]
    near = [replace_tsc(each, 1 << 50) for each in far]
    apart = merge([kept([far]).labelled("a"), kept([near]).labelled("b")])
    assert set(apart.slots["shift"].tolist()) == {16}
    assert set(merge([kept([far]), kept([near])]).slots["shift"].tolist()) == {17}


def replace_tsc(interval: Interval, more: int) -> Interval:
    return interval._replace(tsc=interval.tsc + more)


def test_a_sample_is_fair() -> None:
    """Each of 64 equal intervals is chosen about as often: of 400 vCPUs, 50 times on the average."""
    chosen: Counter[int] = Counter()
    for vcpu in range(400):
        found = [
            Interval(Metric.WAKE_TO_RUNNING, vcpu, 0, 500, (1 << 40) + vcpu + n * 100_000) for n in range(64)
        ]
        chosen.update((each.tsc - vcpu - (1 << 40)) // 100_000 for each in oracle.sample(found))
    assert len(chosen) == 64
    assert min(chosen.values()) > 50 - 5 * 7
    assert max(chosen.values()) < 50 + 5 * 7


def test_batches_do_not_matter() -> None:
    done = run(HOSTS["calm"](5))
    rows = np.concatenate((done.rows, done.ends))
    pieces = np.array_split(rows, sorted(random.Random(1).sample(range(len(rows)), 9)))
    one, other = Tallies(), Tallies()
    one.add(rows)
    for piece in pieces:
        other.add(piece)
    assert (one.kept().slots == other.kept().slots).all()
    assert (one.kept().sample == other.kept().sample).all()


def test_times_go_on_after_a_restart() -> None:
    """The second part of a trace whose TSC restarts is kept right after the first."""
    data, before, after = suspended(HOSTS["calm"](6))
    whole, first, second = partial(data), partial(before), partial(after)
    (span,) = whole.spans.rows()
    assert span["last_tsc"] - span["first_tsc"] == int(whole.facts["span_cycles"].sum())
    (one,), (two,) = first.spans.rows(), second.spans.rows()
    axis = one["last_tsc"] - two["first_tsc"]
    expected = first.worst.rows() + [row | {"end_tsc": row["end_tsc"] + axis} for row in second.worst.rows()]
    longest = max(expected, key=lambda row: (row["metric"] == Metric.WAKE_TO_RUNNING, row["value_cycles"]))
    assert longest in whole.worst.rows()
    assert whole.worst["end_tsc"].max() <= span["last_tsc"]
    assert {row["end_tsc"] for row in whole.worst.rows()} <= {row["end_tsc"] for row in expected}
