"""What is said first, what is said once for many, and what is not said."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from builders import cut
from builders.partials import partial
from builders.wakes import TSC_HZ, wakes
from oracle.reading import sample_bytes
from xtrace import samples
from xtrace.analysis.columns import Columns
from xtrace.analysis.coverage.needs import MEMORY
from xtrace.analysis.findings.demand import equal_shares
from xtrace.analysis.findings.evidence import Evidence, Figure
from xtrace.analysis.findings.find import find_all
from xtrace.analysis.findings.finding import Found, Rule, Severity
from xtrace.analysis.findings.rules.catalogue import RULES
from xtrace.analysis.measures.measures import Measures
from xtrace.analysis.measures.table import Quality
from xtrace.cli.commands.report import _FINDINGS
from xtrace.probes.catalog import VersionRange
from xtrace.probes.selection.vcpus import Vcpu


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    return of(wakes(1))


def of(data: bytes, *, emulated: bool = False) -> Evidence:
    return Evidence(Measures(partial(data), VersionRange.parse("4.17"), TSC_HZ), emulated=emulated)


def found(
    count: int, *, cycles: int = 0, problem: bool = False, vcpu: int = 0, quality: Quality = Quality.EXACT
) -> Found:
    return Found(
        problem, f"{count}", (Figure("a_count", count, quality),), count, cycles, domain=1, vcpu=vcpu
    )


def rule(name: str, *made: Found, is_of_lengths: bool = False) -> Rule:
    def find(_: Evidence) -> Iterator[Found]:
        yield from made

    return Rule(name, "", "", "", "none", "nowhere", find, is_of_lengths=is_of_lengths)


def test_problems_come_first_then_what_concerns_more_time_then_more_events(evidence: Evidence) -> None:
    rules = [
        rule("few", found(1)),
        rule("many", found(9)),
        rule("short", found(1, cycles=5)),
        rule("bad", found(1, problem=True)),
        rule("worse", found(1, cycles=2, problem=True)),
    ]
    assert [one.name for one in find_all(evidence, rules)] == ["worse", "bad", "short", "many", "few"]


def test_a_rule_gives_one_finding_and_counts_the_others(evidence: Evidence) -> None:
    (one,) = find_all(evidence, [rule("r", *(found(1, cycles=n, vcpu=n) for n in range(64)))])
    assert (one.vcpu, one.concerned_cycles, one.others) == (63, 63, 63)


def test_a_problem_is_shown_before_a_longer_note_of_its_rule(evidence: Evidence) -> None:
    (one,) = find_all(evidence, [rule("r", found(1, cycles=9), found(1, cycles=2, problem=True))])
    assert (one.severity, one.concerned_cycles) == (Severity.PROBLEM, 2)


def test_nothing_is_said_of_no_events_and_of_what_is_not_recorded(evidence: Evidence) -> None:
    assert not find_all(evidence, [rule("r", found(0, cycles=5))])
    assert not find_all(evidence, [rule("r", found(5, quality=Quality.ABSENT))])
    needy = Rule("r", "", "", "", "", "", lambda _: [found(5)], needs=(MEMORY,))
    assert not find_all(evidence, [needy])


def test_only_what_is_about_wanted_domains_and_vcpus(evidence: Evidence) -> None:
    rules = [rule("r", found(5, vcpu=1), found(4, vcpu=2))]
    assert not find_all(evidence, rules, domains=[2])
    (one,) = find_all(evidence, rules, vcpus=[Vcpu(2, None)])
    assert (one.vcpu, one.others) == (2, 0)
    assert not find_all(evidence, rules, vcpus=[Vcpu(2, 3)])


def test_lengths_on_an_emulated_host_are_notes() -> None:
    evidence = of(wakes(1), emulated=True)
    bad = found(1, problem=True)
    assert [one.severity for one in find_all(evidence, [rule("r", bad, is_of_lengths=True)])] == ["note"]
    assert [one.severity for one in find_all(evidence, [rule("r", bad)])] == ["problem"]


def test_names_are_distinct_and_those_of_the_command() -> None:
    names = [one.name for one in RULES]
    assert len(set(names)) == len(names)
    assert tuple(names) == _FINDINGS


def test_figures_fall_with_the_trace(evidence: Evidence) -> None:
    assert evidence.figure("a_count", 1, Quality.EXACT, (MEMORY,)).quality is Quality.ABSENT
    assert evidence.figure("a_count", 1, Quality.EXACT).quality is Quality.EXACT


def test_a_trace_without_a_tsc_rate_meets_no_threshold_of_time(evidence: Evidence) -> None:
    unknown = Evidence(Measures(evidence.measures.partial, evidence.measures.versions, None))
    assert unknown.cycles(1e-9) == float("inf")


def test_equal_shares_leave_what_is_not_wanted_to_others() -> None:
    assert equal_shares([10, 100, 100], [1, 1, 1], 110) == [10, 50, 50]
    assert equal_shares([100, 100], [2, 1], 90) == [60, 30]
    assert equal_shares([], [], 0) == []
    assert equal_shares([10, 10], [1, 0], 20) == [10, 0]


def test_costs_are_found_only_where_they_were_asked_for(evidence: Evidence) -> None:
    rows = Columns({"domain": [1, 1, 2], "what": ["upcall"] * 3, "agrees": ["no", "no", "yes"]})
    asked = Evidence(evidence.measures, costs={"cost_checks": rows})
    by_name = {one.name: one for one in find_all(asked, RULES)}
    assert by_name["cost-contradiction"].concerned_count == 2
    assert "cost-contradiction" not in {one.name for one in find_all(evidence, RULES)}


def test_what_vcpus_may_have_done_unseen_is_no_finding() -> None:
    """Of one pCPU of two, waiting time may be time on the other one."""
    windows = cut.windows_of(sample_bytes(samples.path()))
    half = partial(cut.packed(cut.of_pcpus(windows, {0})))
    evidence = Evidence(Measures(half, VersionRange.parse("4.17"), 2.3e9))
    assert not evidence.coverage.has_all_pcpus
    doubtful = {rule.name for rule in RULES if rule.needs_all_pcpus}
    assert {"waiting", "starved-domain", "idle-while-waiting", "unhandled-sends"} <= doubtful
    found = {one.name for one in find_all(evidence, RULES)}
    assert found
    assert not found & doubtful
    silent = [replace(rule, needs_all_pcpus=False) for rule in RULES]
    assert {one.name for one in find_all(evidence, silent)} & doubtful
