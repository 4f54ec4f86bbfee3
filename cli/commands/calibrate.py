"""`xtrace calibrate`: what fences cost on this host."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xtrace.cli.options import AsHtml, AsJson, DebugFiles, NoColor, SymbolFiles, one_each, renamed, seconds
from xtrace.cli.terminal.progress import share
from xtrace.cli.terminal.style import put as _put
from xtrace.cli.terminal.style import tell

if TYPE_CHECKING:
    from xtrace.analysis.calibrate.run import Guest
    from xtrace.probes.timing.calibration import Calibration


_DURATION = seconds(0.5, 3600)


def calibrate(
    image: Annotated[
        Path | None,
        typer.Argument(
            readable=False, help="A guest's kernel: also time its own fenced sites.", metavar="IMAGE"
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", readable=False, metavar="FILE", help="Write the result as JSON."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace FILE if it exists.")] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="5 s instead of 45: wider intervals, no misses over 1 GB.")
    ] = False,
    duration: Annotated[
        float | None,
        typer.Option(
            "--duration",
            "-d",
            parser=_DURATION,
            metavar="TIME",
            help="How long to measure: 40 (seconds, the default; longer with many sites), 500ms.",
        ),
    ] = None,
    cpu: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Measure on this CPU. Default: the last one allowed."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed for the order of the runs.")] = 0,
    ns: Annotated[bool, typer.Option("--ns", help="Show nanoseconds instead of TSC cycles.")] = False,
    no_color: NoColor = False,
    json: AsJson = False,
    html: AsHtml = None,
    symbols: SymbolFiles = None,
    debug: DebugFiles = None,
    old_seconds: Annotated[float | None, renamed("--seconds", "--duration", parser=_DURATION)] = None,
) -> None:
    """Measure how many cycles fences add to masks, restores, unmasks, by what is in flight.

    Run it on the traced host, or on one with the same CPU model, while it is idle.  It takes 45 s, and longer
    the more sites an IMAGE has, up to 10 minutes.  On an emulated or too noisy host there is no figure, and
    the exit status is 1.  It uses up to 1 GB of memory, or a quarter of what is free.
    """
    duration = duration if duration is not None else old_seconds
    if quick and duration is not None:
        raise typer.BadParameter("choose one", param_hint="--quick/--duration")
    if image is None and (symbols or debug):
        raise typer.BadParameter("need an IMAGE", param_hint="--symbols/--debug")
    (symbol_file,), (debug_file,) = one_each(symbols, 1, "--symbols"), one_each(debug, 1, "--debug")
    _must_be_free(output, image, force=force)
    from xtrace.analysis.calibrate.run import Settings
    from xtrace.analysis.calibrate.run import calibrate as measure
    from xtrace.probes.errors import TraceError

    page = None
    if html is not None:
        from xtrace.cli.page.write import PageFile

        page = PageFile(html, [] if image is None else [image])
    settings = Settings(duration, cpu, seed, cold=not quick)
    guest = None if image is None else _guest(image, symbol_file, debug_file)
    with share("measuring") as progress:
        found = measure(settings, guest, progress, tell)
    if output is not None:
        _write(output, found)
    if page is not None:
        page.write_calibration(found)
    if json:
        from xtrace.probes.timing.calibration import text_of

        typer.echo(text_of(found))
    elif page is None:
        from xtrace.cli.render.calibration import print_calibration

        print_calibration(_put, found, {} if guest is None else _names(guest), ns=ns)
        sys.stdout.flush()
    if output is not None:
        tell(f"written to {output}")
    elif found.timing == "hardware" and not json:
        tell("not written; -o FILE keeps it for xtrace report --calibration FILE")
    if found.timing != "hardware":
        raise TraceError(
            f"no result: timing is {found.timing}: {'; '.join(found.notes)}; "
            + (
                "calibrate on real hardware"
                if found.timing == "emulated"
                else "try again when the host is idle, or for longer (-d)"
            )
        )


def _must_be_free(output: Path | None, image: Path | None, *, force: bool) -> None:
    """Raise where the output exists and is not to be replaced, or is the image itself."""
    from xtrace.probes.outputs import refuse_inputs

    if output is None:
        return
    if output.exists() and not force:
        raise typer.BadParameter(f"{output} exists; --force replaces it", param_hint="--output")
    refuse_inputs(output, [image] if image is not None else [])


def _guest(image: Path, symbols: Path | None, debug: Path | None) -> Guest:
    from xtrace.analysis.calibrate.run import Guest
    from xtrace.symbols.image.image import open_image
    from xtrace.symbols.replay.site_loop import replays
    from xtrace.symbols.sites.finder import find_sites

    opened = open_image(image, symbols_path=symbols, debug_path=debug)
    return Guest(tuple(replays(opened, find_sites(opened, lines=False))), opened.build_id)


def _names(guest: Guest) -> dict[tuple[int, str], str]:
    """Return how a site and its fence are named, by address and the fence's name."""
    return {
        (item.site.address, item.fence_name): (
            f"{item.site.symbol}+{item.site.offset:#x}" if item.site.symbol else ""
        )
        + f"  {item.fence.mnemonic} {item.fence.how}"
        + (f" {item.fence.via}" if item.fence.via else "")
        for item in guest.replays
    }


def _write(output: Path, found: Calibration) -> None:
    from xtrace.probes.outputs import replace_text
    from xtrace.probes.timing.calibration import text_of

    replace_text(output, text_of(found) + "\n")
