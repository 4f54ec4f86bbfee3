"""Distributions and shares, drawn in a few columns: blocks, ASCII, or words where nothing can be drawn."""

from __future__ import annotations

from collections.abc import Sequence

from xtrace.cli.terminal.style import draws_blocks, is_dumb

_BLOCKS = "\u2581\u2582\u2583\u2584\u2585\u2586\u2587\u2588"
_ASCII = "_.-=+*%#"
_EIGHTHS = ("", "\u258f", "\u258e", "\u258d", "\u258c", "\u258b", "\u258a", "\u2589")
_FULL = "\u2588"


def spark(values: Sequence[float]) -> str:
    """Return a column per value, as high as its share of the greatest; a space where it is 0 or NaN."""
    levels = _BLOCKS if draws_blocks() else _ASCII
    most = max((value for value in values if value == value), default=0.0)
    return "".join(
        levels[min(int(value / most * len(levels)), len(levels) - 1)] if value == value and value > 0 else " "
        for value in values
    )


def bar(share: float, width: int) -> str:
    """Return a share of 1 as a bar of at most ``width`` columns; at least a trace of any share above 0."""
    if share != share or share <= 0:
        return ""
    share = min(share, 1.0)
    if not draws_blocks():
        return "#" * max(round(share * width), 1)
    eighths = max(round(share * width * 8), 1)
    return _FULL * (eighths // 8) + _EIGHTHS[eighths % 8]


def is_drawn() -> bool:
    """Return whether pictures are drawn at all; a screen reader gets words instead."""
    return not is_dumb()
