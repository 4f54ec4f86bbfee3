"""The guest's mask, unmask and handler protocols as programs for the model checker.

M is evtchn_upcall_mask and P evtchn_upcall_pending (adjacent bytes of vcpu_info); S is the pending
selector or the FIFO ready word.  A scenario describes how one site of a binary is written.  Its program
is what the guest's thread executes around the store, and its handler is what the upcall executes.

Source: xen/include/public/xen.h (struct vcpu_info), xen/arch/x86/x86_64/entry.S (test_all_events,
create_bounce_frame), xen/common/event_channel.c (evtchn_send).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum, StrEnum


class Cell(IntEnum):
    """A memory cell of the model; its value is the index into the model's memory."""

    P = 0
    M = 1
    S = 2


class Protocol(StrEnum):
    """What the guest does at the site."""

    MASK = "mask"
    SAVE_MASK = "save and mask"
    RESTORE = "restore"
    UNMASK = "unmask"
    SECTION = "save, mask and restore"
    HANDLER = "handler"


class Fence(StrEnum):
    """The fence at the site; all except the first three drain the store buffer."""

    NONE = "none"
    LFENCE = "lfence"
    SFENCE = "sfence"
    MFENCE = "mfence"
    LOCK = "lock"
    XCHG = "xchg"
    SERIALISING = "serialising"

    @property
    def drains(self) -> bool:
        """Return whether later loads wait until earlier stores are visible to every CPU."""
        return self not in (Fence.NONE, Fence.LFENCE, Fence.SFENCE)


class Width(StrEnum):
    """How wide the store of the site is, and whether it is locked.

    A wide store also reads the other byte and writes it back, in one instruction, locked or not.  An
    exchange is a locked cmpxchg of both bytes: M := 0 if P is 0 and M is 1, otherwise it changes nothing.
    """

    BYTE = "byte"
    WIDE = "wide"
    LOCKED = "locked"
    LOCKED_WIDE = "locked wide"
    EXCHANGE = "exchange"

    @property
    def locked(self) -> bool:
        """Return whether the access is locked."""
        return self in (Width.LOCKED, Width.LOCKED_WIDE, Width.EXCHANGE)


class Retest(StrEnum):
    """Where the guest tests P around the store that clears M."""

    AFTER = "after"
    BEFORE = "before"
    NONE = "none"
    XEN_EXIT = "Xen exit"
    ITSELF = "itself"


class Take(StrEnum):
    """How the handler takes S."""

    XCHG = "xchg"
    READ = "read"
    PLAIN = "plain"
    XCHG_FIRST = "xchg first"
    NONE = "none"


class Op(IntEnum):
    """What one instruction of a program does."""

    STORE = 0
    WIDE_STORE = 1
    LOCKED_STORE = 2
    SAVE = 3
    TEST = 4
    CALL_IF_PENDING = 5
    CALL = 6
    DRAIN = 7
    NOTHING = 8
    TAKE = 9
    READ = 10
    LOCKED_CLEAR = 11
    IRET = 12
    EXCHANGE = 13
    BLOCK_IF_PENDING = 14


#: A store's value that stands for the mask that the program saved.
SAVED = -1


@dataclass(frozen=True, slots=True)
class Instruction:
    """One step of a program: its operation, text, cell and value; ``tests``: it also reads P."""

    op: Op
    text: str
    cell: Cell = Cell.M
    value: int = 0
    tests: bool = False


Program = tuple[Instruction, ...]


@dataclass(frozen=True, slots=True)
class Scenario:
    """How one site is written; the model runs it against remote senders.

    Attributes:
        protocol: what the site does.
        fence: the fence at the site; in a handler it is at P := 0.
        fence_first: the fence is before the store instead of after it.
        width: the width of the store.
        retest: where P is tested; only for restore, unmask and section.
        take: how the upcall's handler takes S.
        stable: the vcpu_info belongs to the vCPU that executes the code; otherwise to a vCPU on
            another pCPU (the thread was preempted after it read the pointer); not for a handler.
    """

    protocol: Protocol
    fence: Fence = Fence.NONE
    fence_first: bool = False
    width: Width = Width.BYTE
    retest: Retest = Retest.AFTER
    take: Take = Take.XCHG
    stable: bool = True

    @property
    def clears_mask(self) -> bool:
        """Return whether the site's program may set M to 0."""
        return self.protocol in (Protocol.RESTORE, Protocol.UNMASK, Protocol.SECTION)

    @property
    def starts(self) -> tuple[tuple[int, int], ...]:
        """Return the values of (M, saved mask) to start from."""
        if self.protocol is Protocol.RESTORE:
            return ((1, 0), (1, 1))
        if self.protocol is Protocol.UNMASK:
            return ((1, 0),)
        if self.protocol in (Protocol.SAVE_MASK, Protocol.SECTION):
            return ((0, 0), (1, 1))
        return ((0, 0),)


def scenario_for(
    protocol: Protocol,
    fence: Fence = Fence.NONE,
    width: Width = Width.BYTE,
    retest: Retest = Retest.AFTER,
    *,
    take: Take = Take.XCHG,
    fence_first: bool = False,
    stable: bool = True,
) -> Scenario:
    """Return the scenario of a site found in a binary."""
    return Scenario(protocol, fence, fence_first, width, retest, take, stable)


def program(scenario: Scenario) -> Program:
    """Return what the guest's thread executes at the site; empty for a handler."""
    found: list[Instruction] = []
    if scenario.protocol in (Protocol.SAVE_MASK, Protocol.SECTION):
        found.append(Instruction(Op.SAVE, "m = M"))
    if scenario.protocol in (Protocol.MASK, Protocol.SAVE_MASK, Protocol.SECTION):
        found += _fenced(scenario, _store(scenario.width, Cell.M, 1))
    if scenario.clears_mask:
        if scenario.retest is Retest.BEFORE:
            found.append(Instruction(Op.TEST, "read P"))
        value = 0 if scenario.protocol is Protocol.UNMASK else SAVED
        if scenario.width is Width.EXCHANGE:
            found += [
                Instruction(Op.EXCHANGE, "lock cmpxchg: if P, M are 0, 1: M := 0", Cell.M, value),
                Instruction(Op.BLOCK_IF_PENDING, "if it failed: block, in which Xen does M := 0"),
            ]
            return tuple(found)
        store = _store(scenario.width, Cell.M, value)
        if scenario.retest is Retest.ITSELF:
            store = replace(store, text=f"{store.text}, reads P", tests=True)
        found += _fenced(scenario, store)
        if scenario.retest is Retest.AFTER:
            found.append(Instruction(Op.TEST, "read P"))
        if scenario.retest in (Retest.AFTER, Retest.BEFORE, Retest.ITSELF):
            found.append(Instruction(Op.CALL_IF_PENDING, "if P was read as 1: force callback"))
        if scenario.retest is Retest.XEN_EXIT:
            found.append(Instruction(Op.CALL, "enter Xen (iret, block or another hypercall)"))
    return tuple(found)


def masked_places(steps: Program) -> frozenset[int]:
    """Return the places of a program where no upcall may run: from M := 1 to the next store to M.

    A place is the number of instructions executed so far.
    """
    # A program that only clears M starts masked; one that sets it starts unmasked.
    masked = any(map(_stores_mask, steps)) and not any(map(_sets_mask, steps))
    places = []
    for place in range(len(steps) + 1):
        if place and _stores_mask(steps[place - 1]):
            masked = _sets_mask(steps[place - 1])
        if masked:
            places.append(place)
    return frozenset(places)


def handler(scenario: Scenario) -> Program:
    """Return what the upcall executes, from Xen's bounce frame to the iret."""
    clear = _store(scenario.width if scenario.protocol is Protocol.HANDLER else Width.BYTE, Cell.P, 0)
    if scenario.protocol is Protocol.HANDLER:
        begin = _fenced(scenario, clear)
    else:
        begin = [clear]
    xchg = Instruction(Op.TAKE, "xchg S with 0, handle what it held", Cell.S)
    read = Instruction(Op.READ, "read S, handle what it holds", Cell.S)
    if scenario.take is Take.XCHG:
        body = [*begin, xchg]
    elif scenario.take is Take.XCHG_FIRST:
        body = [xchg, *begin]
    elif scenario.take is Take.NONE:
        body = begin
    elif scenario.take is Take.READ:
        body = [*begin, read, Instruction(Op.LOCKED_CLEAR, "lock and S, ~(what was read)", Cell.S)]
    else:
        body = [*begin, read, Instruction(Op.STORE, "S := 0", Cell.S, 0)]
    return (*body, Instruction(Op.IRET, "iret: M := 0, exit to the guest", Cell.M, 0))


def _fenced(scenario: Scenario, store: Instruction) -> list[Instruction]:
    if scenario.fence is Fence.NONE:
        return [store]
    fence = Instruction(Op.DRAIN if scenario.fence.drains else Op.NOTHING, f"fence: {scenario.fence}")
    return [fence, store] if scenario.fence_first else [store, fence]


def _store(width: Width, cell: Cell, value: int) -> Instruction:
    op, note = {
        Width.BYTE: (Op.STORE, ""),
        Width.WIDE: (Op.WIDE_STORE, " by a plain store of P and M"),
        Width.LOCKED: (Op.LOCKED_STORE, ", locked"),
        Width.LOCKED_WIDE: (Op.LOCKED_STORE, ", locked"),
        # Only an unmask is an exchange: what else clears or sets is a locked store.
        Width.EXCHANGE: (Op.LOCKED_STORE, ", locked"),
    }[width]
    return Instruction(op, f"{cell.name} := {'m' if value == SAVED else value}{note}", cell, value)


def _stores_mask(step: Instruction) -> bool:
    return step.cell is Cell.M and (step.op <= Op.LOCKED_STORE or step.op is Op.EXCHANGE)


def _sets_mask(step: Instruction) -> bool:
    return _stores_mask(step) and step.value == 1
