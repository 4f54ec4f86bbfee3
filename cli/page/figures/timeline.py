"""What did pCPUs and vCPUs do, and when?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from xtrace.cli.page import svg
from xtrace.cli.page.figure import Figure
from xtrace.cli.page.figures.slots import WIDTH, ZOOMS, Slots, runs
from xtrace.cli.page.tables import Tables
from xtrace.cli.page.words import sum_known, vcpu_label

#: Lanes for pCPUs and for vCPUs; more pCPUs share one dense drawing.
MOST_PCPUS, MOST_VCPUS = 24, 24
_LANE, _THIN = 24, 4
_LEVELS = 6
#: Thin rows for pCPUs, and for domains: those that waited most.
MOST_THIN, MOST_DOMAINS = 160, 130
#: A drawing of thin rows has at most so many fields: slots share one where there are more.
_MOST_FIELDS = 24_000
#: Shares of waiting from which on a colour is stronger.
_WAITING = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
#: Thin rows from one label to the next.
_LABELLED = 10
_ZOOM_NAMES = {1: "whole", 4: "4 times", 16: "16 times"}


def timeline(
    found: Mapping[str, Any],
    tables: Tables,
    moments: Sequence[tuple[str, int]],
    named: Sequence[tuple[int, int]],
) -> Figure | None:
    """Return the figure, None where nothing is known about any slot.

    Args:
        found: the key over_time of a report's JSON.
        moments: of findings: their number in the head, and cycles since the first record.
        named: vCPUs that findings name.
    """
    pcpus, vcpus = found["pcpus"], found["vcpus"]
    if not pcpus and not vcpus:
        return None
    slots = Slots(found, tables.hz)
    marks = svg.joined(
        svg.element(
            "line",
            x1=svg.percent(slots.share(cycles)),
            x2=svg.percent(slots.share(cycles)),
            y1="0",
            y2="100%",
            class_="moment",
        )
        for _, cycles in moments
    )
    lanes: list[Markup] = []
    if moments:
        heads = [
            svg.element(
                "text",
                number,
                x=svg.percent(slots.share(cycles)),
                y="13",
                class_="moment-label",
                text_anchor="middle",
                id=f"moment-{number}",
            )
            for number, cycles in moments
        ]
        lanes += _lane(
            "", svg.element("svg", *heads, class_="axis", width="100%", height=16, aria_hidden="true")
        )
    if len(pcpus) <= MOST_PCPUS:
        for each in pcpus:
            lanes += _lane(f"p{each['pcpu']}", _drawn(_pcpu(each, slots), marks, _LANE))
    else:
        lanes += _dense(pcpus, slots, marks)
    if len(vcpus) > MOST_VCPUS:
        lanes += _domains(vcpus, tables, slots, marks)
    drawn, left_out = _chosen(vcpus, named)
    is_grouped = tables.are_grouped([each["domain"] for each in drawn])
    lanes.append(svg.element("div", class_="lane-gap"))
    domain = -1
    for each in drawn:
        if each["domain"] != domain and is_grouped:
            domain = each["domain"]
            lanes.append(svg.element("div", tables.domain(domain), class_="lane-group"))
        label = vcpu_label(each["domain"], each["vcpu"])
        lanes += _lane(label, _drawn(_vcpu(each, slots), marks, _LANE))
    lanes += _lane("", slots.ticks())
    drawing = svg.element("div", *_zoom(), _scrolled(lanes), class_="timeline")
    folded = f" {left_out:,} vCPUs that ran and waited less are not drawn." if left_out else ""
    many = len(pcpus) > MOST_PCPUS
    return Figure(
        "timeline",
        "What pCPUs and vCPUs did",
        f"{len(slots.begins)} slots of {tables.text('slot_cycles', found['slot_cycles'])}. In a lane running "
        "time grows from the bottom and waiting for a pCPU hangs from the top; between them is idle or "
        "blocked time. "
        + (f"{_thin_row(len(pcpus))}, of a stronger colour where it ran more. " if many else "")
        + "Striped: offline (wide), lost or not known (narrow)."
        + (" Dotted lines: moments of the findings with that number." if moments else "")
        + folded
        + _known(found),
        drawing,
        details=[
            tables.page_table("pcpus", _PCPU_COLUMNS, "pCPUs over the whole trace"),
            tables.page_table(
                "vcpu_states",
                _STATE_COLUMNS,
                "vCPUs by state over the whole trace",
                places=[place for place, _ in tables.guests("vcpu_states")],
            ),
        ],
        legend=(
            ("area running", "running"),
            ("area waiting", "waiting for a pCPU"),
            ("area offline", "offline"),
            ("area unknown", "lost or not known"),
        ),
    )


def _known(found: Mapping[str, Any]) -> str:
    """Return how the lanes are known, and what is missing from them."""
    pcpus, vcpus = (sum_known(found["quality"][kind]) for kind in ("pcpus", "vcpus"))
    said = f" Times: {pcpus}." if pcpus == vcpus else f" Times of pCPUs: {pcpus}; of vCPUs: {vcpus}."
    if found["folded_count"]:
        said += f" For {found['folded_count']:,} sums there was no room: their time counts as not known."
    return said


_PCPU_COLUMNS = [
    ("pcpu", "pCPU"),
    ("running_ratio", "running"),
    ("idle_ratio", "idle"),
    ("lost_ratio", "lost"),
    ("unknown_ratio", "unknown"),
    ("lost_record_count", "lost records"),
]
_STATE_COLUMNS = [
    ("vcpu", "vCPU"),
    ("state", "state"),
    ("count", "count"),
    ("total_cycles", "total"),
    ("share_ratio", "share"),
    ("p50_cycles", "p50"),
    ("p99_cycles", "p99"),
    ("max_cycles", "max"),
]


def _chosen(
    vcpus: Sequence[dict[str, Any]], named: Sequence[tuple[int, int]]
) -> tuple[list[dict[str, Any]], int]:
    """Return the vCPUs with lanes, by domain, and how many have none."""
    busy = [
        (
            (each["domain"], each["vcpu"]) not in named,
            -sum(each["running_cycles"]) - sum(each["waiting_cycles"]),
            each["domain"],
            each["vcpu"],
            place,
        )
        for place, each in enumerate(vcpus)
    ]
    kept = sorted(place for *_, place in sorted(busy)[:MOST_VCPUS])
    return [vcpus[place] for place in kept], len(vcpus) - len(kept)


def _pcpu(each: Mapping[str, Any], slots: Slots) -> list[Markup]:
    running = _heights(each["running_cycles"], slots)
    hidden = _heights(
        [a + b for a, b in zip(each["lost_cycles"], each["unknown_cycles"], strict=True)], slots
    )
    return [*_area(hidden, slots, "unknown", down=True), *_area(running, slots, "running")]


def _vcpu(each: Mapping[str, Any], slots: Slots) -> list[Markup]:
    running = _heights(each["running_cycles"], slots)
    offline = _heights(each["offline_cycles"], slots)
    above = [a + b for a, b in zip(running, offline, strict=True)]
    waiting = _heights(each["waiting_cycles"], slots)
    below = [a + b for a, b in zip(waiting, _heights(each["unknown_cycles"], slots), strict=True)]
    return [
        *_area(above, slots, "offline", only=offline),
        *_area(running, slots, "running"),
        *_area(below, slots, "unknown", down=True, only=_heights(each["unknown_cycles"], slots)),
        *_area(waiting, slots, "waiting", down=True),
    ]


def _heights(cycles: Sequence[int], slots: Slots) -> list[int]:
    """Return the height of each slot's share, in pixels; what is there has at least one."""
    return [
        max(round(_LANE * value / length), 1) if value * 500 > length else 0
        for value, length in zip(cycles, slots.lengths, strict=True)
    ]


def _area(
    heights: Sequence[int],
    slots: Slots,
    class_: str,
    *,
    down: bool = False,
    only: Sequence[int] | None = None,
) -> list[Markup]:
    """Return an area; where ``only`` is 0, there is none, because it would be covered by another."""
    kept = [height if wanted else 0 for height, wanted in zip(heights, only or heights, strict=True)]
    if not any(kept):
        return []
    path = svg.steps(slots.edges, kept, 0 if down else _LANE, down=down)
    return [svg.element("path", d=path, class_=f"area {class_}")]


def _drawn(areas: Sequence[Markup], marks: Markup, height: int) -> Markup:
    return svg.element(
        "svg",
        svg.stretched(WIDTH, height, *areas),
        marks,
        class_="lane",
        width="100%",
        height=height,
        aria_hidden="true",
    )


def _lane(label: str, drawing: Markup) -> list[Markup]:
    return [svg.element("div", label, " ", class_="lane-label"), drawing]


def _dense(pcpus: Sequence[dict[str, Any]], slots: Slots, marks: Markup) -> list[Markup]:
    """Return one drawing of many pCPUs in thin rows, of a stronger colour where they ran more."""
    size = _pcpus_per_row(len(pcpus))
    count = -(-len(pcpus) // size)
    rows = []
    for begin in range(0, len(pcpus), size):
        mine = pcpus[begin : begin + size]
        row = []
        for field in _fields(count, slots):
            whole = sum(slots.lengths[field]) * len(mine)
            running, lost, unknown = (
                sum(sum(each[f"{part}_cycles"][field]) for each in mine)
                for part in ("running", "lost", "unknown")
            )
            level = -(-running * _LEVELS // whole) if running * 100 > whole else 0
            row.append(-1 if (lost + unknown) * 2 > whole else level)
        rows.append((f"p{mine[0]['pcpu']}", row))
    return [*_group(f"pCPUs: running{_shared(count, slots)}"), *_thin(rows, slots, marks, _THIN)]


def _thin_row(count: int) -> str:
    size = _pcpus_per_row(count)
    return "A thin row is a pCPU" if size == 1 else f"A thin row is {size} pCPUs"


def _pcpus_per_row(count: int) -> int:
    return -(-count // MOST_THIN)


def _domains(vcpus: Sequence[dict[str, Any]], tables: Tables, slots: Slots, marks: Markup) -> list[Markup]:
    """Return one drawing of many domains: a thin row each, of a stronger colour where its vCPUs waited."""
    by_domain: dict[int, list[dict[str, Any]]] = {}
    for each in vcpus:
        by_domain.setdefault(each["domain"], []).append(each)
    most = sorted(
        by_domain, key=lambda domain: -sum(sum(each["waiting_cycles"]) for each in by_domain[domain])
    )
    shown = sorted(most[:MOST_DOMAINS])
    rows = []
    for domain in shown:
        mine = by_domain[domain]
        row = []
        for field in _fields(len(shown), slots):
            waited = sum(sum(each["waiting_cycles"][field]) for each in mine)
            share = waited / (sum(slots.lengths[field]) * len(mine))
            row.append(sum(share > bound for bound in _WAITING))
        rows.append((tables.domain(domain), row))
    bounds = ", ".join(f"{bound:.0%}" for bound in _WAITING)
    heading = (
        f"domains: vCPUs waiting for a pCPU; a stronger colour from {bounds} of their time on"
        f"{_shared(len(shown), slots)}"
    )
    return [*_group(heading), *_thin(rows, slots, marks, _THIN), *_group("the busiest vCPUs")]


def _group(said: str) -> list[Markup]:
    return [svg.element("div", said, class_="lane-group")]


def _thin(
    rows: Sequence[tuple[str, Sequence[int]]], slots: Slots, marks: Markup, height: int
) -> list[Markup]:
    """Return a drawing of rows of levels, -1 for what is not known; each tenth row has a label.

    Args:
        rows: a label, and a level for each field.
    """
    # A line as thick as the row takes a third of the bytes of a rectangle.
    lines: dict[str, list[str]] = {}
    fields = _fields(len(rows), slots)
    for at, (_, row) in enumerate(rows):
        y = at * height + height // 2
        for level, first, last in runs(row):
            x, end = slots.edges[fields[first].start], slots.edges[fields[last].stop]
            name = "unknown" if level < 0 else f"heat l{min(level, _LEVELS)}"
            lines.setdefault(name, []).append(f"M{x} {y}h{end - x}")
    whole = len(rows) * height
    paths = [
        svg.element("path", d="".join(each), class_=f"thin {name}") for name, each in sorted(lines.items())
    ]
    labels = [
        svg.text(1, at * height + 8, label, "tick", "end")
        for at, (label, _) in enumerate(rows)
        if at % _LABELLED == 0 and whole - at * height > 8
    ]
    label = svg.element("svg", *labels, width="40", height=whole, aria_hidden="true")
    return [svg.element("div", label, class_="lane-label"), _drawn(paths, marks, whole)]


def _fields(rows: int, slots: Slots) -> list[slice]:
    """Return the slots of each field of thin rows: one, or several where the rows are many."""
    count = len(slots.lengths)
    step = -(-rows * count // _MOST_FIELDS)
    return [slice(begin, min(begin + step, count)) for begin in range(0, count, step)]


def _shared(rows: int, slots: Slots) -> str:
    """Return how many slots a field is, to be appended; "" for one."""
    first = _fields(rows, slots)[0]
    return f"; a field is {first.stop} slots" if first.stop > 1 else ""


def _zoom() -> list[Markup]:
    """Return the choices of how wide the timeline is; a style sheet obeys them, so they need no script."""
    parts = []
    for zoom in ZOOMS:
        more = {"checked": ""} if zoom == 1 else {}
        parts.append(
            svg.element("input", type="radio", name="zoom", id=f"zoom-{zoom}", class_=f"zoom-{zoom}", **more)
        )
        parts.append(svg.element("label", _ZOOM_NAMES[zoom], for_=f"zoom-{zoom}"))
    return parts


def _scrolled(lanes: Sequence[Markup]) -> Markup:
    grid = svg.element("div", *lanes, class_="lanes")
    return svg.element(
        "div",
        grid,
        class_="scroll",
        tabindex="0",
        role="group",
        aria_label="timeline; it scrolls sideways if it is zoomed",
    )
