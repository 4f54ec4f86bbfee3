"""What do executions times prices add up to, if only the sum of executions is known for some sites?

A sum over sites is least if the executions that are not fixed go to the cheapest sites, and greatest if
they go to the dearest.  This is computed for each draw of the prices; the interval runs from the low end of
the least to the high end of the greatest.
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

    Sites without a price (NaN) count as 0.  If a price was measured below 0 and the executions have no upper
    bound, the gain has none either: then the least executions count.
    """
    values = np.sort(-_greatest(executions, -price, mine, gain=True))
    return float(values[math.floor(TAILS[0] * (len(values) - 1))]) + 0.0


def greatest(executions: Executions, price: F64, mine: Sequence[bool]) -> float:
    """Return the high end; inf if it has no bound or if a site without a price may execute."""
    mask = np.asarray(mine, bool)
    unknown = np.isnan(price).any(axis=1) & mask & (executions.high > 0)
    if unknown.any():
        return float("inf")
    # No interpolation, because some draws may be inf.
    values = np.sort(_greatest(executions, price, mine))
    return float(values[math.ceil(TAILS[1] * (len(values) - 1))])


def _greatest(executions: Executions, price: F64, mine: Sequence[bool], *, gain: bool = False) -> F64:
    """Return the greatest sum of executions times price for each draw."""
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
        # At a price of 0 use the low count: inf * 0 would be NaN.
        total += np.where(value[place] > 0, high, low) * value[place]
    return total


def _of_group(executions: Executions, value: F64, group: Group) -> F64:
    """Return the greatest sum over the sites of a group, for each draw.

    Each site has at least its low count; the rest goes to the dearest sites first, up to the high count of
    each: up to the low end of the group's sum in any case, and up to its high end as long as prices are
    positive.
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
