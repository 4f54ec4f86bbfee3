"""Quantiles from log-linear histograms are within 1/128 of those of the sorted values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.partials import collected
from oracle.runs import tally_of
from xtrace.analysis.columns import Columns
from xtrace.analysis.state_machine.metrics import METRIC_SHIFT, MOST_SUM, OCTAVES, SUB_BUCKETS, Metric
from xtrace.analysis.summary.histogram import QUANTILE_ERROR_RATIO, bucket_bounds, quantiles, summarise
from xtrace.analysis.summary.partial import Partial, partial_of

I64 = npt.NDArray[np.int64]
KEYS = ["metric", "a", "b"]
AT = (0.001, 0.25, 0.5, 0.95, 0.99, 0.999, 1.0)

DRAWS: dict[str, Callable[[np.random.Generator], I64]] = {
    "small": lambda random: random.integers(0, 100, 4000),
    "uniform": lambda random: random.integers(0, 1 << 30, 4000),
    "exponential": lambda random: random.exponential(30_000, 4000).astype(np.int64),
    "heavy tail": lambda random: np.exp(random.normal(12, 4, 4000)).astype(np.int64),
    "two peaks": lambda random: np.concatenate(
        (random.integers(900, 910, 2000), random.integers(10**9, 10**9 + 9, 9))
    ),
    "powers of two": lambda random: np.int64(1) << random.integers(0, 56, 4000),
    "just below them": lambda random: (np.int64(1) << random.integers(0, 56, 4000)) - 1,
    "one value": lambda _random: np.full(7, 123_456_789),
    "one alone": lambda _random: np.array([5_000_000_011]),
}


def partial_of_values(*groups: I64) -> Partial:
    """Return the Partial of values of one metric, grouped by ``b``."""
    pieces = []
    for b, values in enumerate(groups):
        rows = np.zeros((len(values), 4), np.int64)
        rows[:, 0] = int(Metric.RUNNING) << METRIC_SHIFT | 7
        rows[:, 1], rows[:, 2] = b, values
        pieces.append(rows)
    return partial_of(replace(collected(b""), tallies=tally_of(pieces).columns()))


@pytest.mark.parametrize("kind", DRAWS)
def test_quantiles_are_near_those_of_the_values(kind: str) -> None:
    values = DRAWS[kind](np.random.default_rng(5))
    part = partial_of_values(values)
    (row,) = summarise(part.tallies, part.buckets, KEYS, AT).rows()
    assert row["count"] == len(values)
    # Sums stop there.
    total = min(sum(values.tolist()), MOST_SUM)
    assert row["sum_cycles"] == total
    assert row["mean_cycles"] == pytest.approx(total / len(values))
    assert (row["min_cycles"], row["max_cycles"]) == (values.min(), values.max())
    for at in AT:
        exact = np.quantile(values, at, method="inverted_cdf")
        found = row[f"p{at * 100:g}_cycles"]
        assert abs(found - exact) <= exact * QUANTILE_ERROR_RATIO, at
        assert values.min() <= found <= values.max()


def test_error_bound_is_the_documented_one() -> None:
    assert QUANTILE_ERROR_RATIO == 1 / 128


def test_buckets_cover_all_values() -> None:
    least, greatest = bucket_bounds(np.arange(OCTAVES * SUB_BUCKETS))
    assert least[0] == 0
    assert (least[1:] == greatest[:-1] + 1).all()
    assert ((greatest - least)[:SUB_BUCKETS] == 0).all()
    width = greatest - least + 1
    assert (width <= np.maximum(least / SUB_BUCKETS, 1)).all()


@settings(max_examples=60, derandomize=True)
@given(st.lists(st.integers(0, (1 << 56) - 1), min_size=1, max_size=200))
def test_a_value_is_in_its_bucket(values: list[int]) -> None:
    part = partial_of_values(np.array(values, np.int64))
    buckets = part.buckets.sorted_by("bucket")
    least, greatest = bucket_bounds(buckets["bucket"])
    counts = [
        sum(low <= value <= high for value in values) for low, high in zip(least, greatest, strict=True)
    ]
    assert counts == buckets["count"].tolist()
    assert sum(counts) == len(values)


def test_groups_stay_separate_or_merge_by_key() -> None:
    random = np.random.default_rng(6)
    groups = [random.integers(0, 1000, 500), random.integers(10**6, 10**7, 300), random.integers(0, 10**8, 1)]
    part = partial_of_values(*groups)
    each = summarise(part.tallies, part.buckets, KEYS)
    assert each["count"].tolist() == [500, 300, 1]
    for row, values in zip(each.rows(), groups, strict=True):
        exact = np.quantile(values, 0.5, method="inverted_cdf")
        assert row["p50_cycles"] == pytest.approx(exact, rel=QUANTILE_ERROR_RATIO)
    (merged,) = summarise(part.tallies, part.buckets, ["metric", "a"]).rows()
    everything = np.concatenate(groups)
    assert merged["count"] == len(everything)
    for at in (0.5, 0.95, 0.99):
        exact = np.quantile(everything, at, method="inverted_cdf")
        assert merged[f"p{at * 100:g}_cycles"] == pytest.approx(exact, rel=QUANTILE_ERROR_RATIO)


def test_empty_in_empty_out() -> None:
    part = partial_of_values(np.zeros(0, np.int64))
    table = summarise(part.tallies, part.buckets, KEYS)
    assert len(table) == 0
    assert list(table.names) == [
        *KEYS, "count", "sum_cycles", "mean_cycles", "min_cycles",
        "p50_cycles", "p95_cycles", "p99_cycles", "max_cycles",
    ]  # fmt: skip
    assert len(quantiles(part.buckets, ["metric"], (0.5,))) == 0


def test_rows_in_any_order_that_share_buckets() -> None:
    buckets = Columns({"a": [2, 1, 2, 1, 2], "bucket": [9, 5, 3, 5, 9], "count": [1, 2, 1, 3, 1]})
    found = quantiles(buckets, ["a"], (0.5, 1.0))
    assert found["a"].tolist() == [1, 2]
    assert found["p50_cycles"].tolist() == [5, 9]
    assert found["p100_cycles"].tolist() == [5, 9]


def test_a_quantile_is_the_middle_of_its_bucket() -> None:
    """In a bucket of two values, it is between them."""
    buckets = Columns({"a": [1], "bucket": [2 * SUB_BUCKETS + 1], "count": [1]})
    assert quantiles(buckets, ["a"], (0.5,))["p50_cycles"].tolist() == [130.5]


def test_a_histogram_needs_a_tally() -> None:
    part = partial_of_values(np.array([5, 6, 700]))
    other = part.buckets.having(b=1)
    with pytest.raises(ValueError, match="a histogram without a tally"):
        summarise(part.tallies, other, KEYS)
