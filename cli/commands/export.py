"""`xtrace export`: a trace and its results in the formats of other tools."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from xtrace.cli.options import (
    CpuHz,
    DomainNames,
    From,
    Kernels,
    Strict,
    To,
    Vcpus,
    XenVersion,
    guest_image,
    offered,
    one_of,
)
from xtrace.cli.terminal.progress import bar
from xtrace.cli.terminal.style import tell
from xtrace.probes.words import count_of

if TYPE_CHECKING:
    from xtrace.analysis.export.source import Exported
    from xtrace.analysis.report.guest_kernels import ImageKernel

_TABLES = ("json", "csv", "parquet", "arrow")
_STACKS = ("folded", "speedscope")
_FORMATS = ("perfetto", "ctf", *_STACKS, *_TABLES)
#: A copy of analysis.export.perfetto.write.PARTS, which takes NumPy to import; a test compares them.
_PARTS = (
    "sched",
    "runstates",
    "wakes",
    "upcalls",
    "hypercalls",
    "exits",
    "irqs",
    "losses",
    "counters",
    "dom0",
    "findings",
)
#: A copy of analysis.export.tables.NAMES, likewise.
_WHATS = (
    "records",
    "intervals",
    "histograms",
    "runs",
    "runstates",
    "wakes",
    "wake_causes",
    "sends",
    "upcalls",
    "forced_callbacks",
    "hypercalls",
    "exits",
    "injections",
    "irqs",
    "losses",
    "deliveries",
    "rips",
)


def export(
    file: Annotated[str, typer.Argument(help="A trace, plain or compressed, or a capture.", metavar="TRACE")],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            readable=False,
            allow_dash=True,
            metavar="OUT",
            help="File to write, of ctf a folder; - is stdout.",
        ),
    ],
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            "-f",
            metavar="FORMAT",
            help="perfetto, ctf, folded, speedscope, json, csv, parquet or arrow.",
            autocompletion=offered(lambda: _FORMATS),
        ),
    ],
    what: Annotated[
        str | None,
        typer.Option(
            "--what",
            metavar="WHAT",
            help="Of json, csv, parquet and arrow: records, intervals (the default), histograms, or one kind "
            f"of events: {', '.join(_WHATS[3:])}.",
            autocompletion=offered(lambda: _WHATS),
        ),
    ] = None,
    parts: Annotated[
        str | None,
        typer.Option("--parts", metavar="LIST", help=f"Of perfetto, only these: {','.join(_PARTS)}."),
    ] = None,
    kernel: Kernels = None,
    domain: DomainNames = None,
    vcpu: Vcpus = None,
    begin: From = None,
    end: To = None,
    cpu_hz: CpuHz = None,
    xen: XenVersion = None,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")] = False,
    strict: Strict = False,
) -> None:
    """Write a trace or its single events for another tool, in its format.

    perfetto is for ui.perfetto.dev and its SQL, ctf for babeltrace2 and Trace Compass, folded for flame
    graphs, speedscope for speedscope.app; the others are tables with one row per record or event.
    Memory does not grow with the trace, which is read twice and so must be a file.
    """
    one_of(format_, _FORMATS, "--format")
    _must_fit(format_, what, parts, kernel)
    chosen = _chosen(parts)

    from xtrace.analysis.export.output import STDOUT, opened, refuse_taken
    from xtrace.analysis.export.source import Exported, ExportRequest

    path = Path(file)
    if format_ == "ctf" and str(output) == STDOUT:
        raise typer.BadParameter("ctf is a folder, which stdout cannot be", param_hint="--output")
    if str(output) != STDOUT and format_ != "ctf":
        refuse_taken(output, force=force, inputs=[path])
    request = ExportRequest(
        path=path,
        domains=domain or (),
        vcpus=vcpu or (),
        begin=begin,
        end=end,
        cpu_hz=cpu_hz,
        versions=xen,
        strict=strict,
    )
    if format_ == "ctf":
        from xtrace.analysis.export import ctf

        tell(count_of(ctf.write(Exported(request, progress=bar), output, force=force), "record"))
        return
    with opened(output, force=force, inputs=[path]) as out:
        exported = Exported(request, progress=bar)
        if format_ == "perfetto":
            tell(_perfetto(exported, out, chosen))
        elif format_ in _STACKS:
            tell(_stacks(exported, out, format_, kernel or []))
        else:
            tell(_table(exported, out, format_, what or "intervals"))


def _must_fit(format_: str, what: str | None, parts: str | None, kernel: list[str] | None) -> None:
    """Refuse options that the format does not have."""
    if what is not None:
        one_of(what, _WHATS, "--what")
    for given, option, formats in (
        (what, "--what", _TABLES),
        (parts, "--parts", ("perfetto",)),
        (kernel, "--kernel", _STACKS),
    ):
        if given and format_ not in formats:
            raise typer.BadParameter(f"is for {', '.join(formats)}", param_hint=option)


def _chosen(parts: str | None) -> tuple[str, ...]:
    """Return the parts that --parts names, all without it."""
    if parts is None:
        return _PARTS
    return tuple(one_of(part.strip(), _PARTS, "--parts") for part in parts.split(","))


def _perfetto(exported: Exported, out: BinaryIO, parts: tuple[str, ...]) -> str:
    from xtrace.analysis.export.perfetto.write import write

    written = write(exported, out, parts=parts, tell=tell)
    return (
        f"{written.switches:,} switches, "
        f"{count_of(written.wakes, 'wake')}, {count_of(written.slices, 'slice')}, "
        f"{count_of(written.instants, 'instant')}, {count_of(written.flows, 'flow')}"
    )


def _stacks(exported: Exported, out: BinaryIO, format_: str, kernels: list[str]) -> str:
    from xtrace.analysis.export import flame

    return count_of(flame.write(exported, out, format_, _kernels(exported, kernels)), "sample")


def _kernels(exported: Exported, kernels: list[str]) -> list[ImageKernel]:
    """Return the images that --kernel names."""
    if not kernels:
        return []
    from xtrace.analysis.report.guest_kernels import open_kernels
    from xtrace.probes.selection.vcpus import domain_ids

    images = [guest_image(text) for text in kernels]
    placed = [
        (domain, each.path, each.load_offset)
        for each in images
        for domain in domain_ids([each.domain], lambda: exported.names, str(exported.request.path))
    ]
    return open_kernels(placed)


def _table(exported: Exported, out: BinaryIO, format_: str, what: str) -> str:
    from xtrace.analysis.export import tables, write_table

    return count_of(write_table.write(exported, tables.table(exported, what), out, format_), "row")
