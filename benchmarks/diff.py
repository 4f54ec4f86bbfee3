"""Measure how often `xtrace diff` is wrong, over many pools of captures, and how long it takes.

python benchmarks/diff.py [--pools N] [--splits N]
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from builders.captures import hosts, woken  # noqa: E402
from builders.partials import partial  # noqa: E402
from builders.wakes import TSC_HZ, wakes  # noqa: E402
from xtrace.analysis.comparison.compare import compare  # noqa: E402
from xtrace.analysis.comparison.figures import FIGURES, Measured  # noqa: E402
from xtrace.analysis.summary.summary_file import Summary, write_summary  # noqa: E402
from xtrace.analysis.summary.summary_head import Origin  # noqa: E402

P50 = "wake_to_running_p50"
COMMAND = "import sys; from xtrace.cli.main import main; sys.exit(main())"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pools", type=int, default=10)
    parser.add_argument("--splits", type=int, default=200)
    options = parser.parse_args()
    for name, make in (("busy hosts", hosts), ("wakes", woken)):
        silent(name, make, options.pools, options.splits)
    for repetitions in (5, 6, 8, 10):
        found(repetitions, options.pools, options.splits)
    for captures in (1, 10):
        timed(captures)


def silent(name: str, make: Callable[[Sequence[int]], list[Measured]], pools: int, splits: int) -> None:
    """Print in how many random splits of captures of one kind no row shows a change."""
    made = [make(range(20 * pool, 20 * pool + 20)) for pool in range(pools)]
    for figures, which in (([figure for figure in FIGURES if figure.key], "shown"), (FIGURES, "all")):
        chance = random.Random(1)
        shares = []
        for captures in made:
            quiet = 0
            for _ in range(splits):
                chance.shuffle(captures)
                changes = compare(captures[:10], captures[10:], figures=figures).changes
                quiet += not any(row.differs for row in changes)
            shares.append(quiet / splits)
        print(
            f"{name}, metrics {which}: no change in {sum(shares) / pools:.2%} of {pools} x {splits} splits, "
            f"in the worst pool {min(shares):.1%}"
        )


def found(repetitions: int, pools: int, trials: int) -> None:
    """Print how often a planted shift of 5 % is found."""
    chance = random.Random(2)
    hits = trial = 0
    for pool in range(pools):
        seeds = range(1000 + 40 * pool, 1000 + 40 * pool + 20)
        old, new = woken(seeds), woken([seed + 20 for seed in seeds], 1.05)
        for _ in range(trials):
            trial += 1
            diff = compare(chance.sample(old, repetitions), chance.sample(new, repetitions))
            hits += any(row.figure.name == P50 and row.differs and row.change > 0 for row in diff.changes)
    print(f"shift of 5 %, {repetitions} repetitions: found in {hits / trial:.1%} of {trial}")


def timed(captures: int) -> None:
    """Print the time of the whole command on stored summaries."""
    with tempfile.TemporaryDirectory() as folder:
        for group, first in (("old", 0), ("new", 100)):
            (Path(folder) / group).mkdir()
            for number in range(captures):
                summary = Summary(partial(wakes(first + number)), Origin(str(number), TSC_HZ, "given"))
                write_summary(summary, Path(folder) / group / f"{number}.summary")
        arguments: Sequence[str] = [sys.executable, "-c", COMMAND, "diff", "old", "new"]
        times = []
        for _ in range(5):
            begun = time.monotonic()
            subprocess.run(arguments, cwd=folder, check=True, stdout=subprocess.DEVNULL)
            times.append(time.monotonic() - begun)
    print(f"{captures} + {captures} summaries: {min(times):.2f} s")


if __name__ == "__main__":
    main()
