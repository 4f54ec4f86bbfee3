"""Options that `xtrace top` and `xtrace stat` share."""

from __future__ import annotations

from typing import Annotated

import typer

InputFile = Annotated[
    str | None,
    typer.Option("--input", "-i", metavar="FILE", help="Replay a trace or a capture; - is stdin."),
]
TracesHvm = Annotated[bool, typer.Option("--hvm", help="Trace HVM and PVH guests too, each exit of theirs.")]
CpuHz = Annotated[
    float | None,
    typer.Option(min=1e6, help="Cycles a second of the TSC. Default: told by Xen or the trace."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object a line.")]
