"""Pack and unpack the keys of tallies: a vCPU in one number, and two numbers in one.

The loops pack their keys themselves; these are for single numbers, arrays and columns of frames.
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
    """Return a vCPU as one number of 32 bits."""
    return domain << 16 | vcpu


def domain_of(keys: Keys) -> Keys:
    """Return the domain of a vCPU's key, whatever it is paired with."""
    # Columns of a frame have no shift.
    return low_of(keys) // _VCPUS


def vcpu_of(keys: Keys) -> Keys:
    """Return the number within its domain of a vCPU's key, whatever it is paired with."""
    return keys % _VCPUS


def paired(high: int, low: int) -> int:
    """Return two numbers as one, the second of 32 bits."""
    return high << 32 | low


def high_of(keys: Keys) -> Keys:
    """Return the first of two numbers paired in one."""
    return keys // _LOW


def low_of(keys: Keys) -> Keys:
    """Return the second of two numbers paired in one."""
    return keys % _LOW
