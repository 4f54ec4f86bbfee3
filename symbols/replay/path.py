"""Choose the instructions of a site that are replayed: one path through it, each instruction once.

The path goes back from the site to the start of its function, or as far as possible, and on to the
return.  At a branch it takes the side on which more can be run, up to a return: that is the case in
which nothing is pending.  Branches are kept, but both their sides continue on the path, so code from an
untrusted image can neither loop nor leave it.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from xtrace.symbols.flow.code import Code, fence_of
from xtrace.symbols.replay.semantics import FORMS
from xtrace.symbols.x86.decode import RBP, RSP, Flow, Insn, Memory, form_name
from xtrace.symbols.x86.encode import is_general

_MOST_BEFORE, _MOST_BEHIND, _MOST_CALLEE = 40, 48, 32
_CALL_DEPTH = 3
_LOOK_AHEAD = 24
#: Further from its use a pointer's load is not taken for a part of the site.
_MOST_TO_POINTER = 12
#: What a pointer is loaded by, or copied.
_LOADS = frozenset(("mov", "lea"))
#: Limits on the instructions examined per site and per image, because nested calls multiply.
_STEPS_PER_SITE, _STEPS_PER_IMAGE = 20_000, 1_000_000
_MOST_STEPS = 400

#: Condition suffixes of j, as iced-x86 names them.
_CONDITIONS = (
    "o", "no", "b", "ae", "e", "ne", "be", "a", "s", "ns", "p", "np", "l", "ge", "le", "g",
)  # fmt: skip
_JUMPS = frozenset(f"j{name}" for name in _CONDITIONS)
#: What a function may contain besides its fence and still count as only a fence.
_IDLE = frozenset(("nop", "endbr64", "pause"))


class NotReplayableError(Exception):
    """A site cannot be replayed; the message says why."""


@dataclass(frozen=True, slots=True)
class Step:
    """One instruction of the path.

    Attributes:
        data: its bytes in the image.
        callee: the steps that a call or a tail jump executes; None for other instructions.
        fence: it is the fence in question, or its callee is only that fence.
    """

    insn: Insn
    data: bytes
    callee: tuple[Step, ...] | None = None
    fence: bool = False


@dataclass(frozen=True, slots=True)
class Way:
    """The path through a site.

    Attributes:
        pointer: index of the first instruction that the address of the site's access is loaded by; ``first``
            if none is on the path, or other work is between.
        first, last: indices of the site's own instruction and of the fence, the lower one first.
        whole: the steps are a whole call of the function, from its entry to its return.
    """

    steps: tuple[Step, ...]
    pointer: int
    first: int
    last: int
    whole: bool


def refusal(insn: Insn, data: bytes) -> str:
    """Return why an instruction is not replayed, "" if it may be; not for branches and calls."""
    named = f"{insn.mnemonic} at {insn.address:#x}"
    form = FORMS.get(form_name(data))
    if form is None:
        return f"{named} is not an instruction that is replayed"
    if not is_general(data, insn.address):
        return f"{named} uses more than general registers and plain memory operands"
    if insn.memory is not None and not form.memory:
        if insn.mnemonic == "pop":
            return f"{named} pops into memory"
        return f"{named} addresses memory with a bit offset in a register"
    written = {insn.operands[number].register for number in form.writes if number < len(insn.operands)}
    if RSP in written and insn.mnemonic not in ("mov", "add", "sub", "and", "lea"):
        return f"{named} changes the stack pointer"
    return ""


class WayFinder:
    """Find paths through the sites of one image.

    Args:
        borders: addresses of the sites' own instructions: no path crosses another site.
    """

    def __init__(self, code: Code, borders: Collection[int]) -> None:
        self._code = code
        self._borders = borders
        self._image_left = _STEPS_PER_IMAGE
        self._site_left = 0

    def way(self, address: int, fence: int, position: str) -> Way:
        """Return the path through the site at ``address`` that executes one of its fences, and no other.

        Args:
            fence: its address.  Several sites may call it: of several calls the nearest counts.
            position: "before" or "after" the site's access, or "access" if it is the access.

        Raises:
            NotReplayableError: there is no such path.
        """
        self._site_left = _STEPS_PER_SITE
        entry, insns, successors = self._function(address)
        behind = self._behind(address, insns, successors, -1 if position == "before" else fence)
        before, from_entry = self._before(
            address, entry, insns, successors, fence if position == "before" else -1
        )
        steps = (*before, *behind)
        if sum(len(_executed(step)) for step in steps) > _MOST_STEPS:
            raise NotReplayableError(f"its path executes more than {_MOST_STEPS} instructions")
        if not any(_has_fence(step) for step in steps):
            raise NotReplayableError(f"its fence at {fence:#x} is not on the chosen path")
        last = steps[-1].insn
        ends = last.flow is Flow.RETURN or (last.flow is Flow.JUMP and steps[-1].callee is not None)
        fenced = next(place for place, step in enumerate(steps) if _has_fence(step))
        first = min(len(before), fenced)
        begin = min(_pointer(steps, len(before)), first)
        return Way(steps, begin, first, max(len(before), fenced), from_entry and ends)

    def _function(self, address: int) -> tuple[int, dict[int, Insn], dict[int, tuple[int, ...]]]:
        start, _ = self._code.window(address)
        for entry in self._code.entries(start):
            insns, successors = self._code.graph(entry)
            if address in insns:
                return entry, insns, successors
        raise NotReplayableError("the code of its function could not be followed")

    def _bytes(self, insn: Insn) -> bytes:
        return self._code.image.read(insn.address, insn.length)

    def _step(self, insn: Insn, fence: int, depth: int = 0) -> Step:
        """Return an instruction as a step.

        Raises:
            NotReplayableError: it is not replayed.
        """
        self._image_left -= 1
        self._site_left -= 1
        if min(self._image_left, self._site_left) < 0:
            raise NotReplayableError("its code takes more steps to follow than any real kernel's")
        data = self._bytes(insn)
        if insn.flow in (Flow.INDIRECT_CALL, Flow.INDIRECT_JUMP, Flow.STOP):
            raise NotReplayableError(
                f"{insn.mnemonic} at {insn.address:#x} leaves the code that can be followed"
            )
        if insn.flow is Flow.RETURN:
            if insn.mnemonic != "ret" or insn.operands:
                raise NotReplayableError(f"{insn.mnemonic} at {insn.address:#x} is not a plain return")
            return Step(insn, data)
        if insn.flow is Flow.CONDITIONAL:
            if insn.mnemonic not in _JUMPS:
                raise NotReplayableError(
                    f"{insn.mnemonic} at {insn.address:#x} is not an instruction that is replayed"
                )
            return Step(insn, data)
        if insn.flow is Flow.CALL:
            callee = self._callee(insn.target, fence, depth + 1)
            return Step(insn, data, callee, _is_fence_alone(callee))
        if insn.flow is Flow.JUMP:
            return Step(insn, data)
        reason = refusal(insn, data)
        if reason:
            raise NotReplayableError(reason)
        return Step(insn, data, None, insn.address == fence)

    def _callee(self, target: int, fence: int, depth: int) -> tuple[Step, ...]:
        if depth > _CALL_DEPTH:
            raise NotReplayableError(f"calls nest too deeply at {target:#x}")
        page = self._code.hypercall_page
        if page is not None and page <= target < page + 4096:
            raise NotReplayableError(f"it makes a hypercall at {target:#x}")
        steps: list[Step] = []
        seen: set[int] = set()
        address = target
        while len(steps) < _MOST_CALLEE:
            insn = next(self._code.run(address), None)
            if insn is None or address in seen:
                raise NotReplayableError(f"the function at {target:#x} does not reach a return")
            seen.add(address)
            step = self._step(insn, fence, depth)
            steps.append(step)
            if insn.flow is Flow.RETURN:
                return tuple(steps)
            address = insn.target if insn.flow is Flow.JUMP else insn.end
        raise NotReplayableError(f"the function at {target:#x} is longer than {_MOST_CALLEE} instructions")

    def _before(
        self,
        address: int,
        entry: int,
        insns: dict[int, Insn],
        successors: dict[int, tuple[int, ...]],
        fence: int,
    ) -> tuple[list[Step], bool]:
        """Return the steps before the site, and whether they start at the function's entry."""
        sources: dict[int, list[int]] = {}
        for place, following in successors.items():
            for item in following:
                sources.setdefault(item, []).append(place)
        steps: list[Step] = []
        seen = {address}
        while len(steps) < _MOST_BEFORE:
            if address == entry:
                return steps[::-1], True
            candidates = [place for place in sources.get(address, ()) if place not in seen]
            # Prefer the predecessor that falls through to one that jumps here.
            candidates.sort(key=lambda place, to=address: insns[place].end != to)  # type: ignore[misc]
            if not candidates or candidates[0] in self._borders:
                break
            insn = insns[candidates[0]]
            try:
                step = self._step(insn, fence)
            except NotReplayableError:
                break
            if _has_fence(step):
                fence = -1
            elif any(fence_of(item) for item in _executed(step)):
                break
            steps.append(step)
            seen.add(insn.address)
            address = insn.address
        return steps[::-1], False

    def _behind(
        self, address: int, insns: dict[int, Insn], successors: dict[int, tuple[int, ...]], fence: int
    ) -> list[Step]:
        """Return the steps from the site on.

        Raises:
            NotReplayableError: the site itself, or the code up to its fence, is not replayed.
        """
        steps: list[Step] = []
        seen: set[int] = set()
        start = address
        while len(steps) < _MOST_BEHIND and address not in seen:
            if address != start and address in self._borders:
                break
            insn = insns[address]
            seen.add(address)
            try:
                step = self._step(insn, fence)
                if insn.flow is Flow.JUMP and not successors[address]:
                    callee = self._callee(insn.target, fence, 1)
                    step = Step(insn, step.data, callee, _is_fence_alone(callee))
            except NotReplayableError:
                if fence >= 0 or not steps:
                    raise
                break
            if _has_fence(step):
                fence = -1
            elif address != start and any(fence_of(item) for item in _executed(step)):
                break
            steps.append(step)
            following = successors[address]
            if not following:
                break
            address = self._better(following, insns, successors, seen)
        return _cut(steps)

    def _better(
        self,
        following: tuple[int, ...],
        insns: dict[int, Insn],
        successors: dict[int, tuple[int, ...]],
        seen: set[int],
    ) -> int:
        """Return the side of a branch on which more instructions can be replayed."""
        return max(following, key=lambda address: self._reach(address, insns, successors, seen))

    def _reach(
        self, address: int, insns: dict[int, Insn], successors: dict[int, tuple[int, ...]], seen: set[int]
    ) -> int:
        count = 0
        visited = set(seen)
        while count < _LOOK_AHEAD and address not in visited:
            visited.add(address)
            insn = insns[address]
            try:
                self._step(insn, -1)
            except NotReplayableError:
                return count
            if insn.flow is Flow.RETURN:
                return _LOOK_AHEAD
            if not successors[address]:
                return count
            address = successors[address][0]
            count += 1
        return count


def _executed(step: Step) -> list[Insn]:
    """Return the instructions that a step executes, including those of callees."""
    found = [step.insn]
    for inner in step.callee or ():
        found.extend(_executed(inner))
    return found


def _pointer(steps: tuple[Step, ...], site: int) -> int:
    """Return where the loads begin that the address of a site's access comes from; ``site`` if nowhere.

    A kernel loads the pointer to vcpu_info at the site, through one or two loads, and a fence keeps these
    from overlapping with what precedes them: they are part of its cost.
    """
    memory = steps[site].insn.memory
    wanted = _inputs(memory)
    found = site
    for place in range(site - 1, max(site - _MOST_TO_POINTER, 0) - 1, -1):
        insn = steps[place].insn
        if not wanted or steps[place].callee is not None or insn.flow is not Flow.NEXT:
            break
        set_here = wanted.intersection(insn.written)
        if not set_here:
            continue
        if RSP in set_here or RBP in set_here or insn.mnemonic not in _LOADS:
            break
        copied = (item.register for item in insn.operands[1:] if item.register >= 0 and not item.memory)
        wanted = wanted - set_here | _inputs(insn.memory) | frozenset(copied)
        found = place
    return found


def _inputs(memory: Memory | None) -> frozenset[int]:
    """Return the registers that a memory operand's address is computed from."""
    if memory is None:
        return frozenset()
    return frozenset(number for number in (memory.base, memory.index_register) if number >= 0)


def _has_fence(step: Step) -> bool:
    return step.fence or any(_has_fence(inner) for inner in step.callee or ())


def _is_fence_alone(callee: tuple[Step, ...]) -> bool:
    """Return whether a function is only the fence, with or without a frame."""
    if not any(_has_fence(step) for step in callee):
        return False
    return all(_is_idle(step) for step in callee)


def _is_idle(step: Step) -> bool:
    insn = step.insn
    if step.fence or insn.flow in (Flow.RETURN, Flow.JUMP) or insn.mnemonic in _IDLE:
        return True
    registers = [item.register for item in insn.operands]
    if insn.mnemonic in ("push", "pop"):
        return registers == [RBP]
    return insn.mnemonic == "leave" or (insn.mnemonic == "mov" and registers == [RBP, RSP])


def _cut(steps: list[Step]) -> list[Step]:
    """Drop jumps at the end, which lead nowhere here."""
    while steps and steps[-1].callee is None and steps[-1].insn.flow in (Flow.JUMP, Flow.CONDITIONAL):
        steps.pop()
    return steps
