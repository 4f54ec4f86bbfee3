"""A host of 130 pCPUs and 400 vCPUs in 81 domains, and its page."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path

from builders.host import Kind, simulate
from builders.reported import printed

TSC_HZ = 2_600_000_000
PCPUS = 130
#: (domain, vCPUs, kind): dom0 and 80 guests.
DOMAINS: list[tuple[int, int, Kind]] = [
    (0, 8, "pv"),
    *(
        (number, (4, 8, 2, 4, 4, 8, 4, 2, 8, 5)[number % 10], "pv" if number % 3 else "hvm")
        for number in range(1, 81)
    ),
]
VCPUS = sum(count for _, count, _ in DOMAINS)


@functools.cache
def trace() -> bytes:
    """Return its trace of a tenth of a second."""
    done = simulate(
        11,
        PCPUS,
        DOMAINS,
        TSC_HZ // 10,
        tsc_hz=TSC_HZ,
        pace=8.0,
        sleep=1.0,
        irqs=10,
        sends=0.1,
    )
    return done.data


@functools.cache
def big_report() -> str:
    """Return the page of its report."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "big.bin"
        path.write_bytes(trace())
        return printed("report", "--cpu-hz", str(TSC_HZ), "--html", "-", str(path))
