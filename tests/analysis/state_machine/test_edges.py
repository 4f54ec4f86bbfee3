"""Events at the same TSC: whether an interval includes its ends, and where two intervals only touch."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest

from builders import host
from builders.cut import packed
from builders.hosts import HOSTS
from oracle import machine as oracle
from oracle.machine import Interval
from oracle.reader import RawRecord, frame, read
from oracle.runs import Run, as_intervals, run, tally_of
from xtrace.analysis.state_machine import loops
from xtrace.analysis.state_machine.metrics import (
    METRIC_SHIFT,
    T_COUNT,
    TICK_PERIOD_MASK,
    G,
    Metric,
    WakeCause,
)
from xtrace.probes import event_ids as ids
from xtrace.probes.compiled.plain import plain
from xtrace.probes.format import LOST_RECORDS
from xtrace.probes.reader.writer import pack_record, pack_window
from xtrace.probes.xen_abi import DEFAULT_DOMAIN, IDLE_DOMAIN

START = 1 << 40
LOW = 0xFFFF_FFFF
DOMAIN = 1 << 16

VCPU_OP, SET_TIMER_OP, MULTICALL, SUBCALL = 24, 15, 13, 0x20200E
#: pCPU, TSC after START, event, words.
Event = tuple[int, int, int, tuple[int, ...]]


def trace(events: Sequence[Event], start: int = START) -> bytes:
    """Return a trace of events, those of a pCPU in the order given."""
    windows: dict[int, bytearray] = {}
    for pcpu, tsc, event, words in events:
        windows.setdefault(pcpu, bytearray()).extend(pack_record(event, start + tsc, words))
    return b"".join(pack_window(pcpu, bytes(body)) for pcpu, body in sorted(windows.items()))


def agreed(data: bytes) -> Run:
    """Run a trace; the reference implementation must agree in everything."""
    found, expected = run(data), oracle.run(read(data).records_and_holes)
    assert found.intervals == expected.intervals
    assert found.counts == expected.counts
    assert as_intervals(found.ends) == expected.ends
    return found


def intervals(events: Sequence[Event], *metrics: Metric) -> list[Interval]:
    """Return the compiled machines' intervals, TSCs after START; the reference implementation must agree."""
    found = agreed(trace(events)).intervals
    return [row._replace(tsc=row.tsc - START) for row in found if row.metric in metrics]


def change(old: int, new: int) -> int:
    """Return the event of a runstate record; 0 is running, 1 runnable, 2 blocked."""
    return 0x21001 | old << 8 | new << 4


# --- wakes and the interrupt that explains them ------------------------------------------------


def handled(irq: int, begin: int, end: int, tsc: int) -> Event:
    return 0, tsc, host.IRQ_HANDLED, (irq, START + begin & LOW, START + end & LOW)


def causes(wakes: Sequence[int], *irqs: Event) -> tuple[list[tuple[int, int | None]], list[tuple[int, int]]]:
    """Return each wake's TSC and irq (None for a timer), and the delays from interrupt to wake."""
    began = (0, 0, change(1, 0), (DOMAIN,))
    woken: list[Event] = [(0, tsc, host.WAKE, (2 + number, 0)) for number, tsc in enumerate(wakes)]
    # A context switch ends the wait for an interrupt record.
    rows = intervals(
        [began, *woken, *irqs, (0, 9000, change(1, 0), (3 * DOMAIN,))], Metric.WAKE_CAUSE, Metric.IRQ_TO_WAKE
    )
    told: list[tuple[int, int | None]] = []
    for row in rows:
        if row.metric is Metric.WAKE_CAUSE:
            cause, irq = WakeCause(row.b >> 32), row.b & LOW
            assert cause in (WakeCause.IRQ, WakeCause.TIMER_OR_OTHER)
            told.append((row.tsc, irq if cause is WakeCause.IRQ else None))
    return told, [(row.tsc, row.value) for row in rows if row.metric is Metric.IRQ_TO_WAKE]


def test_interrupt_explains_wakes_from_its_first_to_its_last_cycle() -> None:
    told, delays = causes([99, 100, 101, 199, 200, 201], handled(7, 100, 200, 300))
    assert told == [(99, None), (100, 7), (101, 7), (199, 7), (200, 7), (201, None)]
    assert delays == [(100, 0), (101, 1), (199, 99), (200, 100)]


def test_wakes_after_an_interrupt_wait_for_the_next_one() -> None:
    told, delays = causes([150, 201, 202], handled(7, 100, 200, 250), handled(8, 201, 201, 260))
    assert told == [(150, 7), (201, 8), (202, None)]
    assert delays == [(150, 50), (201, 0)]


# --- stays of one vCPU on two pCPUs ------------------------------------------------------------


def stay(pcpu: int, begin: int, end: int, key: int = DOMAIN) -> list[Event]:
    return [(pcpu, begin, change(1, 0), (key,)), (pcpu, end, change(0, 1), (key,))]


def point(pcpu: int, tsc: int, key: int = DOMAIN) -> list[Event]:
    """Return a record of a vCPU that neither starts nor ends a run."""
    return [(pcpu, tsc, change(2, 1), (key,))]


def excluded(*parts: list[Event]) -> list[tuple[str, int, int, int, int]]:
    """Return the excluded TSC differences: end, pCPU pair, 1 for a proof of skew, value, TSC."""
    rows = intervals([one for part in parts for one in part], Metric.SKEW_NOT_FROM, Metric.SKEW_NOT_TO)
    names = {Metric.SKEW_NOT_FROM: "from", Metric.SKEW_NOT_TO: "to"}
    return [(names[row.metric], row.a, row.b, row.value, row.tsc) for row in rows]


#: The TSC of pCPU 1 minus that of pCPU 0, and the reverse.
ZERO_ONE, ONE_ZERO = 1, 1 << 16
PROOF = [*stay(0, 100, 200), *stay(1, 150, 250)]
PROVEN = [("to", ZERO_ONE, 1, 150, 250), ("to", ONE_ZERO, 1, 50, 250)]


def test_a_vcpu_on_two_pcpus_at_once_proves_skew() -> None:
    assert excluded(PROOF) == PROVEN
    inside = excluded(stay(0, 100, 200), point(1, 150))
    assert inside == [("to", ONE_ZERO, 1, 50, 200), ("to", ZERO_ONE, 1, 50, 200)]


TOUCHING: dict[str, tuple[list[Event], list[Event]]] = {
    "one after the other": (stay(0, 100, 150), stay(1, 150, 200)),
    "the other after the one": (stay(1, 100, 150), stay(0, 150, 200)),
    "where a run begins": (stay(0, 100, 200), point(1, 100)),
    "where a run ends": (stay(0, 100, 200), point(1, 200)),
    "where the other begins": (stay(1, 100, 200), point(0, 100)),
    "where the other ends": (stay(1, 100, 200), point(0, 200)),
    "two points": (point(0, 100), point(1, 100)),
    # A run of no cycles is not a stay: both of its records may be of the same instant.
    "a run of no cycles": (stay(0, 100, 200), stay(1, 150, 150)),
    "on one and the same pCPU": (stay(0, 100, 200), point(0, 150)),
    # Another vCPU started to run there, once with a greater key and once with a smaller one.
    "a run that another began": (
        stay(1, 100, 200),
        [(0, 150, change(1, 0), (2 * DOMAIN,)), (0, 180, change(0, 1), (DOMAIN,))],
    ),
    "a run that yet another began": (
        stay(1, 100, 200, 2 * DOMAIN),
        [(0, 150, change(1, 0), (DOMAIN,)), (0, 180, change(0, 1), (2 * DOMAIN,))],
    ),
    # It is not known when a run began that was under way at the start of the trace.
    "a run without a beginning": (stay(1, 100, 150), stay(0, 0, 200)[1:]),
}


@pytest.mark.parametrize("name", TOUCHING)
def test_touching_stays_do_not_prove_skew(name: str) -> None:
    assert excluded(*TOUCHING[name]) == []


#: After a proof, everything that is excluded is emitted: here by two stays of another vCPU.
BEHIND_A_PROOF = {
    "apart": (
        (stay(0, 1000, 1100, 2 * DOMAIN), stay(1, 1150, 1250, 2 * DOMAIN)),
        [("from", ZERO_ONE, 0, 50, 1250), ("to", ZERO_ONE, 0, 250, 1250)],
    ),
    "touching": (
        (stay(0, 1000, 1100, 2 * DOMAIN), stay(1, 1100, 1250, 2 * DOMAIN)),
        [("from", ZERO_ONE, 0, 0, 1250), ("to", ZERO_ONE, 0, 250, 1250)],
    ),
    "a run and a point": (
        (stay(0, 1000, 1100, 2 * DOMAIN), point(1, 1200, 2 * DOMAIN)),
        [("from", ZERO_ONE, 0, 100, 1200), ("to", ZERO_ONE, 0, 200, 1200)],
    ),
    "a point and a run": (
        (point(0, 1000, 2 * DOMAIN), stay(1, 1100, 1200, 2 * DOMAIN)),
        [("from", ZERO_ONE, 0, 100, 1200), ("to", ZERO_ONE, 0, 200, 1200)],
    ),
    "a point where a run ends": (
        (point(0, 1100, 2 * DOMAIN), stay(1, 1000, 1100, 2 * DOMAIN)),
        [("from", ONE_ZERO, 0, 0, 1100), ("to", ONE_ZERO, 0, 100, 1100)],
    ),
    "two points": ((point(0, 1000, 2 * DOMAIN), point(1, 1100, 2 * DOMAIN)), []),
    "a run of no cycles": ((stay(0, 1000, 1100, 2 * DOMAIN), stay(1, 1200, 1200, 2 * DOMAIN)), []),
}  # fmt: skip


@pytest.mark.parametrize("name", BEHIND_A_PROOF)
def test_what_two_stays_exclude_after_a_proof(name: str) -> None:
    parts, expected = BEHIND_A_PROOF[name]
    assert excluded(PROOF, *parts) == PROVEN + expected


def test_a_run_that_ends_before_it_begins_has_no_time() -> None:
    turn: list[Event] = [(0, 500, change(1, 0), (DOMAIN,)), (0, 400, change(0, 2), (DOMAIN,))]
    assert intervals(turn, Metric.PCPU_RUNNING) == []
    assert [row.metric for row in intervals(turn, Metric.NEGATIVE)] == [Metric.NEGATIVE]


# --- the window of TSCs ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "last", "inside"),
    [(100, 300, 3), (101, 300, 2), (100, 299, 2), (200, 200, 1), (201, 299, 0)],
)
def test_a_window_includes_its_first_and_last_tsc(first: int, last: int, inside: int) -> None:
    """Both for counts, which the machines keep, and for intervals, which are tallied after them."""
    window = (START + first, START + last)
    calls: list[Event] = [(0, tsc, host.PV_HYPERCALL, (17,)) for tsc in (100, 200, 300)]
    made = run(trace([(0, 50, change(1, 0), (DOMAIN,)), *calls]), window=window)
    assert sum(n for key, n in made.counts.items() if key.metric == Metric.HYPERCALL) == inside
    key = int(Metric.HVM_EXIT) << METRIC_SHIFT | 1
    rows = np.array([[key, 0, 5, START + tsc] for tsc in (100, 200, 300)], np.int64)
    assert tally_of([rows], window).columns().table[:, T_COUNT].sum() == inside


# --- upcalls and what comes during them --------------------------------------------------------

IDLE = IDLE_DOMAIN << 16
#: A vCPU that blocks by sched_op, is woken by a timer, and runs again from 500 on.
BLOCKED_AND_WOKEN: list[Event] = [
    (0, 1, change(1, 0), (DOMAIN,)),
    (0, 100, host.PV_HYPERCALL, (host.SCHED_OP | 1 << 20, 1)),
    (0, 110, host.BLOCK, (1, 0)),
    (0, 120, change(0, 2), (DOMAIN,)),
    (0, 130, change(1, 0), (IDLE,)),
    (0, 400, host.WAKE, (1, 0)),
    (0, 410, change(2, 1), (DOMAIN,)),
    (0, 490, change(0, 1), (IDLE,)),
    (0, 500, change(1, 0), (DOMAIN,)),
    (0, 590, host.PV_HYPERCALL, (host.EVENT_CHANNEL_OP,)),
]


@pytest.mark.parametrize("traps", [0, 1, 2])
def test_an_upcall_that_a_trap_interrupts_is_nested(traps: int) -> None:
    inside: list[Event] = []
    for number in range(traps):
        begin = 600 + 20 * number
        inside += [
            (0, begin, host.PV_TRAP, (0x81000000, 0xFFFFFFFF, 7)),
            (0, begin + 10, host.PV_HYPERCALL, (host.IRET,)),
        ]
    data = trace([*BLOCKED_AND_WOKEN, *inside, (0, 900, host.PV_HYPERCALL, (host.IRET,))])
    found = agreed(data)
    counts = {key.metric: count for key, count in found.counts.items()}
    assert counts[Metric.IRET_UPCALL] == 1
    assert counts.get(Metric.IRET_TRAP, 0) == traps
    assert counts.get(Metric.UPCALL_NESTED, 0) == (traps > 0)


#: The same vCPU, woken before it leaves its pCPU, so that it goes on from 120 on.
BLOCKED_AND_CONTINUED: list[Event] = [
    *BLOCKED_AND_WOKEN[:3],
    (0, 120, host.CONTINUE_RUNNING, (DOMAIN,)),
]
UPCALLS = (Metric.UPCALL_MAX, Metric.UPCALL_MIN, Metric.RUNNING_TO_GUEST)


def test_a_vcpu_that_is_woken_before_it_leaves_its_pcpu_takes_its_upcall_where_it_goes_on() -> None:
    events: list[Event] = [
        *BLOCKED_AND_CONTINUED,
        (0, 150, host.PV_HYPERCALL, (host.EVENT_CHANNEL_OP,)),
        (0, 200, host.PV_HYPERCALL, (host.IRET,)),
        # A preemption, after which it is in no upcall.
        (0, 300, change(0, 1), (DOMAIN,)),
        (0, 400, change(1, 0), (DOMAIN,)),
        (0, 500, host.PV_HYPERCALL, (host.IRET,)),
    ]
    found = intervals(events, *UPCALLS)
    assert [(row.metric, row.value, row.tsc) for row in found] == [
        (Metric.RUNNING_TO_GUEST, 30, 150),
        (Metric.UPCALL_MAX, 80, 200),
        (Metric.UPCALL_MIN, 50, 200),
    ]


def test_a_vcpu_that_acts_after_its_block_is_in_no_upcall_of_that_block() -> None:
    """Where CONTINUE_RUNNING is not in the trace, another record of the guest shows that it goes on."""
    events: list[Event] = [
        *BLOCKED_AND_WOKEN[:3],
        (0, 150, host.PV_HYPERCALL, (host.EVENT_CHANNEL_OP,)),
        (0, 300, change(0, 1), (DOMAIN,)),
        (0, 400, change(1, 0), (DOMAIN,)),
        (0, 500, host.PV_HYPERCALL, (host.IRET,)),
    ]
    assert intervals(events, *UPCALLS) == []


@pytest.mark.parametrize("begin", [BLOCKED_AND_WOKEN[:-1], BLOCKED_AND_CONTINUED], ids=["woken", "continued"])
def test_an_upcall_with_a_forced_callback_in_it_is_not_measured(begin: list[Event]) -> None:
    """Two irets follow, and the first is that of the upcall inside, unless its event came by itself."""
    events: list[Event] = [
        *begin,
        (0, 590, host.PV_HYPERCALL, (host.EVENT_CHANNEL_OP,)),
        (0, 600, host.PV_HYPERCALL, (host.XEN_VERSION,)),
        (0, 700, host.PV_HYPERCALL, (host.IRET,)),
        (0, 800, host.PV_HYPERCALL, (host.IRET,)),
    ]
    found = agreed(trace(events))
    assert [row.metric for row in found.intervals if row.metric in UPCALLS] == [Metric.RUNNING_TO_GUEST]
    counts = {key.metric: count for key, count in found.counts.items()}
    assert (counts[Metric.IRET_UPCALL], counts[Metric.UPCALL_FORCED], counts[Metric.IRET_OPEN]) == (1, 1, 1)


# --- irets before which no event can have been pending -----------------------------------------


def call(tsc: int, op: int, command: int | None = None, *, pcpu: int = 0) -> Event:
    """Return a hypercall, with the flag of a 32-bit argument where its command is recorded."""
    words = (op,) if command is None else (op | 1 << 20, command)
    return pcpu, tsc, host.PV_HYPERCALL, words


#: It has set its timer, blocked, been woken and taken its upcall, so the timer alone may be pending.
AFTER_ITS_UPCALL: list[Event] = [
    (0, 10, change(1, 0), (DOMAIN,)),
    call(50, VCPU_OP, 8),
    call(90, host.SCHED_OP, 1),
    *[event for event in BLOCKED_AND_WOKEN if event[1] > 100 and event[2] != host.PV_HYPERCALL],
    call(600, host.IRET),
]


@pytest.mark.parametrize(
    ("between", "none"),
    [
        ([], 2),
        ([call(650, host.EVENT_CHANNEL_OP)], 1),
        ([call(650, host.EVENT_CHANNEL_OP), call(660, host.EVENT_CHANNEL_OP)], 0),
        ([call(650, VCPU_OP, 8)], 1),
        ([call(650, SET_TIMER_OP)], 1),
        ([call(650, MULTICALL)], 0),
        ([(0, 650, SUBCALL, (1,)), call(660, MULTICALL)], 2),
        ([call(650, VCPU_OP, 6)], 0),
        ([call(650, VCPU_OP, 10)], 1),
        ([call(650, VCPU_OP, 3), call(660, host.SCHED_OP, 0), call(670, host.XEN_VERSION)], 2),
        ([(0, 650, ids.HW_IRQ_HANDLED, (9, 640, 645))], 1),
        ([(1, 650, ids.HVM_VMX_EXIT, (1, 0))], 1),
        # Of all that come while it does not run, one remains.
        ([(0, 650, change(0, 1), (DOMAIN,)), (0, 690, change(1, 0), (DOMAIN,))], 2),
        (
            [
                (0, 650, change(0, 1), (DOMAIN,)),
                (1, 660, ids.HVM_VMX_EXIT, (1, 0)),
                (1, 670, ids.HVM_VMX_EXIT, (1, 0)),
                (0, 690, change(1, 0), (DOMAIN,)),
            ],
            1,
        ),
    ],
)
def test_irets_before_which_no_event_can_have_been_pending(between: list[Event], none: int) -> None:
    """The first iret may be of the timer that it set before it blocked; two follow."""
    events = [*AFTER_ITS_UPCALL, call(640, host.IRET), *between, call(700, host.IRET), call(800, host.IRET)]
    found = agreed(trace(events))
    counts = {key.metric: count for key, count in found.counts.items()}
    assert (counts[Metric.IRET_UPCALL], counts[Metric.IRET_OPEN]) == (1, 3)
    assert counts.get(Metric.IRET_NO_EVENT, 0) == none


def test_without_a_timer_of_its_own_any_iret_may_end_an_upcall() -> None:
    events = [event for event in AFTER_ITS_UPCALL if event[1] != 50]
    found = agreed(trace([*events, call(700, host.IRET), call(800, host.IRET)]))
    counts = {key.metric: count for key, count in found.counts.items()}
    assert (counts[Metric.IRET_OPEN], counts.get(Metric.IRET_NO_EVENT, 0)) == (2, 0)


def test_after_a_loss_nothing_is_known_of_pending_events() -> None:
    lost: Event = (0, 650, LOST_RECORDS, (1, 1, (START + 640) & LOW, (START + 640) >> 32))
    found = agreed(trace([*AFTER_ITS_UPCALL, lost, call(700, host.IRET), call(800, host.IRET)]))
    counts = {key.metric: count for key, count in found.counts.items()}
    assert (counts[Metric.IRET_OPEN], counts.get(Metric.IRET_NO_EVENT, 0)) == (2, 0)


# --- the pairs that the TSC rate is estimated from ---------------------------------------------

note_pair = plain(loops._note_pair)


@pytest.mark.parametrize("rows", [8, 9])
@pytest.mark.parametrize("count", [7, 8, 9, 25, 200])
def test_a_full_table_of_pairs_is_thinned_out_evenly(rows: int, count: int) -> None:
    """Every second row is dropped, and then every second pair; nothing beyond is written, where sums are."""
    size = rows + loops.RUN_LENGTHS
    memory = np.full((2 * size, 3), -7, np.int64)
    glob = np.zeros(len(G), np.int64)
    expected: list[tuple[int, int, int]] = []
    stride = skip = 0
    for number in range(1, count + 1):
        note_pair(glob, memory[:size], number, 10 * number, 1)
        if skip:
            skip -= 1
            continue
        skip = stride
        if len(expected) == rows:
            expected = expected[::2][: rows // 2]
            stride = 2 * stride + 1
        expected.append((number, 10 * number, 1))
    assert memory[: glob[G.PAIRS]].tolist() == [list(row) for row in expected]
    assert (memory[rows:] == -7).all()
    assert glob[G.PAIR_STRIDE] == stride


@pytest.mark.parametrize(("ns", "cycles"), [(0, 5), (5, 0), (-1, 5), (5, -1)])
def test_a_pair_without_duration_is_not_kept(ns: int, cycles: int) -> None:
    glob = np.zeros(len(G), np.int64)
    note_pair(glob, np.zeros((4 + loops.RUN_LENGTHS, 3), np.int64), ns, cycles, 1)
    assert glob[G.PAIRS] == 0


def test_run_times_within_one_cycle_give_no_pair() -> None:
    """At the end of the trace as elsewhere: a rate of 0 Hz would widen the estimate."""
    twice: list[Event] = [(0, 100, host.INFPREV, (1, 0, ns)) for ns in (0, 7)]
    assert run(trace(twice)).machine.pairs.tolist() == []
    later: list[Event] = [*twice, (0, 300, host.INFPREV, (1, 0, 50))]
    assert run(trace(later)).machine.pairs.tolist() == [[57, 200, 0], [50, 200, 2 + 7]]


def pairs_of(entry: tuple[int, int], exit_: tuple[int, int]) -> list[list[int]]:
    """Return the pairs of an idle period, from TSC and tick of its entry and its exit."""
    data = trace(
        [
            (0, 1, change(1, 0), (IDLE,)),
            (0, entry[0], host.IDLE_ENTRY, (3, entry[1], 0, 0)),
            (0, exit_[0], host.IDLE_EXIT, (3, exit_[1], 0, 0, 0, 0)),
        ]
    )
    pairs: list[list[int]] = run(data).machine.pairs.tolist()
    return pairs


def test_idle_periods_give_pairs_of_ticks_and_cycles() -> None:
    assert pairs_of((100, 1000), (5000, 3500)) == [[2500, 4900, 1]]
    # The tick has 32 bits.
    assert pairs_of((100, 0xFFFF_FF00), (5000, 0x100)) == [[0x200, 4900, 1]]


# --- HVM guests --------------------------------------------------------------------------------


@pytest.mark.parametrize(("vector", "kicks"), [(0xFA, 0), (0xFB, 0), (0xFC, 1), (0xFD, 0), (0xFF, 0)])
def test_only_the_event_check_vector_is_a_kick(vector: int, kicks: int) -> None:
    data = trace(
        [
            (0, 1, change(1, 0), (DOMAIN,)),
            (0, 10, host.VMENTRY, ()),
            (0, 20, host.HVM_INTR, (vector,)),
        ]
    )
    found = agreed(data)
    assert sum(count for key, count in found.counts.items() if key.metric is Metric.KICK) == kicks


@pytest.mark.parametrize("op", [1, 23, 24, 25, 28, 29, 30, 31, 32, 33, 34, 36, 40])
def test_which_vmmcalls_explain_a_wake(op: int) -> None:
    events: list[Event] = [
        (0, 1, change(1, 0), (DOMAIN,)),
        (0, 10, host.VMENTRY, ()),
        (0, 100, host.HVM_VMMCALL, (op,)),
        (0, 110, host.WAKE, (2, 0)),
        (0, 9000, change(0, 1), (DOMAIN,)),
        (0, 9010, change(1, 0), (3 * DOMAIN,)),
    ]
    (found,) = intervals(events, Metric.WAKE_CAUSE)
    cause = WakeCause(found.b >> 32)
    if op == host.EVENT_CHANNEL_OP:
        assert cause is WakeCause.EVENT_CHANNEL
    elif op == host.SCHED_OP:
        assert cause is WakeCause.HYPERCALL
    else:
        assert cause is WakeCause.TIMER_OR_OTHER


@pytest.mark.parametrize(("queued", "waits"), [(LOW, [(470, 600)]), (0xF3, [])])
def test_the_wait_for_an_interrupt_window_ends_with_the_entry_after_the_injection(
    queued: int, waits: list[tuple[int, int]]
) -> None:
    """Its records have the TSC of the exit before them, so that of the entry makes it an upper bound."""
    events: list[Event] = [
        (0, 1, change(1, 0), (DOMAIN,)),
        (0, 130, host.VMEXIT64, (1, 0, 0)),
        (0, 130, host.INTR_WINDOW, (0xF3, 5, queued)),
        (0, 200, host.VMENTRY, ()),
        (0, 500, host.VMEXIT64, (7, 0, 0)),
        (0, 500, host.INJ_VIRQ, (0xF3, 0)),
        (0, 600, host.VMENTRY, ()),
    ]
    found = intervals(events, Metric.INTR_WINDOW_WAIT)
    assert [(row.value, row.tsc) for row in found] == waits


# --- virtual timers of HVM guests --------------------------------------------------------------
LAPIC_10_MS = (ids.LAPIC_START_TIMER, (500, 0, 10_000_000, 0, 0xEC))


def ticks_of(*events: tuple[int, int, tuple[int, ...]]) -> list[tuple[int, int, int]]:
    """Return value, end and b of the times between ticks, of events of a vCPU that runs from 1 on."""
    whole: list[Event] = [(0, 1, change(1, 0), (DOMAIN,)), *((0, *event) for event in events)]
    return [(row.value, row.tsc, row.b) for row in intervals(whole, Metric.TICK)]


def test_the_time_between_ticks_counts_for_the_period_that_was_set_last() -> None:
    tick = ids.LAPIC_TIMER_CB, ()
    assert ticks_of((5, *LAPIC_10_MS), (10, *tick), (25, *tick), (25, *tick)) == [
        (15, 25, 10_000_000), (0, 25, 10_000_000),
    ]  # fmt: skip
    # Set before the trace began; stopped; set anew, with a period that cannot be.
    never = ids.LAPIC_START_TIMER, (0, 0, LOW, LOW, 0xEC)
    stop = ids.LAPIC_STOP_TIMER, ()
    ticks = [(at, *tick) for at in (10, 25, 40, 60, 80)]
    events = sorted([*ticks, (30, *stop), (50, *never)])
    assert ticks_of(*events) == [(15, 25, 0), (20, 80, TICK_PERIOD_MASK)]


def test_each_virtual_timer_has_its_own_ticks() -> None:
    pit, tick = (ids.PIT_TIMER_CB, ()), (ids.LAPIC_TIMER_CB, ())
    start = ids.PIT_START_TIMER, (0, LOW)
    events = [(5, *start), (10, *pit), (12, *tick), (20, *pit), (26, *tick), (30, ids.PIT_STOP_TIMER, ())]
    assert ticks_of(*events) == [(10, 20, 1 << 48 | LOW), (14, 26, 0)]


def test_a_loss_cuts_off_the_time_between_ticks() -> None:
    tick = ids.LAPIC_TIMER_CB, ()
    lost = LOST_RECORDS, (1, 1, (START + 30) & LOW, (START + 30) >> 32)
    events = [(5, *LAPIC_10_MS), (10, *tick), (40, *lost), (50, *tick), (60, *tick)]
    assert ticks_of(*events) == [(10, 60, 0)]  # the timer may have been set in the loss
    whole: list[Event] = [(0, 1, change(1, 0), (DOMAIN,)), *((0, *event) for event in events)]
    assert [row.b for row in intervals(whole, Metric.CUT)].count(Metric.TICK) == 1


def test_ticks_of_no_known_hvm_guest_count_for_nobody() -> None:
    tick = ids.LAPIC_TIMER_CB, ()
    of_pv = [(5, ids.PV_BASE | ids.PV_HYPERCALL_V2, (17,)), (10, *tick), (20, *tick)]
    assert ticks_of(*of_pv) == []
    assert intervals([(0, 10, *tick), (0, 20, *tick)], Metric.TICK) == []


# --- records of a newer Xen --------------------------------------------------------------------

UNKNOWN_IDS = (0x808FFF, 0x100F001, 0x100F123, 0x2F001, 0x201FFF, 0x82FFF, 0x802FFF)


@pytest.mark.parametrize("made", HOSTS.values(), ids=HOSTS)
def test_an_unknown_record_changes_nothing_that_is_known(made: Callable[[int], bytes]) -> None:
    """Not the cause of a wake, nor who runs, what a guest does, or when a pCPU is blind."""
    whole, random_ = made(3), random.Random(3)
    windows = []
    for window in frame(whole).windows:
        records: list[RawRecord] = []
        for raw in window.records:
            records.append(raw)
            if raw.tsc is not None and random_.random() < 0.5:
                words = tuple(random_.choices((0, 1, LOW, DOMAIN), k=random_.randrange(8)))
                event = random_.choice(UNKNOWN_IDS)
                records.append(RawRecord(0, event, random_.choice((raw.tsc, None)), words))
        windows.append(replace(window, records=tuple(records)))
    found, before = agreed(packed(windows)), agreed(whole)
    added = sum(len(window.records) for window in windows) - len(frame(whole).windows)
    assert int(found.reader.record_counts.sum()) > int(before.reader.record_counts.sum()) + added // 4
    assert Counter(found.intervals) == Counter(before.intervals)
    assert found.counts == before.counts
    assert Counter(as_intervals(found.ends)) == Counter(as_intervals(before.ends))


# --- hypercalls --------------------------------------------------------------------------------


def test_old_records_of_hypercalls_have_no_arguments() -> None:
    """Before Xen 4.2 the word of the number has no flags: what is in these bits is the guest's."""
    old = ids.PV_BASE_4_0 | ids.PV_HYPERCALL
    data = trace(
        [
            (0, 1, change(1, 0), (DOMAIN,)),
            (0, 100, old, (0x1000, host.SCHED_OP | 1 << 20)),
            (0, 110, host.PV_HYPERCALL, (host.IRET,)),
        ]
    )
    found = agreed(data)
    assert not any(row.metric is Metric.COMMAND for row in found.intervals)


# --- the first cycles of a TSC -----------------------------------------------------------------


def test_times_are_differences_even_where_tscs_are_small() -> None:
    """A TSC of 1 is known, and a duration is not the remainder of two TSCs."""
    data = trace(
        [
            (0, 1, change(1, 0), (DOMAIN,)),
            (0, 5, change(0, 2), (DOMAIN,)),
            (0, 10, host.WAKE, (1, 0)),
            (0, 25, change(2, 1), (DOMAIN,)),
            (1, 40, change(1, 0), (DOMAIN,)),
        ],
        start=0,
    )
    found = agreed(data).intervals
    values = {row.metric: row.value for row in found}
    assert values[Metric.WAKE_TO_RUNNABLE] == 15
    # The first stay may have begun before the first run.
    stays = [row.value for row in found if row.metric is Metric.OPEN and row.b >> 32 == Metric.RESIDENCE]
    assert stays == [39]


# --- losses around vCPUs that are not known ----------------------------------------------------


def lost(pcpu: int, begin: int, end: int, who: int) -> Event:
    first = START + begin
    return pcpu, end, LOST_RECORDS, (3, who, first & LOW, first >> 32)


def test_a_loss_whose_vcpu_is_not_known_leaves_the_pcpu_without_one() -> None:
    events: list[Event] = [
        (0, 1, change(1, 0), (DOMAIN,)),
        lost(0, 100, 150, DEFAULT_DOMAIN),
        (0, 200, host.CONTINUE_RUNNING, (5 * DOMAIN,)),
        (0, 300, change(0, 1), (5 * DOMAIN,)),
    ]
    data = trace(events)
    found = agreed(data)
    of_running = [row for row in found.intervals if row.metric is Metric.OPEN and row.a == 5 * DOMAIN]
    running = [row for row in of_running if row.b == Metric.RUNNING << 32]
    assert [(row.value, row.tsc - START) for row in running] == [(100, 300)]


def test_a_loss_before_any_vcpu_is_known_concerns_none() -> None:
    events: list[Event] = [
        (0, 1, host.PV_HYPERCALL, (host.IRET,)),
        (1, 2, change(1, 0), (2 * DOMAIN,)),
        lost(0, 100, 150, DOMAIN),
        (0, 200, change(0, 1), (DOMAIN,)),
        (0, 210, change(1, 0), (3 * DOMAIN,)),
    ]
    agreed(trace(events))


def test_two_losses_without_a_record_between_are_one() -> None:
    events: list[Event] = [
        (0, 1, change(1, 0), (DOMAIN,)),
        lost(0, 100, 150, 1),
        lost(0, 200, 250, 1),
        (0, 300, change(0, 1), (DOMAIN,)),
    ]
    found = agreed(trace(events))
    losses = [row for row in found.intervals if row.metric is Metric.PCPU_LOST]
    assert [(row.value, row.tsc - START) for row in losses] == [(150, 250)]


@pytest.mark.parametrize("begin", [10, 60])
def test_a_pcpu_whose_first_record_is_a_loss_has_lost_its_time_from_there(begin: int) -> None:
    """The span begins with the loss where that is before every record."""
    events: list[Event] = [
        (0, 50, change(1, 0), (DOMAIN,)),
        lost(1, begin, 100, 2),
        (1, 130, change(0, 1), (2 * DOMAIN,)),
        (0, 200, change(0, 1), (DOMAIN,)),
    ]
    found = agreed(trace(events))
    parts = [row for row in [*found.intervals, *as_intervals(found.ends)] if row.a == 1]
    of_pcpu = {
        row.metric: (row.tsc - row.value - START, row.tsc - START)
        for row in parts
        if row.metric in (Metric.PCPU_LOST, Metric.PCPU_RUNNING, Metric.PCPU_UNKNOWN)
    }
    assert of_pcpu[Metric.PCPU_LOST] == (begin, 100)
    assert of_pcpu[Metric.PCPU_RUNNING] == (100, 130)
    assert found.machine.glob[G.FIRST_TSC] == START + min(begin, 50)


@pytest.mark.parametrize("begin", [-START, 101])
def test_a_loss_that_begins_at_no_possible_time_is_as_long_as_its_record(begin: int) -> None:
    found = agreed(
        trace([(0, 50, change(1, 0), (DOMAIN,)), lost(1, begin, 100, 2), (1, 130, host.WAKE, (1, 1))])
    )
    assert found.machine.glob[G.FIRST_TSC] == START + 50
    assert not [row for row in found.intervals if row.metric is Metric.PCPU_LOST]
