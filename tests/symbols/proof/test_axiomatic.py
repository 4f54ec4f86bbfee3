"""The axiomatic checker agrees with the operational one on templates, generated sites and planted bugs."""

from __future__ import annotations

import functools
import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from random import Random

import pytest

from builders.generated_sites import described
from xtrace.symbols.proof import axiomatic, operational
from xtrace.symbols.proof.description import Access, Cell, Description, Path, Role
from xtrace.symbols.proof.templates import (
    Fence,
    Protocol,
    Retest,
    Scenario,
    Take,
    Width,
    describe,
)

pytest.importorskip("z3")

#: One change each to what is otherwise right; some are faults, some are not.
CHANGES: tuple[dict[str, object], ...] = (
    {},
    {"width": Width.WIDE},
    {"width": Width.LOCKED},
    {"width": Width.LOCKED_WIDE},
    {"width": Width.EXCHANGE, "retest": Retest.ITSELF},
    {"retest": Retest.ITSELF},
    {"retest": Retest.BEFORE},
    {"retest": Retest.NONE},
    {"retest": Retest.XEN_EXIT},
    {"take": Take.READ},
    {"take": Take.PLAIN},
    {"take": Take.XCHG_FIRST},
    {"take": Take.NONE},
    {"stable": False},
    {"fence_first": True},
)
#: How many generated sites: in CI a slice, in the nightly run all that are wanted.
CASES = int(os.environ.get("XTRACE_PROOF_CASES", "20"))
PER_TEST = 10
PARTS = 8


def scenarios() -> Iterator[Scenario]:
    """Yield every template that differs from a right one in one place, with and without a fence."""
    for protocol in Protocol:
        for fence in (Fence.NONE, Fence.LFENCE, Fence.MFENCE):
            for change in CHANGES:
                yield replace(Scenario(protocol, fence), **change)  # type: ignore[arg-type]


DESCRIPTIONS = {describe(scenario): str(scenario) for scenario in scenarios()}


@functools.cache
def operational_fault(description: Description) -> str:
    return operational.check(description).fault


@pytest.mark.parametrize(
    "part", [0, *(pytest.param(part, marks=pytest.mark.nightly) for part in range(1, PARTS))]
)
def test_both_checkers_agree_on_every_template(part: int) -> None:
    """About 170 of them, each with and without its fence; one part in CI, all in the nightly run."""
    assert len(DESCRIPTIONS) > 150
    for description in list(DESCRIPTIONS)[part::PARTS]:
        found = axiomatic.check(description)
        assert found.holds is not bool(operational_fault(description)), DESCRIPTIONS[description]
        assert found.holds is (not found.fault)


@pytest.mark.parametrize("first", range(0, CASES, PER_TEST))
def test_both_checkers_agree_on_generated_sites(first: int) -> None:
    for seed in range(first, min(first + PER_TEST, CASES)):
        description = described(Random(seed))
        assert axiomatic.check(description).holds is not bool(operational_fault(description)), seed


def test_generated_sites_are_right_and_wrong_and_small() -> None:
    seen = Counter[tuple[Role, bool]]()
    for seed in range(150):
        description = described(Random(seed))
        assert all(len(path) <= 5 for path in description.paths)
        assert all(len(path) <= 5 for path in description.handlers)
        seen[description.role, bool(operational_fault(description))] += 1
    assert min(seen[role, faulty] for role in Role for faulty in (False, True)) >= 5


# --- planted bugs: a site that is right, and one change to its accesses ------------------------------------

P, M, S = Cell.P, Cell.M, Cell.S
CLEAR, TAKE, IRET = describe(Scenario(Protocol.HANDLER)).handlers[0]
STORE = Access(writes=((M, 0),))
SEEN, UNSEEN = Access((P,), when=((P, 1),)), Access((P,), when=((P, 0),))
CALL = Access(xen=True)


def unmask(*paths: Path, handler: Path = (CLEAR, TAKE, IRET), stable: bool = True) -> Description:
    return Description(Role.OPEN, paths, (handler,), ((1, 0),), stable)


RIGHT = unmask((STORE, SEEN, CALL), (STORE, UNSEEN))
PLANTED = {
    "no test": unmask((STORE,)),
    "test before the store": unmask((SEEN, STORE, CALL), (UNSEEN, STORE)),
    "pending ignored": unmask((STORE, SEEN), (STORE, UNSEEN)),
    "a store that writes pending back": unmask(
        (replace(STORE, writes=((P, -2), (M, 0))), SEEN, CALL),
        (replace(STORE, writes=((P, -2), (M, 0))), UNSEEN),
    ),
    "a store that clears pending": unmask(
        (replace(STORE, writes=((P, 0), (M, 0))), SEEN, CALL),
        (replace(STORE, writes=((P, 0), (M, 0))), UNSEEN),
    ),
    "another CPU's pointer": replace(RIGHT, stable=False),
    "the selector is taken first": replace(RIGHT, handlers=((TAKE, CLEAR, IRET),)),
    "the selector is never taken": replace(RIGHT, handlers=((CLEAR, IRET),)),
    "the selector is read without a lock": replace(
        RIGHT, handlers=((CLEAR, Access((S,)), Access(writes=((S, -3),), drains=True), IRET),)
    ),
    "the selector is cleared by a plain store": replace(
        RIGHT,
        handlers=(
            (CLEAR, Access(drains=True, fence="mfence"), Access((S,)), Access(writes=((S, 0),)), IRET),
        ),
    ),
    "one of two handlers is wrong": replace(RIGHT, handlers=((CLEAR, TAKE, IRET), (TAKE, CLEAR, IRET))),
}


def test_both_find_nothing_in_the_right_site() -> None:
    assert operational.check(RIGHT).holds
    assert axiomatic.check(RIGHT).holds


@pytest.mark.parametrize("name", PLANTED)
def test_both_find_each_planted_bug(name: str) -> None:
    description = PLANTED[name]
    assert not operational.check(description).holds
    found = axiomatic.check(description)
    assert not found.holds
    assert found.fault in (axiomatic.LOST, axiomatic.FORBIDDEN)


def test_both_agree_on_nested_upcalls() -> None:
    opens = Access(writes=((M, 0),))
    for handler in ((CLEAR, TAKE, opens, IRET), (CLEAR, opens, TAKE, IRET), (opens, CLEAR, TAKE, IRET)):
        nested = replace(RIGHT, handlers=(handler,))
        assert axiomatic.check(nested).holds is operational.check(nested).holds


LFENCE = Access(fence="lfence")


@pytest.mark.parametrize(
    ("path", "holds"),
    [
        ((STORE, CALL), True),
        ((LFENCE, STORE, CALL), True),
        ((LFENCE, LFENCE, STORE, CALL), True),
        ((*[LFENCE] * 15, STORE, CALL), True),
        ((CALL, STORE), False),
        ((LFENCE, CALL, STORE), False),
        ((LFENCE, LFENCE, CALL, LFENCE, STORE), False),
        ((LFENCE, CALL, STORE, LFENCE, CALL), True),
    ],
)
def test_exit_test_of_a_hypercall_is_at_its_place(path: Path, holds: bool) -> None:
    """It sees what the site has stored before it, and not what it stores later."""
    assert operational.check(unmask(path)).holds is holds
    assert axiomatic.check(unmask(path)).holds is holds


def test_block_opens_the_mask_of_the_vcpu_that_makes_it() -> None:
    """The thread has moved: its own vCPU blocks, and the mask that the site cleared stays as it is."""
    block = Access(writes=((M, 0),), xen=True)
    moved = unmask((block,), stable=False)
    assert operational.check(moved).holds
    assert axiomatic.check(moved).holds
    assert not operational.check(unmask((STORE, block), stable=False)).holds
    assert not axiomatic.check(unmask((STORE, block), stable=False)).holds


@pytest.mark.parametrize("stable", [True, False])
def test_pointer_that_is_read_again_is_anothers_only_if_the_thread_has_moved(stable: bool) -> None:
    again = unmask(
        *(tuple(replace(one, pointer=int(bool(one.reads))) for one in path) for path in RIGHT.paths),
        stable=stable,
    )
    assert operational.check(again).holds is stable
    assert axiomatic.check(again).holds is stable
    # A store through it leaves the first vCPU's mask as it is.
    store = unmask((replace(STORE, pointer=1),), stable=stable)
    assert operational.check(store).holds is not stable
    assert axiomatic.check(store).holds is not stable


def test_query_is_text_that_another_solver_can_read() -> None:
    text = axiomatic.query(RIGHT, RIGHT.paths[0])
    lines = text.splitlines()
    assert all(line.startswith(("(declare-const ", "(assert ")) for line in lines)
    assert text.count("(") == text.count(")")
    # po, rf, co, fr and what an exit test enters each have a part in it.
    assert "rf_x0_P_p0" in text
    assert "e_x0_0" in text
    assert "g_x0" in text
    assert "t_a0" in text


OPENS = Access(writes=((M, 0),))
MASKS = Access(writes=((M, 1),))
LOCKED_WIDE = Access(writes=((P, -2), (M, 0)), drains=True)


def mask(*path: Access, stable: bool = True) -> Description:
    return Description(Role.MASK, (path,), ((CLEAR, TAKE, IRET),), ((0, 0),), stable)


@pytest.mark.parametrize(
    ("description", "fault"),
    [
        # An upcall inside a handler that opens the mask ends before the handler goes on.
        (
            unmask((LOCKED_WIDE, SEEN, CALL), (LOCKED_WIDE, UNSEEN), handler=(CLEAR, TAKE, OPENS, IRET)),
            "",
        ),
        # The exit test of a hypercall in a handler is before the iret, however long the handler is.
        (unmask(*RIGHT.paths, handler=(CLEAR, TAKE, CALL, IRET)), ""),
        (unmask(*RIGHT.paths, handler=(CLEAR, TAKE, *[LFENCE] * 6, CALL, IRET)), ""),
        # What is read from the mask later says nothing about what was masked before.
        (mask(MASKS, Access((M,))), ""),
        # Another CPU opens the mask of a handler that runs.
        (mask(OPENS, stable=False), axiomatic.FORBIDDEN),
    ],
)
def test_both_find_the_same(description: Description, fault: str) -> None:
    assert operational.check(description).fault == fault
    assert axiomatic.check(description).fault == fault


def test_handler_runs_once_more_for_each_pending_that_may_be_written_back() -> None:
    wide = (LOCKED_WIDE, LOCKED_WIDE)
    for path, runs in ((RIGHT.paths[0], 2), (wide[:1], 3), (wide, 4)):
        text = axiomatic.query(unmask(path), path)
        assert f"(declare-const s{runs - 1} Bool)" in text
        assert f"(declare-const s{runs} Bool)" not in text


def test_relations_of_two_handlers() -> None:
    """Paths of one run exclude each other, those of two runs do not; the writes to a cell have an order."""
    two = replace(RIGHT, handlers=((CLEAR, TAKE, IRET), (replace(CLEAR, drains=True), TAKE, IRET)))
    text = axiomatic.query(two, two.paths[0])
    assert "rf_h1_1_1_S_h0_0_1" in text
    assert "rf_h0_1_1_S_h0_0_1" not in text
    assert "(distinct g_init g_p0)" in text
    assert "(distinct g_p0 g_p1)" in text


def test_place_of_a_test_beside_a_site_on_another_cpu() -> None:
    encoding = axiomatic._Encoding(unmask((SEEN, STORE), stable=False), (SEEN, STORE))
    assert encoding._executed(0, "t") == "(and (> g_a0r t) (> g_a1w t))"
    assert encoding._executed(1, "t") == "(and (< g_a0r t) (> g_a1w t))"
    # A store may wait in the buffer.
    assert encoding._executed(2, "t") == "(< g_a0r t)"


def test_events_of_a_long_handler_are_in_program_order() -> None:
    path = RIGHT.paths[0]
    long = unmask(path, handler=(CLEAR, TAKE, *[LFENCE] * 12, CALL, IRET))
    events = [event for event in axiomatic._Encoding(long, path).events if event.group == "s0h0"]
    assert [event.name for event in events] == ["h0_0_0w", "h0_0_1", "xh0_0_14", "h0_0_15w", "xh0_0_15"]
    ranks = [event.rank for event in events]
    assert ranks == sorted(set(ranks))


def test_terms() -> None:
    values = [axiomatic._written({}, {}, S, value) for value in range(4)]
    assert values == [("false", "false"), ("true", "false"), ("false", "true"), ("true", "true")]
    assert [axiomatic._is(("a", "b"), value) for value in (0, 2)] == [
        "(and (not a) (not b))",
        "(and (not a) b)",
    ]
