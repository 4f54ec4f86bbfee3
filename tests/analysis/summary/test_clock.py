"""The TSC rate and the skew between pCPUs, estimated from the trace itself."""

from __future__ import annotations

import io
import lzma
import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builders.host import simulate
from builders.hosts import DOMAINS, lossy
from builders.partials import partial
from builders.run_times import Length, about, at_another_rate, in_turn, of_runs
from oracle.reading import SAMPLES
from xtrace.analysis.columns import Columns, joined
from xtrace.analysis.report.build import build, json_object
from xtrace.analysis.state_machine.metrics import Metric
from xtrace.analysis.summary import clock
from xtrace.analysis.summary.partial import Partial
from xtrace.probes.reader.writer import TraceWriter, pack_record, pack_window
from xtrace.probes.xen_abi import IDLE_DOMAIN

RUNSTATE, INFPREV = 0x21001, 0x2800E
SCHEDULER, IDLE = 0, 1


def busy(hz: int, seconds: float, *, pcpus: int = 2, seed: int = 1, skew_cycles: Sequence[int] = ()) -> bytes:
    """Return a trace of two vCPUs per pCPU that run in turn, with the run times in ns that Xen records."""
    random, out = np.random.default_rng(seed), io.BytesIO()
    with TraceWriter(out, pcpus, skew_cycles=skew_cycles) as writer:
        for pcpu in range(pcpus):
            tsc, begun, vcpus = 1 << 40, 1 << 40, [(1 + pcpu) << 16, IDLE_DOMAIN << 16 | pcpu]
            writer.write(pcpu, tsc, RUNSTATE | 0x100, (vcpus[0],))
            while tsc < (1 << 40) + seconds * hz:
                tsc += int(random.exponential(0.0008 * hz)) + 4000
                ran = tsc - begun
                begun = tsc
                # The record comes a varying number of cycles after Xen read its clock.
                tsc += int(random.integers(200, 2500))
                old, new = vcpus
                writer.write(pcpu, tsc, INFPREV, (old >> 16, old & 0xFFFF, ran * 10**9 // hz))
                writer.write(pcpu, tsc + 300, RUNSTATE | 0x010, (old,))
                writer.write(pcpu, tsc + 600, RUNSTATE | 0x100, (new,))
                vcpus.reverse()
                if writer.unread_bytes(pcpu) > 60_000:
                    writer.poll()
    return out.getvalue()


def pairs_of(ratios: np.ndarray[tuple[int], np.dtype[np.float64]], source: int, units: float) -> Columns:
    cycles = np.full(len(ratios), 1_000_000_000)
    return Columns({"ns": (cycles / ratios * units).astype(np.int64), "cycles": cycles, "source": source})


@pytest.mark.parametrize("hz", [1_000_000_000, 2_600_000_000, 4_200_000_000])
def test_rate_from_run_times(hz: int) -> None:
    rate = clock.estimate(partial(busy(hz, 2.5)).pairs)
    assert rate is not None
    assert "scheduler" in rate.source
    assert rate.pairs >= 8
    assert abs(rate.hz - hz) / hz < 20e-6
    assert rate.low_hz <= rate.hz <= rate.high_hz
    assert rate.low_hz - hz * 2e-6 <= hz <= rate.high_hz + hz * 2e-6
    assert rate.error_ppm < 20


@pytest.mark.parametrize("hz", [1_000_000_000, 2_600_000_000, 4_200_000_000])
def test_rate_from_a_whole_host(hz: int) -> None:
    """The simulated host runs for a fraction of a second, so the ends of its few short sums matter."""
    data = simulate(2, 4, DOMAINS, hz // 25, tsc_hz=hz).data
    rate = clock.estimate(partial(data).pairs)
    assert rate is not None
    assert rate.low_hz <= hz <= rate.high_hz or abs(rate.hz - hz) / hz < 300e-6


def test_skew_does_not_affect_the_rate() -> None:
    hz = 2_600_000_000
    rate = clock.estimate(partial(busy(hz, 2.0, skew_cycles=(0, 5_000_000))).pairs)
    assert rate is not None
    assert abs(rate.hz - hz) / hz < 20e-6


@pytest.mark.parametrize("data", [b"", busy(2_600_000_000, 0.004)], ids=["nothing", "four milliseconds"])
def test_too_little_data_gives_no_rate(data: bytes) -> None:
    assert clock.estimate(partial(data).pairs) is None


@pytest.mark.parametrize(
    ("ratio", "source"), [(5e7, SCHEDULER), (5e10, SCHEDULER), (5e7, IDLE), (2.6e9, 7)], ids=str
)
def test_an_impossible_rate_is_none(ratio: float, source: int) -> None:
    assert clock.estimate(pairs_of(np.full(9, ratio), source, 1e9)) is None


def idle_times(hz: float, units: float) -> Columns:
    cycles = (hz * np.array([0.0002, 0.001, 0.003, 0.02, 0.04, 0.05, 0.3, 0.7, 1.5])).astype(np.int64)
    return Columns({"ns": (cycles / hz * units).astype(np.int64), "cycles": cycles, "source": IDLE})


@pytest.mark.parametrize(("units", "name"), [(1e9, "ns"), (3_579_545, "PM timer")])
@pytest.mark.parametrize("wrapped", [0, 4])
def test_idle_times_are_used_without_run_times(units: float, name: str, wrapped: int) -> None:
    # Across the end of a PM timer of 24 bits, the time in 32 bits is nearly the longest possible.
    across = Columns({"ns": np.full(wrapped, 0xFF00_1000), "cycles": np.full(wrapped, 10**7), "source": IDLE})
    rate = clock.estimate(joined((idle_times(2.6e9, units), across)))
    assert rate is not None
    assert rate.hz == pytest.approx(2.6e9, rel=5e-5)
    assert name in rate.source


@pytest.mark.parametrize("units", [1e9, 3_579_545])
def test_idle_times_of_one_length_do_not_show_the_rate(units: float) -> None:
    """They may have wrapped; so may idle times at a rate that no x86 processor has."""
    assert clock.estimate(pairs_of(np.full(9, 2.6e9), IDLE, units)) is None
    assert clock.estimate(idle_times(2.4e7, units)) is None


def test_run_times_take_precedence_over_idle_times() -> None:
    both = joined((pairs_of(np.full(9, 2.6e9), SCHEDULER, 1e9), idle_times(3e9, 1e9)))
    rate = clock.estimate(both)
    assert rate is not None
    assert rate.hz == pytest.approx(2.6e9, rel=1e-6)


@pytest.mark.parametrize("count", [10, 30, 200])
def test_interval_contains_the_rate_in_95_percent(count: int) -> None:
    random = np.random.default_rng(count)
    hit = 0
    for _ in range(300):
        rate = clock.estimate(pairs_of(2.6e9 * (1 + random.normal(0, 1e-5, count)), SCHEDULER, 1e9))
        assert rate is not None
        hit += rate.low_hz <= 2.6e9 <= rate.high_hz
    assert hit / 300 > 0.92


def test_a_few_outliers_do_not_move_the_median() -> None:
    ratios = np.concatenate((np.full(40, 2.6e9), [1e9, 9e9, 8e9]))
    rate = clock.estimate(pairs_of(ratios, SCHEDULER, 1e9))
    assert rate is not None
    assert rate.hz == pytest.approx(2.6e9, rel=1e-6)


def test_a_given_rate_has_no_error() -> None:
    rate = clock.given(2.4e9)
    assert (rate.hz, rate.low_hz, rate.high_hz, rate.error_ppm, rate.source) == (
        2.4e9,
        2.4e9,
        2.4e9,
        0,
        "given",
    )


# --- every rate that a TSC or Arm's generic timer can have --------------------------------------

RATES = (
    1_000_000, 10_000_000, 24_000_000, 62_500_000, 100_000_000,
    1_000_000_000, 2_300_000_000, 5_000_000_000, 20_000_000_000,
)  # fmt: skip
#: The interval is that of the median; what moves all sums of a short trace is not in it.
TOLERANCE = 3e-4
LENGTHS: dict[str, Length] = {
    "about 1 ms": about(0.001),
    "about 20 ms": about(0.02),
    "about 0.2 s": about(0.2),
    "about 3 s": about(3),
    "about 10 s": about(10),
    "of every length": lambda random_, _: random_.expovariate(1 / random_.choice((1e-4, 1e-4, 0.02, 6))),
    "30 ms": in_turn(0.03),
    "5 s": in_turn(5),
    "5 s and 10 s": in_turn(5, 10),
    "5 s and 20 us": in_turn(5, 20e-6),
    "5 s and 1 ms": in_turn(5, 0.001),
    "4.4 s and 20 us": in_turn(4.4, 20e-6),
    "4.2 s and 1 ms": in_turn(4.2, 0.001),
    "4.2 s and 0.3 s": in_turn(4.2, 0.3),
    "multiples of 5 s": lambda random_, number: random_.choice((5, 10, 20, 40)) if number % 2 else 20e-6,
    "5 s, now and then": lambda random_, number: random_.expovariate(1 / 0.001) if number % 300 else 5,
}
CONDITIONS: dict[str, dict[str, Any]] = {
    "few": {"runs": 6},
    "some": {"runs": 40},
    "many": {"runs": 600},
    "many pCPUs": {"runs": 100, "pcpus": 8},
    "late records": {"delay_s": 1e-5},
    "skew": {"skew_s": 0.1},
    "a cut beginning": {"unseen": 31},
    "loss": {"runs": 500, "polls": 0.01},
    "missing records": {"runs": 600, "missing": 0.01},
}


def is_right(rate: clock.TscRate | None, hz: float) -> bool:
    return rate is None or rate.low_hz * (1 - TOLERANCE) <= hz <= rate.high_hz * (1 + TOLERANCE)


@pytest.mark.parametrize("condition", CONDITIONS)
@pytest.mark.parametrize("lengths", LENGTHS)
def test_no_trace_gives_a_wrong_rate(lengths: str, condition: str) -> None:
    found = {}
    for seed, hz in enumerate(RATES):
        data = of_runs(hz, LENGTHS[lengths], seed=seed, **CONDITIONS[condition])
        found[hz] = clock.estimate(partial(data).pairs)
    assert [hz for hz, rate in found.items() if not is_right(rate, hz)] == [], found


@pytest.mark.parametrize("hz", RATES)
@pytest.mark.parametrize("lengths", ["about 20 ms", "about 0.2 s", "about 3 s", "30 ms", "4.2 s and 1 ms"])
def test_the_rate_is_found_at_every_rate(hz: int, lengths: str) -> None:
    rate = clock.estimate(partial(of_runs(hz, LENGTHS[lengths], runs=600)).pairs)
    assert rate is not None
    assert is_right(rate, hz)
    assert abs(rate.hz / hz - 1) < 100e-6


@pytest.mark.parametrize("hz", RATES)
@pytest.mark.parametrize("ends_us", [7_700, 40_000, 200_000])
def test_no_whole_host_gives_a_wrong_rate(hz: int, ends_us: int) -> None:
    """Its records follow each other by cycles, so on a slow TSC they are late by milliseconds."""
    for seed, more in enumerate(({}, {"loss": 0.4, "ring_bytes": 4088}, {"skew_cycles": (0, 9000, -5000)})):
        cycles = min(hz * ends_us // 1_000_000, 500_000_000)
        data = simulate(seed, 3, DOMAINS, cycles, tsc_hz=hz, **more).data  # type: ignore[arg-type]
        rate = clock.estimate(partial(data).pairs)
        assert is_right(rate, hz), rate


def test_idle_times_in_ns_are_not_taken_for_ticks_of_the_pm_timer() -> None:
    data = simulate(8, 2, [(0, 2, "pv"), (3, 1, "hvm")], 20_000_000).data
    assert clock.estimate(partial(data).pairs) is None


def test_the_rate_of_arms_generic_timer() -> None:
    (sample,) = (path for path in SAMPLES if path.name == "xen417-pv-all.bin.xz")
    data = at_another_rate(lzma.decompress(sample.read_bytes()), Fraction(24, 2300))
    rate = clock.estimate(partial(data).pairs)
    assert rate is not None
    assert rate.low_hz <= 24e6 <= rate.high_hz
    assert abs(rate.hz / 24e6 - 1) < 20e-6


def test_a_run_time_that_went_back_is_no_long_run() -> None:
    """Runs of 4.1 s have the same bits as runs that ended 0.19 s before they began."""
    for hz in RATES:
        rate = clock.estimate(partial(of_runs(hz, in_turn(4.1, 0.002), runs=60)).pairs)
        assert rate is not None
        assert is_right(rate, hz)


def test_hosts_with_different_rates_have_no_rate_together() -> None:
    hosts = [partial(of_runs(hz, about(0.02), runs=600)).pairs for hz in (1_000_000_000, 1_100_000_000)]
    assert clock.estimate(joined(hosts)) is None


def test_a_silent_hole_is_left_out() -> None:
    """Without the record of a run, the next one seems to begin where the missing one did."""
    data = of_runs(1_000_000_000, about(0.001), runs=4000, missing=0.01)
    rate = clock.estimate(partial(data).pairs)
    assert rate is not None
    assert abs(rate.hz / 1e9 - 1) < TOLERANCE


# --- skew --------------------------------------------------------------------------------------

COLUMNS = ["pcpu", "other_pcpu", "skewed", "low_cycles", "high_cycles", "least_cycles", "evidence"]
DISTANCES = (50_000, 100_000, 300_000, 500_000, 1_000_000, 4_000_000)
TSC = 1 << 40
LOST = 0x1F001


def skews(seed: int, *skew_cycles: int, duration_cycles: int = 40_000_000) -> dict[tuple[int, int], Any]:
    """Return the skew found on a host, by pair of pCPUs, after checking that it is right."""
    data = simulate(seed, len(skew_cycles), DOMAINS, duration_cycles, skew_cycles=skew_cycles).data
    found = {(row["pcpu"], row["other_pcpu"]): row for row in clock.skew(partial(data)).rows()}
    for (pcpu, other), row in found.items():
        true = skew_cycles[other] - skew_cycles[pcpu]
        assert true or not row["skewed"], row
        # False for NaN.
        assert not row["low_cycles"] > true, row
        assert not row["high_cycles"] < true, row
        assert row["least_cycles"] <= abs(true), row
        assert row["skewed"] == bool(row["evidence"])
    return found


@pytest.mark.parametrize("seed", [7, 8, 21])
@pytest.mark.parametrize("skew_cycles", [sign * least for least in DISTANCES for sign in (1, -1)])
def test_skew_of_one_pcpu_shows_in_its_pairs(seed: int, skew_cycles: int) -> None:
    found = skews(seed, 0, 0, skew_cycles)
    assert {pair: row["skewed"] for pair, row in found.items()} == {(0, 1): False, (0, 2): True, (1, 2): True}
    for pair in ((0, 2), (1, 2)):
        row = found[pair]
        # Except for the time of a move between the two, up to about 20,000 cycles.
        assert row["least_cycles"] > 0.9 * abs(skew_cycles) - 20_000
        if not math.isnan(row["low_cycles"]):
            assert row["high_cycles"] - row["low_cycles"] < 60_000 + abs(skew_cycles) / 16


@pytest.mark.parametrize("skew_cycles", [-1_000_000, -100_000, 100_000, 1_000_000])
def test_much_evidence_gives_bounds(skew_cycles: int) -> None:
    found = skews(7, 0, 0, skew_cycles)
    assert not any(math.isnan(row["low_cycles"]) for row in found.values())


@pytest.mark.parametrize("seed", range(3))
def test_bounds_contain_the_true_skew(seed: int) -> None:
    for skew in ((0, 700, -900), (0, 20_000, -30_000), (-60_000, 150_000, 0), (0, 250_000, -2_000_000)):
        found = skews(seed, *skew)
        assert list(found) == [(0, 1), (0, 2), (1, 2)]
        for (pcpu, other), row in found.items():
            assert row["skewed"] or abs(skew[other] - skew[pcpu]) < 40_000, row


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("skew_cycles", [-400_000, 300_000, 1_000_000])
def test_few_records_give_no_wrong_bounds(seed: int, skew_cycles: int) -> None:
    for duration_cycles in (4_000_000, 10_000_000):
        skews(seed, 0, 0, skew_cycles, duration_cycles=duration_cycles)


@pytest.mark.parametrize("skew_cycles", [-(10**12), -(10**9), 10**9, 10**10])
def test_skew_longer_than_the_trace_is_found(skew_cycles: int) -> None:
    found = skews(7, 0, 0, skew_cycles)
    assert {pair: row["skewed"] for pair, row in found.items()} == {(0, 1): False, (0, 2): True, (1, 2): True}
    assert found[0, 2]["high_cycles"] - found[0, 2]["low_cycles"] < 100_000_000


@pytest.mark.parametrize("pcpus", range(1, 9))
def test_no_skew_is_found_without_skew(pcpus: int) -> None:
    for seed in range(2):
        found = skews(seed, *[0] * pcpus, duration_cycles=15_000_000)
        assert found or pcpus == 1


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.name.split(".")[0])
def test_samples_are_not_skewed(sample: Path) -> None:
    found = clock.skew(partial(lzma.decompress(sample.read_bytes())))
    assert found["skewed"].tolist() == [False]
    assert found["low_cycles"][0] < 0 < found["high_cycles"][0]


@pytest.mark.parametrize("seed", range(4))
def test_losses_are_not_taken_for_skew(seed: int) -> None:
    assert not clock.skew(partial(lossy(seed)))["skewed"].any()


@pytest.mark.parametrize("seed", range(6))
def test_damage_is_not_taken_for_skew(seed: int) -> None:
    random = np.random.default_rng(seed)
    data = bytearray(lzma.decompress(SAMPLES[1].read_bytes()))
    for at in random.integers(0, len(data) // 4, 1 + 4 * seed).tolist():
        data[4 * at : 4 * at + 4] = random.bytes(4)
    assert not clock.skew(partial(bytes(data)))["skewed"].any()


Step = tuple[int, int, str]  # pCPU, TSC, what the vCPU does there
_EVENTS = {"runs": 0x21101, "stops": 0x21011, "blocks": 0x21021, "is woken": 0x21211}


def of_steps(*steps: Step) -> Partial:
    """Return the Partial of a trace of one vCPU."""
    content = [b"", b"", b""]
    for pcpu, tsc, what in steps:
        if what == "loss":
            words = (3, 1, TSC + tsc - 1 & 0xFFFF_FFFF, TSC + tsc - 1 >> 32)
            content[pcpu] += pack_record(LOST, TSC + tsc, words)
        else:
            content[pcpu] += pack_record(_EVENTS[what], TSC + tsc, (1 << 16,))
    return partial(b"".join(pack_window(pcpu, body) for pcpu, body in enumerate(content)))


@pytest.mark.parametrize(
    ("steps", "least_cycles"),
    [
        ([(0, 100, "runs"), (0, 300, "stops"), (1, 240, "runs"), (1, 400, "stops")], 60),
        ([(0, 100, "runs"), (0, 900, "stops"), (1, 240, "runs"), (1, 400, "stops")], 300),
        ([(0, 100, "runs"), (0, 300, "stops"), (1, 270, "is woken")], 30),
        ([(0, 100, "runs"), (0, 300, "blocks"), (1, 270, "is woken")], 30),
    ],
    ids=["overlapping", "inside", "changed elsewhere meanwhile", "woken before it blocks"],
)
def test_a_vcpu_on_two_pcpus_at_once_proves_skew(steps: list[Step], least_cycles: int) -> None:
    (row,) = clock.skew(of_steps(*steps)).rows()
    assert row["skewed"]
    # To within the width of a histogram bucket.
    assert least_cycles * 63 / 64 <= row["least_cycles"] <= least_cycles
    assert math.isnan(row["low_cycles"])
    assert row["evidence"] == "a vCPU seen on both at once"


@pytest.mark.parametrize(
    "steps",
    [
        [(0, 100, "runs"), (0, 300, "stops"), (1, 300, "runs"), (1, 400, "stops")],
        [(0, 100, "runs"), (0, 300, "blocks"), (1, 300, "is woken"), (0, 400, "runs"), (0, 500, "stops")],
        [(0, 100, "runs"), (0, 290, "loss"), (0, 300, "stops"), (1, 240, "runs"), (1, 400, "stops")],
        [(0, 300, "stops"), (1, 240, "runs"), (1, 400, "stops")],
        [(0, 100, "runs"), (1, 240, "runs"), (1, 400, "stops")],
        [(0, 200, "is woken"), (1, 100, "is woken"), (0, 100, "is woken"), (1, 200, "is woken")],
    ],
    ids=["touching", "woken at its end", "loss between", "no beginning", "no end", "never runs"],
)
def test_what_does_not_prove_skew(steps: list[Step]) -> None:
    assert not clock.skew(of_steps(*steps))["skewed"].any()


def of_handoffs(**least_cycles: int) -> Partial:
    """Return the Partial of a trace with handoffs of these shortest times, by pCPU pair ("p01")."""
    values = list(least_cycles.values())
    tallies = Columns(
        {
            "metric": int(Metric.HANDOFF),
            "a": [int(name[1]) << 16 | int(name[2]) for name in least_cycles],
            "b": 0,
            "count": 1,
            "sum_cycles": values,
            "min_cycles": values,
            "max_cycles": values,
        }
    )
    return replace(partial(b""), tallies=tallies)


def test_one_direction_alone_gives_no_row() -> None:
    found = clock.skew(of_handoffs(p01=5))
    assert len(found) == 0
    assert list(found.names) == COLUMNS


def test_contradictory_bounds_show_skew() -> None:
    (row,) = clock.skew(of_handoffs(p01=-50, p10=-70)).rows()
    assert row["skewed"]
    assert math.isnan(row["low_cycles"])
    assert math.isnan(row["high_cycles"])
    assert row["evidence"].startswith("contradictory bounds")


def test_the_report_has_the_evidence() -> None:
    data = simulate(7, 3, DOMAINS, 120_000_000, skew_cycles=(0, 100_000, -8_000_000)).data
    trace = json_object(build(partial(data)))["trace"]
    pairs = {(pair["pcpu"], pair["other_pcpu"]): pair for pair in trace["skewed_pcpu_pairs"]}
    assert list(pairs) == [(0, 1), (0, 2), (1, 2)]
    assert pairs[0, 1]["low_cycles"] <= 100_000 <= pairs[0, 1]["high_cycles"]
    assert pairs[0, 1]["evidence"] == "a vCPU seen on both at once"
    far = pairs[0, 2]
    assert far["low_cycles"] is None
    assert far["evidence"].endswith(f"at least {far['least_cycles']} cycles apart, in either direction")
