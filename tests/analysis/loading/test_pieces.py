"""Pieces of one recording are read as one trace, in any order; other files are not."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from builders.mutated import real_offsets
from oracle.reading import SAMPLES, sample_bytes
from xtrace.analysis.report.build import json_text
from xtrace.analysis.report.request import ReportRequest, make_report

SAMPLE = next(path for path in SAMPLES if path.name.startswith("xen417-pvh-all"))


def report_of(paths: list[Path]) -> tuple[str, list[str]]:
    said: list[str] = []
    return json_text(make_report(ReportRequest(paths=paths), tell=said.append).report), said


def pieces_at(places: list[int], folder: Path) -> list[Path]:
    data = sample_bytes(SAMPLE)
    made = []
    for number, (begin, end) in enumerate(itertools.pairwise([0, *places, len(data)])):
        made.append(folder / f"piece{number}")
        made[-1].write_bytes(data[begin:end])
    return made


@pytest.mark.parametrize("at_windows", [True, False], ids=["rotated", "split"])
def test_pieces_are_as_their_concatenation(at_windows: bool, tmp_path: Path) -> None:
    data, offsets = sample_bytes(SAMPLE), real_offsets(SAMPLE)
    places = [offsets[len(offsets) // 3], offsets[2 * len(offsets) // 3]]
    if not at_windows:
        places = [len(data) // 3 + 1, 2 * len(data) // 3 + 2]
    whole = tmp_path / "whole"
    whole.write_bytes(data)
    expected, _ = report_of([whole])
    made = pieces_at(places, tmp_path)
    for order in itertools.permutations(made):
        found, said = report_of(list(order))
        assert found == expected
        assert said == [f"3 files are pieces of one recording, in this order: {', '.join(map(str, made))}"]


def test_recordings_of_different_hosts_are_not_joined(tmp_path: Path) -> None:
    other = next(path for path in SAMPLES if path != SAMPLE)
    _, said = report_of([SAMPLE, other])
    assert said == ["2 different recordings: counts and times are added up, each has a clock of its own"]


def test_a_piece_that_is_missing_is_not_bridged(tmp_path: Path) -> None:
    offsets = real_offsets(SAMPLE)
    made = pieces_at([offsets[len(offsets) // 3], offsets[2 * len(offsets) // 3]], tmp_path)
    _, said = report_of([made[0], made[2]])
    assert said[0].startswith("2 different recordings")
