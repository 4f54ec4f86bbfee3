"""Which events may be pending for a PV vCPU, so that an iret may end an upcall.

An upcall needs an event that was set pending after the last one was taken.  Whatever may set one pending for
any vCPU is an event here, and a timer is one for the vCPU that sets it.  A vCPU that blocks has none pending;
while it does not run, all that come make one upcall.
"""

from __future__ import annotations

from dataclasses import dataclass, field

#: Hypercalls that set no event pending (xen/include/public/xen.h).
SILENT_OPS = {0, 1, 2, 3, 5, 8, 9, 10, 14, 17, 20, 21, 22, 23, 25, 26, 30}
#: By hypercall, its commands that set none: of vcpu_op (24) and sched_op (29).
SILENT_COMMANDS = {24: {3, 4, 5, 9, 11, 13}, 29: {0, 1, 3}}
MULTICALL, SET_TIMER_OP, VCPU_OP = 13, 15, 24
SET_PERIODIC, STOP_PERIODIC, SET_SINGLESHOT = 6, 7, 8
#: As many events at most come from a multicall whose entries are not recorded.
MULTICALL_EVENTS = 1 << 20


@dataclass(slots=True)
class Everywhere:
    """What is known about all vCPUs.

    Attributes:
        count: events so far.
        has_entries: the entries of multicalls are recorded.
        has_periodic: a guest uses Xen's periodic timer, whose expiries leave no record.
    """

    count: int = 0
    has_entries: bool = False
    has_periodic: bool = False


@dataclass(slots=True)
class Pending:
    """The events that may be pending for a vCPU.

    Attributes:
        passed: how many of all events cannot be; None: nothing is known.
        kept: how many may have been when it last stopped.
        is_armed: its timer may still expire.
        is_one_shot: its ticks come from timers that it sets.
    """

    everywhere: Everywhere = field(default_factory=Everywhere)
    passed: int | None = None
    kept: int | None = None
    is_armed: bool = False
    is_one_shot: bool = False

    def call(self, op: int, command: int | None, *, is_entry: bool) -> None:
        """Take a hypercall of the vCPU, or an entry of a multicall, whose command is recorded."""
        everywhere = self.everywhere
        everywhere.has_entries = everywhere.has_entries or is_entry
        if op == SET_TIMER_OP or (op, command) == (VCPU_OP, SET_SINGLESHOT):
            self.is_armed = True
            self.is_one_shot = self.is_one_shot or op == VCPU_OP
            if self.passed is not None:
                self.passed -= 1
        elif (op, command) == (VCPU_OP, STOP_PERIODIC):
            self.is_one_shot = True
        elif (op, command) == (VCPU_OP, SET_PERIODIC):
            everywhere.has_periodic = True
        elif op == MULTICALL:
            everywhere.count += 0 if everywhere.has_entries else MULTICALL_EVENTS
        elif op not in SILENT_OPS and command not in SILENT_COMMANDS.get(op, ()):
            everywhere.count += 1

    def block(self) -> None:
        """Block by a call, which Xen does only where no event is pending."""
        self.passed = self.everywhere.count - self.is_armed

    def go_on(self) -> None:
        """Go on after a block call, because an event came before the vCPU left its pCPU."""
        if self.passed is not None:
            self.passed = min(self.passed, self.everywhere.count - 1)

    def stop(self) -> None:
        self.kept = None if self.passed is None else self.everywhere.count - self.passed

    def begin(self, *, is_new: bool, is_woken: bool) -> None:
        """Run; ``is_new`` says that it was seen to stop before, ``is_woken`` that it was woken since."""
        if is_new and self.kept is not None and self.passed is not None:
            passed = self.everywhere.count - self.kept - 1
            self.passed = passed if is_woken else max(passed, self.passed)

    def iret(self) -> bool:
        """Return whether an upcall can end here, and let it take an event."""
        if self.passed is None:
            return True
        can = self.everywhere.count > self.passed
        self.passed += can
        return can

    @property
    def shows_system_calls(self) -> bool:
        """Whether an iret that cannot end an upcall is known to end a system call."""
        return self.is_one_shot and not self.everywhere.has_periodic
