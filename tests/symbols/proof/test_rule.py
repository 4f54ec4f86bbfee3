"""The fast rule never says that a description is right when the checker says that it is wrong."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from random import Random

import pytest

from builders.generated_sites import (
    BLOCK,
    CALL,
    CLEAR,
    FENCES,
    LOCKED,
    SAVE,
    STARTS,
    STORES,
    SWAP,
    TAKES,
    TEST,
    WIDE,
    described,
    small_sites,
)
from xtrace.symbols.proof import rule
from xtrace.symbols.proof.description import REST, SAVED, Access, Cell, Description, Path, Role
from xtrace.symbols.proof.operational import check
from xtrace.symbols.proof.rule import fault_of, is_right
from xtrace.symbols.proof.templates import (
    IRET,
    TAKE,
    USUAL_HANDLER,
    Fence,
    Protocol,
    Scenario,
    Take,
    Width,
    describe,
)

P, M, S = Cell.P, Cell.M, Cell.S

#: Every description of so many accesses is tried.
SIZE = int(os.environ.get("XTRACE_PROOF_SIZE", "2"))
SEEDS = int(os.environ.get("XTRACE_PROOF_CASES", "800"))


def test_rule_agrees_with_the_checker_on_every_small_site() -> None:
    tried = right = 0
    for description in small_sites(SIZE):
        tried += 1
        if is_right(description):
            right += 1
            assert check(description).holds, description
    assert tried > 4000
    assert right > 20


@pytest.mark.parametrize("part", range(4))
def test_rule_agrees_with_the_checker_on_generated_sites(part: int) -> None:
    right = 0
    for seed in range(part, SEEDS, 4):
        description = described(Random(seed))
        if is_right(description):
            right += 1
            assert check(description).holds, seed
    assert right > 5


def test_rule_knows_the_usual_sites() -> None:
    """They need no search: a kernel has thousands of them."""
    for protocol in (Protocol.MASK, Protocol.RESTORE, Protocol.UNMASK, Protocol.HANDLER):
        for fence in Fence:
            assert is_right(describe(Scenario(protocol, fence)))
    for width in (Width.LOCKED, Width.LOCKED_WIDE):
        assert is_right(describe(Scenario(Protocol.UNMASK, width=width)))


@pytest.mark.parametrize(
    "scenario",
    [
        Scenario(Protocol.UNMASK, width=Width.WIDE),
        Scenario(Protocol.UNMASK, take=Take.READ),
        Scenario(Protocol.UNMASK, take=Take.XCHG_FIRST),
        Scenario(Protocol.UNMASK, stable=False),
        Scenario(Protocol.HANDLER, take=Take.PLAIN),
        Scenario(Protocol.HANDLER, Fence.LFENCE, take=Take.READ),
    ],
    ids=str,
)
def test_faults_come_from_the_checker(scenario: Scenario) -> None:
    description = describe(scenario)
    assert not is_right(description)
    assert fault_of(description) == check(description).fault != ""


def test_fence_before_a_plain_read_of_the_selector_is_enough() -> None:
    description = describe(Scenario(Protocol.HANDLER, Fence.MFENCE, take=Take.READ))
    assert is_right(description)
    assert not is_right(description.without_fences())
    assert not is_right(replace(description, stable=False))


#: The right handlers; the texts of two are those of an image.
READ, LOCKED_AND = TAKES[1]
ENDS = replace(IRET, text="assumed: iret")
HANDLERS: tuple[Path, ...] = (
    USUAL_HANDLER,
    (replace(CLEAR, drains=True), replace(TAKE, text="take S, handle what it held"), IRET),
    (replace(CLEAR, drains=True), READ, LOCKED_AND, IRET),
    (CLEAR, FENCES[1], READ, LOCKED_AND, IRET),
    (FENCES[0], CLEAR, FENCES[1], FENCES[0], READ, FENCES[0], LOCKED_AND, FENCES[0], ENDS),
)
#: What may follow a store that clears M.
ANSWERS: tuple[Path, ...] = (
    (CALL,),
    (replace(TEST, when=((P, 0),)),),
    (replace(TEST, when=((P, 1),)), CALL),
    (replace(TEST, when=((P, 1), (M, 0))), CALL),
    (replace(TEST, when=((P, 1), (M, 1))),),
)
STAYS = Access(when=((M, 1),))


def mask(*paths: Path) -> Description:
    return Description(Role.MASK, paths, (USUAL_HANDLER,), ((0, 0),))


def unmask(*paths: Path) -> Description:
    return Description(Role.OPEN, paths, (USUAL_HANDLER,), ((1, 0),))


def restore(*paths: Path) -> Description:
    return Description(Role.OPEN, paths, (USUAL_HANDLER,), ((1, 0), (1, 1)))


def opening(value: int) -> list[Access]:
    """Return the right stores of a value to M."""
    return [store for store in (*STORES, *LOCKED) if store.written(M) == value]


RIGHT = (
    *(Description(Role.HANDLER, (), (handler,), ((0, 0),)) for handler in HANDLERS),
    *(mask((store,)) for store in opening(1)),
    mask((FENCES[0], STORES[1], FENCES[1], STORES[1])),
    *(unmask(*((store, *answer) for answer in ANSWERS)) for store in opening(0)),
    *(restore(*((store, *answer) for answer in ANSWERS), (store, STAYS)) for store in opening(SAVED)),
    unmask(*((STORES[2], *answer) for answer in ANSWERS)),
    unmask(tuple(part for access in (STORES[0], *ANSWERS[2]) for part in (*FENCES, access))),
    # The thread has not moved, so a pointer that it reads again is the same.
    unmask(
        (STORES[0], replace(ANSWERS[1][0], pointer=1)), (STORES[0], replace(ANSWERS[2][0], pointer=1), CALL)
    ),
)


@pytest.mark.parametrize("description", RIGHT)
def test_rule_knows_the_right_sites(description: Description) -> None:
    assert is_right(description)
    assert check(description).holds


def test_every_right_store_is_among_them() -> None:
    assert [len(opening(value)) for value in (0, 1, SAVED)] == [3, 3, 3]


def test_rule_agrees_with_the_checker_on_every_change_of_a_right_site() -> None:
    tried = right = 0
    for description in dict.fromkeys(changes()):
        tried += 1
        if is_right(description):
            right += 1
            assert check(description).holds, description
    assert tried > 1000
    assert right > 50


def changes() -> Iterator[Description]:
    """Yield descriptions that differ from a right one in a single place."""
    for handler in HANDLERS:
        for other in changed_paths(handler, (STORES[0], FENCES[0], CALL, CLEAR, READ, LOCKED_AND)):
            yield Description(Role.HANDLER, (), (other,), ((0, 0),))
    opened = [(store, *answer) for store in (STORES[0], STORES[2]) for answer in (*ANSWERS, (STAYS,))]
    for path in ((STORES[1],), *opened):
        description = mask(path) if path[0] == STORES[1] else unmask(path)
        for other in changed_paths(
            path, (*WIDE, FENCES[0], SAVE, SWAP, STORES[0], TEST, CALL, STAYS, LOCKED_AND)
        ):
            yield replace(description, paths=(other,))
        for starts in STARTS:
            yield replace(description, starts=starts)


def changed_paths(path: Path, parts: tuple[Access, ...]) -> Iterator[Path]:
    """Yield paths with an access left out, put in, moved or made differently."""
    for place in range(len(path) + 1):
        before, after = path[:place], path[place:]
        yield from ((*before, part, *after) for part in parts)
        if after:
            access, *rest = after
            yield (*before, *rest)
            yield (*rest, access, *before)
            yield from ((*before, other, *rest) for other in changed(access))


def changed(access: Access) -> Iterator[Access]:
    yield replace(access, drains=not access.drains)
    if access.fence:
        return
    for cell in Cell:
        yield replace(access, reads=(cell,))
        yield replace(access, writes=((cell, 0),))
    for value in (0, 1, SAVED, REST):
        yield replace(access, writes=tuple((cell, value) for cell, _ in access.writes))
    yield replace(access, reads=())
    yield replace(access, writes=())
    yield replace(access, when=())
    yield replace(access, xen=not access.xen)


@pytest.mark.parametrize(
    "description",
    [
        # Nothing at all is done, or nothing but a fence.
        unmask(()),
        unmask((FENCES[1],)),
        *(replace(mask((STORES[1],)), handlers=((*part, IRET),)) for part in ((), FENCES, (CLEAR,))),
        # It is the last access of a handler that must be the iret.
        replace(mask((STORES[1],)), handlers=((CLEAR, TAKE, IRET, CALL),)),
        # The event is handled by a block, which opens the mask, or the path goes on after its answer.
        unmask((STORES[0], ANSWERS[2][0], BLOCK)),
        unmask((STORES[0], *ANSWERS[1], STORES[1])),
        unmask((SWAP, STORES[0], CALL)),
        # A path on which nothing is stored is not one that was opened.
        unmask((STAYS,)),
        unmask((CALL,)),
        # A saved value may be 1.
        restore(*((STORES[0], *answer) for answer in ANSWERS)),
        replace(restore((STORES[2], CALL)), starts=((0, 0), (1, 1))),
    ],
)
def test_what_the_rule_does_not_know(description: Description) -> None:
    """Some of it is right: the checker decides."""
    assert not is_right(description)


def test_checker_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def noted(description: Description) -> object:
        asked.append(description)
        return check(description)

    monkeypatch.setattr(rule, "check", noted)
    rule._checked.cache_clear()
    wrong = unmask((STORES[0],))
    assert fault_of(wrong) == fault_of(wrong) == "an upcall is lost"
    assert asked == [wrong]
    assert not fault_of(mask((STORES[1],)))
    assert len(asked) == 1
