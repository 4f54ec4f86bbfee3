"""A table of the report on a terminal: its title, what differs from exact, its columns, the rows shown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from xtrace.cli.terminal.grid import GridColumn, grid_lines
from xtrace.cli.terminal.style import Put, is_utf8, width
from xtrace.cli.terminal.text import columns_of, domain_name, ending, safe, shortened, wrapped
from xtrace.probes.words import scaled, share_text, time_text
from xtrace.probes.xen_abi import DEFAULT_DOMAIN, IDLE_DOMAIN

if TYPE_CHECKING:
    from xtrace.analysis.columns import Columns
    from xtrace.analysis.measures.table import Column, Quality
    from xtrace.analysis.report.build import Report

#: The vCPU of a record of which not even the pCPU's placeholder is known.
_NO_PCPU = 0xFFFF
_TEXT_COLUMNS = {
    "domain", "state", "name", "waker", "event", "what", "kind", "command", "detail", "class", "id", "source",
    "metric", "latency", "decoded", "biased_to", "function", "place", "file", "masked", "part", "fence",
    "agrees", "most_is", "first", "second", "channel", "space", "estimate", "of",
}  # fmt: skip
#: Columns with names of any length; a name that is too long is shortened in the middle.
_LONG_COLUMNS = ("function", "name", "place", "file", "fence", "what", "waker")


def print_table(put: Put, report: Report, name: str, columns: Columns, limit: int) -> None:
    """Print a table, with at most ``limit`` rows."""
    from xtrace.analysis.measures.table import Quality

    table, quality, hz = report.described[name], report.quality[name], report.hz
    shown = [c for c in table.columns if c.heading and quality[c.name] is not Quality.ABSENT]
    if not shown:
        return
    put("")
    put(table.title, bold=True)
    absent = [c.heading for c in table.columns if c.heading and quality[c.name] is Quality.ABSENT]
    for said in (
        table.bias,
        f"not recorded: {', '.join(absent)}" if absent else "",
        certainty(shown, quality),
    ):
        for line in wrapped(f"({said})", width()) if said else ():
            put(line, dim=True)
    # Domain and vCPU make one column: d3v0.
    if paired := {"domain", "vcpu"} <= {column.name for column in shown}:
        shown = [column for column in shown if column.name != "vcpu"]
    rows = columns.where(slice(limit)).rows()
    made = [
        GridColumn(
            ["vcpu" if paired and column.name == "domain" else column.heading or ""],
            [
                vcpu_label(row) if paired and column.name == "domain" else _figure(row, column.name, hz)
                for row in rows
            ],
            left=column.name in _TEXT_COLUMNS,
            shorten=(_file_end if column.name == "file" else shortened)
            if column.name in _LONG_COLUMNS
            else None,
        )
        for column in shown
    ]
    heads, lines, taken = grid_lines(made, width())
    put(heads[0], bold=True)
    put("-" * taken, dim=True)
    for line in lines:
        put(line)
    if len(columns) > limit:
        put(f"  {len(columns) - limit} more: --section {table.section} --rows 0", dim=True)


def certainty(shown: Sequence[Column], quality: Mapping[str, Quality]) -> str:
    """Return which of the columns shown are not exact, and how these are known; "" without figures."""
    from xtrace.analysis.measures.certainty import certainty_text, certainty_word
    from xtrace.analysis.measures.table import Quality

    return certainty_text(
        (column.heading or "", certainty_word(column, quality[column.name]))
        for column in shown
        if quality[column.name] is not Quality.KEY
    )


def vcpu_label(row: Any) -> str:
    """Return a vCPU's label; where it is not known which one ran, that of the pCPU."""
    if row["domain"] == DEFAULT_DOMAIN:
        return f"on p{int(row['vcpu'])}" if row["vcpu"] != _NO_PCPU else "?"
    return f"{domain_name(int(row['domain']))}v{int(row['vcpu'])}"


def _figure(row: Any, name: str, hz: float | None) -> str:
    """Return a cell; the greatest time is "at least" where its interval is cut off."""
    opened = row.get("open_max_cycles") if name == "max_cycles" else None
    at_least = "\u2265" if is_utf8() else ">="
    return (at_least if opened and opened >= row[name] else "") + _cell(name, row[name], hz)


def _cell(name: str, value: Any, hz: float | None) -> str:
    if isinstance(value, str):
        return safe(value)
    number = math.nan if value is None else float(value)
    if math.isnan(number):
        return "-"
    if name == "line":
        return f"{number:.0f}"
    if name.endswith("_cycles"):
        return time_text(number, hz)
    if name.endswith("_ns"):
        return time_text(number, 1e9)
    if name.startswith("cost_") and name.endswith("_ratio"):
        return share_text(number)
    if name.endswith("_ratio"):
        return f"{number:.1%}"
    if name.endswith("per_s"):
        return scaled(number) if number >= 100 else f"{number:.1f}"
    if name == "domain":
        return "idle" if number == IDLE_DOMAIN else f"d{int(number)}"
    return f"{number:.1f}" if number != int(number) and abs(number) < 100 else f"{int(number):,}"


def _file_end(text: str, width: int) -> str:
    """Return a path of which the end is kept."""
    return text if columns_of(text) <= width else ".." + ending(text, width - 2)
