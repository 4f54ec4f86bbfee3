"""One line per domain on what its fences cost, and one for each input that is missing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xtrace.analysis.report.build import Report

#: xtrace.analysis.cost.missing_inputs.HOST.
_HOST = "host"
_SAVED = "removable"


def cost_looks(report: Report) -> Iterator[str]:
    """Yield one sentence per domain: what its removable fences cost, or how often they execute."""
    domains = report.columns.get("cost_domains")
    if domains is None:
        return
    for row in domains.rows():
        if row["part"] == _SAVED:
            yield f"d{row['domain']}: removable fences {_cost(row)}"
    checks = report.columns.get("cost_checks")
    if checks is not None:
        for domain in dict.fromkeys(checks["domain"][checks["agrees"] == "no"].tolist()):
            yield f"d{domain}: its counters, its sites and the trace contradict each other"


def _cost(row: Mapping[Any, Any]) -> str:
    low, hot_low, hot, high = (row[f"cost_{end}_ratio"] for end in ("low", "hot_low", "hot", "high"))
    if math.isnan(low):
        least, most = row["execution_low_per_s"], row["execution_high_per_s"]
        if math.isnan(most):
            return "need --calibration for a price, and no counts bound how often they execute"
        return f"execute {_rate(least, most)} times per second; --calibration gives their price"
    if row["bound"] == "time":
        return (
            f"cost at least {share_text(hot_low)} of its running time with hot caches (modelled): nothing "
            "bounds how often they execute"
        )
    if hot < high:
        return (
            f"cost {_range(hot_low, hot)} of its running time with hot caches, "
            f"{_range(low, high)} if caches miss (modelled)"
        )
    return f"cost {_range(low, high)} of its running time (modelled)"


def _range(low: float, high: float) -> str:
    """Return two shares as "0.03 to 0.4 %"."""
    first, second = share_text(low), share_text(high)
    return second if first == second else f"{first.removesuffix('%')} to {second}"


def _rate(least: float, most: float) -> str:
    first, second = f"{least:,.0f}", f"{most:,.0f}"
    return second if first == second else f"{first} to {second}"


def share_text(value: float) -> str:
    """Return a share as a percentage with two significant digits, such as 0.034%."""
    percent = 100 * value
    if percent == 0:
        return "0%"
    digits = max(1 - math.floor(math.log10(abs(percent))), 0)
    return f"{percent:.{min(digits, 9)}f}%"


def cost_needs(report: Report) -> Iterator[str]:
    """Yield one line per missing input of the cost, with how to get it."""
    needs = report.columns.get("cost_needs")
    if needs is None:
        return
    for row in needs.rows():
        whose = "" if row["about"] == _HOST else f"{row['about']}: "
        remedy = f"; {row['remedy']}" if row["remedy"] else ""
        yield f"{whose}{row['missing']}: {row['reason']}{remedy}"
