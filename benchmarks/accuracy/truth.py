"""Measure the truth: how much longer the fenced program runs than the unfenced one.

Each round runs every build once, in random order, and gives one difference per configuration; the truth is
their median, with the median's 95 % interval from order statistics.
"""

from __future__ import annotations

import json
import os
import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from program import ALL_HOT_WORKS, FENCED, LOOPS, UNFENCED, Build, Loop, run

from xtrace.probes.timing.interval import of_median

#: A run whose guest thread was descheduled more often than this was disturbed, and is repeated: the median of
#: ten batches stands four that others interrupted.
MOST_SWITCHES = 4
MOST_TRIES = 3
MOST_STOLEN_TICKS = 1
RUN = {"batches": 10, "batch_us": 500, "period_us": 500}


@dataclass(frozen=True, slots=True)
class Truth:
    """What the fences of one configuration cost per round, that is per execution of both sites.

    Attributes:
        unfenced_cycles: the unfenced round, in TSC cycles.
        median_cycles, low_cycles, high_cycles: what the fences add to it.
        round_count: number of differences from which these are computed.
    """

    unfenced_cycles: float
    median_cycles: float
    low_cycles: float
    high_cycles: float
    round_count: int

    @property
    def value_cycles(self) -> float:
        """Return the median, or 0 for a negative median that cannot be distinguished from 0."""
        return 0.0 if self.median_cycles < 0 <= self.high_cycles else self.median_cycles


def read(path: Path) -> list[dict[str, Any]]:
    """Return the rows measured so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def steal_ticks() -> int:
    """Return the time that the hypervisor stole from this machine's CPUs, in ticks."""
    with open("/proc/stat") as file:
        return int(file.readline().split()[8])


def _undisturbed(program: Path, loops: Sequence[Loop], cpus: tuple[int, int]) -> tuple[dict[str, Any], int]:
    """Run loops, again if other processes or guests interfere; return the output and the repeat count."""
    for repeats in range(MOST_TRIES):
        before = steal_ticks()
        told = run(program, loops, guest_cpu=cpus[0], xen_cpu=cpus[1], **RUN)
        stolen = steal_ticks() - before
        if stolen <= MOST_STOLEN_TICKS and all(
            loop["switches_count"] <= MOST_SWITCHES for loop in told["loops"]
        ):
            return told, repeats
    return told, MOST_TRIES


def measure(
    programs: dict[Build, Path], loops: Sequence[Loop], seed: int, cpus: tuple[int, int]
) -> Iterator[dict[str, Any]]:
    """Run one round with the guest and Xen on two processors; yield a row for each run of a loop."""
    order = random.Random(seed)
    near = [[loop] for loop in loops if loop.work in ALL_HOT_WORKS]
    far = [[loop for loop in loops if loop.work not in ALL_HOT_WORKS]]
    for group in order.sample(near, len(near)) + [group for group in far if group]:
        for build in order.sample((UNFENCED, *FENCED), len(FENCED) + 1):
            told, repeats = _undisturbed(programs[build], group, cpus)
            for loop in told["loops"]:
                cycles = np.array(loop["batch_cycles"]) / loop["batch_rounds_count"]
                yield {
                    "seed": seed,
                    "fence": build.fence,
                    "place": build.place,
                    "manner": loop["sites"],
                    "work": loop["work"],
                    "cycles": float(np.median(cycles)),
                    "fastest_cycles": float(cycles.min()),
                    "repeats": repeats,
                    "switches": loop["switches_count"],
                    "load": round(os.getloadavg()[0], 2),
                    "upcall_count": told["upcall_count"],
                    "forced_callback_count": told["forced_callback_count"],
                }


def truths(rows: Sequence[dict[str, Any]]) -> dict[tuple[Loop, Build], Truth]:
    """Return each configuration's truth."""
    cycles: dict[tuple[Loop, Build], dict[int, float]] = defaultdict(dict)
    for row in rows:
        key = Loop(row["manner"], row["work"]), Build(row["fence"], row["place"])
        cycles[key][row["seed"]] = row["cycles"]
    found = {}
    for loop in LOOPS:
        unfenced = cycles.get((loop, UNFENCED), {})
        for build in FENCED:
            fenced = cycles.get((loop, build), {})
            seeds = fenced.keys() & unfenced.keys()
            if not seeds:
                continue
            added = np.array([fenced[seed] - unfenced[seed] for seed in seeds])
            interval = of_median(added)
            base = float(np.median(list(unfenced.values())))
            found[loop, build] = Truth(base, interval.median, interval.low, interval.high, len(added))
    return found
