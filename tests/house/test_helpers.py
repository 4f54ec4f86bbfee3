"""Test helpers have import names that nothing else uses, and are not tests themselves."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
MODULES = sorted(TESTS.rglob("*.py"))
#: What is importable by name if the root is on the path: its folders.
AT_ROOT = {path.name for path in ROOT.iterdir() if path.is_dir()}


def is_test(path: Path) -> bool:
    return path.name.startswith(("test_", "check_")) or path.name == "conftest.py"


def top(path: Path) -> str:
    """Return the first part of a module's import name, relative to tests/."""
    return path.relative_to(TESTS).parts[0].removesuffix(".py")


def imported(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_folders_named_like_a_package_contain_only_tests() -> None:
    """An __init__.py would make such a folder shadow the package, because tests/ comes first on the path."""
    assert {"analysis", "cli", "probes", "symbols"} <= AT_ROOT
    assert [path for path in MODULES if top(path) in AT_ROOT and not is_test(path)] == []


def test_helper_names_do_not_clash_with_other_packages() -> None:
    helpers = {top(path) for path in MODULES if not is_test(path)}
    assert {"builders", "lab", "oracle", "peer"} <= helpers
    assert helpers & {*sys.stdlib_module_names, *packages_distributions(), *AT_ROOT} == set()


def test_no_module_imports_a_test() -> None:
    readers = [*MODULES, *(ROOT / "benchmarks").rglob("*.py")]
    parts = [(path, name, part) for path in readers for name in imported(path) for part in name.split(".")]
    assert [part for part in parts if part[2].startswith("test_") or part[2] == "conftest"] == []
