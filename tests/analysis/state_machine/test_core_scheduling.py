"""With core scheduling one pCPU writes the switches of all siblings of its core, in pairs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders import host
from oracle import machine as oracle
from oracle.reader import read
from oracle.runs import Run, as_intervals, run
from xtrace.analysis.state_machine.metrics import G, Metric
from xtrace.probes.reader.writer import pack_record, pack_window
from xtrace.probes.xen_abi import DEFAULT_DOMAIN, IDLE_DOMAIN

START = 1 << 40
RUNNING, RUNNABLE, BLOCKED = 0, 1, 2
GUEST = 1 << 16
#: pCPU of the writer, time, event, words.
Event = tuple[int, int, int, tuple[int, ...]]


def idle(pcpu: int) -> int:
    return IDLE_DOMAIN << 16 | pcpu


def change(writer: int, time: int, vcpu: int, old: int, new: int) -> Event:
    return writer, time, 0x21001 | old << 8 | new << 4, (vcpu,)


def pair(writer: int, time: int, before: int, after: int, state: int) -> list[Event]:
    """Return the records of a switch: ``before`` leaves for ``state``, ``after`` runs."""
    return [change(writer, time, before, RUNNING, state), change(writer, time, after, RUNNABLE, RUNNING)]


def call(pcpu: int, time: int) -> Event:
    return pcpu, time, host.PV_HYPERCALL, (17,)


def trace(events: Sequence[Event]) -> bytes:
    bodies: dict[int, bytearray] = {}
    for pcpu, time, event, words in events:
        bodies.setdefault(pcpu, bytearray()).extend(pack_record(event, START + time, words))
    return b"".join(pack_window(pcpu, bytes(body)) for pcpu, body in sorted(bodies.items()))


def agreed(events: Sequence[Event]) -> Run:
    data = trace(events)
    fast, slow = run(data), oracle.run(read(data).records_and_holes)
    assert fast.intervals == slow.intervals
    assert sorted(as_intervals(fast.ends)) == sorted(slow.ends)
    assert fast.counts == slow.counts
    return fast


#: pCPU 0 puts one vCPU on each sibling, pCPU 1 takes both off.
ONE_TURN = [
    *pair(0, 10, idle(0), GUEST, RUNNABLE),
    *pair(0, 10, idle(1), GUEST | 1, RUNNABLE),
    call(1, 20),
    call(1, 21),
    call(0, 25),
    *pair(1, 100, GUEST, idle(0), BLOCKED),
    *pair(1, 100, GUEST | 1, idle(1), BLOCKED),
    call(1, 110),
]


def test_vcpus_are_where_the_pair_says() -> None:
    done = agreed(ONE_TURN)
    calls = {key.a: count for key, count in done.counts.items() if key.metric == Metric.HYPERCALL}
    assert calls == {GUEST: 1, GUEST | 1: 2}
    ran = Counter[int]()
    for row in done.intervals:
        if row.metric is Metric.PCPU_RUNNING:
            ran[row.a] += row.value
    assert ran == {0: 90, 1: 90}
    running = {row.a: row.value for row in done.intervals if row.metric is Metric.RUNNING and row.a < 1 << 17}
    assert running == {GUEST: 90, GUEST | 1: 90}
    assert not [row for row in done.intervals if row.metric in (Metric.STATE_LOST, Metric.CUT)]
    assert done.machine.glob[G.CORE] == 1


def test_without_an_idle_vcpu_elsewhere_nothing_changes() -> None:
    events = [*pair(0, 10, idle(0), GUEST, RUNNABLE), call(0, 20), *pair(0, 30, GUEST, idle(0), BLOCKED)]
    done = agreed([*events, call(1, 5), *pair(1, 12, idle(1), GUEST | 1, RUNNABLE), call(1, 14)])
    assert done.machine.glob[G.CORE] == 0
    assert {key.a for key in done.counts if key.metric == Metric.HYPERCALL} == {
        GUEST, GUEST | 1, DEFAULT_DOMAIN << 16 | 1,
    }  # fmt: skip


def test_one_guest_after_another_stays_on_the_same_pcpu() -> None:
    events = [
        *ONE_TURN[:4],
        *pair(0, 50, GUEST | 1, GUEST | 2, BLOCKED),
        *pair(0, 50, GUEST, GUEST | 3, BLOCKED),
        call(1, 60),
        call(0, 61),
    ]
    calls = {key.a for key in agreed(events).counts if key.metric == Metric.HYPERCALL}
    assert calls == {GUEST | 2, GUEST | 3}


@settings(max_examples=150)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 2),
            st.sampled_from([idle(0), idle(1), idle(2), idle(500), GUEST, GUEST | 1, GUEST | 2]),
            st.integers(0, 3),
            st.integers(0, 3),
        ),
        max_size=60,
    )
)
def test_any_records_agree_and_fill_the_span(drawn: list[tuple[int, int, int, int]]) -> None:
    events = [
        (w, 10 + 3 * i, 0x21001 | old << 8 | new << 4, (v,)) for i, (w, v, old, new) in enumerate(drawn)
    ]
    done = agreed([*(call(pcpu, 1) for pcpu in range(3)), *events])
    first, last = int(done.machine.glob[G.FIRST_TSC]), int(done.machine.glob[G.LAST_TSC])
    for pcpu in range(3):
        parts = sorted(
            (row.tsc - row.value, row.tsc)
            for row in [*done.intervals, *as_intervals(done.ends)]
            if row.a == pcpu
            and row.metric in (Metric.PCPU_RUNNING, Metric.PCPU_IDLE, Metric.PCPU_UNKNOWN, Metric.PCPU_LOST)
        )
        if first < last:
            assert (parts[0][0], parts[-1][1]) == (first, last)
            assert all(end == begin for (_, end), (begin, _) in pairwise(parts))


@pytest.mark.parametrize("writer", [0, 1])
def test_the_place_does_not_depend_on_who_writes(writer: int) -> None:
    switches = [
        (writer, time, event, words) for _, time, event, words in ONE_TURN if event != host.PV_HYPERCALL
    ]
    calls = [event for event in ONE_TURN if event[2] == host.PV_HYPERCALL]
    moved = sorted([*switches, *calls], key=lambda event: event[1])
    done = agreed([call(1 - writer, 5), *moved])
    counted = {key.a: count for key, count in done.counts.items() if key.metric == Metric.HYPERCALL}
    assert (counted[GUEST], counted[GUEST | 1]) == (1, 2)
