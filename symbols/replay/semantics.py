"""What each instruction that may be replayed does to registers, memory and flags, exactly.

FORMS is the allow-list: an instruction whose form is not in it is not replayed.  A test executes each form of
it, with registers and with memory, and compares the processor with what stands here
(tests/symbols/replay/test_forms.py).  It takes its forms from this table, so each form that is admitted is
compared.

Source: Intel SDM volume 2, the operation and the flags of each instruction.  What the manual leaves
undefined, and what processors differ in, is None as a result or absent from ``defined``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from xtrace.symbols.x86.decode import RAX, RDX

CF, PF, AF, ZF, SF, OF = 1, 1 << 2, 1 << 4, 1 << 6, 1 << 7, 1 << 11
ALL_FLAGS = CF | PF | AF | ZF | SF | OF


class Outcome(NamedTuple):
    """What an instruction leaves.

    Attributes:
        results: for each operand that it writes; None if not defined.
        flags: their values, as bits of rflags; only those of ``defined`` count.
        changed: flags that it may change; those not in ``defined`` are not defined afterwards.
        halves: numbers of results that, in a 32-bit register, may leave its upper half or clear it.
    """

    results: tuple[int | None, ...]
    flags: int = 0
    defined: int = 0
    changed: int = 0
    halves: tuple[int, ...] = ()


#: Called with the operands' sizes in bits, the values of those that are read, and the flags.
Compute = Callable[[tuple[int, ...], tuple[int, ...], int], Outcome]


@dataclass(frozen=True, slots=True)
class Form:
    """How an instruction uses its operands.

    Operands are numbered in Intel order; implied registers follow the explicit operands.

    Attributes:
        reads, writes: numbers of the operands that it reads and writes.
        compute: None for what Machine does itself: lea, push, pop, leave.
        implied: registers that it uses without naming them, with their sizes in bytes; 0 is operand 0's.
        flags: those it reads.
        memory: the memory operand may be one; False if its address would depend on more than the operand.
        register: the operand that can be memory may be a register.
        stack: how many bytes push, pop or leave move.
    """

    reads: tuple[int, ...]
    writes: tuple[int, ...]
    compute: Compute | None
    implied: tuple[tuple[int, int], ...] = ()
    flags: int = 0
    memory: bool = True
    register: bool = True
    stack: int = 0


# --- flags ---


def _shown(bits: int, result: int) -> int:
    """Return PF, ZF and SF of a result."""
    flags = 0 if (result & 0xFF).bit_count() & 1 else PF
    if not result:
        flags |= ZF
    if result >> (bits - 1):
        flags |= SF
    return flags


def _sum(bits: int, left: int, right: int, carry: int = 0) -> tuple[int, int]:
    total = left + right + carry
    result = total & ((1 << bits) - 1)
    flags = _shown(bits, result) | (left ^ right ^ result) & AF
    if total >> bits:
        flags |= CF
    if (left ^ result) & (right ^ result) & (1 << (bits - 1)):
        flags |= OF
    return result, flags


def _difference(bits: int, left: int, right: int, borrow: int = 0) -> tuple[int, int]:
    result = (left - right - borrow) & ((1 << bits) - 1)
    flags = _shown(bits, result) | (left ^ right ^ result) & AF
    if left < right + borrow:
        flags |= CF
    if (left ^ right) & (left ^ result) & (1 << (bits - 1)):
        flags |= OF
    return result, flags


def signed(value: int, bits: int) -> int:
    """Return a value of some bits as a signed number."""
    return value - (1 << bits) if value >> (bits - 1) & 1 else value


# --- arithmetic and logic ---


def _add(sizes: tuple[int, ...], values: tuple[int, ...], _flags: int) -> Outcome:
    result, after = _sum(sizes[0], *values)
    return Outcome((result,), after, ALL_FLAGS, ALL_FLAGS)


def _adc(sizes: tuple[int, ...], values: tuple[int, ...], flags: int) -> Outcome:
    result, after = _sum(sizes[0], values[0], values[1], flags & CF)
    return Outcome((result,), after, ALL_FLAGS, ALL_FLAGS)


def _sub(sizes: tuple[int, ...], values: tuple[int, ...], _flags: int) -> Outcome:
    result, after = _difference(sizes[0], *values)
    return Outcome((result,), after, ALL_FLAGS, ALL_FLAGS)


def _sbb(sizes: tuple[int, ...], values: tuple[int, ...], flags: int) -> Outcome:
    result, after = _difference(sizes[0], values[0], values[1], flags & CF)
    return Outcome((result,), after, ALL_FLAGS, ALL_FLAGS)


def _cmp(sizes: tuple[int, ...], values: tuple[int, ...], _flags: int) -> Outcome:
    return Outcome((), _difference(sizes[0], *values)[1], ALL_FLAGS, ALL_FLAGS)


def _logic(operation: Callable[[int, int], int], *, kept: bool = True) -> Compute:
    def compute(sizes: tuple[int, ...], values: tuple[int, ...], _flags: int) -> Outcome:
        result = operation(*values)
        return Outcome((result,) if kept else (), _shown(sizes[0], result), ALL_FLAGS & ~AF, ALL_FLAGS)

    return compute


def _not(sizes: tuple[int, ...], values: tuple[int, ...], _flags: int) -> Outcome:
    return Outcome((values[0] ^ ((1 << sizes[0]) - 1),))


def _neg(sizes: tuple[int, ...], values: tuple[int, ...], _flags: int) -> Outcome:
    result, after = _difference(sizes[0], 0, values[0])
    return Outcome((result,), after, ALL_FLAGS, ALL_FLAGS)


def _inc(sizes: tuple[int, ...], values: tuple[int, ...], _flags: int) -> Outcome:
    result, after = _sum(sizes[0], values[0], 1)
    return Outcome((result,), after, ALL_FLAGS & ~CF, ALL_FLAGS & ~CF)


def _dec(sizes: tuple[int, ...], values: tuple[int, ...], _flags: int) -> Outcome:
    result, after = _difference(sizes[0], values[0], 1)
    return Outcome((result,), after, ALL_FLAGS & ~CF, ALL_FLAGS & ~CF)


def _imul(sizes: tuple[int, ...], values: tuple[int, ...], _flags: int) -> Outcome:
    bits = sizes[0]
    product = signed(values[0], bits) * signed(values[1], bits)
    result = product & ((1 << bits) - 1)
    over = 0 if signed(result, bits) == product else CF | OF
    return Outcome((result,), over, CF | OF, ALL_FLAGS)


def _imul_wide(sizes: tuple[int, ...], values: tuple[int, ...], _flags: int) -> Outcome:
    """Multiply into rdx and rax; for bytes into ax."""
    bits = sizes[0]
    product = signed(values[0], bits) * signed(values[1], bits)
    low = product & ((1 << bits) - 1)
    over = 0 if signed(low, bits) == product else CF | OF
    if bits == 8:
        return Outcome((product & 0xFFFF,), over, CF | OF, ALL_FLAGS)
    return Outcome((low, product >> bits & ((1 << bits) - 1)), over, CF | OF, ALL_FLAGS)


# --- shifts ---


def _count(bits: int, value: int) -> int:
    """Return the number of places: the processor uses 5 bits of it, with 64-bit operands 6."""
    return value & (63 if bits == 64 else 31)


def _shl(sizes: tuple[int, ...], values: tuple[int, ...], _flags: int) -> Outcome:
    bits, value = sizes[0], values[0]
    count = _count(bits, values[1])
    if not count:
        return Outcome((value,))
    result = value << count & ((1 << bits) - 1)
    flags, defined = _shown(bits, result), PF | ZF | SF
    carry = value << count >> bits & 1
    if count < bits:
        flags, defined = flags | carry * CF, defined | CF
    if count == 1:
        flags, defined = flags | (carry ^ result >> (bits - 1)) * OF, defined | OF
    return Outcome((result,), flags, defined, ALL_FLAGS)


def _shr(sizes: tuple[int, ...], values: tuple[int, ...], _flags: int) -> Outcome:
    bits, value = sizes[0], values[0]
    count = _count(bits, values[1])
    if not count:
        return Outcome((value,))
    result = value >> count
    flags, defined = _shown(bits, result), PF | ZF | SF
    if count < bits:
        flags, defined = flags | (value >> (count - 1) & 1) * CF, defined | CF
    if count == 1:
        flags, defined = flags | (value >> (bits - 1)) * OF, defined | OF
    return Outcome((result,), flags, defined, ALL_FLAGS)


def _sar(sizes: tuple[int, ...], values: tuple[int, ...], _flags: int) -> Outcome:
    bits, value = sizes[0], signed(values[0], sizes[0])
    count = _count(bits, values[1])
    if not count:
        return Outcome((values[0],))
    result = value >> count & ((1 << bits) - 1)
    flags = _shown(bits, result) | (value >> (count - 1) & 1) * CF
    defined = PF | ZF | SF | CF | (OF if count == 1 else 0)
    return Outcome((result,), flags, defined, ALL_FLAGS)


def _rotate(*, left: bool) -> Compute:
    def compute(sizes: tuple[int, ...], values: tuple[int, ...], _flags: int) -> Outcome:
        bits, value = sizes[0], values[0]
        count = _count(bits, values[1])
        if not count:
            return Outcome((value,))
        by = (count if left else -count) % bits
        result = (value << by | value >> (bits - by)) & ((1 << bits) - 1)
        top = result >> (bits - 1)
        carry = result & 1 if left else top
        over = top ^ carry if left else top ^ result >> (bits - 2) & 1
        return Outcome((result,), carry * CF | over * OF, CF | (OF if count == 1 else 0), CF | OF)

    return compute


def _double(*, left: bool) -> Compute:
    """Return shld or shrd; only for 32 and 64 bits, where no count exceeds the operand."""

    def compute(sizes: tuple[int, ...], values: tuple[int, ...], _flags: int) -> Outcome:
        bits, value, source = sizes[0], values[0], values[1]
        count = _count(bits, values[2])
        if not count:
            return Outcome((value,))
        mask = (1 << bits) - 1
        if left:
            result = (value << count | source >> (bits - count)) & mask
            carry = value >> (bits - count) & 1
        else:
            result = (value >> count | source << (bits - count)) & mask
            carry = value >> (count - 1) & 1
        flags = _shown(bits, result) | carry * CF | ((value ^ result) >> (bits - 1)) * OF
        defined = PF | ZF | SF | CF | (OF if count == 1 else 0)
        return Outcome((result,), flags, defined, ALL_FLAGS)

    return compute


# --- bits ---


def _bit(operation: Callable[[int, int], int] | None) -> Compute:
    """Return bt (None), bts, btr or btc."""

    def compute(sizes: tuple[int, ...], values: tuple[int, ...], _flags: int) -> Outcome:
        place = values[1] % sizes[0]
        results = (operation(values[0], 1 << place),) if operation else ()
        # ZF is left alone; the manual leaves the others undefined.
        return Outcome(results, (values[0] >> place & 1) * CF, CF, ALL_FLAGS & ~ZF)

    return compute


def _scan(place: Callable[[int], int]) -> Compute:
    """Return bsf or bsr, whose result is not defined for 0."""

    def compute(_sizes: tuple[int, ...], values: tuple[int, ...], _flags: int) -> Outcome:
        found = place(values[0]) if values[0] else None
        return Outcome((found,), 0 if values[0] else ZF, ZF, ALL_FLAGS)

    return compute


def _differs(_sizes: tuple[int, ...], _values: tuple[int, ...], _flags: int) -> Outcome:
    """Handle tzcnt and lzcnt: older processors execute bsf and bsr instead, with other results."""
    return Outcome((None,), 0, 0, ALL_FLAGS)


def _popcnt(_sizes: tuple[int, ...], values: tuple[int, ...], _flags: int) -> Outcome:
    return Outcome((values[0].bit_count(),), 0 if values[0] else ZF, ALL_FLAGS, ALL_FLAGS)


def _reversed(sizes: tuple[int, ...], values: tuple[int, ...], _flags: int) -> Outcome:
    size = sizes[0] // 8
    return Outcome((int.from_bytes(values[0].to_bytes(size, "little"), "big"),))


# --- moves ---


def copy(_sizes: tuple[int, ...], values: tuple[int, ...], _flags: int) -> Outcome:
    """Return the value as it is: of mov and movzx."""
    return Outcome(values)


def _extend(sizes: tuple[int, ...], values: tuple[int, ...], _flags: int) -> Outcome:
    return Outcome((signed(values[0], sizes[1]) & ((1 << sizes[0]) - 1),))


def swap(_sizes: tuple[int, ...], values: tuple[int, ...], _flags: int) -> Outcome:
    """Exchange the values: of xchg."""
    return Outcome((values[1], values[0]))


def _xadd(sizes: tuple[int, ...], values: tuple[int, ...], _flags: int) -> Outcome:
    result, after = _sum(sizes[0], values[0], values[1])
    # In this order: with one register as both operands, the sum stays.
    return Outcome((values[0], result), after, ALL_FLAGS, ALL_FLAGS)


def _cmpxchg(sizes: tuple[int, ...], values: tuple[int, ...], _flags: int) -> Outcome:
    target, source, accumulator = values
    after = _difference(sizes[0], accumulator, target)[1]
    # The manual does not say whether a register is written that keeps its value; AMD's processors do not.
    if accumulator != target:
        return Outcome((target, target), after, ALL_FLAGS, ALL_FLAGS, (1,))
    return Outcome((accumulator, source), after, ALL_FLAGS, ALL_FLAGS, (0,))


def _spread(sizes: tuple[int, ...], values: tuple[int, ...], _flags: int) -> Outcome:
    """Fill a register with the sign of another."""
    return Outcome(((1 << sizes[0]) - 1 if values[0] >> (sizes[1] - 1) else 0,))


def _nothing(_sizes: tuple[int, ...], _values: tuple[int, ...], _flags: int) -> Outcome:
    return Outcome(())


def _carry(operation: Callable[[int], int]) -> Compute:
    def compute(_sizes: tuple[int, ...], _values: tuple[int, ...], flags: int) -> Outcome:
        return Outcome((), operation(flags & CF), CF, CF)

    return compute


# --- conditions ---

_TESTS: dict[str, tuple[int, Callable[[int], bool]]] = {
    "O": (OF, lambda flags: bool(flags & OF)),
    "B": (CF, lambda flags: bool(flags & CF)),
    "E": (ZF, lambda flags: bool(flags & ZF)),
    "BE": (CF | ZF, lambda flags: bool(flags & (CF | ZF))),
    "S": (SF, lambda flags: bool(flags & SF)),
    "P": (PF, lambda flags: bool(flags & PF)),
    "L": (SF | OF, lambda flags: bool(flags & SF) != bool(flags & OF)),
    "LE": (SF | OF | ZF, lambda flags: bool(flags & ZF) or bool(flags & SF) != bool(flags & OF)),
}
_OPPOSITES = {"O": "NO", "B": "AE", "E": "NE", "BE": "A", "S": "NS", "P": "NP", "L": "GE", "LE": "G"}


def _set(test: Callable[[int], bool], *, wanted: bool) -> Compute:
    return lambda _sizes, _values, flags: Outcome((int(test(flags) is wanted),))


def _move_if(test: Callable[[int], bool], *, wanted: bool) -> Compute:
    return lambda _sizes, values, flags: Outcome((values[1] if test(flags) is wanted else values[0],))


# --- the table ---

_SIZES = (8, 16, 32, 64)
_WORDS = (16, 32, 64)
_ACCUMULATORS = ("AL_IMM8", "AX_IMM16", "EAX_IMM32", "RAX_IMM32")
_IMMEDIATES = ("RM8_IMM8", "RM16_IMM16", "RM32_IMM32", "RM64_IMM32")
_SHORT = ("RM16_IMM8", "RM32_IMM8", "RM64_IMM8")
_STORES = tuple(f"RM{bits}_R{bits}" for bits in _SIZES)
_LOADS = tuple(f"R{bits}_RM{bits}" for bits in _SIZES)
_WORD_LOADS = _LOADS[1:]
_UNARY = tuple(f"RM{bits}" for bits in _SIZES)


def _of(mnemonics: str, shapes: tuple[str, ...], form: Form) -> Iterator[tuple[str, Form]]:
    for mnemonic in mnemonics.split():
        for shape in shapes:
            yield (f"{mnemonic}_{shape}" if shape else mnemonic), form


def _binary(
    mnemonics: str, shapes: tuple[str, ...], compute: Compute, flags: int = 0
) -> Iterator[tuple[str, Form]]:
    yield from _of(mnemonics, shapes, Form((0, 1), (0,), compute, flags=flags))


def _arithmetic_forms() -> Iterator[tuple[str, Form]]:
    shapes = (*_STORES, *_LOADS, *_ACCUMULATORS, *_IMMEDIATES, *_SHORT)
    for mnemonic, compute, flags in (
        ("ADD", _add, 0),
        ("ADC", _adc, CF),
        ("SUB", _sub, 0),
        ("SBB", _sbb, CF),
        ("AND", _logic(lambda left, right: left & right), 0),
        ("OR", _logic(lambda left, right: left | right), 0),
        ("XOR", _logic(lambda left, right: left ^ right), 0),
    ):
        yield from _binary(mnemonic, shapes, compute, flags)
    yield from _of("CMP", shapes, Form((0, 1), (), _cmp))
    test = Form((0, 1), (), _logic(lambda left, right: left & right, kept=False))
    again = tuple(f"{shape}_{'F6R1' if '8' in shape else 'F7R1'}" for shape in _IMMEDIATES)
    yield from _of("TEST", (*_STORES, *_ACCUMULATORS, *_IMMEDIATES, *again), test)
    for mnemonic, unary in (("NOT", _not), ("NEG", _neg), ("INC", _inc), ("DEC", _dec)):
        yield from _of(mnemonic, _UNARY, Form((0,), (0,), unary))
    yield from _of("IMUL", _WORD_LOADS, Form((0, 1), (0,), _imul))
    three = tuple(f"R{bits}_RM{bits}_IMM{size}" for bits in _WORDS for size in (8, min(bits, 32)))
    yield from _of("IMUL", three, Form((1, 2), (0,), _imul))
    yield from _of("IMUL", ("RM8",), Form((0, 1), (2,), _imul_wide, ((RAX, 1), (RAX, 2))))
    yield from _of("IMUL", _UNARY[1:], Form((0, 1), (1, 2), _imul_wide, ((RAX, 0), (RDX, 0))))


def _shift_forms() -> Iterator[tuple[str, Form]]:
    for mnemonics, compute in (
        ("SHL SAL", _shl),
        ("SHR", _shr),
        ("SAR", _sar),
        ("ROL", _rotate(left=True)),
        ("ROR", _rotate(left=False)),
    ):
        shapes = tuple(f"RM{bits}_{count}" for bits in _SIZES for count in ("IMM8", "1", "CL"))
        yield from _binary(mnemonics, shapes, compute)
    shapes = tuple(f"RM{bits}_R{bits}_{count}" for bits in (32, 64) for count in ("IMM8", "CL"))
    for mnemonic, left in (("SHLD", True), ("SHRD", False)):
        yield from _of(mnemonic, shapes, Form((0, 1, 2), (0,), _double(left=left)))


def _bit_forms() -> Iterator[tuple[str, Form]]:
    for mnemonic, operation in (
        ("BT", None),
        ("BTS", lambda value, bit: value | bit),
        ("BTR", lambda value, bit: value & ~bit),
        ("BTC", lambda value, bit: value ^ bit),
    ):
        written = (0,) if operation else ()
        compute = _bit(operation)
        yield from _of(mnemonic, _SHORT, Form((0, 1), written, compute))
        # With a bit number in a register and a string of bits in memory, they access memory anywhere.
        yield from _of(mnemonic, _STORES[1:], Form((0, 1), written, compute, memory=False))
    for mnemonic, scan in (
        ("BSF", _scan(lambda value: (value & -value).bit_length() - 1)),
        ("BSR", _scan(lambda value: value.bit_length() - 1)),
        ("TZCNT", _differs),
        ("LZCNT", _differs),
        ("POPCNT", _popcnt),
    ):
        yield from _of(mnemonic, _WORD_LOADS, Form((1,), (0,), scan))
    yield from _of("BSWAP", ("R32", "R64"), Form((0,), (0,), _reversed, memory=False))
    movbe = tuple(f"{shape[0]}{bits}_{shape[1]}{bits}" for bits in _WORDS for shape in ("RM", "MR"))
    yield from _of("MOVBE", movbe, Form((1,), (0,), _reversed, register=False))


def _move_forms() -> Iterator[tuple[str, Form]]:
    plain = Form((1,), (0,), copy)
    immediates = ("R8_IMM8", "R16_IMM16", "R32_IMM32", "R64_IMM64")
    yield from _of("MOV", (*_STORES, *_LOADS, *immediates, *_IMMEDIATES), plain)
    offsets = (("AL", 8), ("AX", 16), ("EAX", 32), ("RAX", 64))
    shapes = tuple(
        name for register, bits in offsets for name in (f"{register}_MOFFS{bits}", f"MOFFS{bits}_{register}")
    )
    yield from _of("MOV", shapes, Form((1,), (0,), copy, register=False))
    narrow = ("R16_RM8", "R32_RM8", "R64_RM8", "R32_RM16", "R64_RM16")
    yield from _of("MOVZX", narrow, plain)
    yield from _of("MOVSX", narrow, Form((1,), (0,), _extend))
    yield from _of("MOVSXD", ("R64_RM32",), Form((1,), (0,), _extend))
    yield from _of("XCHG", _STORES, Form((0, 1), (0, 1), swap))
    accumulators = ("R16_AX", "R32_EAX", "R64_RAX")
    yield from _of("XCHG", accumulators, Form((0, 1), (0, 1), swap, memory=False))
    yield from _of("XADD", _STORES, Form((0, 1), (1, 0), _xadd))
    yield from _of("CMPXCHG", _STORES, Form((0, 1, 2), (2, 0), _cmpxchg, ((RAX, 0),)))
    for name, to, source in (("CBW", 2, 1), ("CWDE", 4, 2), ("CDQE", 8, 4)):
        yield name, Form((1,), (0,), _extend, ((RAX, to), (RAX, source)), memory=False, register=False)
    for name, size in (("CDQ", 4), ("CQO", 8)):
        yield name, Form((1,), (0,), _spread, ((RDX, size), (RAX, size)), memory=False, register=False)
    for name, (flags, test) in _TESTS.items():
        for condition, wanted in ((name, True), (_OPPOSITES[name], False)):
            yield f"SET{condition}_RM8", Form((), (0,), _set(test, wanted=wanted), flags=flags)
            moved = Form((0, 1), (0,), _move_if(test, wanted=wanted), flags=flags)
            yield from _of(f"CMOV{condition}", _WORD_LOADS, moved)


def _other_forms() -> Iterator[tuple[str, Form]]:
    yield from _of("LEA", ("R16_M", "R32_M", "R64_M"), Form((), (0,), None, register=False))
    for stack, push, pop in (
        (2, ("PUSH_RM16", "PUSH_R16", "PUSH_IMM16", "PUSHW_IMM8"), ("POP_R16", "POP_RM16")),
        (8, ("PUSH_RM64", "PUSH_R64", "PUSHQ_IMM32", "PUSHQ_IMM8"), ("POP_R64", "POP_RM64")),
    ):
        for name in push:
            yield name, Form((0,), (), None, memory="RM" in name, stack=stack)
        for name in pop:
            yield name, Form((), (0,), None, memory=False, stack=stack)
    for name, stack in (("LEAVEW", 2), ("LEAVEQ", 8)):
        yield name, Form((), (), None, stack=stack, memory=False, register=False)
    idle = Form((), (), _nothing, memory=False, register=False)
    for name in ("LFENCE", "MFENCE", "SFENCE", "NOPW", "NOPD", "NOPQ", "ENDBR64", "PAUSE"):
        yield name, idle
    either = Form((), (), _nothing)
    yield from _of("NOP", ("RM16", "RM32", "RM64"), either)
    prefetch = Form((), (), _nothing, register=False)
    yield from _of("PREFETCHW PREFETCHNTA PREFETCHT0 PREFETCHT1 PREFETCHT2", ("M8",), prefetch)
    yield "CLC", Form((), (), _carry(lambda _: 0), memory=False, register=False)
    yield "STC", Form((), (), _carry(lambda _: CF), memory=False, register=False)
    yield "CMC", Form((), (), _carry(lambda carry: carry ^ CF), flags=CF, memory=False, register=False)


#: By iced-x86's name of the code, as decode.form_name() returns it.
FORMS: dict[str, Form] = dict(
    item
    for forms in (_arithmetic_forms, _shift_forms, _bit_forms, _move_forms, _other_forms)
    for item in forms()
)
