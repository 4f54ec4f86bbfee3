"""The two functions that the tables are written with: lay() and define()."""

from __future__ import annotations

from functools import cache
from typing import Protocol

from xtrace.probes.catalog.types import Event, Layout, VersionRange
from xtrace.probes.format import TraceClass

_range = cache(VersionRange.parse)


class Row(Protocol):
    """The function that define() returns: makes an event of its class and source."""

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
        """Return the event; layouts are oldest first, none for a reserved id."""
        ...


def lay(
    versions: str, words: int | tuple[int, ...], text: str = "", *, timed: bool = True, note: str = ""
) -> Layout:
    """Return the layout for ``versions``, such as "4.8+", "4.0-4.7" or "4.0".

    Args:
        words: number of extra words, or the possible numbers.
        text: the fields, in the notation of catalog.types.
    """
    span = _range(versions)
    lengths = (words,) if isinstance(words, int) else words
    return Layout(span.low, span.high, lengths, timed, text, note)


def define(cls: TraceClass, source: str) -> Row:
    """Return the function that makes rows of one class, with ``source`` as default source in Xen."""
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
