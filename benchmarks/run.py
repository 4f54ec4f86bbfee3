"""Measure xtrace against xenalyze and against the machine, in one run, and print docs/benchmarks.md.

    python benchmarks/run.py [--sizes 100,300,1000] [--runs 5] [--out docs/benchmarks.md]

Traces are made by repeating the bundled sample (times shifted, order kept).
xtrace and xenalyze take turns, so that a machine whose speed drifts is fair to
both; ratios are medians of the pairs.  Nothing here is asserted by a test.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

MEGABYTE = 10**6


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a command: wall and CPU seconds, greatest resident memory in MB."""

    wall_s: float
    cpu_s: float
    resident_mb: float


def run(command: Sequence[str]) -> Run:
    """Run a command with its output thrown away; it must succeed."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - begin
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{command} ended with {process.returncode}")
    return Run(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def paired(ours: Sequence[str], theirs: Sequence[str], runs: int) -> tuple[list[Run], list[Run]]:
    """Run two commands in turn."""
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
    """Return the best of several rates of ``measure``, which returns bytes, in GB/s of CPU time."""
    rates = []
    for _ in range(runs):
        begin = time.thread_time()
        size = measure()
        rates.append(size / (time.thread_time() - begin) / 1e9)
    return max(rates)


def copy_rate(runs: int) -> float:
    """Return the machine's copy bandwidth on one core in GB/s."""
    source = np.ones(64 * MEGABYTE, np.uint8)  # a child inherits the peak memory that this process had
    target = np.empty_like(source)

    def copy() -> int:
        target[:] = source
        return source.nbytes

    copy()
    return best_rate(copy, runs)


def decode_rate(path: Path, runs: int, *, merged: bool) -> float:
    """Return GB/s of reading and decoding on one core, with or without the merge over pCPUs."""
    from xtrace.probes import kernels
    from xtrace.probes.reader import open_trace

    whole = kernels.merge

    def nothing(*arguments: object) -> tuple[int, int, int]:
        """Take every row as given out, without the work."""
        arguments[9][:] = arguments[10]  # type: ignore[index]
        arguments[19][:] = kernels.KEY_FLOOR  # type: ignore[index]
        return 0, 0, 0

    def decode() -> int:
        with open_trace(path, keep=2) as reader:
            for _ in reader:
                pass
            return reader.facts.bytes_read

    if not merged:
        kernels.merge = nothing
    try:
        decode()
        return best_rate(decode, runs)
    finally:
        kernels.merge = whole


def machine() -> str:
    """Return what machine this is, in a line."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line
        ]
        model = names[0] if names else model
    return f"{model}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="100,300,1000", help="megabytes, comma-separated")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    xenalyze = shutil.which("xenalyze")
    if xenalyze is None:
        raise SystemExit("xenalyze is missing: apt-get install xen-utils-common")
    sizes = [int(size) for size in arguments.sizes.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        page = measure(Path(folder), sizes, arguments.runs, xenalyze)
    if arguments.out:
        arguments.out.write_text(page)
    else:
        print(page, end="")


def measure(folder: Path, sizes: Sequence[int], runs: int, xenalyze: str) -> str:
    """Return the page."""
    from xtrace.cli import sample
    from xtrace.probes.writer import repeat

    xtrace = [sys.executable, "-c", "import sys; from xtrace.cli.start import main; sys.exit(main())"]
    plain = ["--cpu-hz", "2.6G"]
    lines = [
        "# Benchmarks",
        "",
        "Printed by `python benchmarks/run.py --out docs/benchmarks.md`; wall seconds are medians,",
        f"ratios medians of {runs} pairs run in turn. Traces are the bundled sample, repeated.",
        "",
        f"Machine: {machine()}; copy bandwidth of one core {copy_rate(runs):.1f} GB/s.",
        "",
        "| trace | `xtrace report` s | `xenalyze -s` s | ratio | MB resident "
        "| `xtrace dump` s | `--dump-all` s | ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    reports: dict[int, tuple[float, float]] = {}
    for size in sizes:
        path = folder / f"{size}.bin"
        actual = repeat(sample.path(), path, min_bytes=size * MEGABYTE)
        ours, theirs = paired([*xtrace, "report", str(path)], [xenalyze, *plain, "-s", str(path)], runs)
        dumps, their_dumps = paired(
            [*xtrace, "dump", str(path)], [xenalyze, *plain, "--dump-all", str(path)], max(runs // 2, 1)
        )
        reports[actual] = (median(ours), median(theirs))
        lines.append(
            f"| {actual / MEGABYTE:.0f} MB | {median(ours):.2f} | {median(theirs):.2f} "
            f"| {ratio(ours, theirs):.2f} | {max(one.resident_mb for one in ours):.0f} "
            f"| {median(dumps):.2f} | {median(their_dumps):.2f} | {ratio(dumps, their_dumps):.2f} |"
        )
        if size == sizes[0]:
            alone = decode_rate(path, runs, merged=False)
            merged = decode_rate(path, runs, merged=True)
        if size != sizes[0] or len(sizes) == 1:
            path.unlink()
    least, most = min(reports), max(reports)
    lines += ["", "| what | figure |", "|---|---|"]
    if most > least:
        slopes = [(reports[most][i] - reports[least][i]) / (most - least) * 1e9 for i in (0, 1)]
        lines.append(
            f"| seconds per added GB, report | {slopes[0]:.2f}; xenalyze -s {slopes[1]:.2f}; "
            f"ratio {slopes[0] / slopes[1]:.2f} |"
        )
    start = [run([*xtrace, "report"]) for _ in range(runs + 1)][1:]
    helped = [run([*xtrace, "--help"]) for _ in range(runs + 1)][1:]
    lines += [
        f"| read and decode, one core | {alone:.2f} GB/s |",
        f"| read, decode and merge, one core | {merged:.2f} GB/s |",
        f"| `xtrace report` of the 2.9 MB sample "
        f"| {median(start):.2f} s, {median(start, 'cpu_s'):.2f} s CPU |",
        f"| `xtrace --help` | {median(helped):.2f} s |",
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    main()
