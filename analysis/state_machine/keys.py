"""Pack and unpack the keys of tallies: a vCPU as one number, and two numbers as one.

The compiled loops pack their keys themselves; these work on integers, arrays and columns of frames.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    import pandas as pd

Keys = TypeVar("Keys", int, npt.NDArray[np.int64], "pd.Series[int]")

_VCPUS = 1 << 16
_LOW = 1 << 32


def vcpu_key(domain: int, vcpu: int) -> int:
    """Return the key of a vCPU, a number of 32 bits."""
    return domain << 16 | vcpu


def domain_of(keys: Keys) -> Keys:
    """Return the domain of a vCPU key, also of one that is the low half of a pair."""
    # Columns of a frame do not support shifts.
    return low_of(keys) // _VCPUS


def vcpu_of(keys: Keys) -> Keys:
    """Return the vCPU number within its domain, also of a key that is the low half of a pair."""
    return keys % _VCPUS


def paired(high: int, low: int) -> int:
    """Return two numbers packed into one, the low one of 32 bits."""
    return high << 32 | low


def high_of(keys: Keys) -> Keys:
    """Return the high one of two packed numbers."""
    return keys // _LOW


def low_of(keys: Keys) -> Keys:
    """Return the low one of two packed numbers."""
    return keys % _LOW
