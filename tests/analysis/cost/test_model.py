"""Costs planted in a trace, a calibration and a guest's counters are in the intervals of the report."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from builders.host import Simulation, simulate
from builders.made_costs import (
    BUILD_ID,
    HZ,
    INF,
    LFENCE,
    CostedKernel,
    calibration,
    fenced,
    paths_of,
    plain,
    row,
    rows_of,
)
from builders.made_sites import fence
from builders.partials import partial
from xtrace.analysis.cost.bounded_sums import greatest, least
from xtrace.analysis.cost.executions import executions
from xtrace.analysis.cost.guest_counters import Rates
from xtrace.analysis.cost.inputs import CostInputs, InPlace
from xtrace.analysis.cost.model import estimate
from xtrace.analysis.cost.prices import prices
from xtrace.analysis.cost.rows import Estimate
from xtrace.analysis.measures.kernel_samples import resolve
from xtrace.analysis.measures.measures import Measures
from xtrace.analysis.report.build import Report, Selection, build, json_text
from xtrace.analysis.state_machine.metrics import Metric
from xtrace.analysis.summary.partial import Partial, merge
from xtrace.probes.catalog import VersionRange
from xtrace.probes.timing.calibration import Calibration
from xtrace.symbols.sites.model import Kind, Site, Verdict

ONCE = (1.0, 1.0)
DOMAIN, HVM = 1, 4
STORES = (Kind.MASK, Kind.RESTORE, Kind.UNMASK)
CALIBRATIONS = 400


@cache
def host(seed: int = 1) -> tuple[Simulation, Partial]:
    made = simulate(seed, 2, [(0, 1, "pv"), (DOMAIN, 2, "pv"), (HVM, 1, "hvm")], int(HZ / 20))
    return made, partial(made.data)


def counters(counts: Mapping[str, float], seconds: float | None = None, **contexts: float) -> Rates:
    return Rates("rates", counts, seconds, True, None, contexts)


def report(
    kernel: CostedKernel | None,
    measured: Calibration | None = None,
    rates: Rates | None = None,
    *,
    part: Partial | None = None,
    hz: float | None = HZ,
    emulated: bool = False,
) -> Report:
    inputs = CostInputs(
        [kernel] if kernel else [],
        measured,
        {kernel.domain if kernel else DOMAIN: rates} if rates else {},
        emulated,
    )
    return build(part or host()[1], hz=hz, emulated=emulated, costs=inputs, selection=Selection(("cost",)))


def rows(found: Report, name: str) -> list[dict[str, Any]]:
    return [{str(key): value for key, value in row.items()} for row in found.tables[name].to_dict("records")]


def needs(found: Report) -> dict[str, str]:
    """Return the reasons by what is lacking, joined if there are several."""
    result: dict[str, str] = {}
    for item in rows(found, "cost_needs"):
        key = f"{item['about']} {item['missing']}"
        result[key] = "; ".join(filter(None, (result.get(key), item["reason"])))
    return result


def upcalls_of(seed: int = 1) -> int:
    truth = host(seed)[0].truth
    return sum(vcpu.upcalls for (domain, _), vcpu in truth.vcpus.items() if domain == DOMAIN)


SITES = [
    fenced("mask", 1),
    plain("save", 2, Kind.SAVE),
    fenced("save", 3),
    fenced("restore", 4, Kind.RESTORE, callbacks=(1,)),
    fenced("unmask", 5, Kind.UNMASK, verdict=Verdict.UNDECIDED),
    plain("quick_unmask", 6, Kind.UNMASK),
]
COUNTS = {"mask": 70_000, "save": 40_000, "restore": 40_000, "unmask()": 20_000}


def test_costs_by_part_and_by_site() -> None:
    found = report(
        CostedKernel(paths_of(SITES, [ONCE] * 6)), calibration(*rows_of(LFENCE, 0.0)), counters(COUNTS)
    )
    removable, undecided = rows(found, "cost_domains")
    ran = removable["running_cycles"]
    ran_most = ran + unknown_cycles(host()[1], removable["domain"])
    assert [(part["part"], part["site_count"]) for part in (removable, undecided)] == [
        ("removable", 3),
        ("undecided", 1),
    ]
    for part, executed in ((removable, 110_000), (undecided, 20_000)):
        assert part["execution_low_count"] == part["execution_high_count"] == executed
        assert part["execution_low_per_s"] == pytest.approx(executed / 0.05, rel=0.01)
        assert part["cost_low_cycles"] == pytest.approx(13 * executed)
        assert part["cost_hot_cycles"] == pytest.approx(24 * executed)
        assert part["cost_high_cycles"] == pytest.approx(min(2900 * executed, ran_most))
        assert part["cost_low_ratio"] == pytest.approx(13 * executed / ran_most)
        assert part["cost_high_ratio"] == pytest.approx(min(2900 * executed / ran, 1))
    assert (removable["most_is"], undecided["most_is"]) == (
        "bound",
        "usual" if ran > 2900 * 20_000 else "bound",
    )
    by_site = {row["place"]: row for row in rows(found, "cost_sites")}
    assert set(by_site) == {"mask+0x10", "save+0x10", "restore+0x10", "unmask+0x10"}
    assert by_site["mask+0x10"]["execution_low_count"] == 30_000
    assert by_site["save+0x10"]["cost_low_cycles"] == pytest.approx(13 * 40_000)
    assert (by_site["restore+0x10"]["executions_quality"], by_site["restore+0x10"]["priced_by"]) == (
        "exact",
        "standard",
    )
    assert ran == pytest.approx(truly_ran(), rel=0.05)
    json.loads(json_text(found))


def truly_ran() -> int:
    truth = host()[0].truth.vcpus
    return sum(
        sum(v.state_cycles[s] for s in v.state_cycles if s == 0) for (d, _), v in truth.items() if d == DOMAIN
    )


def test_the_cost_of_an_upcall_by_its_paths() -> None:
    sites = [fenced("handler", 1), fenced("other", 2, Kind.UNMASK)]
    kernel = CostedKernel(paths_of(sites, upcall=[(2, 3), (0, INF)]))
    found = report(kernel, calibration(*rows_of({"empty": 20.0}, 0.0)))
    (part,) = rows(found, "cost_upcalls")
    assert part["upcall_least_count"] <= upcalls_of() <= part["upcall_most_count"]
    assert (part["execution_least_count"], part["added_low_cycles"]) == (2, pytest.approx(40))
    assert np.isnan(part["execution_most_count"])
    assert part["unbounded_by"] == "a loop"
    # The executions have no upper bound, so the interval ends at the running time.
    (domain,) = rows(found, "cost_domains")
    assert (domain["most_is"], domain["cost_high_ratio"]) == ("bound", 1.0)
    assert domain["execution_low_count"] == 2 * part["upcall_least_count"] <= 2 * upcalls_of()
    # Counters of upcalls and of all unmasks bound the average executions in an upcall.
    counted = counters({"upcall": upcalls_of(), "mask": 3 * upcalls_of(), "unmask": 50})
    (part,) = rows(report(kernel, calibration(*rows_of({"empty": 20.0}, 0.0)), counted), "cost_upcalls")
    assert part["upcall_least_count"] == part["upcall_most_count"] == upcalls_of()
    assert part["execution_most_count"] == pytest.approx(3 + 50 / upcalls_of())
    assert part["all_high_cycles"] == pytest.approx(20 * (3 + 50 / upcalls_of()))
    assert "counts of its own" in str(needs(found))


def test_paths_are_counted_without_hypercalls_that_are_never_made() -> None:
    kernel = CostedKernel(paths_of(SITES))
    report(kernel)
    (never,) = kernel.never
    made = host()[0].truth.vcpus[DOMAIN, 0].hypercalls
    assert 23 not in never
    assert not never & set(made)
    lossy = simulate(
        3, 2, [(DOMAIN, 2, "pv")], int(HZ / 20), ring_bytes=1024, loss=0.5, poll_cycles=int(HZ / 1000)
    )
    assert lossy.truth.dropped > lossy.truth.untold
    report(kernel, part=partial(lossy.data))
    assert kernel.never[1] == frozenset()


@given(st.data())
@settings(max_examples=60)
def test_planted_costs_are_in_the_interval(data: st.DataObject) -> None:
    """For random sites, paths, counts and contexts, with a calibration whose medians are true."""
    random_ = random.Random(data.draw(st.integers(0, 1 << 30)))
    contexts = random_.sample(sorted(LFENCE), random_.randint(1, len(LFENCE)))
    sites, call, upcall, executed, true_cycles = [], [], [], [], []
    measured = []
    for number in range(random_.randint(1, 6)):
        kind = random_.choice(STORES)
        mnemonic = random_.choice(("lfence", "mfence"))
        verdict = random_.choice((Verdict.REMOVABLE, Verdict.UNDECIDED))
        one = fenced(f"f{number // 2}", number, kind, mnemonic, verdict=verdict)
        sites.append(one)
        in_upcall = random_.choice((0, 0, 1, 2))
        upcall.append((float(in_upcall), random_.choice((INF, float(in_upcall + 1)))))
        call.append((0.0, INF))
        per_upcall = random_.uniform(in_upcall, min(upcall[-1][1], in_upcall + 3))
        executed.append(round(per_upcall * upcalls_of() + random_.choice((0, 10_000)) + 1))
        weights = np.array([random_.random() for _ in contexts])
        true_cycles.append(
            np.array([_true(kind, mnemonic, name) for name in contexts]) @ weights / weights.sum()
        )
    for kind in STORES:
        for mnemonic in ("lfence", "mfence"):
            measured += [
                row(name, _true(kind, mnemonic, name), random_.uniform(0, 4), kind=kind, fence=mnemonic)
                for name in contexts
            ]
    counts: dict[str, float] = {}
    if data.draw(st.booleans()):
        counts["upcall"] = upcalls_of()
    for kind in STORES:
        if random_.random() < 0.7:
            counts[str(kind)] = sum(n for n, one in zip(executed, sites, strict=True) if one.kind is kind)
    for number, one in zip(executed, sites, strict=True):
        if random_.random() < 0.3:
            counts[hex(one.address)] = number
    found = report(
        CostedKernel(paths_of(sites, call, upcall)),
        calibration(*measured),
        counters(counts) if counts else None,
    )
    failed = [check["what"] for check in rows(found, "cost_checks") if check["agrees"] == "no"]
    # Planted costs may be more than the host of the trace ran.
    assert set(failed) <= {"running time", "upcall time"}
    _contains(found, sites, executed, true_cycles)


def _true(kind: Kind, mnemonic: str, context: str) -> float:
    return (
        LFENCE[context] * (1.5 if mnemonic == "mfence" else 1.0)
        + {"mask": 1, "restore": 2, "unmask": 0}[kind]
    )


def _contains(found: Report, sites: Sequence[Site], executed: Sequence[int], cycles: Sequence[float]) -> None:
    for part in rows(found, "cost_domains"):
        mine = [place for place, one in enumerate(sites) if str(one.verdict) == part["part"]]
        total = sum(executed[place] * cycles[place] for place in mine)
        number = sum(executed[place] for place in mine)
        assert part["execution_low_count"] <= number * 1.0000001
        assert not part["execution_high_count"] < number * 0.9999999
        assert part["cost_low_cycles"] <= total * 1.0000001
        assert part["most_is"] == "bound" or total * 0.9999999 <= part["cost_high_cycles"]
    by_address = {row["address"]: row for row in rows(found, "cost_sites")}
    for place, one in enumerate(sites):
        site_row = by_address[hex(one.address)]
        assert site_row["execution_low_count"] <= executed[place]
        assert not site_row["execution_high_count"] < executed[place]
        assert site_row["added_low_cycles"] <= cycles[place] * 1.0000001
        assert cycles[place] <= site_row["added_high_cycles"] * 1.0000001


def test_the_interval_holds_as_often_as_it_says() -> None:
    """With random calibrations, about 95 % of the intervals of a sum cover the true cost.

    Each fence is measured in one sequence only: differences between sequences would widen the interval.
    """
    kinds = {"mask": Kind.MASK, "restore": Kind.RESTORE, "unmask": Kind.UNMASK}
    fences = {"mask": "lfence", "restore": "mfence", "unmask": "sfence"}
    paths = paths_of([fenced(name, n, kinds[name], mnemonic=fences[name]) for n, name in enumerate(kinds, 1)])
    counts = executions(paths, 0, counters({"mask": 10_000, "restore": 5_000, "unmask": 8_000}))
    true_cycles = {"mask": 20.0, "restore": 30.0, "unmask": 10.0}
    truth = 10_000 * 20 + 5_000 * 30 + 8_000 * 10
    generator = np.random.default_rng(5)
    held = 0
    for _ in range(CALIBRATIONS):
        measured = [
            row(
                "empty", cycles + 3.0 * generator.standard_normal(), 1.96 * 3.0, kind=kind, fence=fences[kind]
            )
            for kind, cycles in true_cycles.items()
        ]
        price = prices(paths.sites, calibration(*measured), BUILD_ID)
        held += least(counts, price.low, [True] * 3) <= truth <= greatest(counts, price.high, [True] * 3)
    assert 0.92 <= held / CALIBRATIONS <= 0.98


def test_counters_from_another_period_contradict() -> None:
    wrong = counters({"upcall": 50 * upcalls_of(), "block": 10_000, "mask": 1000, "restore": 5, "unmask": 5})
    found = report(CostedKernel(paths_of(SITES)), calibration(*rows_of(LFENCE)), wrong)
    agrees = {row["what"]: row["agrees"] for row in rows(found, "cost_checks")}
    assert agrees["upcall"] == agrees["block"] == "no"
    assert "block counted" in needs(found)["d1 counters that agree"]
    # More callbacks were forced than restores and unmasks can have forced.
    forced = sum(v.hypercalls[17] for (d, _), v in host()[0].truth.vcpus.items() if d == DOMAIN)
    assert agrees["restore, unmask"] == ("no" if forced > 16 + 7 else "yes")


def test_counters_that_agree() -> None:
    truth = [vcpu for (domain, _), vcpu in host()[0].truth.vcpus.items() if domain == DOMAIN]
    right = counters(
        {
            "upcall": upcalls_of(),
            "block": sum(v.blocks + v.blocks_pending for v in truth),
            "force_callback": sum(v.hypercalls[17] for v in truth),
        }
    )
    found = report(CostedKernel(paths_of(SITES)), None, right)
    agrees = {row["what"]: row["agrees"] for row in rows(found, "cost_checks")}
    assert agrees["upcall"] == agrees["block"] == agrees["force_callback"] == "yes"


def test_weights_of_contexts_narrow_the_interval() -> None:
    weighted = counters(COUNTS, empty=0.5, load_miss_1=0.5)
    found = report(CostedKernel(paths_of(SITES, [ONCE] * 6)), calibration(*rows_of(LFENCE, 0.0)), weighted)
    site_row = next(item for item in rows(found, "cost_sites") if item["place"] == "mask+0x10")
    assert site_row["added_low_cycles"] == pytest.approx(0.7 * (19 + 2900) / 2)
    assert site_row["added_high_cycles"] == pytest.approx(1.3 * (19 + 2900) / 2)


def test_cycles_of_another_tsc_are_converted_and_reported() -> None:
    kernel = CostedKernel(paths_of(SITES, [ONCE] * 6))
    measured = calibration(*rows_of({"empty": 20.0}, 0.0), tsc_hz=HZ / 2)
    found = report(kernel, measured, counters(COUNTS))
    assert rows(found, "cost_sites")[0]["added_low_cycles"] == pytest.approx(40)
    assert (
        needs(found)["host a calibration of this CPU"] == "its TSC runs at 1300 MHz, the trace's at 2600 MHz"
    )
    # With an emulated trace the TSC rate means nothing; the emulation is reported instead.
    found = report(kernel, measured, counters(COUNTS), emulated=True)
    assert "host a calibration of this CPU" not in needs(found)
    assert "the cycles are those of a CPU" in needs(found)["host a trace of hardware"]


def test_what_is_lacking_is_reported_with_its_remedy() -> None:
    empty = report(None)
    assert set(needs(empty)) == {"host a calibration", "host a kernel's image"}
    assert all(row["remedy"] for row in rows(empty, "cost_needs"))
    kernel = CostedKernel(paths_of(SITES))
    found = report(kernel, calibration(row(median=None), timing="noisy"), part=partial(b""), hz=None)
    assert needs(found)["host a calibration on hardware"] == "this one's timing is noisy"
    assert "host the TSC rate" in needs(found)
    assert needs(found)["d1 the domain"] == "the trace has no such domain"
    loose = calibration(*rows_of(LFENCE, tight=False), row(fence="mfence"))
    told = needs(report(kernel, loose))
    assert told["host tighter figures"].startswith("15 of the 16 calibration rows")
    assert "d1 the callback's entry" in told
    assert told["d1 replays of its sites"].startswith("4 of 4 fenced sites")
    told = needs(report(kernel, calibration(row()), counters({"mask": 10, "odd": 3})))
    assert told["d1 names that the image knows"] == "these counters name nothing in it: odd"
    assert told["d1 counts of some sites"].startswith(
        "no counter bounds 2 of 4 fenced sites: restore, unmask"
    )
    assert told["d1 a price"].startswith("no figure for lfence inline at a restore: 1 of 4")
    hvm = CostedKernel(paths_of(SITES), domain=HVM)
    assert "do not use the upcall mask" in needs(report(hvm))[f"d{HVM} a PV guest"]
    bare = CostedKernel(paths_of([plain("a", 1)]))
    assert "nothing to save" in needs(report(bare, calibration(row())))["d1 a fence"]
    none = CostedKernel(paths_of([]))
    assert needs(report(none))["d1 sites"] == "no site was found in its image"
    assert "its sites are not known" in needs(report(None, None, counters(COUNTS)))["d1 a kernel's image"]


def test_without_a_calibration_there_are_executions_but_no_cost() -> None:
    found = report(CostedKernel(paths_of(SITES, [ONCE] * 6)), None, counters(COUNTS))
    removable = rows(found, "cost_domains")[0]
    assert removable["execution_low_count"] == 110_000
    assert np.isnan(removable["cost_low_cycles"])
    json.loads(json_text(found))


def test_without_a_tsc_rate_there_are_counts_and_shares() -> None:
    part = stripped(host()[1])
    found = report(
        CostedKernel(paths_of(SITES, [ONCE] * 6)),
        calibration(*rows_of({"empty": 20.0}, 0.0)),
        counters(COUNTS),
        hz=None,
        part=part,
    )
    removable = rows(found, "cost_domains")[0]
    assert np.isnan(removable["execution_low_per_s"])
    ran_most = removable["running_cycles"] + unknown_cycles(part, removable["domain"])
    assert removable["cost_low_ratio"] == pytest.approx(20 * 110_000 / ran_most)


def unknown_cycles(part: Partial, domain: int) -> int:
    """Return the time in which the states of a domain's vCPUs are not known."""
    rows = part.tallies.where(np.isin(part.tallies["metric"], [Metric.STATE_LOST, Metric.STATE_UNKNOWN]))
    return int(rows["sum_cycles"][rows["a"] >> 16 == domain].sum())


def stripped(part: Partial) -> Partial:
    """Return the partial without the pairs that the TSC rate is estimated from."""
    from dataclasses import replace

    return replace(part, pairs=part.pairs.where(slice(0)))


def estimated(
    *kernels: CostedKernel, measured: Calibration, rates: Rates | None = None, hz: float = HZ
) -> Estimate:
    measures = Measures(host()[1], VersionRange.parse("4.17"), hz)
    inputs = CostInputs(kernels, measured, {DOMAIN: rates} if rates else {})
    return estimate(measures, resolve(measures.partial, ()), inputs)


def test_a_domain_without_a_cost_does_not_hide_the_ones_after_it() -> None:
    of_hvm, of_none, of_pv = (CostedKernel(paths_of(SITES, [ONCE] * 6), domain=n) for n in (HVM, 9, DOMAIN))
    found = estimated(of_hvm, of_none, of_pv, measured=calibration(*rows_of(LFENCE)), rates=counters(COUNTS))
    assert {row.domain for row in found.domains} == {DOMAIN}
    assert not [row for row in found.needs if "emulated" in row.reason]


@pytest.mark.parametrize(
    "measured", [calibration(*rows_of(LFENCE)), calibration()], ids=["priced", "counted"]
)
def test_the_dearest_site_comes_first(measured: Calibration) -> None:
    """By the greatest cost; without a price, by the most executions."""
    counts = {"mask": 70, "save": 40, "restore": 50, "unmask()": 20}
    found = estimated(CostedKernel(paths_of(SITES, [ONCE] * 6)), measured=measured, rates=counters(counts))
    assert [row.place for row in found.sites] == ["restore+0x10", "save+0x10", "mask+0x10", "unmask+0x10"]


def test_the_cost_is_at_most_the_running_time() -> None:
    kernel = CostedKernel(paths_of(SITES, [ONCE] * 6))
    measured = calibration(*rows_of({"empty": 20.0, "load_miss_1": 1e9}, 0.0))
    found = estimated(kernel, measured=measured, rates=counters(COUNTS))
    assert [(row.cost_high_ratio, row.most_is) for row in found.domains] == [(1.0, "bound")] * 2
    assert found.shares[DOMAIN][-1] == 1.0


def test_a_cost_above_the_running_time_is_a_contradiction_not_a_share() -> None:
    kernel = CostedKernel(paths_of(SITES, [ONCE] * 6))
    found = report(kernel, calibration(*rows_of({"empty": 1e9}, 0.0)), counters(COUNTS))
    for part in rows(found, "cost_domains"):
        assert part["most_is"] == "contradiction"
        assert all(np.isnan(part[f"cost_{end}_ratio"]) for end in ("low", "hot_low", "hot", "high"))
    assert {row["what"]: row["agrees"] for row in rows(found, "cost_checks")}["running time"] == "no"
    assert "times as long as it ran" in needs(found)["d1 inputs that fit together"]
    assert found.fence_shares == {}
    (said,) = [item for item in found.findings if "contradiction: by the counts" in item.sentence]
    assert said.severity == "problem"
    assert not [item for item in found.findings if item.name == "removable-fences"]


def test_fences_that_take_longer_than_an_upcall_are_a_contradiction() -> None:
    kernel = CostedKernel(paths_of(SITES, [ONCE] * 6, [ONCE] * 6))
    found = report(kernel, calibration(*rows_of({"empty": 1e9}, 0.0)))
    assert {row["what"]: row["agrees"] for row in rows(found, "cost_checks")}["upcall time"] == "no"
    assert np.isnan(rows(found, "cost_upcalls")[0]["cost_low_ratio"])


def test_another_images_calibration_is_doubted() -> None:
    own = row(place="site", address=SITES[0].address, build_id=BUILD_ID)
    other = row(place="site", address=SITES[0].address, build_id="0123456789abcdef")
    kernel = CostedKernel(paths_of(SITES, [ONCE] * 6))
    key = "d1 a calibration of this image"
    assert "0123456789ab" in needs(report(kernel, calibration(other), counters(COUNTS)))[key]
    assert key not in needs(report(kernel, calibration(own, other), counters(COUNTS)))
    # An image without a fence, as for a kernel built without them, is doubted, too.
    without = CostedKernel(paths_of([plain("mask", 1)]))
    assert key in needs(report(without, calibration(other), counters(COUNTS)))


def test_a_saving_that_is_not_the_sum_is_a_row_and_changes_no_price() -> None:
    first = fenced("section", 1)
    second = replace(fenced("section", 1, Kind.RESTORE), address=first.address + 0x20, offset=0x30)
    kernel = CostedKernel(paths_of([first, second], [ONCE] * 2))
    alone = [*rows_of({"empty": 20.0}, 0.0)]
    together = [
        row("empty", median, 0.0, kind=kind, place="close")
        for kind, median in (("mask+restore", 25.0), ("mask", 20.0), ("restore", 20.0))
    ]
    counted = counters({"mask": 1000, "restore": 1000})
    found = report(kernel, calibration(*alone, *together), counted)
    (close,) = rows(found, "cost_close")
    assert (close["first"], close["second"], close["fence"]) == ("section+0x10", "section+0x30", "lfence")
    assert close["saving_ratio"] == pytest.approx(5 / 20)
    without = report(kernel, calibration(*alone), counted)
    assert rows(without, "cost_close") == []
    assert rows(found, "cost_domains") == rows(without, "cost_domains")


def test_a_trials_share_names_the_contexts_that_cost_as_much() -> None:
    kernel = CostedKernel(paths_of(SITES, [ONCE] * 6))
    (removable, _) = rows(report(kernel, calibration(*rows_of(LFENCE)), counters(COUNTS)), "cost_domains")
    for cycles, says in (
        (19.0, "19 to 19 cycles per execution, as in the contexts empty, stores_8"),
        (2900.0, "2,900 to 2,900 cycles per execution, as in the contexts load_miss_1"),
        (500.0, "500 to 500 cycles per execution, as in no context that was calibrated: one is missing"),
    ):
        share = cycles * removable["execution_low_count"] / removable["running_cycles"]
        trial = InPlace(share, share, ["removable"], "it saves")
        inputs = CostInputs(
            [kernel], calibration(*rows_of(LFENCE)), {DOMAIN: counters(COUNTS)}, trials={DOMAIN: trial}
        )
        made = build(host()[1], hz=HZ, costs=inputs, selection=Selection(("cost",)))
        (model,) = [row for row in rows(made, "cost_estimates") if row["estimate"] == "model"]
        assert model["basis"] == f"executions, calibrated; the trial's share is {says}"


def test_what_narrows_the_range_is_one_line_and_not_said_next_to_a_trial() -> None:
    kernel = CostedKernel(paths_of(SITES, [ONCE] * 6))
    told = [
        item
        for item in rows(report(kernel, calibration(*rows_of(LFENCE)), counters(COUNTS)), "cost_needs")
        if "narrower" in item["missing"]
    ]
    assert ["xtrace trial" in item["remedy"] for item in told] == [True]


def test_prices_are_in_cycles_of_the_traced_host() -> None:
    kernel = CostedKernel(paths_of(SITES, [ONCE] * 6))
    measured = calibration(*rows_of({"empty": 20.0}, 0.0), tsc_hz=HZ / 1.5)
    found = estimated(kernel, measured=measured, rates=counters(COUNTS))
    assert found.domains[0].cost_low_cycles == pytest.approx(1.5 * 20 * 110_000)


def test_merged_traces_add_up() -> None:
    kernel = CostedKernel(paths_of(SITES, [ONCE] * 6))
    both = merge([host()[1], host(2)[1]])
    found = report(kernel, calibration(*rows_of({"empty": 20.0}, 0.0)), counters(COUNTS), part=both)
    ran = [
        rows(report(kernel, part=part), "cost_domains")[0]["running_cycles"]
        for part in (host()[1], host(2)[1])
    ]
    assert rows(found, "cost_domains")[0]["running_cycles"] == sum(ran)
    (part, _) = rows(found, "cost_upcalls")
    assert part["upcall_least_count"] <= upcalls_of() + upcalls_of(2) <= part["upcall_most_count"]


def test_a_site_with_a_fence_out_of_line() -> None:
    one = plain("a", 1, fences=(fence(),))
    measured = calibration(row("empty", 20.0, 0.0), row("empty", 33.0, 0.0, place="outofline"))
    found = report(CostedKernel(paths_of([one])), measured, counters({"mask": 5}))
    (site_row,) = rows(found, "cost_sites")
    # The code around it is that of neither standard sequence, so the price spans both.
    added = site_row["added_low_cycles"], site_row["added_high_cycles"]
    assert (site_row["fence"], added) == ("lfence call", (pytest.approx(20), pytest.approx(33)))
