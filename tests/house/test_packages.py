"""What is installed is what lies in the folders."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

from xtrace.cli.loading import sample

ROOT = Path(__file__).parents[2]
FOLDERS = ("analysis", "cli", "probes", "samples", "symbols")


@pytest.fixture(scope="module")
def setuptools_table() -> dict[str, Any]:
    with (ROOT / "pyproject.toml").open("rb") as stream:
        table: dict[str, Any] = tomllib.load(stream)["tool"]["setuptools"]
    return table


def test_every_folder_with_modules_is_listed_as_a_package(setuptools_table: dict[str, Any]) -> None:
    modules = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    packages = {".".join(("xtrace", *module.parent.relative_to(ROOT).parts)) for module in modules}
    assert sorted(setuptools_table["packages"]) == sorted(packages)


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_package_has_an_init(folder: str) -> None:
    holders = {path.parent for path in (ROOT / folder).rglob("*.py")}
    assert [str(holder) for holder in holders if not (holder / "__init__.py").is_file()] == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_the_link_for_type_checkers_leads_to_the_folder(folder: str) -> None:
    link = ROOT / ".typing" / "xtrace" / folder
    assert link.is_symlink()
    assert not link.readlink().is_absolute()
    assert link.resolve() == (ROOT / folder).resolve()


@pytest.mark.parametrize("folder", ["analysis", "cli", "probes", "symbols"])
def test_every_package_says_that_it_is_typed(folder: str) -> None:
    assert (ROOT / folder / "py.typed").is_file()


def test_the_default_sample_is_installed(setuptools_table: dict[str, Any]) -> None:
    assert sample.NAME in setuptools_table["package-data"]["xtrace.samples"]
    assert sample.path().is_file()
