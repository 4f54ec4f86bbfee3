"""Look up sums by slots of time, and single intervals with their time."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from xtrace.analysis.columns import I64, Columns, distinct
from xtrace.analysis.state_machine.kept import NOT_KEPT, Slotted
from xtrace.analysis.state_machine.metrics import MOST_SUM, Metric
from xtrace.analysis.summary.partial import Partial

#: What is kept of the rows of a kind: those of thousands of pCPUs take hundreds of megabytes.
_OF_KIND = ("a", "b", "place", "count", "total")


class Series(NamedTuple):
    """One key's sums, an entry per slot.

    Attributes:
        counts, totals: int64 [slots].
    """

    counts: I64
    totals: I64


class Interval(NamedTuple):
    """An interval with its time."""

    begin_tsc: int
    end_tsc: int
    b: int

    @property
    def cycles(self) -> int:
        """Its length."""
        return self.end_tsc - self.begin_tsc


@dataclass
class Slots:
    """The sums by slots of a Partial, on one axis of time.

    Attributes:
        partial: what they are of.
    """

    partial: Partial

    @cached_property
    def has_one_axis(self) -> bool:
        """Whether times of all traces can be compared: they do not overlap, so they may be of one host.

        Segments of a trace whose TSC restarts follow each other; where they add up to over 62 bits, the last
        ones have no place.
        """
        spans = self.partial.spans.sorted_by("first_tsc")
        if not len(spans) or int(spans["last_tsc"].max()) >= MOST_SUM:
            return False
        return bool((spans["first_tsc"][1:] > spans["last_tsc"][:-1]).all())

    @property
    def cycles(self) -> int:
        """Length of a slot."""
        shift = self.partial.slots["shift"]
        return 1 << int(shift[0]) if len(shift) else 1

    @cached_property
    def _numbers(self) -> I64:
        """The numbers of the slots with a sum, ascending; others, as between traces, have no place."""
        return distinct(self.partial.slots["slot"])

    @property
    def count(self) -> int:
        """Number of slots with a sum."""
        return len(self._numbers)

    def begin_tsc(self, place: int) -> int:
        """Return where a slot begins, at the first record at the earliest."""
        return max(int(self._numbers[place]) * self.cycles, int(self.partial.spans["first_tsc"].min()))

    def end_tsc(self, place: int) -> int:
        """Return where a slot ends, at the last record at the latest."""
        return min((int(self._numbers[place]) + 1) * self.cycles, int(self.partial.spans["last_tsc"].max()))

    def place_after(self, tsc: int) -> int:
        """Return the first slot that begins at or after a TSC."""
        return int(np.searchsorted(self._numbers, -(-tsc // self.cycles)))

    def follows(self, place: int) -> bool:
        """Return whether a slot begins where the one before it ends."""
        return place > 0 and bool(self._numbers[place] == self._numbers[place - 1] + 1)

    @cached_property
    def lengths(self) -> I64:
        """Cycles of each slot that are in the traces: int64 [slots]."""
        begins = self._numbers * self.cycles
        found = np.zeros(self.count, np.int64)
        for span in self.partial.spans.rows():
            ends = np.minimum(begins + self.cycles, span["last_tsc"])
            inside = ends - np.maximum(begins, span["first_tsc"])
            found += np.maximum(inside, 0)
        return found

    def keys(self, kind: Slotted) -> list[tuple[int, int]]:
        """Return the keys (a, b) of a kind, without those that have no row of their own."""
        rows = self._of(kind)
        rows = rows.where(rows["a"] != NOT_KEPT)
        keys = rows.grouped(["a", "b"]).keys
        return list(zip(keys["a"].tolist(), keys["b"].tolist(), strict=True))

    def series(self, kind: Slotted, a: int | None = None, b: int | None = None) -> Series:
        """Return the sums of a key by slot, of all keys where it is not given."""
        rows = self._of(kind)
        begin, end = (0, len(rows)) if a is None else rows["a"].searchsorted((a, a + 1)).tolist()
        inside: slice | I64 = slice(begin, end)
        if b is not None:
            inside = np.flatnonzero(rows["b"][inside] == b) + begin
        counts, totals = np.zeros((2, self.count), np.int64)
        places = rows["place"][inside]
        np.add.at(counts, places, rows["count"][inside])
        np.add.at(totals, places, rows["total"][inside])
        return Series(counts, totals)

    @cached_property
    def _by_kind(self) -> dict[int, Columns]:
        """The rows of each kind, by ``a``, with the places of their slots: there may be many vCPUs."""
        slots = self.partial.slots
        kinds = slots["kind"]
        slots = slots.having(place=np.searchsorted(self._numbers, slots["slot"])).only(_OF_KIND)
        return {kind: slots.where(kinds == kind).sorted_by("a") for kind in distinct(kinds).tolist()}

    @cached_property
    def _none(self) -> Columns:
        none = self.partial.slots.where(slice(0))
        return none.having(place=none["slot"]).only(_OF_KIND)

    def _of(self, kind: Slotted) -> Columns:
        return self._by_kind.get(int(kind), self._none)

    def densest(self, counts: I64, width: int) -> tuple[int, int, int]:
        """Return (first slot, last slot, sum) of the ``width`` slots in a row with the greatest sum."""
        if not len(counts):
            return 0, 0, 0
        after = np.searchsorted(self._numbers, self._numbers + width)
        sums = np.append(0, np.cumsum(counts))
        inside = sums[after] - sums[: len(counts)]
        first = int(np.argmax(inside))
        return first, int(after[first]) - 1, int(inside[first])

    def worst(self, metric: Metric, a: int | None = None) -> list[Interval]:
        """Return the longest intervals of a metric, those of one ``a`` where it is given; longest first."""
        worst = self.partial.worst
        rows = worst.where(worst["metric"] == int(metric))
        if a is not None:
            rows = rows.where(rows["a"] == a)
        found = [
            Interval(row["end_tsc"] - row["value_cycles"], row["end_tsc"], row["b"]) for row in rows.rows()
        ]
        return sorted(found, key=lambda each: (-each.cycles, each.end_tsc))
