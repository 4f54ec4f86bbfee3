"""The fast rule never says that a description is right when the checker says that it is wrong."""

from __future__ import annotations

import os
from dataclasses import replace
from random import Random

import pytest

from builders.generated_sites import described, small_sites
from xtrace.symbols.proof.operational import check
from xtrace.symbols.proof.rule import fault_of, is_right
from xtrace.symbols.proof.templates import Fence, Protocol, Scenario, Take, Width, describe

#: Every description of so many accesses is tried.
SIZE = int(os.environ.get("XTRACE_PROOF_SIZE", "2"))
SEEDS = int(os.environ.get("XTRACE_PROOF_CASES", "800"))


def test_rule_agrees_with_the_checker_on_every_small_site() -> None:
    tried = right = 0
    for description in small_sites(SIZE):
        tried += 1
        if is_right(description):
            right += 1
            assert check(description).holds, description
    assert tried > 4000
    assert right > 20


@pytest.mark.parametrize("part", range(4))
def test_rule_agrees_with_the_checker_on_generated_sites(part: int) -> None:
    right = 0
    for seed in range(part, SEEDS, 4):
        description = described(Random(seed))
        if is_right(description):
            right += 1
            assert check(description).holds, seed
    assert right > 5


def test_rule_knows_the_usual_sites() -> None:
    """They need no search: a kernel has thousands of them."""
    for protocol in (Protocol.MASK, Protocol.RESTORE, Protocol.UNMASK, Protocol.HANDLER):
        for fence in Fence:
            assert is_right(describe(Scenario(protocol, fence)))
    for width in (Width.LOCKED, Width.LOCKED_WIDE):
        assert is_right(describe(Scenario(Protocol.UNMASK, width=width)))


@pytest.mark.parametrize(
    "scenario",
    [
        Scenario(Protocol.UNMASK, width=Width.WIDE),
        Scenario(Protocol.UNMASK, take=Take.READ),
        Scenario(Protocol.UNMASK, take=Take.XCHG_FIRST),
        Scenario(Protocol.UNMASK, stable=False),
        Scenario(Protocol.HANDLER, take=Take.PLAIN),
        Scenario(Protocol.HANDLER, Fence.LFENCE, take=Take.READ),
    ],
    ids=str,
)
def test_faults_come_from_the_checker(scenario: Scenario) -> None:
    description = describe(scenario)
    assert not is_right(description)
    assert fault_of(description) == check(description).fault != ""


def test_fence_before_a_plain_read_of_the_selector_is_enough() -> None:
    description = describe(Scenario(Protocol.HANDLER, Fence.MFENCE, take=Take.READ))
    assert is_right(description)
    assert not is_right(description.without_fences())
    assert not is_right(replace(description, stable=False))
