"""Each fault has a name, and what has no fault has none."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from builders.generated_sites import small_sites
from xtrace.symbols.proof import faults
from xtrace.symbols.proof.description import REST, SAVED, UNCHANGED, Access, Cell, Description, Role
from xtrace.symbols.proof.faults import Fault, faults_of
from xtrace.symbols.proof.operational import check
from xtrace.symbols.proof.templates import (
    TAKE,
    USUAL_HANDLER,
    Fence,
    Protocol,
    Retest,
    Scenario,
    Take,
    Width,
    describe,
    exchange,
)

P, M, S = Cell.P, Cell.M, Cell.S

STORES = [
    Scenario(protocol, fence, width=width, retest=retest)
    for protocol, fence, width, retest in product(
        (Protocol.MASK, Protocol.UNMASK, Protocol.RESTORE),
        (Fence.NONE, Fence.MFENCE),
        (Width.BYTE, Width.WIDE, Width.LOCKED, Width.LOCKED_WIDE),
        (Retest.AFTER, Retest.BEFORE, Retest.NONE, Retest.XEN_EXIT, Retest.ITSELF),
    )
]
HANDLERS = [Scenario(Protocol.HANDLER, fence, take=take) for fence in Fence for take in Take]


@pytest.mark.parametrize("scenario", [*STORES, *HANDLERS], ids=str)
def test_fault_has_a_name_exactly_if_an_upcall_is_lost(
    scenario: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    description = describe(scenario)
    found = faults_of(description)
    assert bool(found) is not check(description).holds
    assert "lost-upcall" not in {fault.name for fault in found}
    # The names do not depend on the checker.
    monkeypatch.setattr(faults, "fault_of", refuses)
    assert faults_of(description) == found


def refuses(_: Description) -> str:
    raise ValueError("too long")


def names(description: Description) -> list[str]:
    return [fault.name for fault in faults_of(description)]


def test_names() -> None:
    def unmask(**changes: object) -> Description:
        return describe(Scenario(Protocol.UNMASK, **changes))  # type: ignore[arg-type]

    assert names(unmask()) == []
    assert names(unmask(width=Width.WIDE)) == ["wide-store"]
    assert names(unmask(retest=Retest.NONE)) == ["no-pending-test"]
    assert names(unmask(retest=Retest.NONE, width=Width.WIDE)) == ["wide-store", "no-pending-test"]
    assert names(unmask(retest=Retest.BEFORE)) == ["test-before-store"]
    for take, name in (
        (Take.XCHG, []),
        (Take.READ, ["unlocked-handler"]),
        (Take.PLAIN, ["unlocked-handler"]),
        (Take.XCHG_FIRST, ["take-before-clear"]),
        (Take.NONE, ["clear-without-take"]),
    ):
        assert names(describe(Scenario(Protocol.HANDLER, take=take))) == name


def test_handlers_of_the_image_are_not_a_site_s_own_fault() -> None:
    wrong = describe(Scenario(Protocol.UNMASK, take=Take.NONE))
    assert not check(wrong).holds
    assert faults_of(wrong) == ()


def test_fault_on_some_paths_and_its_addresses() -> None:
    right = describe(Scenario(Protocol.UNMASK))
    store = right.paths[0][0]
    some = replace(right, paths=(*right.paths, (store,)))
    assert faults_of(some) == (Fault("no-pending-test", (), False),)
    assert faults_of(replace(right, paths=((store,),))) == (Fault("no-pending-test", (), True),)
    early = [Access((P,), when=((P, 0),), address=address) for address in (0x30, 0x10)]
    before = replace(right, paths=tuple((test, store) for test in early))
    assert faults_of(before) == (Fault("test-before-store", (0x10, 0x30), True),)
    # A path on which the mask stays set owes no test, and shows none either.
    stays = Access(when=((M, 1),))
    restore = describe(Scenario(Protocol.RESTORE))
    opens = replace(store, writes=((M, -1),))
    assert faults_of(replace(restore, paths=((opens, stays),))) == ()
    assert faults_of(replace(restore, paths=((opens, stays), (opens,)))) == (Fault("no-pending-test"),)


def test_unlocked_take_has_its_addresses() -> None:
    right = describe(Scenario(Protocol.HANDLER, take=Take.READ)).handlers[0]
    clear, read, rest, end = right
    paths = tuple((clear, replace(read, address=address), rest, end) for address in (0x20, 0x10))
    found = faults_of(Description(Role.HANDLER, (), paths, ((0, 0),)))
    assert found == (Fault("unlocked-handler", (0x10, 0x20)),)


@pytest.mark.parametrize("value", [0, UNCHANGED])
def test_plain_store_to_the_selector(value: int) -> None:
    usual = describe(Scenario(Protocol.MASK))
    plain = replace(usual, paths=((Access(writes=((S, value),), address=0x10),),))
    assert not check(plain).holds
    assert faults_of(plain) == (Fault("unlocked-handler", (0x10,)),)


def test_fault_without_a_name_is_still_one() -> None:
    """The finder makes no such description."""
    assert any(names(one) == ["lost-upcall"] for one in small_sites(1))


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no description checked, as if all were too long."""
    monkeypatch.setattr(faults, "fault_of", refuses)


@pytest.mark.usefixtures("unchecked")
def test_names_of_paths_without_the_checker() -> None:
    store = Access(writes=((M, SAVED),))
    stays = Access(when=((M, 1),))
    right = replace(describe(Scenario(Protocol.RESTORE)), paths=((store, stays),))
    assert faults_of(right) == ()
    for when in (((M, 0),), ()):
        assert names(replace(right, paths=((store, replace(stays, when=when)),))) == ["no-pending-test"]
    # An exchange that finds P set clears it, and takes S itself.
    opened, failed = (replace(path[0], writes=((P, 0), *path[0].writes[1:])) for path in exchange())
    assert faults_of(replace(right, paths=((opened,), (failed, TAKE)))) == ()


@pytest.mark.parametrize("locked", [False, True])
def test_only_what_is_wrong_has_its_address(locked: bool) -> None:
    usual = describe(Scenario(Protocol.MASK))
    masks = Access(writes=((M, 1),), address=0x10)
    plain = Access(writes=((S, 0),), drains=locked, address=0x20)
    expected = () if locked else (Fault("unlocked-handler", (0x20,)),)
    assert tuple(faults._of_site(replace(usual, paths=((masks, plain),)))) == expected


CLEAR, TAKEN, IRET = (replace(access, address=at) for at, access in enumerate(USUAL_HANDLER, 0x10))
FENCE = Access(drains=True, fence="mfence", address=0x20)
READ = Access((S,), address=0x21)
LOCKED_AND = Access(writes=((S, REST),), drains=True, address=0x22)
PLAIN = Access(writes=((S, 0),), address=0x23)
WORK = Access(writes=((M, 1),), address=0x24)


@pytest.mark.usefixtures("unchecked")
@pytest.mark.parametrize(
    ("handler", "expected"),
    [
        ((CLEAR, TAKEN, IRET), ()),
        ((CLEAR, FENCE, READ, LOCKED_AND, IRET), ()),
        ((CLEAR, FENCE, WORK, READ, LOCKED_AND, IRET), ()),
        ((WORK, WORK, CLEAR, WORK, FENCE, READ, LOCKED_AND, IRET), ()),
        ((replace(CLEAR, drains=True), WORK, WORK, READ, LOCKED_AND, IRET), ()),
        ((CLEAR, WORK, WORK, TAKEN, IRET), ()),
        # What drains comes too late, or too early.
        ((CLEAR, READ, FENCE, LOCKED_AND, IRET), (Fault("unlocked-handler", (0x21,)),)),
        ((FENCE, FENCE, CLEAR, WORK, READ, LOCKED_AND, IRET), (Fault("unlocked-handler", (0x21,)),)),
        # The selector is cleared after it was taken.
        ((CLEAR, TAKEN, PLAIN, WORK, IRET), (Fault("unlocked-handler", (0x23,)),)),
        ((CLEAR, FENCE, READ, PLAIN, IRET), (Fault("unlocked-handler", (0x23,)),)),
        ((READ, WORK, CLEAR, WORK, IRET), (Fault("take-before-clear", (0x21,)),)),
        ((WORK, CLEAR, WORK, IRET), (Fault("clear-without-take"),)),
    ],
)
def test_order_in_a_handler(handler: tuple[Access, ...], expected: tuple[Fault, ...]) -> None:
    assert faults_of(Description(Role.HANDLER, (), (handler,), ((0, 0),))) == expected


@pytest.mark.usefixtures("unchecked")
def test_worst_of_several_handlers() -> None:
    early, without, plain = (TAKEN, CLEAR, IRET), (CLEAR, IRET), (CLEAR, READ, LOCKED_AND, IRET)
    for handlers, name in (
        ((without, early), "take-before-clear"),
        ((early, without), "take-before-clear"),
        ((early, without, plain), "unlocked-handler"),
        ((without, USUAL_HANDLER), "clear-without-take"),
    ):
        assert names(Description(Role.HANDLER, (), handlers, ((0, 0),))) == [name]
