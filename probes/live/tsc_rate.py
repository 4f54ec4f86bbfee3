"""Determine a trace's TSC rate from its first part, in plain Python.

This is the report's method: on a pCPU, the run times that the scheduler records add up to Xen's
clock.  The ratio of TSC cycles to half a second of run time gives the rate; the median is taken.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable
from typing import Any

from xtrace.probes.format import LOST_RECORDS
from xtrace.probes.live.framer import ALL_WORDS, Entry, Framer, Meaning

_SWITCH_INFPREV = 0x2800E
#: A 32-bit run time from here on is negative: the clock went back a little.
_NS_NEGATIVE = 0xF000_0000
_SUM_NS = 500_000_000
_BREAK_CYCLES = 1 << 32
_LEAST_SUMS = 3
_HZ_RANGE = (1e8, 2e10)


class _Chain:
    """Consecutive run times of one pCPU."""

    __slots__ = ("cycles", "ns", "tsc")

    def __init__(self) -> None:
        self.tsc = self.ns = self.cycles = 0


class RateMeter:
    """Takes a trace's bytes until ``hz`` is not None."""

    def __init__(self) -> None:
        self._ratios: list[float] = []
        self._framer = Framer(self._meaning, lambda _: _Chain(), self._nothing, self._nothing)

    @property
    def hz(self) -> float | None:
        """TSC cycles per second; None if the bytes so far do not determine it."""
        if len(self._ratios) < _LEAST_SUMS:
            return None
        hz = statistics.median(self._ratios) * 1e9
        return hz if _HZ_RANGE[0] <= hz <= _HZ_RANGE[1] else None

    @property
    def sum_count(self) -> int:
        """Number of half-second sums that the rate is based on."""
        return len(self._ratios)

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        self._framer.feed(data)
        self._walk(self._framer.take())

    def _walk(self, entries: Iterable[Entry]) -> None:
        for _, handler, chain, tsc, _, a, b in entries:
            handler(chain, tsc, a, b)

    def _meaning(self, event: int, words: int) -> Meaning | None:
        if event == _SWITCH_INFPREV and words in (2, 3):
            return self._on_ran, 3, None
        return (self._on_lost, ALL_WORDS, None) if event == LOST_RECORDS and words == 4 else None

    def _on_ran(self, chain: _Chain, tsc: int, ns: int, _: Any) -> None:
        if ns >= _NS_NEGATIVE:
            ns -= 1 << 32
        cycles = tsc - chain.tsc
        if chain.tsc == 0 or not 0 <= cycles < _BREAK_CYCLES:
            chain.ns = chain.cycles = 0
        else:
            chain.ns += ns
            chain.cycles += cycles
            if chain.ns >= _SUM_NS:
                self._ratios.append(chain.cycles / chain.ns)
                chain.ns = chain.cycles = 0
        chain.tsc = tsc

    def _on_lost(self, chain: _Chain, tsc: int, a: Any, b: Any) -> None:
        chain.tsc = chain.ns = chain.cycles = 0

    def _nothing(self, chain: _Chain, tsc: int, a: Any, b: Any) -> None:
        """Ignore a record without a run time."""
