"""Interrupts that come very often, or all on one pCPU; and events all on one vCPU."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from xtrace.analysis.coverage.needs import IRQS, SWITCHES
from xtrace.analysis.findings.evidence import Evidence, Span, guests
from xtrace.analysis.findings.finding import Found, Rule
from xtrace.analysis.measures.table import Quality
from xtrace.analysis.state_machine.kept import Slotted
from xtrace.analysis.state_machine.keys import domain_of, vcpu_of
from xtrace.analysis.state_machine.metrics import Metric
from xtrace.probes.words import scaled

_NOTE_PER_S, _PROBLEM_PER_S = 10_000.0, 30_000.0
_MOST_RATIO = 0.9
_ONE_NOTE_PER_S, _ONE_PROBLEM_PER_S = 1_000.0, 10_000.0
_FEWEST_VCPUS = 4


def find_peaks(evidence: Evidence) -> Iterator[Found]:
    """Yield irqs with a high rate on a pCPU in the second in which they were most frequent."""
    slots, hz = evidence.slots, evidence.measures.hz
    if not hz or not slots.has_one_axis or not slots.count:
        return
    width = max(int(hz / slots.cycles), 1)
    for irq, pcpu in slots.keys(Slotted.IRQS):
        series = slots.series(Slotted.IRQS, irq, pcpu)
        place, last, count = slots.densest(series.counts, width)
        span = Span(slots.begin_tsc(place), slots.end_tsc(last))
        # A trace of less than a second has no rate of a second: what there is counts as that of a second.
        rate = evidence.per_s(count, max(span.end_tsc - span.begin_tsc, min(hz, slots.cycles * width)))
        if rate < _NOTE_PER_S:
            continue
        mean = evidence.per_s(int(series.counts.sum()), evidence.span_cycles)
        yield Found(
            is_problem=rate >= _PROBLEM_PER_S,
            sentence=f"irq {irq} came {scaled(rate)} times per second on pCPU {pcpu} at its peak, "
            f"{scaled(mean)} over all",
            figures=(
                evidence.figure("irq_peak_per_s", rate, Quality.BOUNDED, (IRQS,)),
                evidence.figure("irq_per_s", mean, Quality.EXACT, (IRQS,)),
            ),
            concerned_count=count,
            concerned_cycles=int(series.totals[place : last + 1].sum()),
            pcpu=pcpu,
            span=span,
            when="from",
        )


def find_one_pcpu(evidence: Evidence) -> Iterator[Found]:
    """Yield the pCPU that handles nearly all interrupts of a host with several."""
    times = evidence.measures.times_by_b(Metric.IRQ_HANDLING).sums(["b"], ["count", "sum_cycles"])
    total = int(times["count"].sum())
    if len(evidence.coverage.pcpus) < 2 or not evidence.coverage.has_all_pcpus or not total:
        return
    rate = evidence.per_s(total, evidence.span_cycles)
    for row in times.rows():
        ratio = row["count"] / total
        if ratio < _MOST_RATIO or rate < _ONE_NOTE_PER_S:
            continue
        yield Found(
            is_problem=rate >= _ONE_PROBLEM_PER_S,
            sentence=f"pCPU {row['b']} handled {ratio:.1%} of the interrupts of "
            f"{len(evidence.coverage.pcpus)} pCPUs, {scaled(rate)} per second",
            figures=(
                evidence.figure("irq_share_ratio", ratio, Quality.EXACT, (IRQS,)),
                evidence.figure("irq_per_s", rate, Quality.EXACT, (IRQS,)),
            ),
            concerned_count=row["count"],
            concerned_cycles=row["sum_cycles"],
            pcpu=row["b"],
        )


def find_one_vcpu(evidence: Evidence) -> Iterator[Found]:
    """Yield the vCPU that gets nearly all wakes of a domain with several."""
    wakes = guests(evidence.measures.count_by_a(Metric.WAKE_CAUSE))
    domains = domain_of(wakes["a"])
    known = guests(evidence.measures.partial.vcpus, "vcpu")["vcpu"]
    for domain in np.unique(domains).tolist():
        own = wakes.where(domains == domain)
        vcpus = int((domain_of(known) == domain).sum())
        total = int(own["count"].sum())
        rate = evidence.per_s(total, evidence.span_cycles)
        (most,) = own.sorted_by("count", descending=True).where(slice(1)).rows()
        ratio = most["count"] / max(total, 1)
        if vcpus < _FEWEST_VCPUS or ratio < _MOST_RATIO or rate < _ONE_NOTE_PER_S:
            continue
        yield Found(
            is_problem=rate >= _ONE_PROBLEM_PER_S,
            sentence=f"d{domain}v{vcpu_of(most['a'])} got {ratio:.1%} of the wakes of the {vcpus} vCPUs of "
            f"d{domain}, {scaled(rate)} per second",
            figures=(
                evidence.figure("wake_share_ratio", ratio, Quality.EXACT, (SWITCHES,)),
                evidence.figure("wake_per_s", rate, Quality.EXACT, (SWITCHES,)),
            ),
            concerned_count=most["count"],
            domain=domain,
            vcpu=vcpu_of(most["a"]),
        )


PEAK = Rule(
    "irq-peak",
    "rate of an irq on a pCPU in the second in which it was most frequent",
    "it is 10,000 per second or more; in a trace with slots of more than a second, in one slot",
    "it is 30,000 per second or more",
    "below 10,000 per second",
    "a network card that delays its interrupts by 100 us",
    find_peaks,
    needs=(IRQS,),
)
ONE_PCPU = Rule(
    "irqs-on-one-pcpu",
    "how interrupts are spread over pCPUs",
    "one of several pCPUs handled 90 % or more of at least 1,000 interrupts per second",
    "of at least 10,000 per second",
    "spread over pCPUs, or below 1,000 per second",
    "the bundled samples have 2 to 30 interrupts per second",
    find_one_pcpu,
    needs=(IRQS,),
    command="--section irqs",
)
ONE_VCPU = Rule(
    "wakes-on-one-vcpu",
    "how wakes are spread over the vCPUs of a domain",
    "one of four or more vCPUs got 90 % or more of at least 1,000 wakes per second",
    "of at least 10,000 per second",
    "spread over vCPUs, or below 1,000 per second",
    "the bundled samples have at most 450 wakes of a domain per second",
    find_one_vcpu,
    needs=(SWITCHES,),
    command="--section delivery",
)
