"""Every number of a page is that of the JSON: cells, facts, marks in drawings, areas, fields and curves."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any

import pytest

from builders import made_pages, read_page
from builders.made_costs import calibration
from builders.made_pages import IMAGE, OTHER_IMAGE, PRICES, SAMPLES, Made, report
from builders.read_page import at, cells, marks, shows
from xtrace.cli.page import document
from xtrace.cli.page.calibration_page import calibration_page
from xtrace.cli.page.origin import Hashing
from xtrace.probes.timing.calibration import text_of

BUNDLED = SAMPLES / "xen417-pv-all.bin.xz"


def calibrated() -> Made:
    found = json.loads(text_of(calibration(*PRICES)))
    text = document.document(calibration_page(found), {"calibration.json": found}, Hashing([]).origin())
    return Made(text, read_page.parsed(text), found)


PAGES: dict[str, Callable[[], Made]] = {
    "bundled": lambda: report(BUNDLED),
    "lost": lambda: report(SAMPLES / "xen417-pv-lost.bin.xz"),
    "pvh": lambda: report(SAMPLES / "xen417-pvh-all.bin.xz"),
    "events": lambda: report(SAMPLES / "xen417-events-own.bin.xz"),
    "section": lambda: report(BUNDLED, "--section", "delivery"),
    "one domain": lambda: report(BUNDLED, "--domain", "1"),
    "cost": made_pages.cost,
    "diff": made_pages.diff,
    "repetitions": made_pages.repetitions,
    "sites": lambda: made_pages.sites(IMAGE),
    "two images": lambda: made_pages.sites(IMAGE, OTHER_IMAGE),
    "calibration": calibrated,
}


def whole(made: Made) -> Any:
    """Return the data of a page as its cells name them."""
    data = read_page.data_of(made.page)
    found = dict(made.json)
    if "calibration.json.gz" in data and "tables" in found:
        found["calibration"] = data["calibration.json.gz"]
    if "sites.json.gz" in data and "tables" in found:
        found["images"] = data["sites.json.gz"]
    return found


def rate(found: Any) -> float | None:
    hz: float | None = found["trace"]["tsc_hz"] if "trace" in found else None
    return hz


@pytest.mark.parametrize("name", PAGES)
def test_each_cell_and_fact_is_the_value_of_the_json(name: str) -> None:
    made = PAGES[name]()
    found = whole(made)
    checked = wrong = 0
    for cell in cells(made.page):
        key, _, _ = cell.key.partition("@")
        if key in ("domain", "vcpu", "metric", "group"):
            continue
        if ".counts." in cell.path:  # a table turned by a quarter: the column is a place in a list
            key = "count"
        value = at(found, cell.path)
        if key in ("added_low_cycles", "added_hot_low_cycles", "added_hot_cycles", "added_high_cycles"):
            # What one execution costs stays in cycles in the drawing's table.
            right = shows(cell.text, value, rate(found), "") or shows(cell.text, value, rate(found), key)
        elif key in ("old_median", "new_median", "change") and "rows." in cell.path:
            row = at(found, cell.path.rpartition(".")[0])
            unit = row["change_unit"] if key == "change" else row["unit"]
            right = shows(cell.text.lstrip("+"), value, None, f"x_{unit}")
        else:
            right = shows(cell.text, value, rate(found), key)
        checked += 1
        assert right, (cell, value)
    assert wrong == 0
    assert checked >= {"sites": 10, "two images": 10, "calibration": 15, "repetitions": 30}.get(name, 60)


@pytest.mark.parametrize("name", ["bundled", "lost", "pvh", "events", "cost", "diff", "repetitions"])
def test_marks_are_where_the_values_belong(name: str) -> None:
    made = PAGES[name]()
    found, checked = whole(made), 0
    hz = rate(found)
    for mark in marks(made.page):
        value = at(found, mark.path)
        if mark.path.endswith("_ratio"):
            value = None if value is None else 100 * value
        elif mark.path.startswith("rows."):
            value = math.log1p(value)
        elif mark.scale == "log" and hz:
            value *= 1e9 / hz
        if value is None:  # not bounded: the bar reaches to the end
            value = mark.high
        assert abs(mark.place - mark.expected(value)) < 0.0025, mark
        checked += 1
    assert checked >= 12


@pytest.mark.parametrize("name", ["bundled", "lost", "pvh"])
def test_lanes_of_the_timeline_show_the_shares_of_each_slot(name: str) -> None:
    made = PAGES[name]()
    time = made.json["over_time"]
    span = time["begin_cycles"][-1] + time["length_cycles"][-1]
    edges = [round(begin * 10_000 / span) for begin in (*time["begin_cycles"], span)]
    lanes = list(made.page.one("div", class_="timeline").all("svg", class_="lane"))
    assert len(lanes) == len(time["pcpus"]) + len(time["vcpus"])
    filled = 0
    for lane, each in zip(lanes, [*time["pcpus"], *time["vcpus"]], strict=True):
        for part in ("running", "waiting"):
            if f"{part}_cycles" not in each:
                continue
            drawn = [path.attributes["d"] for path in lane.all("path", class_=part)]
            found = read_page.heights("".join(drawn), edges)
            for height, cycles, length in zip(
                found, each[f"{part}_cycles"], time["length_cycles"], strict=True
            ):
                assert abs(height - 24 * cycles / length) <= 1
                filled += height > 0
    assert filled > 200


def test_fields_of_the_heat_map_are_the_counts() -> None:
    made = PAGES["bundled"]()
    time = made.json["over_time"]
    span = time["begin_cycles"][-1] + time["length_cycles"][-1]
    edges = [round(begin * 10_000 / span) for begin in (*time["begin_cycles"], span)]
    rows = len(time["wake_to_running"])
    levels: dict[tuple[int, int], int] = {}
    for path in made.page.one("svg", class_="heat-map").all("path", class_="heat"):
        level = int(path.attributes["class"][-1])
        for x, y, width in re.findall(r"M(\d+) (\d+)h(\d+)", path.attributes["d"]):
            for slot in range(edges.index(int(x)), edges.index(int(x) + int(width))):
                levels[rows - 1 - int(y) // 18, slot] = level
    counts = {
        (row, slot): count
        for row, each in enumerate(time["wake_to_running"])
        for slot, count in enumerate(each["counts"])
        if count
    }
    assert levels.keys() == counts.keys()
    assert sum(counts.values()) == sum(
        row["wake_to_running_count"] for row in made.json["tables"]["wakes"]["rows"]
    )
    for level in range(1, 6):
        most = max((counts[cell] for cell, of in levels.items() if of == level), default=0)
        least = min((counts[cell] for cell, of in levels.items() if of == level + 1), default=1 << 60)
        assert most < least


@pytest.mark.parametrize(
    ("name", "figure"), [("bundled", "wake-times"), ("bundled", "send-times"), ("diff", "wake-times-1")]
)
def test_curves_pass_through_the_points(name: str, figure: str) -> None:
    made = PAGES[name]()
    drawing = made.page.one("figure", id=figure).one("svg", class_="axes")
    low, high, nines = (float(drawing.attributes[f"data-{key}"]) for key in ("low", "high", "nines"))
    hz = rate(made.json)
    curves = list(drawing.all("path"))
    assert len(curves) >= 2
    for curve in curves:
        each = made.json["distributions"][int(curve.attributes["data-i"])]
        x, y = map(int, re.match(r"M(\d+) (\d+)", curve.attributes["d"]).groups())  # type: ignore[union-attr]
        corners = {(x, y)}
        for what, by in re.findall(r"([hv])(-?\d+)", curve.attributes["d"]):
            x, y = (x + int(by), y) if what == "h" else (x, y + int(by))
            corners.add((x, y))
        times = each.get("upto_cycles") or each["upto"]
        for upto, count in zip(times, each["upto_counts"], strict=True):
            place = math.log(upto * (1e9 / hz if hz else 1) / low) / math.log(high / low)
            tail = -math.log10(1 - min(count, each["count"] - 0.5) / each["count"])
            assert (round(1000 * min(max(place, 0), 1)), round(1000 - 1000 * tail / nines)) in corners


@pytest.mark.parametrize(
    ("name", "file"), [("bundled", "report"), ("diff", "diff"), ("two images", "sites"), ("cost", "report")]
)
def test_the_data_in_the_page_are_what_json_prints(name: str, file: str) -> None:
    made = PAGES[name]()
    assert read_page.data_of(made.page)[f"{file}.json.gz"] == made.json


@pytest.mark.parametrize("name", ["bundled", "lost", "pvh", "events"])
def test_in_each_slot_the_parts_add_up_to_its_length(name: str) -> None:
    time = PAGES[name]().json["over_time"]
    tables = PAGES[name]().json["tables"]
    for kind, parts in (
        ("pcpus", ("running", "idle", "lost", "unknown")),
        ("vcpus", ("running", "waiting", "blocked", "offline", "unknown")),
    ):
        for each in time[kind]:
            columns = [each[f"{part}_cycles"] for part in parts]
            assert [sum(slot) for slot in zip(*columns, strict=True)] == time["length_cycles"]
            assert all(min(column) >= 0 for column in columns)
    for row, each in zip(tables["pcpus"]["rows"], time["pcpus"], strict=True):
        for part in ("running", "idle", "lost", "unknown"):
            assert sum(each[f"{part}_cycles"]) == row[f"{part}_cycles"]
    states = {
        (row["domain"], row["vcpu"], row["state"]): row["total_cycles"]
        for row in tables["vcpu_states"]["rows"]
    }
    for each in time["vcpus"]:
        for part in ("running", "blocked", "offline"):
            assert sum(each[f"{part}_cycles"]) == states.get((each["domain"], each["vcpu"], part), 0)
