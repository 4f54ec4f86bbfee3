"""Tallies compared with sums in a dict, and the bounds of the histogram buckets."""

from __future__ import annotations

from collections import Counter, defaultdict
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from builders.hosts import HOSTS
from oracle.runs import as_intervals, run, tally_of
from xtrace.analysis.state_machine import machine, tally_loops
from xtrace.analysis.state_machine.machine import ALWAYS, Tallies
from xtrace.analysis.state_machine.metrics import (
    FIRST_COUNT,
    METRIC_SHIFT,
    MOST_SUM,
    OCTAVES,
    SUB_BUCKETS,
    T_B,
    T_COUNT,
    T_HISTOGRAM,
    T_KEY,
    T_MAX,
    T_MIN,
    T_SUM,
    Metric,
)
from xtrace.probes.compiled.plain import plain
from xtrace.probes.reader.batches import I64

GREATEST = (1 << 63) - 1
#: Metrics that account for time, and those whose parts are not samples of a whole interval.
SAMPLED = {
    Metric.RUNNING, Metric.RUNNABLE_WAKE, Metric.RUNNABLE_PREEMPT, Metric.RUNNABLE_OTHER,
    Metric.BLOCKED, Metric.OFFLINE, Metric.DOMAIN_STATE, Metric.RESIDENCE, Metric.RUNNABLE_BUDGET,
}  # fmt: skip
TIMES = SAMPLED | {
    Metric.STATE_LOST, Metric.STATE_UNKNOWN, Metric.DOMAIN_UNKNOWN, Metric.PCPU_UNKNOWN, Metric.PCPU_RUNNING,
    Metric.PCPU_IDLE, Metric.PCPU_LOST, Metric.OPEN,
}  # fmt: skip
Key = tuple[int, int]

values = st.one_of(
    st.integers(-5, 200),
    st.integers(0, 62).flatmap(lambda bits: st.integers((1 << bits) - 2, (1 << bits) + 2)),
    st.integers(0, GREATEST),
)
rows = st.lists(
    st.tuples(
        st.sampled_from([Metric.RUNNING, Metric.HVM_EXIT, Metric.HYPERCALL, Metric.LOST_RECORDS]),
        st.integers(0, 3),
        st.one_of(st.integers(-2, 3), st.integers(-GREATEST, GREATEST)),
        values,
        st.integers(0, 100),
    ),
    max_size=60,
)


def bounds(octave: int, place: int) -> tuple[int, int]:
    """Return the least and the greatest value of a bucket."""
    if octave == 0:
        return place, place
    width = 1 << (octave - 1)
    least = (SUB_BUCKETS + place) * width
    return least, least + width - 1


def clipped(intervals: I64, first: int = ALWAYS[0], last: int = ALWAYS[1]) -> I64:
    """Return the rows that a window counts: what ends in it; of accounts of time, the part in it."""
    rows = []
    for key, b, value, tsc in intervals.tolist():
        metric = key >> METRIC_SHIFT
        if first <= tsc <= last and tsc - value >= first:
            rows.append((key, b, value, tsc))
        elif metric in TIMES:
            part = min(tsc, last) - max(tsc - value, first)
            if metric in SAMPLED:
                key, b = Metric.OPEN << METRIC_SHIFT | key % (1 << METRIC_SHIFT), metric << 32 | b
            if part > 0:
                rows.append((key, b, part, tsc))
        elif first <= tsc <= last:
            rows.append((key, b, value, tsc))
    return np.array(rows, np.int64).reshape(-1, 4)


def added_up(intervals: I64) -> dict[Key, tuple[int, int, int, int, Counter[Key]]]:
    """Return count, sum, min, max and counts of buckets by key."""
    collected: defaultdict[Key, list[int]] = defaultdict(list)
    for key, b, value, _ in intervals.tolist():
        collected[key, b].append(value)
    return {key: summed(key[0], found) for key, found in collected.items()}


def summed(key: int, found: list[int]) -> tuple[int, int, int, int, Counter[Key]]:
    total = 0
    for value in found:
        if value > 0 and total > MOST_SUM - value:
            total = MOST_SUM
        else:
            total = (total + value + (1 << 63)) % (1 << 64) - (1 << 63)
    if key >> METRIC_SHIFT >= FIRST_COUNT:
        return len(found), total, 0, 0, Counter()
    buckets = Counter(place_of(value) for value in found if value >= 0)
    return len(found), total, min(found), max(found), buckets


def place_of(value: int) -> Key:
    """Return the bucket of a value, found by its bounds and not by bit arithmetic."""
    for octave in range(OCTAVES):
        least, greatest = bounds(octave, 0)[0], bounds(octave, SUB_BUCKETS - 1)[1]
        if least <= value <= greatest:
            return octave, (value - least) * SUB_BUCKETS // (greatest + 1 - least)
    raise AssertionError(value)


def read_out(tallies: Tallies) -> dict[Key, tuple[int, int, int, int, Counter[Key]]]:
    columns = tallies.columns()
    found = {}
    for row in columns.table.tolist():
        buckets: Counter[Key] = Counter()
        if row[T_HISTOGRAM] >= 0:
            for octave, chunk in enumerate(columns.histograms[row[T_HISTOGRAM]].tolist()):
                if chunk >= 0:
                    for place in np.flatnonzero(columns.buckets[chunk]).tolist():
                        buckets[octave, place] = int(columns.buckets[chunk, place])
        is_count = row[T_KEY] >> METRIC_SHIFT >= FIRST_COUNT
        least, greatest = (0, 0) if is_count else (row[T_MIN], row[T_MAX])
        found[row[T_KEY], row[T_B]] = (row[T_COUNT], row[T_SUM], least, greatest, buckets)
    return found


@given(values.filter(lambda value: value >= 0))
def test_the_bucket_of_a_value_contains_it_and_is_narrow(value: int) -> None:
    octave, place = plain(tally_loops.bucket_of)(value)
    assert 0 <= octave < OCTAVES
    assert 0 <= place < SUB_BUCKETS
    least, greatest = bounds(octave, place)
    assert least <= value <= greatest
    assert greatest - least <= value / 64
    assert place_of(value) == (octave, place)


def test_buckets_are_contiguous() -> None:
    edges = [bounds(octave, place) for octave in range(OCTAVES) for place in range(SUB_BUCKETS)]
    assert edges[0] == (0, 0)
    assert edges[-1][1] == GREATEST
    assert all(after[0] == before[1] + 1 for before, after in pairwise(edges))


@given(rows, st.integers(0, 50), st.integers(50, 100))
def test_sums_of_random_intervals(
    drawn: list[tuple[Metric, int, int, int, int]], begin: int, end: int
) -> None:
    table = [(metric << METRIC_SHIFT | a, b, value, tsc) for metric, a, b, value, tsc in drawn]
    intervals = np.array(table, np.int64).reshape(-1, 4)
    assert read_out(tally_of([intervals])) == added_up(clipped(intervals))
    assert read_out(tally_of([intervals], (begin, end))) == added_up(clipped(intervals, begin, end))


def test_a_sum_that_does_not_fit_stops_at_the_greatest() -> None:
    """Two VM exits of half of all TSCs each would make a negative time."""
    value = 3 << 60
    table = [(Metric.HVM_EXIT << METRIC_SHIFT | 7, 1, value, value)] * 3
    found = read_out(tally_of([np.array(table, np.int64)]))
    assert found[Metric.HVM_EXIT << METRIC_SHIFT | 7, 1][:4] == (3, MOST_SUM, value, value)


@pytest.mark.parametrize("kind", HOSTS)
def test_sums_of_a_host(kind: str) -> None:
    done = run(HOSTS[kind](3))
    pieces = np.array_split(done.rows, 7)
    assert read_out(tally_of(pieces)) == added_up(done.rows)
    middle = int(np.median(done.rows[:, 3]))
    inside = clipped(done.rows, 0, middle)
    assert read_out(tally_of(pieces, (0, middle))) == added_up(inside)
    assert {row.metric for row in as_intervals(inside)} > {Metric.RUNNING, Metric.HVM_EXIT}


def many_keys(count: int) -> I64:
    """Return intervals of this many keys, each with values in ten octaves."""
    random = np.random.default_rng(1)
    a, b = np.arange(count) % 1000, np.arange(count) // 1000
    intervals = np.zeros((10 * count, 4), np.int64)
    intervals[:, 0] = np.repeat(int(Metric.HVM_EXIT) << METRIC_SHIFT | a, 10)
    intervals[:, 1] = np.repeat(b, 10)
    intervals[:, 2] = random.integers(1, 1 << 40, 10 * count) >> random.integers(0, 35, 10 * count)
    return intervals


def test_tables_grow() -> None:
    intervals = many_keys(20_000)
    tallies = tally_of([intervals])
    columns = tallies.columns()
    assert columns.left_out == 0
    assert len(columns.table) == 20_000
    assert columns.buckets.sum() == len(intervals)
    # A histogram for each, and no chunk without a value.
    assert len(columns.histograms) == 20_000
    assert (columns.buckets.sum(axis=1) > 0).all()
    chosen = intervals[np.isin(intervals[:, 1], [0, 19])]
    expected = added_up(chosen)
    found = read_out(tally_of([chosen]))
    assert found == expected
    table = {(key, b): (n, total) for key, b, n, total, *_ in columns.table.tolist()}
    assert {key: table[key] for key in expected} == {key: sums[:2] for key, sums in expected.items()}


def test_intervals_over_the_limit_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "MAX_TALLIES", 1 << 13)
    intervals = many_keys(9000)
    columns = tally_of([intervals]).columns()
    assert columns.left_out > 0
    assert int(columns.table[:, T_COUNT].sum()) + columns.left_out == len(intervals)
