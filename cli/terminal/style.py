"""How a terminal shows text: its width, whether it has colours, whether it draws blocks or needs words.

Colours are the terminal's own 16, so that they suit a dark and a light background, and only mark what is
notable.  NO_COLOR (no-color.org), --no-color and TERM=dumb leave text plain.  TERM=dumb is also what screen
readers and logs are: figures that are drawn elsewhere are in words there.
"""

from __future__ import annotations

import os
import shutil
import sys
from enum import StrEnum
from typing import Protocol

from xtrace.cli.terminal.text import safe

#: Columns that everything fits in, and that are filled where output is not for a terminal.
WIDTH = 80
_WIDEST = 240
_HEIGHT = 24
_PLAIN = "\x1b[0m"
_unstyled = False


class Style(StrEnum):
    """How a piece of text is shown: the parameters of the escape sequence SGR."""

    PLAIN = ""
    BOLD = "1"
    DIM = "2"
    PROBLEM = "1;31"
    #: Not yellow, which a light background hides.
    NOTE = "35"
    REVERSE = "7"


def leave_plain(wanted: bool) -> bool:
    """Take --no-color: leave text plain from now on if ``wanted``."""
    global _unstyled
    _unstyled = _unstyled or wanted
    return wanted


def is_dumb() -> bool:
    """Return whether the terminal says that it can do nothing but print lines."""
    return os.environ.get("TERM") == "dumb"


def is_plain() -> bool:
    """Return whether text is wanted without bold, dim and colours, whatever it is for."""
    return _unstyled or bool(os.environ.get("NO_COLOR")) or is_dumb()


def is_styled() -> bool:
    """Return whether standard output shows bold, dim and colours."""
    return not is_plain() and sys.stdout.isatty()


def is_utf8() -> bool:
    """Return whether standard output can show more than ASCII."""
    return (sys.stdout.encoding or "").lower().replace("-", "") == "utf8"


def draws_blocks() -> bool:
    """Return whether standard output can show block characters."""
    return is_utf8() and not is_dumb()


def styled(text: str, style: Style) -> str:
    """Return ``text`` in a style, where standard output has styles."""
    return f"\x1b[{style}m{text}{_PLAIN}" if style and text and is_styled() else text


def width() -> int:
    """Return how many columns lines may fill: those of the terminal, at least 80."""
    if not sys.stdout.isatty() and not os.environ.get("COLUMNS"):
        return WIDTH
    return min(max(shutil.get_terminal_size((WIDTH, _HEIGHT)).columns, WIDTH), _WIDEST)


def height() -> int:
    """Return how many lines a screen has: those of the terminal, or 24."""
    if not sys.stdout.isatty():
        return _HEIGHT
    return max(shutil.get_terminal_size((WIDTH, _HEIGHT)).lines, _HEIGHT)


class Put(Protocol):
    """Prints a line."""

    def __call__(self, text: str, *, bold: bool = False, dim: bool = False) -> None:
        """Print ``text`` as one line."""


def put(text: str, *, bold: bool = False, dim: bool = False) -> None:
    """Print a line, in style if standard output is a terminal that supports it."""
    sys.stdout.write(styled(text, Style.BOLD if bold else Style.DIM if dim else Style.PLAIN) + "\n")


def tell(line: str) -> None:
    """Print a remark on standard error."""
    sys.stderr.write(f"xtrace: {safe(line)}\n")
