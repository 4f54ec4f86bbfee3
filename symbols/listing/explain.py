"""Explain a site: its accesses, and the interleavings that decide its verdict."""

from __future__ import annotations

import textwrap
from dataclasses import replace

from xtrace.symbols.proof.argument import argument
from xtrace.symbols.proof.description import Description, Role
from xtrace.symbols.proof.operational import check
from xtrace.symbols.sites.model import Cpu, Site, where


def explain(site: Site) -> list[str]:
    """Return the proof for a site's verdict, or the counterexample, as lines of at most 80 columns.

    Raises:
        ValueError: the site's paths are too long to check.
    """
    description = site.description
    if description is None:
        return [f"Nothing to search: a {site.kind} cannot lose an upcall."]
    moved = unstable(site, description)
    lines = (
        argument(check(description), where(site)) if moved is None or _is_proven(site, description) else []
    )
    if moved is not None:
        lead = ["", "If the thread moves to another CPU after it loads the pointer:"]
        if not lines:
            reasons = [item.reason for item in site.hazards if item.name == "unstable-pointer"]
            reason = reasons[0] if reasons else f"the code chooses the CPU: {site.origin}"
            lead = [*textwrap.wrap(f"No proof: {reason}.", 80), "", "If it is another CPU's:"]
        lines += lead
        lines += argument(check(moved), where(site))
    return lines


def unstable(site: Site, description: Description) -> Description | None:
    """Return the description in which the pointer is another CPU's, None if that cannot happen."""
    moves = any(hazard.name == "unstable-pointer" for hazard in site.hazards)
    if moves or (site.cpu is Cpu.OTHER and description.role is not Role.HANDLER):
        return replace(description, stable=False)
    return None


def _is_proven(site: Site, description: Description) -> bool:
    """Return whether the pointer may be assumed to be the hosting CPU's, at the store and at the test."""
    return site.cpu is not Cpu.OTHER and not any(access.pointer for access in description.accesses())
