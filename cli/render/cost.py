"""One line for each input of the cost that is missing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xtrace.analysis.report.build import Report

#: xtrace.analysis.cost.missing_inputs.HOST.
_HOST = "host"


def cost_needs(report: Report) -> Iterator[str]:
    """Yield one line per missing input of the cost, with how to get it."""
    needs = report.columns.get("cost_needs")
    if needs is None:
        return
    for row in needs.rows():
        whose = "" if row["about"] == _HOST else f"{row['about']}: "
        remedy = f"; {row['remedy']}" if row["remedy"] else ""
        yield f"{whose}{row['missing']}: {row['reason']}{remedy}"
