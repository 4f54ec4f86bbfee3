"""Print everything known about a site, and the interleavings that decide its verdict."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import typer

from xtrace.cli.render.sites import print_site
from xtrace.cli.terminal.progress import waiting
from xtrace.cli.terminal.style import Put
from xtrace.symbols.errors import shown
from xtrace.symbols.listing.explain import explain
from xtrace.symbols.sites.model import Site, SiteTable, where

_NAMED = 6


def print_explanation(put: Put, table: SiteTable, wanted: str) -> None:
    """Print the sites that ``wanted`` names, each with the search over its interleavings.

    Raises:
        typer.BadParameter: there is no such site.
    """
    for number, site in enumerate(sites_named(table.sites, wanted)):
        if number:
            put("")
        print_site(put, site)
        put("")
        with waiting("checking every interleaving"):
            lines = list(explain(site))
        for line in lines:
            put(line)


def sites_named(sites: Sequence[Site], wanted: str) -> list[Site]:
    """Return the sites at a hexadecimal address, at symbol+offset, or all sites of a symbol.

    Raises:
        typer.BadParameter: there is none; the message lists the nearest.
    """
    symbol, plus, offset = wanted.rpartition("+")
    if plus and re.fullmatch(r"(0x)?[0-9a-fA-F]{1,16}", offset):
        found = [site for site in _of_symbol(sites, symbol) if site.offset == int(offset, 16)]
        near = _of_symbol(sites, symbol)
    else:
        found = near = _of_symbol(sites, wanted)
    if not found and re.fullmatch(r"(0x)?[0-9a-fA-F]{1,16}", wanted):
        address = int(wanted, 16)
        found = [site for site in sites if site.address == address]
        near = sorted(sites, key=lambda site: abs(site.address - address))
    if not found:
        names = ", ".join(where(site) for site in near[:_NAMED])
        hint = f"; nearby: {names}" if names else ""
        raise typer.BadParameter(f"there is no site at {shown(wanted)}{hint}", param_hint="--explain")
    return found


def _of_symbol(sites: Iterable[Site], symbol: str) -> list[Site]:
    return [site for site in sites if symbol and (site.symbol == symbol or symbol in site.aliases)]
