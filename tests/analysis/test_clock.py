"""The TSC's rate and the skew between pCPUs, as the trace itself tells them."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest

from analysis.partials import partial
from analysis.test_machine import DOMAINS
from builders.host import simulate
from xtrace.analysis import clock
from xtrace.analysis.metrics import Metric
from xtrace.probes.format import IDLE_DOMAIN
from xtrace.probes.writer import TraceWriter

RUNSTATE, INFPREV = 0x21001, 0x2800E
SCHEDULER, IDLE = 0, 1


def busy(hz: int, seconds: float, *, pcpus: int = 2, seed: int = 1, skew_cycles: Sequence[int] = ()) -> bytes:
    """Return a trace of turns of two vCPUs a pCPU, with the run times in ns that Xen records."""
    random, out = np.random.default_rng(seed), io.BytesIO()
    with TraceWriter(out, pcpus, skew_cycles=skew_cycles) as writer:
        for pcpu in range(pcpus):
            tsc, begun, vcpus = 1 << 40, 1 << 40, [(1 + pcpu) << 16, IDLE_DOMAIN << 16 | pcpu]
            writer.write(pcpu, tsc, RUNSTATE | 0x100, (vcpus[0],))
            while tsc < (1 << 40) + seconds * hz:
                tsc += int(random.exponential(0.0008 * hz)) + 4000
                ran = tsc - begun
                begun = tsc
                # From Xen's clock to the record some cycles pass, now more, now less.
                tsc += int(random.integers(200, 2500))
                old, new = vcpus
                writer.write(pcpu, tsc, INFPREV, (old >> 16, old & 0xFFFF, ran * 10**9 // hz))
                writer.write(pcpu, tsc + 300, RUNSTATE | 0x010, (old,))
                writer.write(pcpu, tsc + 600, RUNSTATE | 0x100, (new,))
                vcpus.reverse()
                if writer.unread_bytes(pcpu) > 60_000:
                    writer.poll()
    return out.getvalue()


def pairs_of(ratios: np.ndarray[tuple[int], np.dtype[np.float64]], source: int, units: float) -> pd.DataFrame:
    cycles = np.full(len(ratios), 1_000_000_000)
    return pd.DataFrame(
        {"ns": (cycles / ratios * units).astype(np.int64), "cycles": cycles, "source": source}
    )


@pytest.mark.parametrize("hz", [1_000_000_000, 2_600_000_000, 4_200_000_000])
def test_run_times_tell_the_rate(hz: int) -> None:
    rate = clock.estimate(partial(busy(hz, 2.5)).pairs)
    assert rate is not None
    assert "scheduler" in rate.source
    assert rate.pairs >= 8
    assert abs(rate.hz - hz) / hz < 20e-6
    assert rate.low_hz <= rate.hz <= rate.high_hz
    assert rate.low_hz - hz * 2e-6 <= hz <= rate.high_hz + hz * 2e-6
    assert rate.error_ppm < 20


@pytest.mark.parametrize("hz", [1_000_000_000, 2_600_000_000, 4_200_000_000])
def test_a_whole_host_tells_the_rate(hz: int) -> None:
    """In the fraction of a second that the simulated one lives: the ends of few, short sums weigh."""
    data = simulate(2, 4, DOMAINS, hz // 25, tsc_hz=hz).data
    rate = clock.estimate(partial(data).pairs)
    assert rate is not None
    assert rate.low_hz <= hz <= rate.high_hz or abs(rate.hz - hz) / hz < 300e-6


def test_skew_does_not_spoil_the_rate() -> None:
    hz = 2_600_000_000
    rate = clock.estimate(partial(busy(hz, 2.0, skew_cycles=(0, 5_000_000))).pairs)
    assert rate is not None
    assert abs(rate.hz - hz) / hz < 20e-6


@pytest.mark.parametrize("data", [b"", busy(2_600_000_000, 0.004)], ids=["nothing", "four milliseconds"])
def test_too_little_tells_nothing(data: bytes) -> None:
    assert clock.estimate(partial(data).pairs) is None


@pytest.mark.parametrize(
    ("ratio", "source"), [(5e7, SCHEDULER), (5e10, SCHEDULER), (5e7, IDLE), (2.6e9, 7)], ids=str
)
def test_what_cannot_be_a_rate_is_none(ratio: float, source: int) -> None:
    assert clock.estimate(pairs_of(np.full(9, ratio), source, 1e9)) is None


@pytest.mark.parametrize(("units", "name"), [(1e9, "ns"), (3_579_545, "PM timer")])
def test_idle_times_serve_where_run_times_are_missing(units: float, name: str) -> None:
    rate = clock.estimate(pairs_of(np.full(9, 2.6e9), IDLE, units))
    assert rate is not None
    assert rate.hz == pytest.approx(2.6e9, rel=1e-5)
    assert name in rate.source


def test_run_times_go_before_idle_times() -> None:
    both = pd.concat((pairs_of(np.full(9, 2.6e9), SCHEDULER, 1e9), pairs_of(np.full(99, 3e9), IDLE, 1e9)))
    rate = clock.estimate(both)
    assert rate is not None
    assert rate.hz == pytest.approx(2.6e9, rel=1e-6)


@pytest.mark.parametrize("count", [10, 30, 200])
def test_the_interval_holds_the_rate_as_often_as_it_says(count: int) -> None:
    random = np.random.default_rng(count)
    hit = 0
    for _ in range(300):
        rate = clock.estimate(pairs_of(2.6e9 * (1 + random.normal(0, 1e-5, count)), SCHEDULER, 1e9))
        assert rate is not None
        hit += rate.low_hz <= 2.6e9 <= rate.high_hz
    assert hit / 300 > 0.92


def test_a_few_wild_pairs_do_not_move_the_median() -> None:
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


# --- skew --------------------------------------------------------------------------------------


def skews(*skew_cycles: int) -> pd.DataFrame:
    data = simulate(7, 3, DOMAINS, 40_000_000, skew_cycles=skew_cycles).data
    return clock.skew(partial(data).tallies)


@pytest.mark.parametrize(
    "skew", [(0, 0, 0), (0, 700, -900), (0, 20_000, -30_000), (0, 0, 100_000), (0, 0, -100_000)]
)
def test_the_bounds_hold_the_true_skew(skew: tuple[int, ...]) -> None:
    found = skews(*skew)
    assert len(found) == 3
    for row in found.to_dict("records"):
        true = skew[row["other_pcpu"]] - skew[row["pcpu"]]
        assert row["low_cycles"] <= true <= row["high_cycles"]
        assert row["skewed"] == (not row["low_cycles"] <= 0 <= row["high_cycles"])
        # What is far beyond the time of a handoff shows; what is not skewed never does.
        assert row["skewed"] or abs(true) < 100_000, row
        assert true or not row["skewed"], row


@pytest.mark.parametrize("skew_cycles", [-4_000_000, -300_000, 300_000, 500_000])
def test_a_skew_beyond_all_handoffs_shows(skew_cycles: int) -> None:
    """Not in each pair, since the stream shows a vCPU's turns in the wrong order, but of the right pCPU."""
    found = skews(0, 0, skew_cycles)
    assert list(zip(found["pcpu"], found["other_pcpu"], strict=True)) == [(0, 1), (0, 2), (1, 2)]
    assert not found["skewed"][0]
    assert found["skewed"].any()


def test_one_direction_alone_says_nothing() -> None:
    handoff = {"metric": int(Metric.HANDOFF), "b": 0, "count": 1, "sum_cycles": 5, "max_cycles": 5}
    tallies = pd.DataFrame([{**handoff, "a": 1, "min_cycles": 5}])
    assert len(clock.skew(tallies)) == 0
    assert list(clock.skew(tallies).columns) == ["pcpu", "other_pcpu", "low_cycles", "high_cycles", "skewed"]
