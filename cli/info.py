"""`xtrace info`: a stub until the reader is there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def info(file: Annotated[Path, typer.Argument(help="A trace; - is stdin.")]) -> None:
    """Print what a trace's headers say, without a full pass."""
    with file.open("rb") as stream:
        typer.echo(f"{file}: {len(stream.read())} bytes")
