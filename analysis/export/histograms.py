"""The histograms of a trace, a row for each bucket, marked as the report's figures of the same times are."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np

from xtrace.analysis.columns import Columns
from xtrace.analysis.coverage.coverage import Coverage
from xtrace.analysis.export.source import NOT_OF_VCPUS, Exported
from xtrace.analysis.measures.measures import Measures
from xtrace.analysis.measures.table import Column, Quality
from xtrace.analysis.report.build import TABLES
from xtrace.analysis.state_machine.keys import domain_of, vcpu_of
from xtrace.analysis.state_machine.metrics import FIRST_COUNT, Metric
from xtrace.analysis.summary.histogram import bucket_bounds
from xtrace.probes.reader.batches import I64

_KEY, _EXACT = Quality.KEY, Quality.EXACT
#: The report's figure of each metric: table and column.
FIGURES: Mapping[Metric, tuple[str, str]] = {
    **dict.fromkeys(
        (
            Metric.RUNNING, Metric.RUNNABLE_WAKE, Metric.RUNNABLE_PREEMPT, Metric.RUNNABLE_OTHER,
            Metric.RUNNABLE_BUDGET, Metric.BLOCKED, Metric.OFFLINE, Metric.STATE_LOST, Metric.STATE_UNKNOWN,
        ),
        ("vcpu_states", "p99_cycles"),
    ),
    Metric.DOMAIN_STATE: ("domain_states", "p99_cycles"),
    Metric.DOMAIN_UNKNOWN: ("domain_states", "p99_cycles"),
    Metric.RESIDENCE: ("residence", "p99_cycles"),
    Metric.PCPU_RUNNING: ("pcpus", "running_cycles"),
    Metric.PCPU_IDLE: ("pcpus", "idle_cycles"),
    Metric.PCPU_LOST: ("pcpus", "lost_cycles"),
    Metric.PCPU_UNKNOWN: ("pcpus", "unknown_cycles"),
    Metric.CSTATE: ("idle_states", "p99_cycles"),
    Metric.SEND_TO_WAKE: ("wakes", "send_to_wake_p99_cycles"),
    Metric.IRQ_TO_WAKE: ("wakers", "p99_cycles"),
    Metric.WAKE_TO_RUNNABLE: ("wakes", "wake_to_runnable_p99_cycles"),
    Metric.WAKE_TO_RUNNING: ("wakes", "wake_to_running_p99_cycles"),
    Metric.RUNNING_TO_GUEST: ("upcalls", "running_to_entry_most_p99_cycles"),
    Metric.UPCALL_MAX: ("upcalls", "upcall_most_p99_cycles"),
    Metric.UPCALL_MIN: ("upcalls", "upcall_least_p99_cycles"),
    Metric.FORCED_CALLBACK: ("upcalls", "forced_to_iret_p99_cycles"),
    Metric.INJECTION_TO_ENTRY: ("injections", "injection_to_entry_p99_cycles"),
    Metric.INTR_WINDOW_WAIT: ("injections", "window_wait_p99_cycles"),
    Metric.HVM_UPCALL: ("injections", "upcall_p99_cycles"),
    Metric.HVM_EXIT: ("vm_exits", "p99_cycles"),
    Metric.ACCESS: ("accesses", "p99_cycles"),
    Metric.ADDRESS_SPACE: ("address_spaces", "sum_cycles"),
    Metric.ADDRESS_SPACE_GUEST: ("address_spaces", "guest_cycles"),
    Metric.ADDRESS_SPACE_XEN: ("address_spaces", "xen_cycles"),
    Metric.IPI_TO_ENTRY: ("ipis", "p99_cycles"),
    Metric.WAKE_TO_HALT: ("wake_to_halts", "p99_cycles"),
    Metric.IRQ_HANDLING: ("irqs", "p99_cycles"),
    Metric.EVENT_TO_UPCALL: ("ports", "event_to_upcall_p99_cycles"),
    Metric.EVENT_FROM: ("event_sources", "event_to_upcall_p99_cycles"),
    Metric.MARK_TO_UPCALL: ("recorded_upcalls", "mark_to_entry_p99_cycles"),
    Metric.UPCALL: ("recorded_upcalls", "upcall_p99_cycles"),
    Metric.MASKED_WAIT: ("masked_waits", "outside_wait_p99_cycles"),
}  # fmt: skip
#: Metrics that the report shows only together with others, or in findings, and how they are known at best.
_OTHERS = {
    Metric.OPEN: Quality.BOUNDED,
    Metric.SKEW_NOT_FROM: Quality.BOUNDED,
    Metric.SKEW_NOT_TO: Quality.BOUNDED,
    Metric.UNPROVEN: Quality.INFERRED,
    Metric.DOMAIN_PART: Quality.INFERRED,
}
COLUMNS = (
    Column("metric", _KEY, "what was measured: a name of state_machine/metrics.py"),
    Column("domain", _KEY, "domain id, -1 where it is not of a vCPU"),
    Column("vcpu", _KEY, "number of the vCPU, -1 likewise"),
    Column("subject", _KEY, "where it is not of a vCPU: pCPU, irq or domain, as the metric says; else -1"),
    Column("argument", _KEY, "second key of the metric, such as an exit reason or an irq"),
    Column("low_cycles", _EXACT, "least value of the bucket, included"),
    Column("high_cycles", _EXACT, "greatest value of the bucket, included"),
    Column("count", _EXACT, "number of values in the bucket"),
    Column("quality", _KEY, "how the values are known, as in the report: exact, bounded or inferred"),
)


def histograms(exported: Exported) -> Columns:
    """Return the buckets of all metrics with values, but of those that are not recorded."""
    buckets = exported.partial.buckets
    buckets = buckets.where((buckets["metric"] < FIRST_COUNT) & (buckets["count"] > 0))
    of_vcpu = ~np.isin(buckets["metric"], NOT_OF_VCPUS)
    if exported.has_filter:
        chosen = ~of_vcpu | exported.is_wanted(buckets["a"])
        buckets = buckets.where(chosen)
    metrics = [Metric(metric) for metric in np.unique(buckets["metric"]).tolist()]
    known = qualities(Measures(exported.partial, exported.versions, exported.report.hz), metrics)
    recorded = [metric for metric in metrics if known[metric] is not Quality.ABSENT]
    buckets = buckets.where(np.isin(buckets["metric"], recorded))
    of_vcpu = ~np.isin(buckets["metric"], NOT_OF_VCPUS)
    low, high = bucket_bounds(buckets["bucket"])
    place = np.searchsorted(np.array(recorded, np.int64), buckets["metric"])
    names = np.array([metric.name.lower() for metric in recorded], object)
    marks = np.array([str(known[metric]) for metric in recorded], object)
    a: I64 = buckets["a"]
    return Columns(
        {
            "metric": names[place],
            "domain": np.where(of_vcpu, domain_of(a), -1),
            "vcpu": np.where(of_vcpu, vcpu_of(a), -1),
            "subject": np.where(of_vcpu, -1, a),
            "argument": buckets["b"],
            "low_cycles": low,
            "high_cycles": high,
            "count": buckets["count"],
            "quality": marks[place],
        },
        len(buckets),
    )


def qualities(measures: Measures, metrics: Collection[Metric]) -> dict[Metric, Quality]:
    """Return how the values of metrics are known in a trace."""
    tables = {table.name: table for table in TABLES}
    names = {FIGURES[metric][0] for metric in metrics if metric in FIGURES}
    made = {name: tables[name].of(measures, measures.coverage).quality for name in names}
    found = {}
    for metric in metrics:
        table, column = FIGURES.get(metric, ("", ""))
        found[metric] = made[table][column] if table else _other(metric, measures.coverage)
    return found


def _other(metric: Metric, coverage: Coverage) -> Quality:
    whole = coverage.knows_all_time and coverage.is_whole and not coverage.is_skewed
    return _OTHERS.get(metric, Quality.EXACT) if whole else Quality.INFERRED
