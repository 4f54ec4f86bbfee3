"""Read what `xtrace report` says about a trace, to compare live figures with."""

from __future__ import annotations

import contextlib
import functools
import io
import json
from pathlib import Path
from typing import Any

from xtrace.cli.main import main

SAMPLES = sorted((Path(__file__).parents[2] / "samples").glob("*.bin.xz"))
#: The smallest that are not cut to less than a second, and those with losses.
_WHOLE = [path for path in SAMPLES if "events" not in path.name]
_BY_SIZE = sorted(_WHOLE, key=lambda path: path.stat().st_size)
SOME = sorted({*_BY_SIZE[:2], *(path for path in SAMPLES if "lost" in path.name)})


@functools.cache
def report(path: Path) -> Any:
    """Return the report's JSON object."""
    return json.loads(printed("report", "--json", str(path)))


def rows(path: Path, table: str) -> list[dict[str, Any]]:
    """Return a table's rows."""
    found: list[dict[str, Any]] = report(path)["tables"][table]["rows"]
    return found


def printed(*arguments: str) -> str:
    """Return a command's output; it must succeed."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(list(arguments)) == 0
    return out.getvalue()


@functools.cache
def objects(*arguments: str) -> list[dict[str, Any]]:
    """Return the JSON objects that a command prints, one per line."""
    return [json.loads(line) for line in printed(*arguments).splitlines()]
