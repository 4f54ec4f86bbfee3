"""Which processes run, as /proc tells it: pgrep is not everywhere."""

from __future__ import annotations

import contextlib
from pathlib import Path


def running(text: str) -> list[int]:
    """Return the processes that have ``text`` in their command line."""
    found = []
    for folder in Path("/proc").iterdir():
        # They may end while they are looked at.
        with contextlib.suppress(OSError):
            if folder.name.isdigit() and text.encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found
