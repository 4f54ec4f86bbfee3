"""Windows that are missing in the middle of a trace: they are found, and nothing is measured across them."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builders import host
from builders.cut_windows import at_random, middle, rewindowed, without
from builders.host import simulate
from builders.hosts import DOMAINS, HOSTS
from builders.random_records import traces
from builders.restarted import halves
from oracle import machine as oracle
from oracle.reader import Hole, frame, read
from oracle.reading import ALL_SAMPLES, SAMPLES, holes_of, sample_bytes
from oracle.runs import Run, as_intervals, run
from xtrace.analysis.state_machine.metrics import G, Metric
from xtrace.probes.format import LOST_RECORDS
from xtrace.probes.reader.writer import pack_record, pack_window
from xtrace.probes.xen_abi import IDLE_DOMAIN

STATES = {
    Metric.RUNNING, Metric.RUNNABLE_WAKE, Metric.RUNNABLE_PREEMPT, Metric.RUNNABLE_OTHER,
    Metric.RUNNABLE_BUDGET, Metric.BLOCKED, Metric.OFFLINE, Metric.STATE_LOST, Metric.STATE_UNKNOWN,
}  # fmt: skip
DOMAIN_STATES = {Metric.DOMAIN_STATE, Metric.DOMAIN_UNKNOWN}
PCPU_TIMES = {Metric.PCPU_RUNNING, Metric.PCPU_IDLE, Metric.PCPU_LOST, Metric.PCPU_UNKNOWN}
#: What a hole must cut, where the vCPU ran on the pCPU or did not run.
NOT_ACROSS = (
    Metric.RUNNING, Metric.BLOCKED, Metric.RUNNABLE_WAKE, Metric.WAKE_TO_RUNNING, Metric.UPCALL_MAX,
    Metric.UPCALL_MIN, Metric.HVM_EXIT, Metric.HVM_UPCALL, Metric.INJECTION_TO_ENTRY, Metric.FORCED_CALLBACK,
)  # fmt: skip
by_name = pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.name.split(".")[0])
#: Bytes of a sample that are read in a run that is not nightly.
SOME_BYTES = 3 << 19


def assert_same(data: bytes) -> tuple[Run, list[Hole]]:
    """Check that both implementations find the same holes and intervals; they restart no TSC."""
    trace = read(data)
    assert holes_of(data) == trace.holes[:100]
    # In one batch, so that no hole is found later than where it sorts.
    fast, slow = run(data, chunk_bytes=1 << 26), oracle.run(trace.records_and_holes)
    assert fast.intervals == slow.intervals
    assert sorted(as_intervals(fast.ends)) == sorted(slow.ends)
    assert fast.counts == slow.counts
    assert fast.machine.hidden_hole_count == slow.hidden_hole_count
    assert fast.reader.record_counts.sum() == len(trace.records) + trace.wrap_count
    return fast, trace.holes


def assert_the_parts_fill_the_span(done: Run) -> None:
    first, last = int(done.machine.glob[G.FIRST_TSC]), int(done.machine.glob[G.LAST_TSC])
    for metrics in (STATES, DOMAIN_STATES, PCPU_TIMES):
        stretches: dict[int, list[tuple[int, int]]] = {}
        for row in [*done.intervals, *as_intervals(done.ends)]:
            metric = Metric(row.b >> 32) if row.metric == Metric.OPEN else row.metric
            if metric in metrics:
                stretches.setdefault(row.a, []).append((row.tsc - row.value, row.tsc))
        for parts in stretches.values():
            parts.sort()
            assert (parts[0][0], parts[-1][1]) == (first, last)
            assert all(end == begin for (_, end), (begin, _) in pairwise(parts))


def assert_nothing_crosses(done: Run, holes: list[Hole]) -> None:
    """Check that no interval is across a hole whose vCPU ran on the pCPU around it, or did not run."""
    for hole in holes:
        for row in done.intervals:
            is_across = row.tsc - row.value <= hole.begin and row.tsc >= hole.end
            if is_across and row.metric in NOT_ACROSS:
                # Another pCPU may run a vCPU throughout.
                assert row.metric not in (Metric.BLOCKED, Metric.RUNNABLE_WAKE, Metric.WAKE_TO_RUNNING)
                ran_on = {
                    other.b & 0xFFFF_FFFF
                    for other in [*done.intervals, *as_intervals(done.ends)]
                    if other.a == row.a
                    and (other.b >> 32 if other.metric == Metric.OPEN else other.metric) == Metric.RESIDENCE
                }
                assert row.a != hole.vcpu
                assert ran_on != {hole.pcpu}


# --- traces that lack nothing ------------------------------------------------------------------


@pytest.mark.parametrize("sample", ALL_SAMPLES, ids=lambda path: path.name.split(".")[0])
def test_no_hole_in_samples(sample: Path) -> None:
    data = sample_bytes(sample)
    assert holes_of(data) == []
    assert holes_of(data, chunk_bytes=1 << 14) == []


@pytest.mark.parametrize("kind", HOSTS)
@pytest.mark.parametrize("seed", range(4))
def test_no_hole_in_simulated_hosts(kind: str, seed: int) -> None:
    assert holes_of(HOSTS[kind](seed)) == []


# --- windows cut out ---------------------------------------------------------------------------


@by_name
@pytest.mark.parametrize("pcpu", [None, 0, 1])
@pytest.mark.parametrize("limit", [SOME_BYTES, pytest.param(None, marks=pytest.mark.nightly)])
def test_the_middle_is_missing(sample: Path, pcpu: int | None, limit: int | None) -> None:
    whole = sample_bytes(sample)[:limit]
    data = middle(whole, pcpu)
    done, holes = assert_same(data)
    assert_the_parts_fill_the_span(done)
    assert_nothing_crosses(done, holes)
    late = run(data, chunk_bytes=1 << 14)
    assert_the_parts_fill_the_span(late)
    assert_nothing_crosses(late, holes if pcpu is None else [])
    assert late.reader.facts.hole_count == len(holes)
    assert late.reader.facts.late_records <= ("lost" in str(sample))  # a loss that is found late
    windows = frame(whole).windows
    missing = [
        window for number, window in enumerate(windows)
        if 0.4 < number / len(windows) < 0.6 and pcpu in (None, window.pcpu)
    ]  # fmt: skip
    tscs = [raw.tsc for window in missing for raw in window.records if raw.tsc is not None]
    assert all(hole.begin <= max(tscs) and hole.end >= min(tscs) for hole in holes)
    lost = {window.pcpu for window in windows for raw in window.records if raw.event == LOST_RECORDS}
    if pcpu is None and not lost:
        assert {hole.pcpu for hole in holes} == {window.pcpu for window in missing}
    assert len(holes) == len({hole.pcpu for hole in holes})
    unknown = {row.a: 0 for row in done.intervals if row.metric == Metric.PCPU_UNKNOWN}
    for row in done.intervals:
        if row.metric == Metric.PCPU_UNKNOWN:
            unknown[row.a] += row.value
    assert all(unknown[hole.pcpu] >= hole.end - hole.begin for hole in holes)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("loss", [0, 0.3])
def test_windows_missing_at_random(seed: int, loss: float) -> None:
    ring_bytes = 4088 if loss else 1 << 20
    simulated = simulate(
        seed, 3, DOMAINS, 40_000_000, loss=loss, ring_bytes=ring_bytes, poll_cycles=1_000_000
    )
    done, holes = assert_same(at_random(simulated.data, seed))
    assert_the_parts_fill_the_span(done)
    assert holes
    if not loss:
        assert_nothing_crosses(done, holes)


def test_where_the_batches_end_does_not_matter_for_what_is_found() -> None:
    data = at_random(simulate(5, 3, DOMAINS, 60_000_000, poll_cycles=1_000_000).data, 5)
    holes = holes_of(data)
    assert len(holes) > 10
    for chunk_bytes in (64, 1000, 10_007):
        assert holes_of(data, chunk_bytes=chunk_bytes) == holes
        assert run(data, chunk_bytes=chunk_bytes).reader.facts.late_records == 0


@pytest.mark.parametrize("seed", range(20))
def test_small_windows_and_restarts(seed: int) -> None:
    first, second = halves(simulate(seed, 3, DOMAINS, 10_000_000, poll_cycles=500_000).data)
    data = at_random(rewindowed(second, seed), seed) + at_random(rewindowed(first, seed), seed)
    trace = read(data)
    assert trace.restarts
    assert holes_of(data, chunk_bytes=random.Random(seed).choice((64, 5000, 1 << 20))) == trace.holes[:100]


@settings(max_examples=250, suppress_health_check=list(HealthCheck))
@given(traces(), st.integers(0, 1 << 16))
def test_random_records(data: bytes, seed: int) -> None:
    trace = rewindowed(data, seed)
    if not read(trace).restarts:
        assert_same(trace)
    assert holes_of(trace, chunk_bytes=64) == read(trace).holes[:100]


# --- by hand -----------------------------------------------------------------------------------

A, B, IDLE = 1 << 16, 2 << 16, IDLE_DOMAIN << 16
GHZ = 1_000_000_000
Event = tuple[int, int | None, tuple[int, ...]]


def enters(vcpu: int, tsc: int) -> Event:
    return 0x21101, tsc, (vcpu,)


def leaves(vcpu: int, tsc: int | None) -> Event:
    return 0x21021, tsc, (vcpu,)


def previous(vcpu: int, tsc: int, ran_ns: int) -> Event:
    return host.INFPREV, tsc, (vcpu >> 16, vcpu & 0xFFFF, ran_ns)


def continues(vcpu: int, tsc: int) -> Event:
    return host.CONTINUE_RUNNING, tsc, (vcpu,)


def window(*events: Event, pcpu: int = 0) -> bytes:
    return pack_window(pcpu, b"".join(pack_record(*event) for event in events))


#: Runs of 1 s in all, of a counter of 1 GHz.
RATED = window(enters(B, GHZ), previous(B, 2 * GHZ, GHZ), leaves(B, 2 * GHZ), enters(A, 2 * GHZ))


@pytest.mark.parametrize(
    ("first", "vcpu"),
    [
        (leaves(B, 100), B), (previous(B, 100, 5), B), (continues(B, 100), B),
        (enters(B, 100), None), (leaves(A, 100), -1), (previous(A, 100, 5), -1), (continues(A, 100), -1),
    ],
)  # fmt: skip
def test_what_the_next_window_begins_with(first: Event, vcpu: int | None) -> None:
    done, holes = assert_same(window(enters(A, 50)) + window(first, leaves(first[2][0], 200)))
    assert holes == ([] if vcpu == -1 else [Hole(0, 50, 100, vcpu)])
    assert_the_parts_fill_the_span(done)


@pytest.mark.parametrize(
    ("ran_ms", "is_hole"), [(1000, False), (865, False), (855, True), (100, True), (600, True)]
)
def test_when_the_run_began(ran_ms: int, is_hole: bool) -> None:
    """It began 1 s before, or after the last record of the window before, by its run time."""
    last = (host.WAKE, 2 * GHZ + 10, (2, 0))
    data = RATED + window(last) + window(previous(A, 3 * GHZ, ran_ms * 1_000_000))
    _, holes = assert_same(data)
    assert bool(holes) == is_hole


def test_a_long_run_may_have_wrapped() -> None:
    assert assert_same(RATED + window(previous(A, 7 * GHZ, 500_000_000)))[1] == []


def test_nothing_is_known_after_lost_records() -> None:
    lost: Event = (LOST_RECORDS, 90, (5, 1, 60, 0))
    for data in (
        window(enters(A, 50), lost) + window(leaves(B, 100)),
        window(enters(A, 50)) + window(lost, leaves(B, 100)),
        window(enters(A, 50), leaves(A, 60)) + window(leaves(B, 100)),
    ):
        assert assert_same(data)[1] == []


def test_core_scheduling_hides_holes() -> None:
    sibling = IDLE | 1
    data = window(enters(A, 50)) + window(leaves(B, 100), enters(sibling, 110)) + window(leaves(A, 200))
    assert assert_same(data)[1] == []


def test_records_without_a_tsc_after_a_hole() -> None:
    """They show the end of the hole."""
    untimed: Event = (host.INJ_VIRQ, None, (0xF3, 0))
    data = (
        window(enters(A, 50))
        + window(untimed, leaves(B, 100), enters(A, 120))
        + window(leaves(A, 130), pcpu=1)
    )
    done, holes = assert_same(data)
    assert holes == [Hole(0, 50, 100, B)]
    assert [row.tsc for row in done.intervals if row.metric == Metric.INJECTION] == [100]


def test_time_in_a_hole_is_unknown() -> None:
    """What ran there, and what did not run anywhere, may have done anything; what ran elsewhere did not."""
    other = window(enters(B | 1, 5), leaves(A | 1, 7), pcpu=1)
    first = window((0x21211, 9, (A | 2,)), enters(A, 10), (host.WAKE, 50, (1, 0)))
    data = other + first + window(leaves(IDLE, 1000), enters(A, 1000), leaves(A, 2000))
    done, holes = assert_same(data)
    assert holes == [Hole(0, 50, 1000, IDLE)]
    assert_the_parts_fill_the_span(done)
    rows = [*done.intervals, *as_intervals(done.ends)]
    lost = [row for row in rows if row.metric == Metric.STATE_LOST]
    unknown = {(row.a, row.tsc - row.value, row.tsc) for row in rows if row.metric == Metric.STATE_UNKNOWN}
    assert not lost
    assert {(A, 50, 1000), (A | 2, 50, 2000)} <= unknown
    assert (0, 50, 1000) in [
        (row.a, row.tsc - row.value, row.tsc) for row in rows if row.metric == Metric.PCPU_UNKNOWN
    ]
    assert not [row for row in rows if row.metric == Metric.PCPU_LOST]


@by_name
def test_every_second_window(sample: Path) -> None:
    """Hostile: a hole before nearly every window."""
    data = without(sample_bytes(sample)[:SOME_BYTES], lambda number, *_: number % 4 in (1, 2))
    done, _ = assert_same(data)
    assert_the_parts_fill_the_span(done)
