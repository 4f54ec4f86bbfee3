"""The commands as typer has them, to look at their options and help."""

from __future__ import annotations

from typing import Any

import typer

from xtrace.cli.main import app


def commands() -> dict[str, Any]:
    """Return the commands by name."""
    group: Any = typer.main.get_command(app)
    context = typer.Context(group)
    return {name: group.get_command(context, name) for name in group.list_commands(context)}
