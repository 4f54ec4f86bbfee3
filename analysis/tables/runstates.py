"""Tables of where the time of vCPUs, domains and pCPUs went.

Only records close intervals: one that the start or end of the trace cuts off counts towards the time
(open_cycles) but not towards the quantiles.  After lost records the state of a vCPU is unknown until
it is seen to run; that time is the state "lost".
"""

from __future__ import annotations

import numpy as np

from xtrace.analysis.columns import Columns, joined, text
from xtrace.analysis.measures.lookup import counted, merged, whole, with_vcpu
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


def vcpu_states(measures: Measures) -> Columns:
    """Return the time of each vCPU in each runstate, by vCPU and in the order of _STATES."""
    closed = joined(
        [
            measures.times(metric).having(state=name, rank=float(rank))
            for rank, (metric, name) in enumerate(_STATES.items())
        ]
    )
    table = merged(["a", "state"], closed.only(["a", "state", "rank", *_STATISTICS]), _opened(measures))
    table = table.having(rank=np.nan_to_num(table["rank"], nan=len(_STATES)), **_whole(table, "count"))
    table = table.having(share_ratio=measures.of_span(table["total_cycles"]))
    return with_vcpu(table).sorted_by("domain", "vcpu", "rank")


def _opened(measures: Measures) -> Columns:
    """Return the time of each vCPU in intervals cut off by an end of the trace: a, state, open_cycles."""
    tails = measures.counts(Metric.TAIL)
    tails = tails.where(np.isin(tails["b"], list(_OPEN_STATES)))
    heads = measures.counts(Metric.HEAD)
    opened = joined(
        [
            tails.only(["a", "sum_cycles"]).having(
                state=text(_OPEN_STATES[state] for state in tails["b"].tolist())
            ),
            heads.only(["a", "sum_cycles"]).having(state="unknown"),
        ]
    ).renamed({"sum_cycles": "open_cycles"})
    opened = opened.sums(["a", "state"], ["open_cycles"])
    return opened.where(opened["open_cycles"] > 0)


def _whole(table: Columns, count: str) -> dict[str, np.ndarray[tuple[int], np.dtype[np.int64]]]:
    """Return a column of counts and the times in closed, open and all intervals, 0 where there is none."""
    closed, opened = whole(table["sum_cycles"]), whole(table["open_cycles"])
    return {
        count: whole(table[count]),
        "sum_cycles": closed,
        "open_cycles": opened,
        "total_cycles": closed + opened,
    }


def domain_states(measures: Measures) -> Columns:
    """Return the time of each domain in each DomainState, by domain and state."""
    table = measures.times_by_b(Metric.DOMAIN_STATE)
    names = {int(state): state.name.lower() for state in DomainState}
    return table.having(
        domain=table["a"],
        state=text(names.get(state) for state in table["b"].tolist()),
        share_ratio=measures.of_span(table["sum_cycles"]),
    )


def pcpus(measures: Measures) -> Columns:
    """Return, by pCPU, how long it ran guests, was idle or lost records."""
    seen = measures.partial.pcpus.grouped(["pcpu"])
    keys = seen.keys["pcpu"]
    losses = measures.counts(Metric.LOST_RECORDS)
    table = seen.keys.having(
        first_tsc=seen.min("first_tsc"),
        last_tsc=seen.max("last_tsc"),
        window_bytes=seen.sum("window_bytes"),
        loss_count=counted(keys, losses),
        lost_record_count=counted(keys, losses, column="sum_cycles"),
    )
    for name, metric in (
        ("running", Metric.PCPU_RUNNING),
        ("idle", Metric.PCPU_IDLE),
        ("lost", Metric.PCPU_LOST),
    ):
        cycles = counted(keys, measures.times(metric), column="sum_cycles")
        table = table.having(**{f"{name}_cycles": cycles, f"{name}_ratio": measures.of_span(cycles)})
    return table


def residence(measures: Measures) -> Columns:
    """Return how long each vCPU stayed on each pCPU, and how often it moved away, by vCPU and pCPU."""
    stays = measures.times_by_b(Metric.RESIDENCE).renamed({"b": "pcpu", "count": "migration_count"})
    tails = measures.counts(Metric.TAIL)
    tails = tails.where(tails["b"] >= _RESIDENCE_TAIL)
    opened = tails.having(pcpu=tails["b"] % _RESIDENCE_TAIL, open_cycles=tails["sum_cycles"])
    columns = ["a", "pcpu", "migration_count", "sum_cycles", "mean_cycles", *TAIL[1:]]
    table = merged(["a", "pcpu"], stays.only(columns), opened.sums(["a", "pcpu"], ["open_cycles"]))
    table = table.having(**_whole(table, "migration_count"))
    table = table.having(
        share_ratio=measures.of_span(table["total_cycles"]),
        migration_per_s=measures.per_second(table["migration_count"]),
    )
    return with_vcpu(table).sorted_by("domain", "vcpu", "pcpu")


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
