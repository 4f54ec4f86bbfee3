"""Planted faults: the finding that names each is a problem, and without the fault there is none."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from builders.cut import packed
from lab.checks.made import chosen, domain_ids, folder, known
from oracle.reader import frame
from xtrace.probes.event_ids import SWITCH_INFPREV
from xtrace.probes.host.xen_tools import scheduling_of

FAULTS = chosen("faults-*")
#: By scenario and trace, the problems that its fault is.
PLANTED = {
    ("faults-credit", "capped"): {"offline"},
    ("faults-credit2", "capped"): {"offline"},
}


def without_run_times(data: bytes) -> bytes:
    """Return a trace without the scheduler's records of how long a vCPU ran.

    Where the emulator gets no processor for long, they differ so much from the TSCs that windows seem to be
    missing, which xentrace without -M cannot lose, and then there is no finding that missing windows could
    refute.
    """
    return packed(
        [
            replace(window, records=tuple(raw for raw in window.records if raw.event != SWITCH_INFPREV))
            for window in frame(data).windows
        ]
    )


def problems(name: str, what: str, scratch: Path) -> dict[str, int | None]:
    """Return the problems that the report finds, and the domains that they are about."""
    path = folder(name) / f"{what}.bin"
    copy = scratch / path.name
    copy.write_bytes(without_run_times(path.read_bytes()))
    shutil.copy(f"{path}.json", f"{copy}.json")
    command = [sys.executable, "-P", "-m", "xtrace", "report", "--json", str(copy)]
    found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)["findings"]
    return {one["name"]: one.get("domain") for one in found if one["severity"] == "problem"}


@pytest.mark.parametrize("name", FAULTS)
def test_there_is_no_problem_without_a_fault(name: str, tmp_path: Path) -> None:
    assert problems(name, "calm", tmp_path) == {}


@pytest.mark.parametrize(("name", "what"), [planted for planted in PLANTED if planted[0] in FAULTS])
def test_the_fault_is_a_problem_of_that_guest(name: str, what: str, tmp_path: Path) -> None:
    found = problems(name, what, tmp_path)
    assert found.keys() >= PLANTED[name, what]
    assert {found[one] for one in PLANTED[name, what]} == {int(known(name)["domid_a"][0])}


@pytest.mark.parametrize("name", FAULTS)
def test_weights_and_caps_are_read_from_what_xl_prints(name: str) -> None:
    found = scheduling_of((folder(name) / "scheduling").read_text())
    assert found[int(known(name)["domid_a"][0])] == {"weight": 512, "cap_percent": 20}
    assert found[0] == {"weight": 256, "cap_percent": 0}


@pytest.mark.parametrize("name", chosen("sched-rtds"))
def test_periods_and_budgets_are_read_from_what_xl_prints(name: str) -> None:
    found = scheduling_of((folder(name) / "scheduling").read_text())
    assert found == {key: {"period_us": 10000, "budget_us": 4000} for key in [0, *domain_ids(name).values()]}
