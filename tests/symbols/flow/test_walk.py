"""Walks over hand-made graphs: on which paths something happens."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from xtrace.symbols.flow.interpreter import FunctionFlow
from xtrace.symbols.flow.walk import Paths, Step, Ways, backward, forward
from xtrace.symbols.x86.decode import Flow, Insn

Graph = dict[int, tuple[int, ...]]


def graph(ways: Graph) -> FunctionFlow:
    """Return a function of one-byte instructions with the successors in ``ways``."""
    insns = {address: Insn(address, 1, "nop", Flow.NEXT, -1, (), None, 0, (), False) for address in ways}
    return FunctionFlow(0, insns, ways)


def walked(
    ways: Graph,
    hits: set[int],
    ends: Collection[int] = (),
    *,
    limit: int = 50,
    forks: Collection[int] = (),
) -> Ways:
    def step(insn: Insn) -> Step:
        return Step.HIT if insn.address in hits else Step.END if insn.address in ends else Step.ON

    return forward(graph(ways), 0, step, limit, forks)


DIAMOND: Graph = {0: (1, 2), 1: (3,), 2: (3,), 3: ()}
LOOP: Graph = {0: (1,), 1: (2, 3), 2: (1,), 3: ()}


@pytest.mark.parametrize(
    ("hits", "ends", "paths"),
    [
        ({3}, set(), Paths.ALL),
        ({1}, set(), Paths.SOME),
        ({1, 2}, set(), Paths.ALL),
        (set(), set(), Paths.NONE),
        ({3}, {1}, Paths.SOME),
        ({3}, {1, 2}, Paths.NONE),
    ],
)
def test_two_paths(hits: set[int], ends: set[int], paths: Paths) -> None:
    assert walked(DIAMOND, hits, ends).paths is paths


def test_loop_adds_no_path_of_its_own() -> None:
    assert walked(LOOP, {3}) == Ways((3,), Paths.ALL)
    assert walked(LOOP, {2}) == Ways((2,), Paths.SOME)
    # The path never ends: nothing is missed, and nothing is found.
    assert walked({0: (1,), 1: (1,)}, set()).paths is Paths.NONE


def test_one_side_of_a_fork_is_enough() -> None:
    ways: Graph = {0: (1,), 1: (2, 3), 2: (), 3: ()}
    assert walked(ways, {2}).paths is Paths.SOME
    assert walked(ways, {2}, forks={1}).paths is Paths.ALL
    assert walked(ways, set(), forks={1}).paths is Paths.NONE
    # The side that hits must hit on all of its own paths.
    deeper: Graph = {0: (1,), 1: (2, 3), 2: (4, 5), 3: (), 4: (), 5: ()}
    assert walked(deeper, {4}, forks={1}).paths is Paths.SOME


def test_path_that_is_too_long_ends() -> None:
    line: Graph = {number: (number + 1,) for number in range(30)} | {30: ()}
    assert walked(line, {30}, limit=40).paths is Paths.ALL
    assert walked(line, {30}, limit=10).paths is Paths.NONE


def test_spared_path_is_not_missed() -> None:
    def step(insn: Insn) -> Step:
        return {1: Step.SPARE, 2: Step.HIT}.get(insn.address, Step.ON)

    assert forward(graph(DIAMOND), 0, step, 50).paths is Paths.ALL


def test_backwards() -> None:
    def step(insn: Insn) -> Step:
        return Step.HIT if insn.address == 1 else Step.ON

    assert backward(graph(DIAMOND), 3, step, 50) == Ways((1,), Paths.SOME)
    assert backward(graph({0: (1,), 1: (2,), 2: ()}), 2, step, 50) == Ways((1,), Paths.ALL)
