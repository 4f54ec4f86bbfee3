"""What fences cost that a guest's kernel does not need."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from xtrace.analysis.cost.rows import BOUND, CONTRADICTORY, IMAGE, RUNNING_TIME, UPCALL_TIME
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
    trials = _trials(evidence)
    for row in domains.rows():
        if row["part"] != _SAVED:
            continue
        if row["most_is"] == CONTRADICTORY:
            continue
        least = 0.0 if math.isnan(row["cost_hot_low_ratio"]) else row["cost_hot_low_ratio"]
        measured = trials.get(row["domain"])
        said = f"d{row['domain']}: removable fences {_cost(row)}"
        if measured is not None:
            least = measured[0]
            said = (
                f"d{row['domain']}: a trial measured {_range(*measured)} of its running time in place; {said}"
            )
        yield Found(
            is_problem=least >= _PROBLEM_RATIO,
            sentence=said,
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


def _trials(evidence: Evidence) -> dict[int, tuple[float, float]]:
    """Return the interval that a trial measured, by domain: it leads."""
    compared = evidence.costs.get("cost_estimates")
    if compared is None:
        return {}
    return {
        row["domain"]: (row["cost_low_ratio"], row["cost_high_ratio"])
        for row in compared.rows()
        if row["estimate"] == "trial"
    }


def find_contradiction(evidence: Evidence) -> Iterator[Found]:
    """Yield domains whose counters, sites and trace cannot all be right."""
    yield from _against_trials(evidence)
    checks = evidence.costs.get("cost_checks")
    if checks is None:
        return
    failed = checks.where(checks["agrees"] == "no")
    impossible = np.isin(failed["what"].astype(str), (RUNNING_TIME, UPCALL_TIME, IMAGE))
    for row in failed.where(impossible).rows():
        yield Found(
            is_problem=True,
            sentence=f"d{row['domain']}: contradiction: {row['meaning']}",
            figures=(Figure("contradiction_count", 1, Quality.EXACT),),
            concerned_count=1,
            domain=row["domain"],
        )
    failed = failed.where(~impossible)
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
    rows = compared.rows()
    # The model's row follows the trial's, and says what the trial's share is per execution.
    for row, model in itertools.pairwise(rows):
        if row["estimate"] != "trial" or row["agrees"] in ("overlap", "-"):
            continue
        _, _, implied = model["basis"].partition("; ")
        ends = row["cost_low_ratio"], row["cost_high_ratio"]
        yield Found(
            is_problem=True,
            sentence=f"d{row['domain']}: a trial measured {_range(*ends)} of its running time in place, and "
            f"{row['agrees']}: believe the trial, if it had the same load{f'; {implied}' if implied else ''}",
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
    if math.isnan(high):
        return "cost a share of its running time that is not known: the trace does not show that it ran"
    if row["most_is"] == BOUND and hot >= high:
        return (
            f"cost at least {share_text(hot_low)} of its running time while caches hit: nothing "
            "bounds how often they execute"
        )
    likely = f"likely cost {_range(hot_low, hot)} of its running time, while caches hit"
    if (low, high) == (hot_low, hot):
        return likely
    most = f"at most {share_text(high)}" if row["most_is"] == BOUND else f"usually below {share_text(high)}"
    return f"{likely}; where memory is missed, {share_text(low)} to {most}"


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
    "the guest's counters, its sites and the trace contradict each other, the cost is above the running "
    "time, the image is not the kernel that ran, or the model and a trial disagree",
    "none",
    "captures of one kernel under one load",
    find_contradiction,
    command="--section cost",
)
