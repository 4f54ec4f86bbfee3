"""Shift the TSCs of some pCPUs of a trace, as if these TSCs were apart from the others."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from xtrace.probes.event_ids import HW_IRQ_HANDLED, TRACE_IRQ
from xtrace.probes.format import (
    EVENT_MASK,
    EXTRA_MASK,
    EXTRA_SHIFT,
    LOST_RECORDS,
    MAX_PCPUS,
    TIMED_BIT,
    WINDOW_HEADER,
)
from xtrace.probes.reader.batches import I64

_HEADER_WORDS = 3


def shifted(data: bytes, cycles: Mapping[int, int]) -> bytes:
    """Return an undamaged trace with the TSCs of each pCPU in ``cycles`` moved by that many cycles.

    Records that have TSCs in their words, too, have these moved: lost records and interrupts.
    """
    words = np.frombuffer(data[: len(data) // 4 * 4], np.uint32).tolist()
    at = 0
    while at + _HEADER_WORDS <= len(words):
        assert words[at] == WINDOW_HEADER
        by = cycles.get(words[at + 1], 0)
        at += _HEADER_WORDS
        end = min(at + words[at - 1] // 4, len(words))
        while at < end:
            header = words[at]
            start = at + (3 if header & TIMED_BIT else 1)
            stop = start + (header >> EXTRA_SHIFT & EXTRA_MASK)
            if stop <= end and by:
                _move(words, header, at, start, by)
            at = min(stop, end)
    return np.array(words, np.uint32).tobytes() + data[len(data) // 4 * 4 :]


def _move(words: list[int], header: int, at: int, start: int, by: int) -> None:
    if header & TIMED_BIT:
        _add(words, at + 1, by)
    if header & EVENT_MASK == LOST_RECORDS:
        _add(words, start + 2, by)
    if header & EVENT_MASK in (HW_IRQ_HANDLED, TRACE_IRQ):
        for word in (start + 1, start + 2):
            words[word] = (words[word] + by) & 0xFFFF_FFFF


def _add(words: list[int], at: int, by: int) -> None:
    tsc = (words[at] | words[at + 1] << 32) + by
    words[at], words[at + 1] = tsc & 0xFFFF_FFFF, tsc >> 32 & 0xFFFF_FFFF


def offsets(cycles: Mapping[int, int]) -> I64:
    """Return ``cycles`` by pCPU as the reader takes it."""
    found = np.zeros(MAX_PCPUS, np.int64)
    for pcpu, by in cycles.items():
        found[pcpu] = by
    return found
