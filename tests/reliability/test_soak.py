"""A slice of each kind of `make soak`, from a fixed seed; and that the campaign notices what it is to notice.

It has the first cases, and those that found a fault once.  XTRACE_SOAK_CASES sets the number of the first,
8 by default.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from soak import child
from soak.campaign import Campaign
from soak.child import Case
from soak.reverts import KEPT, REVERTS

CASES = int(os.environ.get("XTRACE_SOAK_CASES", "8"))
KINDS = ("traces", "json", "captures", "summaries", "live")


@pytest.mark.parametrize("kind", KINDS)
def test_a_slice_of_each_kind(kind: str, tmp_path: Path) -> None:
    campaign = Campaign(tmp_path)
    campaign.prepare([kind])
    said: list[str] = []
    tally = campaign.go(kind, 200.0, most_count=CASES, told=said.append)
    assert said == []
    assert tally.tried_count == CASES


#: Those that the slice of their kind has not tried yet, each once.
LATER = {
    (REVERTS[name].kind, seed): name
    for name, seed in KEPT.items()
    if seed >= CASES or REVERTS[name].kind not in KINDS
}.values()


@pytest.mark.parametrize("name", LATER)
def test_a_case_that_found_a_fault_is_none_now(name: str, tmp_path: Path) -> None:
    campaign = Campaign(tmp_path)
    campaign.prepare([REVERTS[name].kind])
    _, outcome = campaign.one(REVERTS[name].kind, KEPT[name], tmp_path)
    assert outcome.faults == []


def test_a_campaign_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    Campaign(tmp_path).go("json", 100.0, most_count=2, told=print)
    tally = Campaign(tmp_path).go("json", 100.0, most_count=1, told=print)
    assert (tally.next_seed, tally.tried_count) == (3, 3)


def _hold(size: int) -> int:
    held = bytearray(size)
    held[::4096] = b"x" * len(held[::4096])
    return 0


def _fail() -> int:
    raise OverflowError("planted")


def _say(text: str, code: int) -> int:
    sys.stderr.write(text)
    return code


def _spin() -> int:
    end = time.process_time() + 2.0
    while time.process_time() < end:
        pass
    return 0


def _print(text: str) -> int:
    sys.stdout.write(text)
    return 0


PLANTED: dict[str, tuple[Callable[[], int], tuple[str, ...], str]] = {
    "memory": (lambda: _hold(1_300 << 20), ("report",), "MB resident"),
    "time": (_spin, ("report",), "s of CPU for"),
    "traceback": (_fail, ("report",), "OverflowError: planted"),
    "no message": (lambda: _say("", 1), ("report",), "without a message"),
    "escape": (lambda: _say("xtrace: \x1b[2J\n", 1), ("report",), "control characters on stderr"),
    "long message": (lambda: _say(f"xtrace: {'x' * 5000}\n", 1), ("report",), "more than 2000 characters"),
    "code": (lambda: _say("", 9), ("report",), "exit code 9"),
    "lie": (lambda: _print('{"vm_exit_cycles": -3}'), ("report", "--json"), "a lie: vm_exit_cycles is -3"),
    "not JSON": (lambda: _print('{"a": NaN}'), ("report", "--json"), "NaN is not JSON"),
}


@pytest.mark.parametrize("what", PLANTED)
def test_planted_faults_are_noticed(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(child, "MOST_CPU_S", 1.0)
    work, argv, expected = PLANTED[what]
    monkeypatch.setattr("xtrace.cli.main.main", lambda _arguments: work())
    outcome = child.run(Case(argv, what, 100), tmp_path)
    assert any(expected in fault for fault in outcome.faults)


def test_a_command_without_a_fault_has_none(tmp_path: Path) -> None:
    assert child.run(Case(("--version",), "nothing", 100), tmp_path).faults == []
