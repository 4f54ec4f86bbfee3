"""Floods of losses, and of sends that wake nobody: each record costs the same on however large a host."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from xtrace.analysis.state_machine import loops
from xtrace.analysis.state_machine.machine import Machine
from xtrace.analysis.state_machine.metrics import G, P

#: Parts of the loops, as Python runs them.
_BEGIN_LOSS: Any = loops._begin_loss
_VCPU_OF: Any = loops._vcpu_of
_SET_STATE: Any = loops._set_state
_NOTE_UNANSWERED: Any = loops._note_unanswered
_BLOCKED = 2


class Looks:
    """A table of state that counts how often it is looked at."""

    def __init__(self, table: npt.NDArray[np.int64]) -> None:
        self._table = table
        self.count = 0

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, place: Any) -> Any:
        self.count += 1
        return self._table[place]

    def __setitem__(self, place: Any, value: Any) -> None:
        self._table[place] = value


class Host:
    """A machine with many blocked vCPUs, a domain of each."""

    def __init__(self, vcpus: int, pcpus: int = 4) -> None:
        made = Machine()
        made.make_room(pcpus)
        self.glob, self.domains, self.pcpus, self.counts = made.glob, made.domains, made.pcpus, made.counts
        self.glob[G.PCPUS] = pcpus
        self.vcpus = Looks(made.vcpus)
        self.slots, self.domain_slots = made._vcpu_slots, made._domain_slots
        self.out = np.zeros((40 * (vcpus + 10), 4), np.int64)
        for number in range(vcpus):
            self.block(number)

    def block(self, number: int) -> None:
        key = np.int64(number + 1 << 16)
        with np.errstate(over="ignore"):
            vcpu = _VCPU_OF(self.glob, self.vcpus, self.domains, self.slots, self.domain_slots, key)
        _SET_STATE(self.glob, self.vcpus, self.domains, self.out, vcpu, _BLOCKED, np.int64(100 + number))

    def lose(self, tsc: int, *, is_hole: bool = False) -> int:
        """Begin a loss on pCPU 0; return how often vCPUs were looked at."""
        before = self.vcpus.count
        tables = (self.glob, self.pcpus, self.vcpus, self.domains, self.out, self.slots)
        with np.errstate(over="ignore"):
            _BEGIN_LOSS(*tables, 0, np.int64(tsc), int(is_hole))
        self.glob[G.OUT] = 0
        return self.vcpus.count - before


def test_a_loss_looks_at_each_vcpu_once_however_many_losses_follow() -> None:
    small, large = Host(50), Host(500)
    first = [host.lose(10_000) for host in (small, large)]
    assert first[1] > 5 * first[0]  # each had a state to lose
    for host in (small, large):
        assert host.glob[G.LOSABLE_COUNT] == 0
        assert sum(host.lose(10_000 + tsc) for tsc in range(20)) <= 20 * 4
        assert sum(host.lose(20_000 + tsc, is_hole=True) for tsc in range(20)) <= 20 * 4
        host.block(7)
        assert host.glob[G.LOSABLE_COUNT] == 1
        assert 0 < host.lose(30_000) <= 60
        assert host.glob[G.LOSABLE_COUNT] == 0


def test_a_send_that_wakes_nobody_looks_at_no_other_pcpu() -> None:
    looks = []
    for pcpus in (8, 800):
        host = Host(2, pcpus)
        host.pcpus[0, P.CURRENT] = 0
        watched = Looks(host.pcpus)
        for tsc in range(10):
            _NOTE_UNANSWERED(host.glob, watched, host.vcpus, host.out, 0, np.int64(tsc))
        looks.append(watched.count)
    assert looks[0] == looks[1]
