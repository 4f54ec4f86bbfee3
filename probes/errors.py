"""The error that reading or recording a trace raises."""

from __future__ import annotations


class TraceError(ValueError):
    """A trace cannot be read or recorded; the message is one line: what, where, and what to do."""


def without_records(name: object) -> str:
    """Return the message about a trace that has no record."""
    return f"{name}: is empty: it has no records"
