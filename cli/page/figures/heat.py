"""When were wakes slow?  Bursts that a p99 over the whole trace hides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from markupsafe import Markup

from xtrace.cli.page import svg
from xtrace.cli.page.figure import Column, Figure, PageTable, Row
from xtrace.cli.page.figures.slots import WIDTH, Slots, levels, runs
from xtrace.cli.page.words import seconds_text, sum_known, tick_text
from xtrace.probes.words import scaled

LEVELS = 6
_ROW = 18


def heat_map(found: Mapping[str, Any], hz: float | None, most_rows: int) -> Figure | None:
    """Return the figure, None without wakes in slots.

    Args:
        found: the key over_time of a report's JSON.
        most_rows: of its table, which has a row for each slot with wakes.
    """
    octaves = found["wake_to_running"]
    if not octaves:
        return None
    slots = Slots(found, hz)
    flat = levels((count for octave in octaves for count in octave["counts"]), LEVELS)
    width = len(slots.lengths)
    # Octaves without a wake between others keep their row.
    powers = [each["least_cycles"].bit_length() for each in octaves]
    height = (powers[-1] - powers[0] + 1) * _ROW
    paths: dict[int, list[tuple[int, int, int, int]]] = {}
    for at, power in enumerate(powers):
        y = height - (power - powers[0] + 1) * _ROW
        for level, first, last in runs(flat[at * width : (at + 1) * width]):
            x = slots.edges[first]
            paths.setdefault(level, []).append((x, y, slots.edges[last + 1] - x, _ROW - 1))
    drawn = [
        svg.element("path", d=svg.cells(cells), class_=f"heat l{level}")
        for level, cells in sorted(paths.items())
    ]
    grey = _not_covered(found, slots, height)
    plot = svg.element(
        "svg",
        svg.stretched(WIDTH, height, *([grey] if grey else []), *drawn),
        class_="heat-map",
        width="100%",
        height=height,
        role="img",
        aria_label="wakes by time and by how long they took; the table has the counts",
    )
    labels = svg.joined(
        svg.element("div", _label(1 << (power - 1) if power else 0, hz))
        for power in range(powers[-1], powers[0] - 1, -1)
    )
    drawing = svg.element(
        "div",
        svg.element("div", labels, class_="y-labels"),
        svg.element("div", plot, slots.ticks()),
        class_="heat-grid",
    )
    most = max(count for octave in octaves for count in octave["counts"])
    return Figure(
        "bursts",
        "When wakes were slow",
        "Time runs to the right, the time from wake to running upwards, in powers of two of TSC cycles. The "
        f"stronger the colour, the more wakes ran then after that long, from 1 to {most:,}. A burst is a "
        "column that reaches up. Grey stripes, as high as the share of the pCPUs' time that the trace does "
        f"not cover. Counts: {sum_known(found['quality']['wake_to_running'])}.",
        drawing,
        details=[_table(found, slots, most_rows)],
    )


def _label(least_cycles: int, hz: float | None) -> str:
    if not hz:
        return f"from {scaled(least_cycles)}c"
    ns = least_cycles * 1e9 / hz
    size = next((size for size in (1e9, 1e6, 1e3) if ns >= size), 1.0)
    return f"from {tick_text(float(f'{ns / size:.3g}') * size)}"


def _not_covered(found: Mapping[str, Any], slots: Slots, height: int) -> Markup | None:
    """Return stripes whose height is the share of the pCPUs' time that is lost or unknown."""
    pcpus = found["pcpus"]
    shares = []
    for at, length in enumerate(slots.lengths):
        hidden = sum(each["lost_cycles"][at] + each["unknown_cycles"][at] for each in pcpus)
        shares.append(round(height * hidden / (length * len(pcpus))) if pcpus and length else 0)
    if not any(shares):
        return None
    return svg.element("path", d=svg.steps(slots.edges, shares, height), class_="unknown")


def _table(found: Mapping[str, Any], slots: Slots, most_rows: int) -> PageTable:
    octaves = found["wake_to_running"]
    known = sum_known(found["quality"]["wake_to_running"])
    rows = [
        Row(
            [
                seconds_text(begin, slots.hz),
                *(f"{octave['counts'][at]:,}" if octave["counts"][at] else "" for octave in octaves),
            ],
            at,
        )
        for at, begin in enumerate(slots.begins)
        if any(octave["counts"][at] for octave in octaves)
    ]
    return PageTable(
        (
            Column("", "from"),
            *(
                Column(str(place), _label(octave["least_cycles"], slots.hz).removeprefix("from "), known)
                for place, octave in enumerate(octaves)
            ),
        ),
        rows[:most_rows],
        "Wakes by slot of time, by how long they took at least",
        "over_time.wake_to_running.{k}.counts.{i}",
        left_out=max(len(rows) - most_rows, 0),
    )
