"""Tables of where the time of vCPUs, domains and pCPUs went.

Only records close intervals: one that the start or end of the trace cuts off counts towards the time
(open_cycles) but not towards the quantiles.  After lost records the state of a vCPU is unknown until
it is seen to run; that time is the state "lost".
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from xtrace.analysis.measures.lookup import counted, with_vcpu
from xtrace.analysis.measures.measures import Measures
from xtrace.analysis.measures.table import DOMAIN, TAIL, VCPU, Column, Quality, Table
from xtrace.analysis.state_machine.metrics import STATE_LOST, DomainState, Metric

_EXACT = Quality.EXACT

_STATES = {
    Metric.RUNNING: "running",
    Metric.RUNNABLE_WAKE: "runnable/wake",
    Metric.RUNNABLE_PREEMPT: "runnable/preempt",
    Metric.RUNNABLE_OTHER: "runnable/other",
    Metric.BLOCKED: "blocked",
    Metric.OFFLINE: "offline",
    Metric.STATE_LOST: "lost",
}
#: The state whose row gets an interval that is open at the end of the trace, by Xen's runstate.
_OPEN_STATES = {0: "running", 1: "runnable/open", 2: "blocked", 3: "offline", STATE_LOST: "lost"}
_RESIDENCE_TAIL = 1 << 20
_STATISTICS = ("count", "sum_cycles", "mean_cycles", "min_cycles", *TAIL[1:])


def vcpu_states(measures: Measures) -> pd.DataFrame:
    """Return the time of each vCPU in each runstate, by vCPU and in the order of _STATES."""
    closed = pd.concat(
        [
            measures.times(metric).assign(state=name, rank=rank)
            for rank, (metric, name) in enumerate(_STATES.items())
        ]
    )
    tails = measures.counts(Metric.TAIL)
    tails = tails[tails["b"] < _RESIDENCE_TAIL]
    open_ = pd.DataFrame(
        {"a": tails["a"], "state": tails["b"].map(_OPEN_STATES), "open_cycles": tails["sum_cycles"]}
    )
    heads = measures.counts(Metric.HEAD)
    head = pd.DataFrame({"a": heads["a"], "state": "unknown", "open_cycles": heads["sum_cycles"]})
    opened = pd.concat((open_, head)).groupby(["a", "state"], as_index=False)["open_cycles"].sum()
    opened = opened[opened["open_cycles"] > 0]
    table = closed[["a", "state", "rank", *_STATISTICS]].merge(opened, on=["a", "state"], how="outer")
    table["rank"] = table["rank"].fillna(len(_STATES))
    for name in ("count", "sum_cycles", "open_cycles"):
        table[name] = table[name].fillna(0).astype("int64")
    table["total_cycles"] = table["sum_cycles"] + table["open_cycles"]
    table["share_ratio"] = measures.of_span(table["total_cycles"])
    return with_vcpu(table).sort_values(["domain", "vcpu", "rank"])


def domain_states(measures: Measures) -> pd.DataFrame:
    """Return the time of each domain in each DomainState."""
    table = measures.times_by_b(Metric.DOMAIN_STATE)
    states = {int(state): state.name.lower() for state in DomainState}
    table = table.assign(domain=table["a"], state=table["b"].map(states))
    table["share_ratio"] = measures.of_span(table["sum_cycles"])
    return table.sort_values(["a", "b"])


def pcpus(measures: Measures) -> pd.DataFrame:
    """Return, by pCPU, how long it ran guests, was idle or lost records."""
    table = measures.partial.pcpus.groupby("pcpu", as_index=False).agg(
        {"first_tsc": "min", "last_tsc": "max", "blind_cycles": "sum", "window_bytes": "sum"}
    )
    keys = table["pcpu"].to_numpy(np.int64)
    for name, metric in (
        ("running", Metric.PCPU_RUNNING),
        ("idle", Metric.PCPU_IDLE),
        ("lost", Metric.PCPU_LOST),
    ):
        cycles = counted(keys, measures.times(metric), column="sum_cycles")
        table[f"{name}_cycles"] = cycles
        table[f"{name}_ratio"] = measures.of_span(cycles)
    losses = measures.counts(Metric.LOST_RECORDS)
    table["loss_count"] = counted(keys, losses)
    table["lost_record_count"] = counted(keys, losses, column="sum_cycles")
    return table


def residence(measures: Measures) -> pd.DataFrame:
    """Return how long each vCPU stayed on each pCPU, and how often it moved away."""
    table = measures.times_by_b(Metric.RESIDENCE).rename(columns={"b": "pcpu", "count": "migration_count"})
    tails = measures.counts(Metric.TAIL)
    tails = tails[tails["b"] >= _RESIDENCE_TAIL]
    open_ = pd.DataFrame(
        {"a": tails["a"], "pcpu": tails["b"] % _RESIDENCE_TAIL, "open_cycles": tails["sum_cycles"]}
    )
    columns = ["a", "pcpu", "migration_count", "sum_cycles", "mean_cycles", *TAIL[1:]]
    table = table[columns].merge(open_, on=["a", "pcpu"], how="outer")
    for name in ("migration_count", "sum_cycles", "open_cycles"):
        table[name] = table[name].fillna(0).astype("int64")
    table["total_cycles"] = table["sum_cycles"] + table["open_cycles"]
    table["share_ratio"] = measures.of_span(table["total_cycles"])
    table["migration_per_s"] = measures.per_second(table["migration_count"])
    return with_vcpu(table).sort_values(["domain", "vcpu", "pcpu"])


def _statistics(what: str, shown: dict[str, str]) -> tuple[Column, ...]:
    return tuple(
        Column(name, _EXACT, f"{what}: {name.removesuffix('_cycles')}", shown.get(name))
        for name in ("mean_cycles", "p50_cycles", "p95_cycles", "p99_cycles", "max_cycles")
    )


_SHOWN = {"mean_cycles": "mean", "p50_cycles": "p50", "p99_cycles": "p99", "max_cycles": "max"}
_SHARE = Column("share_ratio", _EXACT, "share of the trace's span", "share")

TABLES = (
    Table(
        "vcpu_states",
        "runstates",
        "vCPU runstates",
        vcpu_states,
        (
            DOMAIN,
            VCPU,
            Column("state", Quality.KEY, "runstate; runnable is split by the state before it", "state"),
            Column("count", _EXACT, "intervals with both ends in the trace", "count"),
            Column("total_cycles", _EXACT, "time in the state: sum_cycles plus open_cycles", "total"),
            _SHARE,
            *_statistics("closed intervals", _SHOWN),
            Column("sum_cycles", _EXACT, "time in closed intervals", None),
            Column("open_cycles", _EXACT, "time in intervals cut off by the start or end of the trace", None),
        ),
    ),
    Table(
        "domain_states",
        "runstates",
        "Domain states",
        domain_states,
        (
            DOMAIN,
            Column(
                "state",
                Quality.KEY,
                "full_*: all vCPUs; concurrency_hazard: some run while others wait for a pCPU",
                "state",
            ),
            Column("count", _EXACT, "number of intervals", "count"),
            Column("sum_cycles", _EXACT, "time in the state", "total"),
            _SHARE,
            *_statistics("intervals", _SHOWN),
        ),
    ),
    Table(
        "pcpus",
        "runstates",
        "pCPU use",
        pcpus,
        (
            Column("pcpu", Quality.KEY, "physical CPU", "pcpu"),
            Column("running_ratio", _EXACT, "share of the span in which a guest ran", "running"),
            Column("idle_ratio", _EXACT, "share of the span in which the idle domain ran", "idle"),
            Column("lost_ratio", _EXACT, "share of the span in which records were lost", "lost"),
            Column("loss_count", _EXACT, "gaps in which records were lost", "gaps"),
            Column("lost_record_count", _EXACT, "records lost in these gaps", "lost records"),
            Column("window_bytes", _EXACT, "bytes in the pCPU's windows", "bytes"),
            Column("running_cycles", _EXACT, "time in which a guest ran", None),
            Column("idle_cycles", _EXACT, "time in which the idle domain ran", None),
            Column("lost_cycles", _EXACT, "time in which records were lost", None),
            Column("first_tsc", _EXACT, "TSC of its first record", None),
            Column("last_tsc", _EXACT, "TSC of its last record", None),
        ),
    ),
    Table(
        "residence",
        "runstates",
        "vCPU time on each pCPU, and migrations",
        residence,
        (
            DOMAIN,
            VCPU,
            Column("pcpu", Quality.KEY, "the pCPU that the vCPU was on", "pcpu"),
            Column("migration_count", _EXACT, "migrations away from this pCPU", "moves"),
            Column("migration_per_s", _EXACT, "these migrations per second", "/s"),
            Column(
                "total_cycles",
                _EXACT,
                "time from the first run here to the first run elsewhere or the end of the trace",
                "total",
            ),
            _SHARE,
            *_statistics("stays", {"mean_cycles": "mean", "p50_cycles": "p50", "max_cycles": "max"}),
        ),
    ),
)
