"""What does each group of fences cost, measured in place: a forest plot."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from xtrace.cli.page import plots
from xtrace.cli.page.figure import Column, Figure, PageTable, Row
from xtrace.cli.page.scales import signed_around
from xtrace.cli.page.words import name_text

_MARK = "measured in place"


def forest(found: Mapping[str, Any], source: str) -> Figure:
    """Return the figure of a result's JSON.

    Args:
        source: path of the JSON in the page's data, with a point at its end; empty where it is the whole.
    """
    groups = found["groups"]
    ends = [100 * group["saved"][end] for group in groups for end in ("low", "high")]
    scale = signed_around(ends, 0.1)
    rows = []
    for place, group in enumerate(groups):
        saved = group["saved"]
        class_ = "miss" if group["kind"] == "again" else "hot"
        marks = (
            plots.span(
                scale, 100 * saved["low"], 100 * saved["high"], class_, ("saved.low", "saved.high"), 8
            ),
            plots.dot(scale, 100 * saved["value"], class_, "saved.value"),
        )
        cells = [
            name_text(group["name"], 60),
            plots.row(scale, *marks),
            *(f"{100 * saved[end]:.3f}%" for end in ("value", "low", "high")),
            f"{group['saved_ns']['value']:.2f}",
            f"{group['unit_ns']['value']:.2f}",
            f"{group['p']:.4f}",
        ]
        rows.append(Row(cells, place))
    return Figure(
        "trial",
        "What no-ops in place of fences save",
        "Share of the running time per unit of work that is saved: the dot, with its 95 % interval, "
        "whatever ended the trial. Left of the line at zero it takes more time. A/A: slices with the same "
        "bytes twice, which shows what chance alone does. p is that of the randomisation test.",
        tables=[
            PageTable(
                (
                    Column("name", "group", is_text=True),
                    Column("", plots.axis(scale, lambda value: f"{value:g}%"), is_plot=True),
                    Column("saved.value", "saved", _MARK),
                    Column("saved.low", "from", _MARK),
                    Column("saved.high", "to", _MARK),
                    Column("saved_ns.value", "ns saved", _MARK),
                    Column("unit_ns.value", "ns per unit", _MARK),
                    Column("p", "p", _MARK),
                ),
                rows,
                "What each group saves",
                f"{source}groups.{{i}}.{{k}}",
                class_="plot forest",
            )
        ],
        details=[_exchanged(found, source)],
    )


def changes(found: Mapping[str, Any]) -> Figure:
    """Return the figure of what changed between two trials, from its JSON."""
    ends = [100 * row["difference"][end] for row in found["changes"] for end in ("low", "high")]
    scale = signed_around(ends, 0.1)
    rows = []
    for place, row in enumerate(found["changes"]):
        difference = row["difference"]
        class_ = "miss" if row["may_be_chance"] else "hot"
        keys = ("difference.low", "difference.high")
        marks = (
            plots.span(scale, 100 * difference["low"], 100 * difference["high"], class_, keys, 8),
            plots.dot(scale, 100 * difference["value"], class_, "difference.value"),
        )
        cells = [
            name_text(row["name"], 60),
            plots.row(scale, *marks),
            *(f"{100 * row[which]['value']:.3f}%" for which in ("old", "new")),
            *(f"{100 * difference[end]:+.3f}%" for end in ("value", "low", "high")),
            "yes" if row["may_be_chance"] else "no",
        ]
        rows.append(Row(cells, place))
    return Figure(
        "trials",
        "What changed between two trials",
        "Share of the running time per unit that each group saves, new less old, with an interval of 95 %: "
        "the root of the summed squares of both half-widths. Hatched where it contains zero: it may be "
        "chance.",
        tables=[
            PageTable(
                (
                    Column("name", "group", is_text=True),
                    Column("", plots.axis(scale, lambda value: f"{value:g}%"), is_plot=True),
                    Column("old.value", "old", _MARK),
                    Column("new.value", "new", _MARK),
                    Column("difference.value", "change", _MARK),
                    Column("difference.low", "from", _MARK),
                    Column("difference.high", "to", _MARK),
                    Column("may_be_chance", "chance", is_text=True),
                ),
                rows,
                "What each group saves, old and new",
                "changes.{i}.{k}",
                class_="plot forest",
            )
        ],
    )


def _exchanged(found: Mapping[str, Any], source: str) -> PageTable:
    rows = [
        Row(
            [
                f"{item['address']:#x}",
                name_text(item["symbol"], 60),
                name_text(item["text"], 80),
                item["original"],
                item["removed"],
            ],
            place,
        )
        for place, item in enumerate(found["exchanged"])
    ]
    labels = (("address", "address"), ("symbol", "function"), ("text", "exchange"), ("original", "bytes"))
    return PageTable(
        (
            *(Column(key, label, is_text=True) for key, label in labels),
            Column("removed", "removed", is_text=True),
        ),
        rows,
        "Instructions exchanged",
        f"{source}exchanged.{{i}}.{{k}}",
    )
