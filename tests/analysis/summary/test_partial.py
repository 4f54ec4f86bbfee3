"""Partials merge: over pieces, files and hosts, in any order and grouping."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from builders.host import simulate
from builders.hosts import HOSTS
from builders.partials import collected, partial
from oracle.runs import run, tally_of
from xtrace.analysis.columns import Columns
from xtrace.analysis.report.build import build, json_object
from xtrace.analysis.state_machine.metrics import Metric
from xtrace.analysis.summary.partial import Partial, merge, partial_of
from xtrace.probes.format import EVENT_MASK, WRAP_BUFFER

NAMES = [field.name for field in fields(Partial)]
DAMAGED = b"\0" * 8


@pytest.fixture(scope="module")
def parts() -> list[Partial]:
    """Return hosts that are calm, lossy, skewed, damaged, and one without records."""
    traces = [HOSTS["calm"](1), HOSTS["lossy"](2), HOSTS["skewed"](3) + DAMAGED + HOSTS["calm"](4), b""]
    return [partial(data) for data in traces]


def contents(of: Partial) -> dict[str, dict[str, list[Any]]]:
    """Return the columns of each field as lists, with sorted rows."""
    return {name: lists(getattr(of, name)) for name in NAMES}


def lists(columns: Columns) -> dict[str, list[Any]]:
    ordered = columns.sorted_by(*columns.names)
    return {name: ordered[name].tolist() for name in columns.names}


def assert_equal(one: Partial, other: Partial) -> None:
    left, right = contents(one), contents(other)
    for name in NAMES:
        assert list(left[name]) == list(right[name]), name
        assert left[name] == right[name], name


def by_key(tallies: Columns, column: str) -> dict[tuple[int, int, int], int]:
    """Return a column of tallies by metric, a and b."""
    return {(row["metric"], row["a"], row["b"]): row[column] for row in tallies.rows()}


def test_any_order(parts: list[Partial]) -> None:
    assert_equal(merge(parts), merge(parts[::-1]))
    assert_equal(merge(parts), merge([parts[2], parts[0], parts[3], parts[1]]))


def test_any_grouping(parts: list[Partial]) -> None:
    a, b, c, d = parts
    assert_equal(merge([a, b, c, d]), merge([merge([a, b]), merge([c, d])]))
    assert_equal(merge([a, b, c, d]), merge([a, merge([b, merge([c, d])])]))


def test_merging_does_not_change_its_inputs(parts: list[Partial]) -> None:
    before = [contents(part) for part in parts]
    merge(parts)
    assert [contents(part) for part in parts] == before


def test_merging_one_or_none(parts: list[Partial]) -> None:
    assert_equal(merge([parts[0]]), parts[0])
    with pytest.raises(ValueError, match="nothing to merge"):
        merge([])


def test_an_empty_trace_changes_only_the_number_of_files(parts: list[Partial]) -> None:
    both = merge([parts[0], parts[3]])
    assert both.facts["files"].tolist() == [2]
    facts = both.facts.having(files=1)
    assert_equal(replace(both, facts=facts), parts[0])


@pytest.mark.parametrize("name", ["tallies", "buckets", "records", "facts", "pairs", "damages", "pcpus"])
def test_counts_add_up_over_files(parts: list[Partial], name: str) -> None:
    together = getattr(merge(parts), name)
    assert len(getattr(parts[0], name)) or name == "damages"
    for column in (
        "count",
        "sum_cycles",
        "ns",
        "cycles",
        "skipped_bytes",
        "window_bytes",
        "blind_cycles",
        "bytes_read",
    ):
        if column in together:
            assert together[column].sum() == sum(getattr(part, name)[column].sum() for part in parts)
    if name in ("pairs", "damages"):
        assert len(together) == sum(len(getattr(part, name)) for part in parts)


def test_min_and_max_are_those_of_all(parts: list[Partial]) -> None:
    tallies = merge(parts).tallies
    least, most = by_key(tallies, "min_cycles"), by_key(tallies, "max_cycles")
    for part in parts:
        assert all(least[key] <= value for key, value in by_key(part.tallies, "min_cycles").items())
        assert all(most[key] >= value for key, value in by_key(part.tallies, "max_cycles").items())
    assert tallies["max_cycles"].max() == max(
        part.tallies["max_cycles"].max() for part in parts if len(part.tallies)
    )


def test_halves_of_a_trace_merge_to_the_whole() -> None:
    """The merged tallies of two halves of the intervals are the tallies of all."""
    data = HOSTS["lossy"](5)
    done, whole = run(data), collected(data)
    rows = np.concatenate((done.rows, done.ends))
    middle = len(rows) // 3
    none = np.zeros_like(whole.vcpu_counts)

    def tallied(*pieces: np.ndarray[tuple[int, int], np.dtype[np.int64]]) -> Partial:
        return partial_of(replace(whole, tallies=tally_of(pieces).columns(), vcpu_counts=none))

    together = tallied(rows)
    merged = merge([tallied(rows[:middle]), tallied(rows[middle:])])
    for name in ("tallies", "buckets"):
        assert contents(together)[name] == contents(merged)[name]
    seen = contents(partial_of(replace(whole, vcpu_counts=none)))
    assert contents(together)["tallies"] == seen["tallies"]


def test_two_labelled_hosts_stay_separate(parts: list[Partial]) -> None:
    one, other = parts[0], parts[1]
    both = merge([one.labelled("athens"), other.labelled("berne"), one.labelled("athens")])
    for name in NAMES:
        columns, was = getattr(both, name), getattr(other, name)
        assert set(columns.names) == {"host", *was.names}
        assert lists(columns.where(columns["host"] == "berne").only(was.names)) == lists(was), name
    athens = both.tallies.where(both.tallies["host"] == "athens")
    assert athens["count"].sum() == 2 * one.tallies["count"].sum()
    assert set(both.facts["host"]) == {"athens", "berne"}


def test_a_column_that_one_partial_lacks_is_left_out(parts: list[Partial]) -> None:
    """So that no sum lacks rows."""
    assert_equal(merge([parts[0].labelled("athens"), parts[1]]), merge(parts[:2]))
    extended = replace(parts[0], vcpus=parts[0].vcpus.having(ratio=0.5))
    assert_equal(merge([extended, parts[1]]), merge(parts[:2]))
    assert_equal(merge([parts[1], extended]), merge(parts[:2]))


def test_numbers_keep_their_type(parts: list[Partial]) -> None:
    merged = merge(parts)
    for name in NAMES:
        columns, was = getattr(merged, name), getattr(parts[3], name)
        assert {each: columns[each].dtype for each in columns.names} == {
            each: was[each].dtype for each in was.names
        }


def test_a_partial_agrees_with_the_simulated_host() -> None:
    simulation = simulate(9, 2, [(0, 2, "pv"), (3, 1, "hvm")], 20_000_000)
    part = partial(simulation.data)
    records = part.records.having(event=part.records["header"] & EVENT_MASK).sums(["event"], ["count"])
    events = dict(zip(records["event"].tolist(), records["count"].tolist(), strict=True))
    assert events.pop(WRAP_BUFFER, 0) == simulation.truth.fillers
    assert events == dict(simulation.truth.events)
    tallies = part.tallies
    for (domain, vcpu), truth in simulation.truth.vcpus.items():
        of = tallies.where((tallies["a"] == domain << 16 | vcpu) & (tallies["metric"] == Metric.HYPERCALL))
        found = dict(zip(of["b"].tolist(), of["count"].tolist(), strict=True))
        if domain == 0:
            assert found == dict(truth.hypercalls)


def test_a_merged_report_covers_all_files(parts: list[Partial]) -> None:
    trace = json_object(build(merge(parts)))["trace"]
    alone = [json_object(build(part))["trace"] for part in parts]
    assert trace["files"] == len(parts)
    for key in (
        "records",
        "lost_records",
        "loss_count",
        "skipped_bytes",
        "damage_count",
        "bytes_read",
        "span_cycles",
    ):
        assert trace[key] == sum(each[key] for each in alone), key
    assert trace["pcpus"] == max(each["pcpus"] for each in alone)
