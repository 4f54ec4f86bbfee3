"""Single steps of the model: what one instruction, one sender, Xen or a draining store changes."""

from __future__ import annotations

from typing import Any

import pytest

from xtrace.symbols.proof.checker import IDLE, Actor, Machine, State, view
from xtrace.symbols.proof.protocols import SAVED, Cell, Instruction, Op, Protocol, Scenario, Take

#: A state with distinct values: P=1 M=0 S=0b10 in memory; the mask was saved as 1.
START = State(
    memory=(1, 0, 0b10), buffers=((), ()), place=0, saved=1, seen=0, in_xen=False, handling=IDLE,
    taken=0b01, ipi=False, senders=(3, 3), handled=0b01,
)  # fmt: skip
#: Own stores of M := 1, then P := 0, that have not reached memory.
WAITING = (((Cell.M, 1),), ((Cell.P, 0),))


def machine(*program: Instruction, stable: bool = True, handler: tuple[Instruction, ...] = ()) -> Machine:
    """Return a machine that executes the given instructions."""
    made = Machine(Scenario(Protocol.UNMASK, stable=stable), 2)
    made.program = program
    made.handler = handler or made.handler
    return made


def after(made: Machine, state: State, actor: Actor) -> State | None:
    """Return the state after an actor's step, None if it has none."""
    return dict(made.following(state)).get(actor)


def changes(state: State | None, before: State = START) -> dict[str, Any]:
    """Return the fields that differ from ``before``."""
    assert state is not None
    return {name: value for name, value in state._asdict().items() if value != getattr(before, name)}


def executed(
    op: Op, cell: Cell = Cell.M, value: int = 0, *, stable: bool = True, **state: Any
) -> dict[str, Any]:
    """Return what one instruction of the guest changes, except its place."""
    before = START._replace(**state)
    found = changes(
        after(machine(Instruction(op, "", cell, value), stable=stable), before, Actor.GUEST), before
    )
    assert found.pop("place") == 1
    return found


# --- instructions --------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", Cell)
def test_store_waits_in_the_buffer(cell: Cell) -> None:
    assert executed(Op.STORE, cell, 0) == {"buffers": ((((cell, 0),),), ())}
    assert executed(Op.STORE, cell, SAVED) == {"buffers": ((((cell, 1),),), ())}
    # After those that are waiting.
    found = executed(Op.STORE, cell, 1, buffers=(WAITING, ()))
    assert found == {"buffers": ((*WAITING, ((cell, 1),)), ())}


def test_wide_store_writes_the_other_byte_back() -> None:
    assert executed(Op.WIDE_STORE, Cell.M, 1) == {"buffers": ((((Cell.P, 1), (Cell.M, 1)),), ())}
    assert executed(Op.WIDE_STORE, Cell.P, 0) == {"buffers": ((((Cell.M, 0), (Cell.P, 0)),), ())}
    # It reads its own newest store first.
    waits: dict[str, Any] = {"buffers": (WAITING, ())}
    assert executed(Op.WIDE_STORE, Cell.M, SAVED, **waits)["buffers"][0][-1] == ((Cell.P, 0), (Cell.M, 1))
    assert executed(Op.WIDE_STORE, Cell.P, 1, **waits)["buffers"][0][-1] == ((Cell.M, 1), (Cell.P, 1))


@pytest.mark.parametrize("cell", Cell)
def test_locked_store_reaches_memory_at_once(cell: Cell) -> None:
    for value, stored in ((0, 0), (1, 1), (SAVED, 1)):
        memory = tuple(stored if place == cell else held for place, held in enumerate(START.memory))
        found = executed(Op.LOCKED_STORE, cell, value)
        assert found == ({"memory": memory} if memory != START.memory else {})


@pytest.mark.parametrize("op", [Op.LOCKED_STORE, Op.DRAIN, Op.TAKE, Op.LOCKED_CLEAR])
def test_locked_instructions_wait_until_the_buffer_is_empty(op: Op) -> None:
    made = machine(Instruction(op, ""))
    assert after(made, START._replace(buffers=(WAITING, ())), Actor.GUEST) is None
    assert after(made, START, Actor.GUEST) is not None
    # Only the buffer of its own pCPU.
    assert after(made, START._replace(buffers=((), WAITING)), Actor.GUEST) is not None


def test_fences_and_nops_change_nothing() -> None:
    for seen, saved in ((0, 0), (1, 0), (0, 1), (1, 1)):
        assert executed(Op.DRAIN, seen=seen, saved=saved) == {}
        assert executed(Op.NOTHING, seen=seen, saved=saved) == {}
        assert executed(Op.NOTHING, seen=seen, saved=saved, buffers=(WAITING, ())) == {}


def test_loads_see_their_own_buffer_first() -> None:
    assert executed(Op.SAVE) == {"saved": 0}
    assert executed(Op.SAVE, saved=0, buffers=(WAITING, ())) == {"saved": 1}
    assert executed(Op.TEST) == {"seen": 1}
    assert executed(Op.TEST, seen=1, buffers=(WAITING, ())) == {"seen": 0}
    # The other pCPU's buffer is not seen.
    assert executed(Op.TEST, buffers=((), WAITING)) == {"seen": 1}
    newer = (*WAITING, ((Cell.P, 1), (Cell.M, 0)))
    assert [view((0, 1, 2), newer, cell) for cell in Cell] == [1, 0, 2]
    assert [view((0, 1, 2), WAITING, cell) for cell in Cell] == [0, 1, 2]


def test_selector_take_read_and_clear() -> None:
    assert executed(Op.TAKE, Cell.S) == {"memory": (1, 0, 0), "handled": 0b11}
    assert executed(Op.TAKE, Cell.S, handled=0b10) == {"memory": (1, 0, 0)}
    assert executed(Op.READ, Cell.S) == {"taken": 0b10, "handled": 0b11}
    assert executed(Op.READ, Cell.S, handled=0b11) == {"taken": 0b10}
    assert executed(Op.READ, Cell.S, buffers=((((Cell.S, 0),),), ())) == {"taken": 0}
    assert executed(Op.LOCKED_CLEAR, Cell.S, taken=0b10) == {"memory": (1, 0, 0), "taken": 0}
    assert executed(Op.LOCKED_CLEAR, Cell.S, memory=(1, 0, 0b11)) == {"memory": (1, 0, 0b10), "taken": 0}


@pytest.mark.parametrize("stable", [True, False])
def test_calls_enter_xen_for_the_vcpu_that_makes_them(stable: bool) -> None:
    enters: dict[str, Any] = {"in_xen": True} if stable else {}
    assert executed(Op.CALL, stable=stable) == enters
    for seen, saved in ((0, 0), (1, 0), (0, 1), (1, 1)):
        found = executed(Op.CALL_IF_PENDING, stable=stable, seen=seen, saved=saved)
        assert found == (enters if (seen, saved) == (1, 0) else {})


# --- Xen and the handler -------------------------------------------------------------------------


@pytest.mark.parametrize("stable", [True, False])
def test_exit_test_is_on_the_vcpus_own_pcpu(stable: bool) -> None:
    host = 0 if stable else 1
    made = machine(stable=stable)

    def tested(memory: tuple[int, int, int], own: Any = ()) -> dict[str, Any]:
        buffers = ((own, ()), ((), own))[host]
        state = START._replace(memory=memory, in_xen=True, buffers=buffers)
        return changes(after(made, state, Actor.XEN), state)

    entry = ((Cell.M, 1),)
    for memory in ((0, 0, 2), (0, 1, 2), (1, 1, 2)):
        assert tested(memory) == {"in_xen": False}
    bounced = (((entry,), ()), ((), (entry,)))[host]
    assert tested((1, 0, 2)) == {"in_xen": False, "handling": 0, "taken": 0, "buffers": bounced}
    # It sees that pCPU's own stores, in memory or not.
    assert tested((1, 0, 2), WAITING) == {"in_xen": False}
    opened = (((Cell.P, 1), (Cell.M, 0)),)
    assert tested((0, 1, 2), opened)["buffers"][host] == (*opened, entry)


@pytest.mark.parametrize("stable", [True, False])
def test_handler_runs_on_the_vcpus_own_pcpu_and_returns_with_iret(stable: bool) -> None:
    host = 0 if stable else 1
    clear = Instruction(Op.STORE, "", Cell.P, 0)
    iret = Instruction(Op.IRET, "", Cell.M, 0)
    made = machine(clear, stable=stable, handler=(clear, iret))
    begun = START._replace(handling=0)
    entry = ((Cell.P, 0),)
    assert changes(after(made, begun, Actor.HANDLER), begun) == {
        "handling": 1, "buffers": (((entry,), ()), ((), (entry,)))[host],
    }  # fmt: skip
    ends = START._replace(handling=1)
    entry = ((Cell.M, 0),)
    assert changes(after(made, ends, Actor.HANDLER), ends) == {
        "handling": IDLE, "in_xen": True, "buffers": (((entry,), ()), ((), (entry,)))[host],
    }  # fmt: skip
    # The handler does not run while in Xen; nor does the guest's code if both are on the same pCPU.
    for state in (begun._replace(in_xen=True), begun, START._replace(in_xen=True)):
        assert (after(made, state, Actor.GUEST) is None) is stable
        assert (after(made, state, Actor.HANDLER) is None) is (state is not begun)
        assert (after(made, state, Actor.XEN) is None) is not state.in_xen
    assert after(made, START, Actor.HANDLER) is None
    # A finished program makes no step.
    assert after(made, START._replace(place=1), Actor.GUEST) is None


# --- stores, senders, IPIs -----------------------------------------------------------------------


def test_stores_reach_memory_whole_and_oldest_first() -> None:
    wide = ((Cell.P, 0), (Cell.M, 1))
    state = START._replace(buffers=((wide, *WAITING), WAITING))
    made = machine()
    drained = after(made, state, Actor.DRAIN)
    assert changes(drained, state) == {"memory": (0, 1, 0b10), "buffers": (WAITING, WAITING)}
    drained = after(made, state, Actor.DRAIN_HOST)
    assert changes(drained, state) == {"memory": (1, 1, 0b10), "buffers": ((wide, *WAITING), WAITING[1:])}
    assert after(made, START, Actor.DRAIN) is after(made, START, Actor.DRAIN_HOST) is None


@pytest.mark.parametrize(("which", "actor"), [(0, Actor.SEND_B), (1, Actor.SEND_C)])
def test_sender_sets_s_then_p_and_kicks_if_p_was_clear(which: int, actor: Actor) -> None:
    made = machine()

    def sent(done: int, memory: tuple[int, int, int]) -> dict[str, Any]:
        senders = (done, 3) if which == 0 else (3, done)
        state = START._replace(senders=senders, memory=memory)
        found = changes(after(made, state, actor), state)
        assert found["senders"][1 - which] == 3
        return found | {"senders": found["senders"][which]}

    bit = 1 << which
    assert sent(0, (0, 1, 0)) == {"memory": (0, 1, bit), "senders": 1}
    assert sent(0, (0, 1, 0b11 ^ bit)) == {"memory": (0, 1, 0b11), "senders": 1}
    assert sent(1, (0, 1, bit)) == {"memory": (1, 1, bit), "senders": 2}
    assert sent(1, (1, 1, bit)) == {"senders": 3}
    assert sent(2, (1, 1, bit)) == {"ipi": True, "senders": 3}
    assert after(made, START, actor) is None


def test_ipi_enters_xen_and_is_consumed() -> None:
    for in_xen in (False, True):
        state = START._replace(ipi=True, in_xen=in_xen)
        found = changes(after(machine(), state, Actor.IPI), state)
        assert found == ({"ipi": False} if in_xen else {"ipi": False, "in_xen": True})
    assert after(machine(), START, Actor.IPI) is None


# --- texts ---------------------------------------------------------------------------------------


def text(made: Machine, state: State, actor: Actor) -> str:
    (step,) = made.trace([(state, actor)])
    assert (step.actor, step.after) == (actor, after(made, state, actor))
    return step.text


def test_text_of_steps() -> None:
    made = machine(Instruction(Op.TEST, "read P"))
    own = START._replace(buffers=((((Cell.P, 0), (Cell.M, 1)), ((Cell.S, 0),)), (((Cell.M, 0),), *WAITING)))
    assert text(made, own, Actor.DRAIN) == "P := 0, M := 1 reaches memory"
    assert text(made, own, Actor.DRAIN_HOST) == "M := 0 reaches memory"
    assert text(made, own, Actor.GUEST) == "read P: 0"
    assert text(made, START, Actor.GUEST) == "read P: 1"
    assert text(made, START._replace(buffers=((), WAITING)), Actor.GUEST) == "read P: 1"
    assert text(machine(Instruction(Op.STORE, "M := 0")), START, Actor.GUEST) == "M := 0"
    for which, actor in enumerate((Actor.SEND_B, Actor.SEND_C)):
        told = []
        for done, pending in ((0, 0), (1, 0), (1, 1), (2, 1)):
            senders = (done, 3) if which == 0 else (3, done)
            state = START._replace(senders=senders, memory=(pending, 0, 0))
            told.append(text(made, state, actor))
        assert told == [
            f"lock bts S, bit {which}", "lock bts P: was clear", "lock bts P: was set, so no IPI",
            "sends the IPI",
        ]  # fmt: skip
    assert text(made, START._replace(ipi=True), Actor.IPI) == "takes the IPI, enters Xen"
    handling = START._replace(handling=1)
    assert text(made, handling, Actor.HANDLER) == "handler: xchg S with 0, handle what it held"


@pytest.mark.parametrize(
    ("stable", "buffers", "expected"),
    [
        (True, ((), ()), "exit test, P=1 M=0: M := 1, enters the handler"),
        (True, (WAITING, ()), "exit test, P=0 M=1: returns"),
        (True, ((), WAITING), "exit test, P=1 M=0: M := 1, enters the handler"),
        (False, (WAITING, ()), "exit test, P=1 M=0: M := 1, enters the handler"),
        (False, ((), WAITING), "exit test, P=0 M=1: returns"),
        (True, ((WAITING[0],), ()), "exit test, P=1 M=1: returns"),
    ],
)
def test_text_of_the_exit_test(stable: bool, buffers: Any, expected: str) -> None:
    state = START._replace(in_xen=True, buffers=buffers)
    assert text(machine(stable=stable), state, Actor.XEN) == expected


def test_machine_runs_the_programs_of_its_scenario() -> None:
    made = Machine(Scenario(Protocol.MASK, take=Take.PLAIN), 1)
    assert [step.text for step in made.program] == ["M := 1"]
    assert [step.op for step in made.handler] == [Op.STORE, Op.READ, Op.STORE, Op.IRET]
    assert made.masked == {1}
