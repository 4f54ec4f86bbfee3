"""Values: pointers described by how they were reached."""

from __future__ import annotations

import pytest

from xtrace.symbols.flow.values import (
    CONSTANT,
    CPU,
    STACK,
    Value,
    added,
    constant,
    indexed,
    loaded,
    merged,
    moved,
)

SELF = loaded(Value(CPU, (), 0x20))
GLOBAL = loaded(constant(0xFFFFFFFF80001000))
UNKNOWN = Value(("entry", 7), (), 0)


def test_a_chain_of_loads() -> None:
    vcpu = loaded(moved(SELF, 0x1E8))
    assert vcpu == Value(CPU, (0x20, 0x1E8), 0)
    assert moved(vcpu, 1).offset == 1
    assert vcpu.constant is None


def test_long_chains_get_a_new_root() -> None:
    value = SELF
    for offset in range(20):
        value = loaded(moved(value, offset))
    assert len(value.path) <= 6
    assert value.path[-1] == 19


def test_constants_are_addresses() -> None:
    assert constant(-1).constant == (1 << 64) - 1
    assert moved(constant(8), -16).constant == (1 << 64) - 8
    assert indexed(constant(8)).constant is None


@pytest.mark.parametrize(
    ("left", "right", "total"),
    [
        (SELF, constant(0x1E8), moved(SELF, 0x1E8)),
        (constant(0x1E8), SELF, moved(SELF, 0x1E8)),
        (constant(1), constant(2), constant(3)),
        (Value(STACK, (), -8), constant(-0x4000), Value(STACK, (), -0x4008)),
        # A per-CPU offset read from memory, plus the link address of a variable.
        (SELF, constant(0xFFFFFFFF81000000), Value(CPU, (0x20,), 0xFFFFFFFF81000000)),
        # An unknown index into what a global points to, or into an array.
        (GLOBAL, UNKNOWN, indexed(GLOBAL)),
        (UNKNOWN, constant(0xFFFFFFFF81000000), indexed(constant(0xFFFFFFFF81000000))),
        (UNKNOWN, UNKNOWN, None),
    ],
)
def test_sums(left: Value, right: Value, total: Value | None) -> None:
    assert added(left, right) == total


def test_element_of_a_table_is_not_a_global() -> None:
    element = loaded(indexed(constant(0xFFFFFFFF81000000)))
    assert element.root == ("element", CONSTANT)
    assert element.path == (0xFFFFFFFF81000000,)


def test_where_paths_meet() -> None:
    place = (0x100, 3)
    assert merged(SELF, SELF, place) == SELF
    # The same field of two structures is still that field.
    one, other = loaded(moved(SELF, 0x1E8)), loaded(moved(GLOBAL, 0x1E8))
    assert merged(one, other, place) == Value(("merge", *place), (0x1E8,), 0)
    # The result of a call is dead, or of the same kind.
    left = Value(("result", 0x90, 0), (), 0)
    assert merged(left, one, place) == one
    assert merged(one, left, place) == one
    # Nothing in common: a root of its own, which stays the same.
    new = merged(constant(1), constant(2), place)
    assert new == Value(("merge", *place), (), 0)
    assert merged(new, constant(3), place) == new
