"""The least and most counts are those found by walking every path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.guest import Builder, Variant
from xtrace.symbols.flow.code import Code
from xtrace.symbols.flow.interpreter import Graph
from xtrace.symbols.flow.path_counts import PathCounter, PathCounts
from xtrace.symbols.image.image import open_image
from xtrace.symbols.image.xen_facts import image_facts
from xtrace.symbols.sites.finder import find_sites
from xtrace.symbols.sites.model import Kind
from xtrace.symbols.x86.decode import Flow, Insn

INF = float("inf")
IRET, SCHED_OP = 23, 29
#: Functions of the made-up code begin at multiples of this; their instructions are one byte apart.
FUNCTION = 100
PAGE = 1_000_000


@dataclass
class MadeCode:
    """Functions of one-byte instructions, each a (flow, target) pair."""

    functions: Sequence[Sequence[tuple[Flow, int]]]
    no_return: frozenset[int] = frozenset()
    graphs: dict[int, Graph] = field(default_factory=dict)

    def section(self, address: int) -> object | None:
        number, place = divmod(address, FUNCTION)
        return self if number < len(self.functions) and place < len(self.functions[number]) else None

    def name(self, address: int) -> str:
        return f"f{address // FUNCTION}"

    def hypercall(self, target: int) -> int | None:
        return target - PAGE if target >= PAGE else None

    def graph(self, entry: int) -> Graph:
        number = entry // FUNCTION
        insns, successors = {}, {}
        for place, (flow, target) in enumerate(self.functions[number]):
            address = number * FUNCTION + place
            insns[address] = insn(address, flow, target)
            after = []
            if flow in (Flow.NEXT, Flow.CONDITIONAL, Flow.INDIRECT_CALL) or (
                flow is Flow.CALL and target not in self.no_return
            ):
                after.append(address + 1)
            if flow in (Flow.JUMP, Flow.CONDITIONAL):
                after.append(target)
            last = number * FUNCTION + len(self.functions[number])
            successors[address] = tuple(item for item in after if number * FUNCTION <= item < last)
        return insns, successors


def insn(address: int, flow: Flow, target: int) -> Insn:
    return Insn(address, 1, "ret" if flow is Flow.RETURN else "x", flow, target, (), None, 0, (), False)


def counter(made: MadeCode, *groups: Sequence[int], never: frozenset[int] = frozenset()) -> PathCounter:
    return PathCounter(cast(Code, made), groups, never)


def counts(found: PathCounts) -> list[tuple[float, float]]:
    return list(zip(found.least.tolist(), found.most.tolist(), strict=True))


@given(st.data())
@settings(max_examples=80)
def test_counts_without_loops_match_walking_every_path(data: st.DataObject) -> None:
    # Jumps go forwards and calls go to later functions, so every path ends and all can be walked.
    functions = []
    total = data.draw(st.integers(1, 3))
    for number in range(total):
        size = data.draw(st.integers(1, 7))
        body = []
        for place in range(size):
            here = number * FUNCTION + place
            flows = [Flow.NEXT, Flow.RETURN, Flow.STOP, Flow.CONDITIONAL, Flow.JUMP, Flow.CALL]
            flow = data.draw(st.sampled_from(flows))
            later = [item * FUNCTION for item in range(number + 1, total)] + [PAGE + IRET, PAGE + SCHED_OP]
            target = -1
            if flow is Flow.CALL:
                target = data.draw(st.sampled_from(later))
            elif flow in (Flow.CONDITIONAL, Flow.JUMP):
                ahead = [*range(here + 1, number * FUNCTION + size), *later]
                target = data.draw(st.sampled_from(ahead))
            body.append((flow, target))
        # Nothing falls through to the next function.
        body.append((data.draw(st.sampled_from((Flow.RETURN, Flow.STOP))), -1))
        functions.append(body)
    made = MadeCode(functions)
    places = [number * FUNCTION + place for number in range(total) for place in range(len(functions[number]))]
    group = data.draw(st.lists(st.sampled_from(places), unique=True))
    other = data.draw(st.lists(st.sampled_from(places), unique=True))
    never = frozenset(data.draw(st.sampled_from(((), (SCHED_OP,)))))
    found = counter(made, group, other, never=never).upcall(0)
    for number, addresses in enumerate((group, other)):
        ways = walked(made, 0, frozenset(addresses), never)
        least, most = (min(ways), max(ways)) if ways else (0, INF)
        assert (found.least[number], found.most[number]) == (least, most)
    if found.why[0]:
        assert found.why[0].startswith("no path")


def walked(made: MadeCode, entry: int, group: frozenset[int], never: frozenset[int]) -> list[int]:
    """Return the executions on every path from an entry to a return or an iret."""

    @cache
    def from_here(address: int) -> tuple[tuple[int, bool], ...]:
        """Return (executions, whether the upcall ended) for each path."""
        number = made.hypercall(address)
        if number is not None:
            return () if number in never else ((0, number == IRET),)
        flow, target = made.functions[address // FUNCTION][address % FUNCTION]
        own = int(address in group)
        if flow is Flow.STOP:
            return ()
        if flow is Flow.RETURN:
            return ((own, False),)
        ways: list[tuple[int, bool]] = []
        if flow is Flow.CALL:
            for inner, ended in from_here(target):
                rest = ((0, True),) if ended else from_here(address + 1)
                ways += [(inner + count, done) for count, done in rest]
        else:
            if flow is not Flow.JUMP:
                ways += from_here(address + 1)
            if flow is not Flow.NEXT:
                ways += from_here(target)
        return tuple(sorted({(own + count, done) for count, done in ways}))

    return [count for count, _ in from_here(entry)]


def test_groups_in_a_loop_are_unbounded() -> None:
    made = MadeCode([[(Flow.NEXT, -1), (Flow.NEXT, -1), (Flow.CONDITIONAL, 1), (Flow.RETURN, -1)]])
    found = counter(made, [0], [1], [3], [0, 1]).upcall(0)
    assert counts(found) == [(1, 1), (1, INF), (1, 1), (2, INF)]
    assert found.why == ("", "a loop around 0x1", "", "a loop around 0x1")


def test_a_loop_around_a_call() -> None:
    made = MadeCode([[(Flow.CALL, 100), (Flow.CONDITIONAL, 0), (Flow.RETURN, -1)], [(Flow.RETURN, -1)]])
    assert counts(counter(made, [100], [2]).upcall(0)) == [(1, INF), (1, 1)]


def test_indirect_call_may_do_anything() -> None:
    made = MadeCode([[(Flow.INDIRECT_CALL, -1), (Flow.RETURN, -1)]])
    found = counter(made, [1], [77]).upcall(0)
    assert counts(found) == [(1, INF), (0, INF)]
    assert found.why == ("an indirect call at 0x0",) * 2


def test_functions_that_call_each_other() -> None:
    ring = MadeCode(
        [
            [(Flow.CONDITIONAL, 2), (Flow.CALL, 100), (Flow.RETURN, -1)],
            [(Flow.CONDITIONAL, 102), (Flow.CALL, 0), (Flow.RETURN, -1)],
        ]
    )
    found = counter(ring, [100], [0]).upcall(0)
    assert counts(found) == [(0, INF), (1, INF)]
    assert all("calls itself" in why for why in found.why)


def test_paths_that_never_return_do_not_count() -> None:
    made = MadeCode(
        [[(Flow.CONDITIONAL, 3), (Flow.NEXT, -1), (Flow.CALL, 100), (Flow.RETURN, -1)], [(Flow.RETURN, -1)]],
        frozenset((100,)),
    )
    assert counts(counter(made, [1]).upcall(0)) == [(0, 0)]


def test_paths_through_a_hypercall_never_made_do_not_count() -> None:
    made = MadeCode(
        [[(Flow.CONDITIONAL, 3), (Flow.NEXT, -1), (Flow.CALL, PAGE + SCHED_OP), (Flow.RETURN, -1)]]
    )
    assert counts(counter(made, [1]).upcall(0)) == [(0, 1)]
    assert counts(counter(made, [1], never=frozenset((SCHED_OP,))).upcall(0)) == [(0, 0)]


def test_function_without_a_path_out_is_reported() -> None:
    made = MadeCode([[(Flow.JUMP, 0)]])
    found = counter(made, [0]).upcall(0)
    assert (counts(found), found.why) == ([(0, INF)], ("no path from 0x0 to a return or an iret was found",))


def test_inside_leaves_out_callees() -> None:
    made = MadeCode([[(Flow.NEXT, -1), (Flow.CALL, 100), (Flow.RETURN, -1)], [(Flow.RETURN, -1)]])
    both = counter(made, [0, 100])
    assert counts(both.inside(0)) == [(1, 1)]
    assert counts(both.upcall(0)) == [(2, 2)]


def test_deeply_nested_calls_are_given_up_in_time() -> None:
    # Each function calls the next twice: too many paths to walk, but few functions to follow.
    chain = [
        [(Flow.CALL, (number + 1) * FUNCTION), (Flow.CALL, (number + 1) * FUNCTION), (Flow.RETURN, -1)]
        for number in range(90)
    ]
    made = MadeCode([*chain, [(Flow.RETURN, -1)]])
    found = counter(made, [90 * FUNCTION], [0]).upcall(0)
    assert found.most[0] == INF
    assert found.why[0] == "calls nest deeper than the analysis follows"
    assert counts(counter(MadeCode([*chain[:20], [(Flow.RETURN, -1)]]), [20 * FUNCTION]).upcall(0)) == [
        (2.0**20, 2.0**20)
    ]


def test_more_code_than_the_budget_allows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xtrace.symbols.flow.path_counts._MOST_STEPS", 20)
    made = MadeCode([[(Flow.CONDITIONAL, place + 1) for place in range(30)] + [(Flow.RETURN, -1)]])
    found = counter(made, [0]).upcall(0)
    assert (counts(found), found.why) == ([(0, INF)], ("more code than the analysis follows",))


@pytest.fixture(scope="module")
def sites_of_netbsd(tmp_path_factory: pytest.TempPathFactory) -> tuple[Code, Mapping[str, list[int]]]:
    guest = Builder(tmp_path_factory.mktemp("guests")).build("netbsd_amd64.S", Variant())
    image = open_image(Path(guest.image))
    table = find_sites(image, lines=False)
    by_function: dict[str, list[int]] = {}
    for site in table.sites:
        if site.kind in (Kind.MASK, Kind.UNMASK, Kind.RESTORE):
            by_function.setdefault(site.symbol, []).append(site.address)
    return Code(image, image_facts(image).hypercall_page), by_function


def test_the_handler_of_a_guest(sites_of_netbsd: tuple[Code, Mapping[str, list[int]]]) -> None:
    code, sites = sites_of_netbsd
    entry = code.image.symbols.find("upcall_entry")
    assert entry is not None
    mask, early, late = sites["upcall_entry"]
    found = PathCounter(code, [[mask], [early], [late], [early, late], sites["spl_section"]]).upcall(entry)
    # It ends by iretq after one unmask, or by the hypercall after the other.
    assert counts(found) == [(1, 1), (0, 1), (0, 1), (1, 1), (0, 0)]


def test_one_call_of_each_function_of_a_guest(
    sites_of_netbsd: tuple[Code, Mapping[str, list[int]]],
) -> None:
    code, sites = sites_of_netbsd
    for name, addresses in sites.items():
        entry = code.image.symbols.find(name)
        assert entry is not None
        found = PathCounter(code, [[address] for address in addresses]).inside(entry)
        if name in ("spl_section", "mask_tail", "unmask_callee", "restore_if_zero", "restore_reloads"):
            assert (found.least == 1).all(), name
            assert (found.most == 1).all(), name
        if name == "mask_every_cpu":
            assert counts(found) == [(0, INF)]
    assert np.isinf(PathCounter(code, [[1]]).upcall(1).most).all()
