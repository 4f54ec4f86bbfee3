"""Run commands and measure them: wall and CPU seconds, resident memory, pairs in turn."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

MEGABYTE = 10**6
#: The xtrace that this interpreter imports, start-up and all.
XTRACE = (sys.executable, "-c", "import sys; from xtrace.cli.start import main; sys.exit(main())")


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a command: wall and CPU seconds, peak resident memory in MB."""

    wall_s: float
    cpu_s: float
    resident_mb: float


def run(command: Sequence[str]) -> Run:
    """Run a command and discard its output; it must succeed."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} ended with exit code {process.returncode}")
    return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def paired(ours: Sequence[str], theirs: Sequence[str], runs: int) -> tuple[list[Run], list[Run]]:
    """Run two commands in turn and return the runs of each."""
    run(ours), run(theirs)
    pairs = [(run(ours), run(theirs)) for _ in range(runs)]
    return [a for a, _ in pairs], [b for _, b in pairs]


def median(runs: Sequence[Run], figure: str = "wall_s") -> float:
    """Return the median of a figure."""
    return statistics.median(getattr(one, figure) for one in runs)


def ratio(ours: Sequence[Run], theirs: Sequence[Run]) -> float:
    """Return the median of the pairs' ratios of wall time."""
    return statistics.median(a.wall_s / b.wall_s for a, b in zip(ours, theirs, strict=True))


def best_rate(measure: Callable[[], int], runs: int) -> float:
    """Return the best of several rates: what ``measure`` returns per CPU time, in 1e9/s."""
    rates = []
    for _ in range(runs):
        begin = time.thread_time()
        size = measure()
        rates.append(size / (time.thread_time() - begin) / 1e9)
    return max(rates)
