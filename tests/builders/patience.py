"""The line that asks for patience tells how busy the machine is, and nothing about the command."""

from __future__ import annotations

from xtrace.analysis.loading.preload import LOOPS


def without_patience(said: str) -> str:
    """Return what a command said on standard error, but for that line."""
    return said.replace(LOOPS.patience, "")
