"""Keys unpack to what was packed, as integers and as arrays."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from xtrace.analysis.state_machine.keys import domain_of, high_of, low_of, paired, vcpu_key, vcpu_of

U16 = st.integers(0, (1 << 16) - 1)
U31 = st.integers(0, (1 << 31) - 1)
U32 = st.integers(0, (1 << 32) - 1)


@given(U16, U16, U31)
def test_vcpu_keys_unpack_alone_and_in_pairs(domain: int, vcpu: int, other: int) -> None:
    key = vcpu_key(domain, vcpu)
    assert key == domain << 16 | vcpu
    for packed in (key, paired(other, key)):
        assert (domain_of(packed), vcpu_of(packed)) == (domain, vcpu)
        array = np.array([packed], np.int64)
        assert (domain_of(array).tolist(), vcpu_of(array).tolist()) == ([domain], [vcpu])


@given(U31, U32)
def test_pairs_unpack(high: int, low: int) -> None:
    key = paired(high, low)
    assert key == high << 32 | low
    assert (high_of(key), low_of(key)) == (high, low)
    array = np.array([key], np.int64)
    assert (high_of(array).tolist(), low_of(array).tolist()) == ([high], [low])
