"""Decide cheaply whether a function may touch vcpu_info through a field, and is worth analysing.

A field's offset is a common number.  So before all values are tracked, only the
pointers loaded from such a field are.  A function is kept if it accesses a byte at
offset 0 or 1 from one, or uses one in a locked instruction or an xchg, or passes
one on and also accesses the per-CPU segment.
"""

from __future__ import annotations

from collections.abc import Mapping

from xtrace.symbols.sites.vcpu_info import MASK, VCPU_INFO_BYTES, Layout
from xtrace.symbols.x86.decode import READ, RSP, WRITE, Flow, Insn

_ARGUMENTS = (7, 6, 2, 1, 8, 9, 0)
#: The bit for "somewhere in memory" in a set of registers.
_SPILLED = 1 << 16
_SCRATCH = ~(1 << 0 | 1 << 2)


def may_touch(insns: Mapping[int, Insn], successors: Mapping[int, tuple[int, ...]], layout: Layout) -> bool:
    """Return whether a function may touch vcpu_info through one of the layout's fields."""
    looks_at_cpu = any(insn.memory is not None and insn.memory.per_cpu for insn in insns.values())
    seeds = [address for address, insn in insns.items() if _loads_field(insn, layout)]
    held: dict[int, int] = {}
    todo: list[tuple[int, int]] = [(address, 0) for address in seeds]
    while todo:
        address, registers = todo.pop()
        if address in held and held[address] | registers == held[address]:
            continue
        held[address] = registers = held.get(address, 0) | registers
        insn = insns[address]
        if registers and _touches(insn, registers, layout, looks_at_cpu):
            return True
        if insn.flow in (Flow.CALL, Flow.JUMP) and looks_at_cpu and _passes(insn, registers, successors):
            return True
        registers = _after(insn, registers, layout)
        if registers:
            todo.extend((following, registers) for following in successors[address])
    return False


def mentions(insns: Mapping[int, Insn], layout: Layout) -> bool:
    """Return whether a displacement or an immediate of a function is an address of the layout."""
    mask = (1 << layout.bits) - 1
    for insn in insns.values():
        memory = insn.memory
        if memory is not None and layout.names(memory.displacement & mask):
            return True
        if any(
            item.register < 0 and not item.memory and layout.names(item.value & mask)
            for item in insn.operands
        ):
            return True
    return False


def may_witness(insns: Mapping[int, Insn]) -> bool:
    """Return whether a function writes a byte that may be a mask, or has an xchg with memory."""
    for insn in insns.values():
        memory = insn.memory
        if memory is None or not insn.access & WRITE:
            continue
        if insn.mnemonic == "xchg":
            return True
        if memory.size == 1 and memory.displacement % VCPU_INFO_BYTES == MASK:
            return True
    return False


def _loads_field(insn: Insn, layout: Layout) -> bool:
    memory = insn.memory
    return (
        memory is not None
        and insn.access == READ
        and memory.displacement in layout.fields
        and memory.size == layout.word_bytes
    )


def _touches(insn: Insn, registers: int, layout: Layout, looks_at_cpu: bool) -> bool:
    memory = insn.memory
    if memory is None or not insn.access or memory.base < 0 or not registers >> memory.base & 1:
        return False
    if memory.displacement in (0, MASK) and (memory.size == 1 or insn.lock or looks_at_cpu):
        return True
    exchanged = insn.lock or insn.mnemonic == "xchg"
    return exchanged and memory.displacement in (0, layout.selector)


def _passes(insn: Insn, registers: int, successors: Mapping[int, tuple[int, ...]]) -> bool:
    if insn.flow is Flow.JUMP and successors[insn.address]:
        return False
    return bool(registers & _SPILLED) or any(registers >> number & 1 for number in _ARGUMENTS)


def _after(insn: Insn, registers: int, layout: Layout) -> int:
    """Return which registers hold such a pointer (or a part of one) after an instruction."""
    if insn.flow in (Flow.CALL, Flow.INDIRECT_CALL):
        return registers & _SCRATCH
    gained = 0
    operands = insn.operands
    if _loads_field(insn, layout):
        gained = sum(1 << number for number in insn.written if number != RSP)
        if insn.mnemonic == "push":
            gained = _SPILLED
    elif insn.mnemonic in ("mov", "lea", "push", "pop", "add", "xchg", "cmove", "cmovne"):
        memory = insn.memory
        source = any(item.register >= 0 and registers >> item.register & 1 for item in operands)
        if memory is not None and insn.mnemonic == "lea" and memory.base >= 0:
            source = bool(registers >> memory.base & 1)
        if (memory is not None and insn.access & WRITE) or insn.mnemonic == "push":
            gained = _SPILLED if source else 0
        elif source or (
            (memory is not None or insn.mnemonic == "pop") and registers & _SPILLED and insn.access & READ
        ):
            gained = sum(1 << number for number in insn.written if number != RSP)
    for number in insn.written:
        registers &= ~(1 << number)
    return registers | gained
