"""What can be exported as a table: records, single events, all intervals in one table, histograms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from xtrace.analysis.columns import Columns
from xtrace.analysis.export.events import Events
from xtrace.analysis.export.kinds import KINDS
from xtrace.analysis.export.source import NOT_OF_VCPUS, Exported
from xtrace.analysis.measures.table import Column, Quality
from xtrace.analysis.state_machine.keys import domain_of, vcpu_of
from xtrace.analysis.state_machine.metrics import FIRST_COUNT, Metric
from xtrace.analysis.summary.histogram import bucket_bounds
from xtrace.probes.catalog import find
from xtrace.probes.format import EVENT_MASK, EXTRA_MASK, EXTRA_SHIFT, TIMED_BIT
from xtrace.probes.reader.batches import I64, RecordBatch

_KEY, _EXACT, _BOUNDED, _INFERRED = Quality.KEY, Quality.EXACT, Quality.BOUNDED, Quality.INFERRED
RECORDS, INTERVALS, HISTOGRAMS = "records", "intervals", "histograms"
#: What --what takes.
NAMES = (RECORDS, INTERVALS, HISTOGRAMS, *KINDS)
_WORDS = 7
#: The kinds with a beginning, an end and a duration: the columns of these, and what distinguishes them.
_INTERVALS: Mapping[str, tuple[str, str, str, str]] = {
    "runs": ("begin_tsc", "end_tsc", "run_cycles", "next_state"),
    "runstates": ("begin_tsc", "end_tsc", "state_cycles", "state"),
    "wakes": ("wake_tsc", "running_tsc", "wake_to_running_cycles", ""),
    "sends": ("send_tsc", "wake_tsc", "send_to_wake_cycles", ""),
    "upcalls": ("begin_earliest_tsc", "end_tsc", "upcall_most_cycles", "after"),
    "forced_callbacks": ("begin_tsc", "end_tsc", "callback_cycles", ""),
    "exits": ("begin_tsc", "end_tsc", "exit_cycles", "reason"),
    "injections": ("begin_tsc", "end_tsc", "injection_cycles", "vector"),
    "irqs": ("begin_tsc", "end_tsc", "irq_cycles", "irq"),
    "losses": ("begin_tsc", "end_tsc", "loss_cycles", "what"),
    "deliveries": ("notify_tsc", "upcall_tsc", "notify_to_upcall_cycles", "port"),
}
#: Histograms of bounds, and of what is inferred; those of other metrics have two records each.
_BOUNDS = (Metric.UPCALL_MAX, Metric.UPCALL_MIN, Metric.HVM_UPCALL, Metric.RUNNING_TO_GUEST, Metric.OPEN)
_GUESSES = (
    Metric.SEND_TO_WAKE,
    Metric.IRQ_TO_WAKE,
    Metric.FORCED_CALLBACK,
    Metric.UNPROVEN,
    Metric.DOMAIN_STATE,
)


@dataclass(frozen=True, slots=True)
class Exporting:
    """A table that is being made.

    Attributes:
        name: one of NAMES.
        columns: what it contains, in order.
        quality: how each column is known in this trace.
        batches: the rows, a part at a time.
    """

    name: str
    columns: tuple[Column, ...]
    quality: Mapping[str, Quality]
    batches: Iterator[Columns]


def table(exported: Exported, name: str) -> Exporting:
    """Return what is exported under a name of NAMES.

    Raises:
        OSError, TraceError: later, where batches are taken.
    """
    if name == RECORDS:
        return _made(name, _RECORD_COLUMNS, _records(exported))
    if name == INTERVALS:
        return _made(name, _INTERVAL_COLUMNS, _intervals(exported))
    if name == HISTOGRAMS:
        return _made(name, _HISTOGRAM_COLUMNS, iter([_histograms(exported)]))
    found = Events(exported, name)
    return Exporting(name, found.described, found.quality, found.columns())


def _made(name: str, columns: tuple[Column, ...], batches: Iterator[Columns]) -> Exporting:
    return Exporting(name, columns, {column.name: column.quality for column in columns}, batches)


# --- records -----------------------------------------------------------------------------------

_RECORD_COLUMNS = (
    Column("tsc", _EXACT, "TSC of the record, or of the last one before it on its pCPU that has one"),
    Column("is_timed", _KEY, "it has a TSC of its own"),
    Column("pcpu", _KEY, "pCPU that wrote it"),
    Column("event", _KEY, "event id"),
    Column("name", _KEY, "name of the event in the Xen version that wrote it"),
    Column("word_count", _KEY, "number of extra words"),
    *(Column(f"w{place}", _EXACT, f"extra word {place}; 0 where there is none") for place in range(_WORDS)),
)


def _records(exported: Exported) -> Iterator[Columns]:
    names = _Names(exported)
    for records, rows, tscs in exported.records():
        if len(rows):
            yield _record_columns(records, rows, tscs, names)


def _record_columns(records: RecordBatch, rows: npt.NDArray[np.intp], tscs: I64, names: _Names) -> Columns:
    shape = records.shape[rows]
    count = records.extra_count[rows]
    start = records.start[rows].astype(np.int64)
    words = {}
    for place in range(_WORDS):
        has = count > place
        at = np.where(has, start + place, 0)
        words[f"w{place}"] = np.where(has, records.words[at], 0).astype(np.uint32)
    return Columns(
        {
            "tsc": tscs[rows],
            "is_timed": records.shapes.timed[shape],
            "pcpu": records.pcpu[rows],
            "event": records.words[start - np.where(records.shapes.timed, 3, 1)[shape]]
            & np.uint32(EVENT_MASK),
            "name": names.of(records)[shape],
            "word_count": count,
            **words,
        }
    )


class _Names:
    """The names of shapes."""

    def __init__(self, exported: Exported) -> None:
        self._versions = exported.versions
        self._names: list[str] = []

    def of(self, records: RecordBatch) -> npt.NDArray[Any]:
        """Return the name of each shape; the reader may know more of them with each batch."""
        for header in records.shapes.header[len(self._names) : records.shapes.size].tolist():
            words, timed = header >> EXTRA_SHIFT & EXTRA_MASK, bool(header & TIMED_BIT)
            match = find(header & EVENT_MASK, words, timed, self._versions)
            self._names.append("unknown" if match is None else match.event.name)
        return np.array(self._names, object)


# --- intervals ---------------------------------------------------------------------------------

_INTERVAL_COLUMNS = (
    Column("kind", _KEY, "what it is: the name of a table of single events"),
    Column("domain", _KEY, "domain id, -1 where it is not of a vCPU"),
    Column("vcpu", _KEY, "number of the vCPU, -1 likewise"),
    Column("pcpu", _KEY, "number of the pCPU, -1 where none is named"),
    Column("detail", _KEY, "state, reason, vector, irq, port or the like, as text"),
    Column("begin_tsc", _INFERRED, "when it began, known as column quality says"),
    Column("end_tsc", _INFERRED, "when it ended, likewise"),
    Column("duration_cycles", _INFERRED, "how long it took, likewise"),
    Column("is_open", _KEY, "an end was not recorded, so it lasted at least as long"),
    Column("quality", _KEY, "how the duration is known: exact, bounded or inferred"),
)


def _intervals(exported: Exported) -> Iterator[Columns]:
    wanted = {metric for name in _INTERVALS for metric in KINDS[name].metrics}
    kinds = {name: Events(exported, name) for name in _INTERVALS}
    for batch in exported.batches(wanted):
        rows = batch.rows.where(exported.is_inside(batch.rows.end))
        for name, events in kinds.items():
            found = events.of(rows)
            if len(found):
                yield _as_intervals(name, found, str(events.quality[_INTERVALS[name][2]]))


def _as_intervals(name: str, found: Columns, quality: str) -> Columns:
    begin, end, cycles, detail = _INTERVALS[name]
    none = np.full(len(found), -1)
    known = {each: found[each] for each in found.names}
    texts = [str(each) for each in found[detail].tolist()] if detail else [""] * len(found)
    return Columns(
        {
            "kind": name,
            "domain": known.get("domain", none),
            "vcpu": known.get("vcpu", none),
            "pcpu": known.get("pcpu", none),
            "detail": np.array(texts, object),
            "begin_tsc": found[begin],
            "end_tsc": found[end],
            "duration_cycles": found[cycles],
            "is_open": known.get("is_open", np.zeros(len(found), np.bool_)),
            "quality": quality,
        },
        len(found),
    )


# --- histograms --------------------------------------------------------------------------------

_HISTOGRAM_COLUMNS = (
    Column("metric", _KEY, "what was measured: a name of state_machine/metrics.py"),
    Column("domain", _KEY, "domain id, -1 where it is not of a vCPU"),
    Column("vcpu", _KEY, "number of the vCPU, -1 likewise"),
    Column("subject", _KEY, "where it is not of a vCPU: pCPU, irq or domain, as the metric says; else -1"),
    Column("argument", _KEY, "second key of the metric, such as an exit reason or an irq"),
    Column("low_cycles", _EXACT, "least value of the bucket, included"),
    Column("high_cycles", _EXACT, "greatest value of the bucket, included"),
    Column("count", _EXACT, "number of values in the bucket"),
    Column("quality", _KEY, "how the values are known: exact, bounded or inferred"),
)


def _histograms(exported: Exported) -> Columns:
    buckets = exported.partial.buckets
    buckets = buckets.where((buckets["metric"] < FIRST_COUNT) & (buckets["count"] > 0))
    of_vcpu = ~np.isin(buckets["metric"], NOT_OF_VCPUS)
    if exported.has_filter:
        chosen = ~of_vcpu | exported.is_wanted(buckets["a"])
        buckets, of_vcpu = buckets.where(chosen), of_vcpu[chosen]
    low, high = bucket_bounds(buckets["bucket"])
    metrics, place = np.unique(buckets["metric"], return_inverse=True)
    names = [Metric(metric).name.lower() for metric in metrics.tolist()]
    qualities = [str(_quality_of(Metric(metric))) for metric in metrics.tolist()]
    a: I64 = buckets["a"]
    return Columns(
        {
            "metric": np.array(names, object)[place],
            "domain": np.where(of_vcpu, domain_of(a), -1),
            "vcpu": np.where(of_vcpu, vcpu_of(a), -1),
            "subject": np.where(of_vcpu, -1, a),
            "argument": buckets["b"],
            "low_cycles": low,
            "high_cycles": high,
            "count": buckets["count"],
            "quality": np.array(qualities, object)[place],
        },
        len(buckets),
    )


def _quality_of(metric: Metric) -> Quality:
    return _BOUNDED if metric in _BOUNDS else _INFERRED if metric in _GUESSES else _EXACT
