"""What xtrace says the fences of a configuration cost: executions times prices, as an interval.

Of the truth nothing comes in here.  Three things do: the sites that the finder found in the build, how
often each executed (the program's own counters, exact), and a calibration of this host.  What is
in flight at the sites is known in kind where a calibrated context is of that kind, else only that nothing
misses the caches, or not even that.
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
#: By work: the contexts of its kind, how many stores or how long a chain not told.
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
        source: "site" where the sites were replayed as compiled, else "standard".
    """

    low_cycles: float
    high_cycles: float
    source: str

    def holds(self, cycles: float) -> bool:
        """Tell whether the interval contains a value."""
        return self.low_cycles <= cycles <= self.high_cycles


def known_contexts(work: str) -> tuple[str, ...]:
    """Return the contexts that a kind of work may be."""
    return KINDS.get(work, HOT_CONTEXTS if work in HOT_WORKS else CONTEXTS)


def merged(turns: Sequence[Calibration]) -> Calibration:
    """Return calibrations of one host, minutes apart, as one: each row spans those of all."""
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
    """Return what the fences of ``sites`` add to a round, of which there were ``counts[0]``.

    Args:
        counts: executions of each site.
        contexts: those that the sites may be in.
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
