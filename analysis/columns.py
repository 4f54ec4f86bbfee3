"""The rows of a table as NumPy columns: what pipelines compute with, and what renderers and exports read.

A data frame is made from the same columns where one is asked for.  pandas is imported then and not before:
its import takes longer than the report of a small trace.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pandas as pd

#: A greater sum is this, as in the tallies of the state machine: 63 bits hold no more.
_MOST_SUM = 1 << 62

Array: TypeAlias = npt.NDArray[Any]
I64: TypeAlias = npt.NDArray[np.int64]


class Columns:
    """Named columns of one length.

    Numbers and booleans are in arrays of their type, text and values that may be None in arrays of objects.
    Nothing changes in place: each method returns new Columns, which may share arrays with the old ones.

    Args:
        columns: by name; a single text or number fills a column.
        count: the number of rows; needed only where no column is an array.

    Raises:
        ValueError: the columns have different lengths.
    """

    __slots__ = ("_columns", "_count")

    def __init__(self, columns: Mapping[str, object], count: int | None = None) -> None:
        arrays = {name: _array(values) for name, values in columns.items()}
        counts = {len(array) for array in arrays.values() if array.ndim}
        if count is not None:
            counts.add(count)
        if len(counts) > 1:
            raise ValueError(f"columns of different lengths: {sorted(counts)}")
        self._count = counts.pop() if counts else 0
        self._columns = {
            name: array if array.ndim else np.full(self._count, array) for name, array in arrays.items()
        }

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns, in order."""
        return tuple(self._columns)

    def __len__(self) -> int:
        """The number of rows."""
        return self._count

    def __contains__(self, name: str) -> bool:
        return name in self._columns

    def __getitem__(self, name: str) -> Array:
        return self._columns[name]

    def __repr__(self) -> str:
        return f"Columns({self._count} rows of {', '.join(self._columns)})"

    def where(self, rows: npt.ArrayLike | slice) -> Columns:
        """Return these rows: a mask of booleans, row numbers in the order wanted, or a slice."""
        chosen = rows if isinstance(rows, slice) else np.asarray(rows)
        if not isinstance(chosen, slice) and not chosen.size and chosen.dtype != bool:
            chosen = chosen.astype(np.int64)  # an empty list has the type float
        arrays = {name: array[chosen] for name, array in self._columns.items()}
        first = next(iter(arrays.values()), None)
        return _made(arrays, len(np.arange(self._count)[chosen] if first is None else first))

    def only(self, names: Iterable[str]) -> Columns:
        """Return the columns with these names, in their order."""
        return _made({name: self._columns[name] for name in names}, self._count)

    def having(self, **columns: object) -> Columns:
        """Return all columns and these, which replace those of the same name."""
        return Columns({**self._columns, **columns}, self._count)

    def renamed(self, names: Mapping[str, str]) -> Columns:
        """Return the columns under new names, given by old name."""
        return _made({names.get(name, name): array for name, array in self._columns.items()}, self._count)

    def sorted_by(self, *names: str, descending: bool = False) -> Columns:
        """Return the rows sorted by columns, first by the first; equal rows keep their order, NaN is last."""
        order = np.arange(self._count)
        for name in reversed(names):
            order = order[_sorted(self._columns[name][order], descending)]
        return self.where(order)

    def grouped(self, by: Sequence[str], within: Sequence[str] = ()) -> Groups:
        """Return the groups of rows with equal values in the columns ``by``, ascending.

        Args:
            by: with no column, all rows are one group.
            within: columns that order the rows of a group; by default they keep their order.
        """
        return Groups(self, by, within)

    def sums(self, by: Sequence[str], names: Sequence[str]) -> Columns:
        """Return the columns ``by``, one row for each of their values, ascending, and the sums of others."""
        groups = self.grouped(by)
        return groups.keys.having(**{name: groups.sum(name) for name in names})

    def rows(self) -> list[dict[str, Any]]:
        """Return each row by the names of its columns, with values of Python's own types."""
        lists = [array.tolist() for array in self._columns.values()]
        return [dict(zip(self._columns, row, strict=True)) for row in zip(*lists, strict=True)]

    def frame(self) -> pd.DataFrame:
        """Return the columns as a data frame."""
        import pandas as pd

        return pd.DataFrame(dict(self._columns))


class Groups:
    """Rows grouped by the values of some of their columns.

    Attributes:
        keys: one row per group: its values, ascending.
        starts: int64, the first row of each group in sorted order.
        order: int64, the rows in sorted order; those of a group are in its order.
    """

    __slots__ = ("_columns", "keys", "order", "starts")

    def __init__(self, columns: Columns, by: Sequence[str], within: Sequence[str] = ()) -> None:
        keys = [_codes(columns[name]) for name in (*by, *within)]
        self._columns = columns
        self.order: I64 = np.lexsort(keys[::-1]) if keys else np.arange(len(columns))
        changed = np.zeros(len(columns), bool)
        changed[:1] = True
        for key in keys[: len(by)]:
            ordered = key[self.order]
            changed[1:] |= ordered[1:] != ordered[:-1]
        self.starts: I64 = np.flatnonzero(changed)
        self.keys = columns.only(by).where(self.order[self.starts])

    @property
    def numbers(self) -> I64:
        """The number of each row's group, from 0, in the order of the rows."""
        sizes = np.diff(self.starts, append=len(self.order))
        numbers = np.empty(len(self.order), np.int64)
        numbers[self.order] = np.repeat(np.arange(len(self.starts)), sizes)
        return numbers

    def sum(self, name: str) -> Array:
        """Return the sum of a column in each group, _MOST_SUM at most; of booleans, how many are true."""
        return self._reduced(name, np.add)

    def min(self, name: str) -> Array:
        """Return the least value of a column in each group."""
        return self._reduced(name, np.minimum)

    def max(self, name: str) -> Array:
        """Return the greatest value of a column in each group."""
        return self._reduced(name, np.maximum)

    def _reduced(self, name: str, how: np.ufunc) -> Array:
        values = self._columns[name][self.order]
        if how is np.add and values.dtype == bool:
            values = values.astype(np.int64)
        reduced: Array = how.reduceat(values, self.starts) if len(self.starts) else values
        if how is np.add and len(values) and values.dtype == np.int64 and _may_wrap(values):
            wide = np.add.reduceat(values.astype(float), self.starts)
            is_over = np.abs(wide) >= _MOST_SUM
            reduced[is_over] = np.where(wide[is_over] > 0, _MOST_SUM, -_MOST_SUM)
        return reduced


def _may_wrap(values: I64) -> bool:
    """Return whether a sum of some of the values may be too large for 63 bits."""
    return max(int(values.max()), -int(values.min())) > _MOST_SUM // len(values)


def added(first: I64, second: I64) -> I64:
    """Return the sums of two columns of times or counts, _MOST_SUM at most, as in Groups.sum()."""
    second = np.minimum(second, _MOST_SUM)
    return np.minimum(first, _MOST_SUM - second) + second


def joined(parts: Sequence[Columns]) -> Columns:
    """Return the rows of all parts, in their order; a column of one must be in all.

    Raises:
        ValueError: there is no part, or the names of columns differ.
    """
    if not parts:
        raise ValueError("nothing to join")
    names = parts[0].names
    if any(set(part.names) != set(names) for part in parts):
        raise ValueError(f"parts have different columns: {sorted({part.names for part in parts})}")
    return Columns({name: np.concatenate([part[name] for part in parts]) for name in names})


def matched(keys: Columns, rows: Columns) -> I64:
    """Return, for each row of ``keys``, the number of the row that has these values, -1 for none.

    Args:
        rows: with the columns of ``keys`` and others; at most one row per key.
    """
    numbers = joined([keys, rows.only(keys.names)]).grouped(keys.names).numbers
    wanted, known = numbers[: len(keys)], numbers[len(keys) :]
    row_of = np.full(len(numbers), -1)
    row_of[known] = np.arange(len(rows))
    return row_of[wanted]


def of_rows(rows: Sequence[Sequence[object]], types: Mapping[str, npt.DTypeLike]) -> Columns:
    """Return the columns of rows; ``types``: their names, in the order of a row, and types."""
    columns = {}
    for at, (name, kind) in enumerate(types.items()):
        column = np.empty(len(rows), kind)
        column[:] = [row[at] for row in rows]
        columns[name] = column
    return Columns(columns)


def text(values: Iterable[str | None]) -> npt.NDArray[np.object_]:
    """Return a column of text."""
    found = list(values)
    column = np.empty(len(found), object)
    column[:] = found
    return column


def distinct(values: Array) -> Array:
    """Return the distinct values, ascending.

    np.unique does the same, but imports NumPy's masked arrays, which takes longer than a table.
    """
    ordered = np.sort(values)
    is_first = np.ones(len(ordered), bool)
    is_first[1:] = ordered[1:] != ordered[:-1]
    return ordered[is_first]


def _made(columns: dict[str, Array], count: int) -> Columns:
    """Return Columns of arrays that are known to be sound; checking them again takes as long as computing."""
    made = Columns.__new__(Columns)
    made._columns = columns
    made._count = count
    return made


def _array(values: object) -> Array:
    if isinstance(values, str):
        return np.array(values, object)
    array = np.asarray(values)
    if array.dtype.kind in "US":
        return array.astype(object)
    return array


def _codes(key: Array) -> Array:
    """Return numbers in the order of the values: np.lexsort does not sort objects."""
    if key.dtype != object:
        return key
    values = key.tolist()
    places = {value: place for place, value in enumerate(sorted(set(values)))}
    return np.array([places[value] for value in values], np.int64)


def _sorted(values: Array, descending: bool) -> I64:
    """Return the order that sorts values; equal ones keep theirs, NaN is last."""
    is_nan = values != values  # NaN differs from itself
    known = np.flatnonzero(~is_nan)
    codes = _codes(values[known])
    if descending:
        order = (len(codes) - 1 - np.argsort(codes[::-1], kind="stable"))[::-1]
    else:
        order = np.argsort(codes, kind="stable")
    return np.concatenate((known[order], np.flatnonzero(is_nan)))
