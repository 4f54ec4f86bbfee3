"""A period costs `stat` as much as the records in it, however many vCPUs wait or run meanwhile."""

from __future__ import annotations

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builders.host import WAKE, Kind, simulate
from builders.random_records import traces
from builders.restarted import suspended
from soak.shapes import calm
from xtrace.probes.live import counters
from xtrace.probes.live.counters import COUNTS, TIMES, Figures
from xtrace.probes.live.periods import Period, Periods
from xtrace.probes.reader.writer import pack_record, pack_window


def _periods(data: bytes, cycles: int, *, by_vcpu: bool) -> list[Period]:
    found = Periods(cycles, by_vcpu=by_vcpu)
    return [*found.feed(data), *found.end()]


def _numbers(figures: Figures) -> list[object]:
    times = [getattr(figures, name) for name in TIMES]
    return [
        *(getattr(figures, name) for name in COUNTS),
        *((each.count, each.least, each.greatest, each.buckets) for each in times),
    ]


def _compare(data: bytes, cycles: int) -> None:
    apart, together = (_periods(data, cycles, by_vcpu=by_vcpu) for by_vcpu in (True, False))
    assert len(apart) == len(together)
    for one, other in zip(apart, together, strict=True):
        assert (one.begin_tsc, one.end_tsc, one.host) == (other.begin_tsc, other.end_tsc, other.host)
        assert _numbers(one.total) == _numbers(other.total)
        assert not other.vcpus


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(traces(), st.integers(1, 3000))
def test_all_together_are_the_sum_of_each(data: bytes, cycles: int) -> None:
    _compare(data, cycles)


@pytest.mark.parametrize("cycles", [100_000, 1_000_000, 1 << 62])
def test_so_they_are_with_losses_and_restarts(cycles: int) -> None:
    domains: list[tuple[int, int, Kind]] = [(0, 2, "pv"), (1, 3, "pv"), (5, 2, "hvm")]
    data = simulate(7, 3, domains, 30_000_000, loss=0.4, ring_bytes=4088, poll_cycles=2_000_000).data
    _compare(data, cycles)
    _compare(suspended(data)[0], cycles)


def test_a_pause_that_is_left_out_is_nobodys_time() -> None:
    running = pack_record(0x21211, 1000, (1 << 16,)) + pack_record(0x21101, 2000, (1 << 16,))
    data = pack_window(0, running + pack_record(WAKE, 1_000_000_000, (2, 0)))
    made = _periods(data, 1000, by_vcpu=True)
    assert made[-1].pause_cycles > 900_000_000
    assert [period.vcpus[1 << 16].running_cycles for period in made[1:]] == [
        min(1000, period.span_cycles) for period in made[1:]
    ]


@pytest.mark.parametrize("vcpus", [10, 3_000])
def test_vcpus_that_do_nothing_cost_nothing(vcpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    data = calm(random.Random(1), 40_000, vcpus, cycles=1 << 20)
    steps: list[int] = []
    whole = counters.Machine._account

    def counted(self: counters.Machine, vcpu: counters._Vcpu, tsc: int) -> None:
        steps.append(vcpu.key)
        whole(self, vcpu, tsc)

    monkeypatch.setattr(counters.Machine, "_account", counted)
    made = _periods(data, 1 << 20, by_vcpu=False)
    records = sum(period.host.records for period in made)
    assert len(made) > 1_000
    assert len(steps) < 3 * records
    # They all waited to the end, except for the one that ran now and then.
    waited = sum(period.total.waiting_cycles for period in made)
    assert waited > (vcpus - 1) * (made[-1].end_tsc - made[1].begin_tsc)
