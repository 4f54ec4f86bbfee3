"""Determine a trace's TSC rate from its first part, in plain Python: the report's method."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from xtrace.probes import tsc_rate
from xtrace.probes.format import LOST_RECORDS
from xtrace.probes.live.framer import ALL_WORDS, LAST_WORD, Framer, Meaning
from xtrace.probes.live.restarts import Entry

_SWITCH_INFPREV = 0x2800E


class _Chain:
    """The sum of consecutive run times of one pCPU."""

    __slots__ = ("cycles", "ns", "tsc")

    def __init__(self) -> None:
        self.tsc = self.ns = self.cycles = 0


class RateMeter:
    """Takes a trace's bytes until ``hz`` is not None."""

    def __init__(self) -> None:
        self._sums: list[tuple[int, int]] = []
        self._by_length: dict[int, tuple[int, int]] = {}
        self._chains: list[_Chain] = []
        self._framer = Framer(
            self._meaning, self._chain_of, self._nothing, self._nothing, on_hole=self._on_lost
        )

    @property
    def hz(self) -> float | None:
        """TSC cycles per second; None if the bytes so far do not determine it."""
        found = tsc_rate.measure(self._sums, self._by_length)
        return found.hz if found else None

    @property
    def sum_count(self) -> int:
        """Number of sums that the rate is based on."""
        return len(self._sums)

    def hole(self) -> None:
        """Take it that windows can be missing before the next bytes: no sum goes across."""
        self._framer.hole()

    def feed(self, data: bytes) -> None:
        """Take the next bytes."""
        self._framer.feed(data)
        self._take()

    def end(self) -> None:
        """Take the end of the trace, with the sums up to there."""
        self._framer.end()
        self._take()
        for chain in self._chains:
            self._end_sum(chain)

    def _take(self) -> None:
        for entries, _ in self._framer.take():
            self._walk(entries)  # at a restart the TSC goes back, which ends every sum

    def _chain_of(self, _: int) -> _Chain:
        self._chains.append(_Chain())
        return self._chains[-1]

    def _walk(self, entries: Iterable[Entry]) -> None:
        for _, handler, chain, tsc, _, a, b in entries:
            handler(chain, tsc, a, b)

    def _meaning(self, event: int, words: int) -> Meaning | None:
        if event == _SWITCH_INFPREV and words in (2, 3):
            return self._on_ran, LAST_WORD, None
        return (self._on_lost, ALL_WORDS, None) if event == LOST_RECORDS and words == 4 else None

    def _on_ran(self, chain: _Chain, tsc: int, ns: int, _: Any) -> None:
        """As ``_take_run_time`` in analysis/state_machine/loops.py, which also looks at the vCPU."""
        tsc_before, chain.tsc = chain.tsc, tsc
        cycles = tsc - tsc_before
        if tsc_before == 0 or not 0 <= cycles < tsc_rate.BREAK_CYCLES:
            self._end_sum(chain)
            return
        if ns >= tsc_rate.NS_NEGATIVE and cycles < tsc_rate.NEGATIVE_CYCLES:
            ns -= 1 << 32
        if cycles > 0:
            length = tsc_rate.length_of(cycles)
            sum_ns, sum_cycles = self._by_length.get(length, (0, 0))
            self._by_length[length] = (sum_ns + ns, sum_cycles + cycles)
        if chain.ns >= tsc_rate.LEAST_NS:
            here, there = cycles * chain.ns, ns * chain.cycles
            most = max(here, there, chain.ns * chain.cycles)
            if abs(here - there) > tsc_rate.DIFFERENCE * most:
                self._end_sum(chain)
                return
        chain.ns += ns
        chain.cycles += cycles
        if chain.ns >= tsc_rate.SUM_NS:
            self._end_sum(chain)

    def _end_sum(self, chain: _Chain) -> None:
        if chain.ns >= tsc_rate.LEAST_NS and chain.cycles > 0:
            self._sums.append((chain.ns, chain.cycles))
        chain.ns = chain.cycles = 0

    def _on_lost(self, chain: _Chain, tsc: int, a: Any, b: Any) -> None:
        chain.tsc = chain.ns = chain.cycles = 0

    def _nothing(self, chain: _Chain, tsc: int, a: Any, b: Any) -> None:
        """Ignore a record without a run time."""
