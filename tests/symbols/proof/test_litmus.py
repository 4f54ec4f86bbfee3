"""The litmus tests say what the checkers say: their form, and herd7's outcomes, which are kept as data."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from builders.herd_outcomes import scenarios
from xtrace.symbols.proof.litmus import litmus_tests
from xtrace.symbols.proof.operational import check
from xtrace.symbols.proof.templates import Fence, Protocol, Retest, Scenario, Width, describe

KEPT = json.loads((Path(__file__).parent / "herd_outcomes.json").read_text())
ENDED = ("Never", "Sometimes", "Always")


@pytest.mark.parametrize("name", KEPT["outcomes"])
def test_herd_agrees_with_both_checkers(name: str) -> None:
    """An upcall is lost in some test exactly if the site loses one; a run that did not end says nothing."""
    description = describe(scenarios()[name])
    said = KEPT["outcomes"][name]
    assert list(said) == [test.name for test in litmus_tests("t", description)]
    lost = [test for test, outcome in said.items() if outcome in ("Sometimes", "Always")]
    unknown = [test for test, outcome in said.items() if outcome not in ENDED]
    faults = {bool(check(description).fault)}
    axiomatic = pytest.importorskip("xtrace.symbols.proof.axiomatic")
    pytest.importorskip("z3")
    faults.add(not axiomatic.check(description).holds)
    assert len(faults) == 1
    (faulty,) = faults
    if lost:
        assert faulty
    elif not unknown:
        assert not faulty


def test_most_of_herds_runs_ended_and_found_both() -> None:
    said = [outcome for outcomes in KEPT["outcomes"].values() for outcome in outcomes.values()]
    assert sum(outcome in ENDED for outcome in said) > len(said) / 2
    assert {"Never", "Sometimes"} <= set(said)
    assert KEPT["commit"] == "f39027be"


def texts(scenario: Scenario) -> list[str]:
    return [test.text for test in litmus_tests("t", describe(scenario), "title")]


def test_form_of_a_test() -> None:
    first = next(iter(texts(Scenario(Protocol.UNMASK, Fence.LFENCE))))
    lines = first.splitlines()
    assert lines[0] == "X86_64 t-01"
    assert lines[1] == '"title: the IPI of P1 after 0 of its accesses"'
    assert "P=0; M=1; S=0;" in first
    assert re.search(r"^ P0 +\| P1 +;$", first, re.MULTILINE)
    assert lines[-1].startswith("exists (0:rdi=1 /\\ 1:rax=0")
    body = first[first.index("P0") : first.index("exists")]
    assert body.count("lfence") == 1
    assert "movl $0,[M]" in body
    assert "lock addl $1,[S]" in body
    assert "movl $1,[K0]" in body


def test_there_is_a_test_for_each_point_and_each_outcome() -> None:
    """An unmask's path with P = 0 has three points; Xen's exit test reads P after each one that has M = 0."""
    description = describe(Scenario(Protocol.UNMASK))
    tests = list(litmus_tests("t", description))
    points = {(len(test.description.paths[0]), test.points) for test in tests}
    assert points == {(2, (0,)), (2, (1,)), (2, (2,)), (3, (0,)), (3, (1,)), (3, (2,)), (3, (3,))}
    delivered = sum("xchgl %ecx,[S]" in test.text for test in tests)
    assert 0 < delivered < len(tests)
    assert all(test.senders == 1 for test in tests)
    assert {test.senders for test in litmus_tests("t", describe(Scenario(Protocol.HANDLER)))} == {1, 2}


def test_wide_and_locked_stores() -> None:
    wide = texts(Scenario(Protocol.UNMASK, width=Width.WIDE, retest=Retest.NONE))[0]
    assert "movl [P],%edx" in wide
    assert "movl %edx,[P]" in wide
    locked = texts(Scenario(Protocol.UNMASK, width=Width.LOCKED, retest=Retest.NONE))[0]
    assert "xchgl %edx,[M]" in locked
    assert "lock addl $0,[Z]" in texts(Scenario(Protocol.UNMASK, Fence.LOCK, retest=Retest.NONE))[0]
