"""Hosts without a fault: nothing is called a problem.

docs/findings.md gives the figure of 200 hosts.
"""

from __future__ import annotations

import pytest

from builders.healthy import TSC_HZ, Healthy, healthy
from builders.partials import partial
from xtrace.analysis.findings.evidence import Evidence
from xtrace.analysis.findings.find import find_all
from xtrace.analysis.findings.finding import Finding, Severity
from xtrace.analysis.findings.rules.catalogue import RULES
from xtrace.analysis.measures.measures import Measures
from xtrace.analysis.state_machine.metrics import Metric
from xtrace.probes.catalog import VersionRange

HOSTS = 200


def measures_of(host: Healthy) -> Measures:
    return Measures(partial(host.data), VersionRange.parse("4.17"), TSC_HZ)


def problems(measures: Measures) -> list[Finding]:
    return [one for one in find_all(Evidence(measures), RULES) if one.severity is Severity.PROBLEM]


def load_of(measures: Measures) -> float:
    running, idle = (
        int(measures.counts(metric)["sum_cycles"].sum()) for metric in (Metric.PCPU_RUNNING, Metric.PCPU_IDLE)
    )
    return running / (running + idle)


@pytest.mark.parametrize("seed", [1, 3, 36])
def test_a_host_without_a_fault_has_no_problem(seed: int) -> None:
    host = healthy(seed, most_pcpus=8)
    measures = measures_of(host)
    assert problems(measures) == []
    assert len(measures.partial.pcpus) == host.pcpus


@pytest.mark.nightly
@pytest.mark.timeout(900)
def test_of_200_hosts_at_most_four_have_a_problem() -> None:
    sizes, loads, bad = [], [], {}
    for seed in range(HOSTS):
        host = healthy(seed)
        measures = measures_of(host)
        sizes.append(host.pcpus)
        loads.append(load_of(measures))
        if found := problems(measures):
            bad[seed] = [one.sentence for one in found]
    assert min(sizes) == 1
    assert max(sizes) >= 120
    assert min(loads) < 0.2
    assert max(loads) > 0.9
    assert len(bad) <= HOSTS * 0.02, bad
