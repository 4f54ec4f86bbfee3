"""Measure `xtrace export`: time, size and peak memory of each format, from a trace of 1 GB.

    python benchmarks/export.py [--size 1000] [--folder DIR] [--formats NAME;...]

The trace is the bundled sample, repeated.  run.py makes the same part of docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections.abc import Iterator, Sequence
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
    "csv, runs by domain and second": ("csv", "--what", "runs", "--sum-by", "domain", "--slot", "1s"),
    "ctf, records of d1": ("ctf", "--domain", "1"),
    "folded": ("folded",),
    "speedscope": ("speedscope",),
}


def size_of(path: Path) -> int:
    """Return the bytes of a file or of a folder's files."""
    return sum(each.stat().st_size for each in path.iterdir()) if path.is_dir() else path.stat().st_size


def page(megabytes: int, formats: Sequence[str] = tuple(FORMATS), place: Path | None = None) -> Iterator[str]:
    """Yield the lines of the page's part."""
    from xtrace.probes.reader.writer import repeat

    with tempfile.TemporaryDirectory(dir=place) as folder:
        trace, out = Path(folder, "trace.bin"), Path(folder, "out")
        size = repeat(samples.path(), trace, min_bytes=megabytes * MEGABYTE) / MEGABYTE
        cores = len(os.sched_getaffinity(0))
        yield "## Export"
        yield ""
        yield f"From a trace of {size:.0f} MB, one run each; load {os.getloadavg()[0]:.0f} on {cores} cores."
        yield "The files of each format are as `xtrace export` writes them."
        yield ""
        yield "| format | wall s | CPU s | MB of trace per CPU s | MB written | MB resident |"
        yield "|---|---|---|---|---|---|"
        done = run([*XTRACE, "report", str(trace)])
        times = f"{done.wall_s:.1f} | {done.cpu_s:.1f} | {size / done.cpu_s:.0f}"
        yield f"| `xtrace report`, to compare with | {times} | | {done.resident_mb:.0f} |"
        for name in formats:
            done = run([*XTRACE, "export", str(trace), "-o", str(out), "-f", *FORMATS[name]])
            times = f"{done.wall_s:.1f} | {done.cpu_s:.1f} | {size / done.cpu_s:.0f}"
            yield f"| {name} | {times} | {size_of(out) / MEGABYTE:.0f} | {done.resident_mb:.0f} |"
            for each in out.iterdir() if out.is_dir() else ():
                each.unlink()
            out.rmdir() if out.is_dir() else out.unlink()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=1000, help="megabytes")
    parser.add_argument("--folder", type=Path, help="where the files are written")
    parser.add_argument("--formats", help="only these, as the table names them, separated by semicolons")
    arguments = parser.parse_args()
    wanted = arguments.formats.split(";") if arguments.formats else list(FORMATS)
    for line in page(arguments.size, wanted, arguments.folder):
        print(line, flush=True)


if __name__ == "__main__":
    main()
