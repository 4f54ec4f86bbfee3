"""List running processes from /proc, because pgrep is not available everywhere."""

from __future__ import annotations

import contextlib
from pathlib import Path


def running(text: str) -> list[int]:
    """Return the pids of the processes with ``text`` in their command line."""
    found = []
    for folder in Path("/proc").iterdir():
        # A process may end meanwhile.
        with contextlib.suppress(OSError):
            if folder.name.isdigit() and text.encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found
