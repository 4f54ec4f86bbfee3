"""`xtrace export`: a trace and its results in the formats of other tools."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from xtrace.analysis.export.names import (
    CTF,
    EVENTS,
    FORMATS,
    PERFETTO,
    STACK_FORMATS,
    TABLE_FORMATS,
    Part,
    What,
)
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
    parsed,
)
from xtrace.cli.terminal.progress import bar
from xtrace.cli.terminal.style import tell
from xtrace.probes.selection.times import Moment
from xtrace.probes.words import count_of

if TYPE_CHECKING:
    from xtrace.analysis.export.grouped import Condition
    from xtrace.analysis.export.source import Exported
    from xtrace.analysis.report.guest_kernels import ImageKernel


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
            autocompletion=offered(lambda: FORMATS),
        ),
    ],
    what: Annotated[
        str | None,
        typer.Option(
            "--what",
            metavar="WHAT",
            help="Of json, csv, parquet and arrow: records, intervals (the default), histograms, or one kind "
            f"of events: {', '.join(EVENTS)}.",
            autocompletion=offered(lambda: What),
        ),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where",
            metavar="COLUMN=VALUE",
            help="Only rows of a table with this value: vector=0xfa, access=port_read. Repeatable.",
        ),
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            "--sum-by",
            metavar="COLUMNS",
            help="Count and sum up the rows of a table by these columns, such as domain,address.",
        ),
    ] = None,
    slot: Annotated[
        Moment | None,
        typer.Option(
            "--slot",
            parser=parsed(Moment.parse),
            metavar="TIME",
            help="Count and sum up the rows of a table by time: slots of this length, such as 1s.",
        ),
    ] = None,
    parts: Annotated[
        str | None,
        typer.Option("--parts", metavar="LIST", help=f"Of perfetto, only these: {','.join(Part)}."),
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
    one_of(format_, FORMATS, "--format")
    _must_fit(format_, what, parts, kernel, where, by, slot)
    chosen = _chosen(parts)

    from xtrace.analysis.export.source import Exported, ExportRequest
    from xtrace.probes.outputs import STDOUT, opened, refuse_taken

    path = Path(file)
    if format_ == CTF and str(output) == STDOUT:
        raise typer.BadParameter("ctf is a folder, which stdout cannot be", param_hint="--output")
    if str(output) != STDOUT and format_ != CTF:
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
    if format_ == CTF:
        from xtrace.analysis.export import ctf

        tell(count_of(ctf.write(Exported(request, progress=bar), output, force=force), "record"))
        return
    with opened(output, force=force, inputs=[path]) as out:
        exported = Exported(request, progress=bar)
        if format_ == PERFETTO:
            tell(_perfetto(exported, out, chosen))
        elif format_ in STACK_FORMATS:
            tell(_stacks(exported, out, format_, kernel or []))
        else:
            tell(_table(exported, out, format_, what or What.INTERVALS, where or [], by, slot))


def _must_fit(
    format_: str,
    what: str | None,
    parts: str | None,
    kernel: list[str] | None,
    where: list[str] | None,
    by: str | None,
    slot: Moment | None,
) -> None:
    """Refuse options that the format does not have."""
    if what is not None:
        one_of(what, What, "--what")
    for given, option, formats in (
        (what, "--what", TABLE_FORMATS),
        (where, "--where", TABLE_FORMATS),
        (by, "--sum-by", TABLE_FORMATS),
        (slot, "--slot", TABLE_FORMATS),
        (parts, "--parts", (PERFETTO,)),
        (kernel, "--kernel", STACK_FORMATS),
    ):
        if given and format_ not in formats:
            raise typer.BadParameter(f"is for {', '.join(formats)}", param_hint=option)


def _chosen(parts: str | None) -> tuple[Part, ...]:
    """Return the parts that --parts names, all without it."""
    if parts is None:
        return tuple(Part)
    return tuple(Part(one_of(part.strip(), Part, "--parts")) for part in parts.split(","))


def _perfetto(exported: Exported, out: BinaryIO, parts: tuple[Part, ...]) -> str:
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


def _table(
    exported: Exported,
    out: BinaryIO,
    format_: str,
    what: str,
    conditions: list[str],
    by: str | None,
    slot: Moment | None,
) -> str:
    from xtrace.analysis.export import grouped, tables, write_table
    from xtrace.analysis.report.request import RequestError

    made = tables.table(exported, what)
    columns = [name.strip() for name in by.split(",")] if by else []
    try:
        if conditions:
            made = grouped.where(made, [_condition(text) for text in conditions])
        if columns or slot is not None:
            made = grouped.grouped(exported, made, columns, slot)
        return count_of(write_table.write(exported, made, out, format_), "row")
    except RequestError as error:
        raise typer.BadParameter(str(error), param_hint=f"--{error.field}") from None


def _condition(text: str) -> Condition:
    from xtrace.analysis.export.grouped import Condition

    try:
        return Condition.parse(text)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--where") from None
