"""The wheel in dom0: its contents, and which of them are kept."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lab import wheel
from lab.packages import LabError

ROOT = Path(__file__).resolve().parents[2]


def test_it_contains_every_module_and_every_program_source() -> None:
    found = set(wheel.sources())
    assert all(path.is_file() for path in found)
    for package in ("analysis", "cli", "probes", "symbols"):
        files = (path for path in (ROOT / package).rglob("*") if path.suffix in (".py", ".c", ".h", ".csv"))
        assert {ROOT / "xtrace" / path.relative_to(ROOT) for path in files} <= found
    assert {ROOT / "xtrace" / name for name in ("__init__.py", "__main__.py", "py.typed")} <= found
    assert sum(path.suffix == ".xz" for path in found) == 1
    assert {*(ROOT / "tools" / "building").glob("*.py")} <= found


def test_the_most_recently_used_disks_are_kept(tmp_path: Path) -> None:
    for age_s in range(1, 6):
        path = tmp_path / f"wheel-{age_s}.ext4"
        path.touch()
        os.utime(path, (1e9 - age_s, 1e9 - age_s))
    (tmp_path / "other.ext4").touch()
    wheel.drop_old(tmp_path)
    kept = {path.name for path in tmp_path.iterdir()}
    assert kept == {"other.ext4", "wheel-1.ext4", "wheel-2.ext4", "wheel-3.ext4"}


def test_a_missing_python_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(LabError, match=r"the wheel needs /none/python; .*\./run"):
        wheel.wheel_disk("/none/python")
    assert list((tmp_path / "xtrace-lab" / "images").iterdir()) == []
