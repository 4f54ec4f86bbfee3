"""The whole workflow for the cost of fences: record, sites, calibrate, report and diff on guests that count.

Times here are emulated, so costs are not compared with a truth: the checks are of executions, of bounds and
of marks on everything emulated.
"""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lab.checks.made import chosen, counters, domain_ids, folder, known_rows

NAMES = chosen("cost")
GUESTS = [(name, guest) for name in NAMES for guest in "ab"]
FENCED, PLAIN = "guest-lfence-inline.elf", "guest-none-inline.elf"
KINDS = ("mask", "restore", "unmask")
#: The error allowed for a counted rate.
ERROR_RATIO = 0.02


def capture(name: str) -> Path:
    """Return the capture of the guests with fences."""
    return folder(name) / "cost.xtrace"


def xtrace(*arguments: str | Path, may_fail: bool = False) -> str:
    code = "from xtrace.cli.start import main; main()"
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)
    assert may_fail or done.returncode == 0, done.stderr
    return done.stdout


@functools.cache
def calibration(name: str) -> Path:
    """Return a calibration of this machine, which is not the traced host: that one is emulated."""
    path = folder(name) / "calibration.json"
    path.unlink(missing_ok=True)
    xtrace("calibrate", folder(name) / FENCED, "--quick", "-o", path, may_fail=True)
    return path


@functools.cache
def costs(name: str, *options: str) -> dict[str, list[dict[str, Any]]]:
    found = json.loads(xtrace("report", "--section", "cost", "--json", *options, capture(name)))
    assert found["trace"]["emulated"] is True
    return {table: content["rows"] for table, content in found["tables"].items()}


def kernel(name: str, guest: str) -> tuple[str, str]:
    return "--kernel", f"{domain_ids(name)[guest]}={folder(name) / FENCED}"


def truth(name: str, guest: str) -> dict[tuple[str, str], int]:
    """Return the executions of each fenced site, from the guest's counters; its save masks too."""
    said = counters(name, guest)
    return {
        ("upcalls_mask", "mask"): said["mask"] - said["save"],
        ("upcalls_save", "mask"): said["save"],
        ("upcalls_restore", "restore"): said["restore"],
        ("upcalls_unmask", "unmask"): said["unmask"],
    }


def bounds(found: dict[str, list[dict[str, Any]]], key: str) -> dict[tuple[str, str], Any]:
    return {(row["place"].split("+")[0], row["kind"]): row[key] for row in found["cost_sites"]}


@pytest.mark.parametrize("name", NAMES)
def test_both_recordings_succeeded_and_lost_nothing(name: str) -> None:
    assert [row[1:] for row in known_rows(name) if row[0] == "code"] == [["cost-none", "0"], ["cost", "0"]]
    for path in (capture(name), folder(name) / "cost-none.xtrace"):
        meta = json.loads((path / "meta.json").read_text())
        assert (meta["state"], meta["end_reason"], meta["lost"]) == ("ended", "interrupt", {"xentrace": 0})


@pytest.mark.parametrize("name", NAMES)
def test_the_sites_are_those_of_the_sources(name: str) -> None:
    for file, fence in ((FENCED, "lfence"), (PLAIN, None)):
        sites = json.loads(xtrace("sites", "--json", folder(name) / file))["sites"]
        stores = [site for site in sites if site["kind"] in KINDS]
        assert sorted((site["symbol"], site["kind"]) for site in stores) == [
            ("upcalls_mask", "mask"),
            ("upcalls_restore", "restore"),
            ("upcalls_save", "mask"),
            ("upcalls_unmask", "unmask"),
        ]
        assert {item["mnemonic"] for site in stores for item in site["fences"]} == (
            {fence} if fence else set()
        )


@pytest.mark.parametrize(("name", "guest"), GUESTS)
def test_the_guests_counters_give_each_sites_executions(name: str, guest: str) -> None:
    domain = domain_ids(name)[guest]
    found = costs(name, *kernel(name, guest), "--rates", f"{domain}={folder(name) / f'guest-{guest}.log'}")
    expected = truth(name, guest)
    low, high = bounds(found, "execution_low_count"), bounds(found, "execution_high_count")
    assert low.keys() == high.keys() == expected.keys()
    for key, count in expected.items():
        assert low[key] == pytest.approx(count, rel=ERROR_RATIO)
        assert high[key] == pytest.approx(count, rel=ERROR_RATIO)
    checks = {row["what"]: row["agrees"] for row in found["cost_checks"]}
    assert checks == dict.fromkeys(
        ("upcall", "force_callback", "pending_found", "block", "yield", "restore, unmask"), "yes"
    )
    (upcall,) = found["cost_upcalls"]
    assert upcall["upcall_least_count"] == upcall["upcall_most_count"] == counters(name, guest)["upcall"]
    # Its handler does not mask, because Xen has masked already.
    assert (upcall["execution_least_count"], upcall["execution_most_count"]) == (0, 0)


@pytest.mark.parametrize("leave_out", ["mask", "save", "restore", "unmask"])
@pytest.mark.parametrize(("name", "guest"), GUESTS)
def test_with_fewer_counters_the_truth_is_in_the_interval(
    name: str, guest: str, leave_out: str, tmp_path: Path
) -> None:
    said = counters(name, guest)
    path = tmp_path / "rates.json"
    path.write_text(
        json.dumps({"counts": {kind: said[kind] for kind in (*KINDS, "save") if kind != leave_out}})
    )
    found = costs(name, *kernel(name, guest), "--rates", f"{domain_ids(name)[guest]}={path}")
    low, high = bounds(found, "execution_low_count"), bounds(found, "execution_high_count")
    for key, count in truth(name, guest).items():
        assert low[key] <= count * (1 + ERROR_RATIO)
        assert high[key] is None or count <= high[key] * (1 + ERROR_RATIO)


@pytest.mark.parametrize(("name", "guest"), GUESTS)
def test_rates_per_second_give_the_same_within_their_interval(name: str, guest: str, tmp_path: Path) -> None:
    # The trace lasts longer than the guest lives: a rate over the trace's time span is lower.
    facts = json.loads(xtrace("report", "--section", "trace", "--json", capture(name)))["trace"]
    said = counters(name, guest)
    content = {"counts": {kind: said[kind] for kind in (*KINDS, "save")}, "seconds": facts["span_ns"] / 1e9}
    path = tmp_path / "rates.json"
    path.write_text(json.dumps(content))
    found = costs(name, *kernel(name, guest), "--rates", f"{domain_ids(name)[guest]}={path}")
    low, high = bounds(found, "execution_low_count"), bounds(found, "execution_high_count")
    for key, count in truth(name, guest).items():
        assert low[key] <= count <= high[key]
        assert high[key] - low[key] < 0.5 * count
    assert set(bounds(found, "executions_quality").values()) == {"inferred"}


@pytest.mark.parametrize(("name", "guest"), GUESTS)
def test_the_cost_is_marked_as_emulated(name: str, guest: str) -> None:
    domain = domain_ids(name)[guest]
    given = (
        "--rates",
        f"{domain}={folder(name) / f'guest-{guest}.log'}",
        "--calibration",
        str(calibration(name)),
    )
    found = costs(name, *kernel(name, guest), *given)
    lacking = {row["missing"]: row["reason"] for row in found["cost_needs"]}
    measured = json.loads(calibration(name).read_text())
    if measured["timing"] != "hardware":
        assert lacking["a calibration on hardware"] == f"this one's timing is {measured['timing']}"
        return
    assert "the traced host is emulated" in lacking["a trace of hardware"]
    assert measured["host"]["cpu_model"] in lacking["a trace of hardware"]
    (part,) = found["cost_domains"]
    assert part["part"] == "removable"
    assert 0 < part["cost_hot_low_cycles"] <= part["cost_hot_cycles"] <= part["cost_high_cycles"]
    assert part["cost_low_cycles"] <= part["cost_hot_low_cycles"]
    executed = sum(truth(name, guest).values())
    added = [row["added_hot_low_cycles"] for row in found["cost_sites"]]
    assert executed * min(added) <= part["cost_hot_low_cycles"] * (1 + ERROR_RATIO)
    shown = xtrace("report", *kernel(name, guest), *given, capture(name))
    assert re.search(rf"\* d{domain}: removable fences likely cost .*running time", shown)
    assert "emulated" in shown


@pytest.mark.parametrize("name", NAMES)
def test_a_kernel_without_fences_has_nothing_to_save(name: str) -> None:
    plain = {row[1]: int(row[2]) for row in known_rows(name) if row[0] == "plain"}
    other = folder(name) / "cost-none.xtrace"
    options = ["--kernel", f"{plain['a']}={folder(name) / PLAIN}", "--section", "cost", "--json"]
    found = json.loads(xtrace("report", *options, other))["tables"]
    assert "nothing to save" in str([row["reason"] for row in found["cost_needs"]["rows"]])
    assert found["cost_domains"]["rows"] == []


@pytest.mark.parametrize("name", NAMES)
def test_two_captures_are_compared_with_the_model(name: str) -> None:
    plain = {row[1]: int(row[2]) for row in known_rows(name) if row[0] == "plain"}
    domain = domain_ids(name)["a"]
    other = folder(name) / "cost-none.xtrace"
    found = costs(
        name,
        *kernel(name, "a"),
        *("--rates", f"{domain}={folder(name) / 'guest-a.log'}", "--calibration", str(calibration(name))),
        *("--unfenced", f"{domain}={other}@{plain['a']}"),
    )
    model, captures = found["cost_estimates"]
    assert (model["estimate"], captures["estimate"]) == ("model", "two captures")
    assert captures["low_cycles"] < captures["high_cycles"]
    changes = json.loads(xtrace("diff", "--json", other, capture(name)))
    assert changes["schema_version"] == 2
