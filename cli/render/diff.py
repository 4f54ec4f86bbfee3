"""Put a comparison on a terminal: what changed, and what may be chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from xtrace.cli.render.report.coverage import covered
from xtrace.cli.render.report.head import EMULATED
from xtrace.cli.terminal.grid import GridColumn, grid_lines
from xtrace.cli.terminal.style import Put, Style, width
from xtrace.cli.terminal.text import LABEL, labelled, safe, shortened, wrapped
from xtrace.probes.words import scaled, share_text, time_text

if TYPE_CHECKING:
    from xtrace.analysis.comparison.compare import Change, Diff
    from xtrace.analysis.comparison.figures import Measured, Unit

_NAMES = 3
#: Smaller p-values are shown as below this.
_LEAST_P = 0.0001


def print_diff(put: Put, diff: Diff, rows: Sequence[Change]) -> None:
    """Print a comparison, its rows in the order of ``rows``."""
    from xtrace.analysis.comparison.rank_test import ALPHA

    for label, captures in (("old", diff.old), ("new", diff.new)):
        put(shortened(f"{label:<{LABEL}}{_names(captures)}", width()), bold=True)
        for text in dict.fromkeys(covered(each.coverage) for each in captures if each.coverage):
            _put_labelled(put, "", f"covered: {text}")
    if any(capture.emulated for capture in (*diff.old, *diff.new)):
        _put_labelled(put, "host", EMULATED)
    if any(map(diff.can_tell, rows)):
        together = f", {len(rows)} rows together (Holm)" if len(rows) != 1 else ""
        _put_labelled(
            put, "change", f"~ if it may be chance: p is not below {ALPHA:g} by a rank test{together}"
        )
    elif rows:
        _put_labelled(put, "change", "~ all may be chance; the differences are those of these runs only")
    for warning in diff.warnings:
        _put_labelled(put, "!", safe(warning))
    if rows:
        _print_rows(put, diff, rows)


def _print_rows(put: Put, diff: Diff, rows: Sequence[Change]) -> None:
    from xtrace.analysis.measures.certainty import certainty_text, metric_word

    put("")
    known = certainty_text((row.figure.name, metric_word(row.figure.name, row.quality)) for row in rows)
    for line in wrapped(f"({known})", width()):
        put(line, dim=True)
    styles = [Style.BOLD if row.differs else Style.DIM for row in rows]
    columns = [
        GridColumn(["domain"], [safe(row.domain) for row in rows], left=True, shorten=shortened),
        GridColumn(["metric"], [row.figure.name for row in rows], left=True),
        *(
            GridColumn(
                [name], [value_text(value(row), row.figure.unit, in_cycles=diff.in_cycles) for row in rows]
            )
            for name, value in (("old", _old), ("new", _new))
        ),
        GridColumn(
            ["change"],
            [f"{'' if row.differs else '~'}{_change_text(row, row.change, diff)}" for row in rows],
            styles=styles,
        ),
        GridColumn(["95% interval"], [_interval_text(row, diff) for row in rows]),
        GridColumn(["p"], [_p_text(row.p_together) if diff.can_tell(row) else "-" for row in rows]),
        GridColumn(["n"], [f"{len(row.old)}+{len(row.new)}" for row in rows]),
    ]
    heads, lines, taken = grid_lines(columns, width())
    put(heads[0], bold=True)
    put("-" * taken, dim=True)
    for line in lines:
        put(line)


def _old(row: Change) -> float:
    return row.old_median


def _new(row: Change) -> float:
    return row.new_median


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


def _put_labelled(put: Put, label: str, text: str) -> None:
    for line in labelled(label, text, width()):
        put(line)
