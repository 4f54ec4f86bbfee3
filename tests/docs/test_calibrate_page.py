"""docs/calibrate.md names every field of the file, every context, fence and place."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

from xtrace.cli.render.calibration import _HEADINGS
from xtrace.probes.timing.calibration import CONTEXTS, Calibration, Row

PAGE = (Path(__file__).parents[2] / "docs" / "calibrate.md").read_text()


def test_every_field_is_described() -> None:
    missing = [
        item.name for kind in (Row, Calibration) for item in fields(kind) if f"`{item.name}`" not in PAGE
    ]
    assert not missing


def test_every_context_is_described() -> None:
    assert set(_HEADINGS) == set(CONTEXTS)
    table = "\n".join(line for line in PAGE.splitlines() if line.startswith("| "))
    assert all(heading in table for heading in _HEADINGS.values())


def test_no_placeholder_is_left() -> None:
    assert "@" not in PAGE
