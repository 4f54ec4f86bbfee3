"""The file that a calibration writes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from xtrace.probes.errors import TraceError
from xtrace.probes.timing.calibration import Calibration, Row, read, text_of

ROW = Row("unmask", "lfence", "inline", "empty", 13.8, 13.1, 13.9, 96, True, fenced_cycles=14.7)
SITE = Row(
    "mask",
    "xchg",
    "site",
    "site",
    20.0,
    19.0,
    21.5,
    96,
    False,
    address=0xFFFF_FFFF_8020_1000,
    build_id="ab12",
    note="not tight",
    lean_median_cycles=22.0,
    lean_low_cycles=20.0,
    lean_high_cycles=23.0,
)
KEPT = Calibration(
    {"cpu_model": "a"},
    "2026-01-02T03:04:05+00:00",
    2.3e9,
    2,
    1.29,
    "hardware",
    {"seed": 0},
    (ROW, SITE),
    ("x: y",),
)


def test_it_reads_back_as_written(tmp_path: Path) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(text_of(KEPT))
    assert read(path) == KEPT


def test_fields_that_were_added_later_may_be_missing(tmp_path: Path) -> None:
    content = json.loads(text_of(KEPT))
    del content["notes"]
    later = ("lean_median_cycles", "lean_low_cycles", "lean_high_cycles", "median_ns", "dropped_count")
    for row in content["rows"]:
        for key in later:
            row.pop(key)
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(content))
    assert read(path).rows[0] == ROW


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schema_version": 2}, "schema_version"),
        ({"timing": "guessed"}, "guessed"),
        ({"tsc_hz": 5}, "tsc_hz"),
        ({"rows": 5}, "calibration"),
        ({"rows": [{}]}, "calibration"),
        ({"more": 1}, "more"),
        ({"tsc_hz": 10**400}, "tsc_hz"),
        ({"tsc_hz": True}, "tsc_hz"),
        ({"date": 5}, "date"),
        ({"host": {"cpu_model": {}}}, "host"),
        ({"settings": 3}, "settings"),
        ({"core_per_tsc_ratio": "fast"}, "core_per_tsc_ratio"),
    ],
)
def test_what_is_not_a_calibration_is_refused(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(json.loads(text_of(KEPT)) | changes))
    with pytest.raises(TraceError, match=words):
        read(path)


@pytest.mark.parametrize(
    "row",
    [
        {"kind": "x"},
        {"fence": "isb"},
        {"place": "y"},
        {"context": "z"},
        {"lean_low_cycles": "NaN"},
        {"median_cycles": 10**400},
        {"pair_count": {}},
        {"pair_count": 1.5},
        {"tight": 1},
        {"address": "0x1"},
        {"note": []},
    ],
)
def test_rows_are_checked(tmp_path: Path, row: dict[str, Any]) -> None:
    content = json.loads(text_of(KEPT))
    content["rows"][0].update(row)
    path = tmp_path / "calibration.json"
    path.write_text(json.dumps(content).replace('"NaN"', "NaN"))
    with pytest.raises(TraceError, match="not a calibration"):
        read(path)


def test_a_missing_figure_is_none(tmp_path: Path) -> None:
    empty = replace(ROW, median_cycles=None, low_cycles=None, high_cycles=None)
    path = tmp_path / "calibration.json"
    path.write_text(text_of(replace(KEPT, rows=(empty,))))
    assert read(path).rows == (empty,)
