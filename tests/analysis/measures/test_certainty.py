"""How figures are known, in words."""

from __future__ import annotations

import pytest

from xtrace.analysis.measures.certainty import certainty_text, certainty_word, metric_word
from xtrace.analysis.measures.table import Column, Quality
from xtrace.analysis.report.build import TABLES

COLUMNS = {(table.name, column.name): column for table in TABLES for column in table.columns}


@pytest.mark.parametrize(
    ("table", "name", "word"),
    [
        ("wakes", "wake_per_s", "at least"),  # exact by itself: a part of the trace is missing
        ("upcalls", "upcall_least_count", "at least"),
        ("upcalls", "upcall_most_count", "at most"),
        ("event_way", "running_to_entry_most_p50_cycles", "at most"),
        ("event_way", "running_share_ratio", "at least"),
    ],
)
def test_a_bound_says_on_which_side_it_is(table: str, name: str, word: str) -> None:
    assert certainty_word(COLUMNS[table, name], Quality.BOUNDED) == word


@pytest.mark.parametrize("quality", [Quality.EXACT, Quality.INFERRED, Quality.MODELLED])
def test_other_qualities_are_their_own_words(quality: Quality) -> None:
    assert certainty_word(Column("count", quality, ""), quality) == str(quality)
    assert metric_word("upcall_most_p50", quality) == str(quality)


def test_a_metric_is_bounded_on_the_side_that_its_name_says() -> None:
    assert metric_word("upcall_most_p50", Quality.BOUNDED) == "at most"
    assert metric_word("upcall_least_p50", Quality.BOUNDED) == "at least"
    assert metric_word("wakes_per_s", Quality.BOUNDED) == "bounded"


def test_columns_are_named_unless_they_are_exact() -> None:
    assert certainty_text([]) == ""
    assert certainty_text([("p50", "exact"), ("p99", "exact")]) == "all exact"
    known = [("wakes", "exact"), ("/s", "at least"), ("p50", "inferred"), ("p99", "inferred")]
    assert certainty_text(known) == "exact, but /s at least; p50, p99 inferred"
    assert certainty_text(known[1:]) == "/s at least; p50, p99 inferred"
