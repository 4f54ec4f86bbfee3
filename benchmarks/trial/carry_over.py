"""What does one slice leave to the next? Slices of a worker, in tenths, by their arm and the one before.

    .venv/bin/python benchmarks/trial/carry_over.py [--work bitmap] [--kilobytes 8192] [--slice-ms 1 10 100]

Prints ns per unit in each tenth of a slice.  Rows of one arm that differ by the arm before show how long
what that arm left in the caches lasts; the arms' order is random.  Needs gcc, taskset and two processors.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from pathlib import Path

import numpy as np
from campaign import TRIAL_CPU, build, working

from xtrace.probes.trial.mapped_image import Code
from xtrace.probes.trial.process import ProcessTarget
from xtrace.probes.trial.target import Patch
from xtrace.symbols import Verdict, find_sites, open_image
from xtrace.symbols.patching.plan import plan

TENTHS = 10
NAMES = ("as it is", "removed")


def slices(target: ProcessTarget, length_s: float, seconds: float) -> dict[tuple[int, int], np.ndarray]:
    """Return units and running time of each tenth, summed over slices, by arm and the arm before."""
    found: dict[tuple[int, int], np.ndarray] = {}
    draw = random.Random(1)
    before = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        arm = draw.randrange(2)
        target.switch(arm)
        last = target.reading()
        row = np.zeros((TENTHS, 3))
        for tenth in range(TENTHS):
            now = last
            while (left := length_s / TENTHS - (now.running_ns - last.running_ns) / 1e9) > 1e-5:
                target.wait(left)
                now = target.reading()
            row[tenth] = now.counters[0] - last.counters[0], now.running_ns - last.running_ns, 1
            last = now
        found[arm, before] = found.get((arm, before), np.zeros((TENTHS, 3))) + row
        before = arm
    return found


def main() -> int:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", default="bitmap")
    parser.add_argument("--kilobytes", default="8192")
    parser.add_argument("--slice-ms", type=float, nargs="+", default=[1.0, 10.0, 100.0])
    parser.add_argument("--seconds", type=float, default=10.0, help="for each length")
    parser.add_argument("--data", type=Path, default=Path("build/trial"), help="the folder for programs")
    given = parser.parse_args()
    given.data.mkdir(parents=True, exist_ok=True)
    program = build(given.data, "lfence", "inline")
    image = open_image(program)
    exchanges = plan(image, find_sites(image, lines=False), {Verdict.REMOVABLE}).exchanges
    code = [Code(item.address, item.offset, bytes(item.data)) for item in image.code]
    counter = image.symbols.find("worker_units")
    assert counter is not None
    os.sched_setaffinity(0, {TRIAL_CPU})
    for length in given.slice_ms:
        with working(program, given.work, given.kilobytes) as pid:
            target = ProcessTarget(pid, program, code, [counter])
            try:
                target.open(
                    [
                        Patch(item.address + target.offset, item.original, (item.original, item.removed))
                        for item in exchanges
                    ]
                )
                found = slices(target, length / 1e3, given.seconds)
            finally:
                target.close()
        sys.stdout.write(
            f"{given.work}, {given.kilobytes} kB, slices of {length:g} ms, load average "
            f"{os.getloadavg()[0]:.1f}: ns per unit by tenth of a slice\n"
        )
        for (arm, before), row in sorted(found.items()):
            ns = " ".join(f"{value:6.1f}" for value in row[:, 1] / row[:, 0])
            sys.stdout.write(f"  {NAMES[arm]:8} after {NAMES[before]:8} {row[0, 2]:4.0f} slices {ns}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
