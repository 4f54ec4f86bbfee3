from __future__ import annotations

from collections import Counter, defaultdict

import pytest

from builders import host
from builders.host import Kind, Simulation, VcpuTruth, simulate
from oracle.reader import Record, read
from xtrace.probes.format import LOST_RECORDS, Runstate
from xtrace.probes.reader.writer import DEFAULT_RING_BYTES
from xtrace.probes.xen_abi import IDLE_DOMAIN

DOMAINS: list[tuple[int, int, Kind]] = [(0, 2, "pv"), (1, 3, "pv"), (5, 2, "hvm")]
DURATION_CYCLES = 100_000_000


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    return simulate(1, 3, DOMAINS, DURATION_CYCLES)


@pytest.fixture(scope="module")
def records(simulation: Simulation) -> list[Record]:
    trace = read(simulation.data)
    assert (trace.damages, trace.missing_bytes, trace.lost_records) == ([], 0, 0)
    assert trace.wrap_count == simulation.truth.fillers
    return trace.records


def test_the_seed_determines_the_trace(simulation: Simulation) -> None:
    assert simulate(1, 3, DOMAINS, DURATION_CYCLES) == simulation
    assert simulate(2, 3, DOMAINS, DURATION_CYCLES).data != simulation.data


def test_every_event_is_in_the_trace(simulation: Simulation, records: list[Record]) -> None:
    assert Counter(record.event for record in records) == simulation.truth.events
    assert simulation.truth.written == len(records)
    assert simulation.truth.first_tsc < records[0].tsc
    assert max(record.tsc for record in records) <= simulation.truth.last_tsc


def test_every_kind_of_action_happens(simulation: Simulation) -> None:
    ids = {
        value
        for name, value in vars(host).items()
        if name.isupper() and isinstance(value, int) and 1 << 16 <= value < 1 << 28
    }
    runstates = {host.RUNSTATE_CHANGE | change for change in (0x010, 0x020, 0x100, 0x210)}
    assert set(simulation.truth.events) == ids - {host.RUNSTATE_CHANGE, DEFAULT_RING_BYTES} | runstates


def test_runstates_are_consistent(records: list[Record]) -> None:
    """In merged order each vCPU's old state is its last new state, and one vCPU at a time runs on a pCPU."""
    state: dict[int, int] = {}
    running: dict[int, int] = {}
    for record in records:
        if record.event & ~0xFF0 != host.RUNSTATE_CHANGE:
            continue
        vcpu, old, new = record.words[0], record.event >> 8 & 0xF, record.event >> 4 & 0xF
        assert state.get(vcpu, old) == old
        state[vcpu] = new
        if old == Runstate.RUNNING:
            assert running.pop(record.pcpu, vcpu) == vcpu
        if new == Runstate.RUNNING:
            assert record.pcpu not in running
            running[record.pcpu] = vcpu


class Recount:
    """VcpuTruth, computed again from the records alone."""

    def __init__(self, pcpus: int) -> None:
        self.current = {pcpu: (IDLE_DOMAIN, pcpu) for pcpu in range(pcpus)}
        self.vcpus: defaultdict[tuple[int, int], VcpuTruth] = defaultdict(VcpuTruth)
        self.since: dict[tuple[int, int], int] = {}
        self.woken: dict[tuple[int, int], int] = {}

    def add(self, record: Record) -> None:
        words = record.words
        vcpu = self.vcpus[self.current[record.pcpu]]
        if record.event == host.WAKE:
            self.woken[words[0], words[1]] = record.tsc
        elif record.event in (host.PV_HYPERCALL, host.HVM_VMMCALL):
            vcpu.hypercalls[words[0] & 0xFFFFF] += 1
        elif record.event == host.PV_SUBCALL:
            vcpu.subcalls[words[0] & 0xFFFFF] += 1
        elif record.event == host.VMEXIT64:
            vcpu.exits[words[0]] += 1
        elif record.event & ~0xFF0 == host.RUNSTATE_CHANGE:
            self.add_runstate(record)

    def add_runstate(self, record: Record) -> None:
        key = (record.words[0] >> 16, record.words[0] & 0xFFFF)
        old, new = Runstate(record.event >> 8 & 0xF), Runstate(record.event >> 4 & 0xF)
        vcpu = self.vcpus[key]
        if key in self.since:
            vcpu.state_cycles[old] += record.tsc - self.since[key]
            vcpu.state_counts[old] += 1
        self.since[key] = record.tsc
        if old == Runstate.BLOCKED:
            vcpu.wake_to_runnable_cycles.append(record.tsc - self.woken[key])
        if new == Runstate.RUNNING:
            self.current[record.pcpu] = key
            vcpu.runs += 1
            if key in self.woken:
                vcpu.wake_to_running_cycles.append(record.tsc - self.woken.pop(key))


@pytest.mark.parametrize(
    "name",
    [
        "hypercalls", "subcalls", "exits", "runs", "state_cycles", "state_counts",
        "wake_to_runnable_cycles", "wake_to_running_cycles",
    ],
)  # fmt: skip
def test_truth_agrees_with_a_count_of_the_records(
    simulation: Simulation, records: list[Record], name: str
) -> None:
    recount = Recount(3)
    for record in records:
        recount.add(record)
    for key, truth in simulation.truth.vcpus.items():
        assert getattr(recount.vcpus[key], name) == getattr(truth, name), key
        assert truth.runs > 0


def test_the_record_before_a_wake_shows_its_cause(simulation: Simulation) -> None:
    """On the waker's pCPU; a wake by an interrupt is within the interval of the HW_IRQ_HANDLED after it."""
    causes: Counter[str] = Counter()
    by_pcpu: dict[int, list[Record]] = {}
    for record in read(simulation.data).records:
        by_pcpu.setdefault(record.pcpu, []).append(record)
    for records in by_pcpu.values():
        for index, record in enumerate(records[:-3]):
            if record.event != host.WAKE:
                continue
            before, after = records[index - 1], records[index + 2]
            if after.event == host.IRQ_HANDLED and is_between(record.tsc, *after.words[1:]):
                causes["irq"] += 1
            elif (before.event == host.PV_HYPERCALL and before.words[0] == host.EVENT_CHANNEL_OP) or (
                before.event == host.HVM_VMMCALL
            ):
                causes["hypercall"] += 1
            else:
                causes["timer"] += 1
    truth: Counter[str] = Counter()
    for vcpu in simulation.truth.vcpus.values():
        truth.update(vcpu.wakes)
    assert causes.total() == truth.total()
    assert causes["irq"] == truth["irq"]
    # A timer may fire right after a send that woke nobody: on a PV vCPU the two cannot be distinguished.
    assert truth["hypercall"] <= causes["hypercall"] <= 1.1 * truth["hypercall"]


def is_between(tsc: int, begin: int, end: int) -> bool:
    """Return whether the low half of ``tsc`` is within the interval of two other low halves."""
    return (tsc - begin) & 0xFFFF_FFFF < (end - begin) & 0xFFFF_FFFF


def test_lost_records_count_what_small_rings_dropped() -> None:
    simulation = simulate(3, 2, DOMAINS, 50_000_000, loss=0.4, ring_bytes=4088, poll_cycles=2_000_000)
    trace = read(simulation.data)
    truth = simulation.truth
    assert trace.damages == []
    assert truth.dropped > 0
    assert trace.lost_records + truth.untold == truth.dropped
    assert sum(record.event != LOST_RECORDS for record in trace.records) == truth.written


def test_three_hundred_pcpus() -> None:
    domains: list[tuple[int, int, Kind]] = [(0, 16, "pv"), *((number, 8, "hvm") for number in range(1, 60))]
    simulation = simulate(4, 300, domains, 1_500_000, skew_cycles=[number % 7 for number in range(300)])
    trace = read(simulation.data)
    assert trace.damages == []
    assert len({record.pcpu for record in trace.records}) == 300
    assert Counter(record.event for record in trace.records) == simulation.truth.events
