"""`xtrace sites`: where a kernel image masks and restores upcalls, and with which fences."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xtrace.cli.options import AsHtml, AsJson, DebugFiles, NoColor, NoPager, SymbolFiles, one_each
from xtrace.cli.terminal.pager import paged
from xtrace.cli.terminal.progress import waiting
from xtrace.cli.terminal.style import put as _put
from xtrace.cli.terminal.style import tell

if TYPE_CHECKING:
    from xtrace.cli.page.write import PageFile
    from xtrace.symbols.listing.compare import Comparison
    from xtrace.symbols.listing.export import Tally
    from xtrace.symbols.listing.gate import Accepted, Expected
    from xtrace.symbols.sites.model import Kind, Site, SiteTable

#: The exit code that --fail-on, --expect and --expect-sites ask for.
FOUND = 3
#: Of a file of expected sites or accepted findings.
_MOST_CHARACTERS = 16 << 20


class Only(StrEnum):
    """Which sites are shown."""

    FENCED = "fenced"
    HAZARDS = "hazards"
    REMOVABLE = "removable"
    REPLACEABLE = "replaceable"


class FailOn(StrEnum):
    """What makes the command fail."""

    HAZARD = "hazard"
    REMOVABLE = "removable"
    REPLACEABLE = "replaceable"
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
        typer.Option(
            help="Exit with 3 if IMAGE (or NEW_IMAGE) has such a site, 1 if none can be found. Repeatable."
        ),
    ] = None,
    expect: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Exit with 3 unless there are N sites in all."),
    ] = None,
    expect_sites: Annotated[
        Path | None,
        typer.Option(
            readable=False,
            metavar="FILE",
            help="Exit with 3 unless each of these is found. Lines: symbol, kind, fence.",
        ),
    ] = None,
    accept: Annotated[
        Path | None,
        typer.Option(
            readable=False,
            metavar="FILE",
            help="Findings that do not fail. Lines: symbol, kind, finding, reason.",
        ),
    ] = None,
    explain: Annotated[
        str | None,
        typer.Option(
            metavar="SITE",
            help="Show one site, by address or symbol[+offset], and why it loses no upcall, or how it does.",
        ),
    ] = None,
    litmus: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            readable=False,
            help="Write litmus tests for herd7 and litmus7 to DIR, which must be new or empty.",
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
    sarif: Annotated[bool, typer.Option("--sarif", help="Print the findings as SARIF, for forges.")] = False,
    listing: Annotated[
        bool, typer.Option("--list-sites", help="Print lines for --expect-sites: symbol, kind, fence.")
    ] = False,
) -> None:
    """List where a guest kernel masks, restores and unmasks upcalls, and the fences there.

    Each fence is removable, to be kept, or undecided, from the image alone.  Two images: what a patch
    changed, with sites matched by symbol, kind and order.
    """
    images = [image] if new_image is None else [image, new_image]
    debug_files = one_each(debug, len(images), "--debug")
    symbol_files = one_each(symbols, len(images), "--symbols")
    forms = {"--json": json, "--csv": csv, "--wide": wide, "--html": html is not None}
    forms |= {"--sarif": sarif, "--list-sites": listing, "--litmus": litmus is not None}
    gated = {"--fail-on": bool(fail_on), "--expect": expect is not None}
    gated |= {"--expect-sites": expect_sites is not None, "--accept": accept is not None}
    _check_usage(images, explain=explain, forms=forms, gated=gated)
    gate = _Gate(tuple(fail_on or ()), expect, *_read_lines(expect_sites, accept))
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
    if litmus is not None:
        from xtrace.symbols.listing.litmus_files import write_litmus

        tell(write_litmus(litmus, tables[0]))
        return
    found: Comparison | None = None
    if len(tables) == 2:
        from xtrace.symbols.listing.compare import compare

        found = compare(*tables)
    with paged(wanted=not no_pager and page is None and not (sarif or listing)):
        if sarif or listing:
            _put_findings(tables[-1], only, gate.accepted, sarif=sarif)
        else:
            _put_out(tables, found, only, json=json, csv=csv, wide=wide, page=page)
    gate.check(tables[-1])


def _check_usage(
    images: Sequence[Path], *, explain: str | None, forms: Mapping[str, bool], gated: Mapping[str, bool]
) -> None:
    if explain is not None and (len(images) == 2 or any(forms.values())):
        raise typer.BadParameter("needs one image and prints text only", param_hint="--explain")
    if sum(forms.values()) > 1:
        raise typer.BadParameter("choose one", param_hint="/".join(forms))
    if explain is not None or forms["--litmus"]:
        for name in (name for name, given in gated.items() if given):
            raise typer.BadParameter("checks nothing with --explain or --litmus", param_hint=name)
    for name in ("--sarif", "--list-sites", "--litmus"):
        if forms[name] and len(images) == 2:
            raise typer.BadParameter("needs one image", param_hint=name)


@dataclass(frozen=True, slots=True)
class _Gate:
    """What is checked after the output, and the lines of the files for it."""

    fail_on: tuple[FailOn, ...]
    expect: int | None
    expected: Sequence[Expected] | None
    accepted: Sequence[Accepted]
    accept_path: Path | None

    def check(self, table: SiteTable) -> None:
        """Exit with 3 if something is missing or found that must not be.

        Raises:
            ImageError: the image cannot be checked.
        """
        from xtrace.symbols.errors import ImageError, shown
        from xtrace.symbols.listing import gate

        if not self.fail_on and self.expect is None and self.expected is None and not self.accept_path:
            return
        blind = gate.blindness(table)
        if blind and self.fail_on:
            raise ImageError(f"{table.path}: {blind}; --fail-on cannot be decided")
        problems = []
        if self.expect is not None and self.expect != len(table.sites):
            kinds = ", ".join(f"{tally.sites} {kind}" for kind, tally in _tallies(table).items())
            problems.append(f"{self.expect} sites expected, {len(table.sites)} found: {kinds or blind}")
        problems += [
            f"not found: {shown(line.symbol)}, {line.kind}, {line.fence} (line {line.line} of --expect-sites)"
            for line in gate.missing(self.expected or (), table.sites)
        ]
        open_, _, unused = gate.sort_out(gate.findings(table.sites), self.accepted)
        for line in unused:
            tell(
                f"{shown(str(self.accept_path))}:{line.line}: matches nothing: {shown(line.symbol)}, "
                f"{line.kind}, {line.finding}"
            )
        failing = [
            finding
            for finding in open_
            if finding.name in self.fail_on or (finding.is_hazard and FailOn.HAZARD in self.fail_on)
        ]
        if failing:
            problems.append(f"found: {gate.summary(failing)} (--fail-on)")
        for problem in problems:
            tell(problem)
        if problems:
            raise typer.Exit(FOUND)


def _read_lines(
    expect_sites: Path | None, accept: Path | None
) -> tuple[Sequence[Expected] | None, Sequence[Accepted], Path | None]:
    from xtrace.symbols.errors import shown
    from xtrace.symbols.listing import gate

    try:
        expected = (
            None
            if expect_sites is None
            else gate.read_expected(_text(expect_sites), shown(str(expect_sites)))
        )
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--expect-sites") from None
    try:
        accepted = [] if accept is None else gate.read_accepted(_text(accept), shown(str(accept)))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--accept") from None
    return expected, accepted, accept


def _text(path: Path) -> str:
    with path.open(encoding="utf-8", errors="replace") as file:
        text = file.read(_MOST_CHARACTERS + 1)
    if len(text) > _MOST_CHARACTERS:
        raise ValueError(f"{path}: has more than {_MOST_CHARACTERS:,} characters; is it the right file?")
    return text


def _tallies(table: SiteTable) -> Mapping[Kind, Tally]:
    from xtrace.symbols.listing.export import tallies

    return tallies(table.sites)


def _put_findings(table: SiteTable, only: Only | None, accepted: Sequence[Accepted], *, sarif: bool) -> None:
    from xtrace.symbols.listing import gate

    shown = [site for site in table.sites if _is_shown(site, only)]
    if not sarif:
        for line in gate.list_lines(shown):
            typer.echo(line)
        return
    import json as codec

    from xtrace import __version__
    from xtrace.symbols.listing.sarif import sarif_object

    open_, closed, _ = gate.sort_out(gate.findings(shown), accepted)
    log = sarif_object(table, open_, closed, version=__version__, root=Path.cwd())
    typer.echo(codec.dumps(log, indent=1))


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
            sites.print_image(_put, table, label)
        sites.print_comparison(_put, found)
        return
    if wide:
        sites.print_wide(_put, shown)
        return
    sites.print_head(_put, tables[0])
    sites.print_sites(_put, shown)
    sites.print_details(_put, tables[0])


def _is_shown(site: Site, only: Only | None) -> bool:
    from xtrace.symbols.listing.export import is_fenced, is_removable, is_replaceable

    if only is Only.FENCED:
        return is_fenced(site)
    if only is Only.HAZARDS:
        return bool(site.hazards)
    if only is Only.REPLACEABLE:
        return is_replaceable(site)
    return only is None or is_removable(site)
