"""What recording costs the host: estimated before it starts, measured after it ended, by backend.

The estimates are modelled: a rate that is read from this host, or assumed, times what one event, record or
sample took in the measurements of docs/bpf.md and docs/recording.md.
"""

from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from xtrace.probes.recording.backends.base import Options

_STAT = Path("/proc/stat")
_LOOK_S = 0.1
#: The programs of an upcall, a port's handler and a send, by the kernel's own count (docs/bpf.md).
_NS_PER_INTERRUPT = 79 + 175 + 170 + 198 + 115
#: The recorder's own share of a CPU, at 10,000 and 300,000 records per second.
_OF_XENTRACE = "0.5 to 2.4 % of a CPU at 10,000 to 300,000 records per second, without Xen's own work"


def estimated(name: str, options: Options) -> str:
    """Return what a backend is expected to cost, in words; "" for one of which nothing is known."""
    if name == "bpf":
        rate = _interrupts_per_s()
        if rate is None:
            return "not estimated: /proc/stat cannot be read"
        share = rate * _NS_PER_INTERRUPT / 1e9
        return f"{max(share, 1e-4):.2%} of a CPU at the present {rate:,.0f} interrupts per second"
    if name == "xentrace":
        return _OF_XENTRACE
    if name == "perf":
        return f"{options.sample_hz} interrupts per second on each of {os.cpu_count()} CPUs"
    if name == "xenctx":
        return "it pauses a domain for each sample, at most a fifth of the time"
    return ""


def _interrupts_per_s() -> float | None:
    """Return how many interrupts this kernel handles per second, over a tenth of a second."""
    before, begin = _interrupts(), time.monotonic()
    time.sleep(_LOOK_S)
    after, end = _interrupts(), time.monotonic()
    return None if before is None or after is None else (after - before) / (end - begin)


def _interrupts() -> int | None:
    with suppress(OSError, ValueError, IndexError), _STAT.open() as file:
        for line in file:
            if line.startswith("intr "):
                return int(line.split()[1])
    return None


class Measured:
    """CPU seconds by backend: of the recorder's thread while it serves it, and of its ended processes."""

    def __init__(self) -> None:
        self.cpu_s: dict[str, float] = {}

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Count the CPU time of the context as that of backend ``name``."""
        before = _used_s()
        try:
            yield
        finally:
            self.cpu_s[name] = self.cpu_s.get(name, 0.0) + _used_s() - before


def _used_s() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.thread_time() + children.ru_utime + children.ru_stime
