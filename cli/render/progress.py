"""Progress of a child process that reads a trace."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_PROGRESS_BYTES = 64 << 20


@contextmanager
def bar(path: str) -> Iterator[Callable[[int], None] | None]:
    """Show a progress bar on standard error if it is a terminal and the file is large."""
    from xtrace.probes.capture.layout import trace_in

    place = Path(trace_in(path))
    size = place.stat().st_size if place.is_file() else 0
    if size < _PROGRESS_BYTES or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("reading", total=size)
        yield lambda done: shown.update(task, completed=done)
