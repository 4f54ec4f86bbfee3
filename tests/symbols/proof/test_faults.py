"""Each fault has a name, and what has no fault has none."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest

from builders.generated_sites import small_sites
from xtrace.symbols.proof import faults
from xtrace.symbols.proof.description import REST, UNCHANGED, Access, Cell, Description, Role
from xtrace.symbols.proof.faults import Fault, faults_of
from xtrace.symbols.proof.operational import check
from xtrace.symbols.proof.templates import Fence, Protocol, Retest, Scenario, Take, Width, describe

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
def test_fault_has_a_name_exactly_if_an_upcall_is_lost(scenario: Scenario) -> None:
    description = describe(scenario)
    found = faults_of(description)
    assert bool(found) is not check(description).holds
    assert "lost-upcall" not in {fault.name for fault in found}


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
    found = next(one for one in small_sites(1) if not check(one).holds and not list(faults._named(one)))
    own = replace(found, handlers=describe(Scenario(Protocol.MASK)).handlers)
    if not check(own).holds:
        assert names(own) == ["lost-upcall"]


def test_names_without_the_checker(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(_: Description) -> str:
        raise ValueError("too long")

    monkeypatch.setattr(faults, "fault_of", refuses)
    assert names(describe(Scenario(Protocol.UNMASK, retest=Retest.NONE))) == ["no-pending-test"]
    assert names(describe(Scenario(Protocol.UNMASK))) == []
    assert REST < 0
