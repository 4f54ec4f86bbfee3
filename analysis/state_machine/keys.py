"""Pack and unpack the keys of tallies: a vCPU as one number, and two numbers as one.

The compiled loops pack their keys themselves; these work on integers and arrays.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

from xtrace.probes.xen_abi import DEFAULT_DOMAIN, IDLE_DOMAIN

Keys = TypeVar("Keys", int, npt.NDArray[np.int64])

_VCPU_BITS, _VCPUS = 16, 1 << 16
_LOW_BITS, _LOWS = 32, 1 << 32


def vcpu_key(domain: Keys, vcpu: Keys) -> Keys:
    """Return the key of a vCPU, a number of 32 bits."""
    return domain << _VCPU_BITS | vcpu


def domain_of(keys: Keys) -> Keys:
    """Return the domain of a vCPU key, also of one that is the low half of a pair."""
    return low_of(keys) >> _VCPU_BITS


def vcpu_of(keys: Keys) -> Keys:
    """Return the vCPU number within its domain, also of a key that is the low half of a pair."""
    return keys & (_VCPUS - 1)


def are_guests(vcpus: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Return which vCPUs are of domains: not of the idle domain, nor placeholders of pCPUs.

    Args:
        vcpus: int64 [n], vCPU keys.
    """
    return ~np.isin(domain_of(vcpus), (IDLE_DOMAIN, DEFAULT_DOMAIN))


def paired(high: Keys, low: Keys) -> Keys:
    """Return two numbers packed into one, the low one of 32 bits."""
    return high << _LOW_BITS | low


def high_of(keys: Keys) -> Keys:
    """Return the high one of two packed numbers."""
    return keys >> _LOW_BITS


def low_of(keys: Keys) -> Keys:
    """Return the low one of two packed numbers."""
    return keys & (_LOWS - 1)
