"""Bound how often an image's sites execute in one call of their function, and in one upcall."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from xtrace.symbols.flow.code import Code
from xtrace.symbols.flow.interpreter import ExhaustedError
from xtrace.symbols.flow.path_counts import F64, PathCounter, PathCounts
from xtrace.symbols.image.image import Image
from xtrace.symbols.sites.model import Kind, Site, SiteTable, Verdict

#: More than any real kernel has; in an image with more, no site is counted.
MOST_SITES = 2000

#: Fences are grouped by the verdict of their site.
PARTS = (Verdict.REMOVABLE, Verdict.UNDECIDED, Verdict.KEEP)
STORES = frozenset((Kind.MASK, Kind.RESTORE, Kind.UNMASK))


@dataclass(frozen=True, slots=True)
class SitePaths:
    """Path counts of sites, one entry per site.

    Attributes:
        sites: those counted: all but debug reads.
        starts: for each site, the address of its function.
        call: executions per call of that function.
        upcall: executions per upcall; None if no event callback is known.
        parts: executions per upcall of all fenced mask, restore and unmask sites, for each of PARTS.
        entry: where the upcall enters, in words; "" if not known.
    """

    sites: tuple[Site, ...]
    starts: tuple[int, ...]
    call: PathCounts
    upcall: PathCounts | None
    parts: PathCounts | None
    entry: str


def site_paths(image: Image, table: SiteTable, never: Collection[int] = frozenset()) -> SitePaths:
    """Count the executions of an image's sites.

    Args:
        table: the image's sites.
        never: numbers of hypercalls that the guest does not make in the period in question.
    """
    sites = tuple(site for site in table.sites if site.kind is not Kind.DEBUG_READ)
    if len(sites) > MOST_SITES:
        sites = ()
    code = Code(image, table.facts.hypercall_page)
    starts = tuple(_start(code, site) for site in sites)
    call = _calls(code, sites, starts)
    callback = next((item for item in table.facts.callbacks if item.kind == "event"), None)
    if callback is None:
        return SitePaths(sites, starts, call, None, None, "")
    groups = [{site.address} for site in sites]
    groups += [{site.address for site in sites if part_of(site) is part} for part in PARTS]
    found = PathCounter(code, groups, never).upcall(callback.address)
    return SitePaths(
        sites,
        starts,
        call,
        _piece(found, slice(None, len(sites))),
        _piece(found, slice(len(sites), None)),
        f"{callback.source}, {callback.address:#x}",
    )


def behind_fences(image: Image, table: SiteTable) -> dict[int, int]:
    """Return the address after each fence of the mask, restore and unmask sites, by the fence's address.

    A time sample taken while a fence stalls may name either address.
    """
    code = Code(image, table.facts.hypercall_page)
    fences = {fence.address for site in table.sites if part_of(site) is not None for fence in site.fences}
    found = {address: next(code.run(address), None) for address in sorted(fences)}
    return {address: insn.end for address, insn in found.items() if insn is not None}


def part_of(site: Site) -> Verdict | None:
    """Return which of PARTS a site's fences belong to; None for other kinds and for sites without fences."""
    if site.kind not in STORES or not site.fences:
        return None
    return site.verdict


def _start(code: Code, site: Site) -> int:
    return site.address - site.offset if site.symbol else code.window(site.address)[0]


def _calls(code: Code, sites: Sequence[Site], starts: Sequence[int]) -> PathCounts:
    least, most, why = np.zeros(len(sites)), np.full(len(sites), np.inf), [""] * len(sites)
    by_start: dict[int, list[int]] = {}
    for number, start in enumerate(starts):
        by_start.setdefault(start, []).append(number)
    for start, numbers in by_start.items():
        try:
            found = PathCounter(code, [{sites[number].address} for number in numbers]).inside(start)
        except ExhaustedError:
            why = [reason or "more code than the analysis follows" for reason in why]
            break
        entered = _entered_elsewhere(code, start)
        reached = code.graph(start)[0]
        for place, number in enumerate(numbers):
            if entered or sites[number].address not in reached:
                why[number] = "its function can be entered elsewhere than at its start"
            else:
                least[number], most[number] = found.least[place], found.most[place]
                why[number] = found.why[place]
    return PathCounts(least, most, tuple(why))


def _entered_elsewhere(code: Code, start: int) -> bool:
    """Return whether a function has labels inside, or ``start`` is one: then it has other entries too."""
    begin, end = code.window(start)
    first, last = np.searchsorted(code.labels, np.array([start + 1, max(end, start + 1)], np.uint64))
    return begin != start or bool(last > first)


def _piece(found: PathCounts, part: slice) -> PathCounts:
    least: F64 = found.least[part]
    return PathCounts(least, found.most[part], found.why[part])
