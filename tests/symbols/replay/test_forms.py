"""The model of each admitted instruction against the processor: registers, memory and flags.

Each form of semantics.FORMS is executed with registers and with memory, on edges and random numbers, in a
confined child.  XTRACE_FUZZ_FORMS sets the total number of cases, 12,000 by default.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from iced_x86 import Decoder, OpAccess, RflagsBits

from builders.instructions import draw, edge, may_be_memory, must_be_memory
from builders.one_step import MEMORY_BYTES, MOST_CASES, State, execute, memory_address
from xtrace.symbols.replay.machine import Machine
from xtrace.symbols.replay.path import refusal
from xtrace.symbols.replay.semantics import AF, ALL_FLAGS, CF, FORMS, OF, PF, SF, ZF
from xtrace.symbols.x86.decode import RBP, RSP, Insn, InsnDecoder, form_name

CASES = int(os.environ.get("XTRACE_FUZZ_FORMS", "12000"))
BATCHES = -(-CASES // MOST_CASES)
ADDRESS = 0x1000
MIDDLE = MEMORY_BYTES // 2
WORD = (1 << 64) - 1

#: Forms whose results are not defined for some inputs, or differ between processors.
NOT_DEFINED = {
    *(f"{name}_R{bits}_RM{bits}" for name in ("BSF", "BSR", "TZCNT", "LZCNT") for bits in (16, 32, 64)),
    "CMPXCHG_RM32_R32",
}
#: What an instruction reads of its operands; the others' values do not matter.
READS = (OpAccess.READ, OpAccess.READ_WRITE, OpAccess.COND_READ, OpAccess.READ_COND_WRITE)
ICED_FLAGS = {
    RflagsBits.CF: CF,
    RflagsBits.PF: PF,
    RflagsBits.AF: AF,
    RflagsBits.ZF: ZF,
    RflagsBits.SF: SF,
    RflagsBits.OF: OF,
}


@dataclass(frozen=True, slots=True)
class Case:
    """An instruction and what it is executed on."""

    name: str
    data: bytes
    insn: Insn
    before: State


def variants() -> Iterator[tuple[str, bool]]:
    """Yield each form with and without a memory operand, as far as it is admitted."""
    for name, form in FORMS.items():
        if may_be_memory(name):
            if form.memory:
                yield name, True
            if not must_be_memory(name) and form.register:
                yield name, False
        else:
            yield name, False


VARIANTS = list(variants())


def drawn(seed: int, number: int, place: int) -> Case:
    """Return the case ``number`` of a seed, which will be the case at ``place`` of its batch."""
    chance = random.Random(f"{seed} {number}")
    name, memory = VARIANTS[number % len(VARIANTS)]
    low = memory_address(place)
    data = draw(chance, name, memory=memory, absolute=low + MIDDLE)
    (insn,) = InsnDecoder(64).decode(data, ADDRESS)
    registers = [edge(chance, 64) for _ in range(16)]
    if FORMS[name].stack:
        registers[RSP] = low + MIDDLE + chance.randrange(-8, 9)
        registers[RBP] = low + MIDDLE + chance.randrange(-8, 9)
    point(insn, registers, low + MIDDLE + chance.randrange(-16, 17))
    words = b"".join(edge(chance, 64).to_bytes(8, "little") for _ in range(MEMORY_BYTES // 8))
    return Case(name, data, insn, State(tuple(registers), chance.getrandbits(12) & ALL_FLAGS, words))


def point(insn: Insn, registers: list[int], address: int) -> None:
    """Change an address's base so that the memory operand is at ``address``."""
    memory = insn.memory
    if memory is None or not insn.access or memory.base < 0:
        return
    stack = insn.mnemonic == "push" and RSP in (memory.base, memory.index_register)
    index = registers[memory.index_register] if memory.index_register >= 0 else 0
    if stack and memory.base == RSP:
        # The stack pointer is where it has to be: the index or nothing brings the address there.
        registers[RSP] = (address - index * memory.scale - memory.displacement) & WORD
        return
    registers[memory.base] = (address - index * memory.scale - memory.displacement) & WORD


def model(case: Case, place: int) -> Machine:
    """Return the model's state after the case."""
    machine = Machine()
    machine.registers = list(case.before.registers)
    low = memory_address(place)
    machine.memory = {low + number: byte for number, byte in enumerate(case.before.memory)}
    machine.flags, machine.known_flags = case.before.flags, ALL_FLAGS
    address = None
    if case.insn.memory is not None and case.insn.access:
        found = machine.effective(case.insn.memory)
        assert isinstance(found, int)
        address = found
    machine.execute(case.insn, form_name(case.data), address)
    return machine


def usable(case: Case, place: int) -> bool:
    """Return whether a case's accesses are in its own memory; a few pushes relative to rsp are not."""
    low = memory_address(place)
    return all(low <= at and at + size <= low + MEMORY_BYTES for at, size in model(case, place).touched)


def batch(seed: int, first: int, count: int) -> list[Case]:
    """Return some cases whose accesses are in their own memory."""
    found: list[Case] = []
    number = first
    while len(found) < count:
        case = drawn(seed, number, len(found))
        if usable(case, len(found)):
            found.append(case)
        number += 1
    return found


def differences(case: Case, after: State, place: int) -> list[str]:
    """Return in what the model and the processor differ."""
    found = model(case, place)
    text = InsnDecoder(64).text(case.data, ADDRESS)
    wrong = [
        f"{text}: register {number} is {actual:#x}, not {value}"
        for number, (value, actual) in enumerate(zip(found.registers, after.registers, strict=True))
        if value is not None and value != actual
    ]
    written = {number for number in range(16) if case.before.registers[number] != after.registers[number]}
    if written - set(case.insn.written):
        wrong.append(f"{text}: the decoder does not say that it writes {written - set(case.insn.written)}")
    changed = [number for number, value in enumerate(found.registers) if value is None]
    if changed and case.name not in NOT_DEFINED:
        wrong.append(f"{text}: registers {changed} are not modelled")
    low = memory_address(place)
    memory = [found.memory.get(low + number) for number in range(MEMORY_BYTES)]
    if memory != list(after.memory):
        wrong.append(f"{text}: memory is {after.memory.hex()}, not {memory}")
    if (found.flags ^ after.flags) & found.known_flags & ALL_FLAGS:
        wrong.append(f"{text}: flags are {after.flags:#x}, not {found.flags:#x} of {found.known_flags:#x}")
    return wrong


@pytest.mark.parametrize("number", range(BATCHES))
def test_the_model_is_what_the_processor_does(number: int) -> None:
    seed = random.getrandbits(32)
    cases = batch(seed, number * MOST_CASES, min(MOST_CASES, CASES - number * MOST_CASES))
    states = execute([(case.data, case.before) for case in cases])
    wrong = [
        text
        for place, (case, after) in enumerate(zip(cases, states, strict=True))
        for text in differences(case, after, place)
    ]
    assert not wrong, (seed, len(wrong), wrong[:8])
    # With each form several times, with registers and with memory.
    assert {case.name for case in cases} == set(FORMS) or len(cases) < 2 * len(VARIANTS)


def test_every_admitted_form_is_among_the_cases() -> None:
    assert {name for name, _ in VARIANTS} == set(FORMS)


def test_nothing_else_is_admitted() -> None:
    """Every form that iced-x86 knows and that is not compared above is refused, with any operands."""
    from iced_x86 import Code, Code_, OpCodeInfo

    chance = random.Random(0)
    admitted: set[tuple[str, bool]] = set()
    tried = 0
    for name, code in vars(Code).items():
        if not isinstance(code, int) or name == "INVALID":
            continue
        info = OpCodeInfo(Code_(code))
        if not info.is_instruction or not info.mode64:
            continue
        for memory in (False, True):
            try:
                data = draw(chance, name, memory=memory)
            except (AssertionError, KeyError, ValueError):
                continue
            found = next(InsnDecoder(64).decode(data, ADDRESS))
            tried += 1
            if not refusal(found, data) or "changes the stack pointer" in refusal(found, data):
                admitted.add((form_name(data), found.memory is not None))
    assert tried > 1000
    assert admitted <= set(VARIANTS)


def test_flags_are_undefined_only_where_the_manual_says_so() -> None:
    """iced-x86 has its own table of flags.  It does not know the count in cl."""
    for number in range(4 * len(VARIANTS)):
        case = drawn(1, number, 0)
        if not usable(case, 0) or case.name.endswith("_CL"):
            continue
        raw = next(iter(Decoder(64, case.data, ip=ADDRESS)))
        undefined = sum(flag for bit, flag in ICED_FLAGS.items() if raw.rflags_undefined & bit)
        unknown = ALL_FLAGS & ~model(case, 0).known_flags
        if case.name.startswith(("SHL_RM8", "SHL_RM16", "SAL_RM8", "SAL_RM16", "SHR_RM8", "SHR_RM16")):
            # The manual: "undefined for SHL and SHR where the count is greater or equal to the size".
            undefined |= CF
        assert not unknown & ~undefined or case.name.startswith(("TZCNT", "LZCNT")), case.name
