"""`xtrace doctor`: what can be recorded on this host, and how to fix what cannot."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from textwrap import wrap
from typing import TYPE_CHECKING

import typer

from xtrace.cli.options import AsJson, NoColor
from xtrace.cli.terminal.style import WIDTH, is_styled, tell
from xtrace.cli.terminal.text import safe

if TYPE_CHECKING:
    from xtrace.probes.recording.doctor import Examination, Finding

SCHEMA_VERSION = 1

_COLOURS = {"ok": typer.colors.GREEN, "limited": typer.colors.YELLOW, "missing": typer.colors.RED}
_STATE_WIDTH, _NAME_WIDTH = 7, 12
_INDENT = 2 + _STATE_WIDTH + 2 + _NAME_WIDTH + 1


def doctor(no_color: NoColor = False, json: AsJson = False) -> None:
    """Check what can be recorded on this host, what is missing and how to fix it; change nothing.

    Except code that a killed trial left in a process: it is put back.
    """
    from xtrace.probes.recording.doctor import examine
    from xtrace.probes.trial.restore import restore_all

    for line in restore_all():
        tell(line)
    found = examine()
    if json:
        import json as codec

        content = {
            "schema_version": SCHEMA_VERSION,
            "usable": list(found.usable),
            "default": list(found.default),
            "findings": [asdict(finding) for finding in found.findings],
        }
        typer.echo(codec.dumps(content, indent=2))
    else:
        for line in lines_of(found, in_colour=is_styled()):
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
    yield from _closing(found)


def _closing(found: Examination) -> Iterator[str]:
    """Yield what `xtrace record` does here."""
    asked = [name for name in found.usable if name not in found.default]
    if not found.usable:
        yield "xtrace record can record nothing here"
        return
    if not found.default:
        yield f"xtrace record needs --backend here: {', '.join(asked)}"
        return
    also = f"; with --backend also {', '.join(asked)}" if asked else ""
    yield f"xtrace record uses {' and '.join(found.default)} here{also}"


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
