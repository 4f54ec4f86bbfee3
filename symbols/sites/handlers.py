"""Follow a pending clear to the locked access that must come before the selector is used.

A handler clears pending, then takes the selector.  A sender that finds pending still set sends no IPI, so
the clear must be visible before the selector is read: x86 needs a locked access between the two, which the
take itself may be.  If the selector is taken first, or not at all, an event that arrives in between is lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from xtrace.symbols.flow.code import Code, fence_of
from xtrace.symbols.flow.interpreter import FunctionFlow
from xtrace.symbols.flow.walk import Paths, Step, Ways, backward
from xtrace.symbols.sites.access_kind import Touch
from xtrace.symbols.sites.model import Kind
from xtrace.symbols.x86.decode import Flow, Insn

#: These order only loads, or only stores.
HALF_FENCES = ("lfence", "sfence")
_BEFORE_INSNS = 60
#: How many instructions are followed after a clear, in how deep callees, and into how many callers.
_MOST_STEPS = 1500
_CALLEE_DEPTH = 3
_MOST_CALLERS = 16
_CALLER_DEPTH = 2


@dataclass(frozen=True, slots=True)
class Order:
    """What comes before and after a pending clear.

    Attributes:
        locked: the locked accesses after it.  unlocked: selector uses that precede one.
        taken: takes of the selector before it, with no other clear in between.
        ends: a path ends with no locked access after the clear.
        misses: such a path also calls no code that is not known, which may take the selector.
    """

    locked: Ways
    unlocked: tuple[int, ...] = ()
    taken: tuple[int, ...] = ()
    ends: bool = False
    misses: bool = False

    @property
    def fault(self) -> str:
        """Return the name of the hazard, "" for a handler in order."""
        if self.unlocked:
            return "unlocked-handler"
        if self.taken and self.ends:
            return "take-before-clear"
        return "clear-without-take" if self.misses else ""


IN_ORDER = Order(Ways((), Paths.NONE))


@dataclass(slots=True)
class _Seen:
    """What the paths from some place do: see Order; ``returns`` and ``hidden``: how those end that do not."""

    locked: set[int] = field(default_factory=set)
    unlocked: set[int] = field(default_factory=set)
    returns: bool = False
    returns_hidden: bool = False


class Handlers:
    """Find the order of clears and takes in one image.

    Args:
        touches: all touches of the image.
        flows: the functions among which callers are looked for.

    Attributes:
        takers: by entry, functions that take the selector with a locked instruction, and that instruction.
        ordering: the instructions that execute a locked access which some clear needs, as far as found.
    """

    def __init__(self, code: Code, touches: Mapping[int, Touch], flows: Iterable[FunctionFlow]) -> None:
        self._code = code
        self._touches = touches
        self.takers = {
            code.window(touch.address)[0]: touch.insn
            for touch in touches.values()
            if touch.kind is Kind.SELECTOR_TAKE and fence_of(touch.insn)
        }
        self.ordering: set[int] = set()
        self._callers: dict[int, list[tuple[FunctionFlow, int]]] = {}
        for flow in {item.entry: item for item in flows}.values():
            for call in flow.calls.values():
                if not call.tail and call.insn.end in flow.insns:
                    self._callers.setdefault(call.target, []).append((flow, call.insn.end))
        self._steps: int

    def order(self, touch: Touch) -> Order:
        """Return what comes before and after a pending clear."""
        self._steps = _MOST_STEPS
        flow = self._code.joined(touch.flow)
        seen = _Seen()
        self._follow(flow, flow.successors.get(touch.address, ()), seen, 0)
        ends, misses = self._after_return(touch.flow.entry, seen, 0)
        hit, missed = bool(seen.locked), ends or bool(seen.unlocked)
        paths = Paths.NONE if not hit else Paths.SOME if missed else Paths.ALL
        return Order(
            Ways(tuple(sorted(seen.locked)), paths),
            tuple(sorted(seen.unlocked)),
            self._taken_before(touch),
            ends,
            misses,
        )

    def executed(self, insn: Insn) -> tuple[Insn, ...]:
        """Return the fences that an instruction executes, itself or in its callee."""
        if insn.flow is Flow.CALL:
            taker = self.takers.get(insn.target)
            return (taker,) if taker is not None else self._code.leaf_fences(insn.target) or ()
        return (insn,) if fence_of(insn) else ()

    def _follow(self, flow: FunctionFlow, starts: Iterable[int], seen: _Seen, depth: int) -> None:
        """Follow the paths of a function from some of its instructions."""
        todo = [(address, False) for address in starts]
        done: set[tuple[int, bool]] = set()
        while todo:
            address, hidden = todo.pop()
            if (address, hidden) in done:
                continue
            done.add((address, hidden))
            self._steps -= 1
            if self._steps < 0:
                return
            insn = flow.insns[address]
            if any(fence_of(item) not in HALF_FENCES for item in self.executed(insn)):
                seen.locked.add(address)
                self.ordering.add(address)
                continue
            other = self._touches.get(address)
            if other is not None and other.kind in (Kind.SELECTOR_TAKE, Kind.SELECTOR_SET):
                seen.unlocked.add(address)
                continue
            if insn.flow is Flow.STOP:
                continue
            after = flow.successors.get(address, ())
            if insn.flow in (Flow.CALL, Flow.INDIRECT_CALL):
                goes_on, hidden = self._called(insn, seen, depth, hidden)
                if not goes_on:
                    continue
            elif not after:
                # A return, also through Xen, or a jump to code that is not known.
                exits = self._code.hypercall(insn.target) is not None
                if hidden or not (exits or insn.flow is Flow.RETURN):
                    seen.returns_hidden = True
                else:
                    seen.returns = True
                continue
            todo.extend((item, hidden) for item in after)

    def _called(self, insn: Insn, seen: _Seen, depth: int, hidden: bool) -> tuple[bool, bool]:
        """Return whether a path goes on after a call, and whether unknown code may have taken S."""
        code = self._code
        if code.hypercall(insn.target) is not None:
            return True, hidden
        if code.section(insn.target) is None or depth >= _CALLEE_DEPTH:
            return True, True
        if code.never_returns(insn.target):
            return False, hidden
        inner = _Seen()
        callee = code.joined(code.flow(insn.target))
        self._follow(callee, (insn.target,) if insn.target in callee.insns else (), inner, depth + 1)
        if inner.locked:
            seen.locked.add(insn.address)
        if inner.unlocked:
            seen.unlocked.add(insn.address)
        return inner.returns or inner.returns_hidden, hidden or not inner.returns

    def _after_return(self, entry: int, seen: _Seen, depth: int) -> tuple[bool, bool]:
        """Follow the paths that return to the callers; return whether any ends, and ends in known code."""
        if not seen.returns and not seen.returns_hidden:
            return False, False
        callers = self._callers.get(entry, [])[:_MOST_CALLERS]
        if not callers or depth >= _CALLER_DEPTH:
            return True, seen.returns
        ends = misses = False
        for flow, place in callers:
            further = _Seen()
            self._follow(self._code.joined(flow), (place,), further, 0)
            seen.unlocked |= further.unlocked
            ended, missed = self._after_return(flow.entry, further, depth + 1)
            ends |= ended
            misses |= missed and seen.returns
        return ends, misses

    def _taken_before(self, touch: Touch) -> tuple[int, ...]:
        def step(insn: Insn) -> Step:
            other = self._touches.get(insn.address)
            if other is not None and other.kind is Kind.SELECTOR_TAKE:
                return Step.HIT
            if insn.flow is Flow.CALL and insn.target in self.takers:
                return Step.HIT
            return Step.END if other is not None and other.kind is Kind.PENDING_CLEAR else Step.ON

        return backward(touch.flow, touch.address, step, _BEFORE_INSNS).hits
