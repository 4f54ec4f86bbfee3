"""Draw the plot of docs/accuracy.md as SVG: each interval against its truth."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

#: Colours that differ in lightness as well as in hue.
COLOURS = {
    "lfence": "#d1495b",
    "mfence": "#30638e",
    "sfence": "#8d99ae",
    "lockadd": "#edae49",
    "xchg": "#3d8b5f",
}
_WIDTH, _HEIGHT = 380, 360
_LEFT, _TOP, _INSIDE = 46, 34, 300
_STYLE = (
    "text{font:11px sans-serif;fill:#333}.t{font-weight:bold}path{fill:none;stroke-width:1.2}"
    ".g{stroke:#ddd}.d{stroke:#888;stroke-dasharray:4 3}.o{stroke-width:3}"
)


@dataclass(frozen=True, slots=True)
class Bar:
    """One configuration."""

    fence: str
    truth: float
    low: float
    high: float

    @property
    def holds(self) -> bool:
        """Return whether the interval contains the truth."""
        return self.low <= self.truth <= self.high


@dataclass(frozen=True, slots=True)
class Panel:
    """Configurations on one pair of equal axes.

    Attributes:
        bend: the axes are linear below this many cycles, and logarithmic above.
        ticks: tick values of both axes; the first and the last are the axes' ends.
    """

    title: str
    bars: Sequence[Bar]
    bend: float
    ticks: Sequence[int]


def svg(panels: Sequence[Panel]) -> str:
    """Return the panels side by side, with a legend."""
    width, height = _WIDTH * len(panels), _HEIGHT + 50
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}"><style>{_STYLE}</style><rect width="{width}" height="{height}" fill="#fff"/>'
    ]
    for number, panel in enumerate(panels):
        parts.append(f'<g transform="translate({number * _WIDTH})">{_panel(panel)}</g>')
    for number, (fence, colour) in enumerate(COLOURS.items()):
        x = _LEFT + number * 90
        parts.append(
            f'<path d="M{x} {height - 14}h18" style="stroke:{colour};stroke-width:3"/>'
            f'<text x="{x + 23}" y="{height - 10}">{fence.replace("lockadd", "lock add")}</text>'
        )
    x = _LEFT + len(COLOURS) * 90
    parts.append(f'<text x="{x}" y="{height - 10}">thick: misses the truth; dashed: equal</text></svg>')
    return "\n".join(parts) + "\n"


def _panel(panel: Panel) -> str:
    place = _scale(panel)
    end = _TOP + _INSIDE

    def x(value: float) -> str:
        return f"{_LEFT + place(value):.1f}".removesuffix(".0")

    def y(value: float) -> str:
        return f"{end - place(value):.1f}".removesuffix(".0")

    parts = [f'<text class="t" x="{_LEFT}" y="20">{panel.title}</text>']
    grid = "".join(f"M{x(tick)} {_TOP}v{_INSIDE}M{_LEFT} {y(tick)}h{_INSIDE}" for tick in panel.ticks)
    parts.append(f'<path class="g" d="{grid}"/>')
    first, last = panel.ticks[0], panel.ticks[-1]
    parts.append(f'<path class="d" d="M{x(first)} {y(first)}L{x(last)} {y(last)}"/>')
    for tick in panel.ticks:
        parts.append(f'<text x="{x(tick)}" y="{end + 15}" text-anchor="middle">{tick}</text>')
        parts.append(f'<text x="{_LEFT - 5}" y="{float(y(tick)) + 4:.0f}" text-anchor="end">{tick}</text>')
    parts.append(
        f'<text x="{_LEFT + _INSIDE // 2}" y="{end + 31}" text-anchor="middle">'
        "measured, cycles per round</text>"
    )
    parts.append(f'<text x="{_LEFT + 6}" y="{_TOP + 13}">predicted, cycles per round</text>')
    for fence, colour in COLOURS.items():
        for holds, kind in ((True, ""), (False, ' class="o"')):
            bars = sorted(
                (bar for bar in panel.bars if bar.fence == fence and bar.holds is holds),
                key=lambda b: b.truth,
            )
            lines = "".join(f"M{x(bar.truth)} {y(bar.low)}V{y(bar.high)}" for bar in bars)
            if lines:
                parts.append(f'<path{kind} d="{lines}" stroke="{colour}"/>')
    return "\n".join(parts)


def _scale(panel: Panel) -> Callable[[float], float]:
    def bent(value: float) -> float:
        return math.asinh(value / panel.bend)

    first, last = bent(panel.ticks[0]), bent(panel.ticks[-1])

    def place(value: float) -> float:
        return _INSIDE * min(max((bent(value) - first) / (last - first), 0.0), 1.0)

    return place
