"""When is a saving not the sum?  Sites close together are priced together: both, and each alone.

A fence waits for what is in flight.  Where a mask and a restore follow each other within a few instructions,
the second fence finds little left to wait for, so that both together cost little more than one, and
removing one of the two saves little, although each alone costs as much.  Prices of single sites, and their
sums, do not show that.

Output: one row for each two fenced sites that are close together, from the calibration's rows in the place
"close": a mask and a restore right after each other, the closest that two sites can be.  Sites that are
further apart are between that and the sum.

Known bias: only sites of one function, in the order of their addresses, with the same inline fence.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from xtrace.analysis.cost.prices import known_fence
from xtrace.analysis.cost.rows import CloseRow
from xtrace.probes.timing.calibration import BOTH, FIRST_ALONE, HOT_CONTEXTS, SECOND_ALONE, Calibration, Row
from xtrace.symbols.sites.execution_bounds import SitePaths, part_of
from xtrace.symbols.sites.model import How, Kind, Site

#: Two dozen instructions.
_CLOSE_BYTES = 96
#: Saving of a fence that costs less than this alone is not compared.
_LEAST_CYCLES = 10.0
_MOST_WIDTH_RATIO, _MOST_WIDTH_CYCLES = 0.5, 2.0
_SECOND = (Kind.RESTORE, Kind.UNMASK)
_KINDS = (BOTH, FIRST_ALONE, SECOND_ALONE)

#: Median, low and high end by context and by which of the two sites have the fence.
_Figures = Mapping[str, Mapping[str, tuple[float, float, float]]]


def close_rows(domain: int, paths: SitePaths, calibration: Calibration, scale: float) -> list[CloseRow]:
    """Return a row for each mask with a restore or unmask close after it.

    Args:
        scale: cycles of the trace's TSC per cycle of the calibration's.
    """
    known = _figures(calibration.rows)
    return [
        row
        for first, second in _pairs(paths)
        for fence in [known_fence(first.fences[0].mnemonic)]
        if fence in known
        for row in [_row(domain, first, second, fence, known[fence], scale)]
        if row is not None
    ]


def _figures(rows: Sequence[Row]) -> Mapping[str, _Figures]:
    found: dict[str, dict[str, dict[str, tuple[float, float, float]]]] = {}
    for row in rows:
        figures = row.median_cycles, row.low_cycles, row.high_cycles
        if row.place == "close" and None not in figures:
            by_kind = found.setdefault(row.fence, {}).setdefault(row.context, {})
            by_kind[row.kind] = (float(figures[0] or 0), float(figures[1] or 0), float(figures[2] or 0))
    return {
        fence: {context: kinds for context, kinds in by_context.items() if len(kinds) == len(_KINDS)}
        for fence, by_context in found.items()
    }


def _pairs(paths: SitePaths) -> Iterator[tuple[Site, Site]]:
    """Yield masks with the restore or unmask that follows close by, if both have the same inline fence."""
    placed = sorted(zip(paths.starts, paths.sites, strict=True), key=lambda pair: (pair[0], pair[1].address))
    fenced = [(start, site) for start, site in placed if part_of(site) is not None]
    for (start, first), (other, second) in itertools.pairwise(fenced):
        if start != other or second.address - first.address > _CLOSE_BYTES:
            continue
        if first.kind is not Kind.MASK or second.kind not in _SECOND:
            continue
        if len(first.fences) == len(second.fences) == 1 and first.fences[0].how is second.fences[0].how:
            same = first.fences[0].mnemonic == second.fences[0].mnemonic
            if same and first.fences[0].how is How.INLINE:
                yield first, second


def _row(
    domain: int, first: Site, second: Site, fence: str, figures: _Figures, scale: float
) -> CloseRow | None:
    hot = [kinds for context, kinds in figures.items() if context in HOT_CONTEXTS]
    if not hot:
        return None

    def ends(kind: str) -> tuple[float, float]:
        low = min(kinds[kind][1] for kinds in hot)
        return scale * max(low, 0.0), scale * max(kinds[kind][2] for kinds in hot)

    least, context = _least_saving(figures)
    both, one, other = (ends(kind) for kind in _KINDS)
    return CloseRow(
        domain=domain,
        first=_named(first),
        second=_named(second),
        fence=fence,
        both_hot_low_cycles=both[0],
        both_hot_cycles=both[1],
        first_hot_low_cycles=one[0],
        first_hot_cycles=one[1],
        second_hot_low_cycles=other[0],
        second_hot_cycles=other[1],
        saving_ratio=least,
        context=context,
    )


def _least_saving(figures: _Figures) -> tuple[float, str]:
    """Return what removing one of two saves, as a share of what it costs alone: least, and in which context.

    NaN and "" if no fence costs anything alone.
    """
    shares = [
        (max(kinds[BOTH][0] - kinds[kept][0], 0.0) / kinds[removed][0], context)
        for context, kinds in figures.items()
        for removed, kept in ((FIRST_ALONE, SECOND_ALONE), (SECOND_ALONE, FIRST_ALONE))
        if kinds[removed][0] >= _LEAST_CYCLES and all(_is_certain(kinds[kind]) for kind in _KINDS)
    ]
    return min(shares) if shares else (np.nan, "")


def _is_certain(figures: tuple[float, float, float]) -> bool:
    """Return whether a figure is certain enough to compare: its interval is narrower than half of it."""
    median, low, high = figures
    return high - low <= max(_MOST_WIDTH_RATIO * abs(median), _MOST_WIDTH_CYCLES)


def _named(site: Site) -> str:
    return f"{site.symbol}+{site.offset:#x}" if site.symbol else f"{site.address:#x}"
