"""`xtrace doctor`: what can be recorded on this host, and how to fix what cannot."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from dataclasses import asdict
from textwrap import wrap
from typing import TYPE_CHECKING

import typer

from xtrace.cli.options import AsJson
from xtrace.cli.terminal.style import WIDTH
from xtrace.cli.terminal.text import safe

if TYPE_CHECKING:
    from xtrace.probes.recording.doctor import Examination, Finding

SCHEMA_VERSION = 1

_COLOURS = {"ok": typer.colors.GREEN, "limited": typer.colors.YELLOW, "missing": typer.colors.RED}
_STATE_WIDTH, _NAME_WIDTH = 7, 12
_INDENT = 2 + _STATE_WIDTH + 2 + _NAME_WIDTH + 1


def doctor(json: AsJson = False) -> None:
    """Check what can be recorded on this host, what is missing and how to fix it; change nothing."""
    from xtrace.probes.recording.doctor import examine

    found = examine()
    if json:
        import json as codec

        content = {
            "schema_version": SCHEMA_VERSION,
            "usable": list(found.usable),
            "findings": [asdict(finding) for finding in found.findings],
        }
        typer.echo(codec.dumps(content, indent=2))
    else:
        for line in lines_of(found, in_colour=sys.stdout.isatty() and not os.environ.get("NO_COLOR")):
            typer.echo(line)
    if not found.usable:
        raise typer.Exit(1)


def lines_of(found: Examination, *, in_colour: bool) -> Iterator[str]:
    """Yield the lines to print, of 80 columns at most."""
    part = ""
    for finding in found.findings:
        if finding.part != part:
            part = finding.part
            yield typer.style(part, bold=True) if in_colour else part
        yield from _lines(finding, in_colour)
    usable = ", ".join(found.usable)
    yield f"xtrace record can use {usable} here" if usable else "xtrace record can record nothing here"


def _lines(finding: Finding, in_colour: bool) -> Iterator[str]:
    state = finding.state.ljust(_STATE_WIDTH)
    head = f"{typer.style(state, fg=_COLOURS[finding.state]) if in_colour else state}  "
    head += f"{safe(finding.name):<{_NAME_WIDTH}} "
    first, *rest = wrap(safe(f"{finding.text} ({finding.how})"), WIDTH - _INDENT)
    yield f"  {head}{first}"
    for line in rest:
        yield f"{'':{_INDENT}}{line}"
    if finding.remedy:
        first, *rest = wrap(safe(finding.remedy), WIDTH - _INDENT - 3, break_on_hyphens=False)
        yield f"{'':{_INDENT}}-> {first}"
        for line in rest:
            yield f"{'':{_INDENT + 3}}{line}"
