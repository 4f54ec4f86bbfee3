"""docs/sites.md shows what its commands print, and names every field, kind and verdict."""

from __future__ import annotations

import dataclasses
import importlib.util
import re
from pathlib import Path

import pytest

from xtrace.symbols.flow.walk import Paths
from xtrace.symbols.listing.export import site_object
from xtrace.symbols.sites.model import Cpu, Fence, Hazard, How, Kind, Site, Verdict

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def page() -> str:
    return (ROOT / "docs" / "sites.md").read_text()


def test_the_page_shows_what_its_commands_print(page: str) -> None:
    spec = importlib.util.spec_from_file_location("refresh", ROOT / "docs" / "refresh.py")
    assert spec is not None
    assert spec.loader is not None
    refresh = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(refresh)
    assert page == refresh.sites_refreshed(page), "run: python docs/refresh.py"
    assert page.count("```console") >= 5
    assert "Counterexample: an upcall is lost" in page
    assert "No upcall is lost" in page


def test_every_field_of_the_json_is_described(page: str) -> None:
    section = page.split("## JSON and CSV")[1].split("\n## ")[0]
    described = [
        name
        for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", row)
    ]
    values = {field.name: () for field in dataclasses.fields(Site)} | {"place": None}
    assert sorted(described) == sorted(site_object(Site(**values)))  # type: ignore[arg-type]
    for kind in (Fence, Hazard):
        assert all(f"`{field.name}`" in section for field in dataclasses.fields(kind))
    assert all(f"`{word}`" in section for words in (How, Paths, Cpu) for word in words)


def test_every_kind_and_verdict_is_described(page: str) -> None:
    head = page.split("## JSON and CSV")[0]
    rows = ", ".join(re.findall(r"^\| ([a-z, -]+) \|", head, re.MULTILINE))
    for word in (*Kind, *Verdict):
        assert all(part in rows for part in word.split()), word
