"""Tables of event delivery: who wakes whom, and how long it takes until the woken vCPU runs.

A send is an event_channel_op of a PV guest (or VMMCALL 32 of an HVM guest); its
sub-operation is never recorded.  The next record on the same pCPU shows its effect: a WAKE, or
no WAKE, in which case the target was running, runnable or already had the event pending.
"""

from __future__ import annotations

import numpy as np

from xtrace.analysis.columns import Array, Columns, joined, text
from xtrace.analysis.coverage.needs import ENTRIES, IRQS, RUNSTATES, SWITCHES, Reach
from xtrace.analysis.measures.lookup import (
    TAIL,
    counted,
    keys_of,
    looked_up,
    share,
    tail_columns,
    with_vcpu,
)
from xtrace.analysis.measures.measures import Measures
from xtrace.analysis.measures.table import DOMAIN, VCPU, Column, Quality, Table, times_columns
from xtrace.analysis.state_machine.keys import domain_of, high_of, low_of, paired, vcpu_of
from xtrace.analysis.state_machine.metrics import MAY_BE_AWAKE, Metric, WakeCause, Woken
from xtrace.probes.catalog import names

#: Headings of a time with all its statistics on the terminal.
_ALL = {name: name for name in ("p50", "p95", "p99", "max")}
_EXACT, _INFERRED = Quality.EXACT, Quality.INFERRED
_CAUSES_NEED = (SWITCHES, RUNSTATES, ENTRIES)

_CAUSES = {
    WakeCause.EVENT_CHANNEL: "event_channel",
    WakeCause.HYPERCALL: "hypercall",
    WakeCause.IRQ: "irq",
    WakeCause.TIMER_OR_OTHER: "other",
    WakeCause.UNKNOWN: "unknown",
}
#: Causes whose wakes have no measured time.
_OTHER_CAUSES = [int(WakeCause.HYPERCALL), int(WakeCause.TIMER_OR_OTHER), int(WakeCause.UNKNOWN)]
_MAY_BE_AWAKE = paired(WakeCause.UNKNOWN, MAY_BE_AWAKE)


def wakes(measures: Measures) -> Columns:
    """Return wakes by woken vCPU, worst wake-to-running p99 first."""
    causes = measures.counts(Metric.WAKE_CAUSE)
    vcpus = keys_of(causes)
    is_known = causes["b"] != _MAY_BE_AWAKE
    perhaps, causes = causes.where(~is_known), causes.where(is_known)
    running = measures.proven(measures.times_by_b(Metric.WAKE_TO_RUNNING))
    cause = high_of(causes["b"])
    columns = {
        f"{name}_count": counted(vcpus, causes.where(cause == int(code)).sums(["a"], ["count"]))
        for code, name in _CAUSES.items()
    }
    wake_count = sum(columns.values(), np.zeros(len(vcpus), np.int64))
    measured = measures.proven_times(Metric.WAKE_TO_RUNNING)
    elsewhere = counted(vcpus, _flagged(running, Woken.MOVED))
    table = Columns(
        {
            "a": vcpus,
            "wake_count": wake_count,
            "wake_per_s": measures.per_second(wake_count),
            "wake_without_effect_count": counted(vcpus, measures.counts(Metric.WAKE_WITHOUT_EFFECT)),
            "wake_of_unknown_count": counted(vcpus, perhaps),
            **columns,
            **looked_up(vcpus, measured, tail_columns("wake_to_running", TAIL[1:])),
            "wake_to_running_count": counted(vcpus, measured),
            "paused_count": counted(vcpus, _flagged(running, Woken.PAUSED)),
            "other_pcpu_ratio": share(elsewhere, counted(vcpus, measured)),
            **looked_up(
                vcpus, measures.times(Metric.WAKE_TO_RUNNABLE), tail_columns("wake_to_runnable", TAIL[1:])
            ),
            **looked_up(
                vcpus, measures.times(Metric.RUNNABLE_WAKE), tail_columns("runnable_to_running", TAIL[1:])
            ),
            "send_to_wake_count": counted(vcpus, measures.times(Metric.SEND_TO_WAKE)),
            **looked_up(vcpus, measures.times(Metric.SEND_TO_WAKE), tail_columns("send_to_wake", TAIL[1:])),
        }
    )
    return with_vcpu(table).sorted_by("wake_to_running_p99_cycles", descending=True)


def _flagged(running: Columns, flag: Woken) -> Columns:
    """Return how many wakes have a flag, by woken vCPU."""
    return running.where((running["b"] & int(flag)) != 0).sums(["a"], ["count"])


def wakers(measures: Measures) -> Columns:
    """Return what woke each vCPU: a vCPU, an irq, a hypercall or the rest, most wakes first."""
    sent = measures.times_by_b(Metric.SEND_TO_WAKE)
    by_vcpu = sent.having(waker=_vcpu_names(sent["b"]), latency="send")
    irq = measures.times_by_b(Metric.IRQ_TO_WAKE)
    by_irq = irq.having(waker=text(f"irq {number}" for number in irq["b"].tolist()), latency="irq")
    causes = measures.counts(Metric.WAKE_CAUSE)
    is_other = np.isin(high_of(causes["b"]), _OTHER_CAUSES) & (causes["b"] != _MAY_BE_AWAKE)
    others = causes.where(is_other)
    others = others.having(
        waker=text(map(_other_waker, high_of(others["b"]).tolist(), low_of(others["b"]).tolist())),
        latency="",
        **dict.fromkeys(TAIL[1:], np.nan),
    )
    columns = ["a", "waker", "latency", *TAIL]
    parts = [part.only(columns) for part in (by_vcpu, by_irq, others)]
    # Without the others, whose times are NaN, the greatest times are integers.
    table = joined([part for part in parts if len(part)] or parts[:1])
    table = table.having(per_s=measures.per_second(table["count"]))
    return with_vcpu(table).sorted_by("count", descending=True)


def sends(measures: Measures) -> Columns:
    """Return how many event_channel_ops each vCPU made, and how many woke a vCPU, most calls first."""
    sent = measures.count_by_a(Metric.SEND)
    vcpus = keys_of(sent)
    woke = measures.counts(Metric.SEND_TO_WAKE).sums(["b"], ["count"])
    send_count, woke_count = counted(vcpus, sent), counted(vcpus, woke, key="b")
    table = Columns(
        {
            "a": vcpus,
            "send_count": send_count,
            "send_per_s": measures.per_second(send_count),
            "woke_count": woke_count,
            "woke_ratio": share(woke_count, send_count),
        }
    )
    return with_vcpu(table).sorted_by("send_count", descending=True)


def _other_waker(cause: int, argument: int) -> str:
    if cause == WakeCause.HYPERCALL:
        return f"hypercall {names.HYPERCALLS.get(argument, argument)}"
    if cause == WakeCause.TIMER_OR_OTHER:
        return "timer or other"
    return "unknown"


def _vcpu_names(keys: Array) -> Array:
    return text(
        f"d{domain}v{vcpu}"
        for domain, vcpu in zip(domain_of(keys).tolist(), vcpu_of(keys).tolist(), strict=True)
    )


TABLES = (
    Table(
        "wakes",
        "delivery",
        "Wakes: time from wake to running (p50 to max), and causes",
        wakes,
        (
            DOMAIN,
            VCPU,
            Column(
                "wake_count", _EXACT, "WAKE records of a vCPU not known to be running or runnable", "wakes"
            ),
            Column("wake_per_s", _EXACT, "these wakes per second", "/s"),
            Column(
                "wake_of_unknown_count",
                _EXACT,
                "WAKE records of a vCPU whose state is not known (lost records, end of a pCPU's records): "
                "it may have been awake; no other column counts them",
            ),
            Column(
                "wake_without_effect_count",
                _EXACT,
                "WAKE records of a vCPU that was awake, or about to block but still on its pCPU; no other "
                "column counts them",
            ),
            *times_columns("wake_to_running", _EXACT, "WAKE record to RUNSTATE_CHANGE to running", _ALL),
            Column(
                "other_pcpu_ratio",
                _EXACT,
                "share of the measured wakes after which the vCPU ran on a pCPU other than the waker's",
                "moved",
            ),
            Column(
                "event_channel_count",
                _INFERRED,
                "wakes right after an event_channel_op on the same pCPU, within 2^20 cycles",
                "send",
                _CAUSES_NEED,
            ),
            Column(
                "irq_count",
                _EXACT,
                "wakes between entry and exit of an interrupt on the same pCPU",
                "irq",
                (SWITCHES, RUNSTATES, IRQS),
            ),
            Column(
                "hypercall_count",
                _INFERRED,
                "wakes right after another hypercall that can wake: sched_op, domctl, VCPUOP_up",
                None,
                _CAUSES_NEED,
            ),
            Column(
                "other_count",
                _INFERRED,
                "other wakes: timers, softirqs, the recorder's VIRQ; interrupts too, where none are recorded",
                "other",
                _CAUSES_NEED,
            ),
            Column(
                "unknown_count",
                _EXACT,
                "wakes while it is not known what ran on the waker's pCPU (start of trace, lost records)",
                None,
                _CAUSES_NEED,
            ),
            Column("wake_to_running_count", _EXACT, "wakes with a measured time to running", None),
            Column(
                "paused_count",
                _EXACT,
                "measured wakes during which the vCPU was offline: paused, capped or not up",
                None,
            ),
            *times_columns("wake_to_runnable", _EXACT, "WAKE record to RUNSTATE_CHANGE to runnable"),
            *times_columns("runnable_to_running", _EXACT, "runnable after a wake, to running"),
            Column("send_to_wake_count", _INFERRED, "wakes by event_channel_op", None, _CAUSES_NEED),
            *times_columns(
                "send_to_wake", _INFERRED, "event_channel_op of the sender to WAKE", needs=_CAUSES_NEED
            ),
        ),
        needs=(SWITCHES, RUNSTATES),
        reach=Reach.VCPU,
        bias="the cause is taken from the record before the WAKE on the same pCPU",
        measured="against the logs of the lab's own guests (samples/, tests/lab/truth.py; emulated): 2,399 "
        "of 2,400 wakes by their event_channel_op woke the vCPU that they had sent to; in the "
        "other case the event was already pending, and something else woke another vCPU right "
        "after the send",
    ),
    Table(
        "wakers",
        "delivery",
        "Who wakes whom, and the time from send or interrupt to wake",
        wakers,
        (
            DOMAIN,
            VCPU,
            Column(
                "waker",
                Quality.KEY,
                "the sending vCPU, the irq, the hypercall, timer or other, or unknown",
                "woken by",
            ),
            Column("count", _INFERRED, "number of wakes", "wakes"),
            Column("per_s", _INFERRED, "wakes per second", "/s"),
            Column(
                "latency", Quality.KEY, "start of the times: send, or irq for the interrupt's entry", "from"
            ),
            *(
                Column(f"{n}_cycles", _INFERRED, f"send or interrupt entry to wake, {n}", n)
                for n in ("p50", "p95", "p99", "max")
            ),
        ),
        needs=(SWITCHES, RUNSTATES, ENTRIES),
        reach=Reach.HOST,
        # Wakes whose cause is not recorded count as "timer or other".
        blurred_without=(ENTRIES, IRQS),
    ),
    Table(
        "sends",
        "delivery",
        "Event channel operations, and how many woke a vCPU",
        sends,
        (
            DOMAIN,
            VCPU,
            Column(
                "send_count",
                _EXACT,
                "event_channel_op hypercalls; the sub-operation is not recorded: some bind, unmask or close",
                "calls",
                (ENTRIES,),
                Reach.RECORDS,
            ),
            Column("send_per_s", _EXACT, "these calls per second", "/s", (ENTRIES,)),
            Column("woke_count", _INFERRED, "calls right before a wake, which they caused", "woke"),
            Column(
                "woke_ratio",
                _INFERRED,
                "their share; the other events found a vCPU awake or a port that was already pending, or the "
                "call sent none",
                "share",
            ),
        ),
        bias="other calls found the vCPU awake or the port pending, or sent nothing",
        needs=(ENTRIES, SWITCHES, RUNSTATES),
        reach=Reach.VCPU,
    ),
)
