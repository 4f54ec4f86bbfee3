"""Put a comparison on a terminal of 80 columns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING

from xtrace.cli.render.coverage import covered
from xtrace.cli.render.terminal import LEGEND, WIDTH, Put, safe, shortened
from xtrace.probes.words import scaled, share_text, time_text

if TYPE_CHECKING:
    from xtrace.analysis.comparison.compare import Change, Diff
    from xtrace.analysis.comparison.figures import Measured, Unit

_LABEL = 9
_NAMES = 3
_DOMAIN_WIDTH = 10
_HEADINGS = ("domain", "metric", "old", "new", "change", "95% interval", "p", "n")
_TO_LEFT = (0, 1)
#: Smaller p-values are shown as below this.
_LEAST_P = 0.0001


def print_diff(put: Put, diff: Diff, rows: Sequence[Change]) -> None:
    """Print a comparison, its rows in the order of ``rows``."""
    from xtrace.analysis.comparison.rank_test import ALPHA

    for label, captures in (("old", diff.old), ("new", diff.new)):
        put(shortened(f"{label:<{_LABEL}}{_names(captures)}", WIDTH), bold=True)
        for text in dict.fromkeys(covered(each.coverage) for each in captures if each.coverage):
            _put_wrapped(put, "", f"covered: {text}")
    if any(capture.emulated for capture in (*diff.old, *diff.new)):
        put(f"{'host':<{_LABEL}}emulated: times show order and proportions, not hardware durations")
    _put_wrapped(
        put,
        "change",
        f"shown if p < {ALPHA:g} by a rank test, {len(rows)} row{'s' if len(rows) != 1 else ''} together "
        "(Holm); ~ if chance explains it",
    )
    put(LEGEND, dim=True)
    for warning in diff.warnings:
        _put_wrapped(put, "!", safe(warning))
    if rows:
        _print_rows(put, diff, rows)


def _print_rows(put: Put, diff: Diff, rows: Sequence[Change]) -> None:
    from xtrace.analysis.measures.table import MARKS

    lines = [_HEADINGS] + [
        (
            shortened(safe(row.domain), _DOMAIN_WIDTH),
            row.figure.name + MARKS[row.quality],
            value_text(row.old_median, row.figure.unit, in_cycles=diff.in_cycles),
            value_text(row.new_median, row.figure.unit, in_cycles=diff.in_cycles),
            _change_text(row, row.change, diff) if row.differs else "~",
            _interval_text(row, diff),
            _p_text(row.p_together),
            f"{len(row.old)}+{len(row.new)}",
        )
        for row in rows
    ]
    widths = [max(len(line[place]) for line in lines) for place in range(len(_HEADINGS))]
    gap = "  " if sum(widths) + 2 * (len(widths) - 1) <= WIDTH else " "
    put("")
    for number, line in enumerate(lines):
        cells = [
            cell.ljust(width) if place in _TO_LEFT else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(line, widths, strict=True))
        ]
        put(gap.join(cells).rstrip(), bold=number == 0 or rows[number - 1].differs)
        if number == 0:
            put("-" * (sum(widths) + len(gap) * (len(widths) - 1)), dim=True)


def value_text(value: float, unit: Unit, *, in_cycles: bool) -> str:
    """Return a value with three digits and its unit."""
    if unit == "time":
        return time_text(value, None if in_cycles else 1e9)
    if unit == "ratio":
        return share_text(value) if abs(value) < 0.01 else f"{value:.1%}"
    return f"{scaled(value) if abs(value) >= 100 else f'{value:.3g}'}/s"


def _change_text(row: Change, change: float, diff: Diff) -> str:
    if row.is_ratio:
        return f"{change:+.1%}" if abs(change) < 9.995 else f"x{change + 1:.3g}"
    sign = "-" if change < 0 else "+"
    if row.figure.unit == "ratio":
        return f"{sign}{abs(change) * 100:.1f}pt"
    return sign + value_text(abs(change), row.figure.unit, in_cycles=diff.in_cycles)


def _interval_text(row: Change, diff: Diff) -> str:
    if row.low is None or row.high is None:
        return "-"
    return f"{_change_text(row, row.low, diff)} {_change_text(row, row.high, diff)}"


def _p_text(p: float) -> str:
    if p < _LEAST_P:
        return f"<{_LEAST_P:.4f}"
    return f"{p:.2f}" if p >= 0.1 else f"{p:.{1 - math.floor(math.log10(p))}f}"


def _names(captures: Sequence[Measured]) -> str:
    if len(captures) == 1:
        return safe(captures[0].name)
    paths = [Path(capture.name) for capture in captures]
    folders = {str(path.parent) for path in paths}
    inside = f" in {folders.pop()}" if len(folders) == 1 and folders != {"."} else ""
    names = [path.name if inside else str(path) for path in paths]
    more = f" and {len(names) - _NAMES} more" if len(names) > _NAMES else ""
    return safe(f"{len(names)}{inside}: {', '.join(names[:_NAMES])}{more}")


def _put_wrapped(put: Put, label: str, text: str) -> None:
    for line in wrap(text, WIDTH - _LABEL):
        put(f"{label:<{_LABEL}}{line}")
        label = ""
