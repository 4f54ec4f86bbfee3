"""Which calibrated context would cost what a trial measured?  Where none would, one is missing.

A trial measures in place, so that its share, divided by the executions, is the price in the contexts that the
program really has.  Where that is outside the model's range, the contexts whose prices include it are named:
those are what the program waits for.

Known bias: one price for all sites; a mixture of contexts may look like one between them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xtrace.analysis.cost.domain_cost import DomainCost
from xtrace.analysis.cost.inputs import InPlace
from xtrace.analysis.cost.prices import known_fence
from xtrace.probes.timing.calibration import CONTEXTS, Calibration
from xtrace.symbols.sites.execution_bounds import part_of


def implied_context(cost: DomainCost, trial: InPlace, calibration: Calibration, scale: float) -> str:
    """Return what a trial's share is per execution, and in which contexts that is usual; "" if not known.

    Args:
        scale: cycles of the trace's TSC per cycle of the calibration's.
    """
    mine = [place for place, site in enumerate(cost.paths.sites) if part_of(site) in trial.parts]
    least, most = (float(ends[mine].sum()) for ends in (cost.executions.low, cost.executions.high))
    if not mine or not 0 < least <= most < np.inf:
        return ""
    low = trial.low_ratio * cost.facts.running_cycles / most
    high = trial.high_ratio * cost.facts.running_cycles / least
    fences = {known_fence(fence.mnemonic) for place in mine for fence in cost.paths.sites[place].fences}
    found = _contexts(calibration, fences, low / scale, high / scale)
    said = f"the trial's share is {low:,.0f} to {high:,.0f} cycles per execution"
    if found:
        return f"{said}, as in the contexts {', '.join(found)}"
    return f"{said}, as in no context that was calibrated: one is missing"


def _contexts(calibration: Calibration, fences: set[str], low: float, high: float) -> Sequence[str]:
    """Return the contexts in which fences cost from ``low`` to ``high`` or some of that."""
    ends: dict[str, tuple[float, float]] = {}
    for row in calibration.rows:
        if row.fence in fences and row.place in ("inline", "outofline"):
            if row.low_cycles is None or row.high_cycles is None:
                continue
            least, most = ends.get(row.context, (np.inf, -np.inf))
            ends[row.context] = min(least, row.low_cycles), max(most, row.high_cycles)
    return [
        context
        for context in CONTEXTS
        if context in ends and ends[context][0] <= high and low <= ends[context][1]
    ]
