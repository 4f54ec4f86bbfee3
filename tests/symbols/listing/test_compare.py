"""Comparison of two site tables: sites match by symbol, kind and order, whatever their addresses."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from builders.made_sites import BASE, fence, site, table
from xtrace.symbols.flow.walk import Paths
from xtrace.symbols.listing.compare import compare, fence_words
from xtrace.symbols.sites.model import Cpu, Fence, Hazard, How, Kind, Site, Verdict

LFENCE = ("lfence", "callee", "x86_lfence")


def moved(was: Site, by: int) -> Site:
    """Return a site at another address, as in another build."""
    return replace(was, address=was.address + by, pending_tests=tuple(a + by for a in was.pending_tests))


def test_moved_sites_count_as_the_same() -> None:
    sites = [site("a", 4), site("a", 8, Kind.MASK), site("b", 2, fences=(fence(),)), site("", 0)]
    found = compare(table(*sites), table(*(moved(one, 0x40) for one in sites)))
    assert found.same_count == 4
    assert (found.gone, found.added, found.changed) == ((), (), ())
    assert (found.fences_removed, found.fences_added) == ((), ())


def test_removed_fence() -> None:
    old = site("spllower", 0x12, fences=(fence(), fence("mfence", "")))
    new = site("spllower", 0x10, fences=(fence("mfence", ""),))
    found = compare(table(old), table(new))
    assert (found.same_count, found.gone, found.added) == (0, (), ())
    (change,) = found.changed
    assert (change.old, change.new) == (old, new)
    assert change.differences == ("fence gone: lfence in x86_lfence",)
    assert (found.fences_removed, found.fences_added) == ((LFENCE,), ())


def test_call_that_became_a_jump_is_the_same_fence() -> None:
    old, new = (site(fences=(fence(how=how),)) for how in (How.CALLEE, How.TAIL_JUMP))
    assert compare(table(old), table(new)).same_count == 1


def test_fence_counts_include_sites_gone_and_new() -> None:
    old = table(site("gone", fences=(fence(), fence())), site("stays", fences=(fence("mfence", ""),)))
    new = table(site("new", fences=(fence("sfence", ""),)), site("stays", fences=(fence("lock add", ""),)))
    found = compare(old, new)
    assert [one.symbol for one in found.gone] == ["gone"]
    assert [one.symbol for one in found.added] == ["new"]
    assert found.fences_removed == (LFENCE, LFENCE, ("mfence", "inline", ""))
    assert found.fences_added == (("lock add", "inline", ""), ("sfence", "inline", ""))
    assert found.changed[0].differences == ("fence gone: mfence inline", "fence new: lock add inline")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"width_bytes": 4}, "width: 1 -> 4 bytes"),
        ({"verdict": Verdict.KEEP}, "verdict: no fence -> keep"),
        ({"cpu": Cpu.OTHER}, "pointer: running CPU, preemption off -> any CPU"),
        ({"pending_paths": Paths.SOME}, "pending test after it: on all paths -> some paths"),
        ({"hazards": (Hazard("wide-store", "it covers P"),)}, "hazard new: wide-store"),
    ],
)
def test_other_differences(changes: dict[str, Any], said: str) -> None:
    new = site(**changes)
    assert compare(table(site()), table(new)).changed[0].differences == (said,)
    (back,) = compare(table(new), table(site())).changed
    assert len(back.differences) == 1


def test_kinds_of_one_symbol_are_compared_separately() -> None:
    old = table(site("f", 1, Kind.MASK), site("f", 2, Kind.RESTORE), site("f", 3, Kind.DEBUG_READ))
    new = table(site("f", 1, Kind.RESTORE), site("f", 2, Kind.PENDING_TEST))
    found = compare(old, new)
    assert found.same_count == 1
    assert [one.kind for one in found.gone] == [Kind.MASK]
    assert [one.kind for one in found.added] == [Kind.PENDING_TEST]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (site("_spllower", aliases=("spllower",)), site("spllower")),
        (site("spllower"), site("Xspllower", aliases=("spllower",))),
        (site("a", aliases=("c",)), site("b", aliases=("c",))),
        (site("f.isra.0"), site("f.isra.3")),
        (site("f"), site("f.constprop.0.isra.1")),
    ],
)
def test_symbol_with_another_name_matches(old: Site, new: Site) -> None:
    found = compare(table(old), table(new))
    assert (found.same_count, found.gone, found.added) == (1, (), ())


def test_name_in_both_images_is_not_an_alias_of_another() -> None:
    old = table(site("a", aliases=("b",)), site("b", 0x20))
    new = table(site("b", 0x30))
    found = compare(old, new)
    assert [one.symbol for one in found.gone] == ["a"]
    assert found.same_count == 1


@pytest.mark.parametrize("removed", range(5))
def test_site_removed_from_many_is_the_one_gone(removed: int) -> None:
    texts = [f"movb $0x0,0x1(%r{register})" for register in (8, 9, 10, 11, 12)]
    old = [site("f", 16 * place, text=text) for place, text in enumerate(texts)]
    new = [moved(one, 0x100) for place, one in enumerate(old) if place != removed]
    found = compare(table(*old), table(*new))
    assert found.gone == (old[removed],)
    assert (found.same_count, found.added, found.changed) == (4, (), ())


def test_each_site_is_reported_once_whatever_changed() -> None:
    chance = random.Random(7)
    for _ in range(200):
        old, new = (
            table(
                *(
                    site(
                        chance.choice("abcd"),
                        place,
                        chance.choice([Kind.MASK, Kind.UNMASK]),
                        text=chance.choice("xy"),
                        fences=(fence(),) * chance.randrange(3),
                    )
                    for place in range(chance.randrange(12))
                )
            )
            for _ in range(2)
        )
        found = compare(old, new)
        both = found.same_count + len(found.changed)
        assert both + len(found.gone) == len(old.sites)
        assert both + len(found.added) == len(new.sites)
        fences = [sum(len(one.fences) for one in side.sites) for side in (old, new)]
        assert fences[0] - len(found.fences_removed) + len(found.fences_added) == fences[1]
        addresses = [one.address for one in found.gone]
        assert addresses == sorted(addresses)


def test_many_sites_without_symbols_are_compared_quickly() -> None:
    """Long lists are not aligned, because that takes time in the product of their lengths."""
    old = table(*(site("", place, text=str(place % 3)) for place in range(3000)))
    new = table(*(site("", place, text=str(place % 5)) for place in range(2999)))
    found = compare(old, new)
    assert len(found.gone) == 1


@pytest.mark.parametrize(
    ("one", "words"),
    [
        (fence(), "lfence call x86_lfence"),
        (fence(how=How.TAIL_JUMP), "lfence jump x86_lfence"),
        (fence("lock add", ""), "lock add inline"),
        (fence("xchg", "", position="access", address=BASE), "xchg inline"),
    ],
)
def test_fence_words(one: Fence, words: str) -> None:
    assert fence_words(one) == words
