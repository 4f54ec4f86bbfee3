"""Examine the code around a touch: pending test, callback, exit, locked access, unmask, preemption."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from xtrace.symbols.flow.code import Code, fence_of
from xtrace.symbols.flow.interpreter import READ_BY, Call, FunctionFlow
from xtrace.symbols.flow.values import Value
from xtrace.symbols.flow.walk import Paths, Step, Ways, backward, forward
from xtrace.symbols.sites.access_kind import Touch
from xtrace.symbols.sites.model import Kind
from xtrace.symbols.x86.decode import RAX, RBX, RDI, READ, WRITE, Flow, Insn
from xtrace.symbols.xen_abi import SCHEDOP_BLOCK, Hypercall

#: How many instructions a walk may take from the touch.
_TEST_INSNS = 60
_EXIT_INSNS = 160
_RANGE_INSNS = 4000
_ANSWER_INSNS = 12
#: These order only loads, or only stores.
_HALF_FENCES = ("lfence", "sfence")
_FLAG_INSNS = 6
_ARITHMETIC = frozenset(("and", "or", "xor", "add", "sub", "shr", "shl", "sar", "neg", "inc", "dec"))
_PLAIN_MOVES = frozenset(("mov", "movzx", "movsx", "movsxd", "lea", "pop"))
_OPENS = frozenset((Kind.UNMASK, Kind.RESTORE))
_CALLBACK_DEPTH = 2

Touches = Mapping[int, Touch]


def pending_test(flow: FunctionFlow, touch: Touch, touches: Touches) -> Ways:
    """Return the pending tests that follow a restore or unmask, and on which paths.

    A path on which the mask stays set (the restored value was not 0) needs no test.
    """

    def step(insn: Insn) -> Step:
        other = touches.get(insn.address)
        if other is None:
            return Step.ON
        if other.kind is Kind.PENDING_TEST:
            return Step.HIT
        if other.kind is Kind.MASK:
            return Step.END
        return Step.ON

    return forward(flow, touch.address, step, _TEST_INSNS, _forks(flow, touch, touches))


def _forks(flow: FunctionFlow, touch: Touch, touches: Touches) -> set[int]:
    """Return the branches that depend on the restored value."""
    if touch.kind is not Kind.RESTORE or touch.stored is None:
        return set()
    forks = set()
    masks = {
        Value((READ_BY, item.address), (), 0) for item in touches.values() if item.kind is Kind.MASK_TEST
    }
    made_of = _condition(flow, touch.stored)
    for address, values in flow.values.items():
        if (
            touch.stored in values
            or masks.intersection(values)
            or (made_of is not None and (values == made_of.values or made_of.result in values))
        ):
            branch = _branch_after(flow, address)
            if branch is not None:
                forks.add(branch)
    if made_of is not None:
        branch = _branch_after(flow, made_of.address)
        if branch is not None:
            forks.add(branch)
    return forks


class _Condition(NamedTuple):
    """The instruction whose flags became a stored value: its address, and what it compared or its result."""

    address: int
    values: tuple[Value, ...]
    result: Value | None


def _condition(flow: FunctionFlow, stored: Value) -> _Condition | None:
    """Return what set the flags for a stored value that comes from setcc, None for other values."""
    root = stored.root
    if not isinstance(root, tuple) or root[0] != "new" or not isinstance(root[1], int):
        return None
    address = root[1]
    if not flow.insns[address].mnemonic.startswith("set"):
        return None
    for _ in range(_FLAG_INSNS):
        before = flow.predecessors.get(address, ())
        if len(before) != 1:
            return None
        address = before[0]
        insn = flow.insns[address]
        if address in flow.values:
            return _Condition(address, flow.values[address], None)
        if insn.mnemonic in _ARITHMETIC and insn.written:
            return _Condition(address, (), Value(("new", address, insn.written[0]), (), 0))
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
        if address in flow.values or insn.flow in (Flow.CALL, Flow.INDIRECT_CALL):
            return None
    return None


def opened_only_if_zero(flow: FunctionFlow, touch: Touch) -> bool:
    """Return whether a restore is on the side of a branch where its value is not 0."""
    if touch.stored is None:
        return False
    for address, values in flow.values.items():
        if touch.stored in values and flow.insns[address].mnemonic == "test":
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


def locked_access(
    code: Code, flow: FunctionFlow, touch: Touch, touches: Touches, takers: Mapping[int, Insn]
) -> tuple[Ways, tuple[int, ...]]:
    """Return the locked accesses after a pending clear, and the selector uses that precede one.

    Args:
        takers: by entry, functions that take the selector with a locked instruction, and that instruction.
    """
    unlocked: list[int] = []

    def step(insn: Insn) -> Step:
        other = touches.get(insn.address)
        if any(fence_of(item) not in _HALF_FENCES for item in executed(code, insn, takers)):
            return Step.HIT
        if other is not None and other.kind in (Kind.SELECTOR_TAKE, Kind.DEBUG_READ):
            if other.kind is Kind.SELECTOR_TAKE:
                unlocked.append(insn.address)
            return Step.END
        return Step.ON

    return forward(flow, touch.address, step, _TEST_INSNS), tuple(unlocked)


def executed(code: Code, insn: Insn, takers: Mapping[int, Insn]) -> tuple[Insn, ...]:
    """Return the fences that an instruction executes, itself or in its callee."""
    if insn.flow is Flow.CALL:
        taker = takers.get(insn.target)
        return (taker,) if taker is not None else code.leaf_fences(insn.target) or ()
    return (insn,) if fence_of(insn) else ()


def callbacks(code: Code, flow: FunctionFlow, tests: tuple[int, ...]) -> tuple[int, ...]:
    """Return the calls after pending tests that force the callback."""
    found: set[int] = set()
    for test in tests:

        def step(insn: Insn) -> Step:
            if insn.flow in (Flow.CALL, Flow.JUMP, Flow.CONDITIONAL) and forces(code, insn, flow):
                return Step.HIT
            return Step.ON

        found.update(forward(flow, test, step, _TEST_INSNS).hits)
    return tuple(sorted(found))


def forces(code: Code, insn: Insn, flow: FunctionFlow) -> bool:
    """Return whether a call or jump forces the callback, directly or through a small function."""
    call = flow.calls.get(insn.address)
    if call is None or call.target < 0:
        return False
    number = code.hypercall_of(call)
    if number is not None:
        return number == Hypercall.XEN_VERSION and not _answer_used(flow, call)
    return _forces_inside(code, call.target, 0)


def _answer_used(flow: FunctionFlow, call: Call) -> bool:
    """Return whether a hypercall's result is used: then the call asks for Xen's version, not a callback."""

    def step(insn: Insn) -> Step:
        memory = insn.memory
        sources = insn.operands[1:] if insn.mnemonic in _PLAIN_MOVES else insn.operands
        if insn.mnemonic == "mov" and insn.address not in flow.accesses and memory is not None:
            return Step.END  # saved to a slot that nothing reads, as unoptimised code does
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


def exit_behind(code: Code, flow: FunctionFlow, touch: Touch) -> str:
    """Return what makes up for an unmask without a test: an iret or a block hypercall that follows it."""
    for call in flow.calls.values():
        number = code.hypercall_of(call)
        if (
            number in (Hypercall.SCHED_OP, Hypercall.SCHED_OP_COMPAT)
            and _first_argument(code, call).constant == SCHEDOP_BLOCK
        ):
            ways = forward(
                flow,
                touch.address,
                lambda insn, at=call.insn.address: Step.HIT if insn.address == at else Step.ON,  # type: ignore[misc]
                _TEST_INSNS,
            )
            if ways.paths is Paths.ALL:
                return f"SCHEDOP_block at {call.insn.address:#x} clears the mask and tests pending"
    address = touch.insn.end
    for _ in range(_EXIT_INSNS):
        insn = next(code.run(address), None)
        if insn is None or insn.flow in (Flow.STOP, Flow.CONDITIONAL, Flow.INDIRECT_JUMP):
            return ""
        if insn.mnemonic.startswith(("iret", "sysret", "sysexit")):
            return f"{insn.mnemonic} at {insn.address:#x}"
        if insn.flow is Flow.RETURN:
            return ""
        if insn.flow in (Flow.JUMP, Flow.CALL) and code.hypercall(insn.target) == Hypercall.IRET:
            return f"HYPERVISOR_iret at {insn.address:#x} tests pending on the way out"
        address = insn.target if insn.flow is Flow.JUMP else insn.end
    return ""


def masked_ranges(flow: FunctionFlow, touch: Touch, touches: Touches) -> tuple[tuple[int, int], ...]:
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


def reopened(flow: FunctionFlow, touch: Touch, touches: Touches) -> Ways:
    """Return the unmasks and restores that follow a mask, and on which of the paths to a return."""

    def step(insn: Insn) -> Step:
        other = touches.get(insn.address)
        if other is not None and other.kind in _OPENS:
            return Step.HIT
        return Step.SPARE if insn.flow is Flow.STOP else Step.ON

    return forward(flow, touch.address, step, _RANGE_INSNS)


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
