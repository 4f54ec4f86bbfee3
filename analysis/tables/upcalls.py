"""How often do guests take upcalls, how long do they last, and how often is the mask in the way?

No record exists for an upcall.  Of a PV guest one is certain: a vCPU that blocks
and is woken takes its upcall as soon as it runs, so the first iret that no trap
explains ends it.  Every other iret that no trap explains ends an upcall while
running or a system call; which, the records do not tell.  So the number of
upcalls lies between the first kind and both together.
"""

from __future__ import annotations

import pandas as pd

from xtrace.analysis.measures.lookup import counted, keys_of, looked_up, share, tail_columns, with_vcpu
from xtrace.analysis.measures.measures import Measures
from xtrace.analysis.measures.table import DOMAIN, TAIL, VCPU, Column, Quality, Table, times_columns
from xtrace.analysis.state_machine.metrics import Metric
from xtrace.probes.xen_abi import Hypercall

_EXACT, _BOUNDED, _INFERRED = Quality.EXACT, Quality.BOUNDED, Quality.INFERRED

_COUNTS = {
    "iret_trap_count": Metric.IRET_TRAP,
    "upcall_least_count": Metric.IRET_UPCALL,
    "iret_open_count": Metric.IRET_OPEN,
    "iret_ambiguous_count": Metric.IRET_AMBIGUOUS,
    "nested_count": Metric.UPCALL_NESTED,
    "preempted_count": Metric.UPCALL_PREEMPTED,
    "block_call_count": Metric.BLOCK_CALL,
    "block_without_block_count": Metric.BLOCK_WITHOUT_BLOCK,
}
_PV_KINDS = (Metric.IRET_TRAP, Metric.IRET_UPCALL, Metric.IRET_OPEN, Metric.BLOCK_CALL)


def upcalls(measures: Measures) -> pd.DataFrame:
    """Return upcalls by vCPU of PV guests, worst p99 first."""
    vcpus = keys_of(*(measures.counts(metric) for metric in _PV_KINDS))
    counts = {name: counted(vcpus, measures.counts(metric)) for name, metric in _COUNTS.items()}
    least = counts["upcall_least_count"]
    most = least + counts["iret_open_count"]
    hypercalls = measures.counts(Metric.HYPERCALL)
    forced = counted(vcpus, hypercalls[hypercalls["b"] == Hypercall.XEN_VERSION])
    entry = measures.times(Metric.RUNNING_TO_GUEST)
    forced_times = measures.times(Metric.FORCED_CALLBACK)
    table = pd.DataFrame(
        {
            "a": vcpus,
            **counts,
            "upcall_most_count": most,
            "xen_version_count": forced,
            "forced_upcall_count": counted(vcpus, forced_times),
            "upcall_least_per_s": measures.per_second(least),
            "upcall_most_per_s": measures.per_second(most),
            "xen_version_per_s": measures.per_second(forced),
            "block_without_block_ratio": share(
                counts["block_without_block_count"], counts["block_call_count"]
            ),
            "running_to_entry_most_count": counted(vcpus, entry),
            **looked_up(vcpus, measures.times(Metric.UPCALL_MAX), tail_columns("upcall_most", TAIL[1:])),
            **looked_up(vcpus, measures.times(Metric.UPCALL_MIN), tail_columns("upcall_least", TAIL[1:])),
            **looked_up(vcpus, entry, tail_columns("running_to_entry_most", TAIL[1:])),
            **looked_up(vcpus, forced_times, tail_columns("forced_to_iret", TAIL[1:])),
        }
    )
    return with_vcpu(table).sort_values("upcall_most_p99_cycles", ascending=False, kind="stable")


def injections(measures: Measures) -> pd.DataFrame:
    """Return interrupt injections by vCPU of HVM and PVH guests and vector, most first."""
    table = measures.counts(Metric.INJECTION)[["a", "b", "count"]].rename(
        columns={"count": "injection_count"}
    )
    for name, metric in (
        ("injection_to_entry", Metric.INJECTION_TO_ENTRY),
        ("window_wait", Metric.INTR_WINDOW_WAIT),
        ("upcall", Metric.HVM_UPCALL),
    ):
        times = measures.times_by_b(metric).set_index(["a", "b"])[list(TAIL)].add_prefix(name + "_")
        table = table.join(times, on=["a", "b"])
    table = table.rename(columns={"b": "vector"})
    table["window_wait_count"] = table["window_wait_count"].fillna(0).astype("int64")
    table["window_wait_ratio"] = table["window_wait_count"] / table["injection_count"]
    table["injection_per_s"] = measures.per_second(table["injection_count"])
    return with_vcpu(table).sort_values("injection_count", ascending=False, kind="stable")


TABLES = (
    Table(
        "upcalls",
        "upcalls",
        "Upcalls of PV guests: those after a block (least), and all open irets (most)",
        upcalls,
        (
            DOMAIN,
            VCPU,
            Column(
                "upcall_least_count", _INFERRED, "irets that end the upcall after a block and wake", "least"
            ),
            Column("upcall_most_count", _BOUNDED, "these and every iret that no trap explains", "most"),
            *times_columns(
                "upcall_least",
                _BOUNDED,
                "first record of the guest after it runs, to the iret: the upcall lasted at least this",
                {"p50": "p50 min"},
            ),
            *times_columns(
                "upcall_most",
                _BOUNDED,
                "running after the wake, to the iret: the upcall lasted at most this",
                {"p50": "p50 max", "p99": "p99 max"},
            ),
            Column("nested_count", _INFERRED, "upcalls with a trap inside", "nested"),
            Column(
                "xen_version_count",
                _EXACT,
                "xen_version hypercalls: forced callbacks, but for a few queries",
                "forced",
            ),
            Column("forced_upcall_count", _INFERRED, "those followed by an iret that no trap explains", None),
            Column("block_call_count", _EXACT, "block hypercalls", None),
            Column(
                "block_without_block_count",
                _INFERRED,
                "block hypercalls that found an event pending",
                "no block",
            ),
            Column("block_without_block_ratio", _INFERRED, "their share", None),
            Column("upcall_least_per_s", _INFERRED, "a second", None),
            Column("upcall_most_per_s", _BOUNDED, "a second", None),
            Column("xen_version_per_s", _EXACT, "a second", None),
            Column(
                "iret_trap_count", _INFERRED, "irets that return from a recorded trap or page fault", None
            ),
            Column(
                "iret_open_count", _INFERRED, "irets from an upcall while running or from a system call", None
            ),
            Column(
                "iret_ambiguous_count",
                _INFERRED,
                "of iret_trap_count: the guest changed stacks in between",
                None,
            ),
            Column(
                "preempted_count",
                _EXACT,
                "upcalls after a block left out of the times: descheduled inside",
                None,
            ),
            Column(
                "running_to_entry_most_count", _EXACT, "runs after a block with a record of the guest", None
            ),
            *times_columns(
                "running_to_entry_most",
                _BOUNDED,
                "running to the first record of the guest: the upcall began by then",
            ),
            *times_columns("forced_to_iret", _INFERRED, "xen_version to the iret that no trap explains"),
        ),
        bias="system calls leave irets like those of upcalls: the truth lies between",
        measured="against the logs of the lab's own guest (samples/, tests/lab/truth.py; emulated; it has "
        "neither system calls nor traps, so that the upper count is the truth there). Each of all "
        "5,649 upcalls that it logged was ended by its own iret, whose record came 1,722 cycles "
        "(p95 5,415) after its handler's end; 3,140 of them counted as least, none as the end of "
        "a trap. Of the times, all 3,140 upcalls began within the bounds: the upper one is 3.1 "
        "times the handler's own time (p5 1.7, p95 5.7, more where Xen or the emulator did not "
        "let it run), the lower one 0.87 (p5 0.70, p95 0.91). A forced callback's handler began "
        "2,758 cycles (p95 15,300) after the hypercall",
    ),
    Table(
        "injections",
        "upcalls",
        "Interrupts injected into HVM and PVH guests",
        injections,
        (
            DOMAIN,
            VCPU,
            Column("vector", Quality.KEY, "interrupt vector", "vector"),
            Column("injection_count", _EXACT, "INJ_VIRQ records", "inj"),
            Column("injection_per_s", _EXACT, "a second", "/s"),
            Column("injection_to_entry_count", _EXACT, "injections with an entry behind", None),
            *times_columns(
                "injection_to_entry",
                _BOUNDED,
                "VM exit before the injection to VMENTRY; the injection itself is untimed and lies between",
                {"p50": "entry p50", "p99": "p99"},
            ),
            Column(
                "window_wait_count", _EXACT, "injections that really waited for the interrupt window", "waits"
            ),
            Column("window_wait_ratio", _EXACT, "their share", None),
            *times_columns(
                "window_wait", _EXACT, "INTR_WINDOW without a queued vector to INJ_VIRQ", {"p99": "wait p99"}
            ),
            Column("upcall_count", _INFERRED, "entries after an injection with an exit behind", None),
            *times_columns(
                "upcall", _INFERRED, "entry after the injection to the next exit", {"p50": "upcall p50"}
            ),
        ),
    ),
)
