"""Random sequences that replay accepts do what was proved; with a fault put back, they show it.

XTRACE_FUZZ_SEQUENCES sets how many are run, 4,000 by default.  A failure names its seed: run it again with
`cd tests; ../.venv/bin/python -m builders.fuzzed_sequences SEED 4000 1`.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import replace

import pytest

from builders.fuzzed_sequences import fuzz
from xtrace.symbols.replay import memory, semantics
from xtrace.symbols.replay.machine import Machine, Value
from xtrace.symbols.x86.decode import Insn, InsnDecoder, Operand

COUNT = int(os.environ.get("XTRACE_FUZZ_SEQUENCES", "4000"))
PART = 20_000
COUNT_OF_SLICE = 4000

Patch = Callable[[pytest.MonkeyPatch], None]


@pytest.mark.parametrize("number", range(-(-COUNT // PART)))
def test_accepted_sequences_do_what_was_proved(number: int) -> None:
    seed = random.getrandbits(32)
    found = fuzz(seed, min(PART, COUNT - number * PART))
    assert not found.faults, (seed, len(found.faults), found.faults[:5])
    # Not only the simplest ones are accepted.
    assert {"push", "pop", "leave", "cmpxchg", "xadd", "imul", "shl", "movsx", "call", "ret"} <= set(
        found.forms
    )


def count_masked_by_63(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(semantics, "_count", lambda _bits, value: value & 63)


def short_stack_operands_move_8_bytes(patch: pytest.MonkeyPatch) -> None:
    for name, form in semantics.FORMS.items():
        if form.stack:
            patch.setitem(semantics.FORMS, name, replace(form, stack=8))


def implied_writes_are_missed(patch: pytest.MonkeyPatch) -> None:
    """Leave registers out that are not operands, as after ``cmpxchg %eax,(%rbx)`` had filled the cache."""
    whole = InsnDecoder._insn

    def partly(self: InsnDecoder, raw: object) -> Insn:
        insn = whole(self, raw)  # type: ignore[arg-type]
        explicit = {operand.register for operand in insn.operands}
        return replace(insn, written=tuple(number for number in insn.written if number in explicit))

    patch.setattr(InsnDecoder, "_insn", partly)


def wide_value_in_a_narrow_operation(patch: pytest.MonkeyPatch) -> None:
    narrow = Machine.read

    def wide(self: Machine, insn: Insn, operand: Operand, address: int | None, size: int) -> Value:
        if insn.mnemonic in ("shr", "sar") and operand.register >= 0 and operand.size == 4:
            return self.registers[operand.register]
        return narrow(self, insn, operand, address, size)

    patch.setattr(Machine, "read", wide)


def a_short_store_hides_a_long_one(patch: pytest.MonkeyPatch) -> None:
    put = Machine._put

    def hiding(self: Machine, address: int, size: int, value: Value) -> None:
        first = {}
        for cell, number in getattr(self, "_cells", {}).items():
            first.update({cell.address + place: number >> (8 * place) & 0xFF for place in range(cell.size)})
        for place in range(address + size, address + 8):
            self.memory.pop(place, None)
            if place in first:
                self.memory[place] = first[place]
        put(self, address, size, value)

    patch.setattr(Machine, "_put", hiding)


def a_narrow_load_has_no_sign(patch: pytest.MonkeyPatch) -> None:
    for name, form in semantics.FORMS.items():
        if name.startswith("MOVSX"):
            patch.setitem(semantics.FORMS, name, replace(form, compute=semantics.copy))


def short_results_clear_the_register(patch: pytest.MonkeyPatch) -> None:
    write = Machine.write

    def clearing(self: Machine, operand: Operand, address: int | None, value: Value) -> None:
        if operand.register >= 0 and operand.size == 2 and isinstance(value, int):
            self.registers[operand.register] = value
        else:
            write(self, operand, address, value)

    patch.setattr(Machine, "write", clearing)


def pointers_in_memory_may_be_overwritten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(memory.Prover, "check_cells", lambda _: None)


FAULTS: tuple[Patch, ...] = (
    count_masked_by_63,
    short_stack_operands_move_8_bytes,
    implied_writes_are_missed,
    wide_value_in_a_narrow_operation,
    a_short_store_hides_a_long_one,
    a_narrow_load_has_no_sign,
    short_results_clear_the_register,
    pointers_in_memory_may_be_overwritten,
)


@pytest.mark.parametrize("put_back", FAULTS, ids=lambda item: item.__name__)
def test_a_fault_put_back_is_found(put_back: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    put_back(monkeypatch)
    # The seed is fixed: what is tried is that the slice is long enough for each fault, not luck.
    found = fuzz(1, COUNT_OF_SLICE, first=True)
    assert found.faults
