"""Texts of files and tools, bounded: guests choose some of them."""

from __future__ import annotations

from pathlib import Path

#: Of a file, or of what a tool prints.
MAX_BYTES = 4 << 20
_MAX_TEXT = 256


def read(path: Path) -> str:
    """Return what a file of the kernel says, "" where it cannot be read."""
    try:
        return path.read_bytes()[:MAX_BYTES].decode("utf-8", "backslashreplace").strip()
    except OSError:
        return ""


def bounded(text: str) -> str:
    """Return ``text``, cut where it is longer than any that matters."""
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}..."
