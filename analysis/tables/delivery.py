"""How are events delivered: who wakes whom, and how long until the woken vCPU runs?

A send is an event_channel_op of a PV guest (or VMMCALL 32 of an HVM guest); its
sub-operation is never recorded.  Its effect is told by the record that follows on the same
pCPU: a WAKE, or none, and then the target was running, runnable or had the event pending.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from xtrace.analysis.measures.lookup import counted, keys_of, looked_up, share, tail_columns, with_vcpu
from xtrace.analysis.measures.measures import Measures
from xtrace.analysis.measures.table import DOMAIN, TAIL, VCPU, Column, Quality, Table, times_columns
from xtrace.analysis.state_machine.keys import domain_of, high_of, low_of, vcpu_of
from xtrace.analysis.state_machine.metrics import Metric, WakeCause
from xtrace.probes.catalog import names

#: Statistics that the terminal shows of a time.
_ALL = {name: name for name in ("p50", "p95", "p99", "max")}
_EXACT, _INFERRED = Quality.EXACT, Quality.INFERRED

_CAUSES = {
    WakeCause.EVENT_CHANNEL: "event_channel",
    WakeCause.HYPERCALL: "hypercall",
    WakeCause.IRQ: "irq",
    WakeCause.TIMER_OR_OTHER: "other",
    WakeCause.UNKNOWN: "unknown",
}


def wakes(measures: Measures) -> pd.DataFrame:
    """Return wakes by woken vCPU, worst wake-to-running p99 first."""
    causes = measures.counts(Metric.WAKE_CAUSE)
    vcpus = keys_of(causes)
    running = measures.times_by_b(Metric.WAKE_TO_RUNNING)
    cause = high_of(causes["b"].to_numpy())
    columns = {
        f"{name}_count": counted(
            vcpus, causes[cause == int(code)].groupby("a", as_index=False)[["count"]].sum()
        )
        for code, name in _CAUSES.items()
    }
    wake_count = sum(columns.values(), np.zeros(len(vcpus), np.int64))
    measured = measures.times(Metric.WAKE_TO_RUNNING)
    elsewhere = counted(vcpus, running[running["b"] == 1])
    table = pd.DataFrame(
        {
            "a": vcpus,
            "wake_count": wake_count,
            "wake_per_s": measures.per_second(wake_count),
            "wake_without_effect_count": counted(vcpus, measures.counts(Metric.WAKE_WITHOUT_EFFECT)),
            **columns,
            **looked_up(vcpus, measured, tail_columns("wake_to_running", TAIL[1:])),
            "wake_to_running_count": counted(vcpus, measured),
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
    return with_vcpu(table).sort_values("wake_to_running_p99_cycles", ascending=False, kind="stable")


def wakers(measures: Measures) -> pd.DataFrame:
    """Return who or what woke each vCPU, most wakes first."""
    sent = measures.times_by_b(Metric.SEND_TO_WAKE)
    by_vcpu = sent.assign(
        waker=_vcpu_name(sent["b"]),
        latency="send",
    )
    irq = measures.times_by_b(Metric.IRQ_TO_WAKE)
    by_irq = irq.assign(waker="irq " + irq["b"].astype(str), latency="irq")
    causes = measures.counts(Metric.WAKE_CAUSE)
    kind = high_of(causes["b"])
    others = causes[["a", "count"]].assign(
        waker=[_other_waker(int(code), low_of(int(b))) for code, b in zip(kind, causes["b"], strict=True)],
        latency="",
    )[kind.isin([int(WakeCause.HYPERCALL), int(WakeCause.TIMER_OR_OTHER), int(WakeCause.UNKNOWN)])]
    table = pd.concat([frame for frame in (by_vcpu, by_irq, others) if len(frame)] or [by_vcpu])
    table = with_vcpu(table.reindex(columns=["a", "waker", "latency", *TAIL]))
    table["per_s"] = measures.per_second(table["count"])
    return table.sort_values("count", ascending=False, kind="stable")


def sends(measures: Measures) -> pd.DataFrame:
    """Return the events each vCPU sent and what became of them, most sends first."""
    sent = measures.count_by_a(Metric.SEND)
    vcpus = keys_of(sent)
    woke = measures.counts(Metric.SEND_TO_WAKE).groupby("b", as_index=False)[["count"]].sum()
    unique = counted(vcpus, measures.count_by_a(Metric.SEND_UNIQUE))
    ambiguous = counted(vcpus, measures.count_by_a(Metric.SEND_AMBIGUOUS))
    send_count = counted(vcpus, sent)
    table = pd.DataFrame(
        {
            "a": vcpus,
            "send_count": send_count,
            "send_per_s": measures.per_second(send_count),
            "woke_count": counted(vcpus, woke, key="b"),
            "no_target_count": counted(vcpus, measures.count_by_a(Metric.SEND_NO_TARGET)),
            "unique_count": unique,
            "ambiguous_count": ambiguous,
            "ambiguous_ratio": share(ambiguous, unique + ambiguous),
        }
    )
    return with_vcpu(table).sort_values("send_count", ascending=False, kind="stable")


def running_targets(measures: Measures) -> pd.DataFrame:
    """Return how soon a running vCPU showed the upcall of an event sent to it, worst p99 first."""
    times = measures.times(Metric.SEND_TO_UPCALL_RUNNING)
    unmatched = measures.count_by_a(Metric.SEND_UNMATCHED)
    vcpus = keys_of(times, unmatched)
    matched_count, unmatched_count = counted(vcpus, times), counted(vcpus, unmatched)
    table = pd.DataFrame(
        {
            "a": vcpus,
            "send_to_upcall_count": matched_count,
            "unmatched_count": unmatched_count,
            "unmatched_ratio": share(unmatched_count, matched_count + unmatched_count),
            **looked_up(vcpus, times, tail_columns("send_to_upcall", TAIL[1:])),
        }
    )
    return with_vcpu(table).sort_values("send_to_upcall_p99_cycles", ascending=False, kind="stable")


def _other_waker(cause: int, argument: int) -> str:
    if cause == WakeCause.HYPERCALL:
        return f"hypercall {names.HYPERCALLS.get(argument, argument)}"
    return "timer or other" if cause == WakeCause.TIMER_OR_OTHER else "unknown"


def _vcpu_name(keys: pd.Series[int]) -> pd.Series[str]:
    return "d" + domain_of(keys).astype(str) + "v" + vcpu_of(keys).astype(str)


TABLES = (
    Table(
        "wakes",
        "delivery",
        "Wakes: from wake to running (p50 to max), and what woke",
        wakes,
        (
            DOMAIN,
            VCPU,
            Column("wake_count", _EXACT, "wakes of a vCPU that was blocked or offline", "wakes"),
            Column("wake_per_s", _EXACT, "wakes a second", "/s"),
            Column(
                "wake_without_effect_count",
                _EXACT,
                "WAKE records of a vCPU that was awake, or about to block and still on its pCPU; in no other "
                "column",
            ),
            *times_columns("wake_to_running", _EXACT, "WAKE record to RUNSTATE_CHANGE to running", _ALL),
            Column(
                "other_pcpu_ratio",
                _EXACT,
                "share of wakes that ran on another pCPU than the waker's",
                "moved",
            ),
            Column(
                "event_channel_count",
                _EXACT,
                "the record before the WAKE on its pCPU, within 2^20 cycles, is event_channel_op",
                "send",
            ),
            Column(
                "irq_count", _EXACT, "the WAKE lies between entry and exit of an interrupt on its pCPU", "irq"
            ),
            Column(
                "hypercall_count", _INFERRED, "the record before is another hypercall that can wake", None
            ),
            Column("other_count", _INFERRED, "none of these: timers, softirqs, the trace's own VIRQ", "rest"),
            Column("unknown_count", _EXACT, "who ran on the waker's pCPU is not known (start, losses)", None),
            Column("wake_to_running_count", _EXACT, "wakes whose way to running was measured", None),
            *times_columns("wake_to_runnable", _EXACT, "WAKE record to RUNSTATE_CHANGE to runnable"),
            *times_columns("runnable_to_running", _EXACT, "runnable after a wake to running"),
            Column("send_to_wake_count", _EXACT, "wakes by event_channel_op", None),
            *times_columns("send_to_wake", _EXACT, "event_channel_op of the sender to WAKE"),
        ),
        bias="what woke it is told by the record before the WAKE on its pCPU",
        measured="against the logs of the lab's own guests (samples/, tests/lab/truth.py; emulated): 2,399 "
        "of 2,400 wakes by their event_channel_op were of the vCPU that they had sent to; in the "
        "other one the event was pending already and something else woke another vCPU behind it",
    ),
    Table(
        "wakers",
        "delivery",
        "Who wakes whom, and how long from send or interrupt to wake",
        wakers,
        (
            DOMAIN,
            VCPU,
            Column(
                "waker",
                Quality.KEY,
                "the sending vCPU, the interrupt, the hypercall, or what is left",
                "woken by",
            ),
            Column("count", _EXACT, "wakes", "wakes"),
            Column("per_s", _EXACT, "wakes a second", "/s"),
            Column(
                "latency", Quality.KEY, "what the times are: send to wake, or interrupt entry to wake", "from"
            ),
            *(
                Column(f"{n}_cycles", _EXACT, f"send or interrupt to wake, {n}", n)
                for n in ("p50", "p95", "p99", "max")
            ),
        ),
    ),
    Table(
        "sends",
        "delivery",
        "Events sent, and what became of them",
        sends,
        (
            DOMAIN,
            VCPU,
            Column(
                "send_count",
                _EXACT,
                "event_channel_op hypercalls (the sub-operation is not recorded)",
                "sends",
            ),
            Column("send_per_s", _EXACT, "a second", "/s"),
            Column("woke_count", _EXACT, "sends that woke a vCPU", "woke"),
            Column("no_target_count", _INFERRED, "woke none while no other guest vCPU ran", "nobody ran"),
            Column(
                "unique_count",
                _INFERRED,
                "woke none while one other vCPU ran, which is taken as target",
                "one ran",
            ),
            Column(
                "ambiguous_count", _INFERRED, "woke none while several ran: no target is taken", "several"
            ),
            Column("ambiguous_ratio", _INFERRED, "share of sends to running targets that stay open", "ambig"),
        ),
        bias="a send with a WAKE behind it of a vCPU that was awake counts in none of these",
    ),
    Table(
        "running_targets",
        "delivery",
        "Send to a running vCPU, until it returns from an upcall",
        running_targets,
        (
            DOMAIN,
            VCPU,
            Column(
                "send_to_upcall_count",
                _INFERRED,
                "sends taken as aimed at it and followed by an upcall",
                "matched",
            ),
            Column("unmatched_count", _INFERRED, "sends after which it was descheduled first", "unmatched"),
            Column("unmatched_ratio", _INFERRED, "share of those", "share"),
            *times_columns(
                "send_to_upcall",
                _INFERRED,
                "event_channel_op to the target's next iret that no trap explains (PV) or injection (HVM)",
                _ALL,
            ),
        ),
        bias="sent while one other vCPU ran; a system call's iret may pass for the upcall's",
        measured="against the logs of the lab's own guests, which have no system calls (samples/, "
        "tests/lab/truth.py; emulated, 1 to 3 pCPUs): 2,190 of 2,194 targets were right, else "
        "dom0 was meant or it was running elsewhere; 2,176 of 2,181 irets ended the upcall that "
        "handled the event, else one that was under way. The time ends with that upcall: it is "
        "1.6 times (p5 1.2, p95 2.3) the one to the handler's begin, 8,918 cycles (p95 39,910) "
        "longer. 11 sends with several vCPUs running were given no target",
    ),
)
