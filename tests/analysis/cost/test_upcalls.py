"""How many upcalls the cost is computed for, and what an upcall costs if a fence is a gain."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest

from builders.host import simulate
from builders.made_costs import HZ, INF, CostedKernel, calibration, fenced, paths_of, row
from builders.partials import partial
from xtrace.analysis.cost.domain_cost import domain_cost
from xtrace.analysis.cost.domain_facts import DomainFacts
from xtrace.analysis.cost.guest_counters import Rates
from xtrace.analysis.cost.inputs import CostInputs
from xtrace.analysis.cost.model import estimate
from xtrace.analysis.cost.rows import UpcallRow
from xtrace.analysis.measures.kernel_samples import resolve
from xtrace.analysis.measures.measures import Measures
from xtrace.probes.catalog import VersionRange
from xtrace.symbols.sites.model import Kind

DOMAIN = 1
#: The trace's bounds: 100 irets certainly end an upcall, and 100 more may.
TRACED = (100, 200)
FACTS = DomainFacts(
    domain=DOMAIN,
    is_known=True,
    is_pv=True,
    is_hvm=False,
    running_cycles=10_000_000,
    running_most_cycles=10_000_000,
    upcalls=TRACED,
    upcall_cycles=(0.0, INF),
    xen_version_count=0,
    block_count=0,
    yield_count=0,
    never=frozenset(),
)


@cache
def measures() -> Measures:
    return Measures(
        partial(simulate(1, 1, [(DOMAIN, 1, "pv")], int(HZ / 100)).data), VersionRange.parse("4.17"), HZ
    )


def counters(seconds: float | None = None, **counts: float) -> Rates:
    return Rates("rates", counts, seconds, True, None, {})


def upcalls(
    rates: Rates | None = None,
    by_bpf: tuple[float, float] | None = None,
    *,
    measured: Measures | None = None,
) -> tuple[float, float]:
    kernel = CostedKernel(paths_of([fenced("unmask", 1, Kind.UNMASK)]))
    inputs = CostInputs([kernel], None, {DOMAIN: rates} if rates else {})
    facts = replace(FACTS, upcalls_by_bpf=by_bpf)
    return domain_cost(measured or measures(), inputs, kernel, facts).upcalls


@pytest.mark.parametrize(
    ("counted", "found"),
    [
        (150, (150, 150)),
        (100, (100, 100)),
        (200, (200, 200)),
        # Outside the trace's bounds: the count is of another period or of something else.
        (99, TRACED),
        (201, TRACED),
        (0, TRACED),
        (20_000, TRACED),
    ],
)
def test_the_guests_own_count_is_used_if_the_trace_allows_it(
    counted: int, found: tuple[float, float]
) -> None:
    assert upcalls(counters(upcall=counted)) == found


def test_other_counters_do_not_change_the_upcalls() -> None:
    assert upcalls() == TRACED
    assert upcalls(counters(unmask=150)) == TRACED


def test_a_count_from_another_period_is_scaled_to_the_trace() -> None:
    span_s = measures().span_s
    assert span_s is not None
    assert upcalls(counters(2 * span_s, upcall=300)) == pytest.approx((150, 150))
    assert upcalls(counters(2 * span_s, upcall=500)) == TRACED
    # Without the TSC rate, the trace's span is not known.
    assert upcalls(counters(2 * span_s, upcall=300), measured=replace(measures(), hz=None)) == TRACED


@pytest.mark.parametrize(
    ("by_bpf", "found"),
    [
        ((120, 150), (120, 150)),
        ((50, 150), (100, 150)),
        ((120, 300), (120, 200)),
        ((120, INF), (120, 200)),
        ((200, 300), (200, 200)),
        ((0, 100), (100, 100)),
        # bpf and the trace contradict each other.
        ((201, 300), TRACED),
        ((0, 99), TRACED),
    ],
)
def test_bpfs_count_narrows_the_traced_upcalls(
    by_bpf: tuple[float, float], found: tuple[float, float]
) -> None:
    assert upcalls(by_bpf=by_bpf) == found
    assert upcalls(counters(upcall=150), by_bpf) == (150, 150)
    assert upcalls(counters(upcall=500), by_bpf) == found


#: After a stream of stores, an lfence gains 50 cycles and an mfence costs 10.
STREAM = calibration(
    row("store_stream_1", -50.0, 0.0, kind="unmask"),
    row("store_stream_1", 10.0, 0.0, kind="unmask", fence="mfence"),
)
GAIN = fenced("gain", 1, Kind.UNMASK)
PRICE = fenced("price", 2, Kind.UNMASK, "mfence")


def upcall_row(*ways: tuple[float, float], counted: Rates | None = None) -> UpcallRow:
    kernel = CostedKernel(paths_of([GAIN, PRICE][: len(ways)], upcall=list(ways)))
    inputs = CostInputs([kernel], STREAM, {DOMAIN: counted} if counted else {})
    (found,) = estimate(measures(), resolve(measures().partial, ()), inputs).upcalls
    return found


def test_a_gain_counts_the_most_executions() -> None:
    found = upcall_row((2, 3))
    assert (found.added_low_cycles, found.added_high_cycles) == pytest.approx((-150, -100))


def test_an_unbounded_gain_counts_only_the_least_executions() -> None:
    found = upcall_row((2, INF))
    assert found.added_low_cycles == pytest.approx(-100)
    assert found.unbounded_by == "a loop"


def test_a_gain_and_a_price_at_different_sites_are_bounded_separately() -> None:
    """Of 1 to 6 executions at most two are at the site with the gain."""
    found = upcall_row((1, 2), (0, 4))
    assert (found.execution_least_count, found.execution_most_count) == (1, 6)
    assert (found.added_low_cycles, found.added_high_cycles) == pytest.approx((-100, -10))


def test_counters_bound_the_average_executions_in_an_upcall() -> None:
    """The most is all executions divided by the least upcalls."""
    least = upcall_row((0, 8)).upcall_least_count
    assert least > 0
    found = upcall_row((0, 8), counted=counters(unmask=3 * least))
    assert found.execution_most_count == pytest.approx(3)
    assert found.added_low_cycles == pytest.approx(-150)
    assert upcall_row((0, 2), counted=counters(unmask=3 * least)).execution_most_count == 2
