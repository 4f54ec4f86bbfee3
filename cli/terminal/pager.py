"""Long output goes through a pager, as git's does: only on a terminal, and not where it fits the screen.

XTRACE_PAGER or PAGER names it, less is the default; empty or cat is none.  LESS is set to FRSX where the user
has not set it: it ends at once if everything fits, shows colours, cuts long lines and leaves the screen.
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

_OPTIONS = "FRSX"


def command() -> str:
    """Return the pager's command line, "" for none."""
    for name in ("XTRACE_PAGER", "PAGER"):
        if name in os.environ:
            found = os.environ[name].strip()
            return "" if found == "cat" else found
    return "less" if shutil.which("less") else ""


@contextmanager
def paged(*, wanted: bool = True) -> Iterator[None]:
    """Show what is printed to standard output in the context in a pager, if it is a terminal.

    Args:
        wanted: False prints directly, as --no-pager says.
    """
    line = command() if wanted and sys.stdout.isatty() and os.environ.get("TERM") != "dumb" else ""
    if not line:
        yield
        return
    terminal, kept = sys.stdout, _Kept(sys.stdout.encoding)
    sys.stdout = kept
    try:
        yield
    finally:
        sys.stdout = terminal
    _show(line, kept.content())


class _Kept(io.TextIOWrapper):
    """Keeps what is printed, and takes itself for the terminal that the pager is on."""

    def __init__(self, encoding: str) -> None:
        super().__init__(io.BytesIO(), encoding=encoding, errors="backslashreplace")

    def isatty(self) -> bool:
        """Return that it is a terminal, so that colours stay."""
        return True

    def content(self) -> bytes:
        """Return what was printed."""
        self.flush()
        assert isinstance(self.buffer, io.BytesIO)
        return self.buffer.getvalue()


def _show(line: str, content: bytes) -> None:
    """Run the pager on ``content``; without one that runs, print it."""
    environment = {"LESS": _OPTIONS, "LV": "-c", **os.environ}
    # Ctrl-C is the pager's: in less it ends a search, not the program.
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        pager = subprocess.Popen(
            line, shell=True, stdin=subprocess.PIPE, env=environment, preexec_fn=_with_ctrl_c
        )
        assert pager.stdin is not None
        with suppress(BrokenPipeError):  # the reader has seen enough
            pager.stdin.write(content)
            pager.stdin.close()
        code = pager.wait()
    finally:
        signal.signal(signal.SIGINT, before)
    if code == 127:
        # The shell has said that there is no such program.
        sys.stdout.flush()
        sys.stdout.buffer.write(content)


def _with_ctrl_c() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
