"""Numbers that hash tables are keyed with, so that a trace cannot choose which of its ids collide."""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt


def secrets(count: int) -> npt.NDArray[np.int64]:
    """Return odd random numbers, others each time; no result depends on them."""
    return np.frombuffer(os.urandom(8 * count), np.int64) | 1
