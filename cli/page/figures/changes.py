"""What changed between two groups of captures, and what may be chance?"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from xtrace.analysis.measures.certainty import certainty_text, metric_word
from xtrace.analysis.measures.table import Quality
from xtrace.cli.page import plots
from xtrace.cli.page.figure import Column, Figure, PageTable, Row
from xtrace.cli.page.scales import Linear
from xtrace.cli.page.words import cell_text, name_text
from xtrace.probes.words import time_text

MOST_ROWS = 300
#: The axis reaches at least to this, and at most to that: the logarithm of new over old.
_LEAST, _MOST = math.log(1.1), math.log(100)
_TICKS = (-99, -95, -90, -80, -67, -50, -33, -20, -10, -5, 0, 5, 10, 25, 50, 100, 200, 400, 900, 1900, 9900)


class _Ratios(Linear):
    """Logarithms of new over old, marked in percent."""

    __slots__ = ()

    def ticks(self) -> list[tuple[float, bool]]:
        """Return the changes to mark, some seven of them."""
        inside = [math.log1p(tick / 100) for tick in _TICKS if abs(math.log1p(tick / 100)) <= self.high]
        least = (self.high - self.low) / 9
        kept = [0.0]
        for value in sorted(inside, key=abs):
            if all(abs(value - other) >= least for other in kept):
                kept.append(value)
        return [(value, True) for value in sorted(kept)]


def changes(found: Mapping[str, Any]) -> Figure | None:
    """Return the forest plot of a comparison's JSON, None without rows."""
    rows = list(enumerate(found["rows"]))
    if not rows:
        return None
    shown = rows[:MOST_ROWS]
    logs = [
        math.log1p(value)
        for _, row in shown
        if row["change_unit"] == "ratio"
        for value in (row["change"], row["change_low"], row["change_high"])
        if value is not None and value > -1
    ]
    most = min(max([_LEAST, *(abs(value) * 1.05 for value in logs)]), _MOST)
    scale = _Ratios(-most, most)
    table_rows = []
    domain = None
    for place, row in shown:
        if row["domain"] != domain:
            domain = row["domain"]
            table_rows.append(Row([name_text(domain)], is_heading=True))
        table_rows.append(_row(row, place, scale))
    return Figure(
        "changes",
        "What changed",
        "Change of each metric from the old to the new captures: the dot is the median of all changes, the "
        "line its 95 % interval; to the right, the new ones have more. Coloured: more than chance explains, "
        "all rows taken together. Grey and hollow: not decided, which does not say that nothing changed.",
        tables=[
            PageTable(
                (
                    Column("metric", "metric", is_text=True),
                    Column("old_median", "old"),
                    Column("new_median", "new"),
                    Column("", plots.axis(scale, _percent), is_plot=True),
                    Column("change", "change"),
                    Column("p_together", "p"),
                ),
                table_rows,
                "Changes",
                "rows.{i}.{k}",
                max(len(rows) - MOST_ROWS, 0),
                _known(row for _, row in shown),
                class_="plot changes",
            )
        ],
        legend=(("dot differs", "changed, beyond chance"), ("dot undecided", "not decided")),
    )


def _known(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return which metrics are not exact, and how these are known."""
    known = ((row["metric"], metric_word(row["metric"], Quality(row["quality"]))) for row in rows)
    return f"Metrics: {certainty_text(known)}."


def _percent(log: float) -> str:
    return f"{math.expm1(log):+.0%}" if log else "0"


def _row(row: Mapping[str, Any], place: int, scale: _Ratios) -> Row:
    class_ = "differs" if row["differs"] else "undecided"
    marks = []
    is_ratio = row["change_unit"] == "ratio"
    if is_ratio:
        low, high = row["change_low"], row["change_high"]
        if low is not None and high is not None:
            ends = math.log1p(max(low, -1 + 1e-9)), math.log1p(high)
            marks.append(plots.span(scale, *ends, class_, ("change_low", "change_high"), 3))
        marks.append(plots.dot(scale, math.log1p(max(row["change"], -1 + 1e-9)), class_, "change"))
    else:
        marks.append(plots.remark(scale, 0.0, "a value is 0, so there is no ratio"))
    key = f"value_{row['unit']}"
    if row["unit"] == "per_s":
        key = "per_s"
    change = cell_text("x_ratio", row["change"], None) if is_ratio else _difference(key, row["change"])
    sign = "+" if row["change"] > 0 else ""
    return Row(
        [
            name_text(row["metric"]),
            cell_text(key, row["old_median"], None),
            cell_text(key, row["new_median"], None),
            plots.row(scale, *marks),
            sign + change,
            f"{row['p_together']:.2g}",
        ],
        place,
        {4: class_},
    )


def _difference(key: str, value: float) -> str:
    return cell_text(key, value, None)


def overlaid(found: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[dict[str, Any]]]]:
    """Return the distributions of each domain that both groups have, with their places, the old one first."""
    domains = dict.fromkeys(each["domain"] for each in found)
    both = []
    for domain in domains:
        mine = [{**each, "place": place} for place, each in enumerate(found) if each["domain"] == domain]
        if {each["group"] for each in mine} == {"old", "new"}:
            both.append((str(domain), sorted(mine, key=lambda each: str(each["group"]), reverse=True)))
    return both


def distribution_table(pair: Sequence[Mapping[str, Any]], hz: float | None) -> PageTable:
    """Return the quantiles of an old and a new distribution."""
    keys = ("p50", "p95", "p99", "max")
    rows = [
        Row(
            [each["group"], f"{each['count']:,}", *(time_text(each[key], hz) for key in keys)],
            each["place"],
        )
        for each in pair
    ]
    quality = pair[0]["quality"]
    return PageTable(
        (
            Column("group", "captures", is_text=True),
            Column("count", "wakes", quality),
            *(Column(key, key, quality) for key in keys),
        ),
        rows,
        "From wake to running",
        "distributions.{i}.{k}",
    )
