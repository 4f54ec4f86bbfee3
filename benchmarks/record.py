"""Measure what xtrace record costs in addition to xentrace: CPU at given record rates, whether it keeps up.

    .venv/bin/python benchmarks/record.py [--seconds 10] [--rates 10000,300000]

A producer replaces xentrace: it writes windows of a real sample at the requested rate, where and when
xentrace would.  Everything else is the real recorder: session, backend, clocks, flushes, counting.
"""

from __future__ import annotations

import argparse
import lzma
import os
import resource
import signal
import struct
import sys
import tempfile
import time
from pathlib import Path

from xtrace.probes.host import dom0, run_folder, xen_tools
from xtrace.probes.recording import session
from xtrace.probes.recording.backends import registry
from xtrace.probes.recording.backends.base import Availability, Options
from xtrace.probes.recording.backends.record_counter import RecordCounter
from xtrace.probes.recording.backends.xentrace import XentraceBackend

SAMPLE = Path(__file__).resolve().parent.parent / "samples" / "xen417-pv-all.bin.xz"
ROUND_S = 0.1
OPTIONS = Options(reserve_mib=0)


class Fed(XentraceBackend):
    """The real backend, with the producer instead of xentrace."""

    rate = 0

    def probe(self) -> Availability:
        return Availability(True, "fed by the benchmark")

    @staticmethod
    def _command(mask: int, options: Options, path: str) -> list[str]:
        return [sys.executable, __file__, "--produce", path, "--rate", str(Fed.rate)]


def produce(path: str, rate: int) -> None:
    """Write windows of the sample at ``rate`` records per second until SIGTERM."""
    ended: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: ended.append(number))
    windows = rounds_of(lzma.decompress(SAMPLE.read_bytes()))
    with open(path, "wb", buffering=0) as file:
        begin = time.monotonic()
        written = at = 0
        while not ended:
            due = rate * (time.monotonic() - begin)
            while written < due:
                count, content = windows[at % len(windows)]
                file.write(content)
                written += count
                at += 1
            time.sleep(ROUND_S)
    Path(f"{path}.count").write_text(str(written))


def rounds_of(data: bytes) -> list[tuple[int, bytes]]:
    """Return the windows of a trace, each as (record count, bytes)."""
    found = []
    at = 0
    while at < len(data):
        size = 12 + struct.unpack_from("<I", data, at + 8)[0]
        counter = RecordCounter()
        counter.feed(data[at : at + size])
        found.append((counter.records, data[at : at + size]))
        at += size
    return found


def measure(rate: int, seconds: float, folder: Path) -> None:
    """Record at one rate and print a row."""
    Fed.rate = rate
    output = folder / f"{rate}.xtrace"
    before, begin = used(), time.monotonic()
    request = session.Request(output, OPTIONS, ("xentrace",), duration_s=seconds)
    summary = session.record(request, say=lambda line: None, watch=lambda *told: None)
    cpu_s, wall_s = used() - before, time.monotonic() - begin
    counts = summary.counts["xentrace"]
    made = int((output / "xentrace.bin.count").read_text())
    print(
        f"{rate:>9,}/s  {counts.records / summary.duration_s:>9,.0f}/s made  "
        f"{counts.byte_count / summary.duration_s / 1e6:6.1f} MB/s  {cpu_s / wall_s:6.2%} of a CPU  "
        f"{cpu_s / max(counts.records, 1) * 1e9:6.0f} ns/record  "
        f"{'all counted' if counts.records == made else f'{made - counts.records:,} not counted'}"
    )


def used() -> float:
    """Return the CPU seconds of this process without its children."""
    row = resource.getrusage(resource.RUSAGE_SELF)
    return row.ru_utime + row.ru_stime


def main() -> None:
    """Print a row for each rate."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rates", default="1000,10000,100000,300000")
    parser.add_argument("--produce", metavar="PATH", help=argparse.SUPPRESS)
    parser.add_argument("--rate", type=int, help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.produce:
        produce(wanted.produce, wanted.rate)
        return
    registry._HOMES["xentrace"] = ("__main__", "Fed")
    dom0.why_no_dom0 = lambda: "a benchmark"
    xen_tools.tool = lambda name: None
    with tempfile.TemporaryDirectory() as scratch:
        os.environ[run_folder.RUN_DIRECTORY_VARIABLE] = str(Path(scratch) / "run")
        for rate in map(int, wanted.rates.split(",")):
            measure(rate, wanted.seconds, Path(scratch))


if __name__ == "__main__":
    main()
