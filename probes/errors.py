"""What can go wrong while reading a trace."""

from __future__ import annotations


class TraceError(ValueError):
    """A trace that cannot be read, in one line that says what, where and what to do."""
