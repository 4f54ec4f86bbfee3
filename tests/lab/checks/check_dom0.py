"""The markers that dom0 sent are in the trace, in order, each between the two clock readings around it."""

from __future__ import annotations

import pytest

from lab.checks.made import chosen, counts, folder, known

FIRST_MARK = 0xBEEF0000


@pytest.mark.parametrize("name", chosen("dom0", "quick"))
def test_every_marker_is_between_its_clock_readings(name: str) -> None:
    sent = [
        [int(word) for word in line.split()] for line in (folder(name) / "marks").read_text().splitlines()
    ]
    found = [(tsc, number) for tsc, number in counts(name).marks if number >= FIRST_MARK]
    assert len(sent) == int(known(name)["marks"][0])
    assert [number - FIRST_MARK for _, number in found] == [number for _, number, _ in sent]
    for (tsc, _), (before, _, after) in zip(found, sent, strict=True):
        assert before < tsc < after
