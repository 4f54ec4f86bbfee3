"""The two words that the tables are written in: lay() and the rows of define()."""

from __future__ import annotations

from functools import cache
from typing import Protocol

from xtrace.probes.catalog.types import Event, Layout, VersionRange
from xtrace.probes.format import TraceClass

_range = cache(VersionRange.parse)


class Row(Protocol):
    """Make an event of the class and source that define() was given."""

    def __call__(
        self,
        id: int,
        name: str,
        xen_name: str,
        *layouts: Layout,
        note: str = "",
        source: str = "",
        constants: tuple[tuple[str, str], ...] = (),
    ) -> Event:
        """Return the event; its layouts stand oldest first, and are none for a reserved id."""
        ...


def lay(
    versions: str, words: int | tuple[int, ...], text: str = "", *, timed: bool = True, note: str = ""
) -> Layout:
    """Return the layout of ``versions``: "4.8+", "4.0-4.7" or "4.0".

    Args:
        words: number of extra words, or the numbers possible.
        text: the fields, in the notation of catalog.types.
    """
    span = _range(versions)
    lengths = (words,) if isinstance(words, int) else words
    return Layout(span.low, span.high, lengths, timed, text, note)


def define(cls: TraceClass, source: str) -> Row:
    """Return the maker of rows for one class, written in Xen's ``source`` unless they say otherwise."""
    default = source

    def row(
        id: int,
        name: str,
        xen_name: str,
        *layouts: Layout,
        note: str = "",
        source: str = "",
        constants: tuple[tuple[str, str], ...] = (),
    ) -> Event:
        return Event(id, name, xen_name, cls, layouts, note, source or default, constants)

    return row
