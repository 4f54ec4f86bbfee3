"""`xtrace report --trial FILE` without a trace: what a trial found, alone."""

from __future__ import annotations

from pathlib import Path

import typer

from xtrace.analysis.trial.result import read, text_of
from xtrace.cli.terminal.style import put


def report_trial(path: Path, *, json: bool, html: Path | None) -> None:
    """Print the result of a trial, or write its page."""
    found = read(path)
    if html is not None:
        from xtrace.cli.page.write import PageFile

        PageFile(html, [path]).write_trial(found)
    if json:
        typer.echo(text_of(found))
    elif html is None:
        from xtrace.cli.render.trial import print_trial

        print_trial(put, found)
