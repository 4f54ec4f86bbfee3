"""Descriptions of the usual ways to write a mask, unmask or handler, and of the usual mistakes.

The checkers are compared on all of them.  For a site of a kernel the description comes from its own code;
a template gives only what the image does not show: how the upcall's handler ends, or the whole handler.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from xtrace.symbols.proof.description import (
    BESIDE,
    REST,
    SAVED,
    UNCHANGED,
    Access,
    Cell,
    Description,
    Path,
    Role,
)


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
    """How wide the store of the site is.

    A wide store also reads the other byte and writes it back, in one instruction, locked or not.  An
    exchange is a locked cmpxchg of both bytes: M := 0 if P is 0 and M is 1, otherwise it changes nothing.
    """

    BYTE = "byte"
    WIDE = "wide"
    LOCKED = "locked"
    LOCKED_WIDE = "locked wide"
    EXCHANGE = "exchange"


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


IRET = Access(writes=((Cell.M, 0),), xen=True, text="iret: M := 0, exit to the guest")
TAKE = Access((Cell.S,), ((Cell.S, 0),), drains=True, text="xchg S with 0, handle what it held")
#: What the usual handler does; it is assumed for images in which no handler was found.
USUAL_HANDLER: Path = (Access(writes=((Cell.P, 0),), text="P := 0"), TAKE, IRET)


def describe(scenario: Scenario) -> Description:
    """Return the description of a template."""
    own = scenario.protocol is Protocol.HANDLER
    role = Role.HANDLER if own else Role.OPEN if scenario.clears_mask else Role.MASK
    paths = () if own else tuple(dict.fromkeys(_paths(scenario)))
    return Description(role, paths, (_handler(scenario),), scenario.starts, scenario.stable)


def _paths(scenario: Scenario) -> Iterator[Path]:
    """Yield what the guest's thread executes at the site, on each path."""
    begin: Path = ()
    if scenario.protocol in (Protocol.SAVE_MASK, Protocol.SECTION):
        begin += (Access((Cell.M,), text="m = M"),)
    if scenario.protocol in (Protocol.MASK, Protocol.SAVE_MASK, Protocol.SECTION):
        begin += _fenced(scenario, _store(scenario.width, Cell.M, 1))
    if not scenario.clears_mask:
        yield begin
        return
    value = 0 if scenario.protocol is Protocol.UNMASK else SAVED
    if scenario.width is Width.EXCHANGE:
        yield from ((*begin, *end) for end in exchange())
        return
    opens = _fenced(scenario, _store(scenario.width, Cell.M, value))
    if scenario.retest is Retest.NONE:
        yield (*begin, *opens)
    elif scenario.retest is Retest.XEN_EXIT:
        yield (*begin, *opens, Access(xen=True, text="enter Xen (iret, block or another hypercall)"))
    else:
        for seen, calls in _ends(scenario):
            if scenario.retest is Retest.ITSELF:
                tests = [
                    replace(item, reads=(Cell.P,), when=seen.when, text=f"{item.text}, reads P")
                    if item.writes
                    else item
                    for item in opens
                ]
                yield (*begin, *tests, *calls)
            elif scenario.retest is Retest.AFTER:
                yield (*begin, *opens, seen, *calls)
            else:
                yield (*begin, seen, *opens, *calls)


def exchange() -> tuple[Path, Path]:
    """Return the outcomes of a locked cmpxchg that does M := 0 if P, M are 0, 1."""
    opened = Access(
        (Cell.P,),
        ((Cell.P, UNCHANGED), (Cell.M, 0)),
        drains=True,
        when=((Cell.P, 0),),
        text="lock cmpxchg: P, M were 0, 1: M := 0",
    )
    failed = Access(
        (Cell.P,), drains=True, when=((Cell.P, 1),), text="lock cmpxchg: P was 1: it changes nothing"
    )
    return (opened,), (failed, BLOCK)


BLOCK = Access(writes=((Cell.M, 0),), xen=True, text="block: Xen does M := 0")


def _ends(scenario: Scenario) -> Iterator[tuple[Access, Path]]:
    """Yield the outcomes of the pending test, and what follows each."""
    test = Access((Cell.P,), text="read P")
    callback = Access(xen=True, text="force callback")
    if scenario.protocol is Protocol.UNMASK:
        yield replace(test, when=((Cell.P, 1),)), (callback,)
        yield replace(test, when=((Cell.P, 0),)), ()
        return
    # A restore handles what it finds only if it unmasked.
    yield replace(test, when=((Cell.P, 1), (Cell.M, 0))), (callback,)
    yield replace(test, when=((Cell.P, 1), (Cell.M, 1))), ()
    yield replace(test, when=((Cell.P, 0),)), ()


def _handler(scenario: Scenario) -> Path:
    """Return what the upcall executes, from Xen's bounce frame to the iret."""
    begin = USUAL_HANDLER[:1]
    if scenario.protocol is Protocol.HANDLER:
        begin = _fenced(scenario, _store(scenario.width, Cell.P, 0))
    read = Access((Cell.S,), text="read S, handle what it holds")
    take: Path
    if scenario.take in (Take.XCHG, Take.XCHG_FIRST):
        take = (TAKE,)
    elif scenario.take is Take.NONE:
        take = ()
    elif scenario.take is Take.READ:
        take = (read, Access(writes=((Cell.S, REST),), drains=True, text="lock and S, ~(what was read)"))
    else:
        take = (read, Access(writes=((Cell.S, 0),), text="S := 0"))
    body = (*take, *begin) if scenario.take is Take.XCHG_FIRST else (*begin, *take)
    return (*body, IRET)


def _fenced(scenario: Scenario, store: Access) -> Path:
    if scenario.fence is Fence.NONE:
        return (store,)
    fence = Access(drains=scenario.fence.drains, fence=str(scenario.fence), text=f"fence: {scenario.fence}")
    return (fence, store) if scenario.fence_first else (store, fence)


def _store(width: Width, cell: Cell, value: int) -> Access:
    what = f"{cell.name} := {'m' if value == SAVED else value}"
    if width in (Width.LOCKED, Width.EXCHANGE):
        # Only an unmask is an exchange: what else clears or sets is a locked store.
        return Access(writes=((cell, value),), drains=True, text=f"{what}, locked")
    if width is Width.BYTE:
        return Access(writes=((cell, value),), text=what)
    writes = ((BESIDE[cell], UNCHANGED), (cell, value))
    if width is Width.WIDE:
        return Access(writes=writes, text=f"{what} by a plain store of P and M")
    return Access(writes=writes, drains=True, text=f"{what}, locked")
