"""How are the times from wake to running, and from send to wake, distributed?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from xtrace.cli.page import svg
from xtrace.cli.page.figure import Figure, PageTable
from xtrace.cli.page.scales import Log, log_around
from xtrace.cli.page.words import tick_text, vcpu_label
from xtrace.probes.words import scaled

#: Curves with a colour of their own, and curves in all; the slowest ones.
MOST_CURVES, MOST_PALE = 6, 30
#: Values of a curve that is drawn.
FEWEST = 20
_HEIGHT = 260
#: Width and height of the stretched viewport.
_X, _Y = 1000, 1000
#: Shares that have a line, and their labels.
_SHARES = (
    (0.0, "0"),
    (0.5, "p50"),
    (0.9, "p90"),
    (0.99, "p99"),
    (0.999, "p99.9"),
    (0.9999, "p99.99"),
    (0.99999, "p99.999"),
)


@dataclass(frozen=True, slots=True)
class Curve:
    """A distribution.

    Attributes:
        place: in the JSON list.
        class_: of its line; empty for one by its rank.
    """

    label: str
    upto_cycles: Sequence[int]
    upto_counts: Sequence[int]
    quality: str
    place: int
    class_: str = ""

    def quantile(self, share: float) -> int:
        """Return a time that at least this share of the values do not exceed."""
        rank = math.ceil(share * self.upto_counts[-1])
        return next(
            upto for upto, count in zip(self.upto_cycles, self.upto_counts, strict=True) if count >= rank
        )


def curves_of(found: Sequence[dict[str, Any]], figure: str) -> list[Curve]:
    """Return the distributions of a figure, the greatest p99 first."""
    curves = []
    for place, each in enumerate(found):
        if each["figure"] != figure:
            continue
        label = vcpu_label(each["domain"], each["vcpu"])
        if each["waker_domain"] is not None:
            label = f"{vcpu_label(each['waker_domain'], each['waker_vcpu'])} to {label}"
        curves.append(Curve(label, each["upto_cycles"], each["upto_counts"], each["quality"], place))
    return sorted(curves, key=lambda curve: -curve.quantile(0.99))


def ecdf(
    name: str,
    title: str,
    what: str,
    curves: Sequence[Curve],
    hz: float | None,
    details: Sequence[PageTable],
    *,
    drawn: int = MOST_CURVES,
) -> Figure | None:
    """Return the figure, None without curves.

    Args:
        what: what a curve is, in a sentence.
        details: its tables.
        drawn: curves with a colour of their own.
    """
    wanted = [curve for curve in curves if curve.upto_counts[-1] >= FEWEST]
    shown = wanted[:MOST_PALE]
    if not shown:
        return None
    ns = 1e9 / hz if hz else 1.0
    ends = [value * ns for curve in shown for value in (curve.upto_cycles[0], curve.upto_cycles[-1])]
    scale = log_around(ends)
    top = max(_tail(curve.upto_counts[-1] - 0.5, curve.upto_counts[-1]) for curve in shown)
    height = max(top * 1.02, 1.0)
    lines = [
        _line(curve, scale, ns, height, curve.class_ or (f"c{rank}" if rank < drawn else "pale"))
        for rank, curve in reversed(list(enumerate(shown)))
    ]
    drawing = svg.element(
        "div",
        _axes(scale, height, svg.stretched(_X, _Y, *lines), hz),
        class_="ecdf",
    )
    left = len(wanted) - len(shown)
    more = f" {left:,} more are not drawn." if left else ""
    if few := len(curves) - len(wanted):
        more += f" {few:,} with fewer than {FEWEST} values are left out."
    pale = " Pale lines are the others." if len(shown) > drawn else ""
    return Figure(
        name,
        title,
        f"{what} The height is the share of values that are at most so long, stretched towards the top so "
        f"that each nine of the tail has the same room. A line ends at the greatest value.{pale}{more} "
        f"Times: {shown[0].quality}.",
        drawing,
        details=details,
        legend=[
            (f"line {curve.class_ or f'c{rank}'}", curve.label) for rank, curve in enumerate(shown[:drawn])
        ],
    )


def _tail(count: float, total: int) -> float:
    """Return how many nines a count is from the bottom: log10 of the share above it."""
    return -math.log10(1 - min(count, total - 0.5) / total)


def _line(curve: Curve, scale: Log, ns: float, height: float, class_: str) -> Markup:
    total = curve.upto_counts[-1]
    x, y = round(scale.at(curve.upto_cycles[0] * ns) * _X), _Y
    parts = [f"M{x} {y}"]
    for upto, count in zip(curve.upto_cycles, curve.upto_counts, strict=True):
        to_x, to_y = round(scale.at(upto * ns) * _X), round(_Y - _tail(count, total) / height * _Y)
        if to_x != x:
            parts.append(f"h{to_x - x}")
        if to_y != y:
            parts.append(f"v{to_y - y}")
        x, y = to_x, to_y
    return svg.element("path", d="".join(parts), class_=f"curve {class_}", data_i=curve.place)


def _axes(scale: Log, height: float, lines: Markup, hz: float | None) -> Markup:
    said = tick_text if hz else lambda value: f"{scaled(value)}c"
    parts = []
    for value, is_major in scale.ticks():
        place = scale.at(value)
        anchor = "start" if place < 0.03 else "end" if place > 0.97 else "middle"
        parts.append(svg.line(place, 0, _HEIGHT, "grid"))
        parts.append(svg.text(place, _HEIGHT + 15, said(value), "tick" if is_major else "tick minor", anchor))
    for share, label in _SHARES:
        y = _HEIGHT * (1 - (-math.log10(1 - share)) / height)
        if y >= 8:
            parts.append(
                svg.element("line", x1="0", x2="100%", y1=svg.number(y), y2=svg.number(y), class_="grid")
            )
            if share:
                parts.append(svg.text(0.003, y - 3, label, "tick", "start"))
    plot = svg.element("svg", lines, x="0", y="0", width="100%", height=_HEIGHT)
    return svg.element(
        "svg",
        *parts,
        plot,
        class_="axes",
        width="100%",
        height=_HEIGHT + 20,
        role="img",
        aria_label="distribution; its table has the quantiles",
        data_scale=scale.name,
        data_low=f"{scale.low:.17g}",
        data_high=f"{scale.high:.17g}",
        data_nines=f"{height:.17g}",
    )
