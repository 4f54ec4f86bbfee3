"""The error for an unreadable kernel image, and how to print text that comes from an image."""

from __future__ import annotations


class ImageError(ValueError):
    """An image cannot be read; the message is one line that says what, where and what to do."""


#: How a spreadsheet recognises a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def cell(text: str) -> str:
    """Return untrusted text as a cell of CSV: one line, and never a formula."""
    plain = shown(text, len(text))
    return f"'{plain}" if text.startswith(_FORMULA) else plain


def shown(text: bytes | str, most: int = 200) -> str:
    r"""Return the first ``most`` characters of untrusted text, unprintable ones as ``\x..``, for one line."""
    if isinstance(text, bytes):
        text = text[: 4 * most].decode("utf-8", "backslashreplace")
    cut = text[:most]
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)
    return plain if len(cut) == len(text) else plain + "..."
