"""Folders stay small, and tests/ mirrors them."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("analysis", "cli", "probes", "symbols")
MOST_MODULES = 14
#: One file per record class.
EXEMPT = {Path("probes/catalog")}
#: Guest sources, not tests.
DATA = {Path("tests/symbols/guests")}


def folders(root: Path) -> set[Path]:
    return {path.parent.relative_to(ROOT) for path in root.rglob("*.py")}


def test_no_folder_has_too_many_modules() -> None:
    inside = {path for package in PACKAGES for path in folders(ROOT / package)}
    modules = {path: len([*(ROOT / path).glob("*.py")]) - 1 for path in inside - EXEMPT}
    assert {path: count for path, count in modules.items() if count > MOST_MODULES} == {}
    assert len(modules) > 30


def test_test_folders_have_the_names_of_source_folders() -> None:
    tested = {path for package in PACKAGES for path in folders(ROOT / "tests" / package)} - DATA
    assert [path for path in sorted(tested) if not (ROOT / path.relative_to("tests")).is_dir()] == []
