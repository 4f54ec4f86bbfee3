"""Find the fences that execute at a touch: before it, after it, as the access itself, or in a callee."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from xtrace.symbols.flow.code import Code, fence_of
from xtrace.symbols.flow.interpreter import Access, FunctionFlow
from xtrace.symbols.flow.values import CPU, loaded
from xtrace.symbols.flow.walk import Paths, Step, backward, forward
from xtrace.symbols.sites.access_kind import Touch
from xtrace.symbols.sites.model import How, Kind
from xtrace.symbols.sites.vcpu_info import Layout
from xtrace.symbols.x86.decode import WRITE, Flow, Insn

#: A fence further away is not attributed to the touch.
_REACH_INSNS = 24
_BEFORE_INSNS = 6


@dataclass(frozen=True, slots=True)
class Found:
    """A fence at a touch, without a verdict yet.

    Attributes:
        insn: the fence itself.  at: the instruction of the touch's function that executes or calls it.
    """

    insn: Insn
    at: int
    how: How
    via: str
    position: str
    paths: Paths


class FenceFinder:
    """Find the fences of one function's touches.

    Each fence belongs to the nearest touch before it, otherwise to the next one.

    Args:
        group: the function's touches by address.
        tests: the pending tests that follow an unmask or restore, by the address of that store.
    """

    def __init__(
        self,
        code: Code,
        layout: Layout,
        flow: FunctionFlow,
        group: Mapping[int, Touch],
        tests: Mapping[int, tuple[int, ...]],
    ) -> None:
        self._code = code
        self._layout = layout
        self._flow = flow
        self._group = group
        self._tests = tests

    def find(self) -> dict[int, list[Found]]:
        """Return the fences by the address of their touch."""
        found: dict[int, list[Found]] = {}
        claimed: set[int] = set()
        for address, touch in self._group.items():
            name = fence_of(touch.insn)
            found[address] = [Found(touch.insn, address, How.INLINE, "", "access", Paths.ALL)] if name else []
        places = sorted(self._group)
        writes = [address for address in places if self._group[address].insn.access & WRITE]
        reads = [address for address in places if not self._group[address].insn.access & WRITE]
        for address in places:
            if self._group[address].insn.access & WRITE or self._group[address].kind is not Kind.SAVE:
                found[address].extend(self._beside(address, "after", claimed))
        # A fence before a read belongs to whatever precedes the fence.
        for address in writes:
            found[address].extend(self._beside(address, "before", claimed))
        # Saving the mask needs no fence: one between it and a store belongs to the store.
        for address in reads:
            found[address].extend(self._beside(address, "after", claimed))
        return found

    def _beside(self, touch: int, position: str, claimed: set[int]) -> Iterator[Found]:
        walk = forward if position == "after" else backward
        flow = self._flow
        seen: dict[int, tuple[Insn, ...]] = {}

        reads = not self._group[touch].insn.access & WRITE

        def step(insn: Insn) -> Step:
            fences = None if insn.address in self._group else self._executed(insn)
            if reads and insn.flow is Flow.CONDITIONAL:
                # A fence after a test's branch belongs to the code on that side.
                fences = None
            if fences:
                seen[insn.address] = fences
            return Step.END if fences is None else Step.ON

        reach = _REACH_INSNS if position == "after" else _BEFORE_INSNS
        walk(flow, touch, step, reach)
        for at in sorted(seen):
            if at in claimed or (position == "after" and not self._between(touch, at)):
                continue

            def reached(insn: Insn, at: int = at) -> Step:
                return Step.HIT if insn.address == at else step(insn)

            paths = walk(flow, touch, reached, reach).paths
            claimed.add(at)
            caller = flow.insns[at]
            how = _HOW.get(caller.flow, How.INLINE)
            via = self._code.name(caller.target) if how is not How.INLINE else ""
            for insn in seen[at]:
                yield Found(insn, at, how, via, position, paths)

    def _between(self, touch: int, at: int) -> bool:
        """Return whether a fence after an unmask or restore precedes its pending test, if it has one."""
        tests = self._tests.get(touch, ())
        if not tests:
            return True

        def step(insn: Insn) -> Step:
            if insn.address in tests:
                return Step.HIT
            # A read of the mask in between, such as one that decides whether to test, does not matter.
            other = self._group.get(insn.address)
            return Step.END if other is not None and other.insn.access & WRITE else Step.ON

        return forward(self._flow, at, step, _REACH_INSNS).paths is not Paths.NONE

    def _executed(self, insn: Insn) -> tuple[Insn, ...] | None:
        """Return the fences that an instruction executes; None if fences past it belong to other code."""
        code = self._code
        if insn.flow is Flow.CALL or (
            insn.flow is Flow.JUMP and code.window(insn.address) != code.window(insn.target)
        ):
            return code.leaf_fences(insn.target)
        if insn.flow in (Flow.INDIRECT_CALL, Flow.INDIRECT_JUMP, Flow.RETURN, Flow.STOP):
            return None
        access = self._flow.accesses.get(insn.address)
        if access is not None and not self._leads_on(access):
            # An access to other memory: a fence after it orders that access.
            return None
        return (insn,) if fence_of(insn) else ()

    def _leads_on(self, access: Access) -> bool:
        """Return whether a read only loads a pointer that leads to vcpu_info."""
        if access.insn.access & WRITE:
            return False
        pointer = loaded(access.place)
        return access.place.root == CPU or any(
            self._layout.spot(item, False) is not None for item in (pointer, access.place)
        )


_HOW = {Flow.CALL: How.CALLEE, Flow.JUMP: How.TAIL_JUMP}
