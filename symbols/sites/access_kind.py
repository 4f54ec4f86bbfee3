"""Classify the accesses to vcpu_info: find the touches of a function and their kinds."""

from __future__ import annotations

from dataclasses import dataclass

from xtrace.symbols.flow.code import Code
from xtrace.symbols.flow.interpreter import EXCHANGES, READ_BY, Access, Call, FunctionFlow
from xtrace.symbols.flow.values import CONSTANT, STACK, Root, Value
from xtrace.symbols.sites.model import Kind
from xtrace.symbols.sites.vcpu_info import MASK, PENDING, Layout, Spot
from xtrace.symbols.x86.decode import RBP, READ, RSP, WRITE, Flow, Insn, is_hypercall_trap

_ARGUMENTS_64 = (7, 6, 2, 1, 8, 9)
_STACK_ARGUMENTS = 16
#: The kinds of a store of non-zero, a store of 0, a store of an unknown value, and a read.
_MASK_KINDS = (Kind.MASK, Kind.UNMASK, Kind.RESTORE, Kind.MASK_TEST)
_PENDING_KINDS = (Kind.PENDING_SET, Kind.PENDING_CLEAR, Kind.PENDING_SET, Kind.PENDING_TEST)
_TESTS = frozenset(("test", "cmp", "bt"))
_SETS = frozenset(("bts", "or", "inc"))
_CLEARS = frozenset(("btr", "and", "dec"))
#: Only locked ones are accesses: nothing else does arithmetic on these bytes, but zeros decode as an add.
_LOCKED_SETS = frozenset(("add",))
_LOCKED_CLEARS = frozenset(("sub",))
_LOCKED_VALUES = frozenset(("xadd", "xor", "btc", "neg", "not", "adc", "sbb"))
#: How many instructions before a cmpxchg may compute its new value.
_COMPOSE_INSNS = 16
_COMBINES = frozenset(("and", "or", "xor", "sub"))
_STRINGS = frozenset(
    f"{name}{size}" for name in ("movs", "stos", "lods", "cmps", "scas") for size in ("b", "w", "d", "q")
)
#: How many instructions after a test may use its flags.
_FLAG_USES = 4


@dataclass(frozen=True, slots=True)
class Touch:
    """One instruction that touches a field of vcpu_info.

    Attributes:
        stored: the value that a store, xchg or cmpxchg writes to the field.
        wide: it is a plain store of more than one byte.
        direct: the instruction itself uses the per-CPU segment.
        clears_pending: it stores to the mask and, in the same store, 0 to pending.
    """

    insn: Insn
    kind: Kind
    spot: Spot
    flow: FunctionFlow
    stored: Value | None
    wide: bool
    direct: bool
    clears_pending: bool = False

    @property
    def address(self) -> int:
        """Return the instruction's address."""
        return self.insn.address


def touches(flow: FunctionFlow, layout: Layout, code: Code) -> list[Touch]:
    """Return the touches of a function, in address order."""
    found = []
    strangers = _strangers(flow, layout)
    for address in sorted(flow.accesses):
        access = flow.accesses[address]
        spot = layout.spot(access.place, access.direct)
        if spot is None or access.insn.mnemonic in _STRINGS:
            continue
        if (access.place.root, access.place.path) in strangers or _in_array(access, spot, layout):
            continue
        kind = _kind(access, spot.offset, flow, layout, code)
        if kind is not None:
            stored = _written(access, flow)
            assert access.insn.memory is not None
            wide = _wide(access)
            clears = kind in (Kind.MASK, Kind.UNMASK) and _clears_pending(access, stored, code)
            found.append(Touch(access.insn, kind, spot, flow, stored, wide, access.direct, clears))
    return found


def _clears_pending(access: Access, stored: Value | None, code: Code) -> bool:
    """Return whether a store of both bytes writes 0 to pending, whatever was there."""
    insn = access.insn
    assert insn.memory is not None
    if insn.memory.size == 1:
        return False
    number = _immediate(insn) if insn.mnemonic == "and" else None
    if _wide(access) or insn.mnemonic == "xchg":
        number = _number(stored, insn.memory.size, code) if number is None else number
    return number is not None and not number & 0xFF


def _in_array(access: Access, spot: Spot, layout: Layout) -> bool:
    """Return whether an indexed access to shared_info is to its port arrays, which are used by the word."""
    insn = access.insn
    if not access.place.indexed or insn.memory is None or insn.memory.size == 1:
        return False
    bit = next((item.value for item in insn.operands if item.register < 0 and not item.memory), None)
    takes = spot.offset == layout.selector and (insn.mnemonic == "xchg" or insn.lock)
    sets = spot.offset == PENDING and insn.lock and insn.mnemonic in _SETS and bit in (0, 1)
    return insn.memory.scale > 1 or not (takes or sets)


def _strangers(flow: FunctionFlow, layout: Layout) -> set[tuple[Root, tuple[int, ...]]]:
    """Return pointers loaded from the right field offset, but of some other structure.

    Only the running CPU's structure is certain.  A pointer from elsewhere counts as a vcpu_info pointer
    only if every access through it fits vcpu_info, and some access touches an event field.
    """
    fits: dict[tuple[Root, tuple[int, ...]], bool] = {}
    used: set[tuple[Root, tuple[int, ...]]] = set()
    offsets: dict[tuple[Root, tuple[int, ...]], set[int]] = {}
    for access in flow.accesses.values():
        place = access.place
        spot = layout.spot(place, access.direct)
        if spot is None or not spot.by_field:
            continue
        pointer = place.root, place.path
        insn = access.insn
        assert insn.memory is not None
        event = spot.offset <= MASK and (insn.memory.size == 1 or insn.lock)
        exchanged = spot.offset == layout.selector and (insn.lock or insn.mnemonic == "xchg")
        other = spot.offset >= layout.selector and not insn.access & WRITE
        fits[pointer] = fits.get(pointer, True) and (event or exchanged or other)
        if exchanged or (event and insn.lock):
            used.add(pointer)
        elif event:
            offsets.setdefault(pointer, set()).add(spot.offset)
    for pointer, touched in offsets.items():
        # A single byte access through a global pointer is too little evidence.
        if pointer[0] != CONSTANT or len(touched) > 1:
            used.add(pointer)
    return {pointer for pointer, good in fits.items() if not good or pointer not in used}


def _wide(access: Access) -> bool:
    insn = access.insn
    assert insn.memory is not None
    return bool(insn.access & WRITE) and insn.memory.size > 1 and not insn.lock and insn.mnemonic != "xchg"


def _kind(access: Access, offset: int, flow: FunctionFlow, layout: Layout, code: Code) -> Kind | None:
    memory = access.insn.memory
    assert memory is not None
    if memory.size > layout.word_bytes or not memory.size:
        return None
    if offset == layout.selector and (memory.size == layout.word_bytes or access.insn.lock):
        return _selector_kind(access, flow)
    if offset == MASK:
        return _byte_kind(access, flow, _MASK_KINDS, code)
    if offset == PENDING and memory.size == 1:
        return _byte_kind(access, flow, _PENDING_KINDS, code)
    if offset == PENDING:
        return _wide_kind(access, flow, code)
    return None


def _byte_kind(
    access: Access, flow: FunctionFlow, kinds: tuple[Kind, Kind, Kind, Kind], code: Code
) -> Kind | None:
    """Return the kind of an access to one byte; ``kinds``: set, cleared, set to an unknown value, tested."""
    insn = access.insn
    to_one, to_zero, to_value, tested = kinds
    if not insn.access & WRITE:
        return _read_kind(access, flow, tested, code)
    if insn.access & READ and insn.mnemonic not in ("xchg", "cmpxchg"):
        bit = _immediate(insn)
        if insn.mnemonic in ("or", "and") and bit is None:
            return to_value
        if insn.mnemonic in _SETS or (insn.lock and insn.mnemonic in _LOCKED_SETS):
            return to_one
        if insn.mnemonic in _CLEARS or (insn.lock and insn.mnemonic in _LOCKED_CLEARS):
            return to_zero
        return to_value if insn.lock and insn.mnemonic in _LOCKED_VALUES else None
    number = _number(_written(access, flow), 1, code)
    if number is None and insn.mnemonic == "cmpxchg":
        return _composed(insn, flow, to_one, to_zero) or to_value
    if number is None:
        return to_value
    return to_one if number & 0xFF else to_zero


def _immediate(insn: Insn) -> int | None:
    return next((item.value for item in insn.operands if item.register < 0 and not item.memory), None)


def _written(access: Access, flow: FunctionFlow) -> Value | None:
    """Return the value that an access writes to memory, None if it computes it from what is there."""
    if access.stored is None and access.insn.mnemonic in EXCHANGES[:2] and access.insn.access & WRITE:
        values = flow.values.get(access.insn.address, ())
        return values[0] if values else None
    return access.stored


def _number(value: Value | None, size: int, code: Code) -> int | None:
    """Return a value's number: a constant, or what read-only memory holds."""
    if value is None:
        return None
    if value.constant is not None:
        return value.constant
    if value.root == CONSTANT and len(value.path) == 1 and not value.offset and not value.indexed:
        section = code.image.section_at(value.path[0])
        if section is not None and not section.writable:
            data = code.image.read(value.path[0], size)
            return int.from_bytes(data, "little") if len(data) == size else None
    return None


def _composed(insn: Insn, flow: FunctionFlow, to_one: Kind, to_zero: Kind) -> Kind | None:
    """Return the kind of a cmpxchg whose new value is the old one with a bit set or cleared."""
    new = insn.operands[1].register
    spilled: tuple[int, int] | None = None  # where in the frame unoptimised code keeps it for a while
    address = insn.address
    for _ in range(_COMPOSE_INSNS):
        before = flow.predecessors.get(address, ())
        if len(before) != 1:
            return None
        address = before[0]
        earlier = flow.insns[address]
        memory = earlier.memory
        slot = (
            (memory.base, memory.displacement) if memory is not None and memory.base in (RSP, RBP) else None
        )
        if spilled is not None:
            if slot == spilled and earlier.access & WRITE:
                new, spilled = earlier.operands[1].register, None
            continue
        if new not in earlier.written:
            continue
        if earlier.mnemonic in ("mov", "movzx"):
            new = earlier.operands[1].register
            spilled = slot if new < 0 else None
            if new < 0 and slot is None:
                return None
            continue
        bit = flow.constants.get(address)
        if earlier.mnemonic == "or" and bit is not None and bit & 1:
            return to_one
        return to_zero if earlier.mnemonic == "and" and bit is not None and not bit & 1 else None
    return None


def expected(insn: Insn, flow: FunctionFlow) -> int | None:
    """Return the number that a cmpxchg expects in memory, None if that is not known."""
    values = flow.values.get(insn.address, ())
    return values[1].constant if insn.mnemonic == "cmpxchg" and len(values) > 1 else None


def _wide_kind(access: Access, flow: FunctionFlow, code: Code) -> Kind:
    """Return the kind of an access of several bytes that starts at the pending byte."""
    insn = access.insn
    assert insn.memory is not None
    if not insn.access & WRITE:
        return _read_kind(access, flow, Kind.PENDING_TEST, code)
    bit = _immediate(insn)
    if insn.mnemonic in ("bts", "btr", "btc") and bit is not None:
        if bit // 8 == MASK:
            return Kind.MASK if insn.mnemonic == "bts" else Kind.UNMASK
        return Kind.PENDING_SET if insn.mnemonic == "bts" else Kind.PENDING_CLEAR
    if insn.access & READ and insn.mnemonic not in ("xchg", "cmpxchg"):
        if insn.mnemonic == "or" and bit is not None:
            return Kind.MASK if bit & 0xFF00 else Kind.PENDING_SET
        if insn.mnemonic == "and" and bit is not None:
            return Kind.PENDING_CLEAR if bit & 0xFF00 == 0xFF00 else Kind.UNMASK
        return Kind.PENDING_SET
    number = _number(_written(access, flow), insn.memory.size, code)
    if number is None:
        return Kind.RESTORE
    was = expected(insn, flow)
    if was is not None and (was ^ number) & 0xFF00 == 0 and (was ^ number) & 0xFF:
        # The mask stays as it is.
        return Kind.PENDING_SET if number & 0xFF else Kind.PENDING_CLEAR
    return Kind.MASK if (number >> 8) & 0xFF else Kind.UNMASK


def _selector_kind(access: Access, flow: FunctionFlow) -> Kind | None:
    insn = access.insn
    if not insn.access & WRITE:
        return (
            Kind.DEBUG_READ
            if insn.mnemonic in _TESTS or not _cleared_later(access, flow)
            else Kind.SELECTOR_TAKE
        )
    written = _written(access, flow)
    emptied = insn.mnemonic == "cmpxchg" and written is not None and written.constant == 0
    if insn.mnemonic == "xchg" or insn.mnemonic in _CLEARS or emptied:
        return Kind.SELECTOR_TAKE
    # A plain store, even of 0, also loses what another CPU has set: the handler then uses a stale value.
    return Kind.SELECTOR_SET


def _cleared_later(access: Access, flow: FunctionFlow) -> bool:
    """Return whether the function also stores a plain 0 to the place that was read, or clears bits there."""
    return any(
        other.place == access.place
        and (
            (other.stored is not None and other.stored.constant == 0)
            or (other.insn.lock and other.insn.mnemonic in _CLEARS)
        )
        for other in flow.accesses.values()
    )


def _read_kind(access: Access, flow: FunctionFlow, tested: Kind, code: Code) -> Kind:
    """Return the kind of a read: a test, a saved value, or a value to print."""
    insn = access.insn
    if insn.mnemonic in _TESTS:
        return Kind.SAVE if tested is Kind.MASK_TEST and _outcome_kept(insn, flow) else tested
    read = Value((READ_BY, insn.address), (), 0)
    if insn.mnemonic in _COMBINES and _branches(insn, flow):
        return tested
    if tested is Kind.MASK_TEST and (read in flow.stored or read in flow.results.values()):
        return Kind.SAVE
    for address in flow.uses.get(read, ()):
        if flow.insns[address].mnemonic not in EXCHANGES:
            kept = tested is Kind.MASK_TEST and _outcome_kept(flow.insns[address], flow)
            return Kind.SAVE if kept else tested
    if insn.memory is not None and insn.memory.size > 1 and tested is Kind.PENDING_TEST:
        return tested
    passed = [call for call in flow.calls.values() if read in _arguments(call)]
    prints = [call for call in flow.calls.values() if _prints(call, code)]
    if any(call in prints for call in passed):
        return Kind.DEBUG_READ
    if tested is Kind.MASK_TEST:
        # A value that merges with another before a call is no longer tracked: assume that a function which
        # prints and stores nothing prints this one too.
        only_prints = prints and not passed and not any(item.stored for item in flow.accesses.values())
        return Kind.DEBUG_READ if only_prints else Kind.SAVE
    return Kind.DEBUG_READ if passed else tested


def _outcome_kept(insn: Insn, flow: FunctionFlow) -> bool:
    """Return whether a test's flags become a number (setcc, sbb, adc) instead of deciding a branch."""
    address = insn.address
    for _ in range(_FLAG_USES):
        after = flow.successors.get(address, ())
        if len(after) != 1:
            return False
        following = flow.insns[after[0]]
        if following.mnemonic.startswith("set") or following.mnemonic in ("sbb", "adc"):
            return True
        if following.flow is not Flow.NEXT:
            return False
        address = following.address
    return False


def _branches(insn: Insn, flow: FunctionFlow) -> bool:
    """Return whether a branch uses the flags of an instruction, or of one that refines its result."""
    address = insn.address
    for _ in range(_FLAG_USES):
        after = flow.successors.get(address, ())
        if len(after) != 1:
            return False
        following = flow.insns[after[0]]
        if following.flow is Flow.CONDITIONAL:
            return True
        if following.mnemonic not in _COMBINES:
            return False
        address = following.address
    return False


def _arguments(call: Call) -> list[Value]:
    """Return the possible arguments of a call: argument registers and the top of the stack."""
    values = [call.state.registers[number] for number in _ARGUMENTS_64]
    pointer = call.state.registers[4]
    if pointer.root == STACK:
        slots = [call.state.slots.get(pointer.offset + 4 * number) for number in range(_STACK_ARGUMENTS)]
        values.extend(slot for slot in slots if slot is not None)
    return values


def _prints(call: Call, code: Code) -> bool:
    """Return whether a call prints: by its name, or as a variadic call: al (vector registers) is 0."""
    name = code.name(call.target).lower() if call.target >= 0 else ""
    if is_hypercall_trap(call.insn):
        return False
    return (
        "print" in name
        or "panic" in name
        or (code.image.bits == 64 and call.state.registers[0].constant == 0)
    )
