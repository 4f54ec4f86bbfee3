"""The table of docs/export.md: what to type instead of other tools."""

from __future__ import annotations

import re
from pathlib import Path

_PAGE = Path(__file__).parents[2] / "docs" / "export.md"


def rows() -> list[tuple[str, str]]:
    """Return what each row replaces, and what to type."""
    table = _PAGE.read_text().split("## What to type instead")[1].split("Where the two differ")[0]
    lines = (line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("| `"))
    return [(replaced, typed) for replaced, typed in lines]


def options_of(tool: str) -> set[str]:
    """Return the long options of a tool that the table names."""
    left = "\n".join(replaced for replaced, _ in rows() if f"`{tool}" in replaced)
    return set(re.findall(r"--([a-z][a-z0-9-]+)", left))
