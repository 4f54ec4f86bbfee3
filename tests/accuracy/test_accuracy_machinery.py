"""A small run of the accuracy benchmark: the program, its sites, its counts and a prediction; no timing."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from xtrace.probes.timing.calibration import CONTEXTS, FENCES, KINDS, Calibration, Row, text_of

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "accuracy" / "accuracy.py"
ROUNDS = 2 * 20_000

# Only a benchmark depends on it.
pytestmark = [pytest.mark.nightly, pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc")]


#: Cycles of the made calibration, chosen so that each sequence and fence can be identified in a sum.
PRICES = {"mask": 10.0, "restore": 200.0, "unmask": 400.0}
DEARER = {"lfence": 1.0, "mfence": 2.0, "sfence": 3.0, "lock add": 4.0, "xchg": 5.0}


def made_calibration() -> Calibration:
    rows = tuple(
        Row(kind, fence, place, context, cycles, cycles - 1, cycles + 1, 99, True)
        for kind in KINDS
        for fence in FENCES
        for place in ("inline", "outofline")
        for context in CONTEXTS
        if context != "site"
        for cycles in [DEARER[fence] * (PRICES[kind] + (5.0 if place == "outofline" else 0.0))]
    )
    return Calibration({}, "2026-01-01T00:00:00+00:00", 2e9, 1, 1.0, "hardware", {}, rows)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("accuracy")
    (folder / "calibration-0.json").write_text(text_of(made_calibration()))
    done = subprocess.run(
        [sys.executable, SCRIPT, "--small", "--data", folder], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    content: dict[str, Any] = json.loads(done.stdout)
    return content


def test_every_site_is_found_with_its_fence(told: dict[str, Any]) -> None:
    assert told["wrong_fences"] == []
    assert len(told["runs"]) == 2 * 5


def test_each_round_executes_both_sites_once(told: dict[str, Any]) -> None:
    for run in told["runs"]:
        names = [(one["symbol"], one["kind"], one["count"]) for one in run["executions"]]
        if run["loop"] == "inlined/stores_8":
            assert names == [
                ("section_stores_8", "mask", ROUNDS),
                ("section_stores_8", "restore", ROUNDS),
            ]
        else:
            assert names == [("upcalls_mask", "mask", ROUNDS), ("upcalls_unmask", "unmask", ROUNDS)]


def test_events_reach_the_guest_with_every_fence(told: dict[str, Any]) -> None:
    # The benchmark itself checks after every run that each event was handled.
    assert told["upcall_count"] >= len(told["runs"]) / 2


def test_a_prediction_is_the_sum_of_two_sites_of_the_fence(told: dict[str, Any]) -> None:
    for made in told["predictions"]:
        fence = made["build"].split("-")[1].replace("lockadd", "lock add")
        # From the lowest to the highest of the fence's sequences, each drawn from its interval of +-1.
        assert made["low_cycles"] == pytest.approx(2 * DEARER[fence] * 10, abs=4)
        assert made["high_cycles"] == pytest.approx(2 * DEARER[fence] * 405, abs=4)
        assert made["source"] == "standard"
    assert len(told["predictions"]) == 2 * 4


def test_uprobes_count_what_the_program_counts(told: dict[str, Any]) -> None:
    places = told["uprobes"]
    if isinstance(places, str):
        pytest.skip(places)
    assert {name: one["uprobes"] for name, one in places.items()} == {
        name: one["program"] for name, one in places.items()
    }
    assert places["mask"]["uprobes"] == places["restore"]["uprobes"] == 101
    assert places["fence"]["uprobes"] == 202
