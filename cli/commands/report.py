"""`xtrace report`: what a trace says of delivery, upcalls and time."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xtrace.cli.loading import sample
from xtrace.cli.loading.cost_inputs import other_capture, read_captures, read_rates, refuse_window
from xtrace.cli.loading.reading import Reading
from xtrace.cli.render.terminal import BRIEF, put
from xtrace.probes.errors import TraceError

if TYPE_CHECKING:
    from xtrace.analysis.report.build import Report
    from xtrace.analysis.report.guest_kernels import ImageKernel


def report(
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            readable=False,
            help="Traces and stored summaries, reported on together; - is stdin. None: the bundled sample.",
        ),
    ] = None,
    section: Annotated[
        list[str] | None,
        typer.Option(
            help="Only this section, whole: delivery, upcalls, runstates, hypercalls, hvm, irqs, rips, "
            "kernel, dom0, cost or trace. May be given again."
        ),
    ] = None,
    domain: Annotated[list[int] | None, typer.Option(help="Only this domain. May be given again.")] = None,
    vcpu: Annotated[
        list[int] | None, typer.Option(help="Only vCPUs of this number. May be given again.")
    ] = None,
    from_s: Annotated[
        float | None,
        typer.Option("--from", min=0, help="Count only what ends this many seconds into the trace or later."),
    ] = None,
    to_s: Annotated[
        float | None, typer.Option("--to", min=0, help="Count only what ends up to there.")
    ] = None,
    rows: Annotated[int | None, typer.Option(min=0, help="Most rows of a table; 0 for all.")] = None,
    cpu_hz: Annotated[
        float | None,
        typer.Option(
            min=1e6, help="Cycles a second of the TSC. Default: TRACE.json beside it, else the trace."
        ),
    ] = None,
    xen: Annotated[
        str | None,
        typer.Option(help="Xen version to decode by: 4.17, 4.13-4.17, 4.13+. Default: told by the trace."),
    ] = None,
    kernel: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DOMAIN=IMAGE",
            help="Look up the samples of guest addresses of this domain in its kernel's image; "
            "IMAGE@0xOFFSET says how far it was moved when loaded. May be given again.",
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            readable=False,
            metavar="FILE",
            help="What fences take on this host, by xtrace calibrate; for --section cost.",
        ),
    ] = None,
    rates: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[DOMAIN=]FILE",
            help="Counters of a guest, to tell how often its sites execute: JSON, CSV or a log. "
            "May be given again.",
        ),
    ] = None,
    unfenced: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DOMAIN=TRACE",
            help="The same load by a kernel without the fences, for a second estimate of their cost; "
            "TRACE@DOMAIN says which domain it is there. May be given again.",
        ),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first damage.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    csv: Annotated[
        Path | None, typer.Option(readable=False, metavar="DIR", help="Write one CSV file a table into DIR.")
    ] = None,
    parquet: Annotated[
        Path | None,
        typer.Option(readable=False, metavar="DIR", help="Write one Parquet file a table into DIR."),
    ] = None,
    summary: Annotated[
        Path | None,
        typer.Option(
            readable=False, metavar="FILE", help="Write a summary, which report and diff read like a trace."
        ),
    ] = None,
) -> None:
    """Report how event channels were delivered, what upcalls took and where the time went.

    Every figure is marked by how it is known: = exact, < bounded, ~ inferred, * modelled.
    """
    from xtrace.analysis.partial.summary_head import is_summary
    from xtrace.cli.loading.summaries import Loading, origin_of
    from xtrace.probes.catalog import VersionRange
    from xtrace.probes.reader.sources import STDIN
    from xtrace.probes.timing.calibration import read as read_calibration

    paths = files or [sample.path()]
    try:
        versions = VersionRange.parse(xen) if xen else None
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--xen") from None
    images = [_image(text) for text in kernel or ()]
    if twice := [domain for domain, count in Counter(image[0] for image in images).items() if count > 1]:
        raise typer.BadParameter(f"two images for domain {twice[0]}", param_hint="--kernel")
    windowed = from_s is not None or to_s is not None
    if windowed and (len(paths) > 1 or str(paths[0]) == STDIN):
        raise typer.BadParameter("--from and --to need exactly one file", param_hint="--from/--to")
    if windowed and is_summary(paths[0]):
        raise typer.BadParameter("a summary cannot be cut: they need the trace", param_hint="--from/--to")
    if from_s is not None and to_s is not None and to_s < from_s:
        raise typer.BadParameter("--to lies before --from", param_hint="--from/--to")
    window = _window_text(from_s, to_s) if windowed else ""
    counted = read_rates(rates or (), [image[0] for image in images])
    refuse_window(counted, window)
    measured = read_calibration(calibration) if calibration is not None else None
    others = [other_capture(text) for text in unfenced or ()]
    hz = cpu_hz or (origin_of(paths[0]).tsc_hz if windowed else None)
    loading = Loading(paths, Reading(strict, from_s, to_s, hz), window=window)
    try:
        # While the children read, load what makes the tables.
        from xtrace.analysis.partial.summary_file import combined, write
        from xtrace.analysis.report import build as reports

        on_terminal = not (json or csv or parquet or summary)
        names = BRIEF if on_terminal and not section else ()
        selection = reports.Selection(section or (), domain or (), vcpu or (), names)
        if unknown := sorted(set(selection.sections) - set(reports.SECTIONS)):
            raise typer.BadParameter(
                f"{unknown[0]!r} is none of {', '.join(reports.SECTIONS)}", param_hint="--section"
            )
        kernels: list[ImageKernel] = []
        if images:
            from xtrace.analysis.report.guest_kernels import open_kernels

            kernels = open_kernels(images)
        whole = combined(loading.result(), hz=cpu_hz, hz_source="--cpu-hz")
        _tell_cut(paths)
        refuse_window(counted, whole.origin.window)
        costs = None
        if measured is not None or counted or others or "cost" in selection.sections:
            from xtrace.analysis.cost.inputs import CostInputs

            costs = CostInputs(
                kernels, measured, counted, whole.origin.emulated, read_captures(others, strict=strict)
            )
    except BaseException:
        loading.stop()
        raise
    made = reports.build(
        whole.partial,
        hz=whole.origin.tsc_hz,
        hz_source=whole.origin.tsc_hz_source,
        versions=versions,
        emulated=whole.origin.emulated,
        selection=selection,
        kernels=kernels,
        costs=costs,
        domains=whole.origin.domains,
    )
    if summary is not None:
        write(replace(whole, origin=replace(whole.origin, costs=made.fence_shares)), summary)
        typer.echo(f"xtrace: the summary is in {summary}", err=True)
        if not (json or csv or parquet):
            return
    _put_out(
        made,
        [str(path) for path in files] if files else [f"{sample.NAME}, the bundled sample"],
        json=json,
        csv=csv,
        parquet=parquet,
        rows=rows,
        brief=not section,
        window=whole.origin.window,
    )


def _tell_cut(paths: list[Path]) -> None:
    """Say of each capture whose recorder has not ended that it is not whole."""
    from xtrace.cli.render.terminal import safe
    from xtrace.probes.capture.layout import META, open_capture

    for path in paths:
        if (path / META).is_file() and not open_capture(path).has_ended:
            line = (
                f"xtrace: {path}: its recorder was killed, or still records: this is what it wrote up to now"
            )
            typer.echo(safe(line), err=True)


def _image(text: str) -> tuple[int, Path, int | None]:
    """Return the domain, the image and the load offset of ``DOMAIN=IMAGE[@0xOFFSET]``."""
    from xtrace.probes.xen_abi import IDLE_DOMAIN

    found = re.fullmatch(r"(\d{1,5})=(.+?)(?:@(-?0x[0-9a-fA-F]{1,16}))?", text, re.ASCII | re.DOTALL)
    if found is None or int(found[1]) >= IDLE_DOMAIN:
        raise typer.BadParameter(
            f"{text!r} is not DOMAIN=IMAGE or DOMAIN=IMAGE@0xOFFSET", param_hint="--kernel"
        )
    return int(found[1]), Path(found[2]), None if found[3] is None else int(found[3], 16)


def _put_out(
    made: Report,
    names: list[str],
    *,
    json: bool,
    csv: Path | None,
    parquet: Path | None,
    rows: int | None,
    brief: bool,
    window: str,
) -> None:
    from xtrace.analysis.report import build as reports

    for folder, write in ((csv, reports.write_csv), (parquet, reports.write_parquet)):
        if folder is None:
            continue
        try:
            count = sum(1 for _ in write(made, folder))
        except ImportError:
            raise TraceError("--parquet needs pyarrow: pip install 'xtrace[parquet]'") from None
        typer.echo(f"xtrace: {count} files in {folder}", err=True)
    if json:
        typer.echo(reports.json_text(made))
    elif csv is None and parquet is None:
        from xtrace.cli.render.terminal import print_report

        print_report(put, made, names, rows=rows, brief=brief, window=window)


def _window_text(from_s: float | None, to_s: float | None) -> str:
    return f"{from_s or 0:g} s to {'the end' if to_s is None else f'{to_s:g} s'}"
