"""A model checker for x86-TSO that decides whether a mask, unmask or handler site can lose an upcall.

It is operational: it executes the description of a site step by step, in every possible order, with store
buffers.  `axiomatic.py` decides the same from relations between the accesses.

One vCPU on pCPU A executes the site's code, on any of its paths; one or two remote CPUs each send an event:
lock bts on S, lock bts on P and, if P was clear, an IPI to A.  Every interleaving is explored.

What the model assumes:
    - x86-TSO (Owens, Sarkar and Sewell 2009; SDM vol. 3, section 9.2): each CPU has a FIFO store buffer
      that its own loads search first; a locked or serialising instruction waits until it is empty.
      lfence and sfence do not affect it: on write-back memory, loads are in order and so are stores.
    - Interrupts are precise.  An IPI is taken between two instructions and drains nothing.  Real CPUs
      may drain there, which only removes interleavings.
    - On its exit to the guest, Xen reads {P, M} at one instant on the vCPU's own pCPU, so it sees A's
      earlier stores.  If P and not M, it stores M := 1 and enters the handler.  An IPI that arrives
      inside Xen before the test is absorbed by it; one that arrives later stays pending.
    - The remote CPUs never read M.  A vCPU that is not running is ordered by the scheduler's locks and
      tested on entry; that is not modelled.
    - The handler runs masked and returns with iret, which stores M := 0 and tests on exit.  If it opens the
      mask itself, another upcall may interrupt it there.
    - The store buffer is unbounded; the paths have no loops, so each run ends.

An upcall is lost if an event was sent that no handler took when everything has come to rest (no IPI in
flight, buffers empty), unless M and P are both 1: then a later unmask finds it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from xtrace.symbols.proof.description import (
    REST,
    SAVED,
    UNCHANGED,
    Access,
    Cell,
    Description,
    Path,
    masked_after,
)

#: More states mean code that this model was not made for, or an error in the model.
_STATES_LIMIT = 200_000
_STORES_LIMIT = 32

#: Cells are plain ints: hashing an enum member runs Python code, and hashing states takes most of the time.
_Buffer = tuple[tuple[tuple[int, int], ...], ...]
_Memory = tuple[int, int, int]
_Registers = tuple[int, int, int]
_CLEAR: _Registers = (0, 0, 0)


class Actor(IntEnum):
    """Who makes a step."""

    DRAIN = 0
    DRAIN_HOST = 1
    SEND_B = 2
    SEND_C = 3
    IPI = 4
    XEN = 5
    GUEST = 6
    HANDLER = 7


_DRAINS = (Actor.DRAIN, Actor.DRAIN_HOST)
_SENDS = (Actor.SEND_B, Actor.SEND_C)


class Frame(NamedTuple):
    """Code that a pCPU executes: the node of its tree that it has reached, and its registers."""

    node: int
    registers: _Registers


class State(NamedTuple):
    """One state of the model.

    Attributes:
        memory: P, M, S as every CPU sees them once the buffers are empty.
        buffers: the stores not yet in memory, oldest first, of the pCPU that executes the site and,
            if that is a different one, of the vCPU's own pCPU.
        site: the site's code.
        handlers: the handlers that run, the innermost last.
        in_xen: Xen has yet to test P and M on its exit to the guest.
        ipi: an IPI is on its way.
        taken: how many IPIs were taken; counted only if that decides where one may be taken.
        senders: how far each remote CPU is: 0 not begun, 1 S is set, 2 P was clear and is set, 3 done.
        handled: the bits of S that a handler took.
    """

    memory: _Memory
    buffers: tuple[_Buffer, _Buffer]
    site: Frame
    handlers: tuple[Frame, ...]
    in_xen: bool
    ipi: bool
    taken: int
    senders: tuple[int, ...]
    handled: int


class End(NamedTuple):
    """The final state of a run with ``sends`` remote CPUs."""

    sends: int
    memory: _Memory
    handled: int


@dataclass(frozen=True, slots=True)
class Step:
    """One step of an interleaving: who makes it, its text, the access if any, and the state after it."""

    actor: Actor
    text: str
    access: Access | None
    after: State


Trace = tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the exhaustive search of one description found.

    Attributes:
        states: distinct states explored, with one remote CPU and with two.
        holds: no upcall is lost and no handler runs where the guest has masked upcalls.
        counterexample: a shortest interleaving that violates this; empty if it holds.
        fault: what the counterexample shows, in words; "" if it holds.
        ends: all final states.
    """

    description: Description
    states: int
    holds: bool
    counterexample: Trace
    fault: str
    ends: frozenset[End]


class Move(NamedTuple):
    """A possible step: who makes it, with which access of its code, and the state after it."""

    actor: Actor
    access: Access | None
    after: State


CameFrom = dict[State, "tuple[State, Move] | None"]


def check(description: Description) -> Outcome:
    """Explore every interleaving of a description with one and with two remote CPUs.

    The search is breadth first and in a fixed order, so counterexamples are shortest and reproducible.

    Raises:
        ValueError: the description has more states or buffered stores than the model allows.
    """
    searches = [search(Machine(description, sends)) for sends in (1, 2)]
    failed = next((found for found in searches if found.fault), None)
    return Outcome(
        description,
        sum(len(found.came_from) for found in searches),
        failed is None,
        failed.counterexample if failed else (),
        failed.fault if failed else "",
        frozenset().union(*(found.ends for found in searches)),
    )


@dataclass(frozen=True, slots=True)
class Search:
    """What one search found.

    ``came_from`` maps each state reached to the state before it on a shortest path and the move from there,
    in the order in which they were reached.
    """

    machine: Machine
    came_from: CameFrom
    ends: set[End]
    fault: str
    counterexample: Trace


def search(machine: Machine) -> Search:
    """Explore all states that ``machine`` can reach, breadth first."""
    came_from: CameFrom = dict.fromkeys(machine.starts())
    queue = deque(came_from)
    ends: set[End] = set()
    fault = ""
    counterexample: Trace = ()
    while queue:
        state = queue.popleft()
        following = machine.following(state)
        if machine.may_end(state, following):
            ends.add(End(machine.sends, state.memory, state.handled))
            if not fault and machine.loses(state):
                fault, counterexample = "an upcall is lost", machine.trace(path_to(came_from, state))
        for move in following:
            if not fault and machine.forbids(state, move):
                fault = "the handler runs where the guest has masked upcalls"
                counterexample = machine.trace([*path_to(came_from, state), (state, move)])
            if move.after not in came_from:
                came_from[move.after] = (state, move)
                queue.append(move.after)
        if len(came_from) > _STATES_LIMIT:
            raise ValueError(
                f"the site has more than {_STATES_LIMIT} states: its paths are too long to check"
            )
        if max(map(len, state.buffers)) > _STORES_LIMIT:
            raise ValueError(
                f"the site has more than {_STORES_LIMIT} stores in one buffer: too many to check"
            )
    return Search(machine, came_from, ends, fault, counterexample)


def path_to(came_from: CameFrom, state: State) -> list[tuple[State, Move]]:
    """Return a shortest path to a state: each state before it and the move from there."""
    path = []
    while (before := came_from[state]) is not None:
        path.append(before)
        state = before[0]
    return path[::-1]


class Tree:
    """Paths as a tree: at each node the accesses that may follow, each with the node after it.

    Attributes:
        ends: the nodes at which a path ends.
        masked: by node, whether the code there has M set.
        opened: the nodes that follow a store of 0 or of the saved value to M.
        entered: the nodes that follow an entry into Xen.
    """

    def __init__(self, paths: tuple[Path, ...], masked: bool) -> None:
        self.edges: list[list[tuple[Access, int]]] = [[]]
        self.ends = set()
        self.masked = {0: masked}
        self.opened: set[int] = set()
        self.entered: set[int] = set()
        for path in paths:
            node = 0
            for place, access in enumerate(path, 1):
                after = next((after for known, after in self.edges[node] if known == access), None)
                if after is None:
                    after = len(self.edges)
                    self.edges.append([])
                    self.edges[node].append((access, after))
                    self.masked[after] = masked_after(path, place, masked)
                    if node in self.opened or access.written(Cell.M) in (0, SAVED):
                        self.opened.add(after)
                    if node in self.entered or access.xen:
                        self.entered.add(after)
                node = after
            self.ends.add(node)


class Machine:
    """The steps that one description allows from each state.

    Args:
        points: if given, the numbers of accesses of the site after which an IPI is taken, one for each IPI;
            it is not taken elsewhere.
    """

    def __init__(self, description: Description, sends: int, points: tuple[int, ...] | None = None) -> None:
        self.description = description
        self.sends = sends
        self.points = points
        self.site = Tree(description.paths or ((),), description.starts_masked)
        self.handler = Tree(description.handlers, True)
        self._host = 0 if description.stable else 1

    def starts(self) -> list[State]:
        """Return the states to start from."""
        return [
            State((0, mask, 0), ((), ()), Frame(0, (0, saved, 0)), (), False, False, 0, (0,) * self.sends, 0)
            for mask, saved in self.description.starts
        ]

    def may_end(self, state: State, following: list[Move]) -> bool:
        """Return whether a run may end in a state: a path ends here, and nothing else can move.

        Another path may go on from here.  It is no end if the code waits at a place where no path has the
        values that were read.
        """
        ends = state.site.node in self.site.ends and not state.handlers
        return ends and all(move.actor is Actor.GUEST for move in following)

    def loses(self, end: State) -> bool:
        """Return whether an event that was sent was neither taken nor left for a later unmask to find."""
        pending, mask, selector = end.memory
        missing = ((1 << self.sends) - 1) & ~end.handled
        return bool(missing) and not (pending and mask and selector & missing == missing)

    def forbids(self, state: State, move: Move) -> bool:
        """Return whether a handler starts where it must not: the code that it interrupts has M set."""
        if move.actor is not Actor.XEN or len(move.after.handlers) == len(state.handlers):
            return False
        if state.handlers:
            return self.handler.masked[state.handlers[-1].node]
        return self.site.masked[state.site.node] or state.site.registers[Cell.M] == 1

    def following(self, state: State) -> list[Move]:
        """Return the moves that are possible in a state."""
        found = list(self._remote(state))
        if state.in_xen:
            found.append(Move(Actor.XEN, None, self._exit_test(state)))
        elif state.handlers:
            frame = state.handlers[-1]
            for access, node in self.handler.edges[frame.node]:
                after, reached = self._execute(state, frame, access, node, self._host)
                if after is not None:
                    left = self.handler.edges[node] or not access.xen
                    running = (*state.handlers[:-1], *((reached,) if left else ()))
                    found.append(Move(Actor.HANDLER, access, after._replace(handlers=running)))
        # On the vCPU's own pCPU, Xen and the handler run instead of the site's code.
        if self._host or (not state.in_xen and not state.handlers):
            for access, node in self.site.edges[state.site.node]:
                after, reached = self._execute(state, state.site, access, node, 0)
                if after is not None:
                    found.append(Move(Actor.GUEST, access, after._replace(site=reached)))
        return found

    def trace(self, path: list[tuple[State, Move]]) -> Trace:
        """Return a path from path_to() as steps."""
        return tuple(
            Step(move.actor, self._text(state, move), move.access, move.after) for state, move in path
        )

    def _text(self, state: State, move: Move) -> str:
        host = state.buffers[self._host]
        pending, mask = view(state.memory, host, Cell.P), view(state.memory, host, Cell.M)
        actor = move.actor
        if actor in _DRAINS:
            entry = state.buffers[actor - Actor.DRAIN][0]
            return f"{', '.join(f'{Cell(cell).name} := {value}' for cell, value in entry)} reaches memory"
        if actor in _SENDS:
            found = "was set, so no IPI" if state.memory[Cell.P] else "was clear"
            which = actor - Actor.SEND_B
            return (f"lock bts S, bit {which}", f"lock bts P: {found}", "sends the IPI")[state.senders[which]]
        if actor is Actor.IPI:
            return "takes the IPI, enters Xen"
        if actor is Actor.XEN:
            verdict = "M := 1, enters the handler" if pending and not mask else "returns"
            return f"exit test, P={pending} M={mask}: {verdict}"
        assert move.access is not None
        text = move.access.placed
        if actor is Actor.HANDLER:
            return f"handler: {text}"
        if Cell.P in move.access.reads:
            return f"{text}: {move.after.site.registers[Cell.P]}"
        return text

    def _remote(self, state: State) -> Iterator[Move]:
        for which, buffer in enumerate(state.buffers):
            if buffer:
                memory = list(state.memory)
                for cell, value in buffer[0]:
                    memory[cell] = value
                after = state._replace(
                    memory=(memory[0], memory[1], memory[2]),
                    buffers=_with(state.buffers, which, buffer[1:]),
                )
                yield Move(_DRAINS[which], None, after)
        for which, done in enumerate(state.senders):
            if done < 3:
                yield Move(_SENDS[which], None, _send(state, which, done))
        if state.ipi:
            taken = state.taken + (self.points is not None)
            yield Move(Actor.IPI, None, state._replace(ipi=False, in_xen=True, taken=taken))

    def _exit_test(self, state: State) -> State:
        buffer = state.buffers[self._host]
        if not view(state.memory, buffer, Cell.P) or view(state.memory, buffer, Cell.M):
            return state._replace(in_xen=False)
        bounced = _with(state.buffers, self._host, (*buffer, ((int(Cell.M), 1),)))
        return state._replace(in_xen=False, handlers=(*state.handlers, Frame(0, _CLEAR)), buffers=bounced)

    def _execute(
        self, state: State, frame: Frame, access: Access, node: int, which: int
    ) -> tuple[State | None, Frame]:
        """Return the state and the frame after an access on a pCPU.

        The state is None if the access has to wait for earlier stores, or is not on the path that the values
        lead to.
        """
        buffer = state.buffers[which]
        if access.drains and buffer:
            return None, frame
        # Another vCPU's, which this model does not have: a test of it is taken to find nothing.
        ours = which == self._host or (access.pointer == 0 and not access.xen)
        registers = list(frame.registers)
        handled = state.handled
        for cell in access.reads if ours else ():
            registers[cell] = view(state.memory, buffer, cell)
            if cell == Cell.S:
                handled |= registers[cell]
        if any(registers[cell] != value for cell, value in access.when):
            return None, frame
        after = state._replace(handled=handled)
        entry = tuple(
            (int(cell), _value(state, buffer, registers, cell, value)) for cell, value in access.writes
        )
        if entry and ours:
            after = _written(after, which, entry, access.drains)
        # A hypercall tests the vCPU that makes it, which is a different one if the pointer is stale.
        if access.xen and which == self._host:
            after = after._replace(in_xen=True)
        return after, Frame(node, (registers[0], registers[1], registers[2]))


def _value(state: State, buffer: _Buffer, registers: list[int], cell: Cell, value: int) -> int:
    if value == SAVED:
        return registers[Cell.M]
    if value == UNCHANGED:
        return view(state.memory, buffer, cell)
    if value == REST:
        return view(state.memory, buffer, cell) & ~registers[Cell.S]
    return value


def _written(state: State, which: int, entry: tuple[tuple[int, int], ...], now: bool) -> State:
    if not now:
        return state._replace(buffers=_with(state.buffers, which, (*state.buffers[which], entry)))
    memory = state.memory
    for cell, value in entry:
        memory = _put(memory, cell, value)
    return state._replace(memory=memory)


def _send(state: State, which: int, done: int) -> State:
    """Return the state after one step of a sender: set S, test and set P, or kick."""
    senders = list(state.senders)
    if done == 0:
        senders[which] = 1
        memory = _put(state.memory, Cell.S, state.memory[Cell.S] | 1 << which)
        return state._replace(memory=memory, senders=tuple(senders))
    if done == 1:
        senders[which] = 3 if state.memory[Cell.P] else 2
        return state._replace(memory=_put(state.memory, Cell.P, 1), senders=tuple(senders))
    senders[which] = 3
    return state._replace(ipi=True, senders=tuple(senders))


def view(memory: _Memory, buffer: _Buffer, cell: int) -> int:
    """Return what a pCPU reads from a cell: its own newest buffered store, otherwise memory."""
    for entry in reversed(buffer):
        for stored, value in entry:
            if stored == cell:
                return value
    return memory[cell]


def _put(memory: _Memory, cell: int, value: int) -> _Memory:
    pending, mask, selector = (value if place == cell else held for place, held in enumerate(memory))
    return pending, mask, selector


def _with(buffers: tuple[_Buffer, _Buffer], which: int, buffer: _Buffer) -> tuple[_Buffer, _Buffer]:
    return (buffers[0], buffer) if which else (buffer, buffers[1])
