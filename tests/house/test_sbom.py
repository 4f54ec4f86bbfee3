"""The bill of materials follows CycloneDX's schema and the lock files, and differences are found."""

from __future__ import annotations

import copy
import importlib
import json
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from referencing import Registry, Resource

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tools" / "lock"))
lockfile: Any = importlib.import_module("lockfile")
sbom: Any = importlib.import_module("sbom")


@pytest.fixture(scope="module")
def bill() -> dict[str, Any]:
    found: dict[str, Any] = sbom.bill(sbom.here())
    return found


def schema(name: str) -> dict[str, Any]:
    text = files("cyclonedx.schema").joinpath("_res", name).read_text()
    found: dict[str, Any] = json.loads(text)
    return found


def test_it_follows_the_schema(bill: dict[str, Any]) -> None:
    # References are the names of other files in the folder.
    others = ("spdx.SNAPSHOT.schema.json", "jsf-0.82.SNAPSHOT.schema.json")
    base = "http://cyclonedx.org/schema/"
    names = [(f"{place}{name}", name) for place in ("", base) for name in others]
    registry = Registry().with_resources((uri, Resource.from_contents(schema(name))) for uri, name in names)
    validator = jsonschema.Draft7Validator(schema("bom-1.6.SNAPSHOT.schema.json"), registry=registry)
    assert list(validator.iter_errors(bill)) == []
    damaged = copy.deepcopy(bill)
    damaged["components"][0]["scope"] = "some"
    assert [error.json_path for error in validator.iter_errors(damaged)] == ["$.components[0].scope"]


def test_it_has_what_the_lock_files_have_here(bill: dict[str, Any]) -> None:
    target = sbom.here()
    runtime = {(pin.name, pin.version) for pin in lockfile.of("runtime") if target.has(pin.marker)}
    build = {(pin.name, pin.version) for pin in lockfile.of("build") if target.has(pin.marker)}
    scopes = {(one["name"], one["version"]): one["scope"] for one in bill["components"]}
    assert {pin for pin, scope in scopes.items() if scope == "required"} == runtime
    assert {pin for pin, scope in scopes.items() if scope == "excluded"} == build - runtime
    assert all(one["licenses"] for one in bill["components"])


def test_everything_required_is_needed_by_something(bill: dict[str, Any]) -> None:
    needs = {one["ref"]: one["dependsOn"] for one in bill["dependencies"]}
    reached, following = set[str](), ["xtrace"]
    while following:
        one = following.pop()
        if one not in reached:
            reached.add(one)
            following += needs[one]
    required = {one["bom-ref"] for one in bill["components"] if one["scope"] == "required"}
    assert reached == required | {"xtrace"}


def test_it_has_no_time_and_no_place(bill: dict[str, Any]) -> None:
    assert sbom.bill(sbom.here()) == bill
    text = json.dumps(bill)
    assert str(ROOT) not in text
    assert "timestamp" not in text
    assert "://" not in text


def test_what_differs_from_an_environment_is_named(bill: dict[str, Any]) -> None:
    same = {one["name"]: one["version"] for one in bill["components"] if one["scope"] == "required"}
    assert list(sbom.differences(bill, same | {"xtrace": "0", "pip": "0"})) == []
    other = same | {"Jinja2": "1", "stranger": "2"}
    del other["jinja2"], other["rich"]
    assert list(sbom.differences(bill, other)) == [
        f"jinja2: 1 installed, {same['jinja2']} in the bill",
        f"rich: not installed, {same['rich']} in the bill",
        "stranger: 2 installed, not in the bill",
    ]
