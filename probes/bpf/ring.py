"""Read a BPF ring buffer in spans: its pages are mapped, so no record costs a system call.

Layout (kernel/bpf/ringbuf.c): a page with the consumer's position, a page with the producer's,
then the data, mapped twice in succession so that a span never wraps.  Each record is preceded by
8 bytes: its length, whose two highest bits say that it is still being written or was discarded,
and a page offset.  All records here have the same length.
"""

from __future__ import annotations

import mmap
from itertools import pairwise

from xtrace.probes.bpf.abi import RING_HEADER_BYTES

_PAGE = mmap.PAGESIZE


class Ring:
    """The consumer of one ring buffer.

    Attributes:
        record_bytes: length of a record, including the 8 bytes before it.
    """

    def __init__(self, fd: int, byte_count: int, record_bytes: int) -> None:
        """Map the ring ``fd`` of ``byte_count`` bytes."""
        self.record_bytes = record_bytes
        self._mask = byte_count - 1
        self._consumer_map = mmap.mmap(fd, _PAGE, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        self._data_map = mmap.mmap(fd, _PAGE + 2 * byte_count, mmap.MAP_SHARED, mmap.PROT_READ, offset=_PAGE)
        self._consumer = memoryview(self._consumer_map).cast("Q")
        self._all = memoryview(self._data_map)
        self._producer = self._all[:_PAGE].cast("Q")
        self._data = self._all[_PAGE:]

    def take(self) -> bytes:
        """Return the whole records that have arrived, as they are in the ring, and free their space."""
        position = self._consumer[0]
        waiting = self._producer[0] - position
        if waiting == 0:
            return b""
        begin = position & self._mask
        span = bytes(self._data[begin : begin + waiting])
        lengths = memoryview(span).cast("I")[:: self.record_bytes // 4].tolist()
        expected = self.record_bytes - RING_HEADER_BYTES
        whole = lengths.count(expected)
        if whole != len(lengths):
            # Some are still being written on another CPU: take those before the first of them.
            whole = next(at for at, length in enumerate(lengths) if length != expected)
            span = span[: whole * self.record_bytes]
        self._consumer[0] = position + len(span)
        return span

    def close(self) -> None:
        """Unmap the ring."""
        for view in (self._consumer, self._producer, self._data, self._all):
            view.release()
        self._consumer_map.close()
        self._data_map.close()


def ascending_runs(span: bytes, record_bytes: int) -> list[tuple[int, int, bytes]]:
    """Split records where their time goes back; return (first time, last time, bytes) of each run.

    If an interrupt comes after a record's clock is read and before its space in the ring is reserved, the
    interrupt's records precede it.
    """
    times = memoryview(span).cast("Q")[1 :: record_bytes // 8].tolist()
    if not times:
        return []
    if times == sorted(times):
        return [(times[0], times[-1], span)]
    cuts = [0, *(at for at in range(1, len(times)) if times[at] < times[at - 1]), len(times)]
    return [(times[a], times[b - 1], span[a * record_bytes : b * record_bytes]) for a, b in pairwise(cuts)]
