"""Sites as JSON and CSV: all fields, under their documented names."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import fields
from typing import Any

import pytest

from builders.made_sites import BASE, fence, site, table
from xtrace.symbols.dwarf.source_locations import Frame, SourceLocation
from xtrace.symbols.flow.walk import Paths
from xtrace.symbols.listing import export
from xtrace.symbols.listing.compare import compare
from xtrace.symbols.sites.model import Cpu, Fence, Hazard, Kind, Site, Verdict

PLACE = SourceLocation(
    "xen/hypervisor.c", 123, "spllower", (Frame("unmask", "cpu.h", 7), Frame("spllower", "x.c", 9))
)
FULL = site(
    "spllower",
    0x12,
    aliases=("_spllower",),
    fences=(fence(), fence("mfence", "", verdict=Verdict.KEEP, reason="why", position="before")),
    hazards=(Hazard("wide-store", "it covers P"),),
    place=PLACE,
    callbacks=(BASE + 0x40,),
    exit="iret",
    patched=".altinstructions",
    masked=((BASE, BASE + 0x30),),
)


def as_json(value: Any) -> Any:
    return json.loads(json.dumps(value, allow_nan=False))


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_site_object_has_the_documented_keys() -> None:
    found = as_json(export.site_object(FULL))
    assert {
        "address": BASE + 0x12,
        "symbol": "spllower",
        "offset": 0x12,
        "kind": "unmask",
        "file": "xen/hypervisor.c",
        "line": 123,
        "verdict": "removable",
        "hazards": [{"name": "wide-store", "reason": "it covers P"}],
        "masked": [[BASE, BASE + 0x30]],
        "callbacks": [BASE + 0x40],
    }.items() <= found.items()
    assert found["fences"][1] == {
        "mnemonic": "mfence",
        "how": "inline",
        "address": BASE + 0xF000,
        "via": "",
        "position": "before",
        "paths": "all paths",
        "verdict": "keep",
        "reason": "why",
        "at": BASE + 0x16,
    }
    assert [frame["function"] for frame in found["inline"]] == ["unmask", "spllower"]


def test_no_field_of_a_site_is_left_out() -> None:
    names = {field.name for field in fields(Site)} - {"place", "description"} | {"file", "line", "inline"}
    assert set(export.site_object(FULL)) == names
    assert set(export.cells(FULL)) == names == set(export.COLUMNS)
    assert {field.name for field in fields(Fence)} == set(export.site_object(FULL)["fences"][0])


def test_site_without_a_place_has_the_same_keys() -> None:
    found = as_json(export.site_object(site()))
    assert set(found) == set(export.site_object(FULL))
    assert (found["file"], found["line"], found["inline"]) == (None, None, [])


def test_object_of_one_image() -> None:
    other = site("mask", 0, Kind.MASK)
    found = as_json(export.json_object(table(FULL, other, damage=("x: cut",)), [FULL]))
    assert found["schema_version"] == export.SCHEMA_VERSION
    assert set(found) == {"schema_version", "image", "sites"}
    assert found["image"]["path"] == "/boot/netbsd"
    assert found["image"]["layout"] == ["pending 0, mask 1: by DWARF"]
    assert found["image"]["facts"]["hypercall_page"] == 0xFFFF_FFFF_8020_1000
    assert found["image"]["facts"]["notes"][1]["name"] == "VIRT_BASE"
    assert found["image"]["facts"]["callbacks"][0]["kind"] == "event"
    assert found["image"]["damage"] == ["x: cut"]
    assert found["image"]["kinds"] == {
        "mask": {"sites": 1, "fenced": 0, "hazards": 0, "verdicts": {"no fence": 1}},
        "unmask": {"sites": 1, "fenced": 1, "hazards": 1, "verdicts": {"removable": 1}},
    }
    assert [one["symbol"] for one in found["sites"]] == ["spllower"]


def test_object_of_two_images() -> None:
    gone = site("gone", 0x80, Kind.MASK, fences=(fence(),))
    old, new = table(FULL, gone), table(site("spllower", 0x10), site("added", 0x90))
    found = as_json(export.json_object(new, new.sites, old, compare(old, new)))
    assert found["old_image"]["kinds"]["mask"]["sites"] == 1
    assert len(found["sites"]) == 2
    changes = found["changes"]
    counts = {name: changes[name] for name in changes if name.endswith("_count")}
    assert counts == {
        "fences_removed_count": 3,
        "fences_added_count": 0,
        "gone_count": 1,
        "added_count": 1,
        "changed_count": 1,
        "same_count": 0,
    }
    assert changes["gone"][0]["symbol"] == "gone"
    assert changes["changed"][0]["old"]["address"] == BASE + 0x12
    assert "fence gone: lfence in x86_lfence" in changes["changed"][0]["differences"]
    assert changes["fences_removed"][0] == {"mnemonic": "lfence", "how": "callee", "via": "x86_lfence"}


def test_csv_can_be_read_back() -> None:
    stream = io.StringIO(newline="")
    export.write_csv(stream, [FULL, site("plain", 3, reason='a "quoted", reason')])
    first, second = rows(stream.getvalue())
    assert first["address"] == hex(BASE + 0x12)
    assert first["line"] == "123"
    assert first["inline"] == "unmask cpu.h:7; spllower x.c:9"
    assert first["masked"] == f"{BASE:#x}-{BASE + 0x30:#x}"
    assert "mfence inline at 0xffffffff8020f000 (before, all paths): keep, why" in first["fences"]
    assert second["reason"] == 'a "quoted", reason'
    assert second["file"] == second["line"] == ""


def test_csv_of_two_images_lists_the_changes() -> None:
    old = table(FULL, site("gone", 4, Kind.MASK))
    new = table(site("spllower", 0x10), site("added", 9, Kind.SAVE))
    stream = io.StringIO(newline="")
    export.write_csv(stream, new.sites, compare(old, new))
    found = rows(stream.getvalue())
    assert [(row["change"], row["symbol"]) for row in found] == [
        ("gone", "gone"),
        ("new", "added"),
        ("changed", "spllower"),
    ]
    assert found[2]["differences"].startswith("fence gone: ")


def test_control_characters_from_an_image_do_not_reach_the_terminal() -> None:
    nasty = site("a\x1b[2Jb\nc", text="mov\x07", aliases=("\x9b31m",))
    stream = io.StringIO(newline="")
    export.write_csv(stream, [nasty])
    assert stream.getvalue().count("\n") == 2
    assert not set("\x1b\x07\x9b") & set(stream.getvalue())
    text = json.dumps(export.json_object(table(nasty), [nasty]))
    assert text.isprintable()
    assert json.loads(text)["sites"][0]["symbol"] == nasty.symbol


def test_no_sites_give_a_header_and_an_empty_list() -> None:
    stream = io.StringIO(newline="")
    export.write_csv(stream, [])
    assert stream.getvalue() == ",".join(export.COLUMNS) + "\n"
    assert export.json_object(table(), [])["sites"] == []
    assert export.json_object(table(), [])["image"]["kinds"] == {}


@pytest.mark.parametrize(
    ("one", "fenced", "removable", "undecided"),
    [
        (site(), False, False, False),
        (site(fences=(fence(),)), True, True, False),
        (site(fences=(fence(), fence(verdict=Verdict.UNDECIDED))), True, True, True),
        (site(fences=(fence(verdict=Verdict.KEEP),)), True, False, False),
        (site(verdict=Verdict.UNDECIDED, pending_paths=Paths.SOME, cpu=Cpu.UNKNOWN), False, False, True),
        (site(kind=Kind.DEBUG_READ, fences=(fence(verdict=Verdict.UNDECIDED),)), False, False, False),
    ],
)
def test_fenced_removable_undecided(one: Site, fenced: bool, removable: bool, undecided: bool) -> None:
    assert export.is_fenced(one) is fenced
    assert export.is_removable(one) is removable
    assert export.is_undecided(one) is undecided
