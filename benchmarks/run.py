"""Measure xtrace against xenalyze, objdump and the machine's copy rate, and print docs/benchmarks.md.

    python benchmarks/run.py [--sizes 100,300,1000] [--text-mb 5] [--runs 5] [--out docs/benchmarks.md]

Traces are made by repeating the bundled sample (times shifted, order kept).  xtrace and
xenalyze run in turn, so that drifts of the machine's speed affect both; ratios are medians
of the pairs.  sites.py measures the finding of sites, export.py the exports.  No test checks the results.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import export
import loops
import numpy as np
import sites
from timing import MEGABYTE, XTRACE, best_rate, median, paired, ratio, run

from xtrace import samples


def copy_rate(runs: int) -> float:
    """Return the machine's copy bandwidth on one core in GB/s."""
    source = np.ones(64 * MEGABYTE, np.uint8)  # no larger: a child inherits this process's peak memory
    target = np.empty_like(source)

    def copy() -> int:
        target[:] = source
        return source.nbytes

    copy()
    return best_rate(copy, runs)


def decode_rate(path: Path, runs: int, *, merged: bool) -> float:
    """Return GB/s of reading and decoding on one core, with or without the merge over pCPUs."""
    from xtrace.probes.reader import loops as reader
    from xtrace.probes.reader.reader import open_trace

    whole = reader.merge

    def nothing(*arguments: object) -> tuple[int, int, int]:
        """Mark every row as consumed, without doing the work."""
        arguments[9][:] = arguments[10]  # type: ignore[index]
        arguments[19][:] = reader.KEY_FLOOR  # type: ignore[index]
        return 0, 0, 0

    def decode() -> int:
        with open_trace(path, keep=2) as trace:
            for _ in trace:
                pass
            return trace.facts.bytes_read

    if not merged:
        reader.merge = nothing
    try:
        decode()
        return best_rate(decode, runs)
    finally:
        reader.merge = whole


def machine() -> str:
    """Return a line that describes the machine."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [
            line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line
        ]
        model = names[0] if names else model
    return f"{model}, {len(os.sched_getaffinity(0))} cores, Python {platform.python_version()}"


#: What the other programs here measure, their names, and the pages with their figures.
ELSEWHERE = (
    ("recording: CPU at given record rates, in addition to xentrace", "record.py", "recording.md"),
    ("bpf: ns per event, latency of a traced call, lost events", "bpf.py", "bpf.md"),
    ("calibrate, compared with a C program's own loops", "calibrate.py", "calibrate.md"),
    ("diff: how often it is wrong, how long it takes", "diff.py", "diff.md"),
    ("cost: predictions, compared with run times of fenced programs", "accuracy/accuracy.py", "accuracy.md"),
    ("samples at fences, compared with what the fences cost", "accuracy/sampled.py", "cost.md"),
)


def elsewhere() -> list[str]:
    """Return the page's last section."""
    rows = [f"| {what} | `benchmarks/{program}` | [{page}]({page}) |" for what, program, page in ELSEWHERE]
    return ["", "## Elsewhere", "", "| what | program | figures |", "|---|---|---|", *rows, ""]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", default="100,300,1000", help="megabytes, comma-separated")
    parser.add_argument("--text-mb", type=float, default=5, help="code of the kernel whose sites are found")
    parser.add_argument("--no-linux", action="store_true", help="leave out the sites of Debian's kernel")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    xenalyze = shutil.which("xenalyze")
    if xenalyze is None:
        raise SystemExit("xenalyze is missing: apt-get install xen-utils-common")
    sizes = [int(size) for size in arguments.sizes.split(",")]
    # First, while this process is small: a child's peak memory is at least its parent's.
    found = sites.page(arguments.text_mb, arguments.runs, linux=not arguments.no_linux)
    with tempfile.TemporaryDirectory() as folder:
        exported = [*export.page(max(sizes)), ""]
        page = "\n".join([measure(Path(folder), sizes, arguments.runs, xenalyze), *exported, *found])
    page = page.rstrip("\n") + "\n" + "\n".join(elsewhere())
    if arguments.out:
        arguments.out.write_text(page)
    else:
        print(page, end="")


#: Commands whose start counts; all read the bundled sample.
COMMANDS = (
    ("--help",),
    ("report",),
    ("report", "--json"),
    ("info", str(samples.path())),
    ("dump", "--head", "1000", str(samples.path())),
)


def measure(folder: Path, sizes: Sequence[int], runs: int, xenalyze: str) -> str:
    """Return the page."""
    from xtrace.probes.reader.writer import repeat

    plain = ["--cpu-hz", "2.6G"]
    copy_gb_s = copy_rate(runs)
    lines = [
        "# Benchmarks",
        "",
        "Written by `python benchmarks/run.py --out docs/benchmarks.md`; wall seconds are medians,",
        f"ratios are medians of {runs} pairs run in turn. Traces are the bundled sample, repeated.",
        "",
        f"Machine: {machine()}; copy bandwidth of one core {copy_gb_s:.1f} GB/s.",
        "",
        "## Traces",
        "",
        "| trace | `xtrace report` s | `xenalyze -s` s | ratio | MB resident "
        "| `xtrace dump` s | `--dump-all` s | ratio |",
        "|---|---|---|---|---|---|---|---|",
    ]
    reports: dict[int, tuple[float, float]] = {}
    for size in sizes:
        path = folder / f"{size}.bin"
        actual = repeat(samples.path(), path, min_bytes=size * MEGABYTE)
        ours, theirs = paired([*XTRACE, "report", str(path)], [xenalyze, *plain, "-s", str(path)], runs)
        dumps, their_dumps = paired(
            [*XTRACE, "dump", str(path)], [xenalyze, *plain, "--dump-all", str(path)], max(runs // 2, 1)
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
            limits = loops.rows(path, runs, copy_gb_s)
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
    lines += [
        f"| read and decode, one core | {alone:.2f} GB/s |",
        f"| read, decode and merge, one core | {merged:.2f} GB/s |",
        "",
        "## Start",
        "",
        "| command | wall s | CPU s |",
        "|---|---|---|",
    ]
    for command in COMMANDS:
        times = [run([*XTRACE, *command]) for _ in range(2 * runs + 1)][1:]
        shown = " ".join(word for word in command if word != str(samples.path()))
        lines.append(f"| `xtrace {shown}` | {median(times):.3f} | {median(times, 'cpu_s'):.3f} |")
    lines += [
        "",
        "`report`, `info` and `dump` read the bundled sample, 5.7 MB in 1.2 MB of xz. Decompressing it takes",
        "0.07 s, during which Python imports what makes the tables.",
        "",
        "## What the limit is",
        "",
        "Time per record of each compiled loop in one thread, and the time that its memory traffic alone",
        "would take: the bytes that it must read and write once, at twice the copy bandwidth. In a report,",
        "the stages run in threads of their own.",
        "",
        "| loop | ns per record | bytes | limit ns | times the limit |",
        "|---|---|---|---|---|",
        *limits,
        "",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent.parent))
    main()
