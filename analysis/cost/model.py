"""What do the fences of a guest's sites cost?  Executions times prices, as intervals.

For each domain with an image: how often its sites executed (executions), what a fence adds to one
execution (prices), and their product (bounded_sums): per site, per upcall and over the trace, as shares of
the domain's running time and of an upcall's time.  Sites are split into parts by verdict, so that what a
kernel without the removable fences saves is separate.  An interval without an upper bound ends at the
running time.  A least cost above the running time is a contradiction, which is named in place of its share.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from xtrace.analysis.cost.bounded_sums import greatest, least
from xtrace.analysis.cost.checks import checks, over_running_time, over_upcall_time
from xtrace.analysis.cost.close_sites import close_rows
from xtrace.analysis.cost.cross_checks.estimates import beside_trial, estimates
from xtrace.analysis.cost.cross_checks.image_fit import image_check
from xtrace.analysis.cost.cross_checks.implied_context import implied_context
from xtrace.analysis.cost.domain_cost import DomainCost, domain_cost
from xtrace.analysis.cost.domain_facts import domain_facts, pv_domains
from xtrace.analysis.cost.executions import Executions
from xtrace.analysis.cost.inputs import CostInputs
from xtrace.analysis.cost.missing_inputs import needs_of_domain, needs_of_host
from xtrace.analysis.cost.rows import (
    BOUND,
    CONTRADICTORY,
    USUAL,
    DomainRow,
    Estimate,
    EstimateRow,
    SiteRow,
    UpcallRow,
)
from xtrace.analysis.measures.kernel_samples import KernelSamples, records_by_function
from xtrace.analysis.measures.measures import Measures
from xtrace.analysis.summary.summary_head import COST_ENDS
from xtrace.probes.timing.calibration import Calibration
from xtrace.symbols.sites.execution_bounds import PARTS, part_of
from xtrace.symbols.sites.model import Fence, How, Site, Verdict

F64 = npt.NDArray[np.float64]

INF = float("inf")


def estimate(measures: Measures, samples: KernelSamples, inputs: CostInputs) -> Estimate:
    """Return the cost of the fences of all domains with an image."""
    found = Estimate()
    found.needs += needs_of_host(measures, inputs, pv_domains(measures))
    for kernel in inputs.kernels:
        facts = domain_facts(measures, kernel.domain)
        rates = inputs.rates.get(kernel.domain)
        if not facts.is_known or facts.is_hvm:
            found.needs += needs_of_domain(measures, inputs, facts, None)
            continue
        cost = domain_cost(measures, inputs, kernel, facts)
        parts = [part_of(site) for site in cost.paths.sites]
        of_upcalls = [_upcall_row(cost, part, parts) for part in PARTS if part in parts]
        of_time = [_domain_row(measures, cost, part, parts) for part in PARTS if part in parts]
        excess = over_running_time(facts, of_time, measures.hz)
        if excess:
            of_time = [_without_shares(row) for row in of_time]
        excess_of_upcalls = over_upcall_time(facts, of_upcalls, measures.hz)
        if excess_of_upcalls:
            of_upcalls = [replace(row, cost_low_ratio=np.nan, cost_high_ratio=np.nan) for row in of_upcalls]
        made = checks(facts, cost.paths, cost.executions, rates, measures.span_s)
        made += [*excess, *excess_of_upcalls, *image_check(samples, kernel)]
        found.checks += made
        found.needs += needs_of_domain(measures, inputs, facts, cost, made)
        found.estimates += estimates(
            measures, samples, kernel, inputs.unfenced.get(kernel.domain), of_upcalls, of_time
        )
        if kernel.domain in inputs.trials:
            found.estimates += _beside_trial(measures, inputs, cost, of_time)
        found.upcalls += of_upcalls
        found.domains += of_time
        shares = tuple(
            min(sum(row.cost_ratios[end] for row in of_time), 1.0) for end in range(len(COST_ENDS))
        )
        if not np.isnan(shares).any():
            found.shares[kernel.domain] = shares
        if cost.price is not None and inputs.calibration is not None:
            scale = _scale(measures, inputs.calibration)
            found.close += close_rows(kernel.domain, cost.paths, inputs.calibration, scale)
        records = records_by_function(samples, kernel.domain)
        found.sites += [
            _site_row(measures, cost, place, records) for place, part in enumerate(parts) if part is not None
        ]
    found.sites.sort(key=lambda row: -_sorted_by(row))
    return found


def _beside_trial(
    measures: Measures, inputs: CostInputs, cost: DomainCost, of_time: Sequence[DomainRow]
) -> list[EstimateRow]:
    domain = cost.facts.domain
    trial, implied = inputs.trials[domain], ""
    if inputs.calibration is not None:
        implied = implied_context(cost, trial, inputs.calibration, _scale(measures, inputs.calibration))
    return beside_trial(domain, trial, of_time, implied)


def _scale(measures: Measures, calibration: Calibration) -> float:
    """Return cycles of the trace's TSC per cycle of the calibration's."""
    return measures.hz / calibration.tsc_hz if measures.hz else 1.0


def _domain_row(
    measures: Measures, cost: DomainCost, part: Verdict, parts: Sequence[Verdict | None]
) -> DomainRow:
    mine = [item is part for item in parts]
    ones = np.ones((len(mine), 1))
    count_low, count_high = least(cost.executions, ones, mine), greatest(cost.executions, ones, mine)
    low, hot_low, hot, high = _added(cost, mine)
    ran, ran_most = cost.facts.running_cycles, cost.facts.running_most_cycles
    span = measures.span_s or np.nan
    return DomainRow(
        domain=cost.facts.domain,
        part=str(part),
        site_count=sum(mine),
        execution_low_count=count_low,
        execution_high_count=_or_nan(count_high),
        execution_low_per_s=count_low / span,
        execution_high_per_s=_or_nan(count_high) / span,
        cost_low_cycles=low,
        cost_hot_low_cycles=hot_low,
        cost_hot_cycles=_or_nan(min(hot, ran_most)),
        cost_high_cycles=_or_nan(min(high, ran_most)),
        cost_low_cycles_per_s=low / span,
        cost_high_cycles_per_s=_or_nan(min(high, ran_most)) / span,
        running_cycles=ran,
        cost_low_ratio=_ratio(low, ran_most),
        cost_hot_low_ratio=_ratio(hot_low, ran_most),
        cost_hot_ratio=_ratio(min(hot, ran), ran),
        cost_high_ratio=_ratio(min(high, ran), ran),
        most_is=BOUND if high > ran else USUAL,
    )


def _without_shares(row: DomainRow) -> DomainRow:
    """Return a row whose figures cannot be true, without the shares that they would be."""
    return replace(
        row,
        cost_low_ratio=np.nan,
        cost_hot_low_ratio=np.nan,
        cost_hot_ratio=np.nan,
        cost_high_ratio=np.nan,
        most_is=CONTRADICTORY,
    )


def _added(cost: DomainCost, mine: Sequence[bool]) -> tuple[float, float, float, float]:
    """Return the cycles added over the trace: least, least hot, greatest hot, greatest."""
    price, counts = cost.price, cost.executions
    if price is None:
        return np.nan, np.nan, np.nan, np.nan
    hot_low, hot = least(counts, price.hot_low, mine), greatest(counts, price.hot, mine)
    low, high = least(counts, price.low, mine), greatest(counts, price.high, mine)
    return min(low, hot_low), hot_low, hot, max(high, hot)


def _upcall_row(cost: DomainCost, part: Verdict, parts: Sequence[Verdict | None]) -> UpcallRow:
    mine = np.array([item is part for item in parts])
    low_count, high_count, why = _in_upcall(cost, part, mine)
    low, hot_low, hot, high = _in_upcall_cycles(cost, mine, low_count, high_count)
    shortest, longest = cost.facts.upcall_cycles
    whole = _added(cost, mine.tolist())
    fewest, most = cost.upcalls
    return UpcallRow(
        domain=cost.facts.domain,
        part=str(part),
        upcall_least_count=cost.upcalls[0],
        upcall_most_count=cost.upcalls[1],
        execution_least_count=low_count,
        execution_most_count=_or_nan(high_count),
        added_low_cycles=low,
        added_hot_low_cycles=hot_low,
        added_hot_cycles=_or_nan(min(hot, longest)),
        added_high_cycles=_or_nan(min(high, longest)),
        cost_low_ratio=_ratio(low, longest) if longest < INF else np.nan,
        cost_high_ratio=min(_ratio(min(high, longest), shortest), 1.0),
        all_low_cycles=_ratio(whole[0], most),
        all_high_cycles=_or_nan(_ratio(whole[3], fewest)),
        entry=cost.paths.entry,
        unbounded_by=why,
    )


def _in_upcall(cost: DomainCost, part: Verdict, mine: npt.NDArray[np.bool_]) -> tuple[float, float, str]:
    """Return the least and the most executions in one upcall, and why the most is unbounded if it is."""
    paths = cost.paths
    most, low, why = INF, 0.0, "the entry of the upcall is not known"
    if paths.upcall is not None and paths.parts is not None:
        place = PARTS.index(part)
        low = max(float(paths.parts.least[place]), float(paths.upcall.least[mine].sum()))
        most = min(float(paths.parts.most[place]), float(paths.upcall.most[mine].sum()))
        why = paths.parts.why[place]
    # The average upcall cannot have more than all executions divided by the upcalls.
    counted = greatest(cost.executions, np.ones((len(mine), 1)), mine.tolist())
    if cost.upcalls[0] > 0:
        most = min(most, counted / cost.upcalls[0])
    return min(low, most), most, why if most == INF else ""


def _in_upcall_cycles(
    cost: DomainCost, mine: npt.NDArray[np.bool_], low_count: float, high_count: float
) -> tuple[float, float, float, float]:
    """Return the cycles that an upcall's executions add, in the order of COST_ENDS.

    They are bounded by the counts of each site times its price, and by the total count times the extreme
    prices; the tighter bound counts.
    """
    price, upcall = cost.price, cost.paths.upcall
    if price is None:
        return np.nan, np.nan, np.nan, np.nan
    lows = []
    for values in (price.low, price.hot_low):
        ends = np.nan_to_num(price.interval(values[mine])[0])
        by_number = _least_product(low_count, high_count, float(ends.min()))
        if upcall is not None:
            counts = zip(upcall.least[mine].tolist(), upcall.most[mine].tolist(), ends.tolist(), strict=True)
            by_number = max(by_number, sum(_least_product(*item) for item in counts))
        lows.append(by_number)
    highs = []
    for values in (price.hot, price.high):
        ends = price.interval(values[mine])[1]
        ends = np.where(np.isnan(ends), INF, ends)
        most = _most_product(low_count, high_count, float(ends.max()))
        if upcall is not None:
            counts = zip(upcall.least[mine].tolist(), upcall.most[mine].tolist(), ends.tolist(), strict=True)
            most = min(most, sum(_most_product(*item) for item in counts))
        highs.append(most)
    return min(lows), lows[1], highs[0], max(highs)


def _least_product(low_count: float, high_count: float, price: float) -> float:
    """Return the least count times price; a price below 0 uses the high count if that is bounded."""
    return price * (high_count if price < 0 and high_count < INF else low_count)


def _most_product(low_count: float, high_count: float, price: float) -> float:
    """Return the greatest count times price."""
    return _product(high_count if price > 0 else low_count, price)


def _site_row(measures: Measures, cost: DomainCost, place: int, records: Mapping[str, int]) -> SiteRow:
    site, price, upcall = cost.paths.sites[place], cost.price, cost.paths.upcall
    mine = slice(place, place + 1)
    alone = Executions(cost.executions.low[mine], cost.executions.high[mine], [], [], ())
    low_count, high_count = float(alone.low[0]), float(alone.high[0])
    added = [np.nan] * len(COST_ENDS)
    total = [np.nan] * len(COST_ENDS)
    if price is not None:
        lows = [item[mine] for item in (price.low, price.hot_low)]
        highs = [item[mine] for item in (price.hot, price.high)]
        added = [float(price.interval(item)[0][0]) for item in lows]
        added += [float(price.interval(item)[1][0]) for item in highs]
        total = [least(alone, item, [True]) for item in lows]
        total += [greatest(alone, item, [True]) for item in highs]
        total = [min(item, cost.facts.running_most_cycles) for item in total]
    span = measures.span_s or np.nan
    return SiteRow(
        domain=cost.facts.domain,
        address=f"{site.address:#x}",
        place=_place(site),
        kind=str(site.kind),
        fence=fence_text(site),
        part=str(site.verdict),
        execution_low_count=low_count,
        execution_high_count=_or_nan(high_count),
        executions_quality=str(cost.executions.quality[place]),
        executions_rule=cost.executions.rule[place],
        execution_low_per_s=low_count / span,
        execution_high_per_s=_or_nan(high_count) / span,
        added_low_cycles=added[0],
        added_hot_low_cycles=added[1],
        added_hot_cycles=added[2],
        added_high_cycles=added[3],
        priced_by=price.source[place] if price else "",
        cost_low_cycles=total[0],
        cost_hot_low_cycles=total[1],
        cost_hot_cycles=_or_nan(total[2]),
        cost_high_cycles=_or_nan(total[3]),
        cost_low_ratio=_ratio(total[0], cost.facts.running_most_cycles),
        cost_high_ratio=_ratio(min(total[-1], cost.facts.running_cycles), cost.facts.running_cycles),
        upcall_least_count=float(upcall.least[place]) if upcall else np.nan,
        upcall_most_count=_or_nan(float(upcall.most[place])) if upcall else np.nan,
        record_count=records.get(site.symbol, 0),
    )


def fence_text(site: Site) -> str:
    """Return a site's fences in words, such as "lfence", "lfence call" or "mfence jump, lfence"."""
    return ", ".join(map(_fence, site.fences))


def _fence(fence: Fence) -> str:
    how = {How.INLINE: "", How.CALLEE: " call", How.TAIL_JUMP: " jump"}[fence.how]
    return f"{fence.mnemonic}{how}"


def _place(site: Site) -> str:
    return f"{site.symbol}+{site.offset:#x}" if site.symbol else f"{site.address:#x}"


def _sorted_by(row: SiteRow) -> float:
    values = (row.cost_high_cycles, row.execution_high_count, row.execution_low_count)
    return next((float(value) for value in values if not np.isnan(value)), 0.0)


def _product(count: float, value: float) -> float:
    # 0 even if the value is inf.
    return 0.0 if count == 0 else count * value


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole > 0 else np.nan


def _or_nan(value: float) -> float:
    return np.nan if np.isinf(value) else value
