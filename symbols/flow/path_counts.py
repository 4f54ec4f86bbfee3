"""Bound how often sites execute between the beginning and the end of a function or an upcall.

For each group of instructions, separately, this gives the least and the most executions over all paths.
Calls are followed.  The most is unbounded where the image does not show a bound: a loop that contains an
instruction of the group, a recursion, an indirect call or jump.  Paths that do not return (a panic) do not
count, nor do those through a hypercall that the guest never makes.  The least is a bound whatever the
handlers do; an interrupt on the path counts as an upcall of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from xtrace.symbols.flow.code import Code
from xtrace.symbols.flow.interpreter import Budget, ExhaustedError
from xtrace.symbols.x86.decode import Flow, Insn
from xtrace.symbols.xen_abi import HYPERCALL_NAME, Hypercall

F64 = npt.NDArray[np.float64]

_MOST_DEPTH = 60
#: Nodes visited, over all functions and rounds; real kernels' upcalls took at most a tenth of it.
_MOST_STEPS = 400_000
_ENDS = ("iret", "sysret", "sysexit")


@dataclass(frozen=True, slots=True)
class PathCounts:
    """How often groups execute, one entry for each group.

    Attributes:
        least: on the path with the fewest executions.
        most: on the path with the most; inf where nothing bounds it.
        why: why there is no bound; "" where there is one.
    """

    least: F64
    most: F64
    why: tuple[str, ...]


class _Bounds(NamedTuple):
    """Least and most; inf and -inf where there is no path."""

    least: F64
    most: F64


class _Function(NamedTuple):
    """The counts on a function's paths back to its caller, and on those that end the upcall inside it."""

    back: _Bounds
    end: _Bounds


@dataclass(slots=True)
class _Node:
    """An instruction that the counts depend on: one of a group, a call, a branch, an end.

    Attributes:
        own: executions that the instruction itself adds.
        through: those added by the callee; None if it is not a call.
        following: the nodes after it.
        leaving: the functions that it may leave to.
        back, end: it returns to the caller; it ends the upcall.
    """

    own: F64
    through: _Function | None
    following: tuple[int, ...]
    leaving: list[_Function]
    back: bool
    end: bool


class PathCounter:
    """Count the executions of groups of instructions.

    Args:
        code: of the image.
        groups: addresses of instructions; an address may be in several groups.
        never: numbers of hypercalls that the guest is known not to make.
    """

    def __init__(
        self, code: Code, groups: Sequence[Collection[int]], never: Collection[int] = frozenset()
    ) -> None:
        self._code = code
        self._count = len(groups)
        self._never = never
        self._own: dict[int, F64] = {}
        for number, group in enumerate(groups):
            for address in group:
                self._own.setdefault(address, np.zeros(self._count))[number] += 1
        self._zero = np.zeros(self._count)
        self._no_way = _Bounds(np.full(self._count, np.inf), np.full(self._count, -np.inf))
        self._plain = _Function(_Bounds(self._zero, self._zero), self._no_way)
        self._any = _Function(_Bounds(self._zero, np.full(self._count, np.inf)), self._no_way)
        self._known: dict[int, _Function] = {}
        self._open: set[int] = set()
        self._why: dict[int, str] = {}
        self._budget = Budget(_MOST_STEPS)

    def upcall(self, entry: int) -> PathCounts:
        """Return the counts from a callback's entry to the iret that ends the upcall, or its return."""
        try:
            found = self._function(entry, 0)
        except ExhaustedError:
            self._note_all("more code than the analysis follows")
            found = self._any
        return self._answer(found, entry)

    def inside(self, entry: int) -> PathCounts:
        """Return the counts of one call of a function in its own code, without its callees."""
        kept, self._why = self._why, {}
        try:
            found = self._solved(entry, lambda _: self._plain)
        except ExhaustedError:
            self._note_all("more code than the analysis follows")
            found = self._any
        answer = self._answer(found, entry)
        self._why = kept
        return answer

    def _answer(self, found: _Function, entry: int) -> PathCounts:
        least = np.minimum(found.back.least, found.end.least)
        most = np.maximum(found.back.most, found.end.most)
        if np.isinf(least).any():
            self._why = dict.fromkeys(
                range(self._count), f"no path from {entry:#x} to a return or an iret was found"
            )
            most = np.where(np.isinf(least), np.inf, most)
            least = np.where(np.isinf(least), 0.0, least)
        why = tuple(
            self._why.get(number, "") if bound == np.inf else "" for number, bound in enumerate(most.tolist())
        )
        return PathCounts(least, most, why)

    def _note(self, unbounded: npt.NDArray[np.bool_], why: str) -> None:
        """Keep the first reason why groups have no bound."""
        for number in np.flatnonzero(unbounded).tolist():
            self._why.setdefault(number, why)

    def _note_all(self, why: str) -> None:
        self._note(np.ones(self._count, bool), why)

    def _function(self, entry: int, depth: int) -> _Function:
        if entry in self._open:
            self._note_all(f"{entry:#x} calls itself")
            return self._any
        known = self._known.get(entry)
        if known is not None:
            return known
        code = self._code
        number = code.hypercall(entry)
        if number is not None:
            return self._hypercall(number)
        if HYPERCALL_NAME in code.name(entry):
            return self._plain
        if code.section(entry) is None:
            self._note_all(f"a call to {entry:#x}, which is outside the image")
            return self._any
        if depth >= _MOST_DEPTH:
            self._note_all("calls nest deeper than the analysis follows")
            return self._any
        self._open.add(entry)
        found = self._solved(entry, lambda target: self._function(target, depth + 1))
        self._open.discard(entry)
        self._known[entry] = found
        return found

    def _hypercall(self, number: int) -> _Function:
        if number in self._never:
            return _Function(self._no_way, self._no_way)
        if number == Hypercall.IRET:
            return _Function(self._no_way, _Bounds(self._zero, self._zero))
        return self._plain

    def _solved(self, entry: int, callee: Callable[[int], _Function]) -> _Function:
        """Return the counts of a function, given a way to get those of its callees."""
        insns, successors = self._code.graph(entry)
        if entry not in insns:
            return _Function(self._no_way, self._no_way)
        nodes = self._nodes(entry, insns, successors, callee)
        order = _components({address: node.following for address, node in nodes.items()}, entry)
        back = _Bounds(self._least(nodes, order, entry, False), self._most(nodes, order, entry, False))
        end = _Bounds(self._least(nodes, order, entry, True), self._most(nodes, order, entry, True))
        return _Function(back, end)

    def _nodes(
        self,
        entry: int,
        insns: Mapping[int, Insn],
        successors: Mapping[int, tuple[int, ...]],
        callee: Callable[[int], _Function],
    ) -> dict[int, _Node]:
        """Return the instructions from ``entry`` on that matter, as nodes by address."""
        nodes: dict[int, _Node] = {}
        todo = [entry]
        ends: dict[int, int] = {}

        def matters(address: int) -> bool:
            insn = insns[address]
            plain = insn.flow in (Flow.NEXT, Flow.JUMP) and len(successors.get(address, ())) == 1
            return not plain or address in self._own

        def skipped(address: int) -> int:
            """Return the next instruction that matters, or one of a loop in which none does."""
            way = []
            seen: set[int] = set()
            while address not in ends and address not in seen and not matters(address):
                way.append(address)
                seen.add(address)
                address = successors[address][0]
            found = ends.get(address, address)
            for passed in way:
                ends[passed] = found
            return found

        while todo:
            address = todo.pop()
            if address in nodes:
                continue
            self._budget.spend(1)
            insn = insns[address]
            following = tuple(dict.fromkeys(skipped(item) for item in successors.get(address, ())))
            nodes[address] = self._node(insn, following, callee, successors.get(address, ()))
            todo.extend(nodes[address].following)
        return nodes

    def _node(
        self,
        insn: Insn,
        following: tuple[int, ...],
        callee: Callable[[int], _Function],
        successors: tuple[int, ...],
    ) -> _Node:
        node = _Node(self._own.get(insn.address, self._zero), None, following, [], False, False)
        match insn.flow:
            case Flow.RETURN:
                node.end = insn.mnemonic.startswith(_ENDS)
                node.back = not node.end
            case Flow.CALL if insn.target in self._code.no_return:
                pass
            case Flow.CALL if not successors and self._code.section(insn.end) is not None:
                # It falls through to the next function, unless the compiler knew that the callee
                # does not return.
                node.leaving.append(_then(callee(insn.target), callee(insn.end)))
            case Flow.CALL:
                node.through = callee(insn.target)
                if np.isinf(node.through.back.least).all():
                    node.following = ()
            case Flow.INDIRECT_CALL:
                self._note_all(f"an indirect call at {insn.address:#x}")
                node.through = self._any
            case Flow.INDIRECT_JUMP if insn.memory is None or insn.memory.base >= 0 or not successors:
                # The cases, if any, were guessed.
                self._note_all(f"an indirect jump at {insn.address:#x}")
                node.leaving.append(self._any)
            case Flow.JUMP | Flow.CONDITIONAL if insn.target >= 0 and insn.target not in successors:
                node.leaving.append(callee(insn.target))
            case Flow.NEXT if not successors and self._code.section(insn.end) is not None:
                node.leaving.append(callee(insn.end))  # it falls through to the next function
        return node

    def _ways(self, node: _Node, end: bool) -> Iterator[_Bounds]:
        """Yield the counts after a node on each path that leaves the function there."""
        if node.end if end else node.back:
            yield _Bounds(self._zero, self._zero)
        for function in node.leaving:
            yield function.end if end else function.back
        if node.through is not None and end:
            yield node.through.end

    def _least(
        self, nodes: Mapping[int, _Node], order: Sequence[Sequence[int]], entry: int, end: bool
    ) -> F64:
        left = dict.fromkeys(nodes, self._no_way.least)
        for component in order:
            changed = True
            while changed:
                changed = False
                for address in component:
                    self._budget.spend(1)
                    node = nodes[address]
                    best = self._no_way.least
                    for way in self._ways(node, end):
                        best = np.minimum(best, way.least)
                    for item in node.following:
                        best = np.minimum(
                            best, _through(node).least + left[item] if node.through else left[item]
                        )
                    best = best + node.own
                    if (best < left[address]).any():
                        left[address] = best
                        changed = len(component) > 1
        return left[entry]

    def _most(self, nodes: Mapping[int, _Node], order: Sequence[Sequence[int]], entry: int, end: bool) -> F64:
        left: dict[int, F64] = {}
        for component in order:
            inside = set(component)
            out = self._no_way.most
            turned = self._zero.astype(bool)
            ring = len(component) > 1 or component[0] in nodes[component[0]].following
            for address in component:
                self._budget.spend(1)
                node = nodes[address]
                best = self._no_way.most
                for way in self._ways(node, end):
                    best = np.maximum(best, way.most)
                for item in node.following:
                    if item not in inside:
                        best = np.maximum(
                            best, _plus(_through(node).most if node.through else None, left[item])
                        )
                out = np.maximum(out, best + node.own)
                if ring:
                    more = node.own > 0
                    if node.through is not None:
                        more |= node.through.back.most > 0
                    self._note(more & ~turned, f"a loop around {address:#x}")
                    turned |= more
            out = np.where(turned & (out > -np.inf), np.inf, out)
            for address in component:
                left[address] = out
        return left[entry]


def _then(first: _Function, second: _Function) -> _Function:
    """Return the counts of two functions executed one after the other."""
    least = first.back.least
    end = _Bounds(
        np.minimum(first.end.least, least + second.end.least),
        np.maximum(first.end.most, _plus(first.back.most, second.end.most)),
    )
    back = _Bounds(least + second.back.least, _plus(first.back.most, second.back.most))
    return _Function(back, end)


def _through(node: _Node) -> _Bounds:
    assert node.through is not None
    return node.through.back


def _plus(one: F64 | None, other: F64) -> F64:
    """Return the sum; -inf, no path, where either is."""
    if one is None:
        return other
    none = (one == -np.inf) | (other == -np.inf)
    return np.where(none, -np.inf, np.where(none, 0.0, one) + np.where(none, 0.0, other))


def _components(following: Mapping[int, tuple[int, ...]], entry: int) -> list[list[int]]:
    """Return the strongly connected components that are reached, each after those it leads to.

    Source: Tarjan 1972, without recursion.
    """
    number: dict[int, int] = {}
    low: dict[int, int] = {}
    stack: list[int] = []
    on_stack: set[int] = set()
    found: list[list[int]] = []
    todo: list[tuple[int, int]] = [(entry, 0)]
    while todo:
        address, place = todo.pop()
        if place == 0:
            if address in number:
                continue
            number[address] = low[address] = len(number)
            stack.append(address)
            on_stack.add(address)
        else:
            low[address] = min(low[address], low[following[address][place - 1]])
        pushed = False
        for index in range(place, len(following[address])):
            item = following[address][index]
            if item not in number:
                todo.append((address, index + 1))
                todo.append((item, 0))
                pushed = True
                break
            if item in on_stack:
                low[address] = min(low[address], number[item])
        if pushed:
            continue
        if low[address] == number[address]:
            component: list[int] = []
            while True:
                item = stack.pop()
                on_stack.discard(item)
                component.append(item)
                if item == address:
                    break
            found.append(component)
    return found
