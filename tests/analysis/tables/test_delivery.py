"""The delivery tables of hand-made tallies: each figure is of its own vCPU only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from builders.covering import everything
from builders.partials import collected
from oracle.runs import tally_of
from xtrace.analysis.columns import Columns
from xtrace.analysis.coverage.needs import Records
from xtrace.analysis.measures.measures import Measures
from xtrace.analysis.measures.table import Quality, Table
from xtrace.analysis.state_machine.metrics import MAY_BE_AWAKE, METRIC_SHIFT, Metric, WakeCause
from xtrace.analysis.summary.partial import partial_of
from xtrace.analysis.tables import delivery
from xtrace.probes.catalog import VersionRange

#: Three vCPUs; no number of one occurs in another.
D0V1, D3V0, D3V2 = 0x0_0001, 0x3_0000, 0x3_0002
SPAN_CYCLES, HZ = 4_000, 1_000.0
EVTCHN, HYPERCALL, IRQ, OTHER, UNKNOWN = (int(cause) << 32 for cause in WakeCause)
SCHED_OP, NO_SUCH_OP = 29, 77

#: Metric, a, b, values: cycles below 64, which have a bucket each; for metrics that count, a number of zeros.
Tally = tuple[Metric, int, int, Sequence[int]]

TALLIES: list[Tally] = [
    (Metric.WAKE_CAUSE, D0V1, EVTCHN, [0] * 7),
    (Metric.WAKE_CAUSE, D0V1, HYPERCALL | SCHED_OP, [0] * 2),
    (Metric.WAKE_CAUSE, D0V1, HYPERCALL | NO_SUCH_OP, [0]),
    (Metric.WAKE_CAUSE, D0V1, IRQ | 9, [0] * 3),
    (Metric.WAKE_CAUSE, D0V1, IRQ | 11, [0]),
    (Metric.WAKE_CAUSE, D0V1, OTHER, [0] * 5),
    (Metric.WAKE_CAUSE, D3V0, EVTCHN, [0] * 4),
    (Metric.WAKE_CAUSE, D3V0, UNKNOWN, [0] * 4),
    (Metric.WAKE_CAUSE, D3V0, UNKNOWN | MAY_BE_AWAKE, [0] * 2),
    (Metric.WAKE_CAUSE, D3V2, OTHER, [0] * 2),
    (Metric.WAKE_WITHOUT_EFFECT, D3V0, 0, [0] * 8),
    (Metric.WAKE_TO_RUNNING, D0V1, 0, [10, 12, 14]),
    (Metric.WAKE_TO_RUNNING, D0V1, 1, [20]),
    (Metric.WAKE_TO_RUNNING, D3V0, 1, [30, 40]),
    (Metric.WAKE_TO_RUNNABLE, D0V1, 0, [1, 2, 3]),
    (Metric.RUNNABLE_WAKE, D0V1, 0, [4, 5, 60]),
    (Metric.SEND_TO_WAKE, D0V1, D3V0, [5, 6, 7, 8]),
    (Metric.SEND_TO_WAKE, D0V1, D3V2, [9, 9, 50]),
    (Metric.SEND_TO_WAKE, D3V0, D0V1, [3, 4, 4, 4]),
    (Metric.IRQ_TO_WAKE, D0V1, 9, [2, 2, 33]),
    (Metric.IRQ_TO_WAKE, D0V1, 11, [1]),
    (Metric.SEND, D0V1, 0, [0] * 20),
    (Metric.SEND, D3V0, 0, [0] * 9),
    (Metric.SEND, D3V2, 0, [0] * 3),
]


def measures(tallies: Sequence[Tally], *, hz: float | None = HZ) -> Measures:
    """Return the measures of intervals; the span is four seconds."""
    rows = [
        (int(metric) << METRIC_SHIFT | a, b, value, 1) for metric, a, b, values in tallies for value in values
    ]
    tallied = tally_of([np.array(rows, np.int64).reshape(-1, 4)]).columns()
    part = partial_of(replace(collected(b""), tallies=tallied))
    part = replace(part, facts=part.facts.having(span_cycles=SPAN_CYCLES))
    return Measures(part, VersionRange(), hz)


def made(name: str, tallies: Sequence[Tally] = TALLIES, *, hz: float | None = HZ) -> Columns:
    table = next(table for table in delivery.TABLES if table.name == name)
    found = table.of(measures(tallies, hz=hz), everything())
    assert found.quality == {column.name: column.quality for column in table.columns}
    return found.columns


def rows(table: Columns, *columns: str) -> list[tuple[Any, ...]]:
    """Return the rows of some columns, None for NaN."""
    return [
        tuple(None if value != value else value for value in row.values())
        for row in table.only(columns).rows()
    ]


WHO = ("domain", "vcpu")


@pytest.mark.parametrize("lacking", list(Records), ids=lambda records: records.name.lower())
@pytest.mark.parametrize("table", delivery.TABLES, ids=lambda table: table.name)
def test_figures_are_absent_where_the_trace_lacks_what_they_need(
    table: Table[Measures], lacking: Records
) -> None:
    found = table.of(measures(TALLIES), everything(lacking))
    full = made(table.name)
    absent = {column.name for column in table.columns if lacking in table.needs_of(column)} - {
        column.name for column in table.columns if column.quality is Quality.KEY
    }
    assert {name for name, quality in found.quality.items() if quality is Quality.ABSENT} == absent
    figures = {column.name for column in table.columns if column.quality is not Quality.KEY}
    assert len(found.columns) == (0 if figures == absent else len(full))
    for name in full.names:
        if name in absent:
            assert np.isnan(found.columns[name]).all()
        elif figures != absent:
            assert rows(found.columns, name) == rows(full, name)


def test_wakes_by_cause() -> None:
    table = made("wakes")
    columns = (
        "wake_count",
        "wake_per_s",
        "event_channel_count",
        "irq_count",
        "hypercall_count",
        "other_count",
    )
    assert rows(table, *WHO, *columns, "unknown_count", "wake_without_effect_count") == [
        (3, 0, 8, 2.0, 4, 0, 0, 0, 4, 8),
        (0, 1, 19, 4.75, 7, 4, 3, 5, 0, 0),
        (3, 2, 2, 0.5, 0, 0, 0, 2, 0, 0),
    ]


def test_worst_wake_to_running_is_first_and_each_time_comes_from_its_own_metric() -> None:
    table = made("wakes")
    running = [f"wake_to_running_{name}" for name in ("p50_cycles", "p95_cycles", "p99_cycles", "max_cycles")]
    assert rows(table, *WHO, "wake_to_running_count", *running, "other_pcpu_ratio") == [
        (3, 0, 2, 30, 40, 40, 40, 1.0),
        (0, 1, 4, 12, 20, 20, 20, 0.25),
        (3, 2, 0, None, None, None, None, None),
    ]
    others = ("wake_to_runnable_p50_cycles", "wake_to_runnable_max_cycles")
    assert rows(table, *others)[1] == (2, 3)
    assert rows(table, "runnable_to_running_p50_cycles", "runnable_to_running_max_cycles")[1] == (5, 60)
    sent = (
        "send_to_wake_count",
        "send_to_wake_p50_cycles",
        "send_to_wake_p99_cycles",
        "send_to_wake_max_cycles",
    )
    assert rows(table, *sent) == [(4, 4, 4, 4), (7, 8, 50, 50), (0, None, None, None)]


def test_who_wakes_whom() -> None:
    table = made("wakers")
    assert rows(table, *WHO, "waker", "latency", "count", "per_s", "p50_cycles", "max_cycles") == [
        (0, 1, "timer or other", "", 5, 1.25, None, None),
        (0, 1, "d3v0", "send", 4, 1.0, 6, 8),
        (3, 0, "d0v1", "send", 4, 1.0, 4, 4),
        (3, 0, "unknown", "", 4, 1.0, None, None),
        (0, 1, "d3v2", "send", 3, 0.75, 9, 50),
        (0, 1, "irq 9", "irq", 3, 0.75, 2, 33),
        (0, 1, "hypercall sched_op", "", 2, 0.5, None, None),
        (3, 2, "timer or other", "", 2, 0.5, None, None),
        (0, 1, "irq 11", "irq", 1, 0.25, 1, 1),
        (0, 1, "hypercall 77", "", 1, 0.25, None, None),
    ]


def test_sends_and_those_that_woke() -> None:
    table = made("sends")
    assert rows(table, *WHO, "send_count", "send_per_s", "woke_count", "woke_ratio") == [
        (0, 1, 20, 5.0, 4, 0.2),
        (3, 0, 9, 2.25, 4, 4 / 9),
        (3, 2, 3, 0.75, 3, 1.0),
    ]


def test_equal_rows_keep_the_order_of_vcpus() -> None:
    """So the order of equal rows is not random."""
    vcpus = [domain << 16 | vcpu for domain in range(40) for vcpu in range(2)]
    who = [(key >> 16, key & 0xFFFF) for key in vcpus]
    metrics = (Metric.WAKE_CAUSE, Metric.SEND)
    tallies = [
        (metric, key, OTHER if metric == Metric.WAKE_CAUSE else 0, [0]) for key in vcpus for metric in metrics
    ]
    tallies += [(Metric.WAKE_TO_RUNNING, key, 0, [9]) for key in vcpus]
    for name in ("wakes", "wakers", "sends"):
        assert rows(made(name, tallies), *WHO) == who, name


@pytest.mark.parametrize("name", [table.name for table in delivery.TABLES])
def test_empty_input_gives_the_same_columns(name: str) -> None:
    assert made(name, []).names == made(name).names
    assert len(made(name, [])) == 0


@pytest.mark.parametrize("name", ["wakes", "wakers", "sends"])
def test_without_a_tsc_rate_there_are_no_rates_per_second(name: str) -> None:
    table = made(name, hz=None)
    (rate,) = [column for column in table.names if column.endswith("per_s")]
    assert np.isnan(table[rate]).all()


@pytest.mark.parametrize(
    ("dropped", "name", "there"),
    [
        (Metric.SEND_TO_WAKE, "wakers", ["irq 9", "irq 11"]),
        (Metric.IRQ_TO_WAKE, "wakers", ["d0v1", "d3v0", "d3v2"]),
        (Metric.WAKE_CAUSE, "wakers", ["irq 9", "d3v0"]),
    ],
)
def test_wakers_without_one_kind(dropped: Metric, name: str, there: list[str]) -> None:
    wakers = made(name, [tally for tally in TALLIES if tally[0] is not dropped])["waker"]
    assert set(there) <= set(wakers)
