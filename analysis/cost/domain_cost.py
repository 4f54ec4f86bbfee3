"""What the cost of one domain is computed from: upcalls, executions of its sites, prices of their fences."""

from __future__ import annotations

from dataclasses import dataclass

from xtrace.analysis.cost.domain_facts import DomainFacts
from xtrace.analysis.cost.executions import Executions, executions
from xtrace.analysis.cost.guest_counters import Rates
from xtrace.analysis.cost.inputs import CostInputs, CostKernel
from xtrace.analysis.cost.prices import Prices, prices
from xtrace.analysis.measures.measures import Measures
from xtrace.symbols.sites.execution_bounds import SitePaths


@dataclass(frozen=True, slots=True)
class DomainCost:
    """Everything that one domain's cost is computed from.

    Attributes:
        price: what the fences of each site add; None without a calibration that has figures.
        upcalls: the least and the most.
    """

    facts: DomainFacts
    kernel: CostKernel
    paths: SitePaths
    executions: Executions
    price: Prices | None
    upcalls: tuple[float, float]


def domain_cost(measures: Measures, inputs: CostInputs, kernel: CostKernel, facts: DomainFacts) -> DomainCost:
    """Return a domain's executions and prices."""
    rates = inputs.rates.get(kernel.domain)
    paths = kernel.paths(facts.never)
    calibration = inputs.calibration
    price = None
    if calibration is not None and any(row.median_cycles is not None for row in calibration.rows):
        price = prices(
            paths.sites,
            calibration,
            kernel.build_id,
            rates.contexts if rates else None,
            scale=measures.hz / calibration.tsc_hz if measures.hz else 1.0,
        )
    upcalls = _upcalls(facts, rates, measures.span_s)
    counts = executions(paths, upcalls[0], rates, measures.span_s, facts.calls)
    return DomainCost(facts, kernel, paths, counts, price, upcalls)


def _upcalls(facts: DomainFacts, rates: Rates | None, span_s: float | None) -> tuple[float, float]:
    """Return the least and the most upcalls.

    This is the guest's own count if it is within the trace's bounds.  Otherwise it is what both the trace and
    bpf's counts (dom0 only) allow, or the trace's bounds alone if the two contradict each other.
    """
    low, high = facts.upcalls
    factor = rates.over(span_s) if rates is not None else None
    if rates is not None and factor is not None and "upcall" in rates.counts:
        counted = rates.counts["upcall"] * factor
        if low <= counted <= high:
            return counted, counted
    if facts.upcalls_by_bpf is not None:
        least, most = max(low, facts.upcalls_by_bpf[0]), min(high, facts.upcalls_by_bpf[1])
        if least <= most:
            return least, most
    return float(low), float(high)
