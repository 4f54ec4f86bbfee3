"""Trials of a running guest on real Xen: what is refused, what its counters say, what kills leave."""

from __future__ import annotations

import json

import pytest

from lab.checks import made
from lab.checks.made import chosen, counters, folder, known, known_rows
from oracle.reader import read
from peer.xenalyze import raw_records

NAMES = chosen("trial")
PINGS = 2003
REFUSED = {
    "said": (2, "changes the code of a running domain"),
    "dom0": (1, "domain 0 is this dom0"),
    "other": (1, "its code is not that of /share/guest-none-outofline.elf"),
    "paused": (1, "it is paused"),
    "second": (1, "another trial runs on it"),
}


def code(name: str, run: str) -> int:
    (found,) = (int(row[2]) for row in known_rows(name) if row[:2] == ["code", run])
    return found


def said(name: str, run: str) -> str:
    return " ".join((folder(name) / f"{run}.err").read_text().split())


@pytest.mark.parametrize("run", REFUSED)
@pytest.mark.parametrize("name", NAMES)
def test_a_trial_is_refused_with_its_reason(name: str, run: str) -> None:
    expected, reason = REFUSED[run]
    assert (code(name, run), reason in said(name, run)) == (expected, True), said(name, run)


@pytest.mark.parametrize("name", NAMES)
def test_a_dry_run_says_what_would_be_done_and_reads(name: str) -> None:
    assert code(name, "dry") == 0
    assert "a trial exchanges 4 instructions" in said(name, "dry")
    printed = (folder(name) / "dry.out").read_text()
    assert "nothing was written" in printed
    assert "does not advance" not in printed


@pytest.mark.parametrize("name", NAMES)
def test_a_trial_under_pings_ends_on_request_with_a_result(name: str) -> None:
    assert code(name, "whole") == 0, said(name, "whole")
    found = json.loads((folder(name) / "whole.json").read_text())
    assert (found["timing"], found["ended_by"], found["mark"]) == ("emulated", "request", "measured in place")
    assert len(found["exchanged"]) == 4
    assert found["pause_count"] > 3 * found["block_count"]
    assert 0 < found["running_ratio"] < 1
    assert "emulated: times are not those of hardware" in (folder(name) / "whole.out").read_text()


@pytest.mark.parametrize("guest", ["a", "b"])
@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_lost_in_the_guest_that_is_tried(name: str, guest: str) -> None:
    found = counters(name, guest)
    assert (found["ping_sent"], found["ping_event"]) == (PINGS, PINGS)
    assert found["mask"] == found["restore"] + found["unmask"] + found["block"]
    assert found["pending_found"] == found["force_callback"]


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_lost_in_the_trace_that_is_recorded_meanwhile(name: str) -> None:
    path = folder(name) / "pinged.bin"
    found = read(path.read_bytes()).records
    assert len(raw_records(path)) >= len(found)
    assert not [record for record in found if record.event == made.LOST_RECORDS]
    sends = sum(
        record.event == made.HYPERCALL and record.words[0] & 0xFFFFF == made.EVENT_CHANNEL_OP
        for record in found
    )
    assert sends >= 2 * PINGS


@pytest.mark.parametrize("name", NAMES)
def test_whoever_is_killed_the_code_is_as_built_and_the_guest_runs(name: str) -> None:
    lines = [line.split() for line in (folder(name) / "kills.out").read_text().splitlines()]
    kills = [line for line in lines if line[0] == "kill"]
    assert [line[1] for line in kills] == ["trial", "watchdog", "both"] * 4
    for line in kills:
        assert line[3:5] == ["True", "False"], line
    assert code(name, "kills") == 0


@pytest.mark.parametrize("name", NAMES)
def test_a_trial_ends_when_its_domain_is_destroyed(name: str) -> None:
    *_, destroyed, left = (folder(name) / "kills.out").read_text().splitlines()
    assert destroyed.startswith("destroyed: domain")
    assert left == "left 0"
    assert known(name)["gone"] == ["yes"]
