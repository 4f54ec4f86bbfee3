"""Tally intervals by key, in compiled loops.

``tally`` takes the rows that ``loops.run`` emits and keeps a log-linear histogram of their values.
``tests/oracle/machine.py`` is the slow reference implementation.
"""

from __future__ import annotations

import numpy as np

from xtrace.analysis.state_machine.kept import (
    EXEMPLARS,
    LATENCY_ROW,
    SAMPLE,
    SLOTS,
    SLOTTED_MASK,
    SPREAD,
    WORST,
    E,
    K,
    Slotted,
)
from xtrace.analysis.state_machine.metrics import (
    FIRST_COUNT,
    METRIC_SHIFT,
    MOST_SUM,
    SUB_BUCKETS,
    T_B,
    T_COUNT,
    T_HISTOGRAM,
    T_KEPT,
    T_KEY,
    T_MAX,
    T_MIN,
    T_SUM,
    Metric,
)
from xtrace.probes.compiled.loop import I32, I32_2D, I64, I64_2D, inlined_part, loop, part
from xtrace.probes.xen_abi import IDLE_DOMAIN

_A_MASK = (1 << METRIC_SHIFT) - 1
#: T_KEPT: 1 + the row of sums by slots, whether its intervals are spread, and 1 + the row of exemplars.
_ROW_MASK = (1 << 24) - 1
_IS_SPREAD = 1 << 24
_EXEMPLAR_SHIFT = 32
_MOST = (1 << 63) - 1
_LOW = (1 << 32) - 1
#: Metrics of which those of idle vCPUs say no more than that a pCPU idles.
_OF_VCPUS = (
    int(Metric.RUNNING), int(Metric.RUNNABLE_WAKE), int(Metric.RUNNABLE_PREEMPT),
    int(Metric.RUNNABLE_OTHER), int(Metric.OFFLINE), int(Metric.BLOCKED), int(Metric.OPEN),
)  # fmt: skip


@inlined_part
def bucket_of(value):
    """Return (octave, bucket in it) of a value >= 0: 64 buckets per octave, exact below 64."""
    if value < SUB_BUCKETS:
        return np.int64(0), value
    exponent = (np.float64(value).view(np.int64) >> 52) - 1023
    if value >> exponent == 0:
        exponent -= 1  # the conversion to float rounded up to the next power of two
    return exponent - 5, (value >> (exponent - 6)) - SUB_BUCKETS


@part
def _slot_for(state, slots, table, key, b):
    """Return the slot of (key, b).

    The hash is a sum of products of 32-bit halves with numbers that nobody knows before: whoever chooses the
    keys in a trace cannot choose which of them collide.
    """
    mask = len(slots) - 1
    mixed = (
        (key & _LOW) * state[K.SECRET]
        + (key >> 32) * state[K.SECRET + 1]
        + (b & _LOW) * state[K.SECRET + 2]
        + (b >> 32) * state[K.SECRET + 3]
    )
    slot = (mixed >> 32) & mask
    while slots[slot] >= 0:
        row = slots[slot]
        if table[row, T_KEY] == key and table[row, T_B] == b:
            break
        slot = (slot + 1) & mask
    return slot


@inlined_part
def _is_time(metric):
    """Return whether the metric accounts for the time of a vCPU, a domain or a pCPU."""
    return (
        metric <= Metric.PCPU_LOST
        or Metric.STATE_UNKNOWN <= metric <= Metric.OPEN
        or metric == Metric.RUNNABLE_BUDGET
    )


@inlined_part
def _octave(value):
    """Return floor(log2) of a value, 0 below 2."""
    if value < 2:
        return np.int64(0)
    exponent = (np.float64(value).view(np.int64) >> 52) - 1023
    if value >> exponent == 0:
        exponent -= 1
    return exponent


@part
def _row_of_slots(state, row_slots, rows, kind, a, b):
    """Return the row of sums for a key; that of the kind where there is no room for another."""
    key = (np.int64(kind) << METRIC_SHIFT) | a
    slot = _slot_for(state, row_slots, rows, key, b)
    row = np.int64(row_slots[slot])
    if row < 0:
        row = state[K.ROWS]
        if row == len(rows):
            state[K.FOLDED] += 1
            return np.int64(kind)
        state[K.ROWS] += 1
        row_slots[slot] = row
        rows[row, T_KEY] = key
        rows[row, T_B] = b
    return row


@part
def _row_of_exemplars(state, exemplar_slots, exemplars, key):
    """Return the row of exemplars for a key, -1 where there is no room for another."""
    slot = _slot_for(state, exemplar_slots, exemplars, key, 0)
    row = np.int64(exemplar_slots[slot])
    if row < 0:
        row = state[K.EXEMPLARS]
        if row == len(exemplars):
            state[K.EXEMPLARS_LEFT_OUT] += 1
            return np.int64(-1)
        state[K.EXEMPLARS] += 1
        exemplar_slots[slot] = row
        exemplars[row, E.KEY] = key
        exemplars[row, E.LEAST] = -1
        exemplars[row, E.MOST_HASH] = _MOST
    return row


@part
def _kept_of(state, by_metric, row_slots, rows, exemplar_slots, exemplars, key, b):
    """Return what is kept of the intervals of a key, for T_KEPT; 0 for nothing."""
    metric = key >> METRIC_SHIFT
    kind = by_metric[metric & 0xFF]
    if metric == Metric.OPEN:
        # It counts as a part of the time that it is of.
        time = b >> 32
        if (time < 0 or time > Metric.OFFLINE) and time != Metric.RUNNABLE_BUDGET:
            return np.int64(0)
        kind |= by_metric[time] & (SLOTTED_MASK | SPREAD)
    if kind == 0 or (metric in _OF_VCPUS and (key & _A_MASK) >> 16 == IDLE_DOMAIN):
        return np.int64(0)
    packed = np.int64(0)
    slotted = kind & SLOTTED_MASK
    if slotted == Slotted.LATENCY:
        packed = np.int64(LATENCY_ROW + 1)
    elif slotted:
        a = key & _A_MASK
        second = np.int64(0)
        if slotted == Slotted.SENDS_WAKING:
            a = b & _A_MASK
        elif slotted == Slotted.IRQS:
            second = b
        packed = _row_of_slots(state, row_slots, rows, slotted, a, second) + 1
        if kind & SPREAD:
            packed |= _IS_SPREAD
    if kind & EXEMPLARS:
        packed |= (_row_of_exemplars(state, exemplar_slots, exemplars, key) + 1) << _EXEMPLAR_SHIFT
    return packed


@inlined_part
def _added(total, value):
    """Return a sum, MOST_SUM where it would exceed that: the TSCs of a trace may be any numbers."""
    if value > 0 and total > MOST_SUM - value:
        return np.int64(MOST_SUM)
    return total + value


@inlined_part
def _spread(sums, row, begin, end, shift, base):
    """Add an interval's cycles to the slots that it covers."""
    first = (begin >> shift) - base
    last = ((end - 1) >> shift) - base
    if first == last:
        sums[row, 2 * first + 1] = _added(sums[row, 2 * first + 1], end - begin)
    else:
        part = ((first + base + 1) << shift) - begin
        sums[row, 2 * first + 1] = _added(sums[row, 2 * first + 1], part)
        for slot in range(first + 1, last):
            sums[row, 2 * slot + 1] = _added(sums[row, 2 * slot + 1], np.int64(1) << shift)
        sums[row, 2 * last + 1] = _added(sums[row, 2 * last + 1], end - ((last + base) << shift))


@part
def _keep_worst(exemplars, row, value, tsc, b):
    """Insert an interval where it belongs among the worst: greater values first, then earlier ends."""
    count = exemplars[row, E.WORST_COUNT]
    at = count
    while at > 0:
        before = E.WORST + 3 * (at - 1)
        other, other_tsc = exemplars[row, before], exemplars[row, before + 1]
        if other > value or (
            other == value and (other_tsc < tsc or (other_tsc == tsc and exemplars[row, before + 2] <= b))
        ):
            break
        if at < WORST:
            for column in range(3):
                exemplars[row, before + 3 + column] = exemplars[row, before + column]
        at -= 1
    if at < WORST:
        place = E.WORST + 3 * at
        exemplars[row, place] = value
        exemplars[row, place + 1] = tsc
        exemplars[row, place + 2] = b
        if count < WORST:
            exemplars[row, E.WORST_COUNT] = count + 1
        if exemplars[row, E.WORST_COUNT] == WORST:
            exemplars[row, E.LEAST] = exemplars[row, E.WORST + 3 * (WORST - 1)]


@inlined_part
def _hash(key, b, value, tsc):
    """Return a number of 63 bits that depends on what an interval is."""
    mixed = (key ^ (b * 0x9E37_79B9_7F4A_7C1)) * 0x1FFF_FFFF_FFF1
    mixed = ((mixed ^ (mixed >> 29)) + tsc) * 0x2545_F491_4F6C_DD1D
    mixed = ((mixed ^ (mixed >> 31)) + value) * 0x5851_F42D_4C95_7F2D
    return (mixed ^ (mixed >> 30)) & _MOST


@part
def _keep_sample(exemplars, row, mixed, value, tsc, b):
    """Insert an interval where it belongs in the sample: the least hash first, then earlier ends."""
    count = exemplars[row, E.SAMPLE_COUNT]
    at = count
    while at > 0:
        before = E.SAMPLE + 4 * (at - 1)
        other = exemplars[row, before]
        other_tsc = exemplars[row, before + 2]
        if other < mixed or (
            other == mixed
            and (
                other_tsc < tsc
                or (
                    other_tsc == tsc
                    and (
                        exemplars[row, before + 1] > value
                        or (exemplars[row, before + 1] == value and exemplars[row, before + 3] <= b)
                    )
                )
            )
        ):
            break
        if at < SAMPLE:
            for column in range(4):
                exemplars[row, before + 4 + column] = exemplars[row, before + column]
        at -= 1
    if at < SAMPLE:
        place = E.SAMPLE + 4 * at
        exemplars[row, place] = mixed
        exemplars[row, place + 1] = value
        exemplars[row, place + 2] = tsc
        exemplars[row, place + 3] = b
        if count < SAMPLE:
            exemplars[row, E.SAMPLE_COUNT] = count + 1
        if exemplars[row, E.SAMPLE_COUNT] == SAMPLE:
            exemplars[row, E.MOST_HASH] = exemplars[row, E.SAMPLE + 4 * (SAMPLE - 1)]


@part
def _has_room(table, histograms, buckets, size, histogram_size, chunk_size, entry, key, value):
    """Return whether an interval needs no row or chunk that is not there any more."""
    if entry < 0 and size == len(table):
        return False
    if key >> METRIC_SHIFT >= FIRST_COUNT or value < 0:
        return True
    histogram = np.int64(-1)
    if entry >= 0:
        histogram = table[entry, T_HISTOGRAM]
    if histogram < 0:
        return histogram_size < len(histograms) and chunk_size < len(buckets)
    octave, _ = bucket_of(value)
    return histograms[histogram, octave] >= 0 or chunk_size < len(buckets)


@loop
def rehash(state: I64, slots: I32, table: I64_2D, size: int) -> None:
    """Insert the first ``size`` rows of ``table`` into the empty hash table ``slots``."""
    for row in range(size):
        slots[_slot_for(state, slots, table, table[row, T_KEY], table[row, T_B])] = row


@loop
def tally(
    intervals: I64_2D, row: int, from_tsc: int, to_tsc: int,
    slots: I32, table: I64_2D, histograms: I32_2D, buckets: I64_2D,
    state: I64, by_metric: I64, row_slots: I32, rows: I64_2D, sums: I64_2D,
    exemplar_slots: I32, exemplars: I64_2D,
    size: int, histogram_size: int, chunk_size: int, cannot_grow: bool,
) -> tuple[int, int, int, int]:  # fmt: skip
    """Add the intervals from ``row`` on to the tallies, until all are added or a table is full.

    Where the tables ``cannot_grow``, it goes on: intervals that need more room are only counted, as left out.

    A histogram is a row of chunk numbers, one per octave; a chunk is 64 counts.  Of the window, an interval
    counts if it ends in it; one that accounts for time counts with the part of it that is in the window.

    The arrays from ``state`` on are those of ``kept.Kept``.  Where it needs other slots, it stops.

    Returns:
        (next row, and how many tally rows, histogram rows and chunks are in use).
    """
    axis = state[K.AXIS]
    shift = state[K.SHIFT]
    base = state[K.BASE]
    while row < len(intervals):
        is_full = size == len(table) or histogram_size == len(histograms) or chunk_size == len(buckets)
        if is_full and not cannot_grow:
            break
        tsc = intervals[row, 3]
        key = intervals[row, 0]
        b = intervals[row, 1]
        value = intervals[row, 2]
        row += 1
        if tsc < from_tsc or tsc > to_tsc or tsc - value < from_tsc:
            metric = key >> METRIC_SHIFT
            if _is_time(metric):
                # What reaches beyond the window counts with its part in it.
                begin = max(tsc - value, from_tsc)
                tsc = min(tsc, to_tsc)
                value = tsc - begin
                if value <= 0:
                    continue
                if (
                    metric <= Metric.OFFLINE
                    or metric == Metric.DOMAIN_STATE
                    or metric == Metric.RESIDENCE
                    or metric == Metric.RUNNABLE_BUDGET
                ):
                    b |= metric << 32
                    key = (np.int64(Metric.OPEN) << METRIC_SHIFT) | (key & _A_MASK)
            elif tsc < from_tsc or tsc > to_tsc:
                continue
        slot = _slot_for(state, slots, table, key, b)
        entry = np.int64(slots[slot])
        if is_full and not _has_room(
            table, histograms, buckets, size, histogram_size, chunk_size, entry, key, value
        ):
            state[K.LEFT_OUT] += 1
            continue
        if entry < 0:
            entry = size
            size += 1
            slots[slot] = entry
            table[entry, T_KEY] = key
            table[entry, T_B] = b
            table[entry, T_COUNT] = 0
            table[entry, T_SUM] = 0
            table[entry, T_MIN] = value
            table[entry, T_MAX] = value
            table[entry, T_HISTOGRAM] = -1
            table[entry, T_KEPT] = _kept_of(
                state, by_metric, row_slots, rows, exemplar_slots, exemplars, key, b
            )
        kept = table[entry, T_KEPT]
        if kept:
            end = tsc + axis
            line = (kept & _ROW_MASK) - 1
            if line >= 0:
                begin = end
                moment = end
                if kept & _IS_SPREAD:
                    begin = end - value
                    moment = end - 1
                last = (moment >> shift) - base
                if last >= SLOTS or last < 0 or (begin >> shift) < base:
                    state[K.LOW] = min(begin, moment)
                    state[K.HIGH] = moment + 1
                    row -= 1
                    break
                if kept & _IS_SPREAD:
                    if value > 0:
                        _spread(sums, line, begin, end, shift, base)
                else:
                    if line == LATENCY_ROW:
                        line += _octave(value)
                    sums[line, 2 * last + 1] = _added(sums[line, 2 * last + 1], value)
                sums[line, 2 * last] += 1
            exemplar = (kept >> _EXEMPLAR_SHIFT) - 1
            if exemplar >= 0 and value >= 0:
                if value >= exemplars[exemplar, E.LEAST]:
                    _keep_worst(exemplars, exemplar, value, end, b)
                mixed = _hash(key, b, value, end)
                if mixed <= exemplars[exemplar, E.MOST_HASH]:
                    _keep_sample(exemplars, exemplar, mixed, value, end, b)
        table[entry, T_COUNT] += 1
        table[entry, T_SUM] = _added(table[entry, T_SUM], value)
        if key >> METRIC_SHIFT < FIRST_COUNT:
            table[entry, T_MIN] = min(value, table[entry, T_MIN])
            table[entry, T_MAX] = max(value, table[entry, T_MAX])
            if value >= 0:
                histogram = table[entry, T_HISTOGRAM]
                if histogram < 0:
                    histogram = histogram_size
                    histogram_size += 1
                    table[entry, T_HISTOGRAM] = histogram
                octave, place = bucket_of(value)
                chunk = np.int64(histograms[histogram, octave])
                if chunk < 0:
                    chunk = chunk_size
                    chunk_size += 1
                    histograms[histogram, octave] = chunk
                buckets[chunk, place] += 1
    return row, size, histogram_size, chunk_size
