"""Two traces with a fault, and the commands of findings, which must show what they say."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest

from builders.reported import printed
from xtrace import samples

DATA = Path(__file__).with_name("data")


def findings(path: Path) -> dict[str, Any]:
    return {one["name"]: one for one in json.loads(printed("report", "--json", str(path)))["findings"]}


def dumped(finding: dict[str, Any], path: Path) -> list[str]:
    """Run the command of a finding; return its lines."""
    program, *arguments, file = shlex.split(finding["command"])
    assert (program, file) == ("xtrace", "FILE")
    return printed_bytes(*arguments, str(path))


def printed_bytes(*arguments: str) -> list[str]:
    import subprocess
    import sys

    command = [sys.executable, "-m", "xtrace", *arguments]
    return subprocess.run(command, capture_output=True, check=True, text=True).stdout.splitlines()


def test_a_guest_whose_events_stop_being_handled() -> None:
    """d0v0 sends every 5 ms for 5 s; the last of the 400 that d1v0 handled was at 2.02 s."""
    one = findings(DATA / "lost_event.bin.xz")["silent-vcpu"]
    assert one["severity"] == "problem"
    assert (one["domain"], one["vcpu"]) == (1, 0)
    assert "is silent since 2.021 s: 400 wakes before that" in one["sentence"]
    lines = dumped(one, DATA / "lost_event.bin.xz")
    (last,) = [line for line in lines if "old=running new=blocked vcpu=0 dom=1" in line][-1:]
    after = lines[lines.index(last) + 1 :]
    assert sum("event_channel_op" in line for line in after) >= 5
    assert not [line for line in after if "wake" in line or "dom=1" in line]


def test_an_irq_that_storms_for_a_third_of_the_trace() -> None:
    """60,000 per second from 1.0 to 2.0 s; over the whole trace they are 20,100."""
    one = findings(DATA / "irq_storm.bin.xz")["irq-peak"]
    assert (one["severity"], one["pcpu"]) == ("problem", 1)
    rate, mean = (figure["value"] for figure in one["figures"])
    assert rate == pytest.approx(60_000, rel=0.01)
    assert mean == pytest.approx(20_150, rel=0.01)
    assert one["moment_ns"] / 1e9 == pytest.approx(1.0, abs=0.02)
    lines = dumped(one, DATA / "irq_storm.bin.xz")
    assert sum("irq=16" in line for line in lines) == one["concerned_count"] >= 59_000


def test_every_command_on_the_bundled_sample_works() -> None:
    found = findings(samples.path()).values()
    assert any(" dump " in one["command"] for one in found)
    for one in found:
        assert dumped(one, samples.path()), one["name"]


def test_the_worst_wake_is_where_the_finding_says() -> None:
    one = findings(samples.path())["wake-latency"]
    worst = one["sentence"].partition("worst: ")[2].partition(" ")[0]
    lines = dumped(one, samples.path())
    vcpu = f"dom={one['domain']} vcpu={one['vcpu']}"
    begin = next(line for line in lines if "wake" in line and vcpu in line)
    assert begin is lines[0]
    runs = f"runstate_change old=runnable new=running vcpu={one['vcpu']} dom={one['domain']}"
    end = next(line for line in lines if runs in line)
    cycles = int(end.split()[0]) - int(begin.split()[0])
    assert f"{cycles / 2.299999e9 * 1e3:.1f}ms" == worst
