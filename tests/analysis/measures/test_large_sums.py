"""Sums of times keep all of their bits where tables are joined: a float has 53, and a host sums up more."""

from __future__ import annotations

import numpy as np

from xtrace.analysis.columns import Columns
from xtrace.analysis.measures.lookup import counted, counts_at, merged

_SUM = (1 << 61) + 1


def _table(**columns: list[int]) -> Columns:
    return Columns({name: np.array(values, np.int64) for name, values in columns.items()})


def test_a_sum_is_looked_up_as_it_is() -> None:
    rows = _table(a=[3, 1], sum_cycles=[_SUM, 5])
    assert counted(np.array([1, 2, 3]), rows, column="sum_cycles").tolist() == [5, 0, _SUM]
    assert counts_at(rows, np.array([0, -1]), "sum_cycles").tolist() == [_SUM, 0]
    assert counted(np.array([1]), rows.where(np.zeros(2, bool)), column="sum_cycles").tolist() == [0]


def test_tables_with_other_rows_are_merged_with_all_bits() -> None:
    closed = _table(a=[1], sum_cycles=[_SUM])
    opened = _table(a=[2], open_cycles=[_SUM + 2])
    both = merged(["a"], closed, opened, counts=("sum_cycles", "open_cycles"))
    assert both["sum_cycles"].tolist() == [_SUM, 0]
    assert both["open_cycles"].tolist() == [0, _SUM + 2]
    assert np.isnan(merged(["a"], closed, opened)["sum_cycles"]).tolist() == [False, True]
