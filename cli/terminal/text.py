"""Text for a terminal: escaped, measured in columns, shortened, padded and wrapped.

Names come from traces, images and hosts.  Whatever script they are in, a name takes as many columns as
:func:`columns_of` says: wide characters two, combining ones none.  What a terminal would obey is escaped.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from textwrap import wrap

from xtrace.probes.words import printable
from xtrace.probes.xen_abi import DEFAULT_DOMAIN, IDLE_DOMAIN

#: Columns of a label at the start of a line.
LABEL = 9
#: Marks the direction after text written from right to left, or the figures after it would change places.
_LEFT_TO_RIGHT = "\u200e"
_RIGHT_TO_LEFT = {"R", "AL", "AN"}
#: Characters per column at most: a name of nothing but combining marks takes no column.
_PER_COLUMN = 4
#: How much of two words must be alike for one to be suggested for the other.
_LIKE = 0.6


safe = printable


def columns_of(text: str) -> int:
    """Return how many columns of a terminal ``text`` takes; ``text`` is as safe() returns it."""
    if text.isascii():
        return len(text)
    from wcwidth import wcswidth

    width: int = wcswidth(text.replace(_LEFT_TO_RIGHT, ""))
    return width if width >= 0 else len(text)


def beginning(text: str, width: int) -> str:
    """Return the longest beginning of ``text`` that takes at most ``width`` columns."""
    if text.isascii():
        return text[:width]
    kept, places = text[: width * _PER_COLUMN], 0
    for place in range(len(kept)):
        # A combining mark belongs to the character before it.
        if columns_of(kept[: place + 1]) > width:
            return kept[:places]
        places = place + 1
    return kept


def ending(text: str, width: int) -> str:
    """Return the longest end of ``text`` that takes at most ``width`` columns."""
    if text.isascii():
        return text[len(text) - width :] if width < len(text) else text
    kept = text[-width * _PER_COLUMN :] if width else ""
    while kept and (columns_of(kept) > width or unicodedata.combining(kept[0])):
        kept = kept[1:]
    return kept


def shortened(text: str, width: int) -> str:
    """Return ``text`` in at most ``width`` columns, shortened in the middle if it is longer."""
    if len(text) <= width * _PER_COLUMN and columns_of(text) <= width:
        return text
    tail = (width - 2) // 2
    return f"{beginning(text, width - 2 - tail)}..{ending(text, tail)}"


def cut(text: str, width: int) -> str:
    """Return ``text`` in at most ``width`` columns, with "..." in place of an end that does not fit."""
    if len(text) <= width * _PER_COLUMN and columns_of(text) <= width:
        return text
    return beginning(text, width - 3).rstrip(" ,;:") + "..."


def padded(text: str, width: int, *, left: bool = False) -> str:
    """Return ``text`` with spaces to ``width`` columns, after it (``left``) or before it."""
    spaces = " " * (width - columns_of(text))
    if not text.isascii() and any(unicodedata.bidirectional(c) in _RIGHT_TO_LEFT for c in text):
        text += _LEFT_TO_RIGHT
    return text + spaces if left else spaces + text


def wrapped(text: str, width: int) -> list[str]:
    """Return ``text`` in lines of at most ``width`` columns."""
    if text.isascii():
        return wrap(text, width, break_on_hyphens=False) or [""]
    return list(_filled(text, width)) or [""]


def _filled(text: str, width: int) -> Iterator[str]:
    line = ""
    for word in text.split():
        while columns_of(word) > width:
            if line:
                yield line
                line = ""
            head = beginning(word, width)
            yield head
            word = word[len(head) :]
        both = f"{line} {word}" if line else word
        if columns_of(both) > width:
            yield line
            line = word
        else:
            line = both
    if line:
        yield line


def labelled(label: str, text: str, width: int) -> list[str]:
    """Return ``text`` as lines of at most ``width`` columns, the first one with a label."""
    return [
        f"{'' if number else label:<{LABEL}}{line}"
        for number, line in enumerate(wrapped(text, width - LABEL))
    ]


def domain_name(domain: int) -> str:
    """Return the label of a domain whose name is not known."""
    return "idle" if domain == IDLE_DOMAIN else "?" if domain == DEFAULT_DOMAIN else f"d{domain}"


def nearest(text: str, known: Sequence[str], *, lead: str = "") -> str:
    """Return a question with the known value that is most like ``text``, "" where none is like it.

    Args:
        lead: what they begin with, which does not make them alike.
    """
    from difflib import get_close_matches

    bare = [name.removeprefix(lead) for name in known if name.startswith(lead)]
    found = [f"{lead}{name}" for name in get_close_matches(text.removeprefix(lead), bare, 1, _LIKE)]
    return f"; do you mean {found[0]}?" if found else ""
