"""Predict what the fences of a configuration cost, as `xtrace report` prints it: executions times prices.

The prediction uses nothing from the truth, and not the kind of work, which a trace does not have.  It uses
the sites that the finder found in the build, how often each executed (from the program's own counters,
exact), and a calibration of this host: of the standard sequences, or of the build itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np

from xtrace.analysis.cost.bounded_sums import greatest, least
from xtrace.analysis.cost.executions import Executions
from xtrace.analysis.cost.prices import prices
from xtrace.analysis.measures.table import Quality
from xtrace.probes.timing.calibration import CONTEXTS, Calibration
from xtrace.symbols.sites.model import Site

#: Contexts that were measured before the new ones, for comparison.
OLD_CONTEXTS = tuple(
    name for name in CONTEXTS if name != "alu_fresh_180" and not name.startswith(("nt_", "cold_"))
)


@dataclass(frozen=True, slots=True)
class Prediction:
    """Cycles that the fences of a configuration add to a round.

    Attributes:
        hot_low, hot_high: the likely range, while caches hit.
        low, high: what misses could make of it: least, and what it is usually below.
        source: "site" if a site was replayed as compiled, otherwise "standard".
    """

    low_cycles: float
    hot_low_cycles: float
    hot_high_cycles: float
    high_cycles: float
    source: str


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
    loops: Sequence[Sequence[Site]],
    build_id: str,
    counts: Sequence[float],
    known: Calibration,
    contexts: Collection[str] = CONTEXTS,
) -> list[Prediction]:
    """Return what the fences of each loop's sites add to a round; there were ``counts[0]`` rounds.

    Args:
        loops: the sites of each loop.
        build_id: of the program.
        counts: executions of each site of a loop.
        known: the calibration.
        contexts: only these of it.
    """
    asked = replace(known, rows=tuple(row for row in known.rows if row.context in contexts))
    sites = list({site.address: site for loop in loops for site in loop}.values())
    price = prices(sites, asked, build_id)
    if missing := [reason for reason in price.lacking if reason]:
        raise LookupError(missing[0])
    place_of = {site.address: place for place, site in enumerate(sites)}
    executed = np.array(counts, float)
    exact = Executions(executed, executed, [Quality.EXACT] * len(counts), ["counted"] * len(counts), ())
    mine = [True] * len(counts)
    rounds = float(executed[0])
    found = []
    for loop in loops:
        places = [place_of[site.address] for site in loop]
        lows = [least(exact, ends[places], mine) / rounds for ends in (price.low, price.hot_low)]
        highs = [greatest(exact, ends[places], mine) / rounds for ends in (price.hot, price.high)]
        source = "site" if any(price.source[place] == "site" for place in places) else "standard"
        found.append(Prediction(min(lows), lows[1], highs[0], max(highs), source))
    return found
