"""Measure `xtrace export`: time, size and peak memory of each format, from a trace of 1 GB.

    python benchmarks/export.py [--size 1000] [--folder DIR] [--formats NAME,...]

The trace is the bundled sample, repeated.  Prints the rows of the table in docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from timing import MEGABYTE, XTRACE, run

from xtrace import samples

FORMATS = {
    "perfetto, scheduling": ("perfetto", "--parts", "sched"),
    "perfetto, all": ("perfetto",),
    "ctf": ("ctf",),
    "parquet, records": ("parquet", "--what", "records"),
    "parquet, intervals": ("parquet", "--what", "intervals"),
    "arrow, wakes": ("arrow", "--what", "wakes"),
    "csv, wakes": ("csv", "--what", "wakes"),
    "json, runs": ("json", "--what", "runs"),
    "json, histograms": ("json", "--what", "histograms"),
    "folded": ("folded",),
    "speedscope": ("speedscope",),
}


def size_of(path: Path) -> int:
    """Return the bytes of a file or of a folder's files."""
    return sum(each.stat().st_size for each in path.iterdir()) if path.is_dir() else path.stat().st_size


def main() -> None:
    """Measure and print."""
    from xtrace.probes.reader.writer import repeat

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=1000, help="megabytes")
    parser.add_argument("--folder", type=Path, help="where the files are written")
    parser.add_argument("--formats", help="only these, as the table names them, separated by semicolons")
    arguments = parser.parse_args()
    wanted = arguments.formats.split(";") if arguments.formats else list(FORMATS)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        trace = Path(folder, "trace.bin")
        size = repeat(samples.path(), trace, min_bytes=arguments.size * MEGABYTE)
        print(
            f"{size / MEGABYTE:.0f} MB, load {os.getloadavg()[0]:.1f} on {len(os.sched_getaffinity(0))} cores"
        )
        print("| format | wall s | CPU s | MB of trace per CPU s | MB written | MB resident |")
        print("|---|---|---|---|---|---|", flush=True)
        report = run([*XTRACE, "report", str(trace)])
        rate = f"{size / MEGABYTE / report.cpu_s:.0f}"
        times = f"{report.wall_s:.1f} | {report.cpu_s:.1f} | {rate}"
        print(f"| `report`, for comparison | {times} | | {report.resident_mb:.0f} |", flush=True)
        for name in wanted:
            out = Path(folder, "out")
            done = run([*XTRACE, "export", str(trace), "-o", str(out), "-f", *FORMATS[name]])
            print(f"| {name} | {done.wall_s:.1f} | {done.cpu_s:.1f} | {size / MEGABYTE / done.cpu_s:.0f} "
                  f"| {size_of(out) / MEGABYTE:.0f} | {done.resident_mb:.0f} |", flush=True)  # fmt: skip
            for each in out.iterdir() if out.is_dir() else ():
                each.unlink()
            out.rmdir() if out.is_dir() else out.unlink()


if __name__ == "__main__":
    main()
