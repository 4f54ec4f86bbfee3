"""The project's wheel as installed by pip for dom0's Python, and a calibration in emulation.

The scenario runs calibrate three times: unchanged, with the emulator's name hidden, and without any check of
the processor, so that the sites' code runs under a PV kernel.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lab.checks.made import chosen, counters, domain_ids, folder, known_rows
from xtrace.analysis.summary.summary_head import COST_ENDS

NAMES = chosen("calibrate")
ELF = "guest-lfence-inline.elf"
#: The arithmetic of Python, NumPy and the loops is the same everywhere; the order of summation is not.
CLOSE = 1e-9


def said(name: str, what: str) -> str:
    return (folder(name) / f"{what}.err").read_text()


def printed(name: str, what: str) -> str:
    return (folder(name) / f"{what}.out").read_text()


def codes(name: str) -> dict[str, int]:
    return {row[1]: int(row[2]) for row in known_rows(name) if row[0] == "code"}


def outside(name: str, *arguments: str | Path) -> dict[str, Any]:
    command = [sys.executable, "-c", "from xtrace.cli.start import main; main()", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
    content: dict[str, Any] = json.loads(done.stdout)
    return content


def differences(one: Any, other: Any, place: str = "") -> list[str]:
    """Return the differences between two JSON values."""
    if isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        return [text for key in one for text in differences(one[key], other[key], f"{place}.{key}")]
    if isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        return [
            text
            for number, pair in enumerate(zip(one, other, strict=True))
            for text in differences(*pair, f"{place}[{number}]")
        ]
    if isinstance(one, float) and isinstance(other, float) and math.isclose(one, other, rel_tol=CLOSE):
        return []
    return [] if one == other else [f"{place}: {one!r}, {other!r}"]


@pytest.mark.parametrize("name", NAMES)
def test_each_command_has_the_documented_exit_status(name: str) -> None:
    ended = dict.fromkeys(("record", "version", "bcc", "loops", "report", "sites", "believed"), 0)
    assert codes(name) == {**ended, **dict.fromkeys(("plain", "image", "unnamed"), 1)}
    assert printed(name, "version").startswith("xtrace ")
    assert printed(name, "bcc") == "/usr/lib/python3/dist-packages/bcc/__init__.py\n"


@pytest.mark.parametrize("name", NAMES)
def test_the_report_made_in_dom0_equals_the_one_made_here(name: str) -> None:
    inside = json.loads(printed(name, "report"))
    here = outside(name, "report", "--json", folder(name) / "calibrate.xtrace")
    assert inside["tables"].keys() == here["tables"].keys()
    for table, content in here["tables"].items():
        assert differences(inside["tables"][table], content, table) == []
    assert differences(inside["trace"], here["trace"]) == []
    assert inside["trace"]["emulated"] is True


@pytest.mark.parametrize("name", NAMES)
def test_the_report_made_in_dom0_has_the_guests_counts(name: str) -> None:
    rows = json.loads(printed(name, "report"))["tables"]["hypercalls"]["rows"]
    for guest, domain in domain_ids(name).items():
        called = sum(row["count"] for row in rows if (row["domain"], row["name"]) == (domain, "iret"))
        assert called == counters(name, guest)["upcall"]


@pytest.mark.parametrize("name", NAMES)
def test_the_sites_found_in_dom0_equal_those_found_here(name: str) -> None:
    inside, here = json.loads(printed(name, "sites")), outside(name, "sites", "--json", folder(name) / ELF)
    assert len(here["sites"]) >= 4
    assert differences(inside["sites"], here["sites"]) == []


@pytest.mark.parametrize("name", NAMES)
def test_the_loops_in_dom0_are_those_of_the_wheel(name: str) -> None:
    how, path, numba = printed(name, "loops").split()
    assert (how, numba) == ("compiled", "None")
    assert path == "/opt/xtrace/lib/python3.11/site-packages/xtrace/probes/compiled/loops.x86_64.so"


@pytest.mark.parametrize("what", ["plain", "image", "unnamed"])
@pytest.mark.parametrize("name", NAMES)
def test_emulated_times_give_a_reason_and_no_figure(name: str, what: str) -> None:
    text = said(name, what)
    assert text.count("\n") == 1
    assert "timing is " in text
    if what == "unnamed":
        # From its times alone, a busy emulator may also look like a noisy machine.
        assert "emulated" in text or "noisy" in text
        found = json.loads(printed(name, what))
    elif what == "image":
        assert "timing is emulated: cpuid names the hypervisor TCGTCGTCGTCG" in text
        found = json.loads(printed(name, what))
    else:
        assert "timing is emulated: cpuid names the hypervisor TCGTCGTCGTCG" in text
        assert "timing   emulated" in printed(name, what)
        found = json.loads((folder(name) / "plain.json").read_text())
    assert found["timing"] in (("emulated", "noisy") if what == "unnamed" else ("emulated",))
    assert found["rows"] == []
    assert found["notes"]
    assert found["host"]["hypervisor"].startswith("Xen 4.17")
    assert "PV dom0, QEMU TCG" in found["host"]["hypervisor"]


@pytest.mark.parametrize("name", NAMES)
def test_the_images_code_ran_in_an_unprivileged_child(name: str) -> None:
    facts: dict[str, set[str]] = {}
    for line in said(name, "believed").splitlines():
        if line.startswith("child: "):
            key, _, value = line.removeprefix("child: ").replace("confined ", "confined:\t").partition(":")
            facts.setdefault(key, set()).add(value.strip())
    assert facts["confined"] == {"True"}
    assert facts["Uid"] == facts["Gid"] == {"\t".join(["65534"] * 4)}
    assert facts["Groups"] == {""}
    assert facts["CapEff"] == facts["CapPrm"] == {"0" * 16}
    assert facts["NoNewPrivs"] == {"1"}
    assert facts["Seccomp"] == {"2"}


@pytest.mark.parametrize("name", NAMES)
def test_each_site_of_the_image_ran_or_has_a_reason_why_not(name: str) -> None:
    found = json.loads(printed(name, "believed"))
    fenced = {
        int(str(site["address"]), 0)
        for site in json.loads(printed(name, "sites"))["sites"]
        if site["kind"] in ("mask", "restore", "unmask") and site["fences"]
    }
    rows = [row for row in found["rows"] if row["place"] == "site"]
    assert len(fenced) >= 4
    assert {row["address"] for row in rows} == fenced
    for row in rows:
        assert row["stands_in"] is False, row["note"]
        assert row["note"] or row["tight"]
        assert row["pair_count"] == 0 or row["fenced_cycles"] > 0
    ran = [row for row in rows if row["pair_count"]]
    assert {row["address"] for row in ran} == fenced
    # A standard sequence reaches its vcpu_info through gs, whose base the child set under a PV kernel.
    assert [row for row in found["rows"] if row["place"] == "inline" and row["pair_count"]]
    assert not [row["note"] for row in found["rows"] if "killed by" in row["note"]]


@pytest.mark.parametrize("name", NAMES)
def test_a_report_with_such_a_calibration_asks_for_one_on_hardware(name: str) -> None:
    domain = domain_ids(name)["a"]
    found = outside(
        name,
        *("report", "--section", "cost", "--json"),
        *("--kernel", f"{domain}={folder(name) / ELF}"),
        *("--rates", f"{domain}={folder(name) / 'guest-a.log'}"),
        *("--calibration", folder(name) / "plain.json", folder(name) / "calibrate.xtrace"),
    )
    needs = {row["missing"]: row["reason"] for row in found["tables"]["cost_needs"]["rows"]}
    assert needs["a calibration on hardware"] == "this one's timing is emulated"
    (part,) = found["tables"]["cost_domains"]["rows"]
    assert part["execution_low_count"] > 0
    assert {part[f"cost_{end}_cycles"] for end in COST_ENDS} == {None}
