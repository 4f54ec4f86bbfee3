"""Examine the code around a touch: pending test, callback, exit, locked access, unmask, preemption."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from typing import NamedTuple

from xtrace.symbols.flow.code import Code
from xtrace.symbols.flow.interpreter import READ_BY, Call, FunctionFlow
from xtrace.symbols.flow.values import CPU, Value
from xtrace.symbols.flow.walk import Paths, Step, Ways, backward, forward
from xtrace.symbols.sites.access_kind import Touch, expected
from xtrace.symbols.sites.model import Kind
from xtrace.symbols.sites.vcpu_info import PENDING
from xtrace.symbols.x86.decode import RAX, RBX, RDI, READ, WRITE, Flow, Insn
from xtrace.symbols.xen_abi import SCHEDOP_BLOCK, Hypercall

#: How many instructions a walk may take from the touch.
_TEST_INSNS = 60
_CALLEE_INSNS = 24
_EXIT_INSNS = 160
_RANGE_INSNS = 4000
_ANSWER_INSNS = 12
_FLAG_INSNS = 6
#: What tests a register against 0, as old code does by an and or an or with itself.
_ZERO_TESTS = ("test", "and", "or")
_ARITHMETIC = frozenset(("and", "or", "xor", "add", "sub", "shr", "shl", "sar", "neg", "inc", "dec"))
#: What leaves nothing of the flags that were set before it.
_SETS_FLAGS = _ARITHMETIC | frozenset((
    "test", "cmp", "adc", "sbb", "mul", "imul", "div", "idiv", "xadd", "cmpxchg", "cmpxchg8b", "cmpxchg16b",
    "bt", "bts", "btr", "btc", "bsf", "bsr", "tzcnt", "lzcnt", "popcnt", "rol", "ror", "rcl", "rcr",
    "shld", "shrd", "popf", "popfd", "popfq", "sahf",
))  # fmt: skip
_PLAIN_MOVES = frozenset(("mov", "movzx", "movsx", "movsxd", "lea", "pop"))
_OPENS = frozenset((Kind.UNMASK, Kind.RESTORE))
_WRITES_MASK = frozenset((Kind.MASK, Kind.UNMASK, Kind.RESTORE))
#: The place from which a function is entered.
_CALLER = -1
_CALLBACK_DEPTH = 2
_MASK_BITS = 0xFF00
_PENDING_BITS = 0xFF
_EXITS = ("iret", "sysret", "sysexit")
#: Most exits that a site names.
_MOST_EXITS = 3

_BLOCKS = (Hypercall.SCHED_OP, Hypercall.SCHED_OP_COMPAT)


class Touches(dict[int, Touch]):
    """The touches of a function by address, with those after its tail jumps.

    Attributes:
        flow: the function's.
    """

    def __init__(self, flow: FunctionFlow, touches: Mapping[int, Touch]) -> None:
        super().__init__(touches)
        self.flow = flow

    @cached_property
    def mask_tests(self) -> set[int]:
        """Return the branches that depend on a test of the mask."""
        return _branches(self.flow, self.flow.users(_reads(self, (Kind.MASK_TEST,))))

    @cached_property
    def saved_tests(self) -> set[int]:
        """Return the branches that depend on what was read from the mask, by a save, a test or an exchange.

        One side of them need not open the mask again.
        """
        reads = list(_reads(self, (Kind.SAVE, Kind.MASK_TEST)))
        for item in self.values():
            if item.kind is Kind.MASK and item.insn.mnemonic in ("xchg", "cmpxchg"):
                reads += [Value(("new", item.address, number), (), 0) for number in item.insn.written]
        own = {item.address for item in self.values() if item.kind is Kind.MASK_TEST}
        return _branches(self.flow, own | self.flow.users(reads))


def _reads(touches: Touches, kinds: Collection[Kind]) -> Iterator[Value]:
    """Yield what touches of some kinds read in the function itself."""
    for item in touches.values():
        if item.kind in kinds and item.address in touches.flow.insns:
            yield Value((READ_BY, item.address), (), 0)


def _branches(flow: FunctionFlow, compared: Iterable[int]) -> set[int]:
    """Return the conditional branches that use what some instructions compare."""
    return {branch for address in compared if (branch := _branch_after(flow, address)) is not None}


def pending_test(code: Code, flow: FunctionFlow, touch: Touch, touches: Touches) -> Ways:
    """Return the pending tests that follow a restore or unmask, and on which paths.

    A path on which the mask stays set (the restored value was not 0), or that does not return, needs no
    test.  Tail jumps are followed.  An instruction that itself tests pending is its own test.
    """
    if tests_itself(flow, touch):
        return Ways((touch.address,), Paths.ALL)

    joined = code.joined(flow)

    def step(insn: Insn) -> Step:
        other = touches.get(insn.address)
        if other is None:
            return Step.SPARE if _ends_here(code, joined, insn) else Step.ON
        if other.kind is Kind.PENDING_TEST or (other is not touch and tests_itself(other.flow, other)):
            return Step.HIT
        if other.kind is Kind.MASK:
            return Step.END
        return Step.ON

    return forward(joined, touch.address, step, _TEST_INSNS, restored_forks(flow, touch, touches))


def tested_inside(code: Code, target: int, touches: Mapping[int, Touch]) -> Touch | None:
    """Return the pending test that a small function makes on each of its paths, None if it makes none."""
    if code.section(target) is None or code.hypercall(target) is not None or not code.is_small(target):
        return None
    flow = code.joined(code.flow(target))
    entered = replace(flow, successors={**flow.successors, _CALLER: (target,)})

    def step(insn: Insn) -> Step:
        other = touches.get(insn.address)
        if other is None:
            return Step.SPARE if _ends_here(code, flow, insn) else Step.ON
        if other.kind is Kind.PENDING_TEST:
            return Step.HIT
        return Step.END if other.kind in _WRITES_MASK else Step.ON

    ways = forward(entered, _CALLER, step, _CALLEE_INSNS)
    return touches[ways.hits[0]] if ways.paths is Paths.ALL else None


def tests_itself(flow: FunctionFlow, touch: Touch) -> bool:
    """Return whether an instruction that unmasks also tests pending, and a branch uses the answer.

    That is a cmpxchg of mask and pending together, which fails if pending is set; an AND that leaves pending
    alone in its result; and an xchg of both, if what it read is tested.
    """
    insn = touch.insn
    if touch.kind is not Kind.UNMASK or touch.spot.offset != PENDING or insn.address not in flow.successors:
        return False
    if insn.mnemonic == "cmpxchg":
        was = expected(insn, flow)
        clear = was is not None and was & _MASK_BITS and not was & _PENDING_BITS
        return bool(clear) and _branch_after(flow, insn.address) is not None
    if insn.mnemonic == "and":
        kept = next((item.value for item in insn.operands if item.register < 0 and not item.memory), 0)
        return kept & _PENDING_BITS == _PENDING_BITS and _branch_after(flow, insn.address) is not None
    if insn.mnemonic == "xchg":
        held = {Value(("new", insn.address, number), (), 0) for number in insn.written}
        return any(_branch_after(flow, address) is not None for address in flow.users(held))
    return False


def _ends_here(code: Code, flow: FunctionFlow, insn: Insn) -> bool:
    """Return whether a path does not go on: a trap, or a call that does not return.

    No code follows a call where the compiler knows that it does not return.
    """
    if insn.flow is not Flow.CALL:
        return insn.flow is Flow.STOP
    return not flow.successors[insn.address] or code.never_returns(insn.target)


def reread(flow: FunctionFlow, touch: Touch, tests: tuple[int, ...]) -> tuple[int, ...]:
    """Return where this CPU's pointer or number is read again between a store and its pending test."""
    wanted = set()
    for address in tests:
        access = flow.accesses.get(address)
        if access is not None and address != touch.address:
            place = access.place
            wanted |= {path[0] for path in (place.own, place.path if place.root == CPU else ()) if path}
    found: list[int] = []

    def step(insn: Insn) -> Step:
        if insn.address in tests:
            return Step.END
        access = flow.accesses.get(insn.address)
        own = access is not None and access.direct and insn.access == READ and not access.place.path
        if own and access is not None and access.place.root == CPU and access.place.offset in wanted:
            found.append(insn.address)
        return Step.ON

    if wanted:
        forward(flow, touch.address, step, _TEST_INSNS)
    return tuple(sorted(found))


def restored_forks(flow: FunctionFlow, touch: Touch, touches: Touches) -> set[int]:
    """Return the branches that depend on the restored value."""
    if touch.kind is not Kind.RESTORE:
        return set()
    stored = (touch.stored, _flipped(flow, touch.stored))
    compared = flow.users(value for value in stored if value is not None)
    made_of = _condition(flow, touch)
    if made_of is not None:
        compared.add(made_of.address)
        compared |= {at for at in flow.users(made_of.values) if flow.values[at] == made_of.values}
        compared |= flow.users(() if made_of.result is None else (made_of.result,))
    return _branches(flow, compared) | touches.mask_tests


def _flipped(flow: FunctionFlow, stored: Value | None) -> Value | None:
    """Return the value that a stored one is the opposite of, None for others: compilers test either."""
    root = stored.root if stored is not None else ()
    if not isinstance(root, tuple) or len(root) < 2 or root[0] != "new" or not isinstance(root[1], int):
        return None
    return flow.flipped.get(root[1])


class _Condition(NamedTuple):
    """The instruction whose flags became a stored value: its address, and what it compared or its result."""

    address: int
    values: tuple[Value, ...]
    result: Value | None


def _condition(flow: FunctionFlow, touch: Touch) -> _Condition | None:
    """Return what set the flags for a store by setcc, or of a value from setcc; None for other stores."""
    address: object = touch.address
    if touch.stored is not None and isinstance(touch.stored.root, tuple) and touch.stored.root[0] == "new":
        address = touch.stored.root[1]
    insn = flow.insns.get(address) if isinstance(address, int) else None
    if insn is None or not insn.mnemonic.startswith("set"):
        return None
    address = insn.address
    for _ in range(_FLAG_INSNS):
        before = flow.predecessors.get(address, ())
        if len(before) != 1:
            return None
        address = before[0]
        insn = flow.insns[address]
        if insn.mnemonic not in _SETS_FLAGS:
            continue
        if address in flow.values:
            return _Condition(address, flow.values[address], None)
        if insn.mnemonic in _ARITHMETIC and insn.written:
            return _Condition(address, (), Value(("new", address, insn.written[0]), (), 0))
        return None
    return None


def _branch_after(flow: FunctionFlow, address: int) -> int | None:
    """Return the conditional branch that uses the flags set at ``address``."""
    for _ in range(_FLAG_INSNS):
        after = flow.successors.get(address, ())
        if len(after) != 1:
            return None
        address = after[0]
        insn = flow.insns[address]
        if insn.flow is Flow.CONDITIONAL:
            return address
        # No flag survives a call.
        if insn.mnemonic in _SETS_FLAGS or insn.flow in (Flow.CALL, Flow.INDIRECT_CALL):
            return None
    return None


def opened_only_if_zero(flow: FunctionFlow, touch: Touch) -> bool:
    """Return whether a restore is on the side of a branch where its value is not 0."""
    if touch.stored is None:
        return False
    for address in flow.uses.get(touch.stored, ()):
        if flow.insns[address].mnemonic in _ZERO_TESTS:
            branch = _branch_after(flow, address)
            if branch is None:
                continue
            insn = flow.insns[branch]
            side = insn.target if insn.mnemonic == "jne" else insn.end if insn.mnemonic == "je" else None
            if side is not None and _straight(flow, side, touch.address):
                return True
    return False


def _straight(flow: FunctionFlow, start: int, goal: int) -> bool:
    for _ in range(12):
        if start == goal:
            return True
        after = flow.successors.get(start, ())
        if len(after) != 1:
            return False
        start = after[0]
    return False


def tested_before(flow: FunctionFlow, touch: Touch, touches: Touches) -> tuple[int, ...]:
    """Return the pending tests that precede a store with no mask or unmask in between."""

    def step(insn: Insn) -> Step:
        other = touches.get(insn.address)
        if other is None or other.kind in (Kind.SAVE, Kind.MASK_TEST):
            return Step.ON
        return Step.HIT if other.kind is Kind.PENDING_TEST else Step.END

    return backward(flow, touch.address, step, _TEST_INSNS).hits


def callbacks(
    code: Code, flow: FunctionFlow, tests: tuple[int, ...], *, own: bool = False
) -> tuple[int, ...]:
    """Return the calls after pending tests that force the callback, or the test's own call.

    Args:
        own: the test is a store that failed because pending is set: then SCHEDOP_block does it, too.
    """
    found: set[int] = set()
    joined = code.joined(flow)
    for test in tests:

        def step(insn: Insn) -> Step:
            if forces(code, insn, joined) or (own and blocks(code, insn, joined)):
                return Step.HIT
            return Step.ON

        if test in joined.insns and forces(code, joined.insns[test], joined):
            found.add(test)  # a function that tests and forces
        found.update(forward(joined, test, step, _TEST_INSNS).hits)
    return tuple(sorted(found))


def blocks(code: Code, insn: Insn, flow: FunctionFlow) -> bool:
    """Return whether a call is SCHEDOP_block, in which Xen clears the mask and tests pending."""
    call = flow.calls.get(insn.address)
    if call is None or code.hypercall_of(call) not in _BLOCKS:
        return False
    return _first_argument(code, call).constant == SCHEDOP_BLOCK


def forces(code: Code, insn: Insn, flow: FunctionFlow) -> bool:
    """Return whether a call or jump forces the callback, directly or through a small function."""
    call = flow.calls.get(insn.address)
    if call is None:
        return False
    number = code.hypercall_of(call)
    if number is not None:
        return number == Hypercall.XEN_VERSION and not _answer_used(flow, call)
    return call.target >= 0 and _forces_inside(code, call.target, 0)


def answered(code: Code, flow: FunctionFlow, call: Call, test: Touch) -> bool:
    """Return whether a function's pending test decides something: inside it, or by the result it returns."""
    inside = code.flow(call.target)
    returned = Value((READ_BY, test.address), (), 0) in inside.results.values()
    return not returned or _answer_used(flow, call, kept=True)


def _answer_used(flow: FunctionFlow, call: Call, *, kept: bool = False) -> bool:
    """Return whether a call's result is used, as that of a hypercall that asks for Xen's version.

    Args:
        kept: a result that is saved to the stack counts as used.
    """

    def step(insn: Insn) -> Step:
        memory = insn.memory
        sources = insn.operands[1:] if insn.mnemonic in _PLAIN_MOVES else insn.operands
        if insn.mnemonic == "mov" and insn.address not in flow.accesses and memory is not None:
            # Unoptimised code saves every result to a slot, also if nothing reads it.
            return Step.HIT if kept and insn.operands[1].register == RAX else Step.END
        if insn.mnemonic == "xor" and len({item.register for item in insn.operands}) == 1:
            return Step.END
        if any(item.register == RAX for item in sources) or (memory is not None and memory.base == RAX):
            return Step.HIT
        return Step.ON if insn.flow is Flow.NEXT and RAX not in insn.written else Step.END

    return not call.tail and bool(forward(flow, call.insn.address, step, _ANSWER_INSNS).hits)


def _first_argument(code: Code, call: Call) -> Value:
    """Return a hypercall's first argument: rdi, or ebx on i386."""
    return call.state.registers[RDI if code.image.bits == 64 else RBX]


def _forces_inside(code: Code, target: int, depth: int) -> bool:
    if depth >= _CALLBACK_DEPTH or code.section(target) is None or not code.is_small(target):
        return False
    flow = code.flow(target)
    for call in flow.calls.values():
        number = code.hypercall_of(call)
        if number is not None:
            return number == Hypercall.XEN_VERSION and not _answer_used(flow, call)
        if call.target >= 0 and _forces_inside(code, call.target, depth + 1):
            return True
    return False


def exit_behind(code: Code, flow: FunctionFlow, touch: Touch, touches: Touches) -> str:
    """Return what makes up for a missing test: on each path an exit through Xen or a test follows."""
    joined = code.joined(flow)
    exits: dict[int, str] = {}

    def step(insn: Insn) -> Step:
        other = touches.get(insn.address)
        if other is not None and other.kind is Kind.PENDING_TEST:
            return Step.HIT
        words = leaves_through_xen(code, joined, insn)
        if words:
            exits[insn.address] = words
            return Step.HIT
        if _is_guessed(insn):
            return Step.END
        return Step.SPARE if _ends_here(code, joined, insn) else Step.ON

    ways = forward(joined, touch.address, step, _EXIT_INSNS, restored_forks(flow, touch, touches))
    found = [exits[address] for address in ways.hits if address in exits]
    return "; ".join(found[:_MOST_EXITS]) if ways.paths is Paths.ALL else ""


def _is_guessed(insn: Insn) -> bool:
    """Return whether a jump's cases, if it has any, were guessed: its table is not in the instruction."""
    return insn.flow is Flow.INDIRECT_JUMP and (insn.memory is None or insn.memory.base >= 0)


def leaves_through_xen(code: Code, flow: FunctionFlow, insn: Insn) -> str:
    """Return how an instruction exits to the guest through Xen, which tests pending; "" for others."""
    if insn.mnemonic.startswith(_EXITS):
        return f"{insn.mnemonic} at {insn.address:#x}"
    call = flow.calls.get(insn.address)
    if call is None:
        return ""
    if code.hypercall_of(call) == Hypercall.IRET:
        return f"HYPERVISOR_iret at {insn.address:#x} tests pending on the way out"
    if blocks(code, insn, flow):
        return f"SCHEDOP_block at {insn.address:#x} clears the mask and tests pending"
    return ""


def masked_ranges(
    flow: FunctionFlow, touch: Touch, touches: Mapping[int, Touch]
) -> tuple[tuple[int, int], ...]:
    """Return the function's [start, end) address ranges that run between a mask and the next unmask."""
    inside: set[int] = set()

    def step(insn: Insn) -> Step:
        inside.add(insn.address)
        other = touches.get(insn.address)
        return Step.END if other is not None and other.kind in _OPENS else Step.ON

    forward(flow, touch.address, step, _RANGE_INSNS)
    ranges: list[tuple[int, int]] = []
    for address in sorted(inside):
        end = flow.insns[address].end
        if ranges and ranges[-1][1] == address:
            ranges[-1] = (ranges[-1][0], end)
        else:
            ranges.append((address, end))
    return tuple(ranges)


def reopened(
    code: Code, flow: FunctionFlow, touch: Touch, touches: Touches, opening: Collection[int]
) -> Ways:
    """Return where the mask is opened again after a mask, and on which of the paths to a return.

    A function opens it by an unmask or restore, itself, in a callee or by a tail jump, or by an exit through
    Xen, which sets the mask from the frame.  A function that may be entered masked leaves as it came.

    Args:
        opening: the starts of the functions that unmask or restore.
    """
    joined = code.joined(flow)
    if _entered_masked(joined, touches):
        return Ways((), Paths.NONE)

    def step(insn: Insn) -> Step:
        other = touches.get(insn.address)
        if other is not None and other.kind in _OPENS:
            return Step.HIT
        if leaves_through_xen(code, joined, insn) or _opens_inside(code, insn, opening):
            return Step.HIT
        call = joined.calls.get(insn.address)
        elsewhere = call is not None and call.tail and not joined.successors[insn.address]
        unknown = _is_guessed(insn) or (
            insn.flow is Flow.INDIRECT_JUMP and not joined.successors[insn.address]
        )
        return Step.SPARE if elsewhere or unknown or _ends_here(code, joined, insn) else Step.ON

    return forward(joined, touch.address, step, _RANGE_INSNS, touches.saved_tests)


def _entered_masked(flow: FunctionFlow, touches: Touches) -> bool:
    """Return whether a function may open the mask before it sets or saves it: then it is entered masked."""
    todo, seen = [flow.entry], set[int]()
    while todo:
        address = todo.pop()
        if address in seen:
            continue
        seen.add(address)
        other = touches.get(address)
        if other is not None and other.kind in _OPENS:
            return True
        if other is None or other.kind not in (Kind.MASK, Kind.SAVE):
            todo.extend(flow.successors.get(address, ()))
    return False


def _opens_inside(code: Code, insn: Insn, opening: Collection[int]) -> bool:
    """Return whether a function that is called may open the mask, itself or in a function that it calls."""
    if insn.flow is not Flow.CALL or code.section(insn.target) is None:
        return False
    start = code.window(insn.target)[0]
    if start in opening:
        return True
    if not code.is_small(insn.target):
        return False
    insns, _ = code.graph(insn.target)
    return any(
        item.flow in (Flow.CALL, Flow.JUMP) and item.target >= 0 and code.window(item.target)[0] in opening
        for item in insns.values()
        if item.target not in insns
    )


def preemption_off(code: Code, flow: FunctionFlow, touch: Touch) -> bool:
    """Return whether preemption is disabled on every path to the touch."""

    def step(insn: Insn) -> Step:
        if insn.flow is Flow.CALL:
            name = code.name(insn.target)
            if "preempt_disable" in name or "critical_enter" in name:
                return Step.HIT
            if "preempt_enable" in name or "critical_exit" in name:
                return Step.END
        access = flow.accesses.get(insn.address)
        if (
            access is not None
            and insn.mnemonic in ("inc", "add")
            and insn.access == READ | WRITE
            and access.place.root == "cpu"
        ):
            return Step.HIT
        return Step.ON

    return backward(flow, touch.address, step, _TEST_INSNS).paths is Paths.ALL
