"""Tables and facts about the trace itself: its length, Xen version, completeness and contents."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd

from xtrace.analysis.measures.measures import Measures
from xtrace.analysis.measures.table import Column, Quality, Table
from xtrace.analysis.state_machine.keys import domain_of, paired
from xtrace.analysis.state_machine.metrics import FIRST_COUNT, Metric, WakeCause
from xtrace.analysis.summary import clock
from xtrace.probes.catalog import Detection, VersionRange, find
from xtrace.probes.format import (
    EVENT_MASK,
    EXTRA_MASK,
    EXTRA_SHIFT,
    GUEST_CLASS_BIT,
    TIMED_BIT,
    WRAP_BUFFER,
    TraceClass,
)
from xtrace.probes.xen_abi import DOM0

_EXACT = Quality.EXACT

#: The metrics that lost records can cut off, with the names that the report shows.
_CUT_NAMES = {
    Metric.RUNNING: "running",
    Metric.RUNNABLE_WAKE: "runnable/wake",
    Metric.RUNNABLE_PREEMPT: "runnable/preempt",
    Metric.RUNNABLE_OTHER: "runnable/other",
    Metric.BLOCKED: "blocked",
    Metric.OFFLINE: "offline",
    Metric.RESIDENCE: "stay on a pCPU",
    Metric.WAKE_TO_RUNNING: "wake to running",
    Metric.UPCALL_MAX: "upcall",
    Metric.SEND_TO_UPCALL_RUNNING: "send to upcall",
    Metric.HVM_EXIT: "vm exit",
    Metric.INJECTION_TO_ENTRY: "injection to entry",
    Metric.INTR_WINDOW_WAIT: "interrupt window wait",
}


def events(measures: Measures) -> pd.DataFrame:
    """Return records and bytes by event, most bytes first."""
    table = measures.partial.records.groupby("header", as_index=False)[["count"]].sum()
    table["event"] = table["header"] & EVENT_MASK
    words = table["header"] // (1 << EXTRA_SHIFT) & EXTRA_MASK
    timed = (table["header"] & TIMED_BIT) != 0
    table["bytes"] = table["count"] * (4 + 8 * timed + 4 * words)
    named = [
        _name(int(e), int(w), bool(t), measures.versions)
        for e, w, t in zip(table["event"], words, timed, strict=True)
    ]
    table["name"] = [name for name, _ in named]
    table["decoded"] = [quality for _, quality in named]
    table["id"] = [f"0x{event:x}" for event in table["event"]]
    table["words"] = words
    table["per_s"] = measures.per_second(table["count"])
    return table.sort_values("bytes", ascending=False, kind="stable")


def volume(measures: Measures) -> pd.DataFrame:
    """Return records and bytes by pCPU and trace class."""
    records = measures.partial.records
    header = records["header"].to_numpy()
    size = 4 + 8 * (header >> 31 & 1) + 4 * (header >> EXTRA_SHIFT & EXTRA_MASK)
    table = pd.DataFrame(
        {
            "pcpu": records["pcpu"],
            "class": [_class_name(int(value)) for value in header],
            "count": records["count"],
            "bytes": records["count"] * size,
        }
    )
    table = table.groupby(["pcpu", "class"], as_index=False)[["count", "bytes"]].sum()
    return table.sort_values(["pcpu", "bytes"], ascending=[True, False])


def cuts(measures: Measures) -> pd.DataFrame:
    """Return, by metric, how many intervals lost records cut off, worst share first."""
    table = measures.counts(Metric.CUT).groupby("b", as_index=False)[["count"]].sum()
    tallies = measures.partial.tallies
    kept = tallies[tallies["metric"] < int(FIRST_COUNT)].groupby("metric")["count"].sum()
    table["kept_count"] = table["b"].map(kept).fillna(0).astype("int64")
    table["metric"] = table["b"].map({int(metric): name for metric, name in _CUT_NAMES.items()})
    table = table.rename(columns={"count": "cut_count"})
    table["cut_ratio"] = table["cut_count"] / (table["cut_count"] + table["kept_count"])
    return table.sort_values("cut_ratio", ascending=False, kind="stable")


def trace_facts(
    measures: Measures, rate: clock.TscRate | None, found: Detection, versions: VersionRange, forced: bool
) -> Mapping[str, object]:
    """Return the facts about the trace: the JSON report's ``trace`` object."""
    partial = measures.partial
    facts = {str(name): int(value) for name, value in partial.facts.sum().items()}
    fillers = partial.records["header"] & EVENT_MASK == WRAP_BUFFER
    lost = measures.counts(Metric.LOST_RECORDS)
    blind = int(partial.pcpus["blind_cycles"].sum())
    whole = facts["span_cycles"] * max(len(partial.pcpus), 1)
    wakes = measures.counts(Metric.WAKE_CAUSE)
    dom0_other = wakes[(domain_of(wakes["a"]) == DOM0) & (wakes["b"] == paired(WakeCause.TIMER_OR_OTHER, 0))][
        "count"
    ].sum()
    half_full = facts.pop("half_full_windows")
    span_cycles = facts.pop("span_cycles")
    return {
        "records": int(partial.records["count"][~fillers].sum()),
        "filler_records": int(partial.records["count"][fillers].sum()),
        "lost_records": int(lost["sum_cycles"].sum()),
        "loss_count": int(lost["count"].sum()),
        "pcpus": len(partial.pcpus),
        "tsc_hz": rate.hz if rate else None,
        "tsc_hz_low": rate.low_hz if rate else None,
        "tsc_hz_high": rate.high_hz if rate else None,
        "tsc_hz_source": rate.source if rate else None,
        "tsc_hz_pairs": rate.pairs if rate else 0,
        "span_cycles": span_cycles,
        "span_ns": round(span_cycles / rate.hz * 1e9) if rate else None,
        "lost_ratio": blind / whole if whole else None,
        "xen_versions": str(versions),
        "xen_versions_source": "given" if forced else "detected",
        "xen_versions_evidence": list(found.evidence),
        "xen_versions_conflicts": list(found.conflicts),
        "notes": list(found.notes),
        "skewed_pcpu_pairs": _skewed_pairs(clock.skew(partial)),
        "recorder_virq_most_count": int(min(half_full, dom0_other)),
        "dom0_wakes_other_count": int(dom0_other),
        **facts,
        "damages": partial.damages.to_dict("records"),
    }


def _skewed_pairs(skew: pd.DataFrame) -> list[dict[str, object]]:
    """Return the pairs of pCPUs whose TSCs differ; cycles are integers, NaN where a bound is open."""
    pairs: list[dict[str, object]] = []
    for row in skew[skew["skewed"]].drop(columns="skewed").to_dict("records"):
        bounds = {name: row[name] for name in ("low_cycles", "high_cycles")}
        whole = {name: value if math.isnan(value) else int(value) for name, value in bounds.items()}
        words = row["evidence"]
        if row["least_cycles"] and math.isnan(row["low_cycles"]):
            words += f"; at least {row['least_cycles']} cycles apart, in either direction"
        pairs.append({str(name): value for name, value in row.items()} | whole | {"evidence": words})
    return pairs


def _class_name(header: int) -> str:
    event = header & EVENT_MASK
    for trace_class in TraceClass:
        if event & trace_class:
            return trace_class.name.lower() if trace_class.name else "other"
    return "other"


def _name(event: int, words: int, timed: bool, versions: VersionRange) -> tuple[str, str]:
    if event & GUEST_CLASS_BIT:
        return "guest", "exact"
    if not event:
        return "(too many kinds of records)", "unknown"
    match = find(event, words, timed, versions)
    return (match.event.name, str(match.quality)) if match else (f"unknown_0x{event:x}", "unknown")


TABLES = (
    Table(
        "volume",
        "trace",
        "Trace volume by pCPU and class",
        volume,
        (
            Column("pcpu", Quality.KEY, "physical CPU", "pcpu"),
            Column("class", Quality.KEY, "trace class", "class"),
            Column("count", _EXACT, "number of records", "records"),
            Column("bytes", _EXACT, "bytes of these records", "bytes"),
        ),
    ),
    Table(
        "events",
        "trace",
        "Records by event",
        events,
        (
            Column("id", Quality.KEY, "event id", "id"),
            Column("name", Quality.KEY, "name in the event catalogue", "name"),
            Column("words", Quality.KEY, "extra words in each record", "words"),
            Column("count", _EXACT, "number of records", "records"),
            Column("bytes", _EXACT, "bytes of these records", "bytes"),
            Column("per_s", _EXACT, "records per second", "/s"),
            Column(
                "decoded",
                Quality.KEY,
                "exact, ambiguous, length (a length that no version writes) or unknown",
                "decoded",
            ),
        ),
    ),
    Table(
        "cuts",
        "trace",
        "Intervals cut off by lost records",
        cuts,
        (
            Column("metric", Quality.KEY, "what was being measured", "measurement"),
            Column("cut_count", _EXACT, "intervals cut off", "cut"),
            Column("kept_count", _EXACT, "intervals measured", "kept"),
            Column("cut_ratio", _EXACT, "share of intervals cut off", "share"),
        ),
        bias="long intervals are cut more often, so tails look shorter than they are",
    ),
)
