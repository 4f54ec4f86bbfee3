"""What can go wrong while reading a guest kernel's image."""

from __future__ import annotations


class ImageError(ValueError):
    """An image that cannot be read, in one line that says what, where and what to do."""


def shown(text: bytes | str, most: int = 200) -> str:
    r"""Return a stranger's text fit for one line: ``most`` characters, the unprintable as ``\x..``."""
    if isinstance(text, bytes):
        text = text[: 4 * most].decode("utf-8", "backslashreplace")
    cut = text[:most]
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)
    return plain if len(cut) == len(text) else plain + "..."
