"""The consumer of a ring, on memory laid out like the kernel's: whole records only, space freed."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator

import pytest

from xtrace.probes.bpf import rings
from xtrace.probes.bpf.abi import EVENT_BYTES
from xtrace.probes.bpf.ring import Ring

_PAGE = mmap.PAGESIZE
_SIZE = 4096
_BUSY, _DISCARDED = 1 << 31, 1 << 30


class _Kernel:
    """Writes records into a file laid out like a ring's pages."""

    def __init__(self) -> None:
        self.fd = os.memfd_create("ring")
        os.ftruncate(self.fd, 2 * _PAGE + 2 * _SIZE)
        self.produced = 0

    def put(self, number: int, flags: int = 0) -> None:
        record = struct.pack("<IIQQII", EVENT_BYTES - 8 | flags, 0, number, 0, 0, 0)
        at = self.produced % _SIZE
        for copy in (0, _SIZE):  # the data is mapped twice
            os.pwrite(self.fd, record, 2 * _PAGE + at + copy)
        self.produced += EVENT_BYTES
        os.pwrite(self.fd, struct.pack("<Q", self.produced), _PAGE)

    @property
    def consumed(self) -> int:
        return int.from_bytes(os.pread(self.fd, 8, 0), "little")


@pytest.fixture
def kernel() -> Iterator[_Kernel]:
    made = _Kernel()
    yield made
    os.close(made.fd)


def _numbers(span: bytes) -> list[int]:
    return [struct.unpack_from("<Q", span, at + 8)[0] for at in range(0, len(span), EVENT_BYTES)]


def test_records_are_taken_once_and_their_space_is_freed(kernel: _Kernel) -> None:
    ring = Ring(kernel.fd, _SIZE, EVENT_BYTES)
    assert ring.take() == b""
    taken: list[int] = []
    for number in range(1000):
        kernel.put(number)
        if number % 7 == 0:
            taken += _numbers(ring.take())
            assert kernel.consumed == kernel.produced
    taken += _numbers(ring.take())
    assert taken == list(range(1000))
    ring.close()


@pytest.mark.parametrize("flags", [_BUSY, _DISCARDED])
def test_a_record_being_written_is_left_with_all_after_it(kernel: _Kernel, flags: int) -> None:
    ring = Ring(kernel.fd, _SIZE, EVENT_BYTES)
    kernel.put(1)
    kernel.put(2, flags)
    kernel.put(3)
    assert _numbers(ring.take()) == [1]
    assert ring.take() == b""
    # The writer finishes.
    for copy in (0, _SIZE):
        os.pwrite(kernel.fd, struct.pack("<I", EVENT_BYTES - 8), 2 * _PAGE + EVENT_BYTES + copy)
    assert _numbers(ring.take()) == [2, 3]
    assert ring.take() == b""
    ring.close()


@pytest.mark.parametrize("cpus", [1, 2, 3, 8, 100, 256, 4096])
def test_total_ring_size_is_bounded(cpus: int) -> None:
    size = rings.ring_bytes(cpus)
    assert size & (size - 1) == 0
    assert rings.LEAST_BYTES <= size <= rings.MOST_BYTES
    assert size * cpus <= max(rings.TOTAL_BYTES, rings.LEAST_BYTES * cpus)
