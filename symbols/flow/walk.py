"""Walk a function's paths from an instruction, and find on which of them something happens."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from enum import Enum, StrEnum

from xtrace.symbols.flow.interpreter import FunctionFlow
from xtrace.symbols.x86.decode import Insn


class Paths(StrEnum):
    """On which of the paths through the code something happens."""

    ALL = "all paths"
    SOME = "some paths"
    NONE = "no path"


class Step(Enum):
    """What an instruction means to a walk."""

    ON = 0  # go on
    HIT = 1  # what was looked for; this path is done
    END = 2  # too late for it; this path is done
    SPARE = 3  # like END, but no hit was required on this path


@dataclass(frozen=True, slots=True)
class Ways:
    """What a walk found: the instructions hit, and on which paths."""

    hits: tuple[int, ...]
    paths: Paths


def forward(
    flow: FunctionFlow,
    start: int,
    step: Callable[[Insn], Step],
    limit: int,
    forks: Collection[int] = (),
) -> Ways:
    """Walk forward from the successors of ``start``.

    Args:
        step: says what each instruction means.
        limit: how many instructions a path may have before it counts as ended.
        forks: conditional branches of which only one side must hit.
    """
    return _walk(flow.successors, flow.insns, start, step, limit, forks)


def backward(flow: FunctionFlow, start: int, step: Callable[[Insn], Step], limit: int) -> Ways:
    """Walk backward from the predecessors of ``start``."""
    return _walk(flow.predecessors, flow.insns, start, step, limit, ())


def _walk(
    ways: Mapping[int, tuple[int, ...]],
    insns: Mapping[int, Insn],
    start: int,
    step: Callable[[Insn], Step],
    limit: int,
    forks: Collection[int],
) -> Ways:
    hits: set[int] = set()
    # For each address: whether some path hits, whether some path misses.  Cycles add neither.
    known: dict[int, tuple[bool, bool]] = {}
    stack: list[tuple[int, int, bool]] = [(address, limit, False) for address in ways.get(start, ())]
    root = tuple(ways.get(start, ()))
    while stack:
        address, left, done = stack.pop()
        if done:
            known[address] = _combined(address, ways, known, forks)
            continue
        if address in known:
            continue
        meaning = step(insns[address])
        following = ways.get(address, ())
        if meaning is Step.HIT:
            hits.add(address)
            known[address] = (True, False)
        elif meaning is Step.SPARE:
            known[address] = (False, False)
        elif meaning is Step.END or not following or left <= 0:
            known[address] = (False, True)
        else:
            known[address] = (False, False)
            stack.append((address, left, True))
            stack.extend((item, left - 1, False) for item in following)
    results = [known[address] for address in root]
    hit = any(item[0] for item in results)
    missed = any(item[1] for item in results) or not results
    if start in forks:
        missed = missed and not any(item == (True, False) for item in results)
    if not hit:
        return Ways(tuple(sorted(hits)), Paths.NONE)
    return Ways(tuple(sorted(hits)), Paths.SOME if missed else Paths.ALL)


def _combined(
    address: int,
    ways: Mapping[int, tuple[int, ...]],
    known: Mapping[int, tuple[bool, bool]],
    forks: Collection[int],
) -> tuple[bool, bool]:
    hit = missed = only_hits = False
    for item in ways.get(address, ()):
        result = known.get(item)
        if result is not None:
            hit |= result[0]
            missed |= result[1]
            only_hits |= result == (True, False)
    return hit, missed and not (only_hits and address in forks)
