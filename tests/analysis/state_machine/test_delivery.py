"""Event delivery where a Xen records it: hand-made histories, and random ones against the slow reference."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given

from builders import host
from builders.random_records import traces
from oracle import delivery as oracle
from oracle.machine import Interval
from oracle.reader import read
from oracle.runs import as_intervals
from xtrace.analysis.state_machine.delivery import Delivery
from xtrace.analysis.state_machine.delivery_columns import EVENTS_MAX, NOBODY, Mark, Returned, Source, Waited
from xtrace.analysis.state_machine.metrics import Metric
from xtrace.probes.format import LOST_RECORDS
from xtrace.probes.reader.reader import TraceReader
from xtrace.probes.reader.writer import pack_record, pack_window

START = 1 << 40
NOTIFY, PENDING, UPCALL, INJECT = 0x804001, 0x804002, 0x804003, 0x804004
GUEST, OTHER = 1 << 16, 2 << 16
INTERDOMAIN, VIRQ, PORT = 3, 5, 9
FRAME = 0x4000
WHERE = INTERDOMAIN << 32 | PORT
ALREADY, MASKED = 1, 2

#: pCPU, TSC after START, event, words.
Event = tuple[int, int, int, tuple[int, ...]]


def notify(pcpu: int, tsc: int, *, already: int = 0, masked: int = 0, port: int = PORT) -> Event:
    return pcpu, tsc, NOTIFY, (OTHER, GUEST, port | INTERDOMAIN << 20 | masked << 30 | already << 31)


def pending(pcpu: int, tsc: int, flags: int = 0) -> Event:
    return pcpu, tsc, PENDING, (GUEST, flags)


def upcall(tsc: int, frame: int = FRAME, user: int = 0) -> Event:
    return 0, tsc, UPCALL, (GUEST, frame | user, 0x8100_0000, 0xFFFF_FFFF)


def iret(tsc: int, frame: int = FRAME) -> Event:
    return 0, tsc, host.PV_HYPERCALL, (host.IRET | 1 << 20, frame)


def call(tsc: int, op: int = host.XEN_VERSION, *words: int) -> Event:
    return 0, tsc, host.PV_HYPERCALL, (op | (1 << 20 if words else 0), *words)


def change(pcpu: int, tsc: int, old: int, new: int, vcpu: int) -> Event:
    """Return a runstate record; 0 is running, 1 runnable, 2 blocked."""
    return pcpu, tsc, 0x21001 | old << 8 | new << 4, (vcpu,)


#: The guest runs on pCPU 0, another one on pCPU 1; the first has slept before, so that it is in no upcall.
BEGIN: list[Event] = [
    (0, 0, PENDING, (OTHER, ALREADY)),
    change(0, 1, 0, 2, GUEST),
    change(0, 2, 1, 0, GUEST),
    change(1, 1, 1, 0, OTHER),
]


def followed(data: bytes) -> list[Interval]:
    """Return the compiled loop's intervals; the reference implementation must agree."""
    delivery = Delivery()
    pieces = [np.empty((0, 4), np.int64)]
    for batch in TraceReader(io.BytesIO(data), chunk_bytes=64, holes=True):
        pieces += delivery.feed(batch)
    found = as_intervals(np.concatenate(pieces))
    assert found == oracle.run(read(data).records_and_holes)
    return found


def intervals(events: Sequence[Event], *metrics: Metric) -> list[tuple[Metric, int, int, int]]:
    """Return metric, second key, value and TSC after START of the guest's intervals."""
    windows: dict[int, bytearray] = {}
    for pcpu, tsc, event, words in [*BEGIN, *events]:
        windows.setdefault(pcpu, bytearray()).extend(pack_record(event, START + tsc, words))
    data = b"".join(pack_window(pcpu, bytes(body)) for pcpu, body in sorted(windows.items()))
    return [
        (row.metric, row.b, row.value, row.tsc - START)
        for row in followed(data)
        if row.metric in metrics and row.a == GUEST
    ]


def test_an_event_is_delivered_by_the_next_upcall() -> None:
    events = [notify(1, 100), pending(1, 103), upcall(150), iret(180), call(190)]
    times = (Metric.EVENT_TO_UPCALL, Metric.EVENT_FROM, Metric.MARK_TO_UPCALL, Metric.UPCALL)
    assert intervals(events, *times) == [
        (Metric.EVENT_TO_UPCALL, WHERE, 50, 150),
        (Metric.EVENT_FROM, OTHER, 50, 150),
        (Metric.MARK_TO_UPCALL, 0, 47, 150),
        (Metric.UPCALL, 0, 30, 180),
    ]


def test_a_coalesced_event_waits_for_nothing() -> None:
    events = [notify(1, 100), pending(1, 103), notify(1, 110, already=1), upcall(150)]
    found = intervals(events, Metric.EVENT, Metric.EVENT_COALESCED, Metric.EVENT_TO_UPCALL)
    assert [row[0] for row in found] == [
        Metric.EVENT, Metric.EVENT, Metric.EVENT_COALESCED, Metric.EVENT_TO_UPCALL,
    ]  # fmt: skip
    assert intervals(events, Metric.EVENT_SENT) == [
        (Metric.EVENT_SENT, OTHER, 0, 100),
        (Metric.EVENT_SENT, OTHER, 1, 110),
    ]


def test_an_event_of_a_masked_port_waits_until_it_is_unmasked() -> None:
    unmasked = [call(200, host.EVENT_CHANNEL_OP), pending(0, 205), upcall(210)]
    found = intervals(
        [notify(1, 100, masked=1), upcall(150), iret(160), *unmasked],
        Metric.EVENT_PORT_MASKED, Metric.EVENT_TO_UPCALL, Metric.MARK_TO_UPCALL,
    )  # fmt: skip
    assert found == [(Metric.EVENT_PORT_MASKED, WHERE, 0, 100), (Metric.MARK_TO_UPCALL, 0, 5, 210)]


@pytest.mark.parametrize("inside", [False, True])
def test_a_masked_mark_waits_for_the_next_upcall(inside: bool) -> None:
    """Inside an upcall, and outside, where the guest has masked upcalls itself."""
    before = [notify(1, 10), pending(1, 13), upcall(50)]
    events = [*(before if inside else []), notify(1, 100, port=8), pending(1, 103, MASKED)]
    # A nested one: the handler unmasks and forces a callback.
    events += [call(140), upcall(150, FRAME + 64), iret(170, FRAME + 64)]
    flags = Waited.MASKED | (Waited.INSIDE if inside else 0)
    assert intervals(events, Metric.MASKED_WAIT) == [(Metric.MASKED_WAIT, flags, 47, 150)]
    marks = intervals(events, Metric.EVENT_MARK)
    assert marks[-1][1] == Mark.MASKED | (Mark.INSIDE if inside else 0)
    assert (Metric.UPCALL, Returned.INSIDE if inside else 0, 20, 170) in intervals(events, Metric.UPCALL)


def test_an_event_that_the_running_upcall_takes_has_a_bound() -> None:
    """After the iret nothing masks: the guest could not go on if the event were still pending."""
    inside = [notify(1, 100), pending(1, 103), upcall(150), notify(1, 160, port=8), pending(1, 163, MASKED)]
    taken = (Metric.EVENT_TAKEN, Metric.MASKED_WAIT, Metric.EVENT_TO_UPCALL)
    assert intervals([*inside, iret(180), call(300)], *taken)[1:] == [
        (Metric.EVENT_TAKEN, INTERDOMAIN << 32 | 8, 20, 180),
        (Metric.MASKED_WAIT, Waited.MASKED | Waited.INSIDE | Waited.TAKEN, 17, 180),
    ]
    # If an upcall follows before it does anything, that one delivers it.
    assert intervals([*inside, iret(180), upcall(185)], *taken)[1:] == [
        (Metric.EVENT_TO_UPCALL, INTERDOMAIN << 32 | 8, 25, 185),
        (Metric.MASKED_WAIT, Waited.MASKED | Waited.INSIDE, 22, 185),
    ]


def test_a_new_mark_shows_that_the_guest_cleared_the_flag() -> None:
    events = [notify(1, 100), pending(1, 103), notify(1, 150, port=8), pending(1, 153), upcall(170)]
    assert intervals(events, Metric.EVENT_TAKEN, Metric.EVENT_TO_UPCALL) == [
        (Metric.EVENT_TAKEN, WHERE, 53, 153),
        (Metric.EVENT_TO_UPCALL, INTERDOMAIN << 32 | 8, 20, 170),
    ]


def test_an_upcall_can_come_before_the_record_of_its_mark() -> None:
    """Xen sets the flag before it writes the record, and the target may see it on its own pCPU first."""
    events = [notify(1, 100), upcall(102), pending(1, 103), iret(120), call(130), upcall(200)]
    found = intervals(events, Metric.EVENT_TO_UPCALL, Metric.MARK_TO_UPCALL, Metric.EVENT_TAKEN)
    assert found == [(Metric.EVENT_TO_UPCALL, WHERE, 2, 102)]


def test_an_event_on_its_way_to_its_mark_is_not_taken() -> None:
    events = [upcall(50), notify(1, 100), iret(101), call(102), pending(1, 103), upcall(104)]
    found = intervals(events, Metric.EVENT_TO_UPCALL, Metric.EVENT_TAKEN)
    assert found == [(Metric.EVENT_TO_UPCALL, WHERE, 4, 104)]


@pytest.mark.parametrize(
    ("between", "slept"),
    [
        ([call(60, host.STACK_SWITCH)], True),
        ([upcall(60, FRAME + 512, user=1), iret(70, FRAME + 512)], True),
        ([call(60, host.SCHED_OP, 1), change(0, 65, 0, 2, GUEST), change(0, 75, 1, 0, GUEST)], True),
        # A vCPU that polls goes on where it was.
        ([call(60, host.SCHED_OP, 3), change(0, 65, 0, 2, GUEST), change(0, 75, 1, 0, GUEST)], False),
        ([call(60, host.EVENT_CHANNEL_OP)], False),
    ],
    ids=["stack switch", "user", "block", "poll", "call"],
)
def test_an_upcall_sleeps_while_another_thread_runs(between: list[Event], slept: bool) -> None:
    found = intervals([upcall(50), *between, iret(90)], Metric.UPCALL)
    assert found[-1] == (Metric.UPCALL, Returned.SLEPT if slept else 0, 40, 90)


def test_an_iret_of_another_frame_ends_no_upcall() -> None:
    assert intervals([upcall(50), iret(60, FRAME + 8), iret(70)], Metric.UPCALL) == [
        (Metric.UPCALL, 0, 20, 70)
    ]


@pytest.mark.parametrize(
    ("cause", "source"),
    [
        ([notify(1, 100), pending(1, 103)], OTHER),
        ([notify(1, 100)], OTHER),  # it polls
        ([notify(1, 100), pending(1, 103, ALREADY)], OTHER),
        ([(1, 100, NOTIFY, (NOBODY, GUEST, 1 | VIRQ << 20)), pending(1, 103)], VIRQ << 32 | NOBODY),
        ([pending(1, 103)], Source.UNMASK << 32 | NOBODY),
        ([notify(1, 100, already=1)], NOBODY),
        ([notify(1, 100), pending(1, 103), (1, 104, host.PV_HYPERCALL, (host.SCHED_OP,))], NOBODY),
        # An unknown record separates nothing.
        ([notify(1, 100), pending(1, 103), (1, 104, 0x804FFF, (1, 2))], OTHER),
        ([notify(1, 100), pending(1, 103), (1, 1 << 22, 0x804FFF, ())], NOBODY),
    ],
)
def test_the_cause_of_a_wake_is_the_record_before_it(cause: list[Event], source: int) -> None:
    woken: Event = (1, max(cause[-1][1] + 1, 105), host.WAKE, (1, 0))
    found = intervals([change(0, 50, 0, 2, GUEST), *cause, woken], Metric.EVENT_WAKE)
    assert [row[1] for row in found] == [source]
    # A vCPU that is awake is not woken.
    assert intervals([*cause, woken], Metric.EVENT_WAKE) == []


def test_an_injection_delivers_at_the_vm_entry() -> None:
    events: list[Event] = [
        (0, 90, host.VMENTRY, ()),
        notify(1, 100),
        pending(1, 103),
        (0, 120, INJECT, (GUEST, 0xF3)),
        (0, 125, host.VMENTRY, ()),
        (0, 140, host.VMENTRY, ()),
    ]
    found = intervals(events, Metric.EVENT_TO_UPCALL, Metric.MARK_TO_UPCALL, Metric.UPCALL_ENTRY)
    assert found == [
        (Metric.UPCALL_ENTRY, Returned.HVM, 0, 125),
        (Metric.EVENT_TO_UPCALL, WHERE, 25, 125),
        (Metric.MARK_TO_UPCALL, 0, 22, 125),
    ]
    # A tasklet wakes it, so the record before is none of its own.
    slept = [(0, 40, host.VMENTRY, ()), change(0, 50, 0, 2, GUEST), *events[1:3]]
    woken: list[Event] = [*slept, (1, 200, 0x28002, (0,)), (1, 210, host.WAKE, (1, 0))]
    assert [row[1] for row in intervals(woken, Metric.EVENT_WAKE)] == [OTHER]


def test_nothing_continues_across_a_loss() -> None:
    lost: Event = (1, 140, LOST_RECORDS, (3, 2 | 0 << 16, (START + 120) & 0xFFFF_FFFF, (START + 120) >> 32))
    begun = [upcall(50), notify(1, 100), pending(1, 103, MASKED)]
    during: list[Event] = [iret(125), (0, 130, UPCALL, (GUEST, FRAME, 0, 0))]
    after: list[Event] = [(1, 150, host.WAKE, (7, 0)), iret(160), upcall(170)]
    times = (Metric.EVENT_TO_UPCALL, Metric.MARK_TO_UPCALL, Metric.UPCALL, Metric.MASKED_WAIT)
    found = intervals([*begun, lost, *during, *after], *times, Metric.CUT, Metric.UPCALL_ENTRY)
    assert found == [
        (Metric.UPCALL_ENTRY, 0, 0, 50),
        (Metric.CUT, Metric.EVENT_TO_UPCALL, 0, 140),
        (Metric.CUT, Metric.MASKED_WAIT, 0, 140),
        (Metric.CUT, Metric.UPCALL, 0, 140),
        (Metric.UPCALL_ENTRY, Returned.UNKNOWN, 0, 130),
        (Metric.UPCALL_ENTRY, Returned.UNKNOWN, 0, 170),
    ]


def test_more_events_than_are_followed_are_counted() -> None:
    events = [notify(1, 100 + port, port=port) for port in range(EVENTS_MAX + 3)]
    found = intervals([*events, upcall(200)], Metric.EVENTS_LEFT_OUT, Metric.EVENT_TO_UPCALL)
    assert sum(row[0] is Metric.EVENTS_LEFT_OUT for row in found) == 3
    assert sum(row[0] is Metric.EVENT_TO_UPCALL for row in found) == EVENTS_MAX


@given(traces())
def test_random_records(data: bytes) -> None:
    followed(data)
