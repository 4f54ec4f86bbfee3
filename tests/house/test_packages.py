"""The installed packages are the folders at the root."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import xtrace
from xtrace import samples

ROOT = Path(__file__).parents[2]
FOLDERS = ("analysis", "cli", "probes", "samples", "symbols")


@pytest.fixture(scope="module")
def setuptools_table() -> dict[str, Any]:
    with (ROOT / "pyproject.toml").open("rb") as stream:
        table: dict[str, Any] = tomllib.load(stream)["tool"]["setuptools"]
    return table


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_folder_with_modules_is_a_package(folder: str) -> None:
    holders = {path.parent for path in (ROOT / folder).rglob("*.py")}
    assert [str(holder) for holder in holders if not (holder / "__init__.py").is_file()] == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_packages_are_links_to_the_folders_at_the_root(folder: str) -> None:
    link = ROOT / "xtrace" / folder
    assert link.is_symlink()
    assert not link.readlink().is_absolute()
    assert link.resolve() == (ROOT / folder).resolve()


def test_the_package_folder_has_no_other_files() -> None:
    own = {path.name for path in (ROOT / "xtrace").iterdir() if not path.is_symlink()}
    assert own - {"__pycache__"} == {"__init__.py", "__main__.py", "lazy.py", "py.typed"}


def test_the_default_sample_is_installed(setuptools_table: dict[str, Any]) -> None:
    assert samples.NAME in setuptools_table["package-data"]["xtrace.samples"]
    assert samples.path().is_file()


def test_the_module_runs_as_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "xtrace", "--version"], capture_output=True, text=True, check=True
    )
    assert done.stdout == f"xtrace {xtrace.__version__}\n"
