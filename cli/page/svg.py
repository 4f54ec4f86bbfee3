"""Elements of SVG as text: the one place that writes it.

Positions along the time or value axis are shares of the width, so that text keeps its size on any screen;
paths are in the units of a nested viewport that is stretched.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from markupsafe import Markup, escape

from xtrace.symbols.errors import shown

#: Elements of HTML that need an end tag, even if they are empty.
_PAIRED = {"div", "label"}


def element(name: str, /, *content: object, **attributes: object) -> Markup:
    """Return an element; text in it and its attributes are escaped, an attribute that is None left out.

    Of text, what a reader would not see is shown as an escape.

    Args:
        attributes: by name, with ``_`` for ``-``; a trailing ``_`` is dropped (``class_``).
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    inside = "".join(part if isinstance(part, Markup) else escape(shown(str(part))) for part in content)
    if inside or name in _PAIRED:
        return Markup(f"<{name}{written}>{inside}</{name}>")
    return Markup(f"<{name}{written}/>")


def joined(parts: Iterable[Markup]) -> Markup:
    """Return elements one after the other."""
    return Markup("").join(parts)


def percent(share: float) -> str:
    """Return a share of the width."""
    return f"{number(100 * share)}%"


def number(value: float) -> str:
    """Return a coordinate with at most two digits after the point."""
    return f"{value:.2f}".rstrip("0").rstrip(".") if value % 1 else str(int(value))


def line(x: float, top: float, bottom: float, class_: str) -> Markup:
    """Return a vertical line at a share of the width; top and bottom in pixels."""
    return element("line", x1=percent(x), x2=percent(x), y1=number(top), y2=number(bottom), class_=class_)


def bar(begin: float, end: float, top: float, height: float, class_: str, **more: object) -> Markup:
    """Return a rectangle between two shares of the width; top and height in pixels."""
    return element(
        "rect",
        x=percent(begin),
        width=percent(max(end - begin, 0)),
        y=number(top),
        height=number(height),
        class_=class_,
        **more,
    )


def text(x: float, y: float, said: str, class_: str, anchor: str = "middle") -> Markup:
    """Return text at a share of the width; y in pixels."""
    return element("text", said, x=percent(x), y=number(y), class_=class_, text_anchor=anchor)


def stretched(width: float, height: float, *content: Markup) -> Markup:
    """Return a viewport of these units that fills the one around it."""
    box = f"0 0 {number(width)} {number(height)}"
    return element("svg", *content, viewBox=box, preserveAspectRatio="none", width="100%", height="100%")


def steps(edges: Sequence[int], heights: Sequence[int], base: int, *, down: bool = False) -> str:
    """Return the path of an area with a height in each slot.

    Args:
        edges: where the slots begin, and where the last one ends.
        heights: of each slot.
        base: where the area begins; it grows up from there, or down.
    """
    sign = 1 if down else -1
    parts = []
    at = 0
    while at < len(heights):
        if not heights[at]:
            at += 1
            continue
        begin, level, sums = at, 0, [f"M{edges[at]} {base}"]
        while at < len(heights) and heights[at]:
            if change := heights[at] - level:
                sums.append(f"v{sign * change}")
                level = heights[at]
            end = at
            while end + 1 < len(heights) and heights[end + 1] == level:
                end += 1
            sums.append(f"h{edges[end + 1] - edges[at]}")
            at = end + 1
        parts.append("".join([*sums, f"v{-sign * level}h{edges[begin] - edges[at]}z"]))
    return "".join(parts)


def cells(places: Iterable[tuple[int, int, int, int]]) -> str:
    """Return the path of rectangles, given by x, y, width and height."""
    return "".join(f"M{x} {y}h{width}v{height}h{-width}z" for x, y, width, height in places)
