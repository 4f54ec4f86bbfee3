"""Single events as frames, against the reference machines over a whole sample."""

from __future__ import annotations

import functools
import lzma
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from builders.cut import of_classes, packed, windows_of
from oracle import machine as oracle
from oracle.machine import IDLE, Result
from oracle.reader import read as read_slowly
from oracle.reading import SAMPLES
from xtrace import samples
from xtrace.analysis import events
from xtrace.analysis.export.kinds import KINDS
from xtrace.analysis.measures.table import Quality
from xtrace.analysis.state_machine.metrics import Detail, Metric
from xtrace.probes.selection.times import Moment

HVM = next(path for path in SAMPLES if "pvh" in path.name)
PV = samples.path()
Row = tuple[int, ...]


@functools.cache
def machines(path: Path) -> Result:
    return oracle.run(read_slowly(lzma.decompress(path.read_bytes())).records_and_holes)


@functools.cache
def frame(path: Path, kind: str) -> pd.DataFrame:
    found = list(events(path, kind))
    assert all(len(each) for each in found)
    columns = [column.name for column in KINDS[kind].table.columns]
    assert all(list(each.columns) == columns for each in found)
    return pd.concat(found) if found else pd.DataFrame({name: [] for name in columns})


def vcpu(key: int) -> tuple[int, int]:
    return key >> 16, key & 0xFFFF


def expected(path: Path, metric: Metric, row: Callable[..., Row]) -> Counter[Row]:
    return Counter(row(*each[1:]) for each in machines(path).intervals if each.metric is metric)


#: Of each kind: its metric, the columns that are compared, and the same of the reference machines.
COMPARED: list[tuple[str, Metric, list[str], Callable[..., Row]]] = [
    (
        "wakes", Metric.WAKE_TO_RUNNING,
        ["domain", "vcpu", "wake_tsc", "running_tsc", "is_moved", "is_paused", "is_unproven"],
        lambda a, b, value, tsc: (*vcpu(a), tsc - value, tsc, b & 1, b >> 1 & 1, b >> 2 & 1),
    ),
    (
        "wake_causes", Metric.WAKE_CAUSE, ["domain", "vcpu", "wake_tsc", "argument"],
        lambda a, b, value, tsc: (*vcpu(a), tsc, b & 0xFFFF_FFFF),
    ),
    (
        "sends", Metric.SEND_TO_WAKE,
        ["domain", "vcpu", "sender_domain", "sender_vcpu", "wake_tsc", "send_to_wake_cycles"],
        lambda a, b, value, tsc: (*vcpu(a), *vcpu(b), tsc, value),
    ),
    (
        "forced_callbacks", Metric.FORCED_CALLBACK, ["domain", "vcpu", "begin_tsc", "end_tsc"],
        lambda a, b, value, tsc: (*vcpu(a), tsc - value, tsc),
    ),
    (
        "exits", Metric.HVM_EXIT, ["domain", "vcpu", "reason", "begin_tsc", "exit_cycles"],
        lambda a, b, value, tsc: (*vcpu(a), b, tsc - value, value),
    ),
    (
        "injections", Metric.INJECTION_TO_ENTRY, ["domain", "vcpu", "vector", "begin_tsc", "end_tsc"],
        lambda a, b, value, tsc: (*vcpu(a), b, tsc - value, tsc),
    ),
    (
        "irqs", Metric.IRQ_HANDLING, ["irq", "pcpu", "begin_tsc", "irq_cycles"],
        lambda a, b, value, tsc: (a, b, tsc - value, value),
    ),
    (
        "rips", Metric.RIP, ["domain", "vcpu", "tsc", "rip"],
        lambda a, b, value, tsc: (*vcpu(a & 0xFFFF_FFFF), tsc, b % 2**64),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "metric", "columns", "row"), COMPARED, ids=[each[0] for each in COMPARED])
@pytest.mark.parametrize("sample", [PV, HVM], ids=["pv", "hvm"])
def test_each_event_is_that_of_the_reference_machines(
    sample: Path, kind: str, metric: Metric, columns: list[str], row: Callable[..., Row]
) -> None:
    found = Counter(tuple(map(int, each)) for each in frame(sample, kind)[columns].itertuples(index=False))
    assert found == expected(sample, metric, row)


def test_runs_and_their_ends() -> None:
    """A run's next state is the runstate that the reference machines see the vCPU change to then."""
    names = {"runnable": 1, "blocked": 2, "offline": 3}
    runs = frame(PV, "runs")
    whole = runs[~runs["is_open"]]
    details = machines(PV).details
    ended = [each for each in details if each.detail is Detail.RUN and each.b & 1]
    assert Counter(zip(whole["begin_tsc"], whole["pcpu"], whole["run_cycles"], strict=True)) == Counter(
        (each.tsc - each.value, each.b >> 1, each.value) for each in ended
    )
    changes = {
        (each.a, each.tsc): each.b & 0xF
        for each in details if each.detail is Detail.STATE and each.b >> 4 == 0
    }  # fmt: skip
    keys = whole["domain"] * 65536 + whole["vcpu"]
    found = [names[state] for state in whole["next_state"]]
    assert found == [changes[key, tsc] for key, tsc in zip(keys, whole["end_tsc"], strict=True)]


def test_runstates_add_up_to_the_span() -> None:
    states = frame(PV, "runstates")
    sums = states.groupby(["domain", "vcpu"])["state_cycles"].sum()
    assert set(sums) == {max(each.tsc for each in machines(PV).ends) - states["begin_tsc"].min()}
    assert set(states["domain"]) == {0, 1, 2}


def test_upcalls_are_bounded_on_both_sides() -> None:
    found = frame(PV, "upcalls")
    most, least = (
        Counter(each.value for each in machines(PV).intervals if each.metric is metric)
        for metric in (Metric.UPCALL_MAX, Metric.UPCALL_MIN)
    )
    assert Counter(found["upcall_most_cycles"]) == most
    assert Counter(found["upcall_least_cycles"]) == least
    assert (found["upcall_least_cycles"] <= found["upcall_most_cycles"]).all()


def test_hypercalls_are_counted_as_in_the_report() -> None:
    found = frame(PV, "hypercalls")
    found = found[~found["is_in_multicall"]]
    counted = Counter(zip(found["domain"], found["vcpu"], found["op"], strict=True))
    assert counted == {
        (*vcpu(each.a), each.b): number
        for each, number in machines(PV).counts.items() if each.metric is Metric.HYPERCALL
    }  # fmt: skip


def test_a_window_of_one_domain() -> None:
    whole = frame(PV, "wakes")
    part = pd.concat(events(PV, "wakes", domains=[1], begin=Moment.parse("1s"), end=Moment.parse("2s")))
    first = min(machines(PV).details, key=lambda each: each.tsc - each.value)
    hz = events(PV, "wakes").hz
    assert hz is not None
    since = (whole["running_tsc"] - (first.tsc - first.value)) / hz
    expected = whole[(whole["domain"] == 1) & (since >= 1) & (since < 2)]
    assert len(expected)
    assert part.reset_index(drop=True).equals(expected.reset_index(drop=True))


def test_marks_fall_with_what_the_trace_lacks(tmp_path: Path) -> None:
    """Of a trace without records of PV guests, nothing is known of their calls."""
    path = tmp_path / "t.bin"
    path.write_bytes(packed(of_classes(windows_of(lzma.decompress(PV.read_bytes())), "sched")))
    assert events(PV, "hypercalls").quality["op"] is Quality.EXACT
    assert events(path, "hypercalls").quality["op"] is Quality.ABSENT


def test_an_unknown_kind_is_named() -> None:
    with pytest.raises(ValueError, match="'naps' is not one of runs, runstates, wakes"):
        events(PV, "naps")


def test_all_kinds_give_frames_of_their_types() -> None:
    for kind in KINDS:
        found = frame(PV, kind)
        for name in found.columns:
            if name.endswith(("_tsc", "_cycles")) and len(found):
                assert found[name].dtype == np.int64
            if name.startswith("is_") and len(found):
                assert found[name].dtype == np.bool_
    assert {IDLE} < set(frame(PV, "runs")["domain"])
