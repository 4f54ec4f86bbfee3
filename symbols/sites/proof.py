"""Hold a site's verdict against the proof for its description."""

from __future__ import annotations

from dataclasses import replace

from xtrace.symbols.proof.description import Description, as_byte_store
from xtrace.symbols.proof.rule import fault_of
from xtrace.symbols.sites.model import Fence, Site, Verdict
from xtrace.symbols.sites.verdict import site_verdict


def proven(site: Site) -> Site:
    """Return a site whose fences are removable or replaceable only if its own description proves it."""
    assert site.description is not None
    fences = tuple(_proven(fence, site.description) for fence in site.fences)
    if fences == site.fences:
        return site
    verdict, reason = site_verdict(fences)
    return replace(site, fences=fences, verdict=verdict, reason=reason)


def _proven(fence: Fence, description: Description) -> Fence:
    if fence.verdict is Verdict.REMOVABLE:
        weaker = description.without(fence.address)
    elif fence.verdict is Verdict.REPLACEABLE:
        weaker = as_byte_store(description)
    else:
        return fence
    try:
        fault = fault_of(weaker)
    except ValueError as error:
        fault = str(error)
    if not fault:
        return fence
    return replace(
        fence, verdict=Verdict.UNDECIDED, reason=f"not proved from the accesses that were read: {fault}"
    )
