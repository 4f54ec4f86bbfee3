"""What do executions times prices come to, when of some sites only the sum of executions is known?

A sum over sites is least when the executions that are free go to the cheapest sites, greatest when they
go to the dearest.  That is done for each draw of the prices; the interval is from the low end of the
least to the high end of the greatest.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from xtrace.analysis.cost.executions import Executions, Group
from xtrace.analysis.cost.prices import TAILS

F64 = npt.NDArray[np.float64]


def least(executions: Executions, price: F64, mine: Sequence[bool]) -> float:
    """Return the low end of what the sites of ``mine`` cost at ``price`` [sites, draws].

    Sites without a price (NaN) are taken to cost nothing.  Where a price was measured below 0, what does
    not bound the executions does not bound that gain either: the least executions count.
    """
    values = np.sort(-_greatest(executions, -price, mine, gain=True))
    return float(values[math.floor(TAILS[0] * (len(values) - 1))]) + 0.0


def greatest(executions: Executions, price: F64, mine: Sequence[bool]) -> float:
    """Return the high end; inf where nothing bounds it, also for a site without a price that may execute."""
    mask = np.asarray(mine, bool)
    unknown = np.isnan(price).any(axis=1) & mask & (executions.high > 0)
    if unknown.any():
        return float("inf")
    # No interpolation: some draws may have no bound.
    values = np.sort(_greatest(executions, price, mine))
    return float(values[math.ceil(TAILS[1] * (len(values) - 1))])


def _greatest(executions: Executions, price: F64, mine: Sequence[bool], *, gain: bool = False) -> F64:
    """Return the greatest sum of executions x price for each draw."""
    value = np.where(np.asarray(mine, bool)[:, None], np.nan_to_num(price), 0.0)
    total = np.zeros(price.shape[1])
    grouped = {place for group in executions.groups for place in group.members}
    for group in executions.groups:
        total += _of_group(executions, value, group)
    for place in range(len(value)):
        if place in grouped or not value[place].any():
            continue
        low, high = executions.low[place], executions.high[place]
        if gain and high == np.inf:
            high = low
        # Of what is free the least count: no bound times nothing is no number.
        total += np.where(value[place] > 0, high, low) * value[place]
    return total


def _of_group(executions: Executions, value: F64, group: Group) -> F64:
    """Return the greatest sum over sites whose executions add up to what is known.

    Each has its least; what is left goes to the dearest sites first, as much as each may have: up to
    the low end of the sum in any case, up to its high end while that adds something.
    """
    members = list(group.members)
    low, high = executions.low[members], executions.high[members]
    prices = value[members]
    base = low @ prices
    order = np.argsort(-prices, axis=0, kind="stable")
    room = (high - low)[order]
    dearest = np.take_along_axis(prices, order, axis=0)
    before = np.vstack([np.zeros((1, room.shape[1])), np.cumsum(room, axis=0)[:-1]])
    must, may = group.low - float(low.sum()), group.high - float(low.sum())
    to_must = np.clip(must - before, 0.0, room)
    to_may = np.clip(may - before, 0.0, room)
    taken = np.where(dearest > 0, to_may, to_must)
    result: F64 = base + (taken * dearest).sum(axis=0)
    return result
