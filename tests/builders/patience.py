"""Remove the line that asks for patience, which depends only on how busy the machine is."""

from __future__ import annotations

from xtrace.analysis.loading.preload import LOOPS


def without_patience(said: str) -> str:
    """Return a command's standard error without that line."""
    return said.replace(LOOPS.patience, "")
