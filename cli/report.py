"""`xtrace report`: a stub until the analysis is there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    files: Annotated[
        list[Path] | None, typer.Argument(help="Traces; - is stdin. None: the bundled sample.")
    ] = None,
) -> None:
    """Report how event channels were delivered and what guests did."""
    from xtrace.cli import sample

    typer.echo("\n".join(map(str, files or [sample.path()])))
