"""Compare the share of address samples at a fence and right after it with what the fence really costs.

    .venv/bin/python benchmarks/accuracy/sampled.py --recorder build/xtrace.pyz [--data DIR] [--hz HZ]

For each kind of work and fence the program runs for about a second under `xtrace record --backend perf`
(with the software clock, which is unbiased because nothing here masks interrupts), and also without fences
and samples.  Needs root, bcc for the system's Python, and an idle machine with two processors; prints the
table of docs/cost.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import found
import numpy as np
from program import GUEST_CPU, HOT_WORKS, MISS_WORKS, UNFENCED, XEN_CPU, Build, Loop, build, run

from xtrace.analysis.cost.cross_checks.fence_samples import fence_share
from xtrace.probes.bpf.ctf_reader import read_samples
from xtrace.symbols import find_sites, open_image
from xtrace.symbols.sites.execution_bounds import behind_fences

FENCES = ("lfence", "mfence", "lockadd")
_TURNS = 3
_RUN_S = 1.0


@dataclass(frozen=True, slots=True)
class Shown:
    """The true cost of one execution of a fence and the bounds from samples, in TSC cycles."""

    true_cycles: float
    low_cycles: float
    high_cycles: float


def cycles_a_round(program: Path, loop: Loop, rounds: int) -> float:
    """Return the cycles per round, the median over batches."""
    told = run(program, [loop], rounds=rounds, batches=12)["loops"][0]
    return float(np.median(told["batch_cycles"])) / int(told["batch_rounds_count"])


def tsc_hz(program: Path, loop: Loop) -> float:
    """Return TSC cycles per second, by the program's own clocks."""
    told = run(program, [loop])
    return float(told["span_cycles"] / told["span_ns"] * 1e9)


def shown(options: argparse.Namespace, programs: dict[str, Path], fence: str, loop: Loop) -> Shown:
    """Measure one fence in one loop."""
    fenced, plain = programs[fence], programs["none"]
    true = [
        cycles_a_round(fenced, loop, options.rounds) - cycles_a_round(plain, loop, options.rounds)
        for _ in range(_TURNS)
    ]
    rounds = int(_RUN_S * tsc_hz(plain, loop) / cycles_a_round(fenced, loop, options.rounds))
    capture = options.data / "sampled.xtrace"
    command = [fenced, "--guest-cpu", str(GUEST_CPU), "--xen-cpu", str(XEN_CPU), "--period-us", "100000"]
    command += ["--batches", "1", "--rounds", str(rounds), str(loop)]
    recorder = ["/usr/bin/python3", options.recorder, "record", "--backend", "perf", "-F", str(options.hz)]
    done = subprocess.run(
        [*recorder, "-f", "-o", capture, "--", *map(str, command)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(f"{done.stderr or done.stdout}")
    told = json.loads(done.stdout[done.stdout.index("{") : done.stdout.rindex("}") + 1])["loops"][0]
    each = told["batch_cycles"][0] / told["batch_rounds_count"]
    records = read_samples(capture / "samples").records
    image = open_image(fenced)
    table = find_sites(image)
    following = behind_fences(image, table)
    fences = [fence.address for site in found.of_loop(table.sites, loop) for fence in site.fences]
    mine = records["ip"][(records["comm"] == fenced.name.encode()[:15]) & (records["ip"] < 1 << 47)]
    addresses, counts = np.unique(mine, return_counts=True)
    behind = [following[address] for address in fences]
    share = fence_share(addresses.astype(np.uint64), counts.astype(np.int64), fences, behind)
    return Shown(float(np.median(true)) / 2, share.low * each / 2, share.high * each / 2)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recorder", type=Path, default=Path("build/xtrace.pyz"))
    parser.add_argument("--data", type=Path, default=Path("build/sampled"), help="the folder for builds")
    parser.add_argument("--hz", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=20_000, help="rounds of a timed batch")
    options = parser.parse_args()
    options.data.mkdir(parents=True, exist_ok=True)
    programs = {fence: build(Build(fence, "inline"), options.data) for fence in FENCES}
    programs["none"] = build(UNFENCED, options.data)
    for work in (*HOT_WORKS, *MISS_WORKS):
        cells = []
        for fence in FENCES:
            one = shown(options, programs, fence, Loop("inlined", work))
            cells.append(f"{one.true_cycles:.0f} | {one.low_cycles:.0f} to {one.high_cycles:.0f}")
        print(f"| {work} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
