"""Compare `xtrace calibrate` with a C program that measures the same with its own loops.

    on an idle machine: python benchmarks/calibrate.py [--seconds S] [--image FILE]

The C program (calibrate_truth.c, built with gcc) has the same sequences in the same contexts, written
independently and laid out by another assembler.  The inline standard sequences are compared.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from timing import XTRACE

SOURCE = Path(__file__).with_name("calibrate_truth.c")
#: Costs below this are left out of the ratios: a ratio of two small numbers is meaningless.
LEAST_CYCLES = 3.0


def truth(folder: Path, cpu: int) -> dict[tuple[str, str, str], float]:
    program = folder / "truth"
    subprocess.run(["gcc", "-O2", str(SOURCE), "-o", str(program)], check=True)
    text = subprocess.run([str(program), str(cpu)], check=True, capture_output=True, text=True).stdout
    return {
        (kind, fence, context): float(cycles)
        for kind, fence, context, cycles in csv.reader(text.splitlines())
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--cpu", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--image", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        own = truth(folder, options.cpu)
        path = folder / "calibration.json"
        command = [*XTRACE, "calibrate", "--seconds", str(options.seconds), "--cpu", str(options.cpu)]
        image = [str(options.image)] if options.image else []
        done = subprocess.run([*command, "-o", str(path), *image], capture_output=True, text=True)
        again = truth(folder, options.cpu)
        if done.returncode:
            print(done.stderr, file=sys.stderr)
            return 1
        found = json.loads(path.read_text())
    rows = {
        (row["kind"], row["fence"], row["context"]): row for row in found["rows"] if row["place"] == "inline"
    }
    ratios = []
    inside = 0
    print(f"{found['host']['cpu_model']}; {found['host']['hypervisor']}")
    print(f"{'kind':8} {'fence':9} {'context':13} {'C':>8} {'C again':>8} {'xtrace':>8} {'95 %':>15} ratio")
    for key, value in own.items():
        row = rows[key]
        median, low, high = row["median_cycles"], row["low_cycles"], row["high_cycles"]
        if median is None:
            print(f"{key[0]:8} {key[1]:9} {key[2]:13} {value:8.1f} {again[key]:8.1f}  none: {row['note']}")
            continue
        mean = (value + again[key]) / 2
        ratio = median / mean if min(abs(mean), abs(median)) >= LEAST_CYCLES else None
        if ratio is not None:
            ratios.append(ratio)
        least, most = min(value, again[key]), max(value, again[key])
        inside += low - 1 <= most and least <= high + 1
        text = f"{ratio:5.2f}" if ratio is not None else "    -"
        print(
            f"{key[0]:8} {key[1]:9} {key[2]:13} {value:8.1f} {again[key]:8.1f} {median:8.1f} "
            f"{low:7.1f} {high:7.1f} {text}"
        )
    low, middle, high = np.quantile(ratios, (0.05, 0.5, 0.95))
    print(
        f"ratio xtrace / C where both are at least {LEAST_CYCLES:g} cycles: median {middle:.3f}, "
        f"p5 to p95: {low:.2f} to {high:.2f} ({len(ratios)} sequences)"
    )
    print(f"the range of C's two runs overlaps the interval within 1 cycle in {inside} of {len(own)}")
    if options.image:
        print(done.stdout[done.stdout.index("sites of the image") :])
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
