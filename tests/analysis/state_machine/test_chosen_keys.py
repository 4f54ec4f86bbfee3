"""Ids in a trace are chosen by its writer: they neither slow hash tables down nor push out earlier ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from xtrace.analysis.state_machine import loops, machine, tally_loops
from xtrace.analysis.state_machine.kept import Kept
from xtrace.analysis.state_machine.machine import Tallies
from xtrace.analysis.state_machine.metrics import (
    METRIC_SHIFT,
    T_B,
    T_COLUMNS,
    T_COUNT,
    T_KEY,
    D,
    G,
    Metric,
    V,
)
from xtrace.analysis.state_machine.secrets import secrets

#: Parts of the loops, as Python runs them.
_VCPU_OF: Any = loops._vcpu_of
_SLOT_FOR: Any = tally_loops._slot_for
_KEYS = 1 << 11
_SLOTS = 1 << 17


class Counted:
    """The slots of a hash table, which count how often one is looked at."""

    def __init__(self) -> None:
        self._slots = np.full(_SLOTS, -1, np.int32)
        self.looks = 0

    def __len__(self) -> int:
        return len(self._slots)

    def __getitem__(self, slot: int) -> int:
        self.looks += 1
        return int(self._slots[slot])

    def __setitem__(self, slot: int, row: int) -> None:
        self._slots[slot] = row


#: All of them fall into one slot of a table with as many slots, by a product with a number that is known.
_INVERSE = pow(0x9E37_79B1, -1, 1 << 32)
CHOSEN: dict[str, Callable[[int], int]] = {
    "in order": lambda number: number,
    "one bit in 16 apart": lambda number: number << 16 & 0xFFFF_FFFF | number >> 16,
    "colliding where the product is known": lambda number: number * _INVERSE & 0xFFFF_FFFF,
    "the same low bits": lambda number: number << 20 & 0xFFFF_FFFF | number >> 12,
}


@pytest.mark.parametrize("how", CHOSEN)
def test_looking_up_vcpus_takes_as_many_steps_for_any_ids(how: str) -> None:
    glob = np.zeros(G.COLUMNS, np.int64)
    glob[G.SECRET] = secrets(1)[0]
    vcpus = np.zeros((machine.MAX_VCPUS, V.COLUMNS), np.int64)
    domains = np.zeros((_KEYS + 1, D.COLUMNS), np.int64)
    domain_slots = np.full(1 << 16, -1, np.int32)
    slots = Counted()
    with np.errstate(over="ignore"):
        for number in range(_KEYS):
            _VCPU_OF(glob, vcpus, domains, slots, domain_slots, np.int64(CHOSEN[how](number)))
    # Some three looks each; where all collide it would be 2 million.
    assert slots.looks <= 8 * _KEYS


@pytest.mark.parametrize("place", ["key", "b", "both"])
@pytest.mark.parametrize("how", CHOSEN)
def test_looking_up_tallies_takes_as_many_steps_for_any_ids(how: str, place: str) -> None:
    state = Kept().state
    table = np.zeros((_KEYS, T_COLUMNS), np.int64)
    slots = Counted()
    with np.errstate(over="ignore"):
        for number in range(_KEYS):
            chosen = CHOSEN[how](number)
            table[number, T_KEY] = chosen if place != "b" else 1
            table[number, T_B] = chosen if place != "key" else 1
            slots[_SLOT_FOR(state, slots, table, table[number, T_KEY], table[number, T_B])] = number
    assert slots.looks <= 8 * _KEYS


def intervals(keys: range, value: int = 1000) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    metric = int(Metric.IRQ_HANDLING) << METRIC_SHIFT
    return np.array([[metric | key, 0, value, 10_000 + key] for key in keys], np.int64)


@pytest.mark.parametrize("which", ["MAX_TALLIES", "MAX_HISTOGRAMS", "MAX_CHUNKS"])
def test_a_full_table_leaves_out_what_is_new_and_counts_what_is_known(
    which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = {"MAX_TALLIES": 1 << 13, "MAX_HISTOGRAMS": 512, "MAX_CHUNKS": 2048}
    monkeypatch.setattr(machine, which, full[which])
    tallies = Tallies()
    tallies.add(intervals(range(20_000)))
    kept = full[which]
    tallies.add(intervals(range(100)))  # known
    tallies.add(intervals(range(100), value=1 << 40))  # known, in another octave
    columns = tallies.columns()
    counts = columns.table[:, T_COUNT]
    new_octave = 0 if which == "MAX_CHUNKS" else 100
    assert len(counts) == kept
    assert counts.sum() == kept + 100 + new_octave
    assert columns.left_out == 20_000 - kept + 100 - new_octave
    assert set(columns.table[:, T_KEY] & 0xFFFF_FFFF) == set(range(kept))


def test_no_result_depends_on_the_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "MAX_TALLIES", 1 << 13)
    found = []
    for _ in range(3):
        tallies = Tallies()
        tallies.add(intervals(range(0, 60_000, 3)))
        columns = tallies.columns()
        found.append((columns.table.tolist(), columns.left_out))
    assert found[0] == found[1] == found[2]
