"""What does a fence cost on this host, by what is in flight before it?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from xtrace.analysis.calibrate.sentence import hot_sentence
from xtrace.cli.page.figure import Column, Figure, PageTable, Row
from xtrace.cli.page.figures.slots import levels
from xtrace.cli.page.words import name_text

LEVELS = 6
#: The contexts with hot caches, then those with misses; and how they are called.
_CONTEXTS = {
    "empty": "nothing in flight",
    "stores_8": "8 stores",
    "stores_40": "40 stores",
    "alu_chain": "long chain",
    "alu_fresh": "chains",
    "alu_fresh_180": "longer chains",
    "site": "own code",
    "load_miss_1": "load miss",
    "store_miss_1": "1 store miss",
    "store_miss_4": "4 store misses",
    "store_stream_1": "1 stream",
    "store_stream_4": "4 streams",
    "nt_stream_1": "1 word past caches",
    "nt_stream_8": "8 words past caches",
    "cold_chain_2": "2 cold loads",
    "cold_chain_4": "4 cold loads",
}
_PLACES = {"inline": "inline", "outofline": "out of line", "close": "a mask and a restore close together"}
_MOST_SITES = 60


def calibration(found: Mapping[str, Any], source: str) -> list[Figure]:
    """Return the figures of a calibration's JSON.

    Args:
        source: path of the JSON in the page's data, with a point at its end; empty where it is the whole.
    """
    rows = list(enumerate(found["rows"]))
    standard = [(place, row) for place, row in rows if row["place"] != "site"]
    sites = [(place, row) for place, row in rows if row["place"] == "site"]
    figures = []
    dark = _darkness(found["rows"])
    if standard:
        panels = []
        for kind, where in dict.fromkeys((row["kind"], row["place"]) for _, row in standard):
            mine = [(place, row) for place, row in standard if (row["kind"], row["place"]) == (kind, where)]
            panels.append((f"{kind}, {_PLACES.get(where, where)}", _matrix(mine, source, _by_fence, dark)))
        figures.append(
            Figure(
                "calibration",
                "What a fence costs, by what is in flight",
                "TSC cycles that a fence adds to one execution: the median, and the larger side of its 95 % "
                "interval; a stronger colour is more. Rows are fences, columns what is in flight before "
                "them: on the left with hot caches, on the right of the line with cache misses. A question "
                "mark: the interval is not as tight as was asked for. Measured by xtrace calibrate.",
                panels=panels,
                is_wide=True,
            )
        )
    if sites:
        keys = list(dict.fromkeys((row["address"], row["fence"]) for _, row in sites))
        mine = [(place, row) for place, row in sites if (row["address"], row["fence"]) in keys[:_MOST_SITES]]
        more = f" {len(keys) - _MOST_SITES} more are in the data." if len(keys) > _MOST_SITES else ""
        figures.append(
            Figure(
                "calibration-sites",
                "The image's own sites, as compiled",
                "The same for each fenced site of the image, replayed as it is compiled." + more,
                tables=[_matrix(mine, source, _by_site, dark)],
            )
        )
    return figures


def sentence(found: Mapping[str, Any]) -> str:
    """Return what fences take while nothing misses the caches, as on a terminal; "" without a figure."""
    names = ("fence", "place", "context", "low_cycles", "high_cycles")
    said = hot_sentence((tuple(row[name] for name in names) for row in found["rows"]), found["tsc_hz"])
    return f"{said}." if said else ""


def _by_fence(row: Mapping[str, Any]) -> str:
    return name_text(row["fence"])


def _by_site(row: Mapping[str, Any]) -> str:
    return f"{row['address'] or 0:x} {row['kind']} {name_text(row['fence'])}"


def _darkness(rows: Sequence[Mapping[str, Any]]) -> dict[int, int]:
    """Return the level of each row with a figure, by its place: one scale for all tables."""
    medians = {
        place: max(round(row["median_cycles"]), 0)
        for place, row in enumerate(rows)
        if row["median_cycles"] is not None
    }
    return dict(zip(medians, levels(medians.values(), LEVELS), strict=True))


def _matrix(
    rows: Sequence[tuple[int, dict[str, Any]]], source: str, name: Any, dark: Mapping[int, int]
) -> PageTable:
    contexts = [each for each in _CONTEXTS if any(row["context"] == each for _, row in rows)]
    names = list(dict.fromkeys(name(row) for _, row in rows))
    by_cell = {(name(row), row["context"]): (place, row) for place, row in rows}
    hot = [each for each in contexts if list(_CONTEXTS).index(each) <= list(_CONTEXTS).index("site")]
    table_rows = []
    for label in names:
        cells: list[str] = [label]
        classes: dict[int, str] = {}
        places: dict[int, int] = {}
        for at, context in enumerate(contexts):
            cell = label, context
            edge = " first-miss" if at == len(hot) and hot else ""
            if cell not in by_cell:
                cells.append("")
                classes[at + 1] = edge.strip()
                continue
            place, row = by_cell[cell]
            cells.append(_text(row))
            classes[at + 1] = f"heat l{dark.get(place, 0)}{edge}"
            if row["median_cycles"] is not None:
                places[at + 1] = place
        table_rows.append(Row(cells, classes=classes, places=places))
    heads = [Column("", "", is_text=True), *(Column("median_cycles", _CONTEXTS[each]) for each in contexts)]
    return PageTable(
        heads, table_rows, "Cycles added, by context", f"{source}rows.{{p}}.median_cycles", class_="matrix"
    )


def _text(row: Mapping[str, Any]) -> str:
    median, low, high = row["median_cycles"], row["low_cycles"], row["high_cycles"]
    if median is None:
        return "\N{EN DASH}"
    side = "" if low is None or high is None else f"\N{PLUS-MINUS SIGN}{max(high - median, median - low):.1f}"
    return f"{median:.1f}{side}{'' if row['tight'] else '?'}"
