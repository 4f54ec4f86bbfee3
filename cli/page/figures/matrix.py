"""Who wakes whom, and which pCPU handles which interrupt?"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from xtrace.cli.page.figure import Column, Figure, PageTable, Row
from xtrace.cli.page.figures.slots import levels
from xtrace.cli.page.tables import Tables
from xtrace.cli.page.words import name_text, vcpu_label

#: Rows and columns; those with the greatest sums.
MOST = 16
LEVELS = 6
_VCPU = re.compile(r"d(\d+)v(\d+)")


def wakers(tables: Tables) -> Figure | None:
    """Return the matrix of wakes, None without one."""
    rows = [(place, row) for place, row in tables.guests("wakers") if row["count"]]
    if not rows:
        return None
    counts = {
        (row["waker"], vcpu_label(row["domain"], row["vcpu"])): (place, row["count"]) for place, row in rows
    }
    table, left = _matrix(
        counts,
        "tables.wakers.rows.{p}.count",
        tables.known("wakers", "count"),
        "wakes",
        "Wakes: who woke (rows) whom (columns)",
    )
    return Figure(
        "wakers",
        "Who wakes whom",
        "A row wakes the vCPUs of the columns, so often during the trace; a stronger colour is more often. "
        "Sends are matched with the wake after them; what is left is a timer or something else." + left,
        tables=[table],
        details=[
            tables.page_table(
                "wakers",
                [
                    ("vcpu", "vCPU"),
                    ("waker", "woken by"),
                    ("count", "wakes"),
                    ("per_s", "/s"),
                    ("latency", "from"),
                    *((f"{end}_cycles", end) for end in ("p50", "p95", "p99", "max")),
                ],
                "Time from send or interrupt to wake",
                places=[place for place, _ in rows],
            )
        ],
    )


def interrupts(tables: Tables) -> Figure | None:
    """Return the matrix of interrupts, None without one."""
    rows = tables.rows("irqs")
    if not rows:
        return None
    counts = {
        (f"irq {row['irq']}", f"p{row['pcpu']}"): (place, row["count"]) for place, row in enumerate(rows)
    }
    table, left = _matrix(
        counts,
        "tables.irqs.rows.{p}.count",
        tables.known("irqs", "count"),
        "interrupt",
        "Interrupts by pCPU",
    )
    return Figure(
        "irqs",
        "Interrupts by pCPU",
        "How often Xen handled each interrupt on each pCPU; a stronger colour is more often." + left,
        tables=[table],
        details=[
            tables.page_table(
                "irqs",
                [
                    ("irq", "irq"),
                    ("pcpu", "pCPU"),
                    ("count", "count"),
                    ("per_s", "/s"),
                    *((f"{end}_cycles", end) for end in ("mean", "p50", "p99", "max")),
                ],
                "Handling of interrupts",
            )
        ],
    )


def _matrix(
    counts: Mapping[tuple[str, str], tuple[int, int]], source: str, known: str, corner: str, caption: str
) -> tuple[PageTable, str]:
    """Return a table of counts with a level of darkness each, and a sentence on what is left out."""
    by_row, by_column = Counter[str](), Counter[str]()
    for (row, column), (_, count) in counts.items():
        by_row[row] += count
        by_column[column] += count
    rows = sorted((name for name, _ in by_row.most_common(MOST)), key=_order)
    columns = sorted((name for name, _ in by_column.most_common(MOST)), key=_order)
    shown = [counts.get((row, column)) for row in rows for column in columns]
    level = levels((each[1] if each else 0 for each in shown), LEVELS)
    table_rows = []
    for at, row in enumerate(rows):
        of_row = shown[at * len(columns) : (at + 1) * len(columns)]
        classes = {
            place + 1: f"heat l{level[at * len(columns) + place]}"
            for place, each in enumerate(of_row)
            if each
        }
        cells: list[Any] = [name_text(row)]
        cells += [f"{each[1]:,}" if each else "" for each in of_row]
        table_rows.append(
            Row(
                cells,
                classes=classes,
                places={place + 1: each[0] for place, each in enumerate(of_row) if each},
            )
        )
    heads = [Column("", corner, is_text=True), *(Column("count", name, known) for name in columns)]
    left = sum(
        count for (row, column), (_, count) in counts.items() if row not in rows or column not in columns
    )
    hidden = len(by_row) - len(rows), len(by_column) - len(columns)
    note = ""
    if left:
        note = (
            f" {hidden[0]:,} rows and {hidden[1]:,} columns with less are left out; the table below has more."
        )
    return PageTable(heads, table_rows, caption, source, class_="matrix"), note


def _order(name: str) -> tuple[int, int, int, str]:
    """Return the sort key: vCPUs by number, then interrupts, then the rest."""
    if found := _VCPU.fullmatch(name):
        return 0, int(found[1]), int(found[2]), name
    number = re.search(r"\d+", name)
    return (1 if number else 2), int(number[0]) if number else 0, 0, name
