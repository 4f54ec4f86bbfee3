"""top and stat count what the report's slow twin counts in the same bytes, however they arrive."""

from __future__ import annotations

import lzma
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from builders import host
from builders.host import Kind, simulate
from builders.mutated import case_of
from builders.random_records import traces
from builders.restarted import halves, suspended
from builders.run_times import about, in_turn, of_runs
from oracle import machine as oracle
from oracle.machine import Count
from oracle.reader import Trace, frame, read
from xtrace.analysis.columns import Columns
from xtrace.analysis.state_machine.collected import PAIRS
from xtrace.analysis.state_machine.metrics import Metric
from xtrace.analysis.state_machine.one_pass import collect
from xtrace.analysis.summary import clock
from xtrace.analysis.summary import histogram as analysis_histogram
from xtrace.probes.errors import TraceError
from xtrace.probes.format import LOST_RECORDS
from xtrace.probes.live import counters, framer
from xtrace.probes.live.counters import Figures
from xtrace.probes.live.histogram import Histogram, bounds_of, bucket_of
from xtrace.probes.live.periods import Period, Periods
from xtrace.probes.live.tsc_rate import RateMeter
from xtrace.probes.reader.writer import pack_record, pack_window
from xtrace.probes.xen_abi import IDLE_DOMAIN

#: The smallest, and those with losses; tests/cli/commands/test_top.py compares all of them with the report.
_ALL = sorted((Path(__file__).parents[3] / "samples").glob("*.bin.xz"), key=lambda path: path.stat().st_size)
SAMPLES = sorted({*_ALL[:3], *(path for path in _ALL if "lost" in path.name)})
WHOLE = 1 << 62
DOMAINS: list[tuple[int, int, Kind]] = [(0, 2, "pv"), (1, 3, "pv"), (5, 2, "hvm")]
XEN_VERSION = 17

#: The oracle's metric for each time of Figures.
TIMES = {
    "wake_to_running": Metric.WAKE_TO_RUNNING,
    "upcall_most": Metric.UPCALL_MAX,
    "upcall_least": Metric.UPCALL_MIN,
    "hvm_upcall": Metric.HVM_UPCALL,
}
#: The oracle's metrics for each count of Figures; the oracle has them as intervals or as counts.
COUNTS = {
    "wakes": Metric.WAKE_CAUSE,
    "sends": Metric.SEND,
    "hypercalls": Metric.HYPERCALL,
    "upcalls_least": Metric.IRET_UPCALL,
    "irets_open": Metric.IRET_OPEN,
    "injections": Metric.INJECTION,
}
CUTS = (Metric.WAKE_TO_RUNNING, Metric.UPCALL_MAX)


def periods(data: bytes, cycles: int = WHOLE, chunk_bytes: int = 1 << 16) -> tuple[list[Period], Periods]:
    found = Periods(cycles)
    made: list[Period] = []
    for at in range(0, len(data), chunk_bytes):
        made += found.feed(data[at : at + chunk_bytes])
    return made + list(found.end()), found


def added(made: list[Period]) -> dict[int, Figures]:
    total: dict[int, Figures] = {}
    for period in made:
        for key, figures in period.vcpus.items():
            total.setdefault(key, Figures()).add(figures)
    return total


class Truth:
    """What the oracle finds in a trace, by vCPU."""

    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.counts: Counter[tuple[Metric, int]] = Counter()
        self.forced = Counter[int]()
        self.times: dict[tuple[Metric, int], list[int]] = {}
        self.cuts = Counter[int]()
        for records in trace.segments:
            self._add(oracle.run(records))

    def _add(self, found: oracle.Result) -> None:
        for count, number in found.counts.items():
            self._count(count, number)
        for interval in [*found.intervals, *found.ends]:
            self._count(Count(interval.metric, interval.a, interval.b), 1)
            self.times.setdefault((interval.metric, interval.a), []).append(interval.value)
            self.cuts[interval.a] += interval.metric == Metric.CUT and interval.b in CUTS

    def _count(self, count: Count, number: int) -> None:
        self.counts[count.metric, count.a] += number
        self.forced[count.a] += number * (count.metric == Metric.HYPERCALL and count.b == XEN_VERSION)

    def runs(self) -> Counter[int]:
        return Counter(
            record.words[0]
            for record in self.trace.records
            if record.event & ~0x300 == 0x21001
            and record.words
            and record.words[0] >> 16 != IDLE_DOMAIN
            and record.tsc < 1 << 62
        )


def assert_like_the_oracle(data: bytes, cycles: int = WHOLE, chunk_bytes: int = 1 << 16) -> Periods:
    """Compare every figure with the oracle's."""
    trace = read(data)
    truth = Truth(trace)
    made, found = periods(data, cycles, chunk_bytes)
    total = added(made)
    keys = total.keys() | {a for metric, a in truth.counts if metric in {*COUNTS.values(), *TIMES.values()}}
    runs = truth.runs()
    for key in keys:
        figures = total.get(key, Figures())
        for name, metric in COUNTS.items():
            assert getattr(figures, name) == truth.counts[metric, key], (hex(key), name)
        for name, metric in TIMES.items():
            assert_like_values(getattr(figures, name), truth.times.get((metric, key), []))
        assert figures.forced == truth.forced[key]
        assert figures.runs == runs[key]
        assert figures.cuts >= truth.cuts[key]
    hosts = [period.host for period in made]
    if made:
        assert sum(each.records for each in hosts) == len(trace.records)
        assert sum(each.lost for each in hosts) == truth_lost(trace)
        irqs = sum(count for (metric, _), count in truth.counts.items() if metric == Metric.IRQ_HANDLING)
        assert sum(each.irqs for each in hosts) == irqs
    assert found.framer.record_count == len(trace.records)
    return found


def truth_lost(trace: Trace) -> int:
    return sum(
        record.words[0]
        for record in trace.records
        if record.event == LOST_RECORDS and record.timed and len(record.words) == 4 and record.tsc < 1 << 62
    )


def assert_like_values(histogram: Histogram, values: list[int]) -> None:
    assert histogram.count == len(values)
    if values:
        assert (histogram.least, histogram.greatest) == (min(values), max(values))
    assert histogram.buckets == Counter(bucket_of(value) for value in values if value >= 0)


def calm(seed: int) -> bytes:
    return simulate(seed, 3, DOMAINS, 30_000_000).data


def lossy(seed: int) -> bytes:
    return simulate(seed, 3, DOMAINS, 60_000_000, loss=0.4, ring_bytes=4088, poll_cycles=2_000_000).data


def skewed(seed: int) -> bytes:
    return simulate(seed, 3, DOMAINS, 30_000_000, skew_cycles=(0, 3000, -5000)).data


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.name.split(".")[0])
def test_samples(sample: Path) -> None:
    found = assert_like_the_oracle(lzma.decompress(sample.read_bytes()))
    assert found.framer.late_count == found.framer.damage_count == 0


@pytest.mark.parametrize("make", [calm, lossy, skewed])
@pytest.mark.parametrize("seed", range(3))
def test_simulated_hosts(make: object, seed: int) -> None:
    assert callable(make)
    assert_like_the_oracle(make(seed))


@pytest.mark.parametrize("chunk_bytes", [4, 1000, 1 << 14])
def test_chunk_sizes_do_not_matter(chunk_bytes: int) -> None:
    data = lossy(7)[: 60_000 if chunk_bytes < 100 else None]
    found = assert_like_the_oracle(data, 1_000_000, chunk_bytes)
    assert found.framer.late_count == 0


@settings(max_examples=150, suppress_health_check=list(HealthCheck))
@given(traces())
def test_random_records(data: bytes) -> None:
    assert_like_the_oracle(data)


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(traces(), st.sampled_from([4, 40, 1 << 16]), st.integers(1, 3000))
def test_random_records_in_periods(data: bytes, chunk_bytes: int, cycles: int) -> None:
    assert_like_the_oracle(data, cycles, chunk_bytes)


# --- restarts of the TSC ------------------------------------------------------------------------


def appended(seed: int) -> bytes:
    first, second = halves(lossy(seed))
    return second + first + calm(seed)


def slept(seed: int) -> bytes:
    return suspended(lossy(seed))[0]


@pytest.mark.parametrize("make", [appended, slept])
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("chunk_bytes", [4000, 1 << 16, 1 << 30])
def test_a_tsc_that_restarts(make: object, seed: int, chunk_bytes: int) -> None:
    """Nothing is measured across it, and the time that is shown goes on."""
    assert callable(make)
    data = make(seed)
    trace = read(data)
    found = assert_like_the_oracle(data, 1_000_000, chunk_bytes)
    assert found.framer.restart_count == len(trace.restarts) > 0
    assert found.framer.late_count == 0
    made, _ = periods(data, 1_000_000, chunk_bytes)
    since = 0
    for period in made:
        assert 0 < period.span_cycles <= 1_000_000
        assert period.since_cycles == since
        since += period.span_cycles
    shown = [interval for vcpu in added(made).values() for interval in (vcpu.wake_to_running.least,)]
    assert min(shown) >= 0
    tscs = [[record.tsc for record in records if record.timed] for records in trace.segments]
    assert since == pytest.approx(sum(max(each) - min(each) for each in tscs), rel=0.05)


def test_a_restart_is_shown_at_once() -> None:
    """Not only when the TSC has reached again what it was before."""
    late = b"".join(pack_window(0, pack_record(host.WAKE, tsc, (1, 0)) * 2) for tsc in range(5000, 9000, 100))
    early = [pack_window(0, pack_record(host.WAKE, tsc, (1, 0)) * 2) for tsc in range(100, 2000, 100)]
    found = Periods(500)
    list(found.feed(late))
    made = [len(list(found.feed(window))) for window in early]
    assert sum(made[:3]) > 0
    assert sum(made[6:]) > 1


def test_the_rate_is_not_measured_across_a_restart() -> None:
    (sample,) = (path for path in _ALL if "pv-all" in path.name)
    data = lzma.decompress(sample.read_bytes())
    first, second = halves(data)
    meters = [RateMeter() for _ in range(2)]
    meters[0].feed(data)
    meters[1].feed(second + first)
    hz = [meter.hz for meter in meters]
    assert hz[0] is not None
    assert hz[1] == pytest.approx(hz[0], rel=1e-4)


# --- skew ---------------------------------------------------------------------------------------

VCPU = 1 << 16
TO_RUNNING, BLOCKED, WOKEN = 0x21101, 0x21021, 0x21211
#: pCPU, TSC, event, words.
Event = tuple[int, int, int, tuple[int, ...]]
#: vCPU 0 of domain 1 blocks on pCPU 0, then runs on pCPU 1, whose TSC lags: it seems to run there first.
MOVES: list[Event] = [
    (0, 1000, TO_RUNNING, (VCPU,)),
    (1, 1900, TO_RUNNING, (VCPU,)),
    (0, 2000, BLOCKED, (VCPU,)),
]


def trace_of(events: list[Event]) -> bytes:
    return b"".join(
        pack_window(
            pcpu, b"".join(pack_record(event, tsc, words) for of, tsc, event, words in events if of == pcpu)
        )
        for pcpu in sorted({event[0] for event in events})
    )


def figures_of(*events: Event) -> Figures:
    data = trace_of([*MOVES, *events])
    assert_like_the_oracle(data)
    return added(periods(data)[0])[VCPU]


def test_a_late_deschedule_does_not_stop_a_vcpu_that_runs_elsewhere() -> None:
    """A wake of a running vCPU has no effect, whatever the pCPU that it left records later."""
    assert figures_of((1, 2100, host.WAKE, (1, 0))).wakes == 0
    # It blocks where it runs: from then on it can be woken.
    woken = figures_of((1, 2100, BLOCKED, (VCPU,)), (0, 2200, host.WAKE, (1, 0)))
    assert (woken.wakes, woken.runs) == (1, 2)


def test_only_one_deschedule_is_late() -> None:
    """A second deschedule on the pCPU that it left does stop it."""
    assert figures_of((0, 2100, BLOCKED, (VCPU,)), (1, 2200, host.WAKE, (1, 0))).wakes == 1


def test_after_a_stop_where_it_runs_no_late_deschedule_is_expected() -> None:
    """The other pCPU's deschedule was lost: the next one on that pCPU belongs to a new run."""
    begun, moved, _ = MOVES
    data = trace_of(
        [
            begun,
            moved,
            (1, 2000, BLOCKED, (VCPU,)),
            (1, 2100, host.WAKE, (1, 0)),
            (1, 2110, WOKEN, (VCPU,)),
            (1, 2200, TO_RUNNING, (VCPU,)),
            (0, 2300, BLOCKED, (VCPU,)),
            (1, 2400, host.WAKE, (1, 0)),
        ]
    )
    assert_like_the_oracle(data)
    assert added(periods(data)[0])[VCPU].wakes == 2


# --- damage ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(150))
def test_damage_is_found_where_the_oracle_finds_it(seed: int) -> None:
    random_ = random.Random(seed)
    data = case_of(random_)
    trace = read(data)
    if trace.damages and not frame(data).windows:
        with pytest.raises(TraceError, match="not a xentrace file"):
            periods(data)
        return
    assert_like_the_oracle(data)
    # In small chunks, damaged rounds may produce late records: only the framing is the same.
    framer = periods(data, chunk_bytes=random_.choice([4, 64, 1000]))[1].framer
    assert framer.record_count == len(trace.records)
    assert framer.damage_count == len(trace.damages)
    assert framer.skipped_bytes == trace.skipped_bytes
    assert framer.missing_bytes == trace.missing_bytes
    if trace.damages:
        assert framer.first_damage is not None
        assert framer.first_damage[0] == trace.damages[0].offset


def test_a_long_pause_is_one_period() -> None:
    """A damaged TSC that jumps ahead by years must not produce a period for each second."""
    body = b"".join(pack_record(host.WAKE, tsc, (1, 0)) for tsc in (1 << 30, (1 << 30) + 5, 1 << 60))
    made, _ = periods(pack_window(0, body), cycles=100)
    assert len(made) == 2
    assert [period.host.records for period in made] == [2, 1]
    assert made[1].pause_cycles > (1 << 60) - (1 << 31)
    assert made[1].begin_tsc <= 1 << 60 <= made[1].end_tsc


def test_periods_without_records_are_yielded() -> None:
    body = b"".join(pack_record(host.WAKE, tsc, (1, 0)) for tsc in (1000, 1999, 5500))
    made, _ = periods(pack_window(0, body), cycles=1000)
    assert [(period.begin_tsc, period.end_tsc) for period in made] == [
        (1000, 2000), (2000, 3000), (3000, 4000), (4000, 5000), (5000, 5500)
    ]  # fmt: skip
    assert [period.host.records for period in made] == [2, 0, 0, 0, 1]


def test_held_records_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """One round with ever more windows: the merge goes on and counts late records."""
    monkeypatch.setattr(framer, "_MAX_HELD", 100)
    found = Periods(WHOLE)
    for pcpu in range(50):
        body = b"".join(pack_record(host.WAKE, 1000 + tsc, (1, pcpu)) for tsc in range(30))
        list(found.feed(pack_window(pcpu, body)))
        assert sum(len(lane.held) for lane in found.framer._lanes.values()) <= 100 + 31
    list(found.end())
    assert found.framer.late_count > 0
    assert found.framer.record_count == 1500


def test_more_vcpus_than_are_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counters, "MAX_VCPUS", 10)
    body = b"".join(pack_record(host.WAKE, 1000 + vcpu, (1, vcpu)) for vcpu in range(50))
    made, found = periods(pack_window(0, body))
    assert len(made[0].vcpus) == 10
    assert sum(figures.wakes for figures in made[0].vcpus.values()) == 50
    assert found.machine.overflow_count == 41


def test_not_a_trace() -> None:
    with pytest.raises(TraceError, match="not a xentrace file"):
        periods(b"GIF89a" * 20)
    assert periods(b"")[0] == []


# --- histograms and the rate -------------------------------------------------------------------


@given(st.lists(st.integers(0, 1 << 40), min_size=1, max_size=60))
def test_histograms_match_the_reports(values: list[int]) -> None:
    histogram = Histogram()
    for value in values:
        histogram.put(value)
    buckets = np.array(sorted(histogram.buckets))
    least, greatest = analysis_histogram.bucket_bounds(buckets)
    assert [bounds_of(bucket) for bucket in buckets.tolist()] == list(
        zip(least.tolist(), greatest.tolist(), strict=True)
    )
    tallies = Columns(
        {"a": [0], "count": [len(values)], "sum_cycles": [sum(values)],
         "min_cycles": [min(values)], "max_cycles": [max(values)]}
    )  # fmt: skip
    rows = Columns({"a": 0, "bucket": buckets, "count": [histogram.buckets[b] for b in buckets.tolist()]})
    theirs = analysis_histogram.summarise(tallies, rows, ["a"], (0.5, 0.99))
    (row,) = theirs.rows()
    assert [histogram.quantile(0.5), histogram.quantile(0.99)] == [row["p50_cycles"], row["p99_cycles"]]


@given(st.lists(st.lists(st.integers(-5, 1 << 40), max_size=20), max_size=4))
def test_added_histograms_equal_one_of_all_values(parts: list[list[int]]) -> None:
    total, at_once = Histogram(), Histogram()
    for values in parts:
        part = Histogram()
        for value in values:
            part.put(value)
            at_once.put(value)
        total.add(part)
    assert (total.count, total.least, total.greatest) == (at_once.count, at_once.least, at_once.greatest)
    assert total.buckets == at_once.buckets


#: The others are cut to a second or less, and what is left out is most of it.
LONG = [path for path in SAMPLES if "events" not in path.name]


@pytest.mark.parametrize("sample", LONG, ids=lambda path: path.name.split(".")[0])
def test_the_rate_matches_the_reports(sample: Path) -> None:
    meter = RateMeter()
    meter.feed(lzma.decompress(sample.read_bytes()))
    pairs = Columns(dict(zip(PAIRS, collect(str(sample)).pairs.T, strict=True)))
    theirs = clock.estimate(pairs)
    assert theirs is not None
    # The last sum of each pCPU and those cut short by a loss are left out here.
    assert meter.hz == pytest.approx(theirs.hz, rel=1e-4)


@pytest.mark.parametrize("hz", [1_000_000, 24_000_000, 2_300_000_000, 20_000_000_000])
def test_the_rate_of_any_counter(hz: int) -> None:
    meter = RateMeter()
    meter.feed(of_runs(hz, about(0.02), runs=600))
    assert meter.hz == pytest.approx(hz, rel=3e-4)


@pytest.mark.parametrize("lengths_s", [(5,), (5, 20e-6), (4.4, 20e-6), (5, 10)])
def test_run_times_that_wrapped_give_no_rate(lengths_s: tuple[float, ...]) -> None:
    meter = RateMeter()
    meter.feed(of_runs(24_000_000, in_turn(*lengths_s)))
    assert meter.sum_count > 3
    assert meter.hz is None


def test_a_trace_without_a_rate() -> None:
    meter = RateMeter()
    meter.feed(pack_window(0, pack_record(host.WAKE, 1000, (1, 0))))
    assert meter.hz is None
