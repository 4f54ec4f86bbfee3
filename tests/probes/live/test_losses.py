"""A flood of losses costs `top` and `stat` as much per record with one vCPU as with thousands."""

from __future__ import annotations

from typing import Any

import pytest

from xtrace.probes.live import counters

_BLOCKED, _RUNNABLE = 2, 1


@pytest.mark.parametrize("vcpus", [10, 1000])
def test_only_what_has_a_state_to_lose_is_looked_at(vcpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    made = counters.Machine()
    pcpu = counters._Pcpu(0)
    lost: list[int] = []
    whole: Any = counters.Machine._lose

    def watched(self: counters.Machine, vcpu: counters._Vcpu) -> None:
        lost.append(vcpu.key)
        whole(self, vcpu)

    monkeypatch.setattr(counters.Machine, "_lose", watched)
    for number in range(vcpus):
        made._set_state(made._vcpu(1 << 16 | number), _BLOCKED)
    # No loop over all vCPUs: there are none in the table that it would go through.
    monkeypatch.setattr(made, "_vcpus", {})
    made.on_hole(pcpu, 5, None, None)
    assert len(lost) == vcpus
    for tsc in range(100):
        made.on_hole(pcpu, tsc, None, None)
    assert len(lost) == vcpus
    vcpu = made._vcpu(1 << 16)
    made._set_state(vcpu, _RUNNABLE)
    made.on_hole(pcpu, 200, None, None)
    assert len(lost) == vcpus + 1
