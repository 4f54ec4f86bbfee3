"""The pages under docs/ are correct: their code runs, and their generated parts are up to date."""

from __future__ import annotations

import ast
import contextlib
import importlib.util
import io
import re
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from xtrace import analysis, probes, samples, symbols
from xtrace.analysis import analyse, build_report
from xtrace.analysis.findings import page
from xtrace.analysis.report import json_schema, schema
from xtrace.analysis.report.json_types import TRACE_TYPES

ROOT = Path(__file__).parents[2]


def test_library_page_runs_and_prints_what_it_says() -> None:
    page = (ROOT / "docs" / "library.md").read_text()
    blocks = re.findall(r"```(python|output)\n(.*?)```", page, re.DOTALL)
    scope: dict[str, object] = {}
    printed = ""
    compared = 0
    for language, text in blocks:
        if language == "python":
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(text, "docs/library.md", "exec"), scope)
            printed = out.getvalue()
        else:
            assert printed == text
            compared += 1
    assert compared == page.count("```output")
    assert compared >= 7


def test_export_page_runs() -> None:
    page = (ROOT / "docs" / "export.md").read_text()
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        code = "".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
        exec(compile(code, "docs/export.md", "exec"), {})
    assert out.getvalue() == "24216630 cycles\n"


def test_library_page_uses_only_public_names() -> None:
    page = (ROOT / "docs" / "library.md").read_text()
    code = "".join(re.findall(r"```python\n(.*?)```", page, re.DOTALL))
    used = [
        (node.module, alias.name)
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("xtrace")
        for alias in node.names
    ]
    public = {(package.__name__, name) for package in (analysis, probes, symbols) for name in package.__all__}
    assert set(used) - public == {("xtrace", "samples")}
    assert len(used) >= 12


@pytest.mark.parametrize("package", [analysis, probes, symbols], ids=lambda package: package.__name__)
def test_each_public_name_exists_and_has_a_docstring(package: ModuleType) -> None:
    for name in package.__all__:
        assert getattr(package, name).__doc__, name
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        package.nothing  # noqa: B018


@pytest.mark.parametrize(
    ("name", "made"),
    [
        ("report-schema.md", schema.markdown),
        ("report.schema.json", json_schema.text),
        ("findings.md", page.markdown),
    ],
)
def test_schema_files_are_what_the_tables_say(name: str, made: Callable[[], str]) -> None:
    assert (ROOT / "docs" / name).read_text() == made(), "run: .venv/bin/python docs/refresh.py"


def test_every_trace_key_is_described() -> None:
    report = build_report(analyse(samples.path()))
    assert set(report.trace) == set(schema.TRACE_KEYS) == set(TRACE_TYPES)


def test_readme_shows_the_real_report() -> None:
    spec = importlib.util.spec_from_file_location("refresh", ROOT / "docs" / "refresh.py")
    assert spec is not None
    assert spec.loader is not None
    refresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(refresh)
    readme = (ROOT / "README.md").read_text()
    assert readme == refresh.refreshed(readme), "run: python docs/refresh.py"
    assert "d2v0" in readme


def test_files_that_pages_name_exist() -> None:
    pages = [*(ROOT / "docs").rglob("*.md"), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md"))]
    named = {
        (page.name, path)
        for page in pages
        for path in re.findall(
            r"(?<![\w/.-])((?:analysis|benchmarks|cli|docs|probes|symbols|tests|tools|xtrace)/[\w/.-]*\w)",
            page.read_text(),
        )
    }
    assert [item for item in sorted(named) if not (ROOT / item[1]).exists()] == []
    assert len(named) > 60
