"""What does a fence add to one execution of a site?  Prices are drawn at random from a calibration.

Each figure of the calibration is drawn around its median, with the spread of its 95 % interval on each side.
One random number per draw is shared by all rows of a fence and context, so that sites priced by them vary
together.  A site that was replayed as compiled is priced by its own rows.  Otherwise it is priced by the
standard sequences of its fence: the code around a fence is never quite that of a standard sequence, and the
differences between these (mask, restore and unmask; inline and out of line) show how much that matters, so
the price is between the least and the greatest of them.

The trace does not show what is in flight when a site executes, so the context is unknown, not random.  A
draw therefore has a least and a greatest price over all measured contexts.  No calibration has every context,
so the greatest is usually, not certainly, above the truth.   Hot contexts (nothing misses the caches) have
their own least and greatest price.  If weights of the contexts are given, their weighted mean is used
instead.

Known bias: a loop that repeats a sequence is not a kernel that executes it now and then.  If a site has
several fences that were measured one by one, the price is between that of the dearest and their sum; a fence
on only some of the paths costs between 0 and its price.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xtrace.probes.timing.calibration import CONTEXTS, HOT_CONTEXTS, Calibration, Row
from xtrace.symbols.flow.walk import Paths
from xtrace.symbols.sites.model import Fence, How, Site

F64 = npt.NDArray[np.float64]

#: Enough for the ends of a 95 % interval to vary by only a few percent of its width.
DRAWS = 2000
SEED = 20220713
_SIGMAS = 1.96
#: How far the cost in work of a context's kind is from the context's own prices, as a share of these, or of
#: a few cycles if they are less: nine of ten configurations of benchmarks/accuracy of whose kind there is a
#: context (180, hot and not) were nearer.
_MODEL_ERROR_RATIO, _LEAST_CYCLES = 0.3, 2.0
#: Quantiles at the ends of a 95 % interval.
TAILS = (0.025, 0.975)


@dataclass(frozen=True, slots=True)
class Prices:
    """Cycles that the fences of sites add to one execution, [sites, draws]; NaN without a price.

    Attributes:
        low: in the cheapest context; below 0 if a fence makes a stream of misses faster.
        hot_low: in the cheapest hot context, one in which nothing misses the caches.
        hot: in the dearest hot context.
        high: in the dearest context measured, which is not a bound: others are possible.
        source: what each is based on: "site" (replayed), "standard" or "" (nothing).
        lacking: why there is no price; "" if there is one.
    """

    low: F64
    hot_low: F64
    hot: F64
    high: F64
    source: tuple[str, ...]
    lacking: tuple[str, ...]

    def interval(self, values: F64) -> tuple[F64, F64]:
        """Return the low and the high ends of the 95 % interval of each row."""
        if not values.size:
            return np.zeros(len(values)), np.zeros(len(values))
        low, high = np.quantile(values, TAILS, axis=1)
        return low, high


def prices(
    sites: Sequence[Site],
    calibration: Calibration,
    build_id: str,
    weights: Mapping[str, float] | None = None,
    *,
    scale: float = 1.0,
    draws: int = DRAWS,
) -> Prices:
    """Return what the fences of ``sites`` add.

    Args:
        build_id: of their image, to find the rows of its sites.
        weights: of contexts, if known; contexts that were not measured are left out.
        scale: cycles of the trace's TSC per cycle of the calibration's.
    """
    book = _Book(calibration, build_id, weights or {}, draws)
    found = [book.price(site) for site in sites]
    shape = (len(sites), draws)
    return Prices(
        scale * np.array([price.low for price in found]).reshape(shape),
        scale * np.array([price.hot_low for price in found]).reshape(shape),
        scale * np.array([price.hot for price in found]).reshape(shape),
        scale * np.array([price.high for price in found]).reshape(shape),
        tuple(price.source for price in found),
        tuple(price.lacking for price in found),
    )


@dataclass(frozen=True, slots=True)
class _Price:
    low: F64
    hot_low: F64
    hot: F64
    high: F64
    source: str
    lacking: str


class _Book:
    """The rows of a calibration by site or fence, each drawn once."""

    def __init__(
        self, calibration: Calibration, build_id: str, weights: Mapping[str, float], draws: int
    ) -> None:
        self._weights = weights
        self._draws = draws
        # Least and greatest draws, by address or fence and by context.
        self._own: dict[int, dict[str, tuple[F64, F64]]] = {}
        self._standard: dict[str, dict[str, tuple[F64, F64]]] = {}
        self._known: set[tuple[str, str, str]] = set()
        self._nothing = np.full(draws, np.nan)
        random = np.random.default_rng(SEED)
        noises: dict[tuple[str, str, int | None], F64] = defaultdict(lambda: random.standard_normal(draws))
        for row in calibration.rows:
            # Rows of one fence and context share their noise: a measurement error affects all of them.
            noise = noises[row.fence, row.context, row.address]
            if row.median_cycles is None or row.low_cycles is None or row.high_cycles is None:
                continue
            if row.stands_in or row.place == "close":
                # A copy of a standard sequence's row, which is in the calibration itself; two sites at once.
                continue
            drawn = _drawn(row, noise)
            if row.place == "site":
                if row.address is not None and (row.build_id or "") == build_id:
                    self._own.setdefault(row.address, {})[row.context] = drawn
            else:
                self._known.add((row.kind, row.fence, row.place))
                of_fence = self._standard.setdefault(row.fence, {})
                least, most = of_fence.get(row.context, drawn)
                of_fence[row.context] = np.minimum(least, drawn[0]), np.maximum(most, drawn[1])

    def price(self, site: Site) -> _Price:
        """Return the price of a site, which is 0 without a fence."""
        if not site.fences:
            zero = np.zeros(self._draws)
            return _Price(zero, zero, zero, zero, "", "")
        own = self._own.get(site.address, {})
        standard, lacking = self._summed(site)
        # A site's own rows come from one place in memory and one run: alone they hold the truth less often
        # than the standard sequences of all kinds and places do (docs/accuracy.md); so they only widen those.
        by_context = {
            context: _hull([rows[context] for rows in (standard, own) if context in rows])
            for context in {**standard, **own}
        }
        if self._weights:
            by_context = {context: pair for context, pair in by_context.items() if context in self._weights}
            lacking = lacking or "none of the contexts with a weight was measured"
        if not by_context:
            nothing = self._nothing
            return _Price(nothing, nothing, nothing, nothing, "", lacking)
        source = "site" if own else "standard"
        if self._weights:
            total = sum(self._weights[context] for context in by_context)
            low, high = (
                np.asarray(sum(self._weights[c] / total * pair[end] for c, pair in by_context.items()))
                for end in (0, 1)
            )
            error = self._model_error(by_context)
            return _Price(low - error, low - error, high + error, high + error, source, "")
        pairs = list(by_context.values())
        hot = [pair for context, pair in by_context.items() if context in HOT_CONTEXTS] or pairs
        return _Price(_least(pairs), _least(hot), _greatest(hot), _greatest(pairs), source, "")

    def _model_error(self, by_context: Mapping[str, tuple[F64, F64]]) -> F64:
        """Return by how much a weighted price may be off, because no work is quite like a context."""
        total = sum(self._weights[context] for context in by_context)
        return np.asarray(
            sum(
                self._weights[context]
                / total
                * _MODEL_ERROR_RATIO
                * np.maximum(np.maximum(np.abs(low), np.abs(high)), _LEAST_CYCLES)
                for context, (low, high) in by_context.items()
            )
        )

    def _summed(self, site: Site) -> tuple[dict[str, tuple[F64, F64]], str]:
        """Return a site's least and greatest price by standard sequences, by context, or why it has none."""
        of_fences = []
        for fence in site.fences:
            name = known_fence(fence.mnemonic)
            if (str(site.kind), name, _place(fence)) not in self._known:
                return {}, f"no figure for {fence.mnemonic} {_place(fence)} at a {site.kind}"
            of_fences.append((self._standard[name], fence.paths is not Paths.ALL))
        found: dict[str, tuple[F64, F64]] = {}
        for context in CONTEXTS:
            if all(context in rows for rows, _ in of_fences):
                lows = [rows[context][0] for rows, _ in of_fences]
                always = [rows[context][0] for rows, sometimes in of_fences if not sometimes]
                low = np.max(always, axis=0) if always else np.minimum(0.0, np.min(lows, axis=0))
                summed = np.sum([rows[context][1] for rows, _ in of_fences], axis=0)
                if not always:
                    summed = np.maximum(summed, 0.0)
                found[context] = (low, np.maximum(summed, low))
        return (
            found,
            "" if found else f"no context was measured for {site.fences[0].mnemonic} and its other fences",
        )


def _hull(pairs: Sequence[tuple[F64, F64]]) -> tuple[F64, F64]:
    return _least(pairs), _greatest(pairs)


def _least(pairs: Sequence[tuple[F64, F64]]) -> F64:
    return np.asarray(np.min([pair[0] for pair in pairs], axis=0))


def _greatest(pairs: Sequence[tuple[F64, F64]]) -> F64:
    return np.asarray(np.max([pair[1] for pair in pairs], axis=0))


def known_fence(mnemonic: str) -> str:
    """Return the calibrated fence for a mnemonic; every locked instruction counts as "lock add"."""
    return "lock add" if mnemonic.startswith("lock ") else mnemonic


def _place(fence: Fence) -> str:
    return "inline" if fence.how is How.INLINE else "outofline"


def _drawn(row: Row, noise: F64) -> tuple[F64, F64]:
    """Return draws of what a row's fence adds, the least and the greatest.

    They differ if a fence out of line also made the compiler save and spill registers: a kernel built without
    the fence saves that too, but one in which the fence is only patched out does not.
    """
    plain = _around(row.median_cycles, row.low_cycles, row.high_cycles, noise)
    assert plain is not None
    lean = _around(row.lean_median_cycles, row.lean_low_cycles, row.lean_high_cycles, noise)
    return (plain, plain) if lean is None else (np.minimum(plain, lean), np.maximum(plain, lean))


def _around(median: float | None, low: float | None, high: float | None, noise: F64) -> F64 | None:
    """Return draws around a median, with the spread of its interval on each side; None without a figure.

    Draws are cut off at 0 unless the whole interval is below 0: a fence may make a stream of misses faster.
    """
    if median is None or low is None or high is None:
        return None
    below, above = max(median - low, 0.0) / _SIGMAS, max(high - median, 0.0) / _SIGMAS
    drawn: F64 = median + np.where(noise < 0, below, above) * noise
    return drawn if high < 0 else np.maximum(drawn, 0.0)
