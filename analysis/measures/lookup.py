"""Look up the values for a table's rows in frames of tallies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd

from xtrace.analysis.measures.table import TAIL
from xtrace.analysis.state_machine.keys import domain_of, vcpu_of


def with_vcpu(frame: pd.DataFrame, key: str = "a") -> pd.DataFrame:
    """Return ``frame`` with columns domain and vcpu, from the vCPU key in column ``key``."""
    keys = frame[key].astype("int64")
    return frame.assign(domain=domain_of(keys), vcpu=vcpu_of(keys))


def of_domain(frame: pd.DataFrame, domain: int, key: str = "a") -> pd.DataFrame:
    """Return the rows whose vCPU, by its key in column ``key``, belongs to ``domain``."""
    return frame[domain_of(frame[key].astype("int64")) == domain]


def keys_of(*frames: pd.DataFrame, key: str = "a") -> npt.NDArray[np.int64]:
    """Return the distinct values of column ``key`` in all frames, ascending."""
    return np.unique(np.concatenate([frame[key].to_numpy(np.int64) for frame in frames]))


def looked_up(
    keys: npt.NDArray[np.int64], frame: pd.DataFrame, columns: Mapping[str, str], *, key: str = "a"
) -> dict[str, npt.NDArray[np.float64]]:
    """Return columns of ``frame`` at ``keys``, NaN where it has no such row.

    Args:
        frame: at most one row per key.
        columns: new name to name in ``frame``.
    """
    known = frame[key].to_numpy(np.int64)
    order = np.argsort(known)
    place = np.searchsorted(known[order], keys)
    place[place == len(known)] = 0
    found = known[order][place] == keys if len(known) else np.zeros(len(keys), bool)
    row = order[place[found]] if len(known) else place[:0]
    result = {}
    for name, source in columns.items():
        values = np.full(len(keys), np.nan)
        values[found] = frame[source].to_numpy(float)[row]
        result[name] = values
    return result


def counted(
    keys: npt.NDArray[np.int64], frame: pd.DataFrame, *, key: str = "a", column: str = "count"
) -> npt.NDArray[np.int64]:
    """Return ``column`` at ``keys`` as int64, 0 where ``frame`` has no such row."""
    return np.nan_to_num(looked_up(keys, frame, {"count": column}, key=key)["count"]).astype(np.int64)


def tail_columns(prefix: str, names: Sequence[str] = TAIL) -> dict[str, str]:
    """Return the columns for looked_up(): ``{prefix}_{statistic}`` to the statistic's own name."""
    return {f"{prefix}_{name}": name for name in names}


def share(part: npt.ArrayLike, whole: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return part / whole, NaN where the whole is 0."""
    whole = np.asarray(whole, float)
    ratio = np.full(whole.shape, np.nan)
    np.divide(np.asarray(part, float), whole, out=ratio, where=whole > 0)
    return ratio
