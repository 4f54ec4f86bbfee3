"""The litmus tests say what the checkers say: to herd7, whose outcomes are kept, and to an interpreter."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

from builders.generated_sites import described
from builders.herd_outcomes import COMMIT, KEPT, of_shapes, usual
from builders.herd_outcomes import texts as herd_tests
from builders.shapes import shapes
from oracle.litmus import Litmus
from xtrace.symbols.proof import litmus
from xtrace.symbols.proof.description import Access, Cell, Description, Role
from xtrace.symbols.proof.litmus import litmus_tests
from xtrace.symbols.proof.operational import Machine, check, search
from xtrace.symbols.proof.templates import Fence, Protocol, Retest, Scenario, Take, Width, describe

KNOWN = json.loads(KEPT.read_text())
OUTCOMES: dict[str, str] = KNOWN["outcomes"]
LOST = {"Never": False, "Sometimes": True, "Always": True}
USUAL = usual()
#: Of generated sites; a site has about 24 tests.
CASES = min(int(os.environ.get("XTRACE_PROOF_CASES", "30")), 1500)


def agree(description: Description, name: str) -> set[str]:
    """Assert that some test loses an upcall exactly if the site does, by herd7 and by both checkers."""
    tests = herd_tests(description)
    lost = {known for known in tests if LOST[OUTCOMES[known]]}
    faulty = bool(check(description).fault)
    axiomatic = pytest.importorskip("xtrace.symbols.proof.axiomatic")
    pytest.importorskip("z3")
    assert axiomatic.check(description).holds is not faulty, name
    assert bool(lost) is faulty, name
    assert {known for known, text in tests.items() if Litmus(text).exists()} == lost, name
    return set(tests)


def test_herd_agrees_on_every_site_and_no_outcome_is_left_over(tmp_path: Path) -> None:
    asked: set[str] = set()
    for name, description in USUAL.items():
        asked |= agree(description, name)
    for description, name in {one: name for name, one in of_shapes(tmp_path)}.items():
        asked |= agree(description, name)
    assert asked == set(OUTCOMES)
    assert {"Never", "Always"} <= set(OUTCOMES.values()) <= set(LOST)
    assert KNOWN["commit"] == COMMIT


def test_table_in_the_docs_has_every_source(tmp_path: Path) -> None:
    pytest.importorskip("z3")
    from builders.proof_table import table

    lines = table(tmp_path)
    assert {line.split(" |")[0][2:] for line in lines[2:]} == set(shapes())
    assert "\n".join(lines) in (Path(__file__).parents[3] / "docs" / "sites.md").read_text()


class OnlyLoss(Machine):
    """The litmus tests ask for upcalls that are lost, not for handlers that run where M is set."""

    def forbids(self, state: object, move: object) -> bool:
        return False


def loses(description: Description) -> bool:
    return any(search(OnlyLoss(description, sends)).fault for sends in (1, 2))


@pytest.mark.parametrize("part", range(3))
def test_tests_of_generated_sites_say_what_the_checker_says(part: int) -> None:
    """Also with two handlers, and handlers that open the mask; two senders are tested with handlers alone."""
    seen = set()
    for seed in range(part, CASES, 3):
        description = described(Random(seed))
        if description.stable:
            lost = any(Litmus(test.text).exists() for test in litmus_tests("t", description))
            assert lost is loses(description), seed
            seen.add(lost)
    assert seen == {False, True}


def test_what_is_left_out_changes_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reads that others imply, and outcomes that another test has."""
    sites = [describe(Scenario(Protocol.HANDLER, take=take)) for take in Take]
    sites += [described(Random(seed)) for seed in range(4)]
    sites = [site for site in sites if site.stable]
    short = [[test.text for test in litmus_tests("t", site)] for site in sites]
    monkeypatch.setattr(litmus, "_needed", lambda lines: lines)
    whole = [[test.text for test in litmus_tests("t", site)] for site in sites]
    for fewer, more in zip(short, whole, strict=True):
        assert [Litmus(text).exists() for text in fewer] == [Litmus(text).exists() for text in more]
    monkeypatch.setattr(litmus, "_tests_last", lambda _: False)
    longer = 0
    for site, fewer in zip(sites, short, strict=True):
        tests = [test.text for test in litmus_tests("t", site)]
        longer += len(tests) - len(fewer)
        assert any(Litmus(text).exists() for text in tests) is any(Litmus(text).exists() for text in fewer)
    assert longer > 0


def texts(scenario: Scenario) -> list[str]:
    return [test.text for test in litmus_tests("t", describe(scenario), "title")]


def test_form_of_a_test() -> None:
    first = next(iter(texts(Scenario(Protocol.UNMASK, Fence.LFENCE))))
    lines = first.splitlines()
    assert lines[0] == "X86_64 t-01"
    assert lines[1] == '"title: the IPI of P1 after 0 of its accesses"'
    assert "P=0; M=1; S=0;" in first
    assert re.search(r"^ P0 +\| P1 +;$", first, re.MULTILINE)
    assert lines[-1].startswith("exists (0:rdi=1 /\\ ")
    body = first[first.index("P0") : first.index("exists")]
    assert body.count("lfence") == 1
    assert "movl $0,[M]" in body
    assert "movl $1,[S]" in body
    assert "movl $1,[P]" in body
    assert "movl $1,[K0]" in body


def test_there_is_a_test_for_each_point_and_each_outcome() -> None:
    """An unmask's path with P = 0 has three points; Xen's exit test reads P after each one that has M = 0."""
    description = describe(Scenario(Protocol.UNMASK))
    tests = list(litmus_tests("t", description))
    points = {(len(test.description.paths[0]), test.points) for test in tests}
    assert points == {(2, (0,)), (2, (1,)), (2, (2,)), (3, (0,)), (3, (1,)), (3, (2,)), (3, (3,))}
    delivered = sum(",[S]" in test.text and "xchgl %" in test.text for test in tests)
    assert 0 < delivered < len(tests)
    assert all(test.senders == test.lost == 1 for test in tests)


def test_two_senders_are_tested_with_a_handler_in_question() -> None:
    def pairs(scenario: Scenario) -> set[tuple[tuple[int, ...], int]]:
        tests = litmus_tests("t", describe(scenario))
        return {
            (test.points, test.lost) for test in tests if test.senders == 2 and not test.description.paths
        }

    both = {((0,), 2), ((0, 0), 1), ((0, 0), 2)}
    assert pairs(Scenario(Protocol.HANDLER)) == both
    assert pairs(Scenario(Protocol.UNMASK, take=Take.XCHG_FIRST)) == both
    assert pairs(Scenario(Protocol.MASK, take=Take.XCHG_FIRST)) == both
    assert pairs(Scenario(Protocol.UNMASK)) == set()
    # Where M stays set no handler runs, so none is in question.
    store = Access(writes=((Cell.M, 1),))
    wrong = describe(Scenario(Protocol.HANDLER, take=Take.XCHG_FIRST)).handlers
    stays = Description(Role.MASK, ((store,),), wrong, ((1, 0),))
    assert all(test.senders == 1 for test in litmus_tests("t", stays))
    assert any(test.senders == 2 for test in litmus_tests("t", replace(stays, starts=((0, 0),))))


def test_senders() -> None:
    """Only a set of P whose finding is asked for is an exchange; only S of the lost event is kept."""
    tests = list(litmus_tests("t", describe(Scenario(Protocol.HANDLER))))
    alone = next(test.text for test in tests if test.senders == 1)
    assert "xchgl %eax,[P]" not in alone
    assert "1:rax" not in alone
    second = next(test.text for test in tests if test.points == (0,) and test.lost == 2)
    assert second.count("xchgl %eax,[P]") == 1
    assert "2:rax=1" in second
    assert "P2 finds pending set and sends none; P2 sends what is lost" in second
    both = next(test.text for test in tests if test.points == (0, 0))
    assert both.count("xchgl %eax,[P]") == 2
    assert "1:rax=0 /\\ 2:rax=0" in both
    assert both.count("movl $1,[S]") == 1


def test_wide_and_locked_stores() -> None:
    wide = texts(Scenario(Protocol.UNMASK, width=Width.WIDE, retest=Retest.NONE))[0]
    assert "movl [P],%edx" in wide
    assert "movl %edx,[P]" in wide
    locked = texts(Scenario(Protocol.UNMASK, width=Width.LOCKED, retest=Retest.NONE))[0].splitlines()
    places = {line.split("|")[0].strip(): number for number, line in enumerate(locked)}
    assert places["lock addl $0,[Z0]"] == places["movl $0,[M]"] + 1
    assert "Z0=0;" in "\n".join(locked)
    assert "lock addl $0,[Z0]" in texts(Scenario(Protocol.UNMASK, Fence.LOCK, retest=Retest.NONE))[0]


def test_what_has_no_litmus_test() -> None:
    usual_one = describe(Scenario(Protocol.UNMASK))
    unread = Access(when=((Cell.P, 1),), text="P is 1")
    with pytest.raises(ValueError, match="P is 1: a path depends on a value that it did not read"):
        list(litmus_tests("t", replace(usual_one, paths=((unread,),))))
    both = Access((Cell.P,), ((Cell.P, 0),), text="both")
    with pytest.raises(ValueError, match="without a lock"):
        list(litmus_tests("t", replace(usual_one, paths=((both,),))))
    read = Access((Cell.P,), when=((Cell.P, 0),))
    with pytest.raises(ValueError, match="more reads than a litmus test has registers"):
        list(litmus_tests("t", replace(usual_one, paths=((read,) * 12,))))
