"""Do a guest's counters, its sites and the trace agree?  In dom0, do bpf's counts agree too?

Forced callbacks, blocks, yields and upcalls are in the trace: the guest's own counts of them over the same
time must be the same, and sites whose pending test leads to a forced callback must execute at least
as often as callbacks were forced.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xtrace.analysis.cost.domain_facts import DomainFacts
from xtrace.analysis.cost.executions import TOLERANCE_COUNT, TOLERANCE_RATIO, Executions
from xtrace.analysis.cost.guest_counters import Rates
from xtrace.analysis.cost.rows import RUNNING_TIME, UPCALL_TIME, CheckRow, DomainRow, UpcallRow
from xtrace.probes.words import time_text
from xtrace.symbols.sites.execution_bounds import SitePaths
from xtrace.symbols.sites.model import Kind

#: A kernel queries Xen's version a few times with the same hypercall that forces callbacks.
VERSION_QUERIES = 16
#: ``what`` of a check against bpf's counts in dom0.
UPCALLS_BY_BPF = "upcall by bpf"


def checks(
    facts: DomainFacts,
    paths: SitePaths,
    executions: Executions,
    rates: Rates | None,
    span_s: float | None,
) -> list[CheckRow]:
    """Return a row for each comparison, with ``agrees`` yes or no."""
    found = [_row(facts.domain, "sites", text, None, None, False) for text in executions.conflicts]
    found += _by_bpf(facts, rates, span_s)
    factor = rates.over(span_s) if rates is not None else None
    forced = max(facts.xen_version_count - VERSION_QUERIES, 0)
    if rates is not None and factor is not None:
        traced = {
            "upcall": (facts.upcalls, "upcalls: those after a block (least), plus all open irets (most)"),
            "force_callback": (
                (forced, facts.xen_version_count),
                "xen_version hypercalls, except a few that query the version",
            ),
            "pending_found": (
                (forced, facts.xen_version_count),
                "xen_version hypercalls, one for each pending event that a restore or unmask found",
            ),
            "block": ((facts.block_count,) * 2, "block hypercalls"),
            "yield": ((facts.yield_count,) * 2, "yield hypercalls"),
        }
        for name, (bounds, meaning) in traced.items():
            if name in rates.counts:
                counted = rates.counts[name] * factor
                agrees = _agree(counted, bounds, rates.seconds is not None)
                if not agrees:
                    meaning = f"{counted:,.0f} {name} counted, {_between(bounds)} traced: {meaning}"
                found.append(_row(facts.domain, name, meaning, counted, bounds, agrees))
    openings = [
        place
        for place, site in enumerate(paths.sites)
        if site.kind in (Kind.RESTORE, Kind.UNMASK) and site.callbacks
    ]
    most = float(executions.high[openings].sum()) if openings else np.inf
    if np.isfinite(most):
        agrees = forced <= most * (1 + TOLERANCE_RATIO) + TOLERANCE_COUNT
        meaning = f"at most {most:,.0f} restores and unmasks, but at least {forced:,} forced callbacks"
        if agrees:
            meaning = "most restores and unmasks; each forced callback in the trace follows one"
        found.append(_row(facts.domain, "restore, unmask", meaning, most, (forced, np.inf), agrees))
    return found


def over_running_time(facts: DomainFacts, rows: Sequence[DomainRow], hz: float | None) -> list[CheckRow]:
    """Return a failed check if even the least cost with hot caches is more than the domain ran."""
    cost = sum(row.cost_hot_low_cycles for row in rows)
    most = facts.running_most_cycles
    # NaN, without a price, is not more.
    if not cost > most:
        return []
    times = cost / most if most > 0 else np.inf
    over = f"{times:,.0f} times as long as" if 2 <= times < np.inf else "longer than"
    meaning = (
        f"by the counts its fences take {time_text(cost, hz)} at least, "
        f"{over} it ran ({time_text(most, hz)}): "
        "the counts are of another time, domain or image, or the calibration is of another host"
    )
    return [_row(facts.domain, RUNNING_TIME, meaning, None, None, False)]


def over_upcall_time(facts: DomainFacts, rows: Sequence[UpcallRow], hz: float | None) -> list[CheckRow]:
    """Return a failed check if even the least cost of an upcall with hot caches is more than it lasts."""
    cost = sum(row.added_hot_low_cycles for row in rows)
    longest = facts.upcall_cycles[1]
    if not cost > longest:
        return []
    meaning = (
        f"the fences on the shortest path of an upcall take {time_text(cost, hz)} at least, but upcalls last "
        f"{time_text(longest, hz)} at most on average: the image or the calibration is another one's"
    )
    return [_row(facts.domain, UPCALL_TIME, meaning, None, None, False)]


def _by_bpf(facts: DomainFacts, rates: Rates | None, span_s: float | None) -> list[CheckRow]:
    """Compare bpf's upcalls in the traced time with the trace, and with the guest's own counter if given.

    Both sides are intervals.  They agree if they overlap, with some slack because events may be counted
    earlier or later.
    """
    if facts.upcalls_by_bpf is None:
        return []
    low, high = facts.upcalls_by_bpf
    known: dict[str, tuple[float, float]] = {
        "traced: those after a block (least), plus all open irets (most)": facts.upcalls
    }
    factor = rates.over(span_s) if rates is not None else None
    if rates is not None and factor is not None and "upcall" in rates.counts:
        counted = rates.counts["upcall"] * factor
        slack = _slack(counted, rates.seconds is not None)
        known["by the domain's own counter"] = (max(counted - slack, 0.0), counted + slack)
    found = []
    for what, bounds in known.items():
        agrees = low <= bounds[1] + _slack(bounds[1], False) and bounds[0] <= high + _slack(high, False)
        meaning = f"{_between((low, high))} upcalls counted by bpf, {_between(bounds)} {what}"
        found.append(_row(facts.domain, UPCALLS_BY_BPF, meaning, low, bounds, agrees))
    return found


def _slack(count: float, sampled: bool) -> float:
    # Sampled counts come from another period of the same length, which has only about as many.
    return count * TOLERANCE_RATIO + TOLERANCE_COUNT + (3 * np.sqrt(2 * count) if sampled else 0.0)


def _agree(counted: float, bounds: tuple[float, float], sampled: bool) -> bool:
    slack = _slack(counted, sampled)
    return bool(bounds[0] - slack <= counted <= bounds[1] + slack)


def _between(bounds: tuple[float, float]) -> str:
    if np.isinf(bounds[1]):
        return f"{bounds[0]:,.0f} or more"
    low, high = (f"{bound:,.0f}" for bound in bounds)
    return low if low == high else f"{low} to {high}"


def _row(
    domain: int,
    what: str,
    meaning: str,
    counted: float | None,
    traced: tuple[float, float] | None,
    agrees: bool,
) -> CheckRow:
    low, high = traced or (np.nan, np.nan)
    return CheckRow(
        domain=domain,
        what=what,
        meaning=meaning,
        counted_count=np.nan if counted is None else counted,
        traced_low_count=low,
        traced_high_count=np.nan if np.isinf(high) else high,
        agrees="yes" if agrees else "no",
    )
