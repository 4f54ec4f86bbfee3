"""`xtrace export`: a trace and its results in the formats of other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xtrace.cli.options import (
    CpuHz,
    DomainNames,
    From,
    Strict,
    To,
    Vcpus,
    XenVersion,
    offered,
    one_of,
)
from xtrace.cli.terminal.progress import bar
from xtrace.cli.terminal.style import tell

#: Formats of traces.
_FORMATS = ("perfetto",)
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
            help="File to write; - is stdout.",
        ),
    ],
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            "-f",
            metavar="FORMAT",
            help=f"{', '.join(_FORMATS)}.",
            autocompletion=offered(lambda: _FORMATS),
        ),
    ],
    parts: Annotated[
        str | None,
        typer.Option("--parts", metavar="LIST", help=f"Of perfetto, only these: {','.join(_PARTS)}."),
    ] = None,
    domain: DomainNames = None,
    vcpu: Vcpus = None,
    begin: From = None,
    end: To = None,
    cpu_hz: CpuHz = None,
    xen: XenVersion = None,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it exists.")] = False,
    strict: Strict = False,
) -> None:
    """Write a trace in the format of another tool, in memory that does not grow with the trace.

    perfetto: for ui.perfetto.dev and its SQL; a domain is a process, a vCPU a thread.
    """
    one_of(format_, _FORMATS, "--format")
    chosen = _chosen(parts)

    from xtrace.analysis.export.output import opened
    from xtrace.analysis.export.perfetto.write import write
    from xtrace.analysis.export.source import Exported, ExportRequest

    path = Path(file)
    request = ExportRequest(
        path=path, domains=domain or (), vcpus=vcpu or (), begin=begin, end=end, cpu_hz=cpu_hz, versions=xen,
        strict=strict,
    )  # fmt: skip
    with opened(output, force=force, inputs=[path]) as out:
        written = write(Exported(request, progress=bar), out, parts=chosen, tell=tell)
    tell(
        f"{written.switches:,} switches, {written.wakes:,} wakes, {written.slices:,} slices, "
        f"{written.instants:,} instants, {written.flows:,} flows"
    )


def _chosen(parts: str | None) -> tuple[str, ...]:
    """Return the parts that --parts names, all without it."""
    if parts is None:
        return _PARTS
    return tuple(one_of(part.strip(), _PARTS, "--parts") for part in parts.split(","))
