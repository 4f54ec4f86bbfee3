"""Follow values through one function: which pointer each memory access goes through.

This is a forward abstract interpretation of the function's instructions.  A state holds the value of
each register and of each stack slot; where paths meet, their states are merged.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from heapq import heapify, heappop, heappush

from xtrace.symbols.flow.values import (
    CPU,
    STACK,
    ZERO,
    Value,
    added,
    constant,
    indexed,
    loaded,
    merged,
    moved,
    scaled,
)
from xtrace.symbols.x86.decode import (
    RAX,
    RBP,
    RDX,
    READ,
    REGISTERS,
    RSP,
    WRITE,
    Flow,
    Insn,
    Memory,
    Operand,
    is_hypercall_trap,
)

#: The root of a byte that an instruction read: (READ_BY, the instruction's address).
READ_BY = "read"
#: What an unknown callee is assumed to change.  The calling convention lets it change more, but compiled
#: code does not read those registers before it writes them, except where the compiler saw that the callee
#: leaves one alone: then the value is indeed still there.
RESULTS = (RAX, RDX)
_MOVES = frozenset(("mov", "movzx", "movsx", "movsxd", "movabs"))
_STEPS_PER_BLOCK = 12
#: Copying a block's state and merging it costs as much as this many instructions.
_STEPS_TO_MEET = 3
#: Copying and comparing this many stack slots costs as much as an instruction.
_SLOTS_PER_STEP = 8
#: A copy of at least this many bytes counts as a copy of the whole value: nothing uses half a pointer.
_LEAST_COPY_BYTES = 4
#: A displacement smaller than this is certainly a field's offset.
_NEAR_BYTES = 0x1000
_WIDEST_BYTES = 8
#: Where a state keeps known numbers in ah, ch, dh and bh: far from any stack slot.
_HIGH_BYTES = 1 << 60
#: What pusha pushes, in the order of the registers' numbers.
_PUSHED_REGISTERS = 8
_TRAPS = frozenset(("syscall", "int"))
#: Instructions that write a register's value to memory and read what was there.
EXCHANGES = ("xchg", "cmpxchg", "xadd")


#: Instructions by address, and the successors of each.
Graph = tuple[dict[int, Insn], dict[int, tuple[int, ...]]]


@dataclass(slots=True)
class State:
    """What registers and stack slots (by distance from the stack pointer at entry) hold."""

    registers: list[Value]
    slots: dict[int, Value]

    def copy(self) -> State:
        """Return an independent copy."""
        return State(self.registers.copy(), self.slots.copy())


def entry_state() -> State:
    """Return the state at a function's entry, where each register has a root of its own."""
    registers = [Value(("entry", number), (), 0) for number in range(REGISTERS)]
    registers[RSP] = Value(STACK, (), 0)
    return State(registers, {})


@dataclass(frozen=True, slots=True)
class Access:
    """One memory access: where, and what it reads or writes.

    Attributes:
        place: the address as a value.
        direct: the operand itself has the per-CPU segment prefix.
        stored: the value written, if it is a plain store.
    """

    insn: Insn
    place: Value
    direct: bool
    stored: Value | None


@dataclass(frozen=True, slots=True)
class Call:
    """A call, or a jump out of the function (``tail``), with the state before it.

    An instruction that enters Xen is one too; its target, like that of an indirect call, is -1.
    """

    insn: Insn
    target: int
    tail: bool
    state: State


@dataclass(frozen=True, slots=True)
class Callee:
    """What a call does to its caller: the registers it changes, and the value that it returns in rax."""

    written: tuple[int, ...]
    result: Value | None


@dataclass
class FunctionFlow:
    """A function's instructions, their successors, and what they access.

    Attributes:
        successors: inside the function; that of a call is the instruction after it.
        accesses: by address, memory accesses other than to stack slots.
        values: by address, the values that an instruction compares, tests (also by an and or an or with
            itself) or exchanges; of a cmpxchg the new value, then the expected one.
        calls: by address of the call or jump.
        results: the value of rax at each return, by address.
        changed: registers that do not hold at each return what they held at the entry.
        constants: by address, the number with which an and or an or combines, if it is known.
        flipped: by address of an xor with a number, what it was applied to.
    """

    entry: int
    insns: dict[int, Insn]
    successors: dict[int, tuple[int, ...]]
    accesses: dict[int, Access] = field(default_factory=dict)
    values: dict[int, tuple[Value, ...]] = field(default_factory=dict)
    calls: dict[int, Call] = field(default_factory=dict)
    results: dict[int, Value] = field(default_factory=dict)
    changed: set[int] = field(default_factory=set)
    constants: dict[int, int] = field(default_factory=dict)
    flipped: dict[int, Value] = field(default_factory=dict)

    @cached_property
    def uses(self) -> dict[Value, tuple[int, ...]]:
        """Return the instructions that compare, test or exchange each value."""
        found: dict[Value, list[int]] = {}
        for address, values in self.values.items():
            for value in dict.fromkeys(values):
                found.setdefault(value, []).append(address)
        return {value: tuple(addresses) for value, addresses in found.items()}

    @cached_property
    def stored(self) -> frozenset[Value]:
        """Return the values that plain stores write to memory."""
        return frozenset(item.stored for item in self.accesses.values() if item.stored is not None)

    def users(self, values: Iterable[Value]) -> set[int]:
        """Return the instructions that compare, test or exchange one of some values."""
        return {address for value in values for address in self.uses.get(value, ())}

    @cached_property
    def predecessors(self) -> dict[int, tuple[int, ...]]:
        """Return the predecessors of each instruction."""
        before: dict[int, list[int]] = {}
        for address, after in self.successors.items():
            for following in after:
                before.setdefault(following, []).append(address)
        return {address: tuple(items) for address, items in before.items()}


def explore(
    decode: Callable[[int], Iterable[Insn]],
    entries: Iterable[int],
    inside: Callable[[int], bool],
    limit: int,
    no_return: Container[int] = (),
    cases: Callable[[Insn], tuple[int, ...]] = lambda _: (),
    known: Graph | None = None,
) -> Graph:
    """Return the instructions that are reached from ``entries``, and their successors.

    Args:
        decode: returns the instructions from an address on, in memory order.
        inside: whether an address belongs to the function.
        limit: the most instructions to follow.
        no_return: functions that do not return.
        cases: where an indirect jump may go.
        known: a graph from before, which is extended in place.
    """
    insns, successors = known or ({}, {})
    todo = list(entries)
    while todo:
        address = todo.pop()
        if address in insns or not inside(address):
            continue
        for insn in decode(address):
            address = insn.address
            if address in insns or len(insns) >= limit or not inside(address):
                break
            insns[address] = insn
            flow = insn.flow
            if (
                flow is Flow.NEXT
                or flow is Flow.INDIRECT_CALL
                or (flow is Flow.CALL and insn.target not in no_return)
            ):
                successors[address] = (insn.end,)
                continue
            after: tuple[int, ...] = ()
            if flow is Flow.CONDITIONAL:
                after = (insn.end, insn.target) if inside(insn.target) else (insn.end,)
            elif flow is Flow.JUMP and inside(insn.target):
                after = (insn.target,)
            elif flow is Flow.INDIRECT_JUMP:
                after = tuple(item for item in cases(insn) if inside(item))
            successors[address] = after
            todo.extend(after)
            break
    for address, after in successors.items():
        if not all(item in insns for item in after):
            successors[address] = tuple(item for item in after if item in insns)
    return insns, successors


class ExhaustedError(Exception):
    """An image requires more work than any kernel does."""


@dataclass(slots=True)
class Budget:
    """Work that may still be spent on one image, in instructions."""

    left: int

    def spend(self, steps: int) -> None:
        """Subtract some steps.

        Raises:
            ExhaustedError: fewer than that are left.
        """
        self.left -= steps
        if self.left < 0:
            raise ExhaustedError


class Interpreter:
    """Interpret a function's instructions over values until nothing changes.

    Args:
        bits: 32 or 64.
        callee: returns what a direct call does, None where that is not known.
        budget: what may be spent on the image.
    """

    def __init__(self, bits: int, callee: Callable[[int], Callee | None], budget: Budget) -> None:
        self._budget = budget
        self._word = bits // 8
        self._callee = callee

    def run(
        self,
        entry: int,
        insns: dict[int, Insn],
        successors: dict[int, tuple[int, ...]],
        state: State,
    ) -> FunctionFlow:
        """Return what the function does when entered at ``entry`` in ``state``."""
        flow = FunctionFlow(entry, insns, successors)
        blocks = _blocks(insns, successors, entry)
        states: dict[int, State] = {entry: state}
        # Lower addresses first: code mostly runs forwards, so most blocks settle at once.
        todo = list(states)
        heapify(todo)
        waiting = set(todo)
        turns = _STEPS_PER_BLOCK * len(blocks)
        while todo and turns:
            turns -= 1
            start = heappop(todo)
            waiting.discard(start)
            current = states[start].copy()
            self._budget.spend(len(blocks[start]) + len(current.slots) // _SLOTS_PER_STEP + _STEPS_TO_MEET)
            last = start
            for address in blocks[start]:
                self._step(insns[address], current, None)
                last = address
            for following in successors[last]:
                known = states.get(following)
                if known is None:
                    states[following] = current.copy()
                elif not _meet(known, current, following):
                    continue
                if following not in waiting:
                    waiting.add(following)
                    heappush(todo, following)
        for start, block in blocks.items():
            if start in states:
                current = states[start].copy()
                for address in block:
                    self._step(insns[address], current, flow)
        return flow

    def place(self, memory: Memory, state: State) -> Value:
        """Return the address that a memory operand names."""
        if memory.per_cpu:
            value = Value(CPU, (), memory.displacement)
            for register in (memory.base, memory.index_register):
                if register >= 0:
                    index = state.registers[register]
                    number = index.constant
                    value = indexed(value, index) if number is None else moved(value, _signed(number))
            return value
        value = ZERO if memory.base < 0 else state.registers[memory.base]
        if memory.index_register >= 0:
            index = state.registers[memory.index_register]
            number = index.constant
            if memory.scale == 1:
                # Either of the two may be the pointer.
                plain = indexed(value, index) if number is None else moved(value, _signed(number))
                value = added(value, index) or plain
            elif number is not None:
                value = moved(value, _signed(number) * memory.scale)
            else:
                value = indexed(value, index)
        by = memory.displacement
        if not by:
            return value
        if value.root == STACK or -_NEAR_BYTES < by < _NEAR_BYTES:
            return moved(value, by)
        return added(value, constant(by)) or moved(value, by)

    def _step(self, insn: Insn, state: State, flow: FunctionFlow | None) -> None:
        place = None
        if insn.memory is not None and insn.access:
            place = self.place(insn.memory, state)
            if flow is not None and place.root != STACK:
                flow.accesses[insn.address] = Access(
                    insn, place, insn.memory.per_cpu, self._stored(insn, state)
                )
        if flow is not None:
            self._note(insn, place, state, flow)
        handler = _HANDLERS.get(insn.mnemonic)
        if handler is not None and handler(self, insn, place, state):
            return
        if insn.flow is Flow.CALL or insn.flow is Flow.INDIRECT_CALL:
            self._call(insn, state)
            return
        if insn.mnemonic in _TRAPS and is_hypercall_trap(insn):
            state.registers[RAX] = Value(("result", insn.address, RAX), (), 0)
        for register in insn.written:
            if register != RSP:
                state.registers[register] = Value(("new", insn.address, register), (), 0)
        if place is not None and place.root == STACK and insn.access & WRITE:
            state.slots.pop(place.offset, None)

    def _stored(self, insn: Insn, state: State) -> Value | None:
        if not insn.access & WRITE or insn.access & READ or len(insn.operands) < 2:
            return None
        source = insn.operands[1]
        if source.register >= 0:
            return Value(("high", insn.address), (), 0) if source.high else state.registers[source.register]
        return constant(source.value)

    def _note(self, insn: Insn, place: Value | None, state: State, flow: FunctionFlow) -> None:
        """Record what callers of ``run`` ask for: compared values, calls, results."""
        if insn.mnemonic in ("test", "cmp"):
            values = [state.registers[item.register] for item in insn.operands if item.register >= 0]
            if place is not None:
                values.append(self._fetch(insn, place, state))
            flow.values[insn.address] = tuple(values)
        elif insn.mnemonic in ("and", "or") and len(insn.operands) > 1:
            self._note_combined(insn, state, flow)
        elif insn.mnemonic == "xor" and place is None and insn.operands[1].register < 0:
            flow.flipped[insn.address] = state.registers[insn.operands[0].register]
        elif insn.mnemonic in EXCHANGES and place is not None:
            registers = [item.register for item in insn.operands if item.register >= 0]
            if insn.mnemonic == "cmpxchg":
                registers.append(RAX)
            flow.values[insn.address] = tuple(state.registers[number] for number in registers)
        if insn.flow is Flow.NEXT and insn.mnemonic not in _TRAPS:
            return
        if insn.flow in (Flow.CALL, Flow.INDIRECT_CALL) or is_hypercall_trap(insn):
            flow.calls[insn.address] = Call(insn, insn.target, False, state.copy())
        elif (
            insn.flow in (Flow.JUMP, Flow.CONDITIONAL) and insn.target not in flow.successors[insn.address]
        ) or (insn.flow is Flow.INDIRECT_JUMP and _is_fixed(insn.memory)):
            flow.calls[insn.address] = Call(insn, insn.target, True, state.copy())
        elif insn.flow is Flow.RETURN:
            flow.results[insn.address] = state.registers[RAX]
            flow.changed.update(
                number
                for number, value in enumerate(state.registers)
                if number != RSP and value != Value(("entry", number), (), 0)
            )

    @staticmethod
    def _note_combined(insn: Insn, state: State, flow: FunctionFlow) -> None:
        target, source = insn.operands[0], insn.operands[1]
        number = _number(source, state)
        if number is not None and not source.memory:
            flow.constants[insn.address] = number
        if target.register >= 0 and target == source:
            flow.values[insn.address] = (state.registers[target.register],)

    def _call(self, insn: Insn, state: State) -> None:
        callee = self._callee(insn.target) if insn.flow is Flow.CALL else None
        result = None
        if callee is not None and callee.result is not None:
            result = _in_caller(callee.result, state, self._word)
        written = RESULTS if callee is None else callee.written
        for register in written:
            state.registers[register] = Value(("result", insn.address, register), (), 0)
        if result is not None:
            state.registers[RAX] = result

    # Handlers return whether they handled the instruction completely.

    def _move(self, insn: Insn, place: Value | None, state: State) -> bool:
        target, source = insn.operands[0], insn.operands[1]
        if source.memory and place is not None:
            value = self._fetch(insn, place, state)
        elif source.register >= 0:
            value = state.registers[source.register]
            if source.high or (source.size < _LEAST_COPY_BYTES and not _survives_copying(value)):
                return False
        else:
            value = constant(source.value)
        if target.memory:
            if place is not None and place.root == STACK and not place.indexed:
                state.slots[place.offset] = value
            return True
        if target.high and value.constant is not None:
            state.slots[_HIGH_BYTES + target.register] = Value(
                ("high", insn.address), (), value.constant & 0xFF
            )
        if target.register < 0 or target.high:
            return False
        state.registers[target.register] = value
        return True

    def _fetch(self, insn: Insn, place: Value, state: State) -> Value:
        """Return the value that a load from ``place`` yields."""
        if place.root == STACK:
            known = None if place.indexed else state.slots.get(place.offset)
            return known or Value(("slot", place.offset), (), 0)
        if insn.memory is not None and insn.memory.size == 1:
            # A byte is not a pointer: what matters is which instruction read it.
            return Value((READ_BY, insn.address), (), 0)
        return loaded(place)

    def _lea(self, insn: Insn, _place: Value | None, state: State) -> bool:
        if insn.memory is None or insn.operands[0].size < self._word:
            return False
        memory = insn.memory
        # Without a base, it multiplies; or it names an element of a table.
        if memory.base < 0 <= memory.index_register and abs(memory.displacement) < _NEAR_BYTES:
            return False
        state.registers[insn.operands[0].register] = self.place(memory, state)
        return True

    def _add(self, insn: Insn, place: Value | None, state: State) -> bool:
        target, source = insn.operands[0], insn.operands[1]
        if target.register < 0 or target.size < self._word:
            return False
        if source.memory and place is not None:
            by = self._fetch(insn, place, state)
        elif source.register >= 0:
            by = state.registers[source.register]
        else:
            by = constant(source.value)
        if insn.mnemonic == "sub":
            number = by.constant
            if source.register == target.register:
                state.registers[target.register] = ZERO
                return True
            if number is None:
                return False
            by = constant(-number)
        total = added(state.registers[target.register], by)
        if total is None:
            return False
        state.registers[target.register] = total
        return True

    def _xor(self, insn: Insn, _place: Value | None, state: State) -> bool:
        target, source = insn.operands[0], insn.operands[1]
        if target.register < 0 or target.register != source.register or target.high or source.high:
            return False
        state.registers[target.register] = ZERO
        return True

    def _and(self, insn: Insn, _place: Value | None, state: State) -> bool:
        # Aligning the stack pointer moves all slots alike; masking a byte that was read keeps its origin.
        register = insn.operands[0].register
        kept = register == RSP or insn.operands[0] == insn.operands[1]
        return register >= 0 and (kept or _survives_narrowing(state.registers[register]))

    def _or(self, insn: Insn, _place: Value | None, _state: State) -> bool:
        return insn.operands[0].register >= 0 and insn.operands[0] == insn.operands[1]

    def _scale(self, insn: Insn, _place: Value | None, state: State) -> bool:
        """Shift or multiply a number: what is computed from this CPU's number stays this CPU's."""
        target, factor = insn.operands[0].register, insn.operands[-1]
        source = insn.operands[1] if len(insn.operands) > 2 else insn.operands[0]
        if target < 0 or source.register < 0:
            return False
        value = state.registers[source.register]
        number = value.constant
        if number is not None and insn.mnemonic in ("shl", "sal") and factor.register < 0 and target != RSP:
            shift = factor.value & (63 if insn.operands[0].size == _WIDEST_BYTES else 31)
            mask = (1 << 8 * insn.operands[0].size) - 1
            state.registers[target] = constant((number << shift) & mask)
            return True
        result = scaled(value)
        if result is None:
            return False
        state.registers[target] = result
        return True

    def _extend(self, insn: Insn, _place: Value | None, state: State) -> bool:
        """Extend the sign of rax: its value, or what it was computed from, stays."""
        return True

    def _push(self, insn: Insn, place: Value | None, state: State) -> bool:
        operand = insn.operands[0]
        pointer = moved(state.registers[RSP], insn.stacked)
        if operand.register >= 0:
            value = state.registers[operand.register]
        elif place is not None:
            value = self._fetch(insn, place, state)
        else:
            value = constant(operand.value)
        state.registers[RSP] = pointer
        if pointer.root == STACK and -insn.stacked == self._word:
            state.slots[pointer.offset] = value
        return True

    def _pop(self, insn: Insn, _place: Value | None, state: State) -> bool:
        pointer = state.registers[RSP]
        operand = insn.operands[0]
        state.registers[RSP] = moved(pointer, insn.stacked)
        if operand.register >= 0 and insn.stacked < self._word:
            state.registers[operand.register] = Value(("new", insn.address, operand.register), (), 0)
        elif operand.register >= 0:
            value = state.slots.get(pointer.offset) if pointer.root == STACK else None
            state.registers[operand.register] = value or Value(("slot", pointer.offset), (), 0)
        return True

    def _leave(self, insn: Insn, _place: Value | None, state: State) -> bool:
        frame = state.registers[RBP]
        state.registers[RSP] = moved(frame, insn.stacked)
        if insn.stacked < self._word:
            state.registers[RBP] = Value(("new", insn.address, RBP), (), 0)
            return True
        saved = state.slots.get(frame.offset) if frame.root == STACK else None
        state.registers[RBP] = saved or Value(("slot", frame.offset), (), 0)
        return True

    def _enter(self, insn: Insn, _place: Value | None, state: State) -> bool:
        pointer = state.registers[RSP]
        frame = moved(pointer, -self._word)
        if frame.root == STACK:
            state.slots[frame.offset] = state.registers[RBP]
        state.registers[RBP] = frame
        state.registers[RSP] = moved(pointer, insn.stacked)
        return True

    def _flags(self, insn: Insn, _place: Value | None, state: State) -> bool:
        """Push or pop the flags."""
        pointer = moved(state.registers[RSP], insn.stacked)
        state.registers[RSP] = pointer
        if pointer.root == STACK and insn.stacked < 0:
            for offset in range(-insn.stacked):
                state.slots.pop(pointer.offset + offset, None)
        return True

    def _push_all(self, insn: Insn, _place: Value | None, state: State) -> bool:
        pointer = state.registers[RSP]
        if pointer.root == STACK and -insn.stacked == _PUSHED_REGISTERS * self._word:
            for number in range(_PUSHED_REGISTERS):
                state.slots[pointer.offset - (number + 1) * self._word] = state.registers[number]
        state.registers[RSP] = moved(pointer, insn.stacked)
        return True

    def _pop_all(self, insn: Insn, _place: Value | None, state: State) -> bool:
        pointer = moved(state.registers[RSP], insn.stacked)
        whole = pointer.root == STACK and insn.stacked == _PUSHED_REGISTERS * self._word
        for number in range(_PUSHED_REGISTERS):
            if number == RSP:
                continue
            offset = pointer.offset - (number + 1) * self._word
            value = state.slots.get(offset) if whole else None
            state.registers[number] = value or Value(("new", insn.address, number), (), 0)
        state.registers[RSP] = pointer
        return True

    def _exchange(self, insn: Insn, place: Value | None, state: State) -> bool:
        left, right = insn.operands[0], insn.operands[1]
        if place is None and left.register >= 0 and right.register >= 0 and left.size >= self._word:
            registers = state.registers
            registers[left.register], registers[right.register] = (
                registers[right.register],
                registers[left.register],
            )
            return True
        return False


_Handler = Callable[[Interpreter, Insn, Value | None, State], bool]
_HANDLERS: dict[str, _Handler] = {
    **dict.fromkeys(_MOVES, Interpreter._move),
    "lea": Interpreter._lea,
    "add": Interpreter._add,
    "sub": Interpreter._add,
    "xor": Interpreter._xor,
    "and": Interpreter._and,
    "or": Interpreter._or,
    "push": Interpreter._push,
    "pop": Interpreter._pop,
    "leave": Interpreter._leave,
    "enter": Interpreter._enter,
    **dict.fromkeys(("pushf", "pushfd", "pushfq", "popf", "popfd", "popfq"), Interpreter._flags),
    **dict.fromkeys(("pusha", "pushad"), Interpreter._push_all),
    **dict.fromkeys(("popa", "popad"), Interpreter._pop_all),
    **dict.fromkeys(("shl", "sal", "shr", "sar", "imul"), Interpreter._scale),
    "cdqe": Interpreter._extend,
    "xchg": Interpreter._exchange,
}


def _number(source: Operand, state: State) -> int | None:
    """Return the number that a register or an immediate holds, None if it is not known."""
    if source.register < 0:
        return source.value
    value = state.registers[source.register]
    if not source.high:
        return value.constant
    high = state.slots.get(_HIGH_BYTES + source.register)
    # Any later write of the register replaces the value that the move to its high byte left there.
    valid = high is not None and value.root == ("new", high.root[1], source.register)
    return high.offset if high is not None and valid else None


def _is_fixed(memory: Memory | None) -> bool:
    """Return whether an operand is at a fixed address."""
    return memory is not None and not memory.per_cpu and memory.base < 0 and memory.index_register < 0


def _survives_narrowing(value: Value) -> bool:
    """Return whether part of a value counts as that value: a known number, or a byte that was read."""
    return value.constant is not None or (isinstance(value.root, tuple) and value.root[0] == READ_BY)


def _survives_copying(value: Value) -> bool:
    """Return whether a copy of part of a register counts as its value: no pointer is copied by the byte."""
    return _survives_narrowing(value) or (isinstance(value.root, tuple) and not value.path)


def _in_caller(value: Value, state: State, word: int) -> Value | None:
    """Return a callee's value in its caller's terms, at the call."""
    if isinstance(value.root, str):
        return value if value.root != STACK else None
    base: Value | None = None
    if value.root[0] == "entry" and isinstance(value.root[1], int):
        base = state.registers[value.root[1]]
    elif value.root[0] == "slot" and isinstance(value.root[1], int):
        # The caller's stack pointer, before the call pushed the return address.
        pointer = state.registers[RSP]
        base = state.slots.get(pointer.offset + value.root[1] - word) if pointer.root == STACK else None
    if base is None:
        return None
    for offset in value.path:
        base = loaded(moved(base, offset))
    return moved(base, value.offset)


def _meet(known: State, other: State, where: int) -> bool:
    """Weaken ``known`` to what also holds in ``other``; return whether that changed it."""
    changed = False
    if known.registers != other.registers:
        for number, (value, theirs) in enumerate(zip(known.registers, other.registers, strict=True)):
            if value is not theirs and value != theirs:
                result = merged(value, theirs, (where, number))
                if result != value:
                    known.registers[number] = result
                    changed = True
    if known.slots == other.slots:
        return changed
    for offset in list(known.slots):
        value = known.slots[offset]
        slot = other.slots.get(offset)
        if slot is None:
            del known.slots[offset]
            changed = True
        elif slot != value:
            result = merged(value, slot, (where, "slot", offset))
            if result != value:
                known.slots[offset] = result
                changed = True
    return changed


def _blocks(
    insns: dict[int, Insn], successors: dict[int, tuple[int, ...]], entry: int
) -> dict[int, list[int]]:
    """Return the basic blocks, as lists of addresses, by their first address."""
    leaders = {entry}
    for address, after in successors.items():
        insn = insns[address]
        if insn.flow in (Flow.CONDITIONAL, Flow.JUMP, Flow.INDIRECT_JUMP):
            leaders.update(after)
    blocks = {}
    for leader in leaders:
        if leader not in insns:
            continue
        block = [leader]
        while True:
            after = successors[block[-1]]
            if len(after) != 1 or after[0] in leaders:
                break
            block.append(after[0])
        blocks[leader] = block
    return blocks


def _signed(number: int) -> int:
    return number - (1 << 64) if number >> 63 else number
