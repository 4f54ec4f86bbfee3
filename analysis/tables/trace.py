"""Tables and facts about the trace itself: its length, Xen version, completeness and contents."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from xtrace.analysis.columns import Columns, text
from xtrace.analysis.coverage.needs import RUNSTATES, SWITCHES, Reach
from xtrace.analysis.measures.lookup import counted, share
from xtrace.analysis.measures.measures import Measures
from xtrace.analysis.measures.table import Column, Quality, Table
from xtrace.analysis.state_machine.collected import AlignedPcpu, Unaligned
from xtrace.analysis.state_machine.keys import domain_of, paired
from xtrace.analysis.state_machine.metrics import FIRST_COUNT, Metric, WakeCause
from xtrace.analysis.summary import clock
from xtrace.analysis.summary.partial import Partial
from xtrace.analysis.tables.dom0_only import dom0_keys
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
    Metric.RUNNABLE_BUDGET: "runnable/budget",
    Metric.BLOCKED: "blocked",
    Metric.OFFLINE: "offline",
    Metric.RESIDENCE: "stay on a pCPU",
    Metric.WAKE_TO_RUNNING: "wake to running",
    Metric.UPCALL_MAX: "upcall",
    Metric.HVM_EXIT: "vm exit",
    Metric.INJECTION_TO_ENTRY: "injection to entry",
    Metric.INTR_WINDOW_WAIT: "interrupt window wait",
    Metric.ADDRESS_SPACE: "time with a page table",
    Metric.IPI_TO_ENTRY: "interrupt between vCPUs",
    Metric.WAKE_TO_HALT: "wake to halt",
    Metric.TICK: "tick of a timer",
    Metric.EVENT_TO_UPCALL: "event to upcall",
    Metric.MASKED_WAIT: "masked wait",
    Metric.UPCALL: "upcall (recorded)",
}
#: Why TSCs that are apart were not aligned.
_REASONS = {
    Unaligned.ALIGNED: "",
    Unaligned.READ_ONCE: "a stream is read only once",
    Unaligned.OPEN: "the bounds are open or too wide",
    Unaligned.RESTARTS: "the TSC restarts in the trace",
    Unaligned.UNREAD: "no trace shows it by itself",
}
_NAMES_BY_NUMBER = {int(metric): name for metric, name in _CUT_NAMES.items()}


def events(measures: Measures) -> Columns:
    """Return records and bytes by event, most bytes first."""
    table = measures.partial.records.sums(["header"], ["count"])
    ids = table["header"] & EVENT_MASK
    words = table["header"] >> EXTRA_SHIFT & EXTRA_MASK
    timed = (table["header"] & TIMED_BIT) != 0
    named = [
        _name(*record, measures.versions)
        for record in zip(ids.tolist(), words.tolist(), timed.tolist(), strict=True)
    ]
    table = table.having(
        id=text(f"0x{event:x}" for event in ids.tolist()),
        name=text(name for name, _ in named),
        decoded=text(quality for _, quality in named),
        words=words,
        bytes=table["count"] * (4 + 8 * timed + 4 * words),
        per_s=measures.per_second(table["count"]),
    )
    return table.sorted_by("bytes", descending=True)


def volume(measures: Measures) -> Columns:
    """Return records and bytes by pCPU and trace class, by pCPU, most bytes first."""
    records = measures.partial.records
    header = records["header"]
    size = 4 + 8 * (header >> 31 & 1) + 4 * (header >> EXTRA_SHIFT & EXTRA_MASK)
    table = records.having(
        bytes=records["count"] * size, **{"class": text(map(_class_name, header.tolist()))}
    )
    table = table.sums(["pcpu", "class"], ["count", "bytes"])
    return table.sorted_by("bytes", descending=True).sorted_by("pcpu")


def cuts(measures: Measures) -> Columns:
    """Return, by metric, how many intervals lost records cut off, worst share first."""
    table = measures.counts(Metric.CUT).sums(["b"], ["count"])
    tallies = measures.partial.tallies
    kept = tallies.where(tallies["metric"] < int(FIRST_COUNT)).sums(["metric"], ["count"])
    kept_count = counted(table["b"], kept, key="metric")
    table = table.renamed({"count": "cut_count"}).having(
        metric=text(_NAMES_BY_NUMBER.get(metric) for metric in table["b"].tolist()),
        kept_count=kept_count,
        cut_ratio=share(table["count"], table["count"] + kept_count),
    )
    return table.sorted_by("cut_ratio", descending=True)


def trace_facts(
    measures: Measures, rate: clock.TscRate | None, found: Detection, versions: VersionRange, forced: bool
) -> Mapping[str, object]:
    """Return the facts about the trace: the JSON report's ``trace`` object."""
    partial = measures.partial
    facts = {
        name: int(partial.facts[name].sum())
        for name in partial.facts.names
        if np.issubdtype(partial.facts[name].dtype, np.integer)
    }
    fillers = partial.records["header"] & EVENT_MASK == WRAP_BUFFER
    lost = measures.counts(Metric.LOST_RECORDS)
    blind = int(partial.pcpus["blind_cycles"].sum())
    whole = facts["span_cycles"] * max(len(partial.pcpus), 1)
    del facts["half_full_windows"]
    span_cycles = facts.pop("span_cycles")
    del facts["core_files"], facts["shared_files"]
    for name in ("hole_count", "hole_cycles", "silence_cycles", "hidden_hole_count", "quiet_end_count"):
        del facts[name]  # in the coverage
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
        "tsc_resolution_ns": 1e9 / rate.hz if rate else None,
        "span_cycles": span_cycles,
        "span_ns": round(span_cycles / rate.hz * 1e9) if rate else None,
        "lost_ratio": blind / whole if whole else None,
        "xen_versions": str(versions),
        "xen_versions_source": "given" if forced else "detected",
        "xen_versions_evidence": list(found.evidence),
        "xen_versions_conflicts": list(found.conflicts),
        "notes": list(found.notes),
        "skewed_pcpu_pairs": _skewed_pairs(partial),
        "tsc_alignment": partial.aligned.only(AlignedPcpu._fields).rows(),
        "recorder_virq_most_count": recorder_wakes_most(measures),
        "dom0_wakes_other_count": _dom0_wakes_other(measures),
        **facts,
        "damages": partial.damages.rows(),
        **dom0_keys(partial),
        "tsc_restarts": partial.restarts.rows(),
    }


def recorder_wakes_most(measures: Measures) -> int:
    """Return how many wakes of dom0 can at most be by VIRQ_TBUF: a trace buffer is half full."""
    half_full = int(measures.partial.facts["half_full_windows"].sum())
    return min(half_full, _dom0_wakes_other(measures))


def _dom0_wakes_other(measures: Measures) -> int:
    """Return the wakes of dom0 that no send, hypercall or interrupt explains."""
    wakes = measures.counts(Metric.WAKE_CAUSE)
    of_dom0 = (domain_of(wakes["a"]) == DOM0) & (wakes["b"] == paired(WakeCause.TIMER_OR_OTHER, 0))
    return int(wakes["count"][of_dom0].sum())


def _skewed_pairs(partial: Partial) -> list[dict[str, object]]:
    """Return the pairs of pCPUs whose TSCs differ; cycles are integers, NaN where a bound is open."""
    pairs: list[dict[str, object]] = []
    for row in clock.skewed_pairs(partial).rows():
        is_open = row["low_cycles"] > row["high_cycles"]
        words = clock.EVIDENCE[row["evidence"]]
        if row["least_cycles"] and is_open:
            words += f"; at least {row['least_cycles']} cycles apart, in either direction"
        bounds = {"low_cycles": math.nan, "high_cycles": math.nan} if is_open else {}
        pairs.append(row | bounds | {"evidence": words, "unaligned": _REASONS[row["unaligned"]]})
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
        needs=(RUNSTATES, SWITCHES),
        reach=Reach.VCPU,
    ),
)
