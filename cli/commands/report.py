"""`xtrace report`: what a trace says of delivery, upcalls and time."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xtrace import samples
from xtrace.cli.render.progress import bar
from xtrace.cli.render.terminal import BRIEF, put, tell
from xtrace.probes.errors import TraceError

if TYPE_CHECKING:
    from xtrace.analysis.report.build import Report
    from xtrace.analysis.report.request import GuestCounters, GuestImage, UnfencedCapture
    from xtrace.probes.catalog import VersionRange

#: The option that a field of a request comes from.
_OPTIONS = {"window": "--from/--to", "sections": "--section", "images": "--kernel", "counters": "--rates"}


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
            readable=False,
            metavar="FILE",
            help="Write a summary, which report and diff read like a trace.",
        ),
    ] = None,
) -> None:
    """Report how event channels were delivered, what upcalls took and where the time went.

    Every figure is marked by how it is known: = exact, < bounded, ~ inferred, * modelled.
    """
    from xtrace.analysis.report.request import ReportRequest, RequestError, make_report

    on_terminal = not (json or csv or parquet)
    request = ReportRequest(
        paths=files or [samples.path()],
        sections=section or (),
        domains=domain or (),
        vcpus=vcpu or (),
        tables=tuple(BRIEF) if on_terminal and not summary and not section else (),
        from_s=from_s,
        to_s=to_s,
        cpu_hz=cpu_hz,
        cpu_hz_source="--cpu-hz",
        versions=_versions(xen),
        images=[_image(text) for text in kernel or ()],
        calibration=calibration,
        counters=[_counters(text) for text in rates or ()],
        unfenced=[_unfenced(text) for text in unfenced or ()],
        strict=strict,
    )
    try:
        found = make_report(request, tell=tell, progress=bar)
    except RequestError as error:
        raise typer.BadParameter(str(error), param_hint=_OPTIONS[error.field]) from None
    if summary is not None:
        from xtrace.analysis.summary.summary_file import write_summary

        write_summary(found.summary, summary)
        tell(f"the summary is in {summary}")
    _export(found.report, csv, parquet)
    if json:
        from xtrace.analysis.report.build import json_text

        typer.echo(json_text(found.report))
    elif on_terminal and summary is None:
        from xtrace.cli.render.terminal import print_report

        names = [str(path) for path in files] if files else [f"{samples.NAME}, the bundled sample"]
        window = found.summary.origin.window
        print_report(put, found.report, names, rows=rows, brief=not section, window=window)


def _versions(text: str | None) -> VersionRange | None:
    from xtrace.probes.catalog import VersionRange

    try:
        return VersionRange.parse(text) if text else None
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--xen") from None


def _image(text: str) -> GuestImage:
    """Read ``DOMAIN=IMAGE[@0xOFFSET]``."""
    from xtrace.analysis.report.request import GuestImage
    from xtrace.probes.xen_abi import IDLE_DOMAIN

    found = re.fullmatch(r"(\d{1,5})=(.+?)(?:@(-?0x[0-9a-fA-F]{1,16}))?", text, re.ASCII | re.DOTALL)
    if found is None or int(found[1]) >= IDLE_DOMAIN:
        raise typer.BadParameter(
            f"{text!r} is not DOMAIN=IMAGE or DOMAIN=IMAGE@0xOFFSET", param_hint="--kernel"
        )
    return GuestImage(int(found[1]), Path(found[2]), None if found[3] is None else int(found[3], 16))


def _counters(text: str) -> GuestCounters:
    """Read ``[DOMAIN=]FILE``."""
    from xtrace.analysis.report.request import GuestCounters

    found = re.fullmatch(r"(?:(\d{1,5})=)?(.+)", text, re.ASCII | re.DOTALL)
    if found is None:
        raise typer.BadParameter(f"{text!r} is not FILE or DOMAIN=FILE", param_hint="--rates")
    return GuestCounters(None if found[1] is None else int(found[1]), Path(found[2]))


def _unfenced(text: str) -> UnfencedCapture:
    """Read ``DOMAIN=TRACE[@DOMAIN]``."""
    from xtrace.analysis.report.request import UnfencedCapture

    found = re.fullmatch(r"(\d{1,5})=(.+?)(?:@(\d{1,5}))?", text, re.ASCII | re.DOTALL)
    if found is None:
        raise typer.BadParameter(
            f"{text!r} is not DOMAIN=TRACE or DOMAIN=TRACE@DOMAIN", param_hint="--unfenced"
        )
    return UnfencedCapture(int(found[1]), Path(found[2]), int(found[3] or found[1]))


def _export(made: Report, csv: Path | None, parquet: Path | None) -> None:
    """Write the tables as files."""
    from xtrace.analysis.report.build import write_csv, write_parquet

    for folder, write in ((csv, write_csv), (parquet, write_parquet)):
        if folder is None:
            continue
        try:
            count = sum(1 for _ in write(made, folder))
        except ImportError:
            raise TraceError("--parquet needs pyarrow: pip install 'xtrace[parquet]'") from None
        tell(f"{count} files in {folder}")
