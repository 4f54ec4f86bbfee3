"""dom0 with its image: bpf's counts bound its sites and its upcalls in the report of a capture."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from builders.host import Simulation, simulate
from builders.made_costs import HZ, INF, CostedKernel, calibration, fenced, paths_of, rows_of
from builders.partials import partial
from xtrace.analysis.cost.domain_cost import domain_cost
from xtrace.analysis.cost.domain_facts import domain_facts
from xtrace.analysis.cost.guest_counters import Rates
from xtrace.analysis.cost.inputs import CostInputs
from xtrace.analysis.measures.measures import Measures
from xtrace.analysis.report.build import Report, Selection, build
from xtrace.analysis.report.guest_kernels import open_kernels
from xtrace.analysis.summary.dom0_calls import columns_of
from xtrace.analysis.summary.partial import Partial, merge
from xtrace.probes.bpf.abi import Kind
from xtrace.probes.catalog import VersionRange

OWN_GUEST = Path(__file__).parents[3] / "samples" / "own-lfence.elf"
SITES = [fenced("xen_evtchn_do_upcall", 1), fenced("xen_irq_lateeoi", 2)]
ONCE = (1.0, 1.0)


@cache
def host(seed: int = 1) -> tuple[Simulation, Partial]:
    made = simulate(seed, 2, [(0, 2, "pv"), (1, 1, "pv")], int(HZ / 20))
    return made, partial(made.data)


def upcalls(seed: int = 1) -> int:
    """Return the true number of dom0's upcalls."""
    vcpus = host(seed)[0].truth.vcpus
    return sum(vcpu.upcalls for (domain, _), vcpu in vcpus.items() if domain == 0)


def counted(
    low: float = 0.98, high: float = 1.02, *, bounded: int = 1, seed: int = 1, mixed: int = 0, eois: int = 40
) -> Partial:
    """Return a trace with bpf's counts: upcalls between two fractions of the truth, and late EOIs."""
    part = host(seed)[1]
    true = upcalls(seed)
    rows = [
        (int(Kind.UPCALL), "xen_evtchn_do_upcall", 1, bounded, int(true * low), int(true * high) * bounded),
        (int(Kind.LATE_EOI), "xen_irq_lateeoi", 1, bounded, eois, (eois + 5) * bounded),
    ]
    return replace(part, dom0_calls=columns_of(rows), dom0_facts=part.dom0_facts.having(sample_mixed=mixed))


def report(kernel: Any, part: Partial, rates: dict[str, float] | None = None) -> Report:
    given = {0: Rates("rates", rates, None, True, None, {})} if rates else {}
    inputs = CostInputs([kernel], calibration(*rows_of({"empty": 20.0}, 0.0)), given)
    return build(part, hz=HZ, costs=inputs, selection=Selection(("cost",)))


def rows(found: Report, name: str) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in found.tables[name].to_dict("records")]


def test_planted_calls_are_in_the_interval_and_narrow_the_upcalls() -> None:
    kernel = CostedKernel(paths_of(SITES, [ONCE, ONCE], upcall=[(1, 1), (0, INF)]), domain=0)
    found = report(kernel, counted(0.98, 1.0))
    by_site = {row["place"].split("+")[0]: row for row in rows(found, "cost_sites")}
    upcall, eoi = by_site["xen_evtchn_do_upcall"], by_site["xen_irq_lateeoi"]
    assert (eoi["execution_low_count"], eoi["execution_high_count"]) == (40, 45)
    assert eoi["executions_quality"] == "inferred"
    assert eoi["executions_rule"] == "bpf's count of calls to xen_irq_lateeoi, paths through its function"
    assert eoi["cost_high_cycles"] == pytest.approx(45 * 20)
    assert upcall["execution_low_count"] <= upcalls() <= upcall["execution_high_count"]
    (row,) = rows(found, "cost_upcalls")
    without = rows(report(kernel, host()[1]), "cost_upcalls")[0]
    assert row["upcall_least_count"] <= upcalls() <= row["upcall_most_count"]
    assert (row["upcall_least_count"], row["upcall_most_count"]) == (int(upcalls() * 0.98), upcalls())
    assert without["upcall_least_count"] < row["upcall_least_count"]
    (check,) = rows(found, "cost_checks")
    assert (check["what"], check["agrees"]) == ("upcall by bpf", "yes")
    assert check["counted_count"] == row["upcall_least_count"]


@pytest.mark.parametrize(
    ("traced", "by_bpf", "both"),
    [
        ((10, 100), (20, 50), (20, 50)),
        ((10, 100), (5, 500), (10, 100)),
        ((10, 100), (40, INF), (40, 100)),
        ((10, 100), (200, 300), (10, 100)),
        ((10, 100), None, (10, 100)),
    ],
)
def test_upcalls_are_what_bpf_and_the_trace_both_allow(
    traced: tuple[int, int], by_bpf: tuple[float, float] | None, both: tuple[float, float]
) -> None:
    kernel = CostedKernel(paths_of(SITES, [ONCE, ONCE]), domain=0)
    measures = Measures(host()[1], VersionRange.parse("4.17"), HZ)
    facts = replace(domain_facts(measures, 0), upcalls=traced, upcalls_by_bpf=by_bpf)
    assert domain_cost(measures, CostInputs([kernel]), kernel, facts).upcalls == both


def test_a_count_without_a_most_keeps_the_upper_bound_of_the_trace() -> None:
    kernel = CostedKernel(paths_of(SITES, [ONCE, ONCE], upcall=[(1, 1), (0, INF)]), domain=0)
    found = report(kernel, counted(bounded=0))
    eoi = next(row for row in rows(found, "cost_sites") if row["place"].startswith("xen_irq_lateeoi"))
    assert eoi["execution_low_count"] == 40
    assert eoi["execution_high_count"] != eoi["execution_high_count"]
    assert eoi["executions_quality"] == "bounded"
    (row,) = rows(found, "cost_upcalls")
    assert row["upcall_most_count"] == rows(report(kernel, host()[1]), "cost_upcalls")[0]["upcall_most_count"]
    lacking = {row["missing"]: row["remedy"] for row in rows(found, "cost_needs") if row["about"] == "d0"}
    assert lacking["bpf's counts without a gap"].startswith("xtrace record, run to its end")


@pytest.mark.parametrize(("low", "high"), [(50, 60), (0, 0.0001)])
def test_upcalls_that_contradict_the_trace_are_reported_and_not_used(low: float, high: float) -> None:
    kernel = CostedKernel(paths_of(SITES, [ONCE, ONCE], upcall=[(1, 1), (0, INF)]), domain=0)
    found = report(kernel, counted(low, high))
    (check,) = [row for row in rows(found, "cost_checks") if row["what"] == "upcall by bpf"]
    assert check["agrees"] == "no"
    assert "upcalls counted by bpf" in check["meaning"]
    told = {row["missing"]: row["reason"] for row in rows(found, "cost_needs")}
    assert told["upcalls that agree"] == check["meaning"]
    (row,), (plain,) = rows(found, "cost_upcalls"), rows(report(kernel, host()[1]), "cost_upcalls")
    assert row["upcall_least_count"] == plain["upcall_least_count"]
    assert row["upcall_most_count"] == plain["upcall_most_count"]


def test_the_domains_own_upcall_counter_overrides_bpf_and_is_compared() -> None:
    kernel = CostedKernel(paths_of(SITES, [ONCE, ONCE], upcall=[(1, 1), (0, INF)]), domain=0)
    found = report(kernel, counted(), {"upcall": upcalls()})
    (row,) = rows(found, "cost_upcalls")
    assert row["upcall_least_count"] == row["upcall_most_count"] == upcalls()
    checks = [row for row in rows(found, "cost_checks") if row["what"] == "upcall by bpf"]
    assert [row["agrees"] for row in checks] == ["yes", "yes"]
    assert "by the domain's own counter" in checks[1]["meaning"]
    wrong = report(kernel, counted(0.5, 0.6), {"upcall": upcalls()})
    checks = [row for row in rows(wrong, "cost_checks") if row["what"] == "upcall by bpf"]
    assert [row["agrees"] for row in checks] == ["yes", "no"]


def test_merged_captures_add_up() -> None:
    kernel = CostedKernel(paths_of(SITES, [ONCE, ONCE]), domain=0)
    found = report(kernel, merge([counted(), counted(seed=2, eois=3)]))
    eoi = next(row for row in rows(found, "cost_sites") if row["place"].startswith("xen_irq_lateeoi"))
    assert (eoi["execution_low_count"], eoi["execution_high_count"]) == (43, 53)


def test_needs_list_what_a_recording_could_show() -> None:
    kernel = CostedKernel(paths_of(SITES, [ONCE, ONCE]), domain=0)
    without = {row["missing"]: row["remedy"] for row in rows(report(kernel, host()[1]), "cost_needs")}
    assert "bpf backend" in without["bpf's counts"]
    told = {row["missing"]: row["reason"] for row in rows(report(kernel, counted(mixed=1272)), "cost_needs")}
    assert "bpf's counts" not in told
    assert told["samples of its own"].startswith("1,272 samples")
    other = CostedKernel(paths_of(SITES, [ONCE, ONCE]), domain=1)
    assert "bpf's counts" not in {row["missing"] for row in rows(report(other, host()[1]), "cost_needs")}


def test_calls_to_functions_give_the_executions_of_a_real_images_sites() -> None:
    # The lab guest as dom0's kernel: each call to one of these functions executes its fence once.
    calls = {"upcalls_restore": (900, 907), "upcalls_save": (1000, 1007), "upcalls_mask": (60, 67)}
    rows_ = [(int(Kind.SEND), name, 1, 1, low, high) for name, (low, high) in calls.items()]
    (kernel,) = open_kernels([(0, OWN_GUEST, None)])
    found = report(kernel, replace(host()[1], dom0_calls=columns_of(rows_)))
    by_site = {row["place"].split("+")[0]: row for row in rows(found, "cost_sites")}
    for name, ends in calls.items():
        row = by_site[name]
        assert (row["execution_low_count"], row["execution_high_count"]) == ends, name
        assert row["executions_rule"].startswith(f"bpf's count of calls to {name}")
    assert by_site["upcalls_unmask"]["executions_quality"] == "bounded"
