"""Tally intervals by key, in compiled loops.

``tally`` takes the rows that ``loops.run`` emits and keeps a log-linear histogram of their values.
``tests/oracle/machine.py`` is the slow reference implementation.
"""

from __future__ import annotations

import numpy as np

from xtrace.analysis.state_machine.metrics import (
    FIRST_COUNT,
    METRIC_SHIFT,
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
from xtrace.probes.compiled.loop import I32, I32_2D, I64_2D, inlined_part, loop, part

_A_MASK = (1 << METRIC_SHIFT) - 1


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
def _slot_for(slots, table, key, b):
    mask = len(slots) - 1
    mixed = (key ^ (b * 0x9E37_79B9_7F4A_7C1)) * 0x1FFF_FFFF_FFF1
    slot = (mixed ^ (mixed >> 29)) & mask
    while slots[slot] >= 0:
        row = slots[slot]
        if table[row, T_KEY] == key and table[row, T_B] == b:
            break
        slot = (slot + 1) & mask
    return slot


@inlined_part
def _is_time(metric):
    """Return whether the metric accounts for the time of a vCPU, a domain or a pCPU."""
    return metric <= Metric.PCPU_LOST or Metric.STATE_UNKNOWN <= metric <= Metric.OPEN


@loop
def rehash(slots: I32, table: I64_2D, size: int) -> None:
    """Insert the first ``size`` rows of ``table`` into the empty hash table ``slots``."""
    for row in range(size):
        slots[_slot_for(slots, table, table[row, T_KEY], table[row, T_B])] = row


@loop
def tally(
    intervals: I64_2D, row: int, from_tsc: int, to_tsc: int,
    slots: I32, table: I64_2D, histograms: I32_2D, buckets: I64_2D,
    size: int, histogram_size: int, chunk_size: int,
) -> tuple[int, int, int, int]:  # fmt: skip
    """Add the intervals from ``row`` on to the tallies, until all are added or a table is full.

    A histogram is a row of chunk numbers, one per octave; a chunk is 64 counts.  Of the window, an interval
    counts if it ends in it; one that accounts for time counts with the part of it that is in the window.

    Returns:
        (next row, and how many tally rows, histogram rows and chunks are in use).
    """
    while row < len(intervals):
        if size == len(table) or histogram_size == len(histograms) or chunk_size == len(buckets):
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
                value = min(tsc, to_tsc) - max(tsc - value, from_tsc)
                if value <= 0:
                    continue
                if metric <= Metric.OFFLINE or metric == Metric.DOMAIN_STATE or metric == Metric.RESIDENCE:
                    b |= metric << 32
                    key = (np.int64(Metric.OPEN) << METRIC_SHIFT) | (key & _A_MASK)
            elif tsc < from_tsc or tsc > to_tsc:
                continue
        slot = _slot_for(slots, table, key, b)
        entry = np.int64(slots[slot])
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
        table[entry, T_COUNT] += 1
        table[entry, T_SUM] += value
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
