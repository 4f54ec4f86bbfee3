"""Look up the values for a table's rows in columns of tallies."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt

from xtrace.analysis.columns import Array, Columns, distinct, joined, matched
from xtrace.analysis.state_machine.keys import domain_of, vcpu_of
from xtrace.analysis.state_machine.metrics import MOST_SUM, Woken

#: Statistics that tables of times show.
TAIL = ("count", "p50_cycles", "p95_cycles", "p99_cycles", "max_cycles")


#: As a number of 53 bits, which sums are looked up as.
_MOST = float(MOST_SUM)


def with_vcpu(rows: Columns, key: str = "a") -> Columns:
    """Return ``rows`` with columns domain and vcpu, from the vCPU key in column ``key``."""
    return rows.having(domain=domain_of(rows[key]), vcpu=vcpu_of(rows[key]))


def of_domain(rows: Columns, domain: int, key: str = "a") -> Columns:
    """Return the rows whose vCPU, by its key in column ``key``, belongs to ``domain``."""
    return rows.where(domain_of(rows[key]) == domain)


def is_proven(flags: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return whether the scheduler confirms that a woken vCPU did not run before; ``flags`` are of Woken."""
    proven: npt.NDArray[np.bool_] = flags & int(Woken.UNPROVEN) == 0
    return proven


def keys_of(*tallies: Columns, key: str = "a") -> npt.NDArray[np.int64]:
    """Return the distinct values of column ``key`` in all tallies, ascending."""
    return distinct(np.concatenate([rows[key] for rows in tallies]))


def looked_up(
    keys: npt.NDArray[np.int64], rows: Columns, columns: Mapping[str, str], *, key: str = "a"
) -> dict[str, npt.NDArray[np.float64]]:
    """Return columns of ``rows`` at ``keys``, NaN where there is no such row.

    Args:
        rows: at most one per key.
        columns: new name to name in ``rows``.
    """
    known = rows[key]
    order = np.argsort(known)
    place = np.searchsorted(known[order], keys)
    place[place == len(known)] = 0
    found = known[order][place] == keys if len(known) else np.zeros(len(keys), bool)
    row = order[place[found]] if len(known) else place[:0]
    result = {}
    for name, source in columns.items():
        values = np.full(len(keys), np.nan)
        values[found] = rows[source][row]
        result[name] = values
    return result


def counted(
    keys: npt.NDArray[np.int64], rows: Columns, *, key: str = "a", column: str = "count"
) -> npt.NDArray[np.int64]:
    """Return ``column`` at ``keys`` as int64, 0 where ``rows`` has no such row."""
    places = matched(Columns({key: keys}), rows.only([key, column]))
    return counts_at(rows, places, column)


def counts_at(rows: Columns, places: npt.NDArray[np.int64], column: str) -> npt.NDArray[np.int64]:
    """Return a column of integers at row numbers, 0 where the number is -1.

    Sums of times of a large host have more bits than a float, which taken() makes of them.
    """
    found: npt.NDArray[np.int64] = np.append(rows[column].astype(np.int64), 0)[places]
    return found


def taken(rows: Columns, places: npt.NDArray[np.int64], columns: Mapping[str, str]) -> dict[str, Array]:
    """Return columns at row numbers, NaN where the number is -1; integers stay integers if none is -1.

    Args:
        columns: new name to name in ``rows``, of columns of numbers.
    """
    found = places >= 0
    if found.all():
        return {name: rows[source][places] for name, source in columns.items()}
    result = {}
    for name, source in columns.items():
        values = np.full(len(places), np.nan)
        values[found] = rows[source][places[found]]
        result[name] = values
    return result


def merged(on: Sequence[str], *tables: Columns, counts: Collection[str] = ()) -> Columns:
    """Return one row for each value of the columns ``on`` in any table, ascending, with the tables' others.

    Args:
        tables: with at most one row per value; their other columns are numbers, and NaN where there is none.
        counts: columns that are integers, 0 where there is none.
    """
    keys = joined([table.only(on) for table in tables]).grouped(on).keys
    columns: dict[str, Array] = {}
    for table in tables:
        places = matched(keys, table)
        columns |= {name: counts_at(table, places, name) for name in table.names if name in counts}
        others = {name: name for name in table.names if name not in (*on, *counts)}
        columns |= taken(table, places, others)
    return keys.having(**columns)


def whole(values: Array) -> npt.NDArray[np.int64]:
    """Return numbers as integers, 0 for NaN, those of over 62 bits as the greatest sum."""
    found: npt.NDArray[np.int64] = np.clip(np.nan_to_num(values), -_MOST, _MOST).astype(np.int64)
    return found


def tail_columns(prefix: str, names: Sequence[str] = TAIL) -> dict[str, str]:
    """Return the columns for looked_up(): ``{prefix}_{statistic}`` to the statistic's own name."""
    return {f"{prefix}_{name}": name for name in names}


def share(part: npt.ArrayLike, whole: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return part / whole, NaN where the whole is 0."""
    whole = np.asarray(whole, float)
    ratio = np.full(whole.shape, np.nan)
    np.divide(np.asarray(part, float), whole, out=ratio, where=whole > 0)
    return ratio
