"""Progress of what takes longer than a second, on standard error, and only if that is a terminal.

rich draws it; it is imported only once a second has passed, because most commands end before that.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from xtrace.cli.terminal.style import is_plain

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

_AFTER_S = 1.0


@contextmanager
def bar(paths: Sequence[str]) -> Iterator[Callable[[str, int], None] | None]:
    """Show how much of the files is read; the context gets what takes a path and the bytes read of it."""
    done = dict.fromkeys(paths, 0)

    def text(done: float, total: float | None) -> str:
        # Of a pipe it is not known how much there is.
        return "reading" if total else f"reading, {done / 1e6:,.1f} MB so far"

    with _late(text, cache(lambda: _total(paths))) as update:
        if update is None:
            yield None
            return

        def read(path: str, count: int) -> None:
            done[path] = count
            update(sum(done.values()))

        yield read


@contextmanager
def share(what: str) -> Iterator[Callable[[float], None]]:
    """Show which share of something is done; the context gets what takes the share."""
    with _late(lambda _done, _total: what, lambda: 1.0) as update:
        yield (lambda _: None) if update is None else update


@contextmanager
def counted(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show how many of something are done, of as many as are needed: unknown (0) at first, and changing."""
    needed = 0.0

    def text(done: float, total: float | None) -> str:
        return f"{what}, {done:,.0f} of {total:,.0f}" if total else f"{what}, {done:,.0f}"

    with _late(text, lambda: needed or None) as update:
        if update is None:
            yield lambda _done, _needed: None
            return

        def count(done: int, of: int) -> None:
            nonlocal needed
            needed = max(of, done) if of else 0.0
            update(done)

        yield count


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Show that something goes on of which no share is known."""
    with _late(lambda _done, _total: what, lambda: None):
        yield


@contextmanager
def _late(
    text: Callable[[float, float | None], str], total: Callable[[], float | None]
) -> Iterator[Callable[[float], None] | None]:
    """Show progress once the context has lasted a second; the context gets None where it is never shown.

    Args:
        text: what is shown beside the bar, by how much is done and how much there is in all.
        total: how much there is in all, None where it is not known.
    """
    if not sys.stderr.isatty() or os.environ.get("TERM") == "dumb":
        yield None
        return
    shown = _Shown(text, total)
    timer = threading.Timer(_AFTER_S, shown.begin)
    timer.daemon = True
    timer.start()
    try:
        yield shown.update
    finally:
        timer.cancel()
        shown.end()


class _Shown:
    """A bar that appears when its time has come, and leaves no trace."""

    def __init__(self, text: Callable[[float, float | None], str], total: Callable[[], float | None]) -> None:
        self._text, self._total, self._done = text, total, 0.0
        self._lock = threading.Lock()
        self._has_ended = False
        self._bar: Progress | None = None
        self._task: TaskID | None = None

    def begin(self) -> None:
        """Draw it from now on."""
        from rich.console import Console
        from rich.progress import Progress

        with self._lock:
            if self._has_ended:
                return
            # The terminal's own 16 colours, as for everything else; rich has its own for 256.
            system: Literal["standard"] | None = None if is_plain() else "standard"
            self._bar = Progress(console=Console(stderr=True, color_system=system), transient=True)
            total = self._total()
            text = self._text(self._done, total)
            self._task = self._bar.add_task(text, total=total, completed=int(self._done))
            with suppress(OSError):  # the terminal is gone
                self._bar.start()

    def update(self, done: float) -> None:
        """Take how much is done."""
        self._done = done
        drawn, task = self._bar, self._task
        if drawn is not None and task is not None:
            total = self._total()
            drawn.update(task, completed=done, total=total, description=self._text(done, total))

    def end(self) -> None:
        """Remove it from the screen."""
        with self._lock:
            self._has_ended = True
            if self._bar is not None:
                with suppress(OSError):
                    self._bar.stop()


def _total(paths: Sequence[str]) -> int | None:
    """Return the bytes of files; None where one is a pipe or compressed, so that its bytes are not known."""
    from xtrace.probes.capture.layout import trace_in
    from xtrace.probes.reader.survey import compression_of, is_plain_file

    try:
        files = list(map(trace_in, paths))
        is_known = all(is_plain_file(file) and not compression_of(file) for file in files)
        return sum(Path(file).stat().st_size for file in files) if is_known else None
    except OSError:  # standard input, or it is gone; reading it says so
        return None
