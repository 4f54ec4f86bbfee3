"""A model checker for x86-TSO that decides whether a mask, unmask or handler site can lose an upcall.

One vCPU on pCPU A executes the site's program; one or two remote CPUs each send an event: lock bts on
S, lock bts on P and, if P was clear, an IPI to A.  Every interleaving is explored.

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
    - The handler runs masked and returns with iret, which stores M := 0 and tests on exit.
    - The store buffer is unbounded; the programs have no loops, so each run ends.

An upcall is lost if an event was sent that no handler took when everything has come to rest (no IPI in
flight, buffers empty), unless M and P are both 1: then a later unmask finds it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from xtrace.symbols.proof.protocols import (
    SAVED,
    Cell,
    Instruction,
    Op,
    Scenario,
    handler,
    masked_places,
    program,
)

#: More states mean a program that this model was not made for, or an error in the model.  Over all
#: scenarios, the most states are 124,824 and the most stores in one buffer 8; scenarios of `xtrace sites
#: --explain` have at most 3,505 states.  A state takes about 320 bytes, and 8 more per buffered store:
#: searches that reached both limits took at most 170 MB.
_STATES_LIMIT = 200_000
_STORES_LIMIT = 32
IDLE = -1
#: They access memory directly, after the pCPU's earlier stores have reached it.
_WAITS = frozenset({Op.LOCKED_STORE, Op.DRAIN, Op.TAKE, Op.LOCKED_CLEAR, Op.EXCHANGE})
_STORES = frozenset({Op.STORE, Op.WIDE_STORE, Op.IRET})

#: Cells are plain ints: hashing an enum member runs Python code, and hashing states takes most of the time.
_Buffer = tuple[tuple[tuple[int, int], ...], ...]
_Memory = tuple[int, int, int]


class Actor(IntEnum):
    """Who makes a step; each has at most one possible step per state."""

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


class State(NamedTuple):
    """One state of the model.

    Attributes:
        memory: P, M, S as every CPU sees them once the buffers are empty.
        buffers: the stores not yet in memory, oldest first, of the pCPU that executes the site and,
            if that is a different one, of the vCPU's own pCPU.
        place, saved, seen: number of program instructions executed, the saved mask, P as last read.
        in_xen: Xen has yet to test P and M on its exit to the guest.
        handling: number of handler instructions executed, -1 if it does not run.
        taken: the bits of S that the handler read.
        ipi: an IPI is on its way.
        senders: how far each remote CPU is: 0 not begun, 1 S is set, 2 P was clear and is set, 3 done.
        handled: the bits of S that a handler took.
    """

    memory: _Memory
    buffers: tuple[_Buffer, _Buffer]
    place: int
    saved: int
    seen: int
    in_xen: bool
    handling: int
    taken: int
    ipi: bool
    senders: tuple[int, ...]
    handled: int


class End(NamedTuple):
    """The final state of a run with ``sends`` remote CPUs."""

    sends: int
    memory: _Memory
    handled: int


@dataclass(frozen=True, slots=True)
class Step:
    """One step of an interleaving: who makes it, its text, and the state after it."""

    actor: Actor
    text: str
    after: State


Trace = tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the exhaustive search of one scenario found.

    Attributes:
        states: distinct states explored, with one remote CPU and with two.
        holds: no upcall is lost and no handler runs where the guest has masked upcalls.
        counterexample: a shortest interleaving that violates this; empty if it holds.
        fault: what the counterexample shows, in words; "" if it holds.
        ends: all final states.
    """

    scenario: Scenario
    states: int
    holds: bool
    counterexample: Trace
    fault: str
    ends: frozenset[End]


CameFrom = dict[State, "tuple[State, Actor] | None"]


def check(scenario: Scenario) -> Outcome:
    """Explore every interleaving of ``scenario`` with one remote CPU and with two.

    The search is breadth first and in a fixed order, so counterexamples are shortest and reproducible.

    Raises:
        ValueError: the scenario has more states or buffered stores than the model allows.
    """
    searches = [search(Machine(scenario, sends)) for sends in (1, 2)]
    failed = next((found for found in searches if found.fault), None)
    return Outcome(
        scenario,
        sum(len(found.came_from) for found in searches),
        failed is None,
        failed.counterexample if failed else (),
        failed.fault if failed else "",
        frozenset().union(*(found.ends for found in searches)),
    )


@dataclass(frozen=True, slots=True)
class Search:
    """What one search found.

    ``came_from`` maps each state reached to the state and actor before it on a shortest path, in the
    order in which they were reached.
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
        if not following:
            ends.add(End(machine.sends, state.memory, state.handled))
            if not fault and machine.loses(state):
                fault, counterexample = "an upcall is lost", machine.trace(path_to(came_from, state))
        for actor, after in following:
            if not fault and machine.forbids(state, actor, after):
                fault = "the handler runs where the guest has masked upcalls"
                counterexample = machine.trace([*path_to(came_from, state), (state, actor)])
            if after not in came_from:
                came_from[after] = (state, actor)
                queue.append(after)
        if len(came_from) > _STATES_LIMIT:
            raise ValueError(f"{machine.scenario}: more than {_STATES_LIMIT} states; shorten the program")
        if max(map(len, state.buffers)) > _STORES_LIMIT:
            raise ValueError(
                f"{machine.scenario}: more than {_STORES_LIMIT} stores in one buffer; shorten the program"
            )
    return Search(machine, came_from, ends, fault, counterexample)


def path_to(came_from: CameFrom, state: State) -> list[tuple[State, Actor]]:
    """Return a shortest path to a state: each state before it and the actor that moves on from there."""
    path = []
    while (before := came_from[state]) is not None:
        path.append(before)
        state = before[0]
    return path[::-1]


class Machine:
    """The steps that one scenario allows from each state."""

    def __init__(self, scenario: Scenario, sends: int) -> None:
        self.scenario = scenario
        self.sends = sends
        self.program = program(scenario)
        self.handler = handler(scenario)
        self.masked = masked_places(self.program)
        self._host = 0 if scenario.stable else 1

    def starts(self) -> list[State]:
        """Return the states to start from."""
        senders = (0,) * self.sends
        return [
            State((0, mask, 0), ((), ()), 0, saved, 0, False, IDLE, 0, False, senders, 0)
            for mask, saved in self.scenario.starts
        ]

    def loses(self, end: State) -> bool:
        """Return whether an event that was sent was neither taken nor left for a later unmask to find."""
        pending, mask, selector = end.memory
        missing = ((1 << self.sends) - 1) & ~end.handled
        return bool(missing) and not (pending and mask and selector & missing == missing)

    def forbids(self, state: State, actor: Actor, after: State) -> bool:
        """Return whether a handler starts where it must not: the guest has M set, or a handler is running."""
        begins = actor is Actor.XEN and after.handling == 0 and after.buffers != state.buffers
        return begins and (state.handling != IDLE or state.place in self.masked or state.saved == 1)

    def following(self, state: State) -> list[tuple[Actor, State]]:
        """Return who may make the next step, and the state after it."""
        found = list(self._remote(state))
        if state.in_xen:
            found.append((Actor.XEN, self._exit_test(state)))
        elif state.handling != IDLE:
            after = self._execute(state, self.handler[state.handling], self._host)
            if after is not None:
                handling = IDLE if after.in_xen else state.handling + 1
                found.append((Actor.HANDLER, after._replace(handling=handling)))
        # On the vCPU's own pCPU, Xen and the handler run instead of the site's code.
        own_turn = self._host or (not state.in_xen and state.handling == IDLE)
        if own_turn and state.place < len(self.program):
            after = self._execute(state, self.program[state.place], 0)
            if after is not None:
                found.append((Actor.GUEST, after._replace(place=state.place + 1)))
        return found

    def trace(self, path: list[tuple[State, Actor]]) -> Trace:
        """Return a path from path_to() as steps."""
        return tuple(
            Step(actor, self._text(state, actor), dict(self.following(state))[actor]) for state, actor in path
        )

    def _text(self, state: State, actor: Actor) -> str:
        host = state.buffers[self._host]
        pending, mask = view(state.memory, host, Cell.P), view(state.memory, host, Cell.M)
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
        if actor is Actor.HANDLER:
            return f"handler: {self.handler[state.handling].text}"
        step = self.program[state.place]
        seen = view(state.memory, state.buffers[0], Cell.P)
        return f"{step.text}: {seen}" if step.op is Op.TEST else step.text

    def _remote(self, state: State) -> Iterator[tuple[Actor, State]]:
        for which, buffer in enumerate(state.buffers):
            if buffer:
                memory = list(state.memory)
                for cell, value in buffer[0]:
                    memory[cell] = value
                yield (
                    _DRAINS[which],
                    state._replace(
                        memory=(memory[0], memory[1], memory[2]),
                        buffers=_with(state.buffers, which, buffer[1:]),
                    ),
                )
        for which, done in enumerate(state.senders):
            if done < 3:
                yield _SENDS[which], _send(state, which, done)
        if state.ipi:
            yield Actor.IPI, state._replace(ipi=False, in_xen=True)

    def _exit_test(self, state: State) -> State:
        buffer = state.buffers[self._host]
        if not view(state.memory, buffer, Cell.P) or view(state.memory, buffer, Cell.M):
            return state._replace(in_xen=False)
        bounced = _with(state.buffers, self._host, (*buffer, ((int(Cell.M), 1),)))
        return state._replace(in_xen=False, handling=0, taken=0, buffers=bounced)

    def _execute(self, state: State, step: Instruction, which: int) -> State | None:
        """Return the state after one instruction on a pCPU, None if it has to wait for earlier stores."""
        memory, buffer = state.memory, state.buffers[which]
        if step.op in _WAITS:
            return None if buffer else _locked(state, step)
        if step.op in _STORES:
            value = state.saved if step.value == SAVED else step.value
            cell = int(step.cell)
            entry: tuple[tuple[int, int], ...] = ((cell, value),)
            if step.op is Op.WIDE_STORE:
                other = int(Cell.P) if cell == Cell.M else int(Cell.M)
                entry = ((other, view(memory, buffer, other)), *entry)
            buffers = _with(state.buffers, which, (*buffer, entry))
            seen = view(memory, buffer, Cell.P) if step.tests else state.seen
            return state._replace(buffers=buffers, seen=seen, in_xen=state.in_xen or step.op is Op.IRET)
        if step.op is Op.READ:
            taken = view(memory, buffer, Cell.S)
            return state._replace(taken=taken, handled=state.handled | taken)
        if step.op is Op.SAVE:
            return state._replace(saved=view(memory, buffer, Cell.M))
        if step.op is Op.TEST:
            return state._replace(seen=view(memory, buffer, Cell.P))
        if step.op is Op.BLOCK_IF_PENDING:
            if not state.seen or not self.scenario.stable:
                return state
            buffers = _with(state.buffers, which, (*buffer, ((int(Cell.M), 0),)))
            return state._replace(buffers=buffers, in_xen=True)
        calls = step.op is Op.CALL or (step.op is Op.CALL_IF_PENDING and state.seen and not state.saved)
        # A hypercall tests the vCPU that makes it, which is a different one if the pointer is stale.
        return state._replace(in_xen=True) if calls and self.scenario.stable else state


def _locked(state: State, step: Instruction) -> State:
    """Return the state after an instruction that accesses memory directly."""
    memory = state.memory
    if step.op is Op.LOCKED_STORE:
        value = state.saved if step.value == SAVED else step.value
        seen = memory[Cell.P] if step.tests else state.seen
        return state._replace(memory=_put(memory, step.cell, value), seen=seen)
    if step.op is Op.EXCHANGE:
        if memory[Cell.P] or not memory[Cell.M]:
            return state._replace(seen=1)
        return state._replace(memory=_put(memory, step.cell, step.value), seen=0)
    if step.op is Op.TAKE:
        return state._replace(memory=_put(memory, Cell.S, 0), handled=state.handled | memory[Cell.S])
    if step.op is Op.LOCKED_CLEAR:
        return state._replace(memory=_put(memory, Cell.S, memory[Cell.S] & ~state.taken), taken=0)
    return state


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


def _put(memory: _Memory, cell: Cell, value: int) -> _Memory:
    pending, mask, selector = (value if place == cell else held for place, held in enumerate(memory))
    return pending, mask, selector


def _with(buffers: tuple[_Buffer, _Buffer], which: int, buffer: _Buffer) -> tuple[_Buffer, _Buffer]:
    return (buffers[0], buffer) if which else (buffer, buffers[1])
