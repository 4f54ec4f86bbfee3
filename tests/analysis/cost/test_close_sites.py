"""Sites close together: what both cost is not the sum of each alone, and the report says so."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from builders.made_costs import calibration, fenced, paths_of, row
from builders.made_sites import fence
from xtrace.analysis.cost.close_sites import close_rows
from xtrace.probes.timing.calibration import Row
from xtrace.symbols.sites.model import Kind, Site


def close_pair(distance: int = 0x30, second: Kind = Kind.RESTORE, **changes: Any) -> list[Site]:
    first = fenced("section", 1)
    after = replace(
        fenced("section", 1, second), address=first.address + distance, offset=first.offset + distance
    )
    return [first, replace(after, **changes)] if changes else [first, after]


def rows(both: float, first: float, second: float, context: str = "empty", spread: float = 1.0) -> list[Row]:
    figures = {"mask+restore": both, "mask": first, "restore": second}
    return [row(context, median, spread, kind=kind, place="close") for kind, median in figures.items()]


def test_both_and_each_alone_are_priced() -> None:
    known = calibration(*rows(30.0, 20.0, 22.0), *rows(596.0, 543.0, 572.0, "load_miss_1", 5.0))
    (found,) = close_rows(3, paths_of(close_pair()), known, 2.0)
    assert (found.domain, found.first, found.second) == (3, "section+0x10", "section+0x40")
    assert (found.both_hot_low_cycles, found.both_hot_cycles) == (58.0, 62.0)
    assert (found.first_hot_low_cycles, found.first_hot_cycles) == (38.0, 42.0)
    assert (found.second_hot_low_cycles, found.second_hot_cycles) == (42.0, 46.0)
    # Removing the mask's fence saves what both cost less what the restore's costs alone.
    assert found.saving_ratio == pytest.approx((596 - 572) / 543)
    assert found.context == "load_miss_1"


def test_figures_that_are_not_certain_are_not_compared() -> None:
    known = calibration(*rows(42.0, 20.0, 22.0), *rows(10.0, 400.0, 400.0, "store_stream_1", 300.0))
    (found,) = close_rows(3, paths_of(close_pair()), known, 1.0)
    assert found.saving_ratio == pytest.approx(1.0)
    assert found.context == "empty"


@pytest.mark.parametrize(
    "sites",
    [
        close_pair(0x200),
        close_pair(fences=(fence("mfence", via=""),)),
        close_pair(fences=()),
        close_pair(second=Kind.MASK),
        [fenced("a", 1), fenced("b", 2, Kind.RESTORE)],
    ],
    ids=["far", "other fence", "unfenced", "two masks", "two functions"],
)
def test_other_sites_are_not_close_together(sites: list[Site]) -> None:
    assert close_rows(3, paths_of(sites), calibration(*rows(30.0, 20.0, 22.0)), 1.0) == []


def test_a_calibration_without_such_rows_prices_none() -> None:
    assert close_rows(3, paths_of(close_pair()), calibration(row()), 1.0) == []
