"""Read texts of files and tools with a limit on their length, because guests choose some of them."""

from __future__ import annotations

from pathlib import Path

#: Most that is used of a file or of a tool's output.
MAX_BYTES = 4 << 20
_MAX_TEXT = 256


def read(path: Path) -> str:
    """Return the text of a file in /proc or /sys, stripped, or "" if it cannot be read."""
    try:
        return path.read_bytes()[:MAX_BYTES].decode("utf-8", "backslashreplace").strip()
    except OSError:
        return ""


def bounded(text: str) -> str:
    """Return ``text``, cut to at most 256 characters and "..."."""
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}..."
