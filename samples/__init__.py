"""Small real traces; README.md says how each was made and what it shows."""

from __future__ import annotations

from pathlib import Path

#: The one that is installed, and that ``xtrace report`` reads when no file is named.
NAME = "xen417-pv-all.bin.xz"


def path() -> Path:
    """Return where it lies: in the checkout, or in the installed wheel."""
    return Path(__file__).with_name(NAME)
