"""Progress of reading traces."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_PROGRESS_BYTES = 64 << 20


@contextmanager
def bar(paths: Sequence[str]) -> Iterator[Callable[[str, int], None] | None]:
    """Show a progress bar on standard error if it is a terminal and the files are large."""
    if not sys.stderr.isatty():
        yield None
        return
    size = sum(map(_size, paths))
    if size < _PROGRESS_BYTES:
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    done = dict.fromkeys(paths, 0)
    with Progress(console=Console(stderr=True), transient=True) as shown:
        task = shown.add_task("reading", total=size)

        def update(path: str, count: int) -> None:
            done[path] = count
            shown.update(task, completed=sum(done.values()))

        yield update


def _size(path: str) -> int:
    from xtrace.probes.capture.layout import trace_in

    place = Path(trace_in(path))
    return place.stat().st_size if place.is_file() else 0
