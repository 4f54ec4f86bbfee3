"""vCPUs that a timer wakes periodically, and that it wakes late."""

from __future__ import annotations

from collections.abc import Iterator

from xtrace.analysis.coverage.needs import ENTRIES, RUNSTATES, SWITCHES, Reach
from xtrace.analysis.findings.evidence import Evidence, guests, vcpu_name
from xtrace.analysis.findings.finding import Found, Rule
from xtrace.analysis.measures.table import Quality
from xtrace.analysis.state_machine.keys import domain_of, high_of, vcpu_of
from xtrace.analysis.state_machine.metrics import Metric, WakeCause
from xtrace.analysis.summary.histogram import bucket_bounds
from xtrace.probes.words import count_of

_NEEDS = (RUNSTATES, SWITCHES, ENTRIES)
_FEWEST, _BY_TIMER_RATIO = 50, 0.9
#: A vCPU sleeps periodically if this share of its sleeps is so near to their median.
_REGULAR_RATIO, _NEAR = 0.7, 1.25
#: A sleep is late by more than a period if it is twice the median; one of many periods was meant to be long.
_LATE, _MEANT = 2.0, 20.0
_PROBLEM_COUNT, _PROBLEM_RATIO = 10, 0.01


def find(evidence: Evidence) -> Iterator[Found]:
    """Yield vCPUs that sleep for a period, nearly always, and at times for more than two."""
    measures = evidence.measures
    causes = measures.counts(Metric.WAKE_CAUSE)
    by_timer = causes.where(high_of(causes["b"]) == int(WakeCause.TIMER_OR_OTHER)).sums(["a"], ["count"])
    timers = dict(zip(by_timer["a"].tolist(), by_timer["count"].tolist(), strict=True))
    wakes = measures.count_by_a(Metric.WAKE_CAUSE)
    all_wakes = dict(zip(wakes["a"].tolist(), wakes["count"].tolist(), strict=True))
    buckets = measures.partial.buckets
    buckets = buckets.where(buckets["metric"] == int(Metric.BLOCKED))
    low, high = bucket_bounds(buckets["bucket"])
    middle = (low + high) / 2
    for row in guests(measures.times(Metric.BLOCKED)).rows():
        key, period = row["a"], row["p50_cycles"]
        if row["count"] < _FEWEST or timers.get(key, 0) < _BY_TIMER_RATIO * all_wakes.get(key, 0):
            continue
        own = buckets["a"] == key
        near = own & (middle >= period / _NEAR) & (middle <= period * _NEAR)
        late = own & (low > _LATE * period) & (high <= _MEANT * period)
        count = int(buckets["count"][late].sum())
        if int(buckets["count"][near].sum()) < _REGULAR_RATIO * row["count"]:
            continue
        if not count:
            continue  # it concerns nothing
        span, when = evidence.longest(Metric.BLOCKED, key, most_cycles=_MEANT * period)
        yield Found(
            is_problem=count >= max(_PROBLEM_COUNT, _PROBLEM_RATIO * row["count"]),
            sentence=f"{vcpu_name(key)} sleeps for {evidence.time(period)} until a timer wakes it, but "
            f"{count_of(count, 'time')} of {row['count']:,} it slept for more than twice that",
            figures=(
                evidence.figure("period_p50_cycles", period, Quality.INFERRED, _NEEDS, Reach.VCPU),
                evidence.figure("late_count", count, Quality.INFERRED, _NEEDS, Reach.VCPU),
                evidence.figure("sleep_count", row["count"], Quality.EXACT, _NEEDS, Reach.VCPU),
            ),
            concerned_count=count,
            domain=domain_of(key),
            vcpu=vcpu_of(key),
            span=span,
            when=when,
        )


RULE = Rule(
    "late-timers",
    "periodic wakes by a timer, of any type of guest",
    "of 50 or more sleeps that end, for 90 % or more, by a wake without a send or an interrupt, and of which "
    "70 % are within a quarter of their median, one lasted for 2 to 20 times the median: it was late by more "
    "than a period",
    "ten or more, and 1 % or more",
    "none",
    "a host whose timers are not delayed",
    find,
    needs=_NEEDS,
    needs_all_pcpus=True,
)
