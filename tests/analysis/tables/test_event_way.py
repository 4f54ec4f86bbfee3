"""The way of an event: its figures are those of the tables that measure each stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders.partials import partial
from builders.reported import SAMPLES, report, rows
from xtrace.analysis.measures.measures import Measures
from xtrace.analysis.state_machine.metrics import SUB_BUCKETS
from xtrace.analysis.summary.histogram import bucket_bounds
from xtrace.analysis.tables import event_way
from xtrace.probes.catalog import VersionRange
from xtrace.probes.xen_abi import DEFAULT_DOMAIN, IDLE_DOMAIN

#: Stage, and the table and prefix that it must agree with.
ELSEWHERE = {
    "send_to_wake": ("wakes", "send_to_wake"),
    "wake_to_runnable": ("wakes", "wake_to_runnable"),
    "runnable_to_running": ("wakes", "runnable_to_running"),
    "wake_to_running": ("wakes", "wake_to_running"),
    "running_to_entry_most": ("upcalls", "running_to_entry_most"),
    "running_to_iret_most": ("upcalls", "upcall_most"),
    "mark_to_entry": ("recorded_upcalls", "mark_to_entry"),
    "entry_to_iret": ("recorded_upcalls", "upcall"),
}
IDS = [path.name.split(".")[0] for path in SAMPLES]


def keyed(table: list[dict[str, Any]]) -> dict[tuple[int, int], dict[str, Any]]:
    return {
        (row["domain"], row["vcpu"]): row
        for row in table
        if row["domain"] not in (IDLE_DOMAIN, DEFAULT_DOMAIN)
    }


@pytest.mark.parametrize("path", SAMPLES, ids=IDS)
@pytest.mark.parametrize("stage", ELSEWHERE)
def test_stages_agree_with_the_tables_that_measure_them(path: Path, stage: str) -> None:
    table, prefix = ELSEWHERE[stage]
    ways, others = keyed(rows(path, "event_way")), keyed(rows(path, table))
    assert set(others) <= set(ways)
    known = report(path)["tables"]
    for statistic in ("p50_cycles", "p99_cycles"):
        mine, theirs = f"{stage}_{statistic}", f"{prefix}_{statistic}"
        assert known["event_way"]["quality"][mine] == known[table]["quality"][theirs]
        for key, row in others.items():
            assert ways[key][mine] == row[theirs], (key, mine)
        assert all(ways[key][mine] is None for key in set(ways) - set(others))


@pytest.mark.parametrize("path", SAMPLES, ids=IDS)
def test_shares_are_those_of_the_states(path: Path) -> None:
    table = rows(path, "event_way")
    assert table
    for row in table:
        states = [
            each
            for each in rows(path, "vcpu_states")
            if (each["domain"], each["vcpu"]) == (row["domain"], row["vcpu"])
        ]
        for name in ("running", "runnable"):
            of_state = sum(each["share_ratio"] for each in states if each["state"].startswith(name))
            share = row[f"{'waiting' if name == 'runnable' else name}_share_ratio"]
            assert share == pytest.approx(of_state, abs=1e-9)
    waiting = [row["waiting_share_ratio"] for row in table]
    assert waiting == sorted(waiting, reverse=True)


@pytest.mark.parametrize("path", SAMPLES, ids=IDS)
def test_the_spread_counts_every_wake_in_its_octave(path: Path) -> None:
    spread = rows(path, "wake_spread")
    for key, row in keyed(rows(path, "wakes")).items():
        octaves = [each for each in spread if (each["domain"], each["vcpu"]) == key]
        assert sum(each["count"] for each in octaves) == row["wake_to_running_count"]
        if not octaves:
            continue
        assert all(each["low_cycles"] == 1 << (each["low_cycles"].bit_length() - 1) for each in octaves)
        last = octaves[-1]["low_cycles"]
        assert last <= row["wake_to_running_max_cycles"] < 2 * last
        counts = np.cumsum([each["count"] for each in octaves])
        middle = octaves[int(np.searchsorted(counts, np.ceil(counts[-1] / 2)))]["low_cycles"]
        assert middle <= row["wake_to_running_p50_cycles"] <= 2 * middle


def test_octaves_begin_where_buckets_do() -> None:
    """A bucket belongs to the octave of each value in it."""
    buckets = np.arange(SUB_BUCKETS * 40)
    least, greatest = bucket_bounds(buckets)
    same = [
        low.bit_length() == high.bit_length()
        for low, high in zip(least.tolist(), greatest.tolist(), strict=True)
    ]
    assert all(same)


def test_an_hvm_guest_has_the_times_of_injections() -> None:
    (path,) = (path for path in SAMPLES if path.name.startswith("xen417-pvh-all"))
    ways = keyed(rows(path, "event_way"))
    injected: dict[tuple[int, int], list[dict[str, Any]]] = {}
    for row in rows(path, "injections"):
        injected.setdefault((row["domain"], row["vcpu"]), []).append(row)
    assert injected
    for key, vectors in injected.items():
        for mine, theirs in (("injection_to_entry_most", "injection_to_entry"), ("entry_to_exit", "upcall")):
            assert ways[key][f"{mine}_count"] == sum(row[f"{theirs}_count"] for row in vectors)
            measured = [row for row in vectors if row[f"{theirs}_p50_cycles"] is not None]
            p50s = [row[f"{theirs}_p50_cycles"] for row in measured]
            assert min(p50s) <= ways[key][f"{mine}_p50_cycles"] <= max(p50s)


def test_a_trace_without_records_has_no_rows() -> None:
    measures = Measures(partial(b""), VersionRange())
    assert (len(event_way.event_way(measures)), len(event_way.wake_spread(measures))) == (0, 0)
