"""Columns select, sort, group and join rows as pandas does, and keep the types of their values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from xtrace.analysis.columns import Columns, added, joined, matched, of_rows, text

NAN = float("nan")


def lists(columns: Columns) -> dict[str, list[Any]]:
    return {name: columns[name].tolist() for name in columns.names}


#: Rows of two keys, a number to add up and the place of the row.
KEYS = st.lists(
    st.tuples(st.integers(-3, 3), st.sampled_from(["", "a", "b"]), st.integers(-9, 9)), max_size=40
)


def of_keys(rows: list[tuple[int, str, int]]) -> Columns:
    return of_rows(
        [(*row, place) for place, row in enumerate(rows)],
        {"a": np.int64, "b": object, "count": np.int64, "place": np.int64},
    )


# --- making ------------------------------------------------------------------------------------


def test_columns_have_the_types_of_their_values() -> None:
    columns = Columns(
        {"i": [1, 2], "f": [1.5, NAN], "b": [True, False], "t": ["x", "yy"], "n": text(["x", None])}
    )
    assert {name: columns[name].dtype for name in columns.names} == {
        "i": np.int64,
        "f": np.float64,
        "b": np.bool_,
        "t": np.object_,
        "n": np.object_,
    }
    assert columns.names == ("i", "f", "b", "t", "n")
    assert len(columns) == 2
    assert "i" in columns
    assert "x" not in columns
    assert repr(columns) == "Columns(2 rows of i, f, b, t, n)"


def test_a_single_value_fills_a_column() -> None:
    columns = Columns({"a": [1, 2, 3], "host": "athens", "share": 0.5, "none": None})
    assert lists(columns.only(["host", "share", "none"])) == {
        "host": ["athens"] * 3,
        "share": [0.5] * 3,
        "none": [None] * 3,
    }
    assert lists(Columns({"a": 7}, count=1)) == {"a": [7]}
    assert len(Columns({"a": 7})) == 0
    assert Columns({"host": "athens"}, count=0)["host"].dtype == object


def test_columns_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="different lengths"):
        Columns({"a": [1, 2], "b": [1]})
    with pytest.raises(ValueError, match="different lengths"):
        Columns({"a": [1, 2]}, count=3)


def test_of_rows() -> None:
    types: dict[str, type] = {"a": np.int64, "b": object, "c": np.float64}
    columns = of_rows([(1, "x", 2), (3, None, NAN)], types)
    assert columns["a"].tolist() == [1, 3]
    assert columns["b"].tolist() == ["x", None]
    assert columns["c"][0] == 2
    empty = of_rows([], types)
    assert all(empty[name].dtype == kind for name, kind in types.items())
    assert len(empty) == 0


def test_text_is_of_any_length() -> None:
    assert text([]).dtype == object
    assert text(word for word in ("a", "much longer", None)).tolist() == ["a", "much longer", None]


# --- selecting ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "places"),
    [
        ([True, False, True], [0, 2]),
        ([2, 0, 0], [2, 0, 0]),
        (slice(1, None), [1, 2]),
        ([], []),
        (np.zeros(3, bool), []),
    ],
    ids=["mask", "numbers", "slice", "empty list", "no row"],
)
def test_where_returns_rows(rows: Any, places: list[int]) -> None:
    columns = Columns({"i": [10, 11, 12], "t": ["x", "y", "z"]})
    found = columns.where(rows)
    assert lists(found) == {"i": [10 + at for at in places], "t": ["xyz"[at] for at in places]}
    assert found["i"].dtype == np.int64
    assert found["t"].dtype == object
    assert len(columns.only([]).where(rows)) == len(places)


def test_only_having_and_renamed_change_columns_of_the_result_only() -> None:
    columns = Columns({"a": [1, 2], "b": [3, 4]})
    assert lists(columns.only(["b", "a"])) == {"b": [3, 4], "a": [1, 2]}
    assert lists(columns.having(b=[5, 6], c=0)) == {"a": [1, 2], "b": [5, 6], "c": [0, 0]}
    assert lists(columns.renamed({"a": "x"})) == {"x": [1, 2], "b": [3, 4]}
    assert lists(columns) == {"a": [1, 2], "b": [3, 4]}
    assert len(columns.only([])) == 2
    with pytest.raises(KeyError):
        columns.only(["c"])


# --- sorting -----------------------------------------------------------------------------------


@given(KEYS)
def test_equal_rows_keep_their_order(rows: list[tuple[int, str, int]]) -> None:
    columns = of_keys(rows)
    up = sorted(range(len(rows)), key=lambda place: rows[place][:2])
    down = sorted(range(len(rows)), key=lambda place: rows[place][:2], reverse=True)
    assert columns.sorted_by("a", "b")["place"].tolist() == up
    assert columns.sorted_by("a", "b", descending=True)["place"].tolist() == down
    assert columns.sorted_by()["place"].tolist() == list(range(len(rows)))


@given(st.lists(st.sampled_from([NAN, 0.0, 1.5, -2.0, float("inf")]), max_size=20), st.booleans())
def test_nan_is_last(values: list[float], descending: bool) -> None:
    columns = Columns({"f": np.array(values, float), "place": np.arange(len(values))})
    frame = columns.frame().sort_values("f", ascending=not descending, kind="stable")
    assert columns.sorted_by("f", descending=descending)["place"].tolist() == frame["place"].tolist()


# --- groups ------------------------------------------------------------------------------------


@given(KEYS)
def test_sums_are_those_of_pandas(rows: list[tuple[int, str, int]]) -> None:
    columns = of_keys(rows)
    for by in (["a"], ["b"], ["a", "b"], ["b", "a"]):
        found = columns.sums(by, ["count"])
        frame = columns.frame().groupby(by, as_index=False)[["count"]].sum()
        assert found.names == (*by, "count")
        assert lists(found) == {name: frame[name].tolist() for name in found.names}
        assert found["count"].dtype == np.int64


@given(KEYS)
def test_groups_reduce_and_number_their_rows(rows: list[tuple[int, str, int]]) -> None:
    columns = of_keys(rows)
    groups = columns.grouped(["b", "a"])
    keys = sorted({(b, a) for a, b, _ in rows})
    assert [tuple(row.values()) for row in groups.keys.rows()] == keys
    counts = [[count for a, b, count in rows if (b, a) == key] for key in keys]
    assert groups.min("count").tolist() == [min(each) for each in counts]
    assert groups.max("count").tolist() == [max(each) for each in counts]
    assert groups.numbers.tolist() == [keys.index((b, a)) for a, b, _ in rows]
    # In sorted order, the rows of a group are together and keep their order.
    assert groups.order.tolist() == sorted(range(len(rows)), key=lambda at: (rows[at][1], rows[at][0]))
    assert [groups.numbers[groups.order[start]] for start in groups.starts] == list(range(len(keys)))


@given(KEYS)
def test_within_orders_the_rows_of_a_group(rows: list[tuple[int, str, int]]) -> None:
    groups = of_keys(rows).grouped(["a"], within=["count", "b"])
    assert groups.keys["a"].tolist() == sorted({a for a, _, _ in rows})
    wanted = sorted(range(len(rows)), key=lambda at: (rows[at][0], rows[at][2], rows[at][1]))
    assert groups.order.tolist() == wanted


def test_without_a_key_all_rows_are_one_group() -> None:
    columns = Columns({"count": [1, 2, 3]})
    assert lists(columns.sums([], ["count"])) == {"count": [6]}
    assert lists(columns.where([]).sums([], ["count"])) == {"count": []}


def test_booleans_are_counted() -> None:
    columns = Columns({"a": [1, 2, 1, 1], "is_new": [True, False, True, False]})
    assert columns.sums(["a"], ["is_new"])["is_new"].tolist() == [2, 0]


# --- joining -----------------------------------------------------------------------------------


def test_joined_rows_keep_their_order_and_integers_their_type() -> None:
    one, other = Columns({"a": [1, 2], "b": ["x", "y"]}), Columns({"b": ["z"], "a": [3]})
    both = joined([one, other])
    assert lists(both) == {"a": [1, 2, 3], "b": ["x", "y", "z"]}
    assert both["a"].dtype == np.int64
    assert joined([one, other.having(a=[0.5])])["a"].tolist() == [1.0, 2.0, 0.5]
    assert joined([one.where([]), one.where([])])["a"].dtype == np.int64


def test_what_cannot_be_joined() -> None:
    with pytest.raises(ValueError, match="nothing to join"):
        joined([])
    with pytest.raises(ValueError, match="different columns"):
        joined([Columns({"a": [1]}), Columns({"a": [1], "b": [2]})])


@given(KEYS, KEYS)
def test_matched_finds_the_row_of_each_key(
    wanted: list[tuple[int, str, int]], known: list[tuple[int, str, int]]
) -> None:
    keys = of_keys(wanted).only(["b", "a"])
    distinct = of_keys(known).sums(["a", "b"], ["count"])
    row_of = {(row["b"], row["a"]): place for place, row in enumerate(distinct.rows())}
    assert matched(keys, distinct).tolist() == [row_of.get((b, a), -1) for a, b, _ in wanted]


# --- other forms -------------------------------------------------------------------------------


def test_rows_have_values_of_python() -> None:
    columns = Columns({"i": [1], "f": [0.5], "b": [True], "t": ["x"], "n": [None]})
    (row,) = columns.rows()
    assert row == {"i": 1, "f": 0.5, "b": True, "t": "x", "n": None}
    assert [type(value) for value in row.values()] == [int, float, bool, str, type(None)]
    assert columns.where([]).rows() == []


def test_a_frame_has_the_same_columns() -> None:
    columns = Columns({"i": [1, 2], "f": [0.5, NAN], "t": ["x", "y"]})
    pd.testing.assert_frame_equal(
        columns.frame(), pd.DataFrame({"i": [1, 2], "f": [0.5, NAN], "t": ["x", "y"]})
    )
    assert list(columns.where([]).frame().columns) == ["i", "f", "t"]


def test_two_columns_of_times_add_up_to_62_bits_at_most() -> None:
    most = 1 << 62
    first, second = np.array([1, most, most, 0, most - 1]), np.array([2, most, 5, most, 2])
    assert added(first, second).tolist() == [3, most, most, most, most]
