"""The model checker's limits: every scenario fits, and a faulty model stops before it uses much memory."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from xtrace.symbols.proof import operational
from xtrace.symbols.proof.templates import Fence, Protocol, Retest, Scenario, Take, Width, describe

#: Faults that make the number of states infinite, as the end of Machine.following().
WRONG = {
    "a thread that makes no progress": (
        "return [m._replace(after=m.after._replace(site=start)) for m in found]"
    ),
    "a thread that only stores": (
        "return [m._replace(after=m.after._replace(site=start)) for m in found"
        " if m.actor is operational.Actor.GUEST]"
    ),
    "a count that grows": (
        "return [m._replace(after=m.after._replace(handled=m.after.handled + 1, ipi=True)) for m in found]"
    ),
    "IPIs that are counted without end": (
        "return [m._replace(after=m.after._replace(taken=m.after.taken << 64 | 1, ipi=True)) for m in found]"
    ),
}
PROGRAM = """
import resource
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
from xtrace.symbols.proof import operational, templates
start = operational.Frame(0, (0, 0, 0))
class Wrong(operational.Machine):
    def following(self, state):
        found = super().following(state)
        {fault}
scenario = templates.Scenario(templates.Protocol.UNMASK, width=templates.Width.WIDE, stable=False)
try:
    operational.search(Wrong(templates.describe(scenario), 2))
except ValueError as error:
    print(error)
"""


@pytest.mark.parametrize("fault", WRONG)
def test_faulty_model_stops_within_a_gigabyte(fault: str) -> None:
    command = [sys.executable, "-c", PROGRAM.format(fault=WRONG[fault])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search("more than (200000 states|32 stores)", done.stdout)


def test_largest_scenario_is_below_the_limits() -> None:
    """Of all combinations this one has most states; no site in a kernel can be like it."""
    largest = Scenario(
        Protocol.SECTION, Fence.LFENCE, False, Width.WIDE, Retest.BEFORE, Take.PLAIN, stable=False
    )
    came_from = operational.search(operational.Machine(describe(largest), 2)).came_from
    assert len(came_from) == 98_417
    assert max(len(buffer) for state in came_from for buffer in state.buffers) == 7
