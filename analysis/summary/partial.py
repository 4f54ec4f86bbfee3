"""The result of a trace as columns that can be merged: over files, hosts or pieces of a trace.

Each column is either a key or mergeable: counts, sums and histogram buckets are added, and
of minima and maxima the least and the greatest is taken.  So a thousand files are merged like two, in any
order, and a cluster (Dask) needs only ``merge``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import accumulate

import numpy as np

from xtrace.analysis.columns import Columns, Groups, distinct, joined, of_rows, text
from xtrace.analysis.state_machine.collected import PAIRS, AlignedPcpu, Collected, SkewedPair
from xtrace.analysis.state_machine.metrics import (
    C_PV_EVENT,
    C_SINGLE,
    C_SUBCALL,
    FIRST_COUNT,
    METRIC_SHIFT,
    MOST_SUM,
    SUB_BUCKETS,
    T_B,
    T_COUNT,
    T_HISTOGRAM,
    T_KEY,
    T_MAX,
    T_MIN,
    T_SUM,
    Metric,
)
from xtrace.analysis.summary import dom0_calls, dom0_columns, kept_columns
from xtrace.analysis.summary.dom0_columns import Dom0Columns
from xtrace.probes.event_ids import (
    EVTCHN,
    HW_IRQ_HANDLED,
    PM_IDLE_ENTRY,
    PM_IDLE_ENTRY_4_0,
    PM_IDLE_EXIT_4_0,
    TRACE_IRQ,
)
from xtrace.probes.format import EVENT_MASK, EXTRA_MASK, EXTRA_SHIFT, MAX_PCPUS, TraceClass
from xtrace.probes.reader.batches import I64
from xtrace.probes.selection.event_masks import ALL_SUBCLASSES, NAMES, is_outside, passes

#: Sub-classes that a recorder can select, as event ids without their last 12 bits.
_GROUPS = [mask >> 12 for mask in NAMES.values() if (mask & ALL_SUBCLASSES).bit_count() == 1]
#: Not those that no release of Xen writes.
_GROUPS.remove(EVTCHN >> 12)
_GROUPS += [(TraceClass.PV | 0xF000) >> 12, (TraceClass.MEM | 0xF000) >> 12, (TraceClass.GEN | 0xF000) >> 12]

_MINIMA = {"min_cycles", "first_tsc", "min_ns"}
_MAXIMA = {"max_cycles", "last_tsc", "max_ns", "sample_hz", "type"}
#: The columns whose values are in one row each; None where rows are only collected.
KEYS = {
    "tallies": ("metric", "a", "b"),
    "buckets": ("metric", "a", "b", "bucket"),
    "records": ("pcpu", "header"),
    "pcpus": ("pcpu",),
    "vcpus": ("vcpu",),
    "classes": ("group",),
    "named_pcpus": ("pcpu",),
    "facts": (),
    "pairs": None,
    "damages": None,
    "restarts": None,
    "skewed": None,
    "aligned": None,
    "holes": None,
    "dom0_tallies": ("kind", "id", "vcpu", "name"),
    "dom0_buckets": ("kind", "id", "vcpu", "name", "bucket"),
    "dom0_samples": ("space", "name", "masked"),
    "dom0_facts": (),
    "dom0_calls": ("kind", "function"),
    "spans": None,
}
_MERGE = {
    "slots": kept_columns.merged_slots,
    "worst": kept_columns.merged_worst,
    "sample": kept_columns.merged_sample,
}


@dataclass(frozen=True, slots=True)
class Recorded:
    """What a recorder said that it would record; None where it is not known.

    Attributes:
        mask: of event classes, as for xentrace -e.
        pcpus: number of pCPUs of the host.
        is_shared: it noticed another recorder, which took some of the records.
    """

    mask: int | None = None
    pcpus: int | None = None
    is_shared: bool = False


@dataclass(frozen=True, slots=True)
class Partial:
    """The mergeable result of one or more traces.

    Attributes:
        tallies: metric, a, b | count, sum_cycles, min_cycles, max_cycles.  Metrics that only count have 0
            as min and max, so that they merge.
        buckets: metric, a, b, bucket | count.  Bucket numbers are those of bucket_bounds().
        records: pcpu, header | count: records by header word.
        pcpus: pcpu | first_tsc, last_tsc, blind_cycles, window_bytes.
        vcpus: vcpu (domain << 16 | vcpu) | type (1 PV, 2 HVM, 0 unknown; the greatest wins).
        classes: group (an event id without its last 12 bits) | files: the traces in which these records were
            recorded: one occurs, or the recorder selected them.
        named_pcpus: pcpu | files: pCPUs that the recorder or a record names.
        facts: one row of sums: files, bytes_read, windows, skipped_bytes, damage_count, ...
        pairs: ns, cycles, source (as Machine.pairs says): measurements of the TSC rate, kept one by one.
        damages: offset, reason, skipped_bytes, kept one by one.
        restarts: offset, after_cycles, back_cycles, kept one by one: where the TSC restarts in a trace, after
            how much time of it, and how far it goes back.
        skewed: the columns of SkewedPair, kept one by one: pCPUs of a trace whose TSCs differ.
        aligned: pcpu, offset_cycles, uncertain_cycles, kept one by one: pCPUs of a trace that was
            aligned.
        holes: pcpu, begin_tsc, end_tsc, kept one by one, at most MAX_HOLES_KEPT of each trace: stretches of a
            pCPU's time of which the windows are missing.
        dom0_tallies: kind (of probes.bpf.abi), id, vcpu, name | count, sum_ns, min_ns, max_ns, zero_count.
        dom0_buckets: kind, id, vcpu, name, bucket | count; the same buckets, in ns.
        dom0_samples: space, name, masked | count: samples of dom0's instruction pointers.
        dom0_facts: one row of sums: captures by bpf, span_ns, what was lost, captures without Xen's trace
            (dom0_only), length_ns of what was recorded in dom0.
        dom0_calls: kind, function | captures, bounded, count, most_count: traces during which calls of the
            function were counted, and how many of these have an upper bound; sums of the lower and of the
            upper bounds.
        spans: first_tsc, last_tsc of each trace, kept one by one, in the TSC of its first segment.
        slots: shift, slot, kind (a Slotted), a, b | count, total: sums by slots of 2^shift cycles.
        worst: metric, a, b, value_cycles, end_tsc: the longest intervals.
        sample: the same of intervals chosen by their hash.
    """

    tallies: Columns
    buckets: Columns
    records: Columns
    pcpus: Columns
    vcpus: Columns
    classes: Columns
    named_pcpus: Columns
    facts: Columns
    pairs: Columns
    damages: Columns
    restarts: Columns
    skewed: Columns
    aligned: Columns
    holes: Columns
    dom0_tallies: Columns
    dom0_buckets: Columns
    dom0_samples: Columns
    dom0_facts: Columns
    dom0_calls: Columns
    spans: Columns
    slots: Columns
    worst: Columns
    sample: Columns

    @property
    def trace_count(self) -> int:
        """Return how many files have Xen's trace."""
        return int(self.facts["files"].sum() - self.dom0_facts["dom0_only"].sum())

    @property
    def is_dom0_only(self) -> bool:
        """Return whether no file has Xen's trace: bpf, perf or xenctx recorded them all, in dom0."""
        return self.trace_count == 0 < int(self.facts["files"].sum())

    def labelled(self, host: str) -> Partial:
        """Return the Partial with another key column ``host``, which keeps hosts separate in a merge."""
        return Partial(**{part.name: getattr(self, part.name).having(host=host) for part in fields(Partial)})


def merge(partials: Iterable[Partial]) -> Partial:
    """Return the Partial of all traces together, without columns that not all of them have.

    Raises:
        ValueError: there is no Partial.
    """
    parts = list(partials)
    if not parts:
        raise ValueError("nothing to merge")
    if len(parts) == 1:
        return parts[0]
    return Partial(
        **{name: _merged([getattr(part, name) for part in parts], keys) for name, keys in KEYS.items()},
        **{name: how([getattr(part, name) for part in parts]) for name, how in _MERGE.items()},
    )


def of_keys(rows: Columns, keys: Sequence[str]) -> Groups:
    """Return the groups of rows of one key, of each host where there are several."""
    return rows.grouped([*(["host"] if "host" in rows else []), *keys])


def _merged(parts: Sequence[Columns], keys: tuple[str, ...] | None) -> Columns:
    common = [name for name in parts[0].names if all(name in part for part in parts)]
    rows = joined([part.only(common) for part in parts])
    if keys is None:
        return rows
    groups = of_keys(rows, keys)
    merged = {}
    for name in rows.names:
        if name in _MINIMA:
            merged[name] = groups.min(name)
        elif name in _MAXIMA:
            merged[name] = groups.max(name)
        elif name not in groups.keys:
            merged[name] = groups.sum(name)
    return groups.keys.having(**merged)


def pairs_of(collected: Collected) -> Columns:
    """Return Partial.pairs."""
    return Columns(dict(zip(PAIRS, collected.pairs.T, strict=True)))


def partial_of(
    collected: Collected, dom0: Dom0Columns | None = None, recorded: Recorded | None = None
) -> Partial:
    """Return the columns of what one pass collected and of what bpf counted in dom0 during the trace.

    Args:
        recorded: what the recorder said that it would record.
    """
    recorded = recorded or Recorded()
    dom0 = dom0 or dom0_columns.nothing()
    table = collected.tallies.table
    counted = _counted(collected)
    metric = table[:, T_KEY] >> METRIC_SHIFT
    timed = metric < FIRST_COUNT
    tallies = Columns(
        {
            "metric": np.concatenate((metric, counted[:, 0])),
            "a": np.concatenate((table[:, T_KEY] & _A_MASK, counted[:, 1])),
            "b": np.concatenate((table[:, T_B], counted[:, 2])),
            "count": np.concatenate((table[:, T_COUNT], counted[:, 3])),
            "sum_cycles": np.concatenate((table[:, T_SUM], np.zeros(len(counted), np.int64))),
            "min_cycles": np.concatenate(
                (np.where(timed, table[:, T_MIN], 0), np.zeros(len(counted), np.int64))
            ),
            "max_cycles": np.concatenate(
                (np.where(timed, table[:, T_MAX], 0), np.zeros(len(counted), np.int64))
            ),
        }
    )
    pcpu, shape = np.nonzero(collected.record_counts)
    seen = np.flatnonzero(collected.facts.pcpu_bytes[: len(collected.pcpu_first_tsc)] >= 0)
    facts = collected.facts
    # Of a trace whose TSC restarts often, such sums over the segments may not fit.
    times = {
        "span": int(collected.span_cycles),
        "hole": int(facts.hole_cycles),
        "silence": int(collected.silence_cycles),
    }
    stopped = int((table[:, T_SUM] >= MOST_SUM).sum()) + sum(time >= MOST_SUM for time in times.values())
    return Partial(
        tallies=joined([tallies, dom0.guest_rips]),
        buckets=_buckets(collected, metric),
        records=Columns(
            {
                "pcpu": pcpu,
                "header": collected.shape_headers[shape].astype(np.int64),
                "count": collected.record_counts[pcpu, shape],
            }
        ),
        pcpus=Columns(
            {
                "pcpu": seen,
                "first_tsc": collected.pcpu_first_tsc[seen],
                "last_tsc": collected.pcpu_last_tsc[seen],
                "blind_cycles": collected.pcpu_blind_cycles[seen],
                "window_bytes": facts.pcpu_bytes[seen],
            }
        ),
        vcpus=Columns({"vcpu": collected.vcpu_keys, "type": collected.vcpu_types}),
        classes=_classes(collected, recorded.mask),
        named_pcpus=_named(collected, recorded.pcpus),
        facts=Columns(
            {
                "files": [1],
                "span_cycles": [min(times["span"], MOST_SUM)],
                "bytes_read": [facts.bytes_read],
                "windows": [facts.windows],
                "skipped_bytes": [facts.skipped_bytes],
                "missing_bytes": [facts.missing_bytes],
                "tail_bytes": [facts.tail_bytes],
                "damage_count": [facts.damage_count],
                "late_records": [facts.late_records],
                "backward_tsc_count": [facts.backward_tsc_count],
                "tsc_restart_count": [len(facts.restarts)],
                "hole_count": [facts.hole_count],
                "hole_cycles": [min(times["hole"], MOST_SUM)],
                "silence_cycles": [min(times["silence"], MOST_SUM)],
                "hidden_hole_count": [collected.hidden_hole_count],
                "quiet_end_count": [facts.quiet_end_count],
                "half_full_windows": [facts.half_full_windows],
                "ring_known_files": [int(facts.ring_bytes is not None)],
                "intervals_left_out": [collected.tallies.left_out + stopped],
                "vcpus_left_out": [collected.vcpus_left_out],
                "core_files": [int(collected.has_cores)],
                "shared_files": [int(recorded.is_shared or _has_others(collected, recorded.mask))],
                "slot_keys_folded": [collected.kept.folded],
                "exemplar_keys_left_out": [collected.kept.left_out],
            }
        ),
        pairs=pairs_of(collected),
        damages=Columns(
            {
                "offset": np.array([damage.offset for damage in facts.damages], np.int64),
                "reason": text(damage.reason for damage in facts.damages),
                "skipped_bytes": np.array([damage.skipped_bytes for damage in facts.damages], np.int64),
            }
        ),
        restarts=_restarts(collected),
        skewed=of_rows(collected.skewed, dict.fromkeys(SkewedPair._fields, np.int64)),
        aligned=of_rows(collected.aligned, dict.fromkeys(AlignedPcpu._fields, np.int64)),
        holes=_holes(collected),
        dom0_tallies=dom0.tallies,
        dom0_buckets=dom0.buckets,
        dom0_samples=dom0.samples,
        dom0_facts=dom0.facts,
        dom0_calls=_dom0_calls(collected, dom0),
        spans=kept_columns.spans_of(collected),
        slots=kept_columns.slots_of(collected),
        worst=kept_columns.worst_of(collected),
        sample=kept_columns.sample_of(collected),
    )


def _restarts(collected: Collected) -> Columns:
    """Return Partial.restarts."""
    restarts = collected.facts.restarts
    cycles = [segment.cycles for segment in collected.segments[: len(restarts)]]
    return Columns(
        {
            "offset": np.array([restart.offset for restart in restarts], np.int64),
            "after_cycles": np.array([min(total, MOST_SUM) for total in accumulate(cycles)], np.int64),
            "back_cycles": np.array([restart.back_cycles for restart in restarts], np.int64),
        }
    )


def _holes(collected: Collected) -> Columns:
    """Return Partial.holes."""
    holes = collected.facts.holes
    return Columns(
        {
            "pcpu": np.array([hole.pcpu for hole in holes], np.int64),
            "begin_tsc": np.array([hole.begin_tsc for hole in holes], np.int64),
            "end_tsc": np.array([hole.end_tsc for hole in holes], np.int64),
        }
    )


def _dom0_calls(collected: Collected, dom0: Dom0Columns) -> Columns:
    """Return Partial.dom0_calls; none with restarts, because the line that fits the clocks does not hold."""
    if dom0.calls is None or len(collected.segments) > 1:
        return dom0_calls.columns_of([])
    (segment,) = collected.segments
    return dom0.calls.in_trace(segment.begin_tsc, segment.end_tsc)


_A_MASK = (1 << METRIC_SHIFT) - 1


def group_of(headers: I64) -> I64:
    """Return the group of each header word: the event id without its last 12 bits, where Xen has it now.

    Xen 4.0 and 4.1 write interrupts and C-states at other ids.
    """
    events = headers & EVENT_MASK
    groups = events >> 12
    groups = np.where(events == TRACE_IRQ, HW_IRQ_HANDLED >> 12, groups)
    words = headers >> EXTRA_SHIFT & EXTRA_MASK
    is_idle = (events == PM_IDLE_ENTRY_4_0) & (words == 4) | (events == PM_IDLE_EXIT_4_0) & (words == 6)
    return np.where(is_idle, PM_IDLE_ENTRY >> 12, groups)


def _classes(collected: Collected, mask: int | None) -> Columns:
    """Return Partial.classes."""
    occurring = collected.record_counts.sum(axis=0) > 0
    groups = set(group_of(collected.shape_headers[occurring].astype(np.int64)).tolist())
    if mask is not None:
        groups |= {group for group in _GROUPS if passes(mask, group << 12)}
    found = np.array(sorted(groups), np.int64)
    return Columns({"group": found, "files": np.ones(len(found), np.int64)})


def _has_others(collected: Collected, mask: int | None) -> bool:
    """Return whether there are records that a recorder's mask excludes: another one has changed the mask."""
    if mask is None:
        return False
    occurring = collected.record_counts.sum(axis=0) > 0
    groups = distinct((collected.shape_headers[occurring] & EVENT_MASK) >> 12).tolist()
    return any(is_outside(mask, group << 12) for group in groups)


def _named(collected: Collected, pcpus: int | None) -> Columns:
    """Return Partial.named_pcpus."""
    bits = collected.named_pcpus[:, None] >> np.arange(32) & 1
    found = np.flatnonzero(bits.ravel())
    if pcpus is not None:
        found = distinct(np.concatenate((found, np.arange(min(pcpus, MAX_PCPUS)))))
    return Columns({"pcpu": found, "files": np.ones(len(found), np.int64)})


def _counted(collected: Collected) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Return the non-zero per-vCPU counters as rows {metric, a, b, count}."""
    vcpu, column = np.nonzero(collected.vcpu_counts)
    single = column >= C_SINGLE
    metric = np.select(
        [single, column >= C_PV_EVENT, column >= C_SUBCALL],
        [column - C_SINGLE + int(FIRST_COUNT), int(Metric.PV_EVENT), int(Metric.SUBCALL)],
        int(Metric.HYPERCALL),
    )
    b = np.select(
        [single, column >= C_PV_EVENT, column >= C_SUBCALL],
        [0, column - C_PV_EVENT, column - C_SUBCALL],
        column,
    )
    return np.stack(
        (metric, collected.vcpu_keys[vcpu], b, collected.vcpu_counts[vcpu, column]), axis=1
    ).astype(np.int64)


def _buckets(collected: Collected, metric: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Columns:
    tallies = collected.tallies
    owner = np.full(len(tallies.histograms), -1, np.int64)
    rows = np.flatnonzero((metric < FIRST_COUNT) & (tallies.table[:, T_HISTOGRAM] >= 0))
    owner[tallies.table[rows, T_HISTOGRAM]] = rows
    histogram, octave = np.nonzero(tallies.histograms >= 0)
    chunks = tallies.buckets[tallies.histograms[histogram, octave]]
    which, place = np.nonzero(chunks)
    row = owner[histogram[which]]
    return Columns(
        {
            "metric": metric[row],
            "a": tallies.table[row, T_KEY] & _A_MASK,
            "b": tallies.table[row, T_B],
            "bucket": octave[which] * SUB_BUCKETS + place,
            "count": chunks[which, place],
        }
    )
