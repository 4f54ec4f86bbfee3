"""Map a site to a scenario of the model, so that its interleavings can be searched."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from xtrace.symbols.flow.walk import Paths
from xtrace.symbols.proof import protocols
from xtrace.symbols.proof.protocols import Protocol, Retest, Scenario, Take, Width, scenario_for
from xtrace.symbols.sites.model import Cpu, Fence, Kind, Site, Verdict

_PROTOCOLS = {
    Kind.MASK: Protocol.MASK,
    Kind.RESTORE: Protocol.RESTORE,
    Kind.UNMASK: Protocol.UNMASK,
    Kind.PENDING_CLEAR: Protocol.HANDLER,
    Kind.SELECTOR_TAKE: Protocol.HANDLER,
}


def scenario_of(site: Site, others: Iterable[Site]) -> Scenario | None:
    """Return the scenario of a site, None if it has no store that could lose an upcall.

    If paths differ, the scenario is that of the worst one.  Like the verdict, it assumes that the pointer
    is the hosting CPU's; unstable() returns the scenario for a pointer that is not.

    Args:
        others: all sites of the image, because its handlers matter too.
    """
    protocol = _PROTOCOLS.get(site.kind)
    if protocol is None:
        return None
    take = _take(site, others)
    fence = _fence(site, take is Take.XCHG)
    hazards = {hazard.name for hazard in site.hazards}
    if site.kind is Kind.RESTORE and not _may_open(site, hazards):
        protocol = Protocol.MASK
    return scenario_for(
        protocol,
        _kind(fence),
        _width(site),
        _retest(site, hazards),
        take=take,
        fence_first=fence is not None and fence.position == "before",
    )


#: How a handler with a hazard takes S.  The selector that a plain store writes is not always a handler's.
_TAKES = {
    "unlocked-handler": Take.READ,
    "take-before-clear": Take.XCHG_FIRST,
    "clear-without-take": Take.NONE,
}


def _take(site: Site, others: Iterable[Site]) -> Take:
    """Return how the upcall's handler takes S: the site's own, or else a handler with a hazard, if any."""
    for candidates in ((site,), others):
        names = {
            hazard.name
            for other in candidates
            if other.kind is not Kind.SELECTOR_SET
            for hazard in other.hazards
        }
        for name, take in _TAKES.items():
            if name in names:
                return take
    return Take.XCHG


def _may_open(site: Site, hazards: set[str]) -> bool:
    """Return whether a restore may store 0: one that cannot is neither tested nor a hazard."""
    tested = site.pending_paths is Paths.ALL or bool(site.exit)
    return tested or bool(hazards & {"no-pending-test", "test-before-store"})


def unstable(site: Site, scenario: Scenario) -> Scenario | None:
    """Return the scenario in which the pointer is another CPU's, None if that cannot happen."""
    moves = any(hazard.name == "unstable-pointer" for hazard in site.hazards)
    if moves or (site.cpu is Cpu.OTHER and scenario.protocol is not Protocol.HANDLER):
        return replace(scenario, stable=False)
    return None


def _fence(site: Site, locked: bool) -> Fence | None:
    """Return the strongest fence, not counting the access itself, which the model has as the store."""
    fences = [fence for fence in site.fences if fence.position != "access"]
    if _PROTOCOLS[site.kind] is Protocol.HANDLER and locked:
        # A fence to keep is the access that takes the selector: the model's handler has it already.
        fences = [fence for fence in fences if fence.verdict is not Verdict.KEEP]
    return max(fences, key=lambda fence: _kind(fence).drains, default=None)


def _kind(fence: Fence | None) -> protocols.Fence:
    if fence is None:
        return protocols.Fence.NONE
    first = fence.mnemonic.split()[0]
    plain = {kind.value: kind for kind in protocols.Fence}
    return plain.get(first, protocols.Fence.SERIALISING)


def _width(site: Site) -> Width:
    if site.kind is Kind.SELECTOR_TAKE:
        return Width.BYTE
    access = next((fence.mnemonic for fence in site.fences if fence.position == "access"), "")
    if site.width_bytes <= 1:
        return Width.LOCKED if access else Width.BYTE
    if access.endswith("cmpxchg") and tests_itself(site):
        return Width.EXCHANGE
    return Width.LOCKED_WIDE if access else Width.WIDE


def tests_itself(site: Site) -> bool:
    """Return whether the instruction that unmasks also tests pending."""
    return site.pending_tests == (site.address,)


def is_proven(site: Site) -> bool:
    """Return whether the pointer may be assumed to be the hosting CPU's, at the store and at the test."""
    moves = any(hazard.name == "unstable-pointer" for hazard in site.hazards)
    return site.cpu is not Cpu.OTHER and not (moves and site.reread)


def _retest(site: Site, hazards: set[str]) -> Retest:
    if tests_itself(site):
        return Retest.ITSELF
    if site.pending_paths is Paths.ALL:
        return Retest.AFTER
    if "test-before-store" in hazards:
        return Retest.BEFORE
    return Retest.XEN_EXIT if site.exit else Retest.NONE
