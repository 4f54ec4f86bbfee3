"""Predict what the fences of a configuration cost, as xtrace does: executions times prices, as an interval.

The prediction uses nothing from the truth.  It uses the sites that the finder found in the build, how often
each executed (from the program's own counters, exact), and a calibration of this host.  If a calibrated
context is of the kind of the work, only such contexts count; otherwise it is only known that nothing misses
the caches, or not even that.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from program import HOT_WORKS

from xtrace.analysis.cost.bounded_sums import greatest, least
from xtrace.analysis.cost.executions import Executions
from xtrace.analysis.cost.prices import prices
from xtrace.analysis.measures.table import Quality
from xtrace.probes.timing.calibration import CONTEXTS, HOT_CONTEXTS, Calibration
from xtrace.symbols.sites.model import Site

_STORES = ("empty", "stores_8", "stores_40")
#: The contexts of each work's kind, without distinguishing the number of stores or the length of a chain.
KINDS = {
    "none": _STORES,
    "stores_8": _STORES,
    "stores_40": _STORES,
    "alu_60": ("alu_chain",),
    "alu_180": ("alu_chain",),
    "alu_fresh": ("alu_fresh",),
}


@dataclass(frozen=True, slots=True)
class Prediction:
    """Cycles that the fences of a configuration add to a round.

    Attributes:
        low, high: the interval.
        source: "site" if the sites were replayed as compiled, otherwise "standard".
    """

    low_cycles: float
    high_cycles: float
    source: str

    def holds(self, cycles: float) -> bool:
        """Return whether the interval contains a value."""
        return self.low_cycles <= cycles <= self.high_cycles


def known_contexts(work: str) -> tuple[str, ...]:
    """Return the contexts that may match a kind of work."""
    return KINDS.get(work, HOT_CONTEXTS if work in HOT_WORKS else CONTEXTS)


def merged(turns: Sequence[Calibration]) -> Calibration:
    """Merge calibrations of one host, made minutes apart: each row's interval spans those of all."""
    of_row = defaultdict(list)
    for turn in turns:
        for row in turn.rows:
            if row.median_cycles is not None:
                of_row[row.kind, row.fence, row.place, row.context, row.address].append(row)
    rows = tuple(
        replace(
            mine[0],
            median_cycles=float(np.median([row.median_cycles for row in mine])),
            low_cycles=min(row.low_cycles for row in mine),
            high_cycles=max(row.high_cycles for row in mine),
        )
        for mine in of_row.values()
    )
    return replace(turns[0], rows=rows)


def predict(
    sites: Sequence[Site], build_id: str, counts: Sequence[float], contexts: Sequence[str], known: Calibration
) -> Prediction:
    """Return what the fences of ``sites`` add to a round; there were ``counts[0]`` rounds.

    Args:
        sites: the loop's sites.
        build_id: of the program.
        counts: executions of each site.
        contexts: contexts that the sites may be in.
        known: the calibration.
    """
    of_kind = replace(known, rows=tuple(row for row in known.rows if row.context in contexts))
    price = prices(sites, of_kind, build_id)
    if missing := [reason for reason in price.lacking if reason]:
        raise LookupError(missing[0])
    executed = np.array(counts, float)
    exact = Executions(executed, executed, [Quality.EXACT] * len(sites), ["counted"] * len(sites), ())
    mine = [True] * len(sites)
    rounds = float(executed[0])
    low, high = least(exact, price.low, mine), greatest(exact, price.high, mine)
    return Prediction(low / rounds, high / rounds, price.source[0])
