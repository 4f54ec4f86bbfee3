"""Results of `xtrace trial`: one, for `xtrace report --trial FILE`, or two, for `xtrace diff OLD NEW`."""

from __future__ import annotations

import json as codec
from pathlib import Path

import typer

from xtrace.cli.terminal.style import WIDTH, put
from xtrace.cli.terminal.text import cut, safe

_HEAD_BYTES = 4096
_NAME_WIDTH = 28


def are_trials(old: Path, new: Path) -> bool:
    """Return whether both files begin as results of trials do."""
    return all(_begins_as_trial(path) for path in (old, new))


def _begins_as_trial(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
    return head.lstrip().startswith(b"{") and b'"measured in place"' in head


def diff_trials(old: Path, new: Path, *, json: bool, html: Path | None) -> None:
    """Print what changed between two trials, or write its page."""
    from xtrace.analysis.trial.compare import Change, changes, json_object
    from xtrace.analysis.trial.result import read

    before, after = read(old), read(new)
    if html is not None:
        from xtrace.cli.page.write import PageFile

        PageFile(html, [old, new]).write_trial_diff(json_object(before, after))
    if json:
        typer.echo(codec.dumps(json_object(before, after), indent=1))
    if json or html is not None:
        return

    def line(change: Change) -> str:
        saved, difference = change.old.times(100), change.difference.times(100)
        mark = "~" if change.may_be_chance else " "
        return (
            f"{mark} {cut(safe(change.name), _NAME_WIDTH):{_NAME_WIDTH}} {saved.value:8.3f}% "
            f"{100 * change.new.value:8.3f}% {difference.value:+8.3f}% {difference.low:+8.3f} "
            f"{difference.high:+8.3f}"
        )

    put(cut(f"old      {safe(before.image)}, {safe(before.date)}", WIDTH))
    put(cut(f"new      {safe(after.image)}, {safe(after.date)}", WIDTH))
    put("")
    put("What no-ops in place of fences save (share of the running time, measured in place)")
    put(f"  {'group':{_NAME_WIDTH}} {'old':>9} {'new':>9} {'change':>9} {'from':>8} {'to':>8}")
    put("-" * WIDTH)
    for change in changes(before, after):
        put(line(change))


def report_trial(path: Path, *, json: bool, html: Path | None) -> None:
    """Print the result of a trial, or write its page."""
    from xtrace.analysis.trial.result import read, text_of

    found = read(path)
    if html is not None:
        from xtrace.cli.page.write import PageFile

        PageFile(html, [path]).write_trial(found)
    if json:
        typer.echo(text_of(found))
    elif html is None:
        from xtrace.cli.render.trial import print_trial

        print_trial(put, found)
