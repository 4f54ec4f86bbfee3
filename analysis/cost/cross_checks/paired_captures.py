"""How much longer does a kernel with fences take than one without, measured in captures of both?

A second estimate, independent of sites and calibration: the same load is captured with a fenced and with
an unfenced kernel.  Two figures: the mean time of an upcall, from the histograms of one capture of each,
and the running time of the domain per upcall, from repetitions.

Known bias: only upcalls after a block have a time.  Any other difference between the captures (load,
placement, the rest of the kernel) is attributed to the fences.  Upcalls vary by more than the fences cost,
so the interval of the difference of means is wide; it is valid only if the loads are the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xtrace.analysis.comparison.rank_test import shift
from xtrace.analysis.cost.domain_facts import domain_facts
from xtrace.analysis.measures.lookup import of_domain
from xtrace.analysis.measures.measures import Measures
from xtrace.analysis.state_machine.metrics import Metric
from xtrace.analysis.summary import clock
from xtrace.analysis.summary.histogram import bucket_bounds
from xtrace.analysis.summary.partial import Partial
from xtrace.analysis.summary.versions import detected

F64 = npt.NDArray[np.float64]

_SIGMAS = 1.96
#: With fewer upcalls the means are not worth comparing.
_FEWEST = 30


@dataclass(frozen=True, slots=True)
class Difference:
    """How much longer the fenced kernel took, in cycles of the fenced captures' TSC.

    Attributes:
        low, high: ends of the 95 % interval; NaN if too little was captured.
        fenced_count, plain_count: upcalls, or repetitions, that it is based on.
        basis: what was compared, or why nothing was.
    """

    low: float
    high: float
    fenced_count: int
    plain_count: int
    basis: str


def measures_of(partial: Partial, hz: float | None) -> Measures:
    """Return another capture's measures; if ``hz`` is None, the TSC rate is estimated from its records."""
    rate = None if hz else clock.estimate(partial.pairs)
    return Measures(partial, detected(partial.records).range, hz or (rate.hz if rate else None))


def upcall_difference(fenced: Measures, plain: Measures, domain: int, other: int) -> Difference:
    """Return how much longer an upcall of ``domain`` takes than one of ``other`` in the unfenced capture.

    Each capture bounds the time of an upcall on both sides; the interval covers both differences.
    """
    scale = fenced.hz / plain.hz if fenced.hz and plain.hz else 1.0
    ends: list[float] = []
    counts = (0, 0)
    for metric in (Metric.UPCALL_MIN, Metric.UPCALL_MAX):
        mine, theirs = _moments(fenced, metric, domain), _moments(plain, metric, other)
        counts = mine[0], theirs[0]
        if min(counts) < _FEWEST:
            text = f"fewer than {_FEWEST} upcalls after a block: {counts[0]} with fences, {counts[1]} without"
            return Difference(np.nan, np.nan, *counts, text)
        difference = mine[1] - theirs[1] * scale
        error = _SIGMAS * np.sqrt(mine[2] / mine[0] + theirs[2] * scale**2 / theirs[0])
        ends += [difference - error, difference + error]
    return Difference(min(ends), max(ends), *counts, "mean time of upcalls after a block, both bounds")


def running_difference(
    fenced: Sequence[Measures], plain: Sequence[Measures], domain: int, other: int
) -> Difference:
    """Return how much longer ``domain`` runs for each upcall than ``other`` in the unfenced captures.

    Args:
        fenced, plain: one capture per repetition.
    """
    mine = _per_upcall(fenced, domain, fenced)
    theirs = _per_upcall(plain, other, fenced)
    if not mine or not theirs:
        return Difference(np.nan, np.nan, len(mine), len(theirs), "no upcalls in one group of captures")
    found = shift(theirs, mine, ratio=False)
    if found.low is None or found.high is None:
        text = "too few repetitions for an interval: four of each are enough"
        return Difference(np.nan, np.nan, len(mine), len(theirs), text)
    return Difference(found.low, found.high, len(mine), len(theirs), "running time per upcall, by ranks")


def agreement(low: float, high: float, difference: Difference) -> str:
    """Return how a modelled interval compares with a measured one, in words."""
    if np.isnan(difference.low) or np.isnan(low):
        return "-"
    if low > difference.high:
        return "the model is higher"
    return "the model is lower" if high < difference.low else "overlap"


def _per_upcall(captures: Sequence[Measures], domain: int, scaled_to: Sequence[Measures]) -> list[float]:
    values = []
    for capture in captures:
        found = domain_facts(capture, domain)
        scale = scaled_to[0].hz / capture.hz if scaled_to[0].hz and capture.hz else 1.0
        if found.upcalls[1]:
            values.append(scale * found.running_cycles / found.upcalls[1])
    return values


def _moments(measures: Measures, metric: Metric, domain: int) -> tuple[int, float, float]:
    """Return count, mean and variance of a domain's times; the variance comes from buckets 1 % wide."""
    tallies = of_domain(measures.counts(metric), domain)
    count = int(tallies["count"].sum())
    if count < 2:
        return count, 0.0, 0.0
    buckets = measures.partial.buckets
    mine = of_domain(buckets.where(buckets["metric"] == metric), domain)
    low, high = bucket_bounds(mine["bucket"])
    middle = (low.astype(float) + high.astype(float)) / 2
    weights = mine["count"].astype(float)
    mean = float(tallies["sum_cycles"].sum()) / count
    variance = float((weights * (middle - mean) ** 2).sum() / max(weights.sum() - 1, 1))
    return count, mean, variance
