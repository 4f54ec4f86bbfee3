"""Show that nothing uses the flags, or a register, that an exchanged instruction would have left.

The answer errs on one side only: what is not known counts as used.

Source: System V ABI, AMD64 supplement, 3.2.1 (flags and scratch registers across calls).
"""

from __future__ import annotations

from xtrace.symbols.flow.code import Code
from xtrace.symbols.x86.decode import RAX, RBP, RBX, RSP, Flow, Insn, reads_flags

_REACH_INSNS = 48
_TRAPS = frozenset(("syscall", "sysenter", "int", "int1", "int3", "into"))
#: What a register is followed through.
_NEUTRAL = frozenset(
    [
        "mov",
        "movzx",
        "movsx",
        "movsxd",
        "movabs",
        "lea",
        "nop",
        "endbr64",
        "push",
        "pop",
        "leave",
        "lfence",
        "mfence",
        "sfence",
        "xchg",
        "pause",
        "not",
        "bswap",
        "cbw",
        "cwde",
        "cdqe",
        "cwd",
        "cdq",
        "cqo",
    ]
)
#: They set all status flags and read none.
_SETTING = frozenset(("add", "sub", "cmp", "test", "and", "or", "xor", "neg", "xadd", "cmpxchg"))
_KEPT_BY_CALLEES = frozenset((RBX, RSP, RBP, 12, 13, 14, 15))
#: What a call may pass: arguments, and the number of vector registers in al.
_PASSED = frozenset((7, 6, 2, 1, 8, 9, RAX))
_OVERWRITING = frozenset(("mov", "movzx", "movsx", "movsxd", "lea", "pop"))
_LEAST_OVERWRITTEN_BYTES = 4


def flags_unused(code: Code, address: int) -> bool:
    """Return whether the code at ``address`` is certain not to use the status flags it is entered with."""
    for insn in _run(code, address):
        if insn.flow in (Flow.RETURN, Flow.CALL, Flow.INDIRECT_CALL):
            return insn.mnemonic in ("ret", "call")
        if insn.flow not in (Flow.NEXT, Flow.JUMP) or _reads_flags(code, insn):
            return False
        if insn.mnemonic in _SETTING:
            return True
    return False


def register_unused(code: Code, address: int, register: int) -> bool:
    """Return whether the code at ``address`` is certain not to use what ``register`` holds there."""
    for insn in _run(code, address):
        if insn.flow is Flow.RETURN:
            return insn.mnemonic == "ret" and register not in _KEPT_BY_CALLEES | {RAX, 2}
        if insn.flow in (Flow.CALL, Flow.INDIRECT_CALL):
            named = _named(insn)
            return register not in named | _PASSED | _KEPT_BY_CALLEES
        if insn.flow not in (Flow.NEXT, Flow.JUMP):
            return False
        if insn.flow is Flow.JUMP:
            continue
        if _overwrites(insn, register):
            return True
        if register in _named(insn) or insn.mnemonic not in _NEUTRAL | _SETTING or register in insn.written:
            return False
    return False


def _reads_flags(code: Code, insn: Insn) -> bool:
    """Return whether an instruction reads status flags, or leaves for the kernel, which may save them."""
    return insn.mnemonic in _TRAPS or reads_flags(code.image.read(insn.address, insn.length))


def _run(code: Code, address: int) -> list[Insn]:
    """Return the instructions from ``address`` on, through jumps and up to where paths part."""
    found: list[Insn] = []
    while len(found) < _REACH_INSNS:
        insn = next(code.run(address), None)
        if insn is None:
            break
        found.append(insn)
        if insn.flow not in (Flow.NEXT, Flow.JUMP):
            break
        address = insn.target if insn.flow is Flow.JUMP else insn.end
    return found


def _overwrites(insn: Insn, register: int) -> bool:
    if not insn.operands or insn.operands[0].register != register:
        return False
    first, *others = insn.operands
    if first.size < _LEAST_OVERWRITTEN_BYTES or _in_memory(insn, register):
        return False
    if insn.mnemonic in _OVERWRITING:
        return all(item.register != register for item in others)
    return insn.mnemonic == "xor" and len(others) == 1 and others[0].register == register


def _in_memory(insn: Insn, register: int) -> bool:
    memory = insn.memory
    return memory is not None and register in (memory.base, memory.index_register)


def _named(insn: Insn) -> frozenset[int]:
    named = {item.register for item in insn.operands}
    if insn.memory is not None:
        named |= {insn.memory.base, insn.memory.index_register}
    return frozenset(named)
