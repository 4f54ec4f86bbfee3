"""Comparing captures: no change is shown where there is none, planted changes are found, and warnings."""

from __future__ import annotations

import json
import math
import random
import re
from dataclasses import replace

import pytest

from builders.captures import HOST_HZ, hosts, made_up, measured, woken
from builders.host import simulate
from builders.partials import collected
from xtrace import samples
from xtrace.analysis.comparison.compare import SCHEMA_VERSION, Change, Diff, compare, json_text
from xtrace.analysis.comparison.figures import (
    BY_NAME,
    FIGURES,
    HOST_LABEL,
    LOADS,
    Measured,
    labels_of,
    measure,
)
from xtrace.analysis.comparison.rank_test import ALPHA
from xtrace.analysis.report.build import build
from xtrace.analysis.state_machine.metrics import Metric
from xtrace.analysis.summary.partial import partial_of
from xtrace.analysis.summary.summary_file import Summary
from xtrace.analysis.summary.summary_head import Origin
from xtrace.probes.catalog import VersionRange
from xtrace.probes.errors import TraceError
from xtrace.probes.format import Runstate

KEY = [figure for figure in FIGURES if figure.key]
SPLITS = 200
P50 = "wake_to_running_p50"


@pytest.fixture(scope="module")
def same_hosts() -> list[Measured]:
    return hosts(range(20), 40_000_000)


@pytest.fixture(scope="module")
def sample_parts() -> list[Measured]:
    """Twenty windows of a real trace."""
    data = samples.path().read_bytes()
    (whole,) = collected(data).segments
    width = (whole.last_tsc - whole.first_tsc) // 20
    starts = [whole.first_tsc + number * width for number in range(20)]
    hz = 2.596e9
    return [
        measure(
            Summary(partial_of(collected(data, (start, start + width - 1))), Origin(f"part {number}")), hz
        )
        for number, start in enumerate(starts)
    ]


@pytest.fixture(scope="module")
def unshifted() -> list[Measured]:
    return woken(range(20))


@pytest.fixture(scope="module")
def shifted() -> list[Measured]:
    return woken(range(100, 120), 1.05)


# --- false alarms and planted changes ------------------------------------------------------------


@pytest.mark.parametrize("pool", ["same_hosts", "sample_parts", "unshifted"])
def test_captures_of_one_kernel_show_no_change(pool: str, request: pytest.FixtureRequest) -> None:
    """In at least 95 % of random splits no row shows a change."""
    captures = list(request.getfixturevalue(pool))
    chance = random.Random(1)
    false_alarms = rows = 0
    for _ in range(SPLITS):
        chance.shuffle(captures)
        found = compare(captures[:10], captures[10:], figures=KEY)
        rows += len(found.changes)
        false_alarms += any(row.differs for row in found.changes)
    assert rows > 6 * SPLITS
    assert false_alarms <= 0.05 * SPLITS


def test_a_shift_of_5_percent_is_found_with_10_repetitions(
    unshifted: list[Measured], shifted: list[Measured]
) -> None:
    chance = random.Random(2)
    found = others = 0
    for _ in range(50):
        diff = compare(chance.sample(unshifted, 10), chance.sample(shifted, 10))
        changes = {(row.domain, row.figure.name): row for row in diff.changes}
        planted = changes.pop(("d1", P50))
        found += planted.differs and 0.03 < planted.change < 0.07
        # Longer waits take a larger share of the time and leave a little less for the rest.
        others += sum(
            row.differs and abs(row.change) > 0.01
            for (_, name), row in changes.items()
            if not name.startswith(("waiting", "wake_to"))
        )
    assert found == 50
    assert others == 0


def test_a_shift_is_found_in_both_directions(unshifted: list[Measured], shifted: list[Measured]) -> None:
    one = row_of(compare(unshifted[:10], shifted[:10]), "d1", P50)
    other = row_of(compare(shifted[:10], unshifted[:10]), "d1", P50)
    assert one.differs
    assert other.differs
    assert one.p == pytest.approx(other.p)
    assert other.change < 0
    assert (1 + one.change) * (1 + other.change) == pytest.approx(1)


def test_noise_is_not_a_change(same_hosts: list[Measured]) -> None:
    """One capture per group cannot show a change, however far apart they are."""
    far = replace(
        same_hosts[1],
        values={label: {name: 9 * v for name, v in of.items()} for label, of in same_hosts[0].values.items()},
    )
    diff = compare(same_hosts[:1], [far])
    assert not any(row.differs for row in diff.changes)
    assert all(row.low is None for row in diff.changes)
    assert any("one run each cannot show" in warning for warning in diff.warnings)


def row_of(diff: Diff, domain: str, name: str) -> Change:
    (row,) = (row for row in diff.changes if (row.domain, row.figure.name) == (domain, name))
    return row


# --- figures -----------------------------------------------------------------------------------


def test_figures_match_the_simulated_host() -> None:
    """Rates, shares and numbers of vCPUs match the simulation's own counts."""
    simulation = simulate(5, 2, [(0, 2, "pv"), (3, 1, "hvm")], 60_000_000)
    found = measured(simulation.data, "x", HOST_HZ)
    assert found.vcpu_counts == {"d0": 2, "d3": 1}
    for domain in (0, 3):
        truths = [truth for (of, _), truth in simulation.truth.vcpus.items() if of == domain]
        values = found.values[f"d{domain}"]
        for name, count in {
            "wakes": sum(truth.wakes.total() for truth in truths),
            "sends": sum(truth.sends for truth in truths),
            "hypercalls": sum(truth.hypercalls.total() for truth in truths),
            "forced": sum(truth.hypercalls[17] for truth in truths),
        }.items():
            assert values[f"{name}_per_s"] * found.span_s == pytest.approx(count, abs=2), name
        running, waiting = (
            sum(truth.state_cycles[state] for truth in truths)
            for state in (Runstate.RUNNING, Runstate.RUNNABLE)
        )
        assert values["running_share"] / values["waiting_share"] == pytest.approx(running / waiting, rel=0.05)
        shares = [values[f"{state}_share"] for state in ("running", "waiting", "blocked")]
        assert sum(shares) == pytest.approx(1)
        waits = sorted(wait for truth in truths for wait in truth.wake_to_running_cycles)
        assert values[P50] == pytest.approx(waits[(len(waits) - 1) // 2] / HOST_HZ * 1e9, rel=0.02)


def lossy_without_dom0() -> bytes:
    return simulate(
        2, 3, [(3, 2, "pv"), (5, 1, "hvm")], 60_000_000, loss=0.4, ring_bytes=4088, poll_cycles=2_000_000
    ).data


def test_only_domains_of_vcpus_have_figures() -> None:
    """The numbers of domains and pCPUs in the keys of tallies are not taken for vCPUs."""
    found = measured(lossy_without_dom0(), "x", HOST_HZ)
    assert found.vcpu_counts == {"d3": 2, "d5": 1}
    assert set(found.values) == {"d3", "d5", HOST_LABEL}


def test_exits_without_a_time_are_exits() -> None:
    """Every VMEXIT of a vCPU counts, also one of which no record shows the end."""
    part = partial_of(collected(lossy_without_dom0()))
    of = part.tallies.where(part.tallies["a"] == 5 << 16)
    timed, untimed = (
        int(of["count"][of["metric"] == metric].sum())
        for metric in (Metric.HVM_EXIT, Metric.EXIT_WITHOUT_TIME)
    )
    assert untimed > 0
    found = measure(Summary(part, Origin("x")), HOST_HZ)
    assert found.values["d5"]["exits_per_s"] * found.span_s == pytest.approx(timed + untimed)


def test_figures_match_the_report() -> None:
    part = partial_of(collected(samples.path().read_bytes()))
    report = build(part)
    values = measure(Summary(part, Origin("x"))).values
    assert report.hz is not None
    ns = 1e9 / report.hz

    def row(table: str, domain: int) -> dict[str, float]:
        frame = report.tables[table]
        (found,) = frame[frame["domain"] == domain].to_dict("records")
        return {str(name): float(value) for name, value in found.items()}

    wakes_by_domain = report.tables["wakes"].groupby("domain")["vcpu"].nunique()
    single = [int(str(domain)) for domain, count in wakes_by_domain.items() if count == 1]
    assert single
    for domain in single:
        of, wakes = values[f"d{domain}"], row("wakes", domain)
        assert of[P50] == pytest.approx(wakes["wake_to_running_p50_cycles"] * ns)
        assert of["send_to_wake_p50"] == pytest.approx(wakes["send_to_wake_p50_cycles"] * ns)
        assert of["wakes_per_s"] == pytest.approx(wakes["wake_per_s"])
        assert of["migrated_share"] == pytest.approx(wakes["other_pcpu_ratio"])
        assert of["upcalls_least_per_s"] == pytest.approx(row("upcalls", domain)["upcall_least_per_s"])
    pcpus = report.tables["pcpus"]
    assert values[HOST_LABEL]["pcpu_running_share"] == pytest.approx(pcpus["running_ratio"].mean())


def test_a_quantile_of_too_few_intervals_is_left_out() -> None:
    few = woken([1])[0].values["d1"]
    assert "wake_to_running_p99" in few
    brief = measured(simulate(5, 1, [(1, 1, "pv")], 15_000_000).data, "x", HOST_HZ).values["d1"]
    assert "wake_to_running_p50" in brief
    assert "wake_to_running_p99" not in brief


def test_an_empty_trace_has_no_figures_and_makes_no_rows(unshifted: list[Measured]) -> None:
    nothing = measured(b"", "nothing", HOST_HZ)
    assert not any(nothing.values.values())
    diff = compare([nothing], unshifted[:1])
    assert not diff.changes
    assert "nothing to compare: no domain has a figure in both groups" in diff.warnings


def test_domains_are_labelled_by_unique_names() -> None:
    assert labels_of([-1, 0, 3], {}) == ["host", "d0", "d3"]
    assert labels_of([0, 3, 4], {3: "web", 4: "db"}) == ["d0", "web", "db"]
    assert labels_of([3, 4, 5], {3: "web", 4: "web", 5: "d3"}) == ["d3", "d4", "d5"]
    assert labels_of([-1, 3], {3: "host"}) == ["host", "d3"]


def test_every_figure_has_a_meaning() -> None:
    assert len(BY_NAME) == len(FIGURES)
    assert all(figure.meaning and len(figure.name) <= 20 for figure in FIGURES)
    assert set(LOADS) <= set(BY_NAME)


# --- groups ------------------------------------------------------------------------------------


def simple(values: list[float], like: Measured, label: str = "d1", name: str = P50) -> list[Measured]:
    return [made_up(f"c{i}", {label: {name: value}}, like) for i, value in enumerate(values)]


def test_a_row_computed_by_hand(unshifted: list[Measured]) -> None:
    old = simple([10, 11, 12, 13, 14], unshifted[0])
    new = simple([20, 22, 24, 26, 28], unshifted[0])
    diff = compare(old, [replace(capture, name="n" + capture.name) for capture in new])
    (row,) = diff.changes
    assert (row.old_median, row.new_median) == (12, 24)
    assert row.p == row.p_together == pytest.approx(2 / 252)
    assert row.differs
    assert row.change == pytest.approx(1.0, abs=0.02)
    assert row.low == pytest.approx(22 / 14 - 1)  # the third lowest of the 25 ratios
    assert row.high == pytest.approx(28 / 11 - 1)
    assert not diff.warnings


def test_zeros_give_a_difference_instead_of_a_ratio(unshifted: list[Measured]) -> None:
    old = simple([0, 0, 0, 0, 0], unshifted[0], name="forced_per_s")
    new = simple([3, 4, 5, 6, 7], unshifted[0], name="forced_per_s")
    (row,) = compare(old, new).changes
    assert not row.is_ratio
    assert row.change == 5
    assert row.rise_ratio == math.inf
    (same,) = compare(new, simple([0, 4, 5, 6, 7], unshifted[0], name="forced_per_s")).changes
    assert (same.is_ratio, same.change, same.rise_ratio) == (False, 0, 0)
    assert not compare(old, old).changes, "a figure that is always 0 is not tested"


def test_p_is_adjusted_for_all_tested_rows(unshifted: list[Measured]) -> None:
    old, new = simple([10, 11, 12, 13, 14], unshifted[0]), simple([20, 22, 24, 26, 28], unshifted[0])
    for place, capture in enumerate([*old, *new]):
        # Every other capture: no sign of a change.
        for name in ("send_to_wake_p50", "irq_to_wake_p50"):
            capture.values["d1"][name] = 1.0 + place % 5 + place / 100  # type: ignore[index]
    diff = compare(old, new)
    assert row_of(diff, "d1", P50).p_together == pytest.approx(6 / 252)
    assert not any(row.differs for row in diff.changes)
    assert not diff.can_tell(diff.changes[0])
    assert any("with 3 rows, it takes 6 per side" in warning for warning in diff.warnings)
    only = compare(old, new, figures=[BY_NAME[P50]])
    assert only.changes[0].differs
    assert only.can_tell(only.changes[0])


def test_rows_that_some_captures_lack_are_left_out_with_a_warning(unshifted: list[Measured]) -> None:
    old, new = simple([10, 11], unshifted[0]), simple([20, 22], unshifted[0])
    for capture in (*old, new[0]):
        capture.values["d1"]["send_to_wake_p50"] = 5.0  # type: ignore[index]
    diff = compare(old, new)
    assert [row.figure.name for row in diff.changes] == [P50]
    assert any("d1 send_to_wake_p50 (in 2 of 2 and 1 of 2)" in warning for warning in diff.warnings)


def test_domains_are_matched_by_name_and_by_map(unshifted: list[Measured]) -> None:
    old, new = simple([10, 11], unshifted[0], "d3"), simple([20, 22], unshifted[0], "d7")
    apart = compare(old, new)
    assert not apart.changes
    assert "only in old: d3; --map OLD=NEW says which are the same" in apart.warnings
    assert "only in new: d7; --map OLD=NEW says which are the same" in apart.warnings
    (row,) = compare(old, new, renamed={"d3": "d7"}).changes
    assert row.domain == "d7"
    old[0].values["d7"] = {P50: 1.0}  # type: ignore[index]
    with pytest.raises(TraceError, match="two domains the same name: d7"):
        compare(old, new, renamed={"d3": "d7"})


def test_a_domain_that_does_not_exist_is_an_error(unshifted: list[Measured]) -> None:
    with pytest.raises(TraceError, match="'d9'; they have d1, host"):
        compare(unshifted[:1], unshifted[1:2], domains=["d9"])
    diff = compare(unshifted[:2], unshifted[2:4], domains=[HOST_LABEL])
    assert {row.domain for row in diff.changes} == {HOST_LABEL}


def test_empty_groups_are_refused(unshifted: list[Measured]) -> None:
    with pytest.raises(ValueError, match="captures"):
        compare([], unshifted)


# --- warnings ----------------------------------------------------------------------------------


def warned(old: list[Measured], new: list[Measured]) -> str:
    return "\n".join(compare(old, new, figures=KEY).warnings)


def test_a_different_load_gives_a_warning(unshifted: list[Measured]) -> None:
    busier = [
        replace(
            capture,
            values={
                label: {name: v * (1.5 if name == "wakes_per_s" else 1) for name, v in of.items()}
                for label, of in capture.values.items()
            },
        )
        for capture in unshifted[10:]
    ]
    assert "d1: the loads differ (wakes_per_s +5" in warned(unshifted[:10], busier)
    assert "loads" not in warned(unshifted[:10], unshifted[10:])


def test_blind_time_gives_a_warning(unshifted: list[Measured]) -> None:
    blind = [
        replace(capture, values={**capture.values, HOST_LABEL: {"pcpu_lost_share": 0.12}})
        for capture in unshifted[10:]
    ]
    assert "pCPUs were blind 0.0% of the time in old, 12.0% in new" in warned(unshifted[:10], blind)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"emulated": True}, "some hosts were emulated"),
        ({"span_s": 30.0}, "old captures last "),
        ({"hz": 3e9}, "TSCs run at 2000 to 3000 MHz"),
        ({"versions": VersionRange.parse("4.2")}, "new from Xen 4.2"),
        ({"vcpu_counts": {"d1": 4}}, "d1 has 1 vCPUs in old, 4 in new"),
    ],
    ids=["emulated", "span", "hz", "versions", "vcpus"],
)
def test_different_hosts_give_a_warning(
    change: dict[str, object], said: str, unshifted: list[Measured]
) -> None:
    known = [replace(capture, versions=VersionRange.parse("4.17")) for capture in unshifted]
    new = [replace(capture, **change) for capture in known[10:]]  # type: ignore[arg-type]
    assert said in warned(known[:10], new)
    assert said not in warned(known[:10], known[10:])


def test_a_capture_in_both_groups_gives_a_warning(unshifted: list[Measured]) -> None:
    assert "is in both groups" in warned(unshifted[:5], unshifted[4:9])


def test_parts_of_a_capture_are_not_repetitions(sample_parts: list[Measured]) -> None:
    assert "not repetitions" not in warned(sample_parts[:10], sample_parts[10:])
    parts = [replace(capture, is_part=True) for capture in sample_parts]
    said = warned(parts[:10], parts[10:])
    assert "parts of a capture are not repetitions" in said
    assert re.search(r"neighbouring parts correlate \(\w+ \w+: 0\.\d\d\), so p is too small", said)


def test_without_a_tsc_rate_times_are_in_cycles(unshifted: list[Measured]) -> None:
    cycles = [measure(Summary(partial_of(collected(b"")), Origin("x"))) for _ in range(2)]
    assert cycles[0].hz is None
    diff = compare(cycles[:1], cycles[1:])
    assert diff.in_cycles
    assert "no capture has a known TSC rate" in "\n".join(diff.warnings)
    with pytest.raises(TraceError, match="x: its TSC rate is not known"):
        compare(cycles[:1], unshifted[:1])


# --- JSON --------------------------------------------------------------------------------------


def test_json_has_the_values_of_the_rows(unshifted: list[Measured], shifted: list[Measured]) -> None:
    diff = compare(unshifted[:10], shifted[:10])
    found = json.loads(json_text(diff))
    assert found["schema_version"] == SCHEMA_VERSION
    assert found["method"]["tests"] == len(diff.changes) == len(found["rows"])
    assert found["method"]["alpha"] == ALPHA
    by_name = {(row["domain"], row["metric"]): row for row in found["rows"]}
    row = by_name["d1", P50]
    was = row_of(diff, "d1", P50)
    assert (row["unit"], row["change_unit"], row["quality"], row["differs"]) == ("ns", "ratio", "exact", True)
    assert (row["change"], row["change_low"], row["p_together"]) == (was.change, was.low, was.p_together)
    assert len(row["old_values"]) == len(row["new_values"]) == 10
