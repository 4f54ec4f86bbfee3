"""What fences cost that a guest's kernel does not need."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from xtrace.analysis.findings.evidence import Evidence, Figure
from xtrace.analysis.findings.finding import Found, Rule
from xtrace.analysis.measures.table import Quality
from xtrace.probes.words import share_text

_PROBLEM_RATIO = 0.01
_SAVED = "removable"
_ENDS = ("low", "hot_low", "hot", "high")


def find_cost(evidence: Evidence) -> Iterator[Found]:
    """Yield domains with fences that can be removed: what these cost, or how often they execute."""
    domains = evidence.costs.get("cost_domains")
    if domains is None:
        return
    for row in domains.rows():
        if row["part"] != _SAVED:
            continue
        least = 0.0 if math.isnan(row["cost_hot_low_ratio"]) else row["cost_hot_low_ratio"]
        yield Found(
            is_problem=least >= _PROBLEM_RATIO,
            sentence=f"d{row['domain']}: removable fences {_cost(row)}",
            figures=(
                Figure("execution_low_count", row["execution_low_count"], Quality.BOUNDED),
                *(
                    Figure(f"cost_{end}_ratio", row[f"cost_{end}_ratio"], Quality.MODELLED)
                    for end in _ENDS
                    if not math.isnan(row[f"cost_{end}_ratio"])
                ),
            ),
            # Where nothing counts the executions, there may be some.
            concerned_count=max(int(row["execution_low_count"]), int(row["site_count"])),
            concerned_cycles=round(least * evidence.measures.span_cycles),
            domain=row["domain"],
        )


def find_contradiction(evidence: Evidence) -> Iterator[Found]:
    """Yield domains whose counters, sites and trace cannot all be right."""
    yield from _against_trials(evidence)
    checks = evidence.costs.get("cost_checks")
    if checks is None:
        return
    failed = checks.where(checks["agrees"] == "no")
    for domain in dict.fromkeys(failed["domain"].tolist()):
        count = int((failed["domain"] == domain).sum())
        yield Found(
            is_problem=True,
            sentence=f"d{domain}: its counters, its sites and the trace contradict each other",
            figures=(Figure("contradiction_count", count, Quality.EXACT),),
            concerned_count=count,
            domain=domain,
        )


def _against_trials(evidence: Evidence) -> Iterator[Found]:
    """Yield domains for which the model and a trial, which measured in place, have intervals apart."""
    compared = evidence.costs.get("cost_estimates")
    if compared is None:
        return
    for row in compared.rows():
        if row["estimate"] != "trial" or row["agrees"] in ("overlap", "-"):
            continue
        ends = row["cost_low_ratio"], row["cost_high_ratio"]
        yield Found(
            is_problem=True,
            sentence=f"d{row['domain']}: a trial measured {_range(*ends)} of its running time in place, and "
            f"{row['agrees']}: believe the trial, if it had the same load",
            figures=tuple(
                Figure(f"cost_{end}_ratio", value, Quality.EXACT)
                for end, value in zip(("low", "high"), ends, strict=True)
            ),
            concerned_count=1,
            domain=row["domain"],
        )


def _cost(row: Mapping[Any, Any]) -> str:
    low, hot_low, hot, high = (row[f"cost_{end}_ratio"] for end in _ENDS)
    if math.isnan(low):
        least, most = row["execution_low_per_s"], row["execution_high_per_s"]
        if math.isnan(most):
            return "need --calibration for a price, and no counts bound how often they execute"
        return f"execute {_rate(least, most)} times per second; --calibration gives their price"
    if row["bound"] == "time":
        return (
            f"cost at least {share_text(hot_low)} of its running time with hot caches: nothing "
            "bounds how often they execute"
        )
    if hot < high:
        return (
            f"cost {_range(hot_low, hot)} of its running time with hot caches, "
            f"{_range(low, high)} if caches miss"
        )
    return f"cost {_range(low, high)} of its running time"


def _range(low: float, high: float) -> str:
    """Return two shares as "0.03 to 0.4 %"."""
    first, second = share_text(low), share_text(high)
    return second if first == second else f"{first.removesuffix('%')} to {second}"


def _rate(least: float, most: float) -> str:
    first, second = f"{least:,.0f}", f"{most:,.0f}"
    return second if first == second else f"{first} to {second}"


COST = Rule(
    "removable-fences",
    "fences of a guest's kernel that can be removed",
    "there is one",
    "they cost 1 % or more of the domain's running time, even with hot caches",
    "none",
    "a kernel built without them",
    find_cost,
    command="--section cost",
)
CONTRADICTION = Rule(
    "cost-contradiction",
    "whether the inputs of the cost agree",
    "",
    "the guest's counters, its sites and the trace contradict each other, or the model and a trial do",
    "none",
    "captures of one kernel under one load",
    find_contradiction,
    command="--section cost",
)
