"""The programs that the model checker runs, instruction by instruction, and their start states."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from xtrace.symbols.proof.protocols import (
    SAVED,
    Cell,
    Fence,
    Instruction,
    Op,
    Program,
    Protocol,
    Retest,
    Scenario,
    Take,
    Width,
    handler,
    masked_places,
    program,
    scenario_for,
)

MASK, RESTORE, UNMASK = "M := 1", "M := m", "M := 0"


def written(steps: Program) -> list[str]:
    """Return a program's instructions in the notation of this test, from their operations, not their text."""
    return [_written(step) for step in steps]


def _written(step: Instruction) -> str:
    value = "m" if step.value == SAVED else str(step.value)
    store = f"{step.cell.name} := {value}"
    return {
        Op.STORE: store, Op.WIDE_STORE: f"wide {store}", Op.LOCKED_STORE: f"locked {store}",
        Op.SAVE: "save", Op.TEST: "test", Op.CALL_IF_PENDING: "call if pending", Op.CALL: "call",
        Op.DRAIN: "drain", Op.NOTHING: "nothing", Op.TAKE: f"take {step.cell.name}",
        Op.READ: f"read {step.cell.name}", Op.LOCKED_CLEAR: f"locked clear {step.cell.name}",
        Op.IRET: f"iret {store}",
    }[step.op]  # fmt: skip


#: For each protocol: whether it may unmask, its starts (M, saved), its program, and the places
#: (instructions executed so far) where it must not be interrupted.
PROTOCOLS = {
    Protocol.MASK: (False, [(0, 0)], [MASK], {1}),
    Protocol.SAVE_MASK: (False, [(0, 0), (1, 1)], ["save", MASK], {2}),
    Protocol.RESTORE: (True, [(1, 0), (1, 1)], [RESTORE, "test", "call if pending"], {0}),
    Protocol.UNMASK: (True, [(1, 0)], [UNMASK, "test", "call if pending"], {0}),
    Protocol.SECTION: (True, [(0, 0), (1, 1)], ["save", MASK, RESTORE, "test", "call if pending"], {2}),
    Protocol.HANDLER: (False, [(0, 0)], [], set()),
}
OPENING = {protocol: stores for protocol, (opens, _, stores, _) in PROTOCOLS.items() if opens}


@pytest.mark.parametrize("protocol", Protocol)
def test_every_protocol(protocol: Protocol) -> None:
    scenario = Scenario(protocol)
    opens, starts, steps, masked = PROTOCOLS[protocol]
    assert scenario.clears_mask is opens
    assert list(scenario.starts) == starts
    assert written(program(scenario)) == steps
    assert masked_places(program(scenario)) == masked


@pytest.mark.parametrize("protocol", OPENING)
def test_where_pending_is_tested(protocol: Protocol) -> None:
    *before, store, _, _ = OPENING[protocol]
    for retest, steps in {
        Retest.AFTER: [store, "test", "call if pending"],
        Retest.BEFORE: ["test", store, "call if pending"],
        Retest.NONE: [store],
        Retest.XEN_EXIT: [store, "call"],
    }.items():
        assert written(program(Scenario(protocol, retest=retest))) == [*before, *steps]


@pytest.mark.parametrize("protocol", [p for p in Protocol if p not in OPENING])
def test_protocols_that_do_not_unmask_do_not_test(protocol: Protocol) -> None:
    plain = program(Scenario(protocol))
    assert {program(Scenario(protocol, retest=retest)) for retest in Retest} == {plain}


@pytest.mark.parametrize("fence", Fence)
def test_fence_is_at_every_store_of_the_site(fence: Fence) -> None:
    drains = fence in (Fence.MFENCE, Fence.LOCK, Fence.XCHG, Fence.SERIALISING)
    assert fence.drains is drains
    it = [] if fence is Fence.NONE else ["drain" if drains else "nothing"]
    section = Scenario(Protocol.SECTION, fence)
    rest = ["test", "call if pending"]
    assert written(program(section)) == ["save", MASK, *it, RESTORE, *it, *rest]
    first = replace(section, fence_first=True)
    assert written(program(first)) == ["save", *it, MASK, *it, RESTORE, *rest]
    # From the store that sets the mask to the one that clears it.
    assert masked_places(program(section)) == set(range(2, 3 + len(it)))
    assert masked_places(program(first)) == set(range(2 + len(it), 3 + 2 * len(it)))
    own = Scenario(Protocol.HANDLER, fence)
    assert written(handler(own)) == ["P := 0", *it, "take S", "iret M := 0"]
    assert written(handler(replace(own, fence_first=True))) == [*it, "P := 0", "take S", "iret M := 0"]
    # For other protocols, the handler is other code.
    assert written(handler(section)) == ["P := 0", "take S", "iret M := 0"]


@pytest.mark.parametrize(
    ("width", "how"), [(Width.BYTE, ""), (Width.WIDE, "wide "), (Width.LOCKED_WIDE, "locked ")]
)
def test_width_applies_to_the_sites_stores(width: Width, how: str) -> None:
    section = Scenario(Protocol.SECTION, width=width)
    assert written(program(section))[1:3] == [how + MASK, how + RESTORE]
    assert masked_places(program(section)) == {2}
    assert written(program(Scenario(Protocol.UNMASK, width=width)))[0] == how + UNMASK
    assert masked_places(program(Scenario(Protocol.UNMASK, width=width))) == {0}
    assert written(handler(section))[0] == "P := 0"
    assert written(handler(Scenario(Protocol.HANDLER, width=width)))[0] == f"{how}P := 0"


@pytest.mark.parametrize("protocol", Protocol)
def test_how_the_handler_takes_the_selector(protocol: Protocol) -> None:
    for take, steps in {
        Take.XCHG: ["P := 0", "take S"],
        Take.XCHG_FIRST: ["take S", "P := 0"],
        Take.READ: ["P := 0", "read S", "locked clear S"],
        Take.PLAIN: ["P := 0", "read S", "S := 0"],
    }.items():
        assert written(handler(Scenario(protocol, take=take))) == [*steps, "iret M := 0"]


@pytest.mark.parametrize("cell", [Cell.P, Cell.S])
def test_stores_to_other_cells_do_not_mask(cell: Cell) -> None:
    assert masked_places((Instruction(Op.STORE, "", cell, 1), Instruction(Op.TEST, ""))) == set()
    opened = (Instruction(Op.STORE, "", Cell.M, 1), Instruction(Op.STORE, "", cell, 0))
    assert masked_places(opened) == {1, 2}


def test_instruction_defaults() -> None:
    step = Instruction(Op.DRAIN, "mfence")
    assert (step.cell, step.value) == (Cell.M, 0)


def test_cells_index_the_memory() -> None:
    assert [cell.value for cell in (Cell.P, Cell.M, Cell.S)] == [0, 1, 2]
    # SAVED cannot be confused with a value that is stored.
    assert SAVED not in (0, 1)


def test_scenario_for_a_site() -> None:
    for protocol, fence, width, retest in product(Protocol, Fence, Width, Retest):
        found = scenario_for(protocol, fence, width, retest)
        assert found == Scenario(protocol, fence, width=width, retest=retest)
    assert scenario_for(Protocol.UNMASK) == Scenario(Protocol.UNMASK)
    assert scenario_for(Protocol.UNMASK, take=Take.READ).take is Take.READ
    assert scenario_for(Protocol.UNMASK, fence_first=True).fence_first
    assert not scenario_for(Protocol.UNMASK, stable=False).stable
