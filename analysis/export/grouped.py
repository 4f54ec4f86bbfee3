"""Rows of a table that have wanted values, and sums of them: by columns, by slots of time, or both.

Memory is bounded: a cell is a group in a slot, and there are at most MOST_CELLS of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from xtrace.analysis.columns import Array, Columns
from xtrace.analysis.export.events import Events
from xtrace.analysis.export.names import What
from xtrace.analysis.export.source import Exported
from xtrace.analysis.export.tables import Exporting
from xtrace.analysis.export.times import TIMES, Times
from xtrace.analysis.measures.lookup import whole
from xtrace.analysis.measures.table import Column, Quality
from xtrace.analysis.report.request import RequestError
from xtrace.analysis.state_machine.metrics import MOST_SUM, WAKE_CYCLES_MOST
from xtrace.probes.errors import TraceError
from xtrace.probes.reader.batches import I64
from xtrace.probes.selection.times import Moment

MOST_CELLS = 1 << 20
_KEY, _EXACT = Quality.KEY, Quality.EXACT
_TRUE, _FALSE = ("true", "yes", "1"), ("false", "no", "0")


@dataclass(frozen=True, slots=True)
class Condition:
    """A column and the value that it must have, as the user wrote it."""

    column: str
    value: str

    @classmethod
    def parse(cls, text: str) -> Condition:
        """Parse ``column=value``.

        Raises:
            ValueError: it is not that.
        """
        column, equals, value = text.partition("=")
        if not equals or not column.strip():
            raise ValueError(f"{text!r} is not a condition such as vector=0xfa")
        return cls(column.strip(), value.strip())

    def holds(self, values: Array) -> npt.NDArray[np.bool_]:
        """Return which values of the column are this one.

        Raises:
            RequestError: no value of such a column can be.
        """
        kind = values.dtype.kind
        if kind in "OU":
            return np.asarray(values == self.value, np.bool_)
        if kind == "b":
            if self.value.lower() not in (*_TRUE, *_FALSE):
                raise RequestError("where", f"{self.column} is true or false, not {self.value!r}")
            return np.asarray(values == (self.value.lower() in _TRUE), np.bool_)
        try:
            number = int(self.value, 0)
        except ValueError:
            raise RequestError("where", f"{self.column} is a number, not {self.value!r}") from None
        limits = np.iinfo(values.dtype)
        if not limits.min <= number <= limits.max:
            return np.zeros(len(values), np.bool_)
        return np.asarray(values == number, np.bool_)


def where(made: Exporting, conditions: Sequence[Condition]) -> Exporting:
    """Return a table with only the rows for which all conditions hold.

    Raises:
        RequestError: there is no such column.
    """
    _must_have(made, [each.column for each in conditions], "where")
    return Exporting(made.name, made.columns, made.quality, _chosen(made.batches, conditions))


def _chosen(batches: Iterator[Columns], conditions: Sequence[Condition]) -> Iterator[Columns]:
    for batch in batches:
        chosen = np.ones(len(batch), np.bool_)
        for each in conditions:
            chosen &= each.holds(batch[each.column])
        if chosen.any():
            yield batch.where(chosen)


def grouped(exported: Exported, made: Exporting, by: Sequence[str], slot: Moment | None) -> Exporting:
    """Return sums of a table's rows, for each group of the columns ``by``, and each slot if one is given.

    An interval counts where it ends; its time counts in each slot with the part of it that is there.

    Raises:
        RequestError: the table has no such column, or no times; the slots are too short.
    """
    if made.name not in TIMES:
        raise RequestError("sum-by", f"{made.name} have no times to sum up")
    _must_have(made, by, "sum-by")
    times = TIMES[made.name]
    keys = tuple(column for name in by for column in made.columns if column.name == name)
    places = _SLOT if exported.report.hz else _SLOT[:1]
    columns = (*(places if slot else ()), *keys, *_sums(made, times, slot))
    quality = {column.name: column.quality for column in columns}
    return Exporting(made.name, columns, quality, _rows(exported, made, by, slot, times))


_SLOT = (
    Column("slot_tsc", _KEY, "where the slot begins"),
    Column("slot_s", _KEY, "the same in seconds since the trace's first record"),
)


def _sums(made: Exporting, times: Times, slot: Moment | None) -> Iterator[Column]:
    where_ = "that end in the slot" if slot else "in the wanted part of the trace"
    yield Column("count", _EXACT, f"rows {where_}")
    if times.cycles:
        known = made.quality[times.cycles]
        yield Column("sum_cycles", known, "their time; of a slot, that which is in it")
        if slot:
            yield Column("share_ratio", known, "this time by the length of the slot")
        yield Column("least_cycles", known, f"the shortest of those {where_}")
        yield Column("most_cycles", known, "the longest of them")
    yield Column(
        "is_part", _KEY, "count and sums are at least so much: records were lost, or an end was not recorded"
    )


def _must_have(made: Exporting, names: Sequence[str], field: str) -> None:
    known = [column.name for column in made.columns]
    for name in names:
        if name not in known:
            raise RequestError(field, f"{made.name} have no column {name!r}, but {', '.join(known)}")


def _rows(
    exported: Exported, made: Exporting, by: Sequence[str], slot: Moment | None, times: Times
) -> Iterator[Columns]:
    first, last = exported.window
    length = MOST_SUM
    if slot is not None:
        length = slot.cycles(0, exported.report.hz)
        if length <= 0 or slot.unit == "tsc":
            raise RequestError("slot", f"{slot}: not a length of time such as 1s")
    count = 1 if slot is None else max(last - first, 0) // length + 1
    if count > MOST_CELLS:
        raise RequestError("slot", f"{slot}: makes {count:,} slots; at most {MOST_CELLS:,} can be kept")
    cells = _Cells(first, length, count)
    for batch in made.batches:
        groups = cells.groups_of([batch[name] for name in by], len(batch))
        end = batch[times.end]
        cycles = batch[times.cycles] if times.cycles else np.zeros(len(batch), np.int64)
        is_open = batch["is_open"] if "is_open" in batch else np.zeros(len(batch), np.bool_)
        cells.add(groups, end, cycles, is_open)
    if len(cells.keys):
        yield cells.columns(made, by, slot, times, _lossy(exported, cells), exported)


def _lossy(exported: Exported, cells: _Cells) -> npt.NDArray[np.bool_]:
    """Return the slots in which a pCPU lost records, or none shows what it ran."""
    lossy = np.zeros(cells.slot_count, np.bool_)
    coverage = exported.report.coverage
    if coverage is not None and coverage.knows_all_time and coverage.is_whole:
        return lossy
    for losses in Events(exported, What.LOSSES).columns():
        losses = losses.where((losses["what"] == "lost") | (losses["loss_cycles"] > WAKE_CYCLES_MOST))
        low, high = cells.slots_of(losses["begin_tsc"]), cells.slots_of(losses["end_tsc"])
        for begin, end in zip(low.tolist(), high.tolist(), strict=True):
            lossy[begin : end + 1] = True
    return lossy


class _Cells:
    """Counts and sums by group and slot.

    Attributes:
        keys: the values of each group, in order of appearance.
        slot_count: number of slots.
    """

    def __init__(self, first: int, length: int, slot_count: int) -> None:
        self.keys: list[tuple[object, ...]] = []
        self.slot_count = slot_count
        self._first, self._length = first, length
        self._numbers: dict[tuple[object, ...], int] = {}
        self._make(1)

    def _make(self, groups: int) -> None:
        shape = (groups, self.slot_count)
        self._count, self._whole, self._most = np.zeros((3, *shape), np.int64)
        self._sum = np.zeros(shape)  # exact up to 53 bits, and never wraps
        self._least = np.full(shape, np.iinfo(np.int64).max)
        self._is_part = np.zeros(shape, np.bool_)

    def groups_of(self, columns: Sequence[Array], rows: int) -> npt.NDArray[np.intp]:
        """Return the group of each row, with room for new ones.

        Raises:
            TraceError: there would be too many.
        """
        if not columns:
            return self._group_numbers([()], np.zeros(rows, np.intp)) if rows else np.empty(0, np.intp)
        codes = np.empty((rows, len(columns)), np.int64)
        values = []
        for place, column in enumerate(columns):
            distinct, codes[:, place] = np.unique(column, return_inverse=True)
            values.append(distinct.tolist())
        combined, group = np.unique(codes, axis=0, return_inverse=True)
        found = [tuple(values[place][code] for place, code in enumerate(row)) for row in combined.tolist()]
        return self._group_numbers(found, group.reshape(-1))

    def _group_numbers(
        self, found: Sequence[tuple[object, ...]], group: npt.NDArray[np.intp]
    ) -> npt.NDArray[np.intp]:
        for key in found:
            if key not in self._numbers:
                self._numbers[key] = len(self.keys)
                self.keys.append(key)
        if len(self.keys) * self.slot_count > MOST_CELLS:
            raise TraceError(
                f"--sum-by and --slot make more than {MOST_CELLS:,} cells; take longer slots or fewer columns"
            )
        if len(self.keys) > len(self._count):
            self._grow(min(2 * len(self.keys), max(MOST_CELLS // self.slot_count, len(self.keys))))
        return np.array([self._numbers[key] for key in found], np.intp)[group]

    def _grow(self, groups: int) -> None:
        old = (self._count, self._sum, self._whole, self._most, self._least, self._is_part)
        self._make(groups)
        new = (self._count, self._sum, self._whole, self._most, self._least, self._is_part)
        for before, after in zip(old, new, strict=True):
            after[: len(before)] = before

    def slots_of(self, tscs: I64) -> I64:
        """Return the slot of each TSC: the first one of those before it, the last one of those after it."""
        slots: I64 = np.clip((tscs - self._first) // self._length, 0, self.slot_count - 1)
        return slots

    def add(self, groups: npt.NDArray[np.intp], end: I64, cycles: I64, is_open: Array) -> None:
        """Add rows: the group, the end and the duration of each, and whether an end was not recorded."""
        if not len(groups):
            return
        last = self.slots_of(np.maximum(end - 1, end - cycles))  # its end is the first moment without it
        np.add.at(self._count, (groups, last), 1)
        np.minimum.at(self._least, (groups, last), cycles)
        np.maximum.at(self._most, (groups, last), cycles)
        np.logical_or.at(self._is_part, (groups, last), is_open)
        if self.slot_count == 1:
            np.add.at(self._sum, (groups, last), cycles)
            return
        begin = np.maximum(end - cycles, self._first)
        first = self.slots_of(begin)
        within = first == last
        np.add.at(self._sum, (groups[within], last[within]), np.maximum(end - begin, 0)[within])
        over = ~within
        groups, first, last = groups[over], first[over], last[over]
        np.add.at(self._sum, (groups, first), self._first + (first + 1) * self._length - begin[over])
        np.add.at(self._sum, (groups, last), end[over] - self._first - last * self._length)
        # Of the slots in between, the first one and the one after: _columns() adds them up.
        np.add.at(self._whole, (groups, first + 1), 1)
        np.add.at(self._whole, (groups, last), -1)
        opened = is_open[over]
        for group, low, high in zip(groups[opened], first[opened], last[opened], strict=True):
            self._is_part[group, low : high + 1] = True

    def columns(
        self,
        made: Exporting,
        by: Sequence[str],
        slot: Moment | None,
        times: Times,
        lossy: npt.NDArray[np.bool_],
        exported: Exported,
    ) -> Columns:
        """Return the cells with rows, in order of slots, then of groups."""
        size = len(self.keys)
        total = whole(self._sum[:size] + np.cumsum(self._whole[:size], axis=1) * float(self._length))
        count = self._count[:size]
        order = sorted(range(size), key=lambda number: tuple(map(_ordered, self.keys[number])))
        slots, places = np.nonzero(((count > 0) | (total > 0))[order].T)
        groups = np.array(order, np.intp)[places]
        found: dict[str, object] = {}
        if slot is not None:
            begin = self._first + slots * self._length
            found["slot_tsc"] = begin
            if exported.report.hz:
                found["slot_s"] = (begin - exported.first_tsc) / exported.report.hz
        for place, name in enumerate(by):
            values = [self.keys[group][place] for group in groups.tolist()]
            found[name] = (
                np.array(values, object) if values and isinstance(values[0], str) else np.array(values)
            )
        found["count"] = count[groups, slots]
        if times.cycles:
            ended = count[groups, slots] > 0
            found["sum_cycles"] = total[groups, slots]
            if slot is not None:
                found["share_ratio"] = total[groups, slots] / self._length
            found["least_cycles"] = np.where(ended, self._least[groups, slots], 0)
            found["most_cycles"] = self._most[groups, slots]
        found["is_part"] = self._is_part[groups, slots] | lossy[slots]
        return Columns(found, len(groups))


def _ordered(value: object) -> tuple[int, object]:
    """Return what to sort a value by: numbers first."""
    return (1, value) if isinstance(value, str) else (0, value)
