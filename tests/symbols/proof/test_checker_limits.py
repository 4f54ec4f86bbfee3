"""The model checker's limits: every scenario fits, and a faulty model stops before it uses much memory."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from xtrace.symbols.proof import checker
from xtrace.symbols.proof.protocols import Fence, Protocol, Retest, Scenario, Take, Width

#: Faults that make the number of states infinite, as the end of Machine.following().
WRONG = {
    "a thread that makes no progress": "return [(a, s._replace(place=0)) for a, s in found]",
    "a thread that only stores": (
        "return [(a, s._replace(place=0)) for a, s in found if a is checker.Actor.GUEST]"
    ),
    "a handler that never ends": "return [(a, s._replace(handling=min(s.handling, 0))) for a, s in found]",
    "a count that grows": "return [(a, s._replace(handled=s.handled + 1, ipi=True)) for a, s in found]",
    "bits that grow": "return [(a, s._replace(taken=s.taken << 64 | 1, ipi=True)) for a, s in found]",
}
PROGRAM = """
import resource
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
from xtrace.symbols.proof import checker, protocols
class Wrong(checker.Machine):
    def following(self, state):
        found = super().following(state)
        {fault}
scenario = protocols.Scenario(protocols.Protocol.UNMASK, width=protocols.Width.WIDE, stable=False)
try:
    checker.search(Wrong(scenario, 2))
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
    """All combinations were searched once: this one has most states; no site in a kernel can be like it."""
    largest = Scenario(
        Protocol.SECTION, Fence.LFENCE, False, Width.WIDE, Retest.BEFORE, Take.PLAIN, stable=False
    )
    came_from = checker.search(checker.Machine(largest, 2)).came_from
    assert len(came_from) == 124_824
    assert max(len(buffer) for state in came_from for buffer in state.buffers) == 6
