"""Functions that do nothing but fence and return."""

from __future__ import annotations

from dataclasses import dataclass

from xtrace.symbols.flow.code import Code, fence_of
from xtrace.symbols.x86.decode import RBP, RSP, Flow, Insn

_MOST_LEAF_INSNS = 12
PURE = frozenset(("lfence", "mfence", "sfence"))
_IDLE = frozenset(("nop", "endbr64", "pause"))
#: With this immediate the instruction leaves its operand as it was.
_UNCHANGING = {"add": 0, "sub": 0, "or": 0, "xor": 0, "and": -1}


class RefusedError(Exception):
    """Something cannot be exchanged; the message says why."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """A function that only fences and returns: its fences, its return, whether it changes the flags."""

    fences: tuple[Insn, ...]
    ret: Insn
    changes_flags: bool


def leaf_of(code: Code, target: int) -> Leaf:
    """Return what a function that only fences consists of.

    Raises:
        RefusedError: it does anything else.
    """
    fences: list[Insn] = []
    changes_flags = False
    address = target
    pushed = 0
    for _ in range(_MOST_LEAF_INSNS):
        insn = next(code.run(address), None)
        if insn is None:
            break
        registers = [item.register for item in insn.operands]
        if insn.flow is Flow.RETURN:
            if insn.mnemonic != "ret" or insn.operands or pushed:
                break
            return Leaf(tuple(fences), insn, changes_flags)
        if insn.flow is Flow.JUMP:
            address = insn.target
            continue
        name = fence_of(insn)
        if name.startswith("lock "):
            must_be_idle(insn)
            changes_flags = True
            fences.append(insn)
        elif name in PURE:
            fences.append(insn)
        elif insn.mnemonic == "push" and registers == [RBP] and not pushed:
            pushed = 1
        elif (insn.mnemonic == "pop" and registers == [RBP] and pushed) or (
            insn.mnemonic == "leave" and pushed == 2
        ):
            pushed = 0
        elif insn.mnemonic == "mov" and registers == [RBP, RSP] and pushed:
            pushed = 2
        elif insn.mnemonic not in _IDLE:
            break
        address = insn.end
    raise RefusedError("the function called does more than fence and return")


def must_be_idle(insn: Insn) -> None:
    """Raise if a locked instruction changes its operand."""
    value = insn.operands[-1].value if insn.operands and insn.operands[-1].register < 0 else None
    if insn.mnemonic not in _UNCHANGING or insn.operands[-1].memory or value != _UNCHANGING[insn.mnemonic]:
        raise RefusedError(f"lock {insn.mnemonic} changes memory")
