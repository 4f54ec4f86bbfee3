"""The C program that benchmarks/calibrate.py compares with builds and measures the same as calibrate."""

from __future__ import annotations

import csv
import math
import os
import subprocess
from pathlib import Path

import pytest

from xtrace.probes.timing.calibration import CONTEXTS, FENCES, KINDS

SOURCE = Path(__file__).parents[3] / "benchmarks" / "calibrate_truth.c"


@pytest.mark.nightly  # needed by a benchmark only
def test_it_measures_the_same_sequences(tmp_path: Path) -> None:
    program = tmp_path / "truth"
    subprocess.run(
        ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", str(SOURCE), "-o", str(program)],
        check=True,
        timeout=120,
    )
    cpu = str(max(os.sched_getaffinity(0)))
    done = subprocess.run([str(program), cpu], check=True, timeout=300, capture_output=True, text=True)
    rows = list(csv.reader(done.stdout.splitlines()))
    contexts = {"empty", "stores_8", "stores_40", "alu_chain", "alu_fresh", "store_miss_1", "load_miss_1"}
    assert contexts < set(CONTEXTS)
    expected = {(kind, fence, context) for kind in KINDS for fence in FENCES[:4] for context in contexts}
    assert {tuple(row[:3]) for row in rows} == expected
    assert len(rows) == len(expected)
    assert all(math.isfinite(float(row[3])) for row in rows)
