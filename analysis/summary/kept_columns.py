"""The parts of a Partial that have a time: sums by slots of it, and single intervals; and how these merge.

Slots begin at multiples of their length, and lengths are powers of two, so those of one trace merge in pairs
into those of another.  The length of merged slots is the least of which each host fills at most SLOTS; the
worst intervals of all are among the worst of each, and so with the least hashes.  So the order of merging
does not matter.  All times are in the TSC of a trace's first segment, and go on from there where the TSC
restarts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from xtrace.analysis.columns import I64, Columns, joined, of_rows
from xtrace.analysis.state_machine.collected import Collected
from xtrace.analysis.state_machine.kept import SAMPLE, SLOTS, WORST
from xtrace.analysis.state_machine.metrics import METRIC_SHIFT, MOST_SUM

_SLOT_COLUMNS = ("shift", "slot", "kind", "a", "b", "count", "total")
_EXEMPLAR_COLUMNS = ("metric", "a", "b", "value_cycles", "end_tsc")


def slots_of(collected: Collected) -> Columns:
    """Return Partial.slots."""
    return Columns(dict(zip(_SLOT_COLUMNS, collected.kept.slots.T, strict=True)))


def worst_of(collected: Collected) -> Columns:
    """Return Partial.worst."""
    return _least(Columns(dict(zip(_EXEMPLAR_COLUMNS, collected.kept.worst.T, strict=True))), WORST)


def sample_of(collected: Collected) -> Columns:
    """Return Partial.sample."""
    return _by_hash(Columns(dict(zip(_EXEMPLAR_COLUMNS, collected.kept.sample.T, strict=True))))


def spans_of(collected: Collected) -> Columns:
    """Return Partial.spans: a row, or none for a trace without a TSC."""
    first = collected.segments[0].first_tsc
    last = min(first + sum(segment.cycles for segment in collected.segments), MOST_SUM)
    ends = [(first, last)] if first else []
    return of_rows(ends, {"first_tsc": np.int64, "last_tsc": np.int64})


def merged_slots(parts: Sequence[Columns]) -> Columns:
    """Return the sums of all parts, by slots of one length."""
    rows = _all(parts)
    if not len(rows):
        return rows
    hosts = hosts_of(rows)
    shift = int(rows["shift"].max())
    slot = rows["slot"] >> (shift - rows["shift"])
    while most_slots(hosts, slot) > SLOTS:
        shift += 1
        slot = slot >> 1
    rows = rows.having(shift=shift, slot=slot)
    keys = [name for name in rows.names if name not in ("count", "total")]
    return rows.sums(keys, ["count", "total"]).only(rows.names)


def merged_worst(parts: Sequence[Columns]) -> Columns:
    """Return the worst intervals of all parts."""
    return _least(_all(parts), WORST)


def merged_sample(parts: Sequence[Columns]) -> Columns:
    """Return the sample of all parts."""
    return _by_hash(_all(parts))


def hashes(rows: Columns) -> I64:
    """Return the hash of each interval, as tally_loops computes it."""
    key = rows["metric"].astype(np.int64) << METRIC_SHIFT | rows["a"]
    mixed = (key ^ rows["b"] * 0x9E37_79B9_7F4A_7C1) * 0x1FFF_FFFF_FFF1
    mixed = ((mixed ^ mixed >> 29) + rows["end_tsc"]) * 0x2545_F491_4F6C_DD1D
    mixed = ((mixed ^ mixed >> 31) + rows["value_cycles"]) * 0x5851_F42D_4C95_7F2D
    found: I64 = (mixed ^ mixed >> 30) & ((1 << 63) - 1)
    return found


def _by_hash(rows: Columns) -> Columns:
    hashed = _least(rows.having(hash=hashes(rows)), SAMPLE, "hash")
    return hashed.only([name for name in hashed.names if name != "hash"])


def _least(rows: Columns, count: int, *first: str) -> Columns:
    """Return the first intervals of each ``a``: by a column, or the longest; then those that end first."""
    by = [name for name in ("host", "metric", "a") if name in rows]
    order = rows.having(shorter=-rows["value_cycles"])
    within = [*first, *(("end_tsc", "shorter") if first else ("shorter", "end_tsc")), "b"]
    groups = order.grouped(by, within)
    sizes = np.diff(groups.starts, append=len(groups.order))
    rank = np.arange(len(groups.order)) - np.repeat(groups.starts, sizes)
    return rows.where(groups.order[rank < count])


def _all(parts: Sequence[Columns]) -> Columns:
    common = [name for name in parts[0].names if all(name in part for part in parts)]
    return joined([part.only(common) for part in parts])


def hosts_of(rows: Columns) -> I64:
    """Return a number for the host of each row."""
    return rows.grouped([name for name in ("host",) if name in rows]).numbers


def most_slots(hosts: I64, slot: I64) -> int:
    """Return how many slots the host with most of them fills."""
    both = Columns({"host": hosts, "slot": slot}).grouped(["host", "slot"]).keys
    return int(np.bincount(both["host"]).max())
