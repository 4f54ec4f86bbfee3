"""`xtrace dump`: a stub until the reader is there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def dump(file: Annotated[Path, typer.Argument(help="A trace; - is stdin.")]) -> None:
    """Print every record, merged by time, by name and field."""
    with file.open("rb") as stream:
        typer.echo(f"{file}: {len(stream.read())} bytes")
