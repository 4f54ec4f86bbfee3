"""Columns of text side by side: heads of one or more lines over cells, as wide as the widest."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from xtrace.cli.terminal.style import Style, styled
from xtrace.cli.terminal.text import columns_of, padded, shortened

#: How a cell that is too long is made to fit: the text, its width.
Shorten = Callable[[str, int], str]


@dataclass(frozen=True, slots=True)
class GridColumn:
    """A column of a grid.

    Attributes:
        heads: a line each; all columns of a grid have the same number.
        cells: a row each.
        left: cells are aligned to the left.
        shorten: makes a cell fit where the grid is too wide; None leaves the column as wide as it is.
        styles: of each cell; empty means none.
    """

    heads: Sequence[str]
    cells: Sequence[str]
    left: bool = False
    shorten: Shorten | None = None
    styles: Sequence[Style] = field(default=())

    @property
    def width(self) -> int:
        """The columns of the terminal that the widest head or cell takes."""
        return max(map(columns_of, (*self.heads, *self.cells)), default=0)


def grid_lines(columns: Sequence[GridColumn], width: int) -> tuple[list[str], list[str], int]:
    """Return the lines of the heads, those of the rows, and how many columns of the terminal they take."""
    widths = [column.width for column in columns]
    long = [place for place, column in enumerate(columns) if column.shorten]
    gaps = len(columns) - 1
    while long and sum(widths) + gaps > width and max(widths[place] for place in long) > _LEAST:
        widths[max(long, key=lambda place: widths[place])] -= 1
    gap = "  " if sum(widths) + 2 * gaps <= width else " "
    heads = [_joined(columns, widths, gap, line) for line in _heads(columns)]
    rows = [
        _joined(columns, widths, gap, [column.cells[row] for column in columns], row)
        for row in range(len(columns[0].cells) if columns else 0)
    ]
    return heads, rows, sum(widths) + len(gap) * gaps


#: No column is made narrower than this.
_LEAST = 8


def _heads(columns: Sequence[GridColumn]) -> Iterator[list[str]]:
    for line in range(len(columns[0].heads) if columns else 0):
        yield [column.heads[line] for column in columns]


def _joined(
    columns: Sequence[GridColumn],
    widths: Sequence[int],
    gap: str,
    texts: Sequence[str],
    row: int | None = None,
) -> str:
    pieces = []
    for column, width, text in zip(columns, widths, texts, strict=True):
        fitted = text
        if column.shorten and columns_of(text) > width:
            fitted = (column.shorten if row is not None else shortened)(text, width)
        cell = padded(fitted, width, left=column.left)
        if row is not None and column.styles and column.styles[row]:
            cell = cell.replace(fitted, styled(fitted, column.styles[row]), 1)
        pieces.append(cell)
    return gap.join(pieces).rstrip()


def shorten_middle(text: str, width: int) -> str:
    """Return ``text`` shortened in the middle."""
    return shortened(text, width)
