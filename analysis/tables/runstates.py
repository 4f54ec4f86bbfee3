"""Tables of where the time of vCPUs, domains and pCPUs went.

The parts of a vCPU's, a domain's or a pCPU's time add up to the span, to the cycle.  An interval of which
one end was not recorded (at the start or end of the trace, or of a loss) counts with the part that was: it
lasted at least that long.  Such intervals count in open_cycles, in the greatest time, and in quantiles; where
they could move a quantile, that quantile is a lower bound.  After lost records the state of a vCPU is "lost"
until a record shows it again; "unknown" is the time before a first record, and between records that
contradict each other.
"""

from __future__ import annotations

import numpy as np

from xtrace.analysis.columns import Array, Columns, added, distinct, joined, matched, text
from xtrace.analysis.coverage.needs import RUNSTATES, Reach
from xtrace.analysis.measures.lookup import counted, with_vcpu
from xtrace.analysis.measures.measures import QUANTILES, Measures
from xtrace.analysis.measures.table import DOMAIN, VCPU, Column, Quality, Table
from xtrace.analysis.state_machine.keys import domain_of
from xtrace.analysis.state_machine.metrics import DomainState, Metric
from xtrace.analysis.summary.histogram import quantile_name
from xtrace.probes.xen_abi import IDLE_DOMAIN

_EXACT = Quality.EXACT

_STATES = {
    Metric.RUNNING: "running",
    Metric.RUNNABLE_WAKE: "runnable/wake",
    Metric.RUNNABLE_PREEMPT: "runnable/preempt",
    Metric.RUNNABLE_OTHER: "runnable/other",
    Metric.RUNNABLE_BUDGET: "runnable/budget",
    Metric.BLOCKED: "blocked",
    Metric.OFFLINE: "offline",
    Metric.STATE_LOST: "lost",
    Metric.STATE_UNKNOWN: "unknown",
}
#: Accounts of time that is in no state: no statistics of their lengths.
_STATELESS = ("lost", "unknown")
#: In place of a DomainState, for the time in which none of the domain's vCPUs is known.
_UNKNOWN = len(DomainState)


def vcpu_states(measures: Measures) -> Columns:
    """Return the time of each vCPU in each runstate, by vCPU and in the order of _STATES."""
    parts = [
        _without_lengths(times := measures.all_times(metric), times, name).having(state=name, rank=rank)
        for rank, (metric, name) in enumerate(_STATES.items())
    ]
    table = _proven(measures, joined(parts))
    table = table.having(share_ratio=measures.of_span(table["total_cycles"]))
    return with_vcpu(table).sorted_by("domain", "vcpu", "rank")


def _proven(measures: Measures, table: Columns) -> Columns:
    """Return the times of states, of which what is not proven is unknown where a pCPU may be missing.

    Args:
        table: with the columns a, state, rank, total_cycles.
    """
    if measures.coverage.is_consistent:
        return table
    unproven = measures.times_by_b(Metric.UNPROVEN)
    names = text(_STATES[Metric(metric)] for metric in unproven["b"].tolist())
    unproven = unproven.having(state=names).only(["a", "state", "sum_cycles"])
    place = matched(table.only(["a", "state"]), unproven)
    taken = np.where(place >= 0, np.append(unproven["sum_cycles"], 0)[place], 0)
    total = table["total_cycles"] - taken
    moved = table.only(["a"]).having(taken=taken).sums(["a"], ["taken"])
    table = table.having(total_cycles=total)
    lacking = ~np.isin(moved["a"], table["a"][table["state"] == "unknown"]) & (moved["taken"] > 0)
    if lacking.any():
        table = joined([table, _without_time(table, moved["a"][lacking])])
    total = table["total_cycles"].copy()
    is_unknown = table["state"] == "unknown"
    total[is_unknown] = added(total[is_unknown], counted(table["a"][is_unknown], moved, column="taken"))
    return table.having(total_cycles=total)


def _without_time(table: Columns, vcpus: Array) -> Columns:
    """Return a row in the state "unknown", of no time, for each of these vCPUs."""
    rows = table.where(np.zeros(len(vcpus), np.int64))
    numbers = [name for name in rows.names if rows[name].dtype != object]
    lengths = {*map(quantile_name, QUANTILES), "mean_cycles", "max_cycles"}
    columns: dict[str, Array] = {
        name: np.full(len(vcpus), np.nan) if name in lengths else np.zeros(len(vcpus), rows[name].dtype)
        for name in numbers
    }
    columns |= {"a": vcpus, "state": text(["unknown"] * len(vcpus))}
    columns["rank"] += list(_STATES.values()).index("unknown")
    if "domain" in columns:
        columns["domain"] = domain_of(vcpus)
    return rows.having(**columns)


def _without_lengths(times: Columns, like: Columns, state: str) -> Columns:
    """Return the time in a state, without statistics of its intervals if it is only an account.

    Args:
        like: has the columns to return.
    """
    if state not in _STATELESS:
        return times
    kept = {"a", "b", "total_cycles"}
    numbers = {"count", "cut_count", "sum_cycles", "open_cycles", "open_max_cycles"}
    columns = {
        name: 0 if name in numbers else False if name.endswith("_moves") else np.nan
        for name in like.names
        if name not in kept
    }
    return times.only(name for name in times.names if name in kept).having(**columns)


def domain_states(measures: Measures) -> Columns:
    """Return the time of each domain in each DomainState, by domain and state."""
    names = {int(state): state.name.lower() for state in DomainState}
    times = measures.all_times(Metric.DOMAIN_STATE, ("a", "b"))
    is_lost = times["b"] == DomainState.LOST
    hidden = joined([times.where(is_lost), measures.all_times(Metric.DOMAIN_UNKNOWN, ("a", "b"))])
    unknown = hidden.sums(["a"], ["total_cycles"]).having(b=_UNKNOWN)
    table = joined([times.where(~is_lost), _without_lengths(unknown, times, "unknown")])
    table = table.where(table["a"] != IDLE_DOMAIN).sorted_by("a", "b")  # its vCPUs are the pCPUs
    states = text([names.get(state, "unknown") for state in table["b"].tolist()])
    return table.having(
        domain=table["a"],
        state=states,
        share_ratio=measures.of_span(table["total_cycles"]),
        is_doubtful=_is_of_part(measures, table),
    )


def _is_of_part(measures: Measures, states: Columns) -> Array:
    """Return for each row whether some vCPUs of the domain were unknown while others were not."""
    hidden = joined([measures.times(metric) for metric in (Metric.STATE_LOST, Metric.STATE_UNKNOWN)])
    hidden = hidden.having(domain=domain_of(hidden["a"])).sums(["domain"], ["sum_cycles"])
    vcpus = measures.partial.vcpus
    count = vcpus.having(domain=domain_of(vcpus["vcpu"]), count=np.ones(len(vcpus), np.int64))
    count = count.sums(["domain"], ["count"])
    of_all = states.where(states["b"] == _UNKNOWN).sums(["a"], ["total_cycles"])
    of_each = counted(states["a"], of_all, column="total_cycles") * counted(states["a"], count, key="domain")
    is_late = np.isin(states["a"], measures.times(Metric.DOMAIN_PART)["a"])
    is_part: Array = is_late | (counted(states["a"], hidden, key="domain", column="sum_cycles") > of_each)
    return is_part


def domain_vcpus(measures: Measures) -> Columns:
    """Return the time of each domain's vCPUs in each runstate: their number, sum, least and greatest."""
    parts = []
    for rank, (metric, name) in enumerate(_STATES.items()):
        times = measures.all_times(metric).only(["a", "total_cycles"])
        parts.append(times.having(state=name, rank=rank, domain=domain_of(times["a"])))
    spent = _proven(measures, joined(parts))
    table = joined([_of_state(spent, rank, name) for rank, name in enumerate(_STATES.values())])
    share = measures.of_span(table["total_cycles"]) / np.maximum(table["vcpu_count"], 1)
    return table.having(share_ratio=share).sorted_by("domain", "rank")


def _of_state(spent: Columns, rank: int, state: str) -> Columns:
    """Return the time in a state of all vCPUs of the domains of which one was in it, 0 for the others."""
    of_state = spent.where(spent["rank"] == rank)
    vcpus = distinct(spent["a"])
    domains = domain_of(vcpus)
    has_it = np.isin(domains, of_state["domain"])
    cycles = counted(vcpus[has_it], of_state, column="total_cycles")
    each = Columns({"domain": domains[has_it], "cycles": cycles}).sorted_by("domain", "cycles")
    groups = each.grouped(["domain"])
    first = groups.starts
    count = np.diff(first, append=len(each))
    ordered = each["cycles"]
    middle = (ordered[first + (count - 1) // 2] + ordered[first + count // 2].astype(float)) / 2
    return groups.keys.having(
        rank=np.full(len(first), rank),
        state=text([state] * len(first)),
        vcpu_count=count,
        total_cycles=groups.sum("cycles"),
        least_cycles=ordered[first],
        median_cycles=middle,
        greatest_cycles=ordered[first + count - 1],
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
        ("unknown", Metric.PCPU_UNKNOWN),
    ):
        cycles = counted(keys, measures.times(metric), column="sum_cycles")
        table = table.having(**{f"{name}_cycles": cycles, f"{name}_ratio": measures.of_span(cycles)})
    return table


def residence(measures: Measures) -> Columns:
    """Return how long each vCPU stayed on each pCPU, and how often it moved away, by vCPU and pCPU."""
    table = measures.all_times(Metric.RESIDENCE, ("a", "b")).renamed(
        {"b": "pcpu", "count": "migration_count"}
    )
    table = table.having(
        share_ratio=measures.of_span(table["total_cycles"]),
        migration_per_s=measures.per_second(table["migration_count"]),
        # Where a vCPU was before it first ran is not known.
        is_part=_sums_by(table, "total_cycles") < measures.span_cycles,
    )
    return with_vcpu(table).sorted_by("domain", "vcpu", "pcpu")


def _sums_by(table: Columns, column: str) -> Array:
    """Return, for each row, the sum over the rows of its vCPU."""
    return counted(table["a"], table.sums(["a"], [column]), column=column)


_MEANINGS = {
    "mean_cycles": "mean of those with both ends in the trace",
    "p50_cycles": "p50, those that are cut off as if they ended there",
    "p95_cycles": "p95, likewise",
    "p99_cycles": "p99, likewise",
    "max_cycles": "longest; one that is cut off lasted at least as long",
}


def _statistics(what: str, shown: dict[str, str]) -> tuple[Column, ...]:
    return tuple(
        Column(name, _EXACT, f"{what}: {meaning}", shown.get(name)) for name, meaning in _MEANINGS.items()
    )


def _cut(what: str) -> tuple[Column, ...]:
    """Return the columns of intervals of which one end was not recorded."""
    return (
        Column("cut_count", _EXACT, f"{what} of which an end was not recorded", "cut"),
        Column("sum_cycles", _EXACT, "time in those with both ends in the trace", None),
        Column("open_cycles", _EXACT, "time in the others, as far as it was recorded", None),
        Column("open_max_cycles", _EXACT, "longest of the others: it lasted at least this long", None),
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
            Column(
                "total_cycles",
                _EXACT,
                "time in the state: sum_cycles plus open_cycles; where pCPUs are missing, without the time "
                "in which the vCPU may have run there",
                "total",
            ),
            _SHARE,
            *_statistics("intervals", _SHOWN),
            *_cut("intervals"),
        ),
        needs=(RUNSTATES,),
        reach=Reach.VCPU,
    ),
    Table(
        "domain_vcpus",
        "runstates",
        "Domains: the time of their vCPUs",
        domain_vcpus,
        (
            DOMAIN,
            Column("state", Quality.KEY, "runstate, as in vcpu_states", "state"),
            Column("vcpu_count", _EXACT, "vCPUs of the domain in the trace", "vcpus"),
            Column("total_cycles", _EXACT, "time in the state, summed over the vCPUs", "total"),
            # A vCPU that no record names would change these.
            Column("share_ratio", _EXACT, "share of the span of all these vCPUs", "share", reach=Reach.HOST),
            Column("least_cycles", _EXACT, "that of the vCPU with the least", "least", reach=Reach.HOST),
            Column("median_cycles", _EXACT, "median of the vCPUs", "median", reach=Reach.HOST),
            Column("greatest_cycles", _EXACT, "that of the vCPU with the most", "greatest"),
        ),
        needs=(RUNSTATES,),
        reach=Reach.VCPU,
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
                "full_*: all vCPUs; concurrency_hazard: some run while others wait for a pCPU; offline: all "
                "are paused, capped or not up",
                "state",
            ),
            Column("count", _EXACT, "number of intervals", "count"),
            Column("total_cycles", _EXACT, "time in the state: sum_cycles plus open_cycles", "total"),
            _SHARE,
            *_statistics("intervals", _SHOWN),
            *_cut("intervals"),
        ),
        needs=(RUNSTATES,),
        reach=Reach.HOST,
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
            Column(
                "lost_ratio",
                _EXACT,
                "share of the span in which records were lost",
                "lost",
                (),
                Reach.RECORDS,
            ),
            Column("unknown_ratio", _EXACT, "share of the span in which it is not known what ran", "unknown"),
            Column("loss_count", _EXACT, "gaps in which records were lost", "gaps", (), Reach.RECORDS),
            Column(
                "lost_record_count", _EXACT, "records lost in these gaps", "lost records", (), Reach.RECORDS
            ),
            Column("window_bytes", _EXACT, "bytes in the pCPU's windows", "bytes", (), Reach.RECORDS),
            Column("running_cycles", _EXACT, "time in which a guest ran", None),
            Column("idle_cycles", _EXACT, "time in which the idle domain ran", None),
            Column("lost_cycles", _EXACT, "time in which records were lost", None, (), Reach.RECORDS),
            Column("unknown_cycles", _EXACT, "time in which it is not known what ran", None),
            Column(
                "first_tsc",
                _EXACT,
                "TSC of its first record; of one of lost records, when the loss began",
                None,
                (),
                Reach.RECORDS,
            ),
            Column("last_tsc", _EXACT, "TSC of its last record", None, (), Reach.RECORDS),
        ),
        needs=(RUNSTATES,),
        reach=Reach.PCPU,
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
            *_cut("stays"),
        ),
        needs=(RUNSTATES,),
        reach=Reach.HOST,
    ),
)
