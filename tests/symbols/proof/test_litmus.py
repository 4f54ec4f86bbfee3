"""The litmus tests say what the checkers say: their form, and herd7's outcomes, which are kept as data."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from builders.herd_outcomes import COMMIT, KEPT, of_shapes, usual
from builders.herd_outcomes import texts as herd_tests
from builders.shapes import shapes
from xtrace.symbols.proof.description import Description
from xtrace.symbols.proof.litmus import litmus_tests
from xtrace.symbols.proof.operational import check
from xtrace.symbols.proof.templates import Fence, Protocol, Retest, Scenario, Width, describe

OUTCOMES: dict[str, str] = json.loads(KEPT.read_text())["outcomes"]
ENDED = ("Never", "Sometimes", "Always")
USUAL = usual()


def agree(description: Description, name: str) -> None:
    """Some test loses an upcall exactly if the site does; one that did not run or end says nothing."""
    said = [OUTCOMES.get(known, "not run") for known in herd_tests(description)]
    lost = any(outcome in ("Sometimes", "Always") for outcome in said)
    ended = all(outcome in ENDED for outcome in said)
    faulty = bool(check(description).fault)
    axiomatic = pytest.importorskip("xtrace.symbols.proof.axiomatic")
    pytest.importorskip("z3")
    assert axiomatic.check(description).holds is not faulty, name
    assert faulty or not lost, name
    assert lost or not (faulty and ended), name


@pytest.mark.parametrize("name", USUAL)
def test_herd_agrees_with_both_checkers(name: str) -> None:
    agree(USUAL[name], name)


def test_herd_agrees_on_every_source_of_the_shapes(tmp_path: Path) -> None:
    for description, name in {one: name for name, one in of_shapes(tmp_path)}.items():
        agree(description, name)


def test_table_in_the_docs_has_every_source(tmp_path: Path) -> None:
    pytest.importorskip("z3")
    from builders.proof_table import table

    lines = table(tmp_path)
    assert {line.split(" |")[0][2:] for line in lines[2:]} == set(shapes())
    assert "\n".join(lines) in (Path(__file__).parents[3] / "docs" / "sites.md").read_text()


def test_most_of_herds_runs_ended_and_found_both() -> None:
    said = list(OUTCOMES.values())
    assert sum(outcome in ENDED for outcome in said) > len(said) * 0.8
    assert {"Never", "Sometimes"} <= set(said)
    assert json.loads(KEPT.read_text())["commit"] == COMMIT


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
