"""A slow, simple reference implementation of event delivery as a Xen records it (docs/xen-records.md).

It takes the oracle reader's records in merged order.  Its rules, in addition to those in ``metrics``:

Events
    A NOTIFY of a port that was not pending and is not masked is an event of its target, until the vCPU's
    next entry into an upcall (the UPCALL record, or the VM entry after an INJECT) delivers it, or until it is
    known that the guest took it without one.  It did if the port becomes pending again, if the vCPU is
    marked anew (its pending flag was cleared), or if the guest does anything after the iret of an upcall: an
    iret clears the mask, and what is still pending then is delivered first.
Marks
    A PENDING belongs to the NOTIFY right before it on its pCPU, if that has the same target.  If the
    upcall came between the two (on another pCPU), the mark is over.
Upcalls
    An iret with a frame's address ends the newest open upcall with that frame.  An upcall sleeps from a
    switch of the guest's stack, a block of its vCPU, or an upcall from user mode on: another thread runs.
    A vCPU is inside while an upcall is open that does not sleep; this is known once it has slept.
Wakes
    The cause is the record right before the WAKE on its pCPU: a mark that was new, or a new event, for
    which it polled.  An HVM guest with a mark may be woken later: from interrupts a tasklet does it.
Begin
    Nothing is known before the first record of event delivery.
Loss
    Nothing is known of any vCPU from the beginning of a loss until the pCPU's next record.  What is open is
    CUT, except where the pCPU has no records to the end of the trace.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field

from oracle.machine import BLOCKED, IDLE, RUNNABLE, RUNNING, Interval, is_unknown
from oracle.reader import HOLE, HOLE_TO_END, LOST_RECORDS, Record
from xtrace.analysis.state_machine.delivery_columns import (
    EVENTS_MAX,
    FRAMES_MAX,
    WAITS_MAX,
    Mark,
    Returned,
    Source,
    Waited,
)
from xtrace.analysis.state_machine.metrics import WAKE_CYCLES_MOST, Metric

NOTIFY, PENDING, UPCALL, INJECT = 0x804001, 0x804002, 0x804003, 0x804004
RECORDS = (NOTIFY, PENDING, UPCALL, INJECT)
NOBODY = 0xFFFF_FFFF
SENT = (3, 6)  # kinds of channels on which vCPUs send: between domains, and IPIs
IRET, STACK_SWITCH, SCHED_OP, POLL = 23, 3, 29, 3


@dataclass(slots=True)
class Event:
    tsc: int
    port: int  # kind << 32 | port
    source: int
    serial: int
    is_flying: bool = True  # its mark may be the next record of its pCPU


@dataclass(slots=True)
class Frame:
    """An open upcall."""

    address: int
    tsc: int
    is_inside: bool
    sleeps: bool = False
    has_inside: bool = False


@dataclass(slots=True)
class Wait:
    """A mark that found the upcall mask set."""

    tsc: int
    flags: int


@dataclass(slots=True)
class Vcpu:
    key: int
    state: int | None = None
    is_hvm: bool = False
    is_known: bool = False  # whether it is inside an upcall
    events: list[Event] = field(default_factory=list)
    waits: list[Wait] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    mark: Wait | None = None
    last_source: int = 0
    serial: int = 0  # of its last event
    delivered: int = 0  # the last serial at its last entry into an upcall
    returned: tuple[int, int] | None = None  # TSC and serial at an upcall's iret, until the guest acts
    injected: bool = False
    polls: bool = False  # its last hypercall was a poll

    @property
    def is_inside(self) -> bool:
        return any(not frame.sleeps for frame in self.frames)

    def sleep(self) -> None:
        for frame in self.frames:
            frame.sleeps = True
        self.is_known = True


@dataclass(slots=True)
class Note:
    """The record right before on a pCPU: a NOTIFY or a PENDING."""

    vcpu: Vcpu
    tsc: int
    source: int
    serial: int | None  # of the event; None where it is not new
    event: Event | None = None


@dataclass(slots=True)
class Pcpu:
    current: Vcpu | None = None
    note: Note | None = None
    is_blind: bool = False


def run(records: Iterable[Record]) -> list[Interval]:
    """Return the intervals of event delivery."""
    host = Host()
    has_begun = False
    for record in records:
        has_begun |= record.event in RECORDS
        if has_begun:
            host.take(record)
    return host.intervals


class Host:
    def __init__(self) -> None:
        self.intervals: list[Interval] = []
        self.vcpus: dict[int, Vcpu] = {}
        self.pcpus: dict[int, Pcpu] = {}
        self.has_cores = False

    def put(self, metric: Metric, vcpu: Vcpu, b: int, value: int, tsc: int) -> None:
        self.intervals.append(Interval(metric, vcpu.key, b, value, tsc))

    def vcpu(self, key: int) -> Vcpu:
        return self.vcpus.setdefault(key, Vcpu(key))

    @property
    def is_blind(self) -> bool:
        return any(pcpu.is_blind for pcpu in self.pcpus.values())

    def take(self, record: Record) -> None:  # noqa: C901 - one case after the other
        tsc, event, words = record.tsc, record.event, record.words
        if tsc >= 1 << 62 or is_unknown(event):
            return
        pcpu = self.pcpus.setdefault(record.pcpu, Pcpu())
        note, pcpu.note = pcpu.note, None
        if note is not None and note.event is not None:
            note.event.is_flying = False
        if event in (HOLE, HOLE_TO_END) or (event == LOST_RECORDS and len(words) == 4):
            self.lose(tsc, is_cut=event != HOLE_TO_END)
            pcpu.is_blind, pcpu.current = True, None
            return
        pcpu.is_blind = False
        if event & ~0x330 == 0x21001 and words:
            self.runstate(record, pcpu)
        elif (event, len(words)) == (0x21002, 1):
            pcpu.current = self.vcpu(words[0])
        elif (event, len(words)) == (0x28004, 2):
            self.wake(self.vcpu((words[0] & 0xFFFF) << 16 | words[1] & 0xFFFF), note, tsc)
        elif (event, len(words)) == (NOTIFY, 3):
            self.notify(pcpu, words, tsc)
        elif (event, len(words)) == (PENDING, 2):
            self.pending(pcpu, self.vcpu(words[0]), words[1], note, tsc)
        elif (event, len(words)) == (UPCALL, 4):
            pcpu.current = self.vcpu(words[0])
            self.upcall(pcpu.current, words[1], tsc)
        elif (event, len(words)) == (INJECT, 2):
            pcpu.current = self.vcpu(words[0])
            pcpu.current.injected = pcpu.current.is_hvm = True
        elif (event, len(words)) == (0x81001, 0):
            self.entry(pcpu.current, tsc)
        elif event >> 12 in (0x201, 0x202, 0x20F):
            self.guest(pcpu.current, event, words, tsc)

    def runstate(self, record: Record, pcpu: Pcpu) -> None:
        old, new, vcpu = record.event >> 8 & 3, record.event >> 4 & 3, self.vcpu(record.words[0])
        is_idle = vcpu.key >> 16 == IDLE
        if is_idle and vcpu.key & 0xFFFF != record.pcpu and (old == RUNNING) != (new == RUNNING):
            self.has_cores = True
        vcpu.state = new
        if not self.has_cores and new == RUNNING:
            pcpu.current = vcpu
        elif not self.has_cores and pcpu.current is vcpu:
            pcpu.current = None
        if (old, new) == (RUNNING, BLOCKED) and not vcpu.polls:
            vcpu.sleep()

    def notify(self, pcpu: Pcpu, words: tuple[int, ...], tsc: int) -> None:
        sender, vcpu = words[0], self.vcpu(words[1])
        kind, port = words[2] >> 20 & 15, words[2] & 0xFFFFF
        masked, already = words[2] >> 30 & 1, words[2] >> 31
        where = kind << 32 | port
        source = sender if kind in SENT and sender != NOBODY else kind << 32 | NOBODY
        self.put(Metric.EVENT, vcpu, where, 0, tsc)
        if already:
            self.put(Metric.EVENT_COALESCED, vcpu, where, 0, tsc)
        if masked and not already:
            self.put(Metric.EVENT_PORT_MASKED, vcpu, where, 0, tsc)
        self.put(Metric.EVENT_SENT, vcpu, source, already, tsc)
        if already or self.is_blind:
            return
        pcpu.note = Note(vcpu, tsc, source, None)
        for event in [event for event in vcpu.events if event.port == where]:
            self.put(Metric.EVENT_TAKEN, vcpu, where, tsc - event.tsc, tsc)
            vcpu.events.remove(event)
        vcpu.last_source = source
        if masked:
            return
        vcpu.serial += 1
        pcpu.note.serial = vcpu.serial
        if len(vcpu.events) < EVENTS_MAX:
            pcpu.note.event = Event(tsc, where, source, vcpu.serial)
            vcpu.events.append(pcpu.note.event)
        else:
            self.put(Metric.EVENTS_LEFT_OUT, vcpu, 0, 0, tsc)

    def pending(self, pcpu: Pcpu, vcpu: Vcpu, flags: int, note: Note | None, tsc: int) -> None:
        already, masked = flags & 1, flags >> 1 & 1
        if note is not None and note.vcpu is not vcpu:
            note = None
        about = Mark.ALREADY * already | Mark.MASKED * masked
        if self.is_blind:
            self.put(Metric.EVENT_MARK, vcpu, about | Mark.UNKNOWN, 0, tsc)
            return
        about |= Mark.INSIDE if vcpu.is_inside else 0 if vcpu.is_known else Mark.UNKNOWN
        self.put(Metric.EVENT_MARK, vcpu, about, 0, tsc)
        if not already:
            source = note.source if note is not None else Source.UNMASK << 32 | NOBODY
            pcpu.note = Note(vcpu, tsc, source, None)
            vcpu.last_source = source
        elif note is not None:
            pcpu.note = Note(vcpu, note.tsc, note.source, None)  # it may poll
        if note is not None and note.serial is not None and vcpu.delivered >= note.serial:
            return  # its upcall came first
        waited = Waited.INSIDE if about & Mark.INSIDE else Waited.UNKNOWN if about & Mark.UNKNOWN else 0
        if not already:
            if vcpu.mark is not None:
                end = tsc
                if vcpu.returned is not None and vcpu.mark.tsc <= vcpu.returned[0]:
                    end = vcpu.returned[0]
                before = vcpu.serial + 1 if note is None or note.serial is None else note.serial
                self.take_without_upcall(vcpu, before, end)
            vcpu.mark = Wait(tsc, waited | Waited.MASKED * masked)
        if masked and len(vcpu.waits) < WAITS_MAX:
            vcpu.waits.append(Wait(tsc, waited | Waited.MASKED))
        elif masked:
            self.put(Metric.EVENTS_LEFT_OUT, vcpu, 1, 0, tsc)

    def take_without_upcall(self, vcpu: Vcpu, before: int, end: int) -> None:
        """End the mark, its waits and the events before a serial: the guest took them by ``end``."""
        for event in [event for event in vcpu.events if event.serial < before and not event.is_flying]:
            self.put(Metric.EVENT_TAKEN, vcpu, event.port, max(end - event.tsc, 0), end)
            vcpu.events.remove(event)
        for wait in [wait for wait in vcpu.waits if wait.tsc <= end]:
            self.put(Metric.MASKED_WAIT, vcpu, wait.flags | Waited.TAKEN, end - wait.tsc, end)
            vcpu.waits.remove(wait)
        vcpu.mark = None

    def deliver(self, vcpu: Vcpu, tsc: int) -> None:
        for event in vcpu.events:
            self.put(Metric.EVENT_TO_UPCALL, vcpu, event.port, tsc - event.tsc, tsc)
            self.put(Metric.EVENT_FROM, vcpu, event.source, tsc - event.tsc, tsc)
        if vcpu.mark is not None:
            self.put(Metric.MARK_TO_UPCALL, vcpu, vcpu.mark.flags, tsc - vcpu.mark.tsc, tsc)
        for wait in vcpu.waits:
            self.put(Metric.MASKED_WAIT, vcpu, wait.flags, tsc - wait.tsc, tsc)
        vcpu.events, vcpu.waits, vcpu.mark = [], [], None
        vcpu.delivered, vcpu.returned = vcpu.serial, None

    def upcall(self, vcpu: Vcpu, word: int, tsc: int) -> None:
        is_user, address = word & 1, word & ~7
        if self.is_blind:
            self.put(Metric.UPCALL_ENTRY, vcpu, Returned.USER * is_user | Returned.UNKNOWN, 0, tsc)
            return
        if is_user:
            vcpu.sleep()
        inside = vcpu.is_inside
        unknown = Returned.UNKNOWN if not inside and not vcpu.is_known else 0
        self.put(
            Metric.UPCALL_ENTRY, vcpu, Returned.USER * is_user | Returned.INSIDE * inside | unknown, 0, tsc
        )
        self.deliver(vcpu, tsc)
        for frame in vcpu.frames:
            frame.has_inside |= not frame.sleeps
        if len(vcpu.frames) == FRAMES_MAX:
            vcpu.frames.pop(0)
            self.put(Metric.EVENTS_LEFT_OUT, vcpu, 2, 0, tsc)
        vcpu.frames.append(Frame(address, tsc, inside))

    def entry(self, vcpu: Vcpu | None, tsc: int) -> None:
        if vcpu is None or vcpu.key >> 16 == IDLE:
            return
        vcpu.is_hvm = True
        if vcpu.injected:
            vcpu.injected = False
            self.put(Metric.UPCALL_ENTRY, vcpu, Returned.HVM, 0, tsc)
            if not self.is_blind:
                self.deliver(vcpu, tsc)

    def guest(self, vcpu: Vcpu | None, event: int, words: tuple[int, ...], tsc: int) -> None:
        """Handle a PV guest's entry into Xen."""
        if vcpu is None or vcpu.key >> 16 == IDLE or self.is_blind:
            return
        if vcpu.returned is not None:
            end, serial = vcpu.returned
            vcpu.returned = None
            if vcpu.mark is None or vcpu.mark.tsc <= end:
                self.take_without_upcall(vcpu, serial + 1, end)
        is_call = event in (0x20100D, 0x20200E) and len(words) > 0
        op = words[0] & 0xFFFFF if is_call else -1
        command = words[1] if is_call and len(words) > 1 and words[0] >> 20 & 3 == 1 else None
        vcpu.polls = (op, command) == (SCHED_OP, POLL)
        if op == STACK_SWITCH:
            vcpu.sleep()
        if op == IRET and command is not None:
            self.iret(vcpu, command & ~7, tsc)

    def iret(self, vcpu: Vcpu, address: int, tsc: int) -> None:
        found = [frame for frame in vcpu.frames if frame.address == address]
        if not found:
            return
        frame = found[-1]
        vcpu.frames.remove(frame)
        flags = Returned.INSIDE * frame.is_inside | Returned.SLEPT * frame.sleeps
        self.put(Metric.UPCALL, vcpu, flags | Returned.HAS_INSIDE * frame.has_inside, tsc - frame.tsc, tsc)
        vcpu.returned = (tsc, vcpu.serial)

    def wake(self, vcpu: Vcpu, note: Note | None, tsc: int) -> None:
        if vcpu.state in (RUNNING, RUNNABLE):
            return
        if note is not None and note.vcpu is vcpu and tsc - note.tsc <= WAKE_CYCLES_MOST:
            source = note.source
        elif vcpu.is_hvm and vcpu.mark is not None:
            source = vcpu.last_source
        else:
            source = Source.NONE << 32 | NOBODY
        if not self.is_blind:
            self.put(Metric.EVENT_WAKE, vcpu, source, 0, tsc)

    def lose(self, tsc: int, *, is_cut: bool) -> None:
        for key, vcpu in list(self.vcpus.items()):
            open_ = {
                Metric.EVENT_TO_UPCALL: len(vcpu.events),
                Metric.MASKED_WAIT: len(vcpu.waits),
                Metric.UPCALL: len(vcpu.frames),
            }
            for metric in Counter(open_ if is_cut else {}).elements():
                self.put(Metric.CUT, vcpu, metric, 0, tsc)
            self.vcpus[key] = Vcpu(key, is_hvm=vcpu.is_hvm, serial=vcpu.serial, delivered=vcpu.serial)
        for pcpu in self.pcpus.values():
            pcpu.note = None
            pcpu.current = None if pcpu.current is None else self.vcpus[pcpu.current.key]
