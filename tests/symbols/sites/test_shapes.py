"""Shapes met in real kernels, each with the right answer in full.

The sources are in tests/symbols/guests/shapes; each says where its shape was met.
"""

from __future__ import annotations

from functools import cache

import pytest

from builders.shapes import built, shapes
from xtrace.symbols.image.image import open_image
from xtrace.symbols.listing.explain import explain
from xtrace.symbols.sites.finder import find_sites
from xtrace.symbols.sites.model import Site

#: By source and function: kind, verdict and hazards of each site, in address order.  "no fence" is left out.
RIGHT: dict[str, dict[str, list[str]]] = {
    "k7b_take_first.c": {
        "take_first": ["selector take keep", "pending clear take-before-clear"],
        "local_irq_enable": ["unmask undecided", "pending test", "force callback"],
    },
    "k11_swap.c": {
        "restore_seqcst": ["restore replaceable", "pending test", "force callback"],
        "restore_plain": ["restore", "pending test", "force callback"],
        "suse_save_and_mask": ["mask replaceable"],
    },
    "k10_atomics.c": {
        "seqcst_unmask": ["unmask replaceable", "pending test", "force callback"],
        "release_unmask": ["unmask", "pending test", "force callback"],
        "swap_mask": ["mask replaceable"],
        "swap_restore": ["restore replaceable", "pending test", "force callback"],
        "and_unmask": ["unmask replaceable", "pending test", "force callback"],
        "or_mask": ["mask replaceable"],
        "btr_word": ["unmask replaceable", "pending test", "force callback"],
        "take": ["pending clear keep", "selector take keep"],
        "thread_fence_unmask": ["unmask removable", "pending test", "force callback"],
    },
    "k14_freebsd.c": {
        "sti_indexed": ["unmask unstable-pointer", "pending test", "force callback"],
        "sti_indexed_twice": ["unmask removable unstable-pointer", "pending test", "force callback"],
        "sti_ptr_twice": ["unmask removable unstable-pointer", "pending test", "force callback"],
        "sti_ptr_once": ["unmask removable unstable-pointer", "pending test", "force callback"],
        "cli_indexed": ["mask unstable-pointer"],
        "upcall": ["pending clear keep", "selector take keep"],
        "unmask_other": ["unmask removable unstable-pointer", "pending test", "force callback"],
    },
    "k2_illumos.S": {
        "cli_fn": ["mask"],
        "cliret_fn": ["save", "mask"],
        "sti_fn": ["unmask replaceable unstable-pointer", "force callback"],
        "xen_callback_handler": ["pending clear keep", "selector take keep"],
        "xen_callback_handler2": ["pending clear keep", "selector take keep", "pending test"],
    },
    "k2b_illumos_learn.S": {
        "cli_fn": ["mask"],
        "cliret_fn": ["save", "mask"],
        "sti_fn": ["unmask replaceable unstable-pointer", "force callback"],
        "sti_plain": ["unmask unstable-pointer", "pending test", "force callback"],
        "xen_callback_handler": ["pending clear keep", "selector take keep"],
        "xen_callback_handler2": ["pending clear keep", "selector take keep", "pending test"],
    },
    "k20_i386.S": {
        "sti": ["unmask replaceable unstable-pointer", "force callback"],
        "sti2": ["unmask unstable-pointer", "pending test", "force callback"],
        "cli": ["mask unstable-pointer"],
        "up": ["pending clear keep", "selector take keep"],
        "up2": ["pending clear keep", "selector take keep", "pending test"],
    },
    "k1_linux_andw_bug.S": {
        "xen_irq_enable_direct": ["unmask wide-store"],
        "xen_irq_disable_direct": ["mask"],
        "xen_force_evtchn_callback": ["force callback"],
        "xen_evtchn_do_upcall": ["pending clear keep", "selector take keep"],
    },
    "i386-lea-nop-in-callee.s": {
        "f": ["save", "mask", "restore", "pending test"],
        "force": ["force callback"],
        "k": ["unmask", "pending test"],
    },
    "fallthrough-into-symbol.s": {
        "doreti": ["mask", "unmask no-pending-test", "unmask"],
        "scrit": ["pending test"],
        "pending": ["mask"],
        "handler": ["pending clear keep", "selector take keep"],
    },
    "unbalanced-entered-masked.s": {
        "do_event": [
            "unmask unstable-pointer", "pending test", "force callback", "mask unstable-pointer",
        ],
    },
    "unbalanced-iret.s": {
        "Xsyscall": ["unmask unstable-pointer", "mask unstable-pointer", "unmask unstable-pointer"],
        "x86_enable_intr": ["unmask unstable-pointer", "pending test", "force callback"],
    },
    "unmask-then-branch-to-iret.s": {"f": ["unmask"], "g": ["unmask"]},
    "wide-constant-merge.s": {
        "do_evtchn": ["mask wide-store"],
        "k": ["unmask", "pending test", "force callback"],
    },
    "cpu-index-unstable.s": {
        "f1": ["unmask unstable-pointer", "pending test", "force callback"],
        "f2": ["unmask unstable-pointer", "pending test", "force callback"],
    },
    "selector-plain-clear.s": {
        "unbind_all": ["pending clear unlocked-handler", "selector set unlocked-handler"],
        "k": ["unmask undecided", "pending test", "force callback"],
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def sites_of(tmp_path_factory: pytest.TempPathFactory) -> object:
    folder = tmp_path_factory.mktemp("shapes")

    @cache
    def of(name: str) -> tuple[Site, ...]:
        return find_sites(open_image(built(folder, name))).sites

    return of


def said(site: Site) -> str:
    verdict = "" if site.verdict == "no fence" else f" {site.verdict}"
    return f"{site.kind}{verdict}{''.join(f' {hazard.name}' for hazard in site.hazards)}"


@pytest.mark.parametrize("name", RIGHT)
def test_shape(sites_of: object, name: str) -> None:
    assert callable(sites_of)
    found: dict[str, list[str]] = {}
    for site in sites_of(name):
        found.setdefault(site.symbol, []).append(said(site))
    assert found == RIGHT[name]


def test_no_source_is_left_out() -> None:
    assert set(shapes()) == set(RIGHT)


def test_unmask_and_branch_is_covered_by_iret(sites_of: object) -> None:
    assert callable(sites_of)
    for site in sites_of("unmask-then-branch-to-iret.s"):
        assert site.exit.startswith("HYPERVISOR_iret at ")


def test_cpu_is_read_again_only_where_it_is(sites_of: object) -> None:
    assert callable(sites_of)
    again = {site.symbol for site in sites_of("k14_freebsd.c") if site.reread}
    assert again == {"sti_indexed_twice", "sti_ptr_twice"}
    for site in sites_of("k14_freebsd.c"):
        if site.description is None:
            continue
        through = {access.pointer for access in site.description.accesses() if access.reads}
        assert (through == {1}) is (site.symbol in again)
        text = " ".join(" ".join(explain(site)).split())
        assert ("through a pointer read again" in text) is (site.symbol in again)
        assert ("No proof: the store and the pending test may be on" in text) is (site.symbol in again)


def test_merged_store_says_that_it_also_clears_pending(sites_of: object) -> None:
    assert callable(sites_of)
    (site,) = (one for one in sites_of("wide-constant-merge.s") if one.symbol == "do_evtchn")
    assert "also clears pending" in site.hazards[0].reason
