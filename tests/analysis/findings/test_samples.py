"""Every finding on every sample, checked against the records themselves.

The records are read by the reference reader; runstate records alone give the times of vCPUs and pCPUs.
"""

from __future__ import annotations

import functools
from bisect import bisect
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from oracle.reader import Record, read
from oracle.reading import ALL_SAMPLES, sample_bytes
from xtrace.analysis.findings.evidence import Evidence
from xtrace.analysis.findings.find import find_all
from xtrace.analysis.findings.finding import Finding
from xtrace.analysis.findings.rules.catalogue import RULES
from xtrace.analysis.loading.summaries import analyse
from xtrace.analysis.measures.measures import Measures
from xtrace.analysis.summary import clock
from xtrace.probes.catalog import VersionRange
from xtrace.probes.format import LOST_RECORDS

RUNNING, RUNNABLE, BLOCKED, OFFLINE = range(4)
IDLE = 0x7FFF
#: The smallest, without and with HVM guests, and one with losses; the others in the nightly run.
SOME = [path for path in ALL_SAMPLES if any(name in path.name for name in ("credit", "pvh", "netbsd7"))]
CASES = [
    pytest.param(path, marks=[] if path in SOME else [pytest.mark.nightly], id=path.name.partition(".")[0])
    for path in ALL_SAMPLES
]


@dataclass
class Host:
    """What the records say.

    Attributes:
        states: by vCPU and state, (begin, end) of each stay whose begin is a record.
        before: by vCPU, the state that its first record says it was in, and the cycles from the first record
            of all to that one; how long it had been in it is not known.
        idle: the same of idle time, by pCPU.
        wakes: TSCs of WAKE records by vCPU.
        calls: TSCs of hypercalls by (vCPU, number).
        masked, marked: TSCs of PENDING records by vCPU, those that found the upcall mask set, and all.
        lost: records that Xen says it lost.
    """

    first: int
    last: int
    states: dict[tuple[int, int], list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))
    before: dict[int, tuple[int, int]] = field(default_factory=dict)
    idle: dict[int, list[tuple[int, int]]] = field(default_factory=lambda: defaultdict(list))
    wakes: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    calls: dict[tuple[int, int], list[int]] = field(default_factory=lambda: defaultdict(list))
    masked: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    marked: dict[int, list[int]] = field(default_factory=lambda: defaultdict(list))
    lost: int = 0

    def total(self, vcpu: int, state: int) -> int:
        return sum(end - begin for begin, end in self.states[vcpu, state])

    def may_be(self, ratio: float, vcpu: int, state: int) -> bool:
        """Return whether a share of the span is the vCPU's time in a state, within 1 %."""
        least = self.total(vcpu, state)
        before, cycles = self.before.get(vcpu, (state, 0))
        most = least + (cycles if before == state else 0)
        return least / self.span - 0.01 <= ratio <= most / self.span + 0.01

    @property
    def span(self) -> int:
        return self.last - self.first


@functools.cache
def host_of(path: Path) -> Host:
    records = read(sample_bytes(path)).records
    timed = [record.tsc for record in records if record.timed]
    host = Host(min(timed), max(timed))
    since: dict[int, tuple[int, int]] = {}
    current: dict[int, int] = {}
    for record in records:
        take(host, since, current, record)
    for vcpu, (state, begin) in since.items():
        stay(host, vcpu, state, begin, host.last)
    return host


def take(host: Host, since: dict[int, tuple[int, int]], current: dict[int, int], record: Record) -> None:
    event, words, tsc = record.event, record.words, record.tsc
    if event & ~0x330 == 0x21001:
        vcpu, old, new = words[0], event >> 8 & 3, event >> 4 & 3
        if vcpu in since:
            stay(host, vcpu, old, since[vcpu][1], tsc)
        else:
            host.before[vcpu] = old, tsc - host.first
        since[vcpu] = (new, tsc)
        if new == RUNNING:
            current[record.pcpu] = vcpu
    elif event == 0x28004:
        host.wakes[words[0] << 16 | words[1]].append(tsc)
    elif event == 0x20100D and record.pcpu in current:
        host.calls[current[record.pcpu], words[0] & 0xFFFFF].append(tsc)
    elif event == 0x82012 and record.pcpu in current:
        host.calls[current[record.pcpu], words[0]].append(tsc)
    elif event == 0x804002:
        host.marked[words[0]].append(tsc)
        if words[1] & 2:
            host.masked[words[0]].append(tsc)
    elif event == LOST_RECORDS:
        host.lost += words[0]


def stay(host: Host, vcpu: int, state: int, begin: int, end: int) -> None:
    host.states[vcpu, state].append((begin, end))
    if vcpu >> 16 == IDLE and state == RUNNING:
        host.idle[vcpu & 0xFFFF].append((begin, end))


@functools.cache
def findings_of(path: Path) -> tuple[Evidence, list[Finding]]:
    summary = analyse(path)
    rate = clock.estimate(summary.partial.pairs)
    hz = summary.origin.tsc_hz or (rate.hz if rate else None)
    evidence = Evidence(Measures(summary.partial, VersionRange.parse("4.17"), hz), emulated=True)
    return evidence, find_all(evidence, RULES)


def figures(finding: Finding) -> dict[str, float]:
    return {figure.name: figure.value for figure in finding.figures}


def key(finding: Finding) -> int:
    assert finding.domain is not None
    assert finding.vcpu is not None
    return finding.domain << 16 | finding.vcpu


def moment(host: Host, finding: Finding) -> int:
    assert finding.moment_cycles is not None
    return host.first + finding.moment_cycles


# --- one check for each rule ---------------------------------------------------------------------


def wake_latency(host: Host, finding: Finding) -> None:
    """The worst began with a wake and ended when the vCPU ran; no other took longer."""
    vcpu, begin = key(finding), moment(host, finding)
    assert begin in host.wakes[vcpu]
    end = min(one for one, _ in host.states[vcpu, RUNNING] if one > begin)
    starts = sorted(one for one, _ in host.states[vcpu, RUNNING])
    waits = [starts[at] - one for one in host.wakes[vcpu] if (at := bisect(starts, one)) < len(starts)]
    p99 = figures(finding)["wake_to_running_p99_cycles"]
    low, high = np.quantile(waits, [0.98, 0.995])
    # With lost records, some of these waits did not end where the next run begins.
    assert host.lost or low * 0.99 <= p99 <= high * 1.01
    assert end - begin >= p99


def waiting(host: Host, finding: Finding) -> None:
    vcpu, given = key(finding), figures(finding)
    assert host.may_be(given["waiting_share_ratio"], vcpu, RUNNABLE)
    assert host.may_be(given["running_share_ratio"], vcpu, RUNNING)


def starved(host: Host, finding: Finding) -> None:
    ran = dict.fromkeys({vcpu >> 16 for vcpu, _ in host.states} - {IDLE}, 0)
    for vcpu, _ in [*host.states]:
        if vcpu >> 16 in ran:
            ran[vcpu >> 16] = sum(host.total(one, RUNNING) for one in vcpus(host) if one >> 16 == vcpu >> 16)
    given = figures(finding)
    assert finding.domain is not None
    assert given["running_pcpus"] == pytest.approx(ran[finding.domain] / host.span, abs=0.01)
    # The other one ran more than an equal share of its vCPUs, and this one less.
    assert given["running_pcpus"] < given["share_pcpus"]
    assert given["other_running_pcpus"] in [
        pytest.approx(cycles / host.span, abs=0.01) for cycles in ran.values()
    ]


def vcpus(host: Host) -> set[int]:
    return {vcpu for vcpu, _ in host.states}


def idle_while_waiting(host: Host, finding: Finding) -> None:
    """The vCPU waited while the pCPU idled for at least so long."""
    assert finding.pcpu is not None
    both = overlap(host.states[key(finding), RUNNABLE], host.idle[finding.pcpu])
    assert both / host.span >= figures(finding)["waiting_while_idle_ratio"] - 1e-6


def overlap(one: list[tuple[int, int]], other: list[tuple[int, int]]) -> int:
    return sum(max(min(b, d) - max(a, c), 0) for a, b in one for c, d in other)


def paused_wakes(host: Host, finding: Finding) -> None:
    """From the wake on, the vCPU was offline for so long before it ran."""
    vcpu, longest = key(finding), figures(finding)["paused_wake_max_cycles"]
    wake = moment(host, finding)
    assert wake in host.wakes[vcpu]
    run = min(begin for begin, _ in host.states[vcpu, RUNNING] if begin > wake)
    assert longest == overlap([(wake, run)], host.states[vcpu, OFFLINE])


def forced(host: Host, finding: Finding) -> None:
    count = figures(finding)["xen_version_count"]
    # With lost records, the vCPU that runs is not always the last that was seen to be scheduled.
    assert len(host.calls[key(finding), 17]) == (pytest.approx(count, abs=2) if host.lost else count)
    assert len(host.calls[key(finding), 23]) >= figures(finding)["upcall_least_count"]


def long_masks(host: Host, finding: Finding) -> None:
    """The worst began with an event that found the mask set."""
    assert moment(host, finding) in host.masked[key(finding)]


def masked_waits(host: Host, finding: Finding) -> None:
    vcpu, given = key(finding), figures(finding)
    assert moment(host, finding) in host.masked[vcpu]
    assert (len(host.marked[vcpu]), len(host.masked[vcpu])) == (given["mark_count"], given["masked_count"])
    assert given["outside_count"] <= given["masked_count"]


def late_timers(host: Host, finding: Finding) -> None:
    given = figures(finding)
    slept = [end - begin for begin, end in host.states[key(finding), BLOCKED]]
    late = [cycles for cycles in slept if 2.02 * given["period_p50_cycles"] < cycles]
    assert given["late_count"] == pytest.approx(len(late), abs=1)
    begin = moment(host, finding)
    assert any(one == begin for one, _ in host.states[key(finding), BLOCKED])


def lost(host: Host, finding: Finding) -> None:
    assert host.lost == figures(finding)["lost_records"]


CHECKS: dict[str, Callable[[Host, Finding], None]] = {
    "wake-latency": wake_latency,
    "waiting": waiting,
    "starved-domain": starved,
    "idle-while-waiting": idle_while_waiting,
    "paused-wakes": paused_wakes,
    "forced-callbacks": forced,
    "long-masks": long_masks,
    "masked-waits": masked_waits,
    "late-timers": late_timers,
    "lost-records": lost,
}


@pytest.mark.parametrize("path", CASES)
def test_the_records_show_what_the_findings_say(path: Path) -> None:
    _, found = findings_of(path)
    assert found
    host = host_of(path)
    for finding in found:
        CHECKS[finding.name](host, finding)
