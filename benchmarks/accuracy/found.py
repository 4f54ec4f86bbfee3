"""Find each loop's sites with xtrace, and check that their fences are those built in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from program import MNEMONICS, Build, Loop

from xtrace.symbols import find_sites, open_image
from xtrace.symbols.sites.model import How, Kind, Site

_RESTORING = {"inlined": Kind.RESTORE, "called": Kind.UNMASK}


def sites(program: Path) -> tuple[Sequence[Site], str]:
    """Return all sites of a build, and its build-id."""
    table = find_sites(open_image(program))
    return table.sites, table.build_id or ""


def of_loop(found: Sequence[Site], loop: Loop) -> tuple[Site, Site]:
    """Return the two sites that each round of a loop executes: the mask, and the restore or unmask.

    Raises:
        LookupError: the sites found are not exactly these two.
    """
    names = (f"section_{loop.work}",) if loop.manner == "inlined" else ("upcalls_mask", "upcalls_unmask")
    mine = [
        site for site in found if site.symbol in names and site.kind in (Kind.MASK, _RESTORING[loop.manner])
    ]
    if [site.kind for site in mine] != [Kind.MASK, _RESTORING[loop.manner]]:
        raise LookupError(f"{loop}: found {[(site.symbol, str(site.kind)) for site in mine]}")
    return mine[0], mine[1]


def wrong_fences(found: Sequence[Site], build: Build, loop: Loop) -> list[str]:
    """Return a line for each site of a loop whose fences are not those of the build."""
    told = []
    for site in of_loop(found, loop):
        expected = [] if build.fence == "none" else [(MNEMONICS[build.fence], build.place == "inline")]
        fences = [(fence.mnemonic, fence.how is How.INLINE) for fence in site.fences]
        if fences != expected:
            told.append(f"{build.name} {loop} {site.kind}: {fences}, built with {expected}")
    return told
