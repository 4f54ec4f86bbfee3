"""The slots of time that the heat map and the timeline share: edges, ticks, and what is not covered."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from markupsafe import Markup

from xtrace.cli.page import svg
from xtrace.cli.page.words import seconds_text

#: The trace's width in the units of stretched viewports.
WIDTH = 10_000
#: Ticks on a screen's width at most.
_TICKS = 8
ZOOMS = (1, 4, 16)


class Slots:
    """The slots of a report's JSON.

    Args:
        found: the key over_time.
        hz: TSC rate; None where it is not known.
    """

    def __init__(self, found: Mapping[str, Any], hz: float | None) -> None:
        self.begins: Sequence[int] = found["begin_cycles"]
        self.lengths: Sequence[int] = found["length_cycles"]
        self.hz = hz
        self.span: int = self.begins[-1] + self.lengths[-1]
        self.edges = [round(begin * WIDTH / self.span) for begin in (*self.begins, self.span)]

    def share(self, cycles: float) -> float:
        """Return where a moment is, as a share of the trace."""
        return min(max(cycles / self.span, 0.0), 1.0)

    def ticks(self) -> Markup:
        """Return the labels of the time axis, those of each zoom in a class of their own."""
        parts = []
        seen: set[float] = set()
        for zoom in ZOOMS:
            for moment in _moments(self.span / (self.hz or 1.0), _TICKS * zoom):
                place = moment * (self.hz or 1.0) / self.span
                if moment in seen or place > 0.995:
                    continue
                seen.add(moment)
                label = f"{moment:g} s" if self.hz else seconds_text(moment, None)
                anchor = "start" if place < 0.01 else "middle"
                minor = "" if len(seen) % 2 else " minor"
                parts.append(svg.text(place, 13, label, f"tick z{zoom}{minor}", anchor))
        return svg.element("svg", *parts, class_="axis", width="100%", height=18, aria_hidden="true")


def levels(values: Iterable[int], most: int) -> list[int]:
    """Return 0 for nothing, and for others the level from 1 to ``most`` on a scale of powers of two."""
    found = list(values)
    top = max(found, default=0)
    step = max(math.log2(top + 1) / most, 1e-9) if top else 1.0
    return [0 if not value else min(math.ceil(math.log2(value + 1) / step), most) for value in found]


def runs(row: Sequence[int]) -> Iterable[tuple[int, int, int]]:
    """Yield (value, first, last) of the runs of equal values that are not 0."""
    begin = 0
    for at in range(1, len(row) + 1):
        if at == len(row) or row[at] != row[begin]:
            if row[begin]:
                yield row[begin], begin, at - 1
            begin = at


def _moments(span: float, most: int) -> list[float]:
    power = 10.0 ** math.floor(math.log10(span / most))
    step = next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= most)
    digits = max(0, -math.floor(math.log10(step)) + 1)
    return [round(place * step, digits) for place in range(math.floor(span / step) + 1)]
