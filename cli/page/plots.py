"""Drawings that several figures share: a row of a table with an axis, and what is drawn in it."""

from __future__ import annotations

from collections.abc import Callable

from markupsafe import Markup

from xtrace.cli.page import svg
from xtrace.cli.page.scales import Scale

ROW_HEIGHT = 20
AXIS_HEIGHT = 18


def axis(scale: Scale, said: Callable[[float], str]) -> Markup:
    """Return the labels of a scale's ticks, for a heading."""
    parts = []
    for value, is_major in scale.ticks():
        place = scale.at(value)
        anchor = "start" if place < 0.04 else "end" if place > 0.96 else "middle"
        parts.append(svg.text(place, 13, said(value), "tick" if is_major else "tick minor", anchor))
    return _drawn(AXIS_HEIGHT, "axis", parts)


def row(scale: Scale, *marks: Markup) -> Markup:
    """Return a row: lines at the scale's ticks, and marks."""
    lines = [
        svg.line(scale.at(value), 0, ROW_HEIGHT, "zero" if value == 0 else "grid")
        for value, _ in scale.ticks()
    ]
    ends = {"data_scale": scale.name, "data_low": f"{scale.low:.17g}", "data_high": f"{scale.high:.17g}"}
    return _drawn(ROW_HEIGHT, "row", [*lines, *marks], **ends)


def bar(scale: Scale, value: float, class_: str, key: str) -> Markup:
    """Return a bar from the axis's low end to a value; ``key``: of the value in the JSON."""
    return svg.bar(0, scale.at(value), 4, 12, f"bar {class_}", data_end=key)


def span(
    scale: Scale, low: float, high: float, class_: str, keys: tuple[str, str], height: int = 12
) -> Markup:
    """Return an interval; ``keys``: of its ends in the JSON."""
    begin, end = scale.at(low), scale.at(high)
    top = (ROW_HEIGHT - height) / 2
    return svg.bar(
        begin, max(end, begin + 0.002), top, height, f"bar {class_}", data_begin=keys[0], data_end=keys[1]
    )


def whisker(scale: Scale, low: float, high: float, class_: str, keys: tuple[str, str]) -> Markup:
    """Return a line between two values with a stroke across its upper end."""
    begin, end = scale.at(low), scale.at(high)
    middle = svg.number(ROW_HEIGHT / 2)
    return svg.joined(
        (
            svg.element(
                "line",
                x1=svg.percent(begin),
                x2=svg.percent(end),
                y1=middle,
                y2=middle,
                class_=f"whisker {class_}",
                data_begin=keys[0],
                data_end=keys[1],
            ),
            svg.line(end, 5, 15, f"whisker-end {class_}"),
        )
    )


def dot(scale: Scale, value: float, class_: str, key: str) -> Markup:
    """Return a dot at a value; ``key``: of the value in the JSON."""
    return svg.element(
        "circle",
        cx=svg.percent(scale.at(value)),
        cy=svg.number(ROW_HEIGHT / 2),
        r="4",
        class_=f"dot {class_}",
        data_at=key,
    )


def remark(scale: Scale, value: float, said: str) -> Markup:
    """Return text right of a value, in place of a mark."""
    return svg.text(scale.at(value), 14, f" {said}", "tick remark", "start")


def _drawn(height: int, class_: str, parts: list[Markup], **more: object) -> Markup:
    return svg.element(
        "svg",
        *parts,
        class_=class_,
        width="100%",
        height=height,
        aria_hidden="true",
        focusable="false",
        **more,
    )
