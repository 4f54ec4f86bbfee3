"""top, stat and doctor in a real dom0 agree with the guests' and the kernel's counts."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from lab.checks.made import chosen, counters, domain_ids, folder, known

SCENARIOS = chosen("top")


def lines(name: str, file: str) -> list[dict[str, Any]]:
    """Return the JSON objects that a command printed; the last one may be cut off."""
    return [json.loads(line) for line in (folder(name) / file).read_text().splitlines()]


def findings(name: str, file: str) -> dict[tuple[str, str], dict[str, Any]]:
    content = json.loads((folder(name) / file).read_text())
    return {(row["part"], row["name"]): row for row in content["findings"]}


@pytest.mark.parametrize("name", SCENARIOS)
@pytest.mark.parametrize("guest", ["a", "b"])
def test_top_counted_what_the_guest_counted(name: str, guest: str) -> None:
    """Hypercalls are exact if nothing is lost; so is the upper bound, as the guest has no system calls.

    On a busy machine top cannot keep up and Xen's buffers overflow: the counts are too low, and top says so.
    """
    periods, said, domain = lines(name, "top.json"), counters(name, guest), domain_ids(name)[guest]
    rows = [row for period in periods for row in period["vcpus"] if row["domain"] == domain]
    most, forced = (sum(row[f"{what}_count"] for row in rows) for what in ("upcall_most", "xen_version"))
    assert 0 < sum(row["upcall_least_count"] for row in rows) <= said["upcall"]
    if any(period["lost_record_count"] for period in periods):
        assert (most <= said["upcall"], forced <= said["force_callback"]) == (True, True)
    else:
        assert (most, forced) == (said["upcall"], said["force_callback"])
        assert sum(row["send_count"] for row in rows) >= said["ping_sent"] + said["console_sent"]
    assert {row["name"] for row in rows} <= {guest, None}
    assert any(row["name"] == guest for row in rows)


@pytest.mark.parametrize("name", SCENARIOS)
def test_periods_are_contiguous(name: str) -> None:
    periods = lines(name, "top.json")
    assert len(periods) > 3
    for before, after in itertools.pairwise(periods):
        assert before["end_tsc"] == after["begin_tsc"]
        assert before["span_s"] == pytest.approx(2, rel=1e-6)
    assert all(period["emulated"] for period in periods)
    assert all(period["damage_count"] == period["late_records"] == 0 for period in periods)


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_text_has_the_requested_periods(name: str) -> None:
    assert known(name)["top"] == known(name)["stat"] == ["0"]
    blocks = (folder(name) / "top.txt").read_text().split("lost=")
    assert len(blocks) == 4
    domain = domain_ids(name)["c"]
    assert all(f"\nd{domain}v0    c " in block for block in blocks[1:])
    stat = (folder(name) / "stat.txt").read_text().splitlines()
    assert len(stat) == 5
    for line in stat[2:]:
        records, wakes, sends = (line.split()[place] for place in (1, 2, 6))
        assert "0.0" not in (records, wakes, sends)
    for text in (*"".join(blocks).splitlines(), *stat):
        assert len(text) <= 80


@pytest.mark.parametrize("name", SCENARIOS)
def test_ports_agree_with_the_kernel(name: str) -> None:
    """bpf's counts of handled events are at most those of /proc/interrupts around them."""
    assert known(name)["ports"] == ["0"]
    before, after = (
        dict(line.split() for line in (folder(name) / f"events-{when}").read_text().splitlines())
        for when in ("before", "after")
    )
    handled: dict[int, int] = {}
    periods = lines(name, "ports.json")
    for period in periods:
        for row in period["ports"]["rows"]:
            assert row["port"] is not None
            handled[row["irq"]] = handled.get(row["irq"], 0) + row["handled_count"]
    assert sum(handled.values()) > 0
    for irq, count in handled.items():
        assert 0 < count <= int(after[str(irq)]) - int(before.get(str(irq), 0))
    assert sum(period["ports"]["upcall_count"] for period in periods) > 0


@pytest.mark.parametrize("name", SCENARIOS)
def test_doctor_finds_nothing_wrong_in_dom0(name: str) -> None:
    assert known(name)["doctor"] == ["0"]
    rows = findings(name, "doctor.json")
    for part, thing in (
        ("host", "root"), ("xen", "dom0"), ("xen", "version"), ("xen", "xentrace"), ("xen", "xl"),
        ("xen", "lsevtchn"), ("xen", "xenctx"), ("xen", "trace buffer"), ("xen", "privcmd"), ("bpf", "bcc"),
        ("bpf", "kprobes"), ("bpf", "upcall"), ("bpf", "port"), ("bpf", "send"), ("bpf", "privcmd"),
    ):  # fmt: skip
        assert rows[part, thing]["state"] == "ok", rows[part, thing]
    assert rows["host", "processors"]["state"] == "limited"
    assert rows["xen", "version"]["text"].startswith("4.17")
    assert rows["perf", "VPMU"]["state"] == "limited"
    assert (folder(name) / "doctor.err").read_text() == ""
    assert max(map(len, (folder(name) / "doctor.txt").read_text().splitlines())) <= 80


@pytest.mark.parametrize("name", SCENARIOS)
def test_doctor_reports_a_running_top_and_no_leftovers(name: str) -> None:
    rows = findings(name, "doctor-beside.json")
    assert rows["xen", "trace buffer"]["state"] == "limited"
    assert rows["left over", "recorder"]["state"] == "limited"
    assert known(name)["notes"] == ["0"]
