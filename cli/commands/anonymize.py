"""`xtrace anonymize`: a copy of a trace or a capture that says nothing of whose host it is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from xtrace.cli.terminal.style import tell
from xtrace.probes.errors import TraceError
from xtrace.probes.words import count_of


def anonymize(
    file: Annotated[str, typer.Argument(help="A trace, plain or compressed, or a capture.", metavar="TRACE")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            readable=False,
            metavar="OUT",
            help="Default: NAME.anonymous.bin or .xtrace beside it.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace OUT if it exists; never a folder.")] = False,
) -> None:
    """Copy a trace or a capture without names, for people to send.

    Names of domains, symbols, hosts, files and processes become tokens, addresses are shifted by one secret
    distance, figures stay. Look at it before you send it: what ran when is still there.
    """
    from xtrace.probes.anonymous.capture import copy

    path = Path(file)
    target = output or _beside(path)
    if target.is_symlink() or (target.exists() and (target.is_dir() or not force)):
        raise TraceError(
            f"{target}: exists; choose another name with -o{'' if target.is_dir() else ' or --force'}"
        )
    done = copy(path, target)
    counts = done.counts
    tell(
        f"{target}: {count_of(counts.records, 'record')}, {counts.shifted:,} addresses "
        f"shifted, {count_of(counts.emptied, 'record')} emptied, {count_of(len(done.names), 'name')} replaced"
    )
    if done.left_out:
        tell(f"not copied: {', '.join(done.left_out)}")


def _beside(file: Path) -> Path:
    """Return the name of the copy: without what says how the input is packed."""
    ending = ".xtrace" if file.is_dir() else ".bin"
    stem = file.name.partition(".")[0] or file.name
    return file.with_name(f"{stem}.anonymous{ending}")
