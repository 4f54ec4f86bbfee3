"""Invariants of any trace: nothing is lost between the records, the intervals and the open ends."""

from __future__ import annotations

import lzma
from collections import Counter, defaultdict
from itertools import pairwise

import pytest

from builders import host
from builders.host import Kind, Simulation, simulate
from builders.hosts import DOMAINS, HOSTS
from oracle.machine import Interval
from oracle.reader import Record, Trace, read
from oracle.reading import SAMPLES
from oracle.runs import Run, as_intervals, run
from xtrace.analysis.state_machine.metrics import G, Metric, P, WakeCause, Woken
from xtrace.probes.format import LOST_RECORDS, Runstate
from xtrace.probes.xen_abi import IDLE_DOMAIN

STATES = {
    Metric.RUNNING, Metric.RUNNABLE_WAKE, Metric.RUNNABLE_PREEMPT, Metric.RUNNABLE_OTHER,
    Metric.RUNNABLE_BUDGET, Metric.BLOCKED, Metric.OFFLINE, Metric.STATE_LOST, Metric.STATE_UNKNOWN,
}  # fmt: skip
DOMAIN_STATES = {Metric.DOMAIN_STATE, Metric.DOMAIN_UNKNOWN}
PCPU_TIMES = {Metric.PCPU_RUNNING, Metric.PCPU_IDLE, Metric.PCPU_LOST, Metric.PCPU_UNKNOWN}
TRACES = [f"{kind} {seed}" for kind in HOSTS for seed in range(3)] + [path.name for path in SAMPLES]


def trace_of(name: str) -> bytes:
    for path in SAMPLES:
        if path.name == name:
            return lzma.decompress(path.read_bytes())
    kind, _, seed = name.rpartition(" ")
    return HOSTS[kind](int(seed))


@pytest.fixture(scope="module", params=TRACES)
def data(request: pytest.FixtureRequest) -> bytes:
    return trace_of(request.param)


@pytest.fixture(scope="module")
def done(data: bytes) -> Run:
    return run(data)


@pytest.fixture(scope="module")
def trace(data: bytes) -> Trace:
    return read(data)


def doubtful_vcpus(done: Run) -> set[int]:
    """Return the vCPUs that have an interval left out."""
    negative = {row.a for row in done.intervals if row.metric == Metric.NEGATIVE}
    return negative | {key.a for key in done.counts if key.metric == Metric.STATE_MISMATCH}


def accounts(done: Run, metrics: set[Metric]) -> dict[int, list[tuple[int, int]]]:
    """Return the stretches of time of the metrics by their key, including those open at an end."""
    stretches: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    for row in [*done.intervals, *as_intervals(done.ends)]:
        metric = Metric(row.b >> 32) if row.metric == Metric.OPEN else row.metric
        if metric in metrics:
            stretches[row.a].append((row.tsc - row.value, row.tsc))
    return stretches


@pytest.mark.parametrize("metrics", [STATES, DOMAIN_STATES, PCPU_TIMES], ids=["vCPU", "domain", "pCPU"])
def test_the_parts_fill_the_span(done: Run, metrics: set[Metric]) -> None:
    """Each vCPU's, domain's and pCPU's time counts once, to the cycle, from the first record to the last."""
    first, last = int(done.machine.glob[G.FIRST_TSC]), int(done.machine.glob[G.LAST_TSC])
    stretches = accounts(done, metrics)
    known = int(done.machine.glob[G.DOMAINS]) - 1 if metrics is DOMAIN_STATES else 2
    assert len(stretches) >= known
    for parts in stretches.values():
        parts.sort()
        assert (parts[0][0], parts[-1][1]) == (first, last)
        assert all(end == begin for (_, end), (begin, _) in pairwise(parts))


def test_pcpu_time_agrees_with_vcpu_time(done: Run) -> None:
    """What the pCPUs ran is the running time of the vCPUs."""
    of_pcpus: Counter[bool] = Counter()
    of_vcpus: Counter[bool] = Counter()
    for row in [*done.intervals, *as_intervals(done.ends)]:
        metric = Metric(row.b >> 32) if row.metric == Metric.OPEN else row.metric
        if metric in (Metric.PCPU_RUNNING, Metric.PCPU_IDLE):
            of_pcpus[metric == Metric.PCPU_IDLE] += row.value
        elif metric == Metric.RUNNING:
            of_vcpus[row.a >> 16 == IDLE_DOMAIN] += row.value
    if not doubtful_vcpus(done):
        assert of_pcpus == of_vcpus
    assert sum(pcpu.sum() for pcpu in done.machine.pcpus[:, [P.PENDING]]) < 100


def kinds_of(records: list[Record]) -> Counter[str]:
    kinds: Counter[str] = Counter()
    for record in records:
        event = record.event
        if event == LOST_RECORDS:
            kinds["lost"] += record.words[0]
        elif event == host.CONTINUE_RUNNING:
            kinds["continue"] += 1
        elif event >> 12 in (0x201, 0x202, 0x20F):
            kinds["pv"] += 1
        elif event == host.VMEXIT64:
            kinds["exit"] += 1
        elif event >> 12 == 0x82:
            kinds["hvm"] += 1
        elif event == host.IRQ_HANDLED:
            kinds["irq"] += 1
        elif event in (0x10F001, 0x10F002, 0x10F003):
            kinds["memory"] += 1
    return kinds


COUNTED = {
    Metric.HYPERCALL: "pv", Metric.SUBCALL: "pv", Metric.PV_EVENT: "pv", Metric.CONTINUE_RUNNING: "continue",
    Metric.HVM_EVENT: "hvm", Metric.IRQ_HANDLING: "irq", Metric.MEMORY: "memory",
}  # fmt: skip


def test_all_records_are_counted(done: Run, trace: Trace) -> None:
    assert done.reader.record_counts.sum() == len(trace.records) + trace.wrap_count
    counted: Counter[str] = Counter()
    for row in done.intervals:
        if row.metric in COUNTED:
            counted[COUNTED[row.metric]] += 1
        elif row.metric == Metric.LOST_RECORDS:
            counted["lost"] += row.value
        elif row.metric == Metric.RIP and row.a >> 32 == 6:
            counted["exit"] += 1
    for key, count in done.counts.items():
        if key.metric in COUNTED:
            counted[COUNTED[key.metric]] += count
    kinds = kinds_of(trace.records)
    if doubtful_vcpus(done) or kinds["lost"]:
        # The running vCPU is not always known, and then its records count for none.
        assert all(0.95 * kinds[kind] <= counted[kind] <= kinds[kind] for kind in kinds)
    else:
        assert +counted == +kinds


WOKE_NOBODY = (Metric.SEND_NOBODY_RAN, Metric.SEND_OTHERS_RAN)


def test_sends_have_one_outcome(done: Run, trace: Trace) -> None:
    """A send either woke its target or did not; only a loss or the end of the trace leaves it unknown."""
    counts: Counter[Metric] = Counter()
    for key, count in done.counts.items():
        counts[key.metric] += count
    woke = sum(row.metric == Metric.SEND_TO_WAKE for row in done.intervals)
    outcomes = woke + sum(row.metric in WOKE_NOBODY for row in done.intervals)
    losses = sum(record.event == LOST_RECORDS for record in trace.records)
    without_effect = counts[Metric.WAKE_WITHOUT_EFFECT]
    open_ends = losses + len(done.machine.pcpus) + without_effect
    assert counts[Metric.SEND] - open_ends <= outcomes <= counts[Metric.SEND]


# --- against a simulated host ------------------------------------------------------------------


@pytest.fixture(scope="module", params=range(3))
def simulation(request: pytest.FixtureRequest) -> Simulation:
    return simulate(request.param, 3, DOMAINS, 60_000_000)


def by_vcpu(rows: list[Interval], metric: Metric, domain: int, vcpu: int) -> list[Interval]:
    return [row for row in rows if row.metric == metric and row.a == domain << 16 | vcpu]


def test_intervals_agree_with_the_simulated_host(simulation: Simulation) -> None:
    done = run(simulation.data)
    rows, counts = done.intervals, done.counts

    def count(metric: Metric) -> int:
        return sum(n for counted, n in counts.items() if counted.metric == metric and counted.a == key)

    for (domain, number), truth in simulation.truth.vcpus.items():
        key = domain << 16 | number

        def of(metric: Metric, domain: int = domain, number: int = number) -> list[Interval]:
            return by_vcpu(rows, metric, domain, number)

        assert count(Metric.SEND) == truth.sends
        assert count(Metric.CONTINUE_RUNNING) == truth.continues
        assert count(Metric.IRET_TRAP) == truth.traps + truth.page_faults
        assert len(of(Metric.TRAP)) == truth.traps
        assert count(Metric.BLOCK_CALL) in (0, truth.blocks + truth.blocks_pending)
        assert truth.blocks_pending - 1 <= count(Metric.BLOCK_WITHOUT_BLOCK) <= truth.blocks_pending
        assert sum(row.b for row in of(Metric.INTR_WINDOW)) == truth.masked_windows
        exits = Counter(row.b for row in of(Metric.HVM_EXIT))
        assert sum((truth.exits - exits).values()) <= 1
        assert not exits - truth.exits
        if truth.hypercalls[host.IRET]:
            assert count(Metric.IRET_UPCALL) + count(Metric.IRET_OPEN) == truth.upcalls
        else:
            assert len(of(Metric.INJECTION)) == truth.upcalls
        # A waker on another pCPU may write WAKE before the block's runstate record: it is not measured.
        early = count(Metric.WAKE_WITHOUT_EFFECT)
        for metric, cycles in (
            (Metric.WAKE_TO_RUNNING, truth.wake_to_running_cycles),
            (Metric.WAKE_TO_RUNNABLE, truth.wake_to_runnable_cycles),
        ):
            measured = [row.value for row in of(metric)]
            assert not Counter(measured) - Counter(cycles)
            assert 0 <= len(cycles) - len(measured) <= early
        remote = sum(row.b & Woken.MOVED for row in of(Metric.WAKE_TO_RUNNING))
        assert truth.remote_runs - early <= remote <= truth.remote_runs
        running = of(Metric.RUNNING)
        assert len(running) == truth.state_counts[Runstate.RUNNING]
        assert sum(row.value for row in running) == truth.state_cycles[Runstate.RUNNING]
        # Its first block begins before its first record.
        assert len(of(Metric.BLOCKED)) == truth.state_counts[Runstate.BLOCKED]
        assert sum(row.value for row in of(Metric.BLOCKED)) == truth.state_cycles[Runstate.BLOCKED]


def test_causes_of_wakes_are_right(simulation: Simulation) -> None:
    """Except for a timer or interrupt right after a send that woke no vCPU: it looks like the send's wake."""
    found: Counter[int] = Counter()
    done = run(simulation.data)
    for row in [*done.intervals, *as_intervals(done.ends)]:
        if row.metric == Metric.WAKE_CAUSE:
            found[row.b >> 32] += 1
    true: Counter[str] = Counter()
    for truth in simulation.truth.vcpus.values():
        true.update(truth.wakes)
    early = sum(n for key, n in done.counts.items() if key.metric == Metric.WAKE_WITHOUT_EFFECT)
    assert found.total() + early == true.total()
    not_told = found[WakeCause.UNKNOWN] + early
    assert not_told < 20
    taken_for_sends = 0.1 * true["hypercall"]
    assert 0 <= true["irq"] - found[WakeCause.IRQ] <= not_told + taken_for_sends
    assert -not_told <= found[WakeCause.EVENT_CHANNEL] - true["hypercall"] <= taken_for_sends


# --- many pCPUs --------------------------------------------------------------------------------


def test_three_hundred_pcpus() -> None:
    pcpus = 300
    domains: list[tuple[int, int, Kind]] = [(0, 16, "pv"), *((number, 8, "hvm") for number in range(1, 60))]
    simulation = simulate(4, pcpus, domains, 3_000_000)
    whole, cut = run(simulation.data), run(simulation.data, chunk_bytes=1 << 14)
    assert (whole.rows == cut.rows).all()
    assert whole.machine.glob[G.PCPUS] == pcpus
    rows = whole.intervals
    used = {row.a for row in rows if row.metric == Metric.PCPU_RUNNING}
    assert len(used) > 250
    assert max(used) > 290
    cycles: Counter[int] = Counter()
    for row in rows:
        cycles[row.a] += row.value if row.metric == Metric.RUNNING else 0
    for (domain, number), truth in simulation.truth.vcpus.items():
        assert cycles[domain << 16 | number] == truth.state_cycles[Runstate.RUNNING]
    irqs = sum(row.metric == Metric.IRQ_HANDLING for row in rows)
    assert irqs == simulation.truth.irqs.total()
