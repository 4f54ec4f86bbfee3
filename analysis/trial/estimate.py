"""What an arm changes, from slices of a program that ran with one arm's bytes each.

Question: by which share of its running time does a unit of work get cheaper when the bytes of an arm are in
place?

A block holds one slice of each arm, in random order.  The outcome of a slice is its rate, units per running
time, because the mean of rates over slices of equal length is the rate of the whole; the mean of times per
unit is not.  Rates are divided by the mean rate of the slices as they were, and an arm's difference to the
same block's control removes what changes slower than a block.  Covariates of the slices (other counters per
unit, the length of the slice) are removed by regression.  Consecutive blocks are a cluster, so that
what lasts over several blocks widens the interval.

Known bias: differences far outside the others (interrupts, a processor taken away) are clipped at
``CLIP_IQRS`` interquartile ranges; how many were is in the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats
from statsmodels.regression.linear_model import OLS

from xtrace.analysis.trial.result import Interval
from xtrace.analysis.trial.sequential import critical_t

F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]

CLIP_IQRS = 8.0
LEAST_BLOCKS = 24
_MOST_CLUSTERS = 64
_RESAMPLES = 9_999
#: A covariate that hardly varies is none.
_LEAST_SPREAD = 1e-9
AS_IS, AGAIN = 0, 1


@dataclass(frozen=True, slots=True)
class Slices:
    """Slices by block and arm: shape (blocks, arms), and (blocks, arms, covariates).

    Arm 0 is the program as it is, arm 1 the same again (A/A); the others have other bytes.  What is early is
    the first half of each slice; 0 where a slice was not read in its middle.
    """

    units: F64
    running_ns: F64
    early_units: F64
    early_ns: F64
    covariates: F64


@dataclass(frozen=True, slots=True)
class Effect:
    """What one arm changes.

    Attributes:
        saved_ratio: share of the running time per unit that the arm saves.
        p: of the randomisation test: how often differences with signs drawn at random are as large.
        clipped_count: differences that were clipped.
        raw_half: the half-width without the regression on covariates.
    """

    saved_ratio: Interval
    p: float
    clipped_count: int
    raw_half: float


def unit_ns(slices: Slices, arm: int) -> Interval:
    """Return the running time per unit in one arm, all its slices together."""
    units, running = slices.units[:, arm], slices.running_ns[:, arm]
    labels = _clusters(len(units))
    groups = int(labels[-1]) + 1
    u, t = (np.bincount(labels, column, groups) for column in (units, running))
    value = float(t.sum() / u.sum())
    spread = (t - value * u) / u.mean()
    half = critical_t(groups - 1) * float(spread.std(ddof=1)) / np.sqrt(groups)
    return Interval(value, value - half, value + half)


def added_ns(slices: Slices, doses: Mapping[int, int]) -> Interval:
    """Return the running time per unit that each more fence takes: the slope through the program as it is.

    The interval is from the jackknife over clusters.

    Args:
        doses: how many more fences an arm has.
    """
    labels = _clusters(len(slices.units))
    groups = int(labels[-1]) + 1
    units, ran = (
        np.column_stack([np.bincount(labels, column, groups) for column in columns.T])
        for columns in (slices.units, slices.running_ns)
    )
    counts = np.array(list(doses.values()), float)

    def slope(kept: npt.NDArray[np.bool_]) -> float:
        u, t = units[kept].sum(axis=0), ran[kept].sum(axis=0)
        base = t[[AS_IS, AGAIN]].sum() / u[[AS_IS, AGAIN]].sum()
        more = np.array([t[arm] / u[arm] - base for arm in doses])
        return float((counts * more).sum() / (counts**2).sum())

    every = np.arange(groups)
    without = np.array([slope(every != left_out) for left_out in range(groups)])
    error = float(np.sqrt((groups - 1) / groups * ((without - without.mean()) ** 2).sum()))
    value, half = slope(every >= 0), critical_t(groups - 1) * error
    return Interval(value, value - half, value + half)


def effect(slices: Slices, arm: int, seed: int) -> Effect:
    """Return what ``arm`` changes, compared with the slices of the same blocks as they were.

    Args:
        arm: AGAIN compares with arm 0, any other with the mean of arms 0 and 1.
        seed: of the randomisation test.
    """
    rates = slices.units / slices.running_ns
    base = float(slices.units[:, AS_IS].sum() / slices.running_ns[:, AS_IS].sum())
    scaled = rates / base
    controls = [AS_IS] if arm == AGAIN else [AS_IS, AGAIN]
    differences = scaled[:, arm] - scaled[:, controls].mean(axis=1)
    covariates = slices.covariates[:, arm] - slices.covariates[:, controls].mean(axis=1)
    clipped, count = _clipped(differences)
    labels = _clusters(len(clipped))
    raw = _fit(clipped, covariates[:, :0], labels)
    adjusted = _fit(clipped, covariates, labels) if covariates.shape[1] else raw
    # The control's own rate, relative to arm 0's: the scale of the differences.
    control = float(scaled[:, controls].mean())
    return Effect(
        _extended(_saved(adjusted, control), carry_over(slices, arm)),
        _random_p(scaled, arm, labels, seed),
        count,
        _saved(raw, control).half,
    )


def carry_over(slices: Slices, arm: int) -> Interval:
    """Return how much more an arm saves in the second half of its slices than in the first.

    A slice begins with what the slice before left in the caches, which another arm may have had.  If that
    still weighs where a slice begins to count, it weighs less in its second half.  The arms' order is random,
    so without it the halves differ by chance only.  Shares of the running time, linearised at the mean rates.
    """
    halved = (slices.early_ns > 0).all(axis=1) & (slices.running_ns > slices.early_ns).all(axis=1)
    if np.count_nonzero(halved) < LEAST_BLOCKS:
        return Interval(0.0, -1.0, 1.0)
    units, ran = slices.units[halved], slices.running_ns[halved]
    early_units, early_ns = slices.early_units[halved], slices.early_ns[halved]
    change = (units - early_units) / (ran - early_ns) - early_units / early_ns
    rates = units.sum(axis=0) / ran.sum(axis=0)
    controls = [AS_IS, AGAIN] if arm != AGAIN else [AS_IS]
    control = float(rates[controls].mean())
    more = control * change[:, arm] / rates[arm] ** 2 - change[:, controls].mean(axis=1) / rates[arm]
    clipped, _ = _clipped(more)
    return _fit(clipped, slices.covariates[halved][:, arm, :0], _clusters(len(clipped)))


def _extended(saved: Interval, carried: Interval) -> Interval:
    """Return an interval that also contains where a figure that still moves within a slice may end.

    What is left of the slice before decays.  With a time constant of up to 0.7 slices, so that the halves are
    seen to differ, the way to the end is at most twice their difference.
    """
    if carried.low > 0:
        return Interval(saved.value, saved.low, saved.high + 2 * carried.high)
    if carried.high < 0:
        return Interval(saved.value, saved.low + 2 * carried.low, saved.high)
    return saved


def blocks_needed(found: Interval, precision: float, blocks: int) -> int:
    """Return with how many blocks the half-width would be ``precision``, at the present spread."""
    return int(np.ceil(blocks * max(found.half / precision, 0.0) ** 2))


def _saved(difference: Interval, control: float) -> Interval:
    """Return the share saved of a rate that is higher by ``difference``: 1 - old time / new time."""
    value, low, high = (
        1 - control / (control + max(end, -0.99 * control))
        for end in (difference.value, difference.low, difference.high)
    )
    return Interval(value, low, high)


def _clipped(differences: F64) -> tuple[F64, int]:
    low, middle, high = np.quantile(differences, (0.25, 0.5, 0.75))
    reach = CLIP_IQRS * (high - low)
    clipped = np.clip(differences, middle - reach, middle + reach)
    return clipped, int(np.count_nonzero(clipped != differences))


def _clusters(blocks: int) -> I64:
    """Return which cluster each block belongs to: consecutive ones, about the root of their number each."""
    count = int(min(max(np.sqrt(blocks) * 2, 8), _MOST_CLUSTERS, blocks))
    return np.arange(blocks) * count // blocks


def _fit(differences: F64, covariates: F64, labels: I64) -> Interval:
    """Return the mean difference, covariates held equal, with its interval."""
    groups = int(labels[-1]) + 1
    kept = covariates[:, covariates.std(axis=0) > _LEAST_SPREAD]
    # Each column by its own size, so that one far larger than the others does no harm.
    kept = kept / np.maximum(np.abs(kept).max(axis=0, initial=0.0), _LEAST_SPREAD)
    design = np.column_stack([np.ones(len(differences)), kept])
    fit = OLS(differences, design).fit(cov_type="cluster", cov_kwds={"groups": labels}, use_t=True)
    value, error = float(fit.params[0]), float(fit.bse[0])
    half = critical_t(groups - 1) * error
    return Interval(value, value - half, value + half)


def _random_p(scaled: F64, arm: int, labels: I64, seed: int) -> float:
    """Return the two-sided p of the randomisation test: the labels of arm and control exchanged by cluster.

    Which of two slices of a block had which arm was drawn, so without an effect exchanging them changes
    nothing, whatever the distribution.
    """
    groups = int(labels[-1]) + 1
    clipped, _ = _clipped(scaled[:, arm] - scaled[:, AS_IS])
    sums = np.bincount(labels, clipped, groups)
    found = stats.permutation_test(
        (sums,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=_RESAMPLES,
        rng=np.random.default_rng(seed),
    )
    return float(found.pvalue)
