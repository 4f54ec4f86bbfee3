"""Virtual timers of HVM guests whose ticks come late."""

from __future__ import annotations

from collections.abc import Iterator

from xtrace.analysis.coverage.needs import TIMERS, Reach
from xtrace.analysis.findings.evidence import Evidence, guests, vcpu_name
from xtrace.analysis.findings.finding import Found, Rule
from xtrace.analysis.measures.table import Quality
from xtrace.analysis.state_machine.keys import domain_of, vcpu_of
from xtrace.analysis.state_machine.metrics import TICK_PERIOD_MASK, Metric, VirtualTimer
from xtrace.analysis.summary.histogram import bucket_bounds
from xtrace.probes.words import count_of

_NEEDS = (TIMERS,)
_FEWEST = 50
#: Where the trace does not have the period, it is the median of the times between ticks, if that share of
#: them is so near to it.
_REGULAR_RATIO, _NEAR = 0.7, 1.25
#: A tick is late by more than a period if it comes two after the last; the guest masked the timer for many.
_LATE, _MASKED = 2.0, 20.0
_PROBLEM_COUNT, _PROBLEM_RATIO = 10, 0.01
_NAMES = {VirtualTimer.LAPIC: "local APIC", VirtualTimer.PIT: "PIT"}


def find(evidence: Evidence) -> Iterator[Found]:
    """Yield timers of which ticks come more than two periods after the tick before."""
    measures = evidence.measures
    buckets = measures.partial.buckets
    buckets = buckets.where(buckets["metric"] == int(Metric.TICK))
    low, high = bucket_bounds(buckets["bucket"])
    middle = (low + high) / 2
    for row in guests(measures.times_by_b(Metric.TICK)).rows():
        if row["count"] < _FEWEST:
            continue
        key, timer = row["a"], row["b"]
        own = (buckets["a"] == key) & (buckets["b"] == timer)
        period = evidence.cycles((timer & TICK_PERIOD_MASK) / 1e9)
        quality = Quality.EXACT
        if not 0 < period < float("inf"):
            period, quality = row["p50_cycles"], Quality.INFERRED
            near = own & (middle >= period / _NEAR) & (middle <= period * _NEAR)
            if int(buckets["count"][near].sum()) < _REGULAR_RATIO * row["count"]:
                continue
        late = own & (low > _LATE * period) & (high <= _MASKED * period)
        count = int(buckets["count"][late].sum())
        if not count:
            continue  # it concerns nothing
        span, when = evidence.longest(Metric.TICK, key, b=timer, most_cycles=_MASKED * period)
        yield Found(
            is_problem=count >= max(_PROBLEM_COUNT, _PROBLEM_RATIO * row["count"]),
            sentence=f"the {_NAMES[VirtualTimer(timer >> 48)]} timer of {vcpu_name(key)} ticks every "
            f"{evidence.time(period)}, but {count_of(count, 'tick')} of {row['count']:,} came after more "
            "than twice that",
            figures=(
                evidence.figure("period_cycles", period, quality, _NEEDS, Reach.VCPU),
                evidence.figure("late_count", count, quality, _NEEDS, Reach.VCPU),
                evidence.figure("tick_count", row["count"], Quality.EXACT, _NEEDS, Reach.VCPU),
            ),
            concerned_count=count,
            domain=domain_of(key),
            vcpu=vcpu_of(key),
            span=span,
            when=when,
        )


RULE = Rule(
    "late-ticks",
    "ticks of the periodic local APIC timer and PIT that Xen emulates for HVM guests (since Xen 4.5), from "
    "one that the guest gets to the next",
    "of 50 or more, one came 2 to 20 periods after the tick before: it was late by more than a period (where "
    "the trace does not have the period, that is the median, if 70 % are within a quarter of it)",
    "ten or more, and 1 % or more",
    "none",
    "a host whose timers are not delayed",
    find,
    needs=_NEEDS,
    needs_all_pcpus=True,
)
