"""The example files in docs/cost.md are read as it says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from xtrace.analysis.cost.executions import CHECKED, KINDS
from xtrace.analysis.cost.guest_counters import read

PAGE = (Path(__file__).parents[2] / "docs" / "cost.md").read_text()
SHOWN = re.findall(r"```(json|csv|text)\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("number", range(len(SHOWN)))
def test_the_example_files_are_read(number: int, tmp_path: Path) -> None:
    path = tmp_path / f"counters.{SHOWN[number][0]}"
    path.write_text(SHOWN[number][1])
    found = read(path)
    assert "restore" in found.counts
    assert (found.seconds is None) == (SHOWN[number][0] == "text")


def test_there_is_an_example_of_each_format() -> None:
    assert [kind for kind, _ in SHOWN] == ["json", "json", "csv", "text"]


def test_the_names_are_those_that_are_used() -> None:
    table = PAGE.split("| name | counts |")[1].split("\n\n")[0]
    named = set(re.findall(r"`([a-z_]+)`", table)) - {"symbol"}
    assert named <= {*KINDS, *CHECKED}
    assert named >= set(CHECKED)
