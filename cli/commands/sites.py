"""`xtrace sites`: where a kernel image masks and restores upcalls, and with which fences."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xtrace.cli.options import AsHtml, AsJson, DebugFiles, NoColor, NoPager, SymbolFiles, one_each
from xtrace.cli.terminal.pager import paged
from xtrace.cli.terminal.progress import waiting
from xtrace.cli.terminal.style import put as _put

if TYPE_CHECKING:
    from xtrace.cli.page.write import PageFile
    from xtrace.symbols.listing.compare import Comparison
    from xtrace.symbols.sites.model import Site, SiteTable

#: The exit code that --fail-on asks for.
FOUND = 3


class Only(StrEnum):
    """Which sites are shown."""

    FENCED = "fenced"
    HAZARDS = "hazards"
    REMOVABLE = "removable"


class FailOn(StrEnum):
    """What makes the command fail."""

    HAZARD = "hazard"
    REMOVABLE = "removable"
    UNDECIDED = "undecided"


def sites(
    image: Annotated[
        Path,
        typer.Argument(
            readable=False, help="A kernel: ELF or vmlinuz, plain or compressed.", metavar="IMAGE"
        ),
    ],
    new_image: Annotated[
        Path | None,
        typer.Argument(readable=False, help="A second kernel: show what changed.", metavar="NEW_IMAGE"),
    ] = None,
    wide: Annotated[bool, typer.Option("--wide", help="Print all columns in full width.")] = False,
    only: Annotated[Only | None, typer.Option(help="Show only these sites.")] = None,
    fail_on: Annotated[
        list[FailOn] | None,
        typer.Option(help="Exit with 3 if IMAGE (or NEW_IMAGE) has such a site. Repeatable."),
    ] = None,
    explain: Annotated[
        str | None,
        typer.Option(
            metavar="SITE",
            help="Show one site, by address or symbol[+offset], and why it loses no upcall, or how it does.",
        ),
    ] = None,
    debug: DebugFiles = None,
    symbols: SymbolFiles = None,
    lines: Annotated[bool, typer.Option("--lines/--no-lines", help="Look up source lines.")] = True,
    no_pager: NoPager = False,
    no_color: NoColor = False,
    json: AsJson = False,
    html: AsHtml = None,
    csv: Annotated[bool, typer.Option("--csv", help="Print CSV, one row per site.")] = False,
) -> None:
    """List where a guest kernel masks, restores and unmasks event upcalls, and the fences there.

    Each fence is removable, to be kept, or undecided, from the image alone.  Two images: what a patch
    changed, with sites matched by symbol, kind and order.
    """
    images = [image] if new_image is None else [image, new_image]
    debug_files = one_each(debug, len(images), "--debug")
    symbol_files = one_each(symbols, len(images), "--symbols")
    _check_usage(images, explain=explain, json=json, csv=csv, wide=wide, html=html is not None)
    page = None
    if html is not None:
        from xtrace.cli.page.write import PageFile

        page = PageFile(html, images)
    with waiting("looking for sites"):
        tables = [_read(*files, lines=lines) for files in zip(images, symbol_files, debug_files, strict=True)]
    if explain is not None:
        from xtrace.cli.commands.explain import print_explanation

        print_explanation(_put, tables[0], explain)
        return
    found: Comparison | None = None
    if len(tables) == 2:
        from xtrace.symbols.listing.compare import compare

        found = compare(*tables)
    with paged(wanted=not no_pager and page is None):
        _put_out(tables, found, only, json=json, csv=csv, wide=wide, page=page)
    if any(_has(site, reason) for site in tables[-1].sites for reason in fail_on or ()):
        raise typer.Exit(FOUND)


def _check_usage(
    images: Sequence[Path],
    *,
    explain: str | None,
    json: bool,
    csv: bool,
    wide: bool,
    html: bool,
) -> None:
    if explain is not None and (len(images) == 2 or json or csv or wide or html):
        raise typer.BadParameter("needs one image and prints text only", param_hint="--explain")
    if json + csv + wide + html > 1:
        raise typer.BadParameter("choose one", param_hint="--json/--csv/--wide/--html")


def _read(image: Path, symbols: Path | None, debug: Path | None, *, lines: bool) -> SiteTable:
    from xtrace.symbols.image.image import open_image
    from xtrace.symbols.sites.finder import find_sites

    return find_sites(open_image(image, symbols_path=symbols, debug_path=debug), lines=lines)


def _put_out(
    tables: Sequence[SiteTable],
    found: Comparison | None,
    only: Only | None,
    *,
    json: bool,
    csv: bool,
    wide: bool,
    page: PageFile | None,
) -> None:
    from dataclasses import replace

    from xtrace.symbols.listing import export

    table = tables[-1]
    shown = [site for site in table.sites if _is_shown(site, only)]
    if found is not None:
        found = replace(
            found,
            gone=tuple(site for site in found.gone if _is_shown(site, only)),
            added=tuple(site for site in found.added if _is_shown(site, only)),
            changed=tuple(
                change
                for change in found.changed
                if _is_shown(change.old, only) or _is_shown(change.new, only)
            ),
        )
    if page is not None:
        old = tables[0] if found else None
        page.write_sites(export.json_object(table, shown, old, found), old)
    elif json:
        import json as codec

        old = tables[0] if found else None
        typer.echo(codec.dumps(export.json_object(table, shown, old, found), indent=1))
    elif csv:
        export.write_csv(sys.stdout, shown, found)
    else:
        _print(tables, shown, found, wide=wide)


def _print(
    tables: Sequence[SiteTable], shown: Sequence[Site], found: Comparison | None, *, wide: bool
) -> None:
    from xtrace.cli.render import sites

    if found is not None:
        for table, label in zip(tables, ("old", "new"), strict=True):
            sites.print_image(_put, table, label, brief=True)
        sites.print_comparison(_put, found)
        return
    if wide:
        sites.print_wide(_put, shown)
        return
    sites.print_head(_put, tables[0])
    sites.print_sites(_put, shown)


def _is_shown(site: Site, only: Only | None) -> bool:
    from xtrace.symbols.listing.export import is_fenced, is_removable

    if only is Only.FENCED:
        return is_fenced(site)
    if only is Only.HAZARDS:
        return bool(site.hazards)
    return only is None or is_removable(site)


def _has(site: Site, reason: FailOn) -> bool:
    from xtrace.symbols.listing.export import is_removable, is_undecided

    if reason is FailOn.HAZARD:
        return bool(site.hazards)
    return is_removable(site) if reason is FailOn.REMOVABLE else is_undecided(site)
