"""What can be exported as a table: records, single events, all intervals in one table, histograms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from xtrace.analysis.columns import Columns
from xtrace.analysis.export import histograms
from xtrace.analysis.export.events import Events
from xtrace.analysis.export.kinds import KINDS
from xtrace.analysis.export.names import What
from xtrace.analysis.export.source import Chosen, Exported
from xtrace.analysis.export.times import INTERVALS
from xtrace.analysis.measures.table import Column, Quality
from xtrace.analysis.state_machine.keys import domain_of, vcpu_of
from xtrace.probes.catalog import find
from xtrace.probes.format import EVENT_MASK, EXTRA_MASK, EXTRA_SHIFT, TIMED_BIT
from xtrace.probes.reader.batches import RecordBatch

_KEY, _EXACT, _INFERRED = Quality.KEY, Quality.EXACT, Quality.INFERRED
_WORDS = 7


@dataclass(frozen=True, slots=True)
class Exporting:
    """A table that is being made.

    Attributes:
        name: a What.
        columns: what it contains, in order.
        quality: how each column is known in this trace.
        batches: the rows, a part at a time.
    """

    name: str
    columns: tuple[Column, ...]
    quality: Mapping[str, Quality]
    batches: Iterator[Columns]


def table(exported: Exported, name: str) -> Exporting:
    """Return what is exported under a name of What.

    Raises:
        OSError, TraceError: later, where batches are taken.
    """
    if name == What.RECORDS:
        return _made(name, _RECORD_COLUMNS, _records(exported))
    if name == What.INTERVALS:
        return _made(name, _INTERVAL_COLUMNS, _intervals(exported))
    if name == What.HISTOGRAMS:
        return _made(name, histograms.COLUMNS, iter([histograms.histograms(exported)]))
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
    Column("running_domain", _INFERRED, "domain of the vCPU that the pCPU ran; 32768: not known"),
    Column("running_vcpu", _INFERRED, "its number; at a switch, that of the next one"),
    Column("word_count", _KEY, "number of extra words"),
    *(Column(f"w{place}", _EXACT, f"extra word {place}; 0 where there is none") for place in range(_WORDS)),
)


def _records(exported: Exported) -> Iterator[Columns]:
    names = _Names(exported)
    for chosen in exported.records():
        if len(chosen.rows):
            yield _record_columns(chosen, names)


def _record_columns(chosen: Chosen, names: _Names) -> Columns:
    records, rows, tscs, who = chosen
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
            "running_domain": domain_of(who[rows]),
            "running_vcpu": vcpu_of(who[rows]),
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
    wanted = {metric for name in INTERVALS for metric in KINDS[name].metrics}
    kinds = {name: Events(exported, name) for name in INTERVALS}
    for batch in exported.batches(wanted):
        rows = batch.rows.where(exported.is_inside(batch.rows.end))
        for name, events in kinds.items():
            found = events.of(rows)
            if len(found):
                yield _as_intervals(name, found, str(events.quality[INTERVALS[name].cycles]))


def _as_intervals(name: str, found: Columns, quality: str) -> Columns:
    begin, end, cycles, detail = INTERVALS[name]
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
