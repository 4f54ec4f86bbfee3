"""Small real traces; README.md describes how each was made and what it shows."""

from __future__ import annotations

from pathlib import Path

#: The installed sample, which ``xtrace report`` reads when no file is given.
NAME = "xen417-pv-all.bin.xz"


def path() -> Path:
    """Return the path of the default sample, in the checkout or in the installed wheel."""
    return Path(__file__).with_name(NAME)
