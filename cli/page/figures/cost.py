"""What does each fence cost, with hot caches and with misses?"""

from __future__ import annotations

from typing import Any

from xtrace.cli.page import plots
from xtrace.cli.page.figure import Column, Figure, PageTable, Row
from xtrace.cli.page.scales import Signed, signed_around
from xtrace.cli.page.tables import Tables
from xtrace.cli.page.words import cell_text, name_text
from xtrace.probes.words import scaled

MOST_SITES = 60
_ENDS = ("low", "hot_low", "hot", "high")


def costs(tables: Tables) -> list[Figure]:
    """Return the figures on what fences cost: by domain, and by site."""
    return [figure for figure in (_by_domain(tables), _by_site(tables)) if figure is not None]


def sentence(tables: Tables) -> str:
    """Return the sentence on the removable fences of each domain; empty where none is priced."""
    said = []
    for row in tables.rows("cost_domains"):
        if row["part"] != "removable" or row["cost_hot_ratio"] is None:
            continue
        least, hot_least, hot, most = (
            cell_text("cost_ratio", row[f"cost_{end}_ratio"], None) for end in _ENDS
        )
        said.append(
            f"{tables.domain(row['domain'])}: the removable fences likely take {hot_least} to {hot} of its "
            f"running time, while its caches hit; where memory is missed {least}, "
            f"{'at most' if row['most_is'] == 'bound' else 'usually below'} {most} (modelled)"
        )
    return ". ".join(said)


def _by_domain(tables: Tables) -> Figure | None:
    rows = _priced(tables, "cost_domains", ("cost", "ratio"))
    if not rows:
        return None
    scale = signed_around([100 * value for value in _values(rows, ("cost", "ratio"))], 0.1)
    return Figure(
        "cost-domains",
        "What fences cost each domain",
        "Share of the domain's running time, in percent. The solid part is likely, with hot caches; the "
        "hatched one is the range over the contexts calibrated, with misses, and no bound. Left of the line "
        "at zero the fences save time. What is removable could be saved at most.",
        tables=[
            _forest(
                tables,
                "cost_domains",
                rows,
                [("domain", "domain"), ("part", "verdict")],
                ("cost", "ratio"),
                scale,
                percent=True,
            )
        ],
        legend=_LEGEND,
        details=[
            tables.page_table(
                "cost_domains",
                [
                    ("domain", "domain"),
                    ("part", "verdict"),
                    ("site_count", "sites"),
                    ("execution_low_per_s", "least/s"),
                    ("execution_high_per_s", "most/s"),
                    *((f"cost_{end}_ratio", end.replace("_", " ")) for end in _ENDS),
                    ("most_is", "most is"),
                ],
                "Cost by domain and verdict",
            )
        ],
    )


def _by_site(tables: Tables) -> Figure | None:
    rows = _priced(tables, "cost_sites", ("added", "cycles"))
    if not rows:
        return None
    shown = rows[:MOST_SITES]
    more = f" {len(rows) - len(shown):,} cheaper sites are not drawn." if len(rows) > len(shown) else ""
    return Figure(
        "cost-sites",
        "What each fence adds to one execution",
        "TSC cycles added by the fences of a site. The solid part is likely, with hot caches; the hatched "
        "range is that of the contexts calibrated, with misses, and no bound." + more,
        tables=[
            _forest(
                tables,
                "cost_sites",
                shown,
                [("place", "site"), ("fence", "fence"), ("part", "verdict")],
                ("added", "cycles"),
                signed_around(_values(shown, ("added", "cycles")), 10.0),
            )
        ],
        legend=_LEGEND,
        details=[
            tables.page_table(
                "cost_sites",
                [
                    ("domain", "domain"),
                    ("address", "address"),
                    ("place", "site"),
                    ("kind", "kind"),
                    ("fence", "fence"),
                    ("part", "verdict"),
                    ("execution_low_per_s", "least/s"),
                    ("execution_high_per_s", "most/s"),
                    *((f"added_{end}_cycles", end.replace("_", " ")) for end in _ENDS),
                    ("priced_by", "priced by"),
                    ("executions_rule", "executions known by"),
                ],
                "Sites with their executions and prices",
            )
        ],
    )


_LEGEND = (("bar hot", "hot caches"), ("bar miss", "contexts calibrated, with cache misses: usually"))


def _priced(tables: Tables, name: str, figure: tuple[str, str]) -> list[tuple[int, dict[str, Any]]]:
    """Return the rows that have a price with hot caches, with their places; ``figure``: prefix and unit."""
    prefix, unit = figure
    hot = f"{prefix}_hot_low_{unit}", f"{prefix}_hot_{unit}"
    return [
        (place, row)
        for place, row in enumerate(tables.rows(name))
        if all(row[column] is not None for column in hot)
    ]


def _values(rows: list[tuple[int, dict[str, Any]]], figure: tuple[str, str]) -> list[float]:
    """Return all ends of the rows' ranges, as far as they are known."""
    prefix, unit = figure
    ends = (row[f"{prefix}_{end}_{unit}"] for _, row in rows for end in _ENDS)
    return [value for value in ends if value is not None]


def _forest(
    tables: Tables,
    name: str,
    rows: list[tuple[int, dict[str, Any]]],
    labels: list[tuple[str, str]],
    figure: tuple[str, str],
    scale: Signed,
    *,
    percent: bool = False,
) -> PageTable:
    prefix, unit = figure
    keys = [f"{prefix}_{end}_{unit}" for end in _ENDS]
    factor = 100.0 if percent else 1.0
    suffix = "%" if percent else ""
    table_rows = []
    for place, row in rows:
        low, hot_low, hot, high = (row[key] for key in keys)
        marks = []
        if low is not None:
            end = scale.high if high is None else high * factor
            marks.append(plots.span(scale, low * factor, end, "miss", (keys[0], keys[3]), 8))
        marks.append(plots.span(scale, hot_low * factor, hot * factor, "hot", (keys[1], keys[2]), 12))
        said = [_label(tables, key, row) for key, _ in labels]
        cells = [*said, plots.row(scale, *marks)]
        cells += [_figure(tables, key, row[key]) for key in keys]
        table_rows.append(Row(cells, place))
    return PageTable(
        (
            *(Column(key, label, is_text=True) for key, label in labels),
            Column(
                "",
                plots.axis(
                    scale,
                    lambda value: (
                        f"{scaled(value) if abs(value) >= 1 or not value else f'{value:g}'}{suffix}"
                    ),
                ),
                is_plot=True,
            ),
            *(
                Column(key, label, tables.known(name, key))
                for key, label in zip(keys, ("least", "hot", "to", "most"), strict=True)
            ),
        ),
        table_rows,
        "Cost",
        f"tables.{name}.rows.{{i}}.{{k}}",
        class_="plot forest",
    )


def _label(tables: Tables, key: str, row: dict[str, Any]) -> str:
    return tables.domain(row["domain"]) if key == "domain" else name_text(row[key])


def _figure(tables: Tables, key: str, value: float | None) -> str:
    """Return a price; cycles of one execution are few, so they stay cycles."""
    if value is None:
        return "\N{EN DASH}"
    return tables.text(key, value) if key.endswith("_ratio") else f"{value:.1f}"
