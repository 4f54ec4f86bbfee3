"""What a page consists of: sections with figures, and tables whose cells name their place in the JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from xtrace.analysis.measures.certainty import certainty_text


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table on the page.

    Attributes:
        key: in the JSON; empty where the column is not from there.
        label: its heading.
        known: how its figures are known, in the words of a terminal's report; empty for keys.
        is_text: text, aligned to the left.
        is_plot: a drawing.
    """

    key: str
    label: str
    known: str = ""
    is_text: bool = False
    is_plot: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A row.

    Attributes:
        cells: text or drawings, one for each column.
        place: in the JSON list that the table is from; None for a row that is not from there.
        classes: of cells, by the column's number.
        places: of cells that are each from another place, by the column's number; {p} in the table's source.
        is_heading: it names the rows after it.
    """

    cells: Sequence[str | Markup]
    place: int | None = None
    classes: Mapping[int, str] = field(default_factory=dict)
    places: Mapping[int, int] = field(default_factory=dict)
    is_heading: bool = False


@dataclass(frozen=True, slots=True)
class PageTable:
    """A table.

    Attributes:
        source: path of a cell's value in the JSON, with {i} for the row's place and {k} for the column's key;
            empty where the cells are not from there.
        caption: for readers who do not see it.
        left_out: how many rows are not shown.
        note: what the reader must know, under the table.
    """

    columns: Sequence[Column]
    rows: Sequence[Row]
    caption: str
    source: str = ""
    left_out: int = 0
    note: str = ""
    class_: str = ""

    @property
    def known(self) -> str:
        """How the figures are known, in a phrase; empty without figures."""
        return certainty_text((column.label, column.known) for column in self.columns if column.known)


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure.

    Attributes:
        name: its anchor.
        title: what it shows.
        description: how to read it, in sentences.
        drawing: what is seen; empty where the table itself is the drawing.
        tables: shown in the figure, where they hold the drawings.
        details: shown on demand.
        legend: pairs of a class and what it stands for.
        panels: tables that stand side by side, with their titles.
        is_wide: each panel has the whole width.
    """

    name: str
    title: str
    description: str
    drawing: Markup | str = ""
    tables: Sequence[PageTable] = ()
    details: Sequence[PageTable] = ()
    legend: Sequence[tuple[str, str]] = ()
    panels: Sequence[tuple[str, PageTable]] = ()
    is_wide: bool = False


@dataclass(frozen=True, slots=True)
class Fact:
    """A fact of the head.

    Attributes:
        source: path of its number in the JSON; empty where it is text.
    """

    label: str
    said: str
    source: str = ""
    note: str = ""


@dataclass(frozen=True, slots=True)
class Said:
    """A line of the head: a finding, or what is missing.

    Attributes:
        class_: problem, note, or missing.
        text: the sentence.
        more: what is usual, and so on.
        command: that shows more.
        moment: where it is in the timeline; empty for nowhere.
    """

    class_: str
    text: str
    more: str = ""
    command: str = ""
    moment: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """A whole page.

    Attributes:
        title: of the document.
        subject: what it is about: the file's name.
        facts: short, in the head.
        said: findings and remarks, worst first.
        summary: the sentence that matters most; empty where there is none.
        figures: in order.
        lists: further tables at the end: anchor, title, table.
        said_title: the heading over ``said``.
    """

    title: str
    subject: str
    facts: Sequence[Fact]
    said: Sequence[Said]
    figures: Sequence[Figure]
    summary: str = ""
    lists: Sequence[tuple[str, str, PageTable]] = ()
    said_title: str = "Findings"
