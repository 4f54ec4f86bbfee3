"""Make calibrations, path counts and kernels with sites by hand."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from builders.made_sites import BASE, FACTS, fence, site, table
from xtrace.probes.timing.calibration import KINDS, Calibration, Row, Timing
from xtrace.symbols.flow.path_counts import PathCounts
from xtrace.symbols.sites.execution_bounds import PARTS, SitePaths, part_of
from xtrace.symbols.sites.model import Kind, Site, SiteTable

INF = float("inf")
HZ = 2_600_000_000.0
BUILD_ID = table().build_id
#: Cycles by context; a miss after an lfence waits long.
LFENCE = {"empty": 19.0, "stores_8": 20.0, "stores_40": 24.0, "load_miss_1": 2900.0, "alu_chain": 13.0}


def row(context: str = "empty", median: float | None = 20.0, spread: float = 1.0, **changes: Any) -> Row:
    values: dict[str, Any] = {
        "kind": "mask",
        "fence": "lfence",
        "place": "inline",
        "context": context,
        "median_cycles": median,
        "low_cycles": None if median is None else median - spread,
        "high_cycles": None if median is None else median + spread,
        "pair_count": 100,
        "tight": True,
    }
    return Row(**values | changes)


def rows_of(by_context: Mapping[str, float], spread: float = 1.0, **changes: Any) -> list[Row]:
    """Return the rows of one sequence, of every kind unless one is named."""
    kinds = [changes.pop("kind")] if "kind" in changes else KINDS
    return [
        row(context, median, spread, kind=kind, **changes)
        for kind in kinds
        for context, median in by_context.items()
    ]


def calibration(*rows: Row, timing: Timing = "hardware", tsc_hz: float = HZ) -> Calibration:
    return Calibration(
        {"cpu_model": "a CPU"}, "2026-11-24T20:00:00Z", tsc_hz, 1.0, 1.0, timing, {}, tuple(rows)
    )


def fenced(symbol: str, number: int, kind: Kind = Kind.MASK, mnemonic: str = "lfence", **more: Any) -> Site:
    """Return a site with one inline fence; each number gives a different address."""
    return plain(symbol, number, kind, **{"fences": (fence(mnemonic, via=""),), **more})


def plain(symbol: str, number: int, kind: Kind = Kind.MASK, **more: Any) -> Site:
    return site(symbol, 0x10, kind, **{"address": BASE + 0x100 * number + 0x10, **more})


def paths_of(
    sites: Sequence[Site],
    call: Sequence[tuple[float, float]] | None = None,
    upcall: Sequence[tuple[float, float]] | None = None,
) -> SitePaths:
    """Return path counts of sites; sites with the same symbol are in the same function.

    Args:
        sites: the sites.
        call: least and most executions of each site in one call; unknown unless given.
        upcall: least and most in one upcall; no callback is known unless given.
    """
    starts: dict[str, int] = {}
    for one in sites:
        starts.setdefault(one.symbol, one.address - one.offset)
    mine = upcall or [(0.0, INF)] * len(sites)
    parts = []
    for part in PARTS:
        of_part = [ways for ways, one in zip(mine, sites, strict=True) if part_of(one) is part]
        parts.append((sum(ways[0] for ways in of_part), sum(ways[1] for ways in of_part)))
    return SitePaths(
        tuple(sites),
        tuple(starts[one.symbol] for one in sites),
        counts_of(call or [(0.0, INF)] * len(sites)),
        counts_of(mine) if upcall is not None else None,
        counts_of(parts) if upcall is not None else None,
        "symbol hypervisor_callback" if upcall is not None else "",
    )


def counts_of(ways: Sequence[tuple[float, float]]) -> PathCounts:
    columns = np.array(ways, float).reshape(-1, 2)
    why = tuple("a loop" if most == INF else "" for most in columns[:, 1].tolist())
    return PathCounts(columns[:, 0].copy(), columns[:, 1].copy(), why)


@dataclass
class CostedKernel:
    """A kernel that consists of sites and path counts only."""

    counted: SitePaths
    domain: int = 1
    path: str = "boot/netbsd"
    build_id: str = BUILD_ID
    never: list[frozenset[int]] = field(default_factory=list)
    fences: dict[int, int] = field(default_factory=dict)
    has_page: bool = True
    starts: frozenset[int] | None = None

    @property
    def sites(self) -> SiteTable:
        facts = FACTS if self.has_page else replace(FACTS, hypercall_page=None)
        return table(*self.counted.sites, facts=facts)

    def paths(self, never: Collection[int]) -> SitePaths:
        self.never.append(frozenset(never))
        return self.counted

    def misplaced(self, offsets: Mapping[int, int]) -> int:
        return 0 if self.starts is None else len(offsets.keys() - self.starts)

    def behind(self) -> Mapping[int, int]:
        return self.fences
