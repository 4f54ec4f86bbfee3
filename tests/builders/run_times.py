"""Make traces that differ in what they show of the TSC rate."""

from __future__ import annotations

import io
import random
import struct
from collections.abc import Callable
from fractions import Fraction

from xtrace.probes.format import EXTRA_MASK, EXTRA_SHIFT, TIMED_BIT
from xtrace.probes.reader.writer import DEFAULT_RING_BYTES, TraceWriter
from xtrace.probes.xen_abi import IDLE_DOMAIN

INFPREV = 0x2800E
FIRST_TSC = 1 << 40

#: Length in seconds of a pCPU's n-th run.
Length = Callable[[random.Random, int], float]


def about(mean_s: float) -> Length:
    """Return random lengths."""
    return lambda random_, _: 4e-6 + random_.expovariate(1 / mean_s)


def in_turn(*lengths_s: float) -> Length:
    """Return lengths that repeat."""
    return lambda _, number: lengths_s[number % len(lengths_s)]


def of_runs(
    hz: int,
    length: Length,
    *,
    seed: int = 1,
    runs: int = 200,
    pcpus: int = 2,
    delay_s: float = 2e-6,
    skew_s: float = 0.0,
    unseen: int = 0,
    missing: float = 0.0,
    polls: float = 1.0,
) -> bytes:
    """Return a trace of a guest and the idle vCPU that take turns on each pCPU.

    Args:
        hz: true rate of the TSC.
        length: how long each vCPU runs.
        runs: of each pCPU.
        delay_s: mean time from Xen's reading of its clock to the record.
        skew_s: the TSCs of pCPUs are up to so far apart.
        unseen: tracing begins after so many runs.
        missing: share of records that are missing, without a trace of it.
        polls: chance of each record that the rings are read after it; where it is below 1, they are small.
    """
    random_, out = random.Random(seed), io.BytesIO()
    records: list[tuple[int, int, tuple[int, int, int]]] = []
    for pcpu in range(pcpus):
        now_s, last_tsc = random_.random(), 0
        for number in range(runs):
            ran_s = length(random_, number)
            now_s += ran_s
            late_s = delay_s / 4 + random_.expovariate(1 / delay_s)
            last_tsc = max(FIRST_TSC + int((now_s + late_s) * hz), last_tsc + 1)
            domain = (1 + pcpu, IDLE_DOMAIN)[number % 2]
            if number >= unseen and random_.random() >= missing:
                records.append((last_tsc, pcpu, (domain, 0, int(ran_s * 1e9) & 0xFFFF_FFFF)))
    skew_cycles = [int(random_.uniform(-skew_s, skew_s) * hz) for _ in range(pcpus)]
    ring_bytes = 2040 if polls < 1 else DEFAULT_RING_BYTES
    with TraceWriter(out, pcpus, ring_bytes, skew_cycles=skew_cycles) as writer:
        for tsc, pcpu, words in sorted(records):
            writer.write(pcpu, tsc, INFPREV, words)
            if random_.random() < polls:
                writer.poll()
    return out.getvalue()


def at_another_rate(data: bytes, ratio: Fraction) -> bytes:
    """Return a trace with all times of records multiplied by ``ratio``."""
    out, at = bytearray(data), 0
    while at < len(data):
        (size,) = struct.unpack_from("<I", data, at + 8)
        at += 12
        end = at + size
        while at < end:
            (header,) = struct.unpack_from("<I", data, at)
            if header & TIMED_BIT:
                (tsc,) = struct.unpack_from("<Q", data, at + 4)
                struct.pack_into("<Q", out, at + 4, int(tsc * ratio))
            at += 4 * (1 + (header >> EXTRA_SHIFT & EXTRA_MASK) + (2 if header & TIMED_BIT else 0))
    return bytes(out)
