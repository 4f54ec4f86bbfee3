"""The standard sequences: mask, restore and unmask, with each fence, inline and out of line.

Each execution loads the pointer to vcpu_info as guests do, through gs and the CPU structure: a fence
keeps these loads from overlapping with what precedes it, and that is part of its cost.

Out of line is what a compiler generates for a fence in its own function: a call, and around it a frame
and a saved register for the pointer that must survive the call.  Without the fence the function needs
neither.
"""

from __future__ import annotations

from xtrace.symbols.replay.timed_loop import ARENA_ADDRESS, ARENA_BYTES, CPU_ADDRESS, Body
from xtrace.symbols.x86.decode import RAX, RBP, RBX, RCX, RSP
from xtrace.symbols.x86.encode import Assembler, At, Gpr, Label

_PENDING, _MASK = 0, 1
_VCPU_INFO = ARENA_ADDRESS
#: Offset of the pointer to vcpu_info in the CPU structure; at 0 is the structure's own address.
_POINTER = 16
_STACK_TOP = ARENA_ADDRESS + ARENA_BYTES - 0x1800 + 0x200
#: The register with the mask to restore.
_KEPT = 12


def body(kind: str, fence: str, place: str) -> Body:
    """Return a standard sequence.

    Args:
        kind: "mask", "restore" or "unmask".
        fence: one of calibration.FENCES; "" for none.
        place: "inline" or "outofline".
    """
    return _inline(kind, fence) if place == "inline" else _out_of_line(kind, fence)


def close_body(fence: str, *, first: bool, second: bool) -> Body:
    """Return a mask and a restore right after each other, as around a few instructions.

    Args:
        fence: one of calibration.FENCES.
        first, second: whether the mask and the restore have it.
    """
    of_mask, of_restore = (fence if has_it else "" for has_it in (first, second))

    def emit(asm: Assembler) -> None:
        _inline("mask", of_mask).emit(asm)
        _inline("restore", of_restore).emit(asm)

    return Body(emit, _begin, stack=_STACK_TOP)


def _begin(asm: Assembler) -> None:
    asm.op("MOV_R32_IMM32", Gpr(RSP, 4), _STACK_TOP)
    asm.op("MOV_R32_IMM32", Gpr(RBX, 4), _VCPU_INFO)
    asm.op("MOV_RM64_IMM32", At(-1, CPU_ADDRESS), CPU_ADDRESS)
    asm.op("MOV_RM64_IMM32", At(-1, CPU_ADDRESS + _POINTER), _VCPU_INFO)
    asm.op("MOV_RM8_IMM8", At(RBX, _PENDING), 0)
    asm.op("XOR_R32_RM32", Gpr(_KEPT, 4), Gpr(_KEPT, 4))


def _inline(kind: str, fence: str) -> Body:
    def emit(asm: Assembler) -> None:
        _load_pointer(asm, RBX)
        _store(asm, kind, RBX, fence if fence == "xchg" else "")
        if fence != "xchg":
            _fence(asm, fence)
        if kind != "mask":
            out = asm.label()
            _test(asm, RBX, out)
            asm.mark(out)

    return Body(emit, _begin, stack=_STACK_TOP)


def _out_of_line(kind: str, fence: str) -> Body:
    labels: dict[str, Label] = {}

    def emit(asm: Assembler) -> None:
        labels["site"], labels["fence"] = asm.label(), asm.label()
        asm.op("CALL_REL32_64", labels["site"])

    def functions(asm: Assembler) -> None:
        tests = kind != "mask"
        _align(asm)
        asm.mark(labels["site"])
        pointer = RBX if fence and tests else RAX
        if fence:
            asm.op("PUSH_R64", Gpr(RBP))
            asm.op("MOV_R64_RM64", Gpr(RBP), Gpr(RSP))
            if tests:
                asm.op("PUSH_R64", Gpr(RBX))
                asm.op("SUB_RM64_IMM8", Gpr(RSP), 8)
        _load_pointer(asm, pointer)
        _store(asm, kind, pointer, "")
        if fence:
            asm.op("CALL_REL32_64", labels["fence"])
        if tests:
            out = asm.label()
            _test(asm, pointer, out)
            asm.mark(out)
        if fence:
            if tests:
                asm.op("ADD_RM64_IMM8", Gpr(RSP), 8)
                asm.op("POP_R64", Gpr(RBX))
            asm.op("POP_R64", Gpr(RBP))
        asm.op("RETNQ")
        if fence:
            _align(asm)
            asm.mark(labels["fence"])
            _fence(asm, fence)
            asm.op("RETNQ")

    return Body(emit, _begin, functions, stack=_STACK_TOP)


def _load_pointer(asm: Assembler, register: int) -> None:
    asm.op("MOV_R64_RM64", Gpr(register), At(-1, 0, gs=True))
    asm.op("MOV_R64_RM64", Gpr(register), At(register, _POINTER))


def _store(asm: Assembler, kind: str, pointer: int, fence: str) -> None:
    """Add the store to the mask; with ``fence`` xchg, it is the fence too."""
    if kind == "mask":
        asm.op("MOVZX_R32_RM8", Gpr(RCX, 4), At(pointer, _MASK))
    if fence == "xchg":
        if kind == "restore":
            asm.op("MOV_R32_RM32", Gpr(RCX, 4), Gpr(_KEPT, 4))
        else:
            asm.op("MOV_R32_IMM32", Gpr(RCX, 4), int(kind == "mask"))
        asm.op("XCHG_RM8_R8", At(pointer, _MASK), Gpr(RCX, 1))
    elif kind == "restore":
        asm.op("MOV_RM8_R8", At(pointer, _MASK), Gpr(_KEPT, 1))
    else:
        asm.op("MOV_RM8_IMM8", At(pointer, _MASK), int(kind == "mask"))


def _fence(asm: Assembler, fence: str) -> None:
    if fence == "lock add":
        asm.op("ADD_RM64_IMM8", At(RSP, -8), 0, lock=True)
    elif fence == "xchg":
        asm.op("XCHG_RM64_R64", At(RSP, -8), Gpr(RCX))
    elif fence:
        asm.op(fence.upper())


def _test(asm: Assembler, pointer: int, out: Label) -> None:
    """Add the pending test; no event is ever pending."""
    asm.op("MOVZX_R32_RM8", Gpr(RAX, 4), At(pointer, _PENDING))
    asm.op("TEST_RM8_R8", Gpr(RAX, 1), Gpr(RAX, 1))
    asm.op("JNE_REL8_64", out)


def _align(asm: Assembler) -> None:
    for _ in range(16):
        asm.op("NOPD")
