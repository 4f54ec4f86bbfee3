"""Tables of upcalls: how many guests take, how long they last, and how often events were pending.

Xen writes no record for an upcall.  One kind is certain in a PV guest: a vCPU that blocks and is
woken takes its upcall as soon as it runs, so the first iret that no trap explains ends that upcall.
Every other iret that no trap explains ends either an upcall taken while running or a system call;
it is a system call where no event can have been pending (measures/upcall_bounds.py), and otherwise the
records do not say which.  So the number of upcalls is at least the count of the first kind and at most
the count of both, without those that are known to end system calls.
"""

from __future__ import annotations

from xtrace.analysis.columns import Columns, matched
from xtrace.analysis.coverage.needs import EXITS, HANDLERS, PV, RUNSTATES, SWITCHES, Reach
from xtrace.analysis.measures.lookup import (
    TAIL,
    counted,
    counts_at,
    keys_of,
    looked_up,
    share,
    tail_columns,
    taken,
    with_vcpu,
)
from xtrace.analysis.measures.measures import Measures
from xtrace.analysis.measures.table import DOMAIN, VCPU, Column, Quality, Table, times_columns
from xtrace.analysis.measures.upcall_bounds import without_event
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
    "forced_inside_count": Metric.UPCALL_FORCED,
    "block_call_count": Metric.BLOCK_CALL,
    "block_without_block_count": Metric.BLOCK_WITHOUT_BLOCK,
}
_PV_KINDS = (Metric.IRET_TRAP, Metric.IRET_UPCALL, Metric.IRET_OPEN, Metric.BLOCK_CALL)


def upcalls(measures: Measures) -> Columns:
    """Return the upcalls of PV guests by vCPU, worst p99 first."""
    vcpus = keys_of(*(measures.counts(metric) for metric in _PV_KINDS))
    counts = {name: counted(vcpus, measures.counts(metric)) for name, metric in _COUNTS.items()}
    least = counts["upcall_least_count"]
    most = least + counts["iret_open_count"] - without_event(measures, vcpus)
    hypercalls = measures.counts(Metric.HYPERCALL)
    forced = counted(vcpus, hypercalls.where(hypercalls["b"] == int(Hypercall.XEN_VERSION)))
    entry = measures.times(Metric.RUNNING_TO_GUEST)
    forced_times = measures.times(Metric.FORCED_CALLBACK)
    table = Columns(
        {
            "a": vcpus,
            **counts,
            "upcall_most_count": most,
            "xen_version_count": forced,
            "forced_callback_count": counted(vcpus, forced_times),
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
    return with_vcpu(table).sorted_by("upcall_most_p99_cycles", descending=True)


def injections(measures: Measures) -> Columns:
    """Return interrupt injections into HVM and PVH guests by vCPU and vector, most frequent first."""
    table = measures.counts(Metric.INJECTION).only(["a", "b", "count"]).renamed({"count": "injection_count"})
    keys = table.only(["a", "b"])
    for name, metric in (
        ("injection_to_entry", Metric.INJECTION_TO_ENTRY),
        ("window_wait", Metric.INTR_WINDOW_WAIT),
        ("upcall", Metric.HVM_UPCALL),
    ):
        times = measures.times_by_b(metric)
        places = matched(keys, times)
        table = table.having(**{f"{name}_count": counts_at(times, places, "count")})
        table = table.having(**taken(times, places, tail_columns(name, TAIL[1:])))
    table = table.renamed({"b": "vector"}).having(
        window_wait_ratio=share(table["window_wait_count"], table["injection_count"]),
        injection_per_s=measures.per_second(table["injection_count"]),
    )
    return with_vcpu(table).sorted_by("injection_count", descending=True)


TABLES = (
    Table(
        "upcalls",
        "upcalls",
        "PV upcalls: those after a block (least), and all irets that may end one (most)",
        upcalls,
        (
            DOMAIN,
            VCPU,
            Column(
                "upcall_least_count", _INFERRED, "irets that end the upcall after a block and wake", "least"
            ),
            Column(
                "upcall_most_count",
                _BOUNDED,
                "upcalls that ended in the trace: upcall_least_count plus iret_open_count, less the irets "
                "before which no event can have been pending since the last upcall, where the trace has all "
                "that sets one pending",
                "most",
                is_most=True,
            ),
            *times_columns(
                "upcall_least",
                _INFERRED,
                "of the upcalls after a block: first guest record after the run starts, to the iret; a lower "
                "bound of the upcall's time, unless another upcall began in it and ended with that iret",
                {"p50": "p50 least"},
            ),
            *times_columns(
                "upcall_most",
                _BOUNDED,
                "of the upcalls after a block: start of the run, to the iret; an upper bound of the upcall's "
                "time, and not one of upcalls that begin while the vCPU runs",
                {"p50": "p50 most", "p99": "p99 most"},
            ),
            Column(
                "nested_count", _INFERRED, "upcalls after a block during which the guest trapped", "nested"
            ),
            Column(
                "xen_version_count",
                _INFERRED,
                "xen_version hypercalls, taken as forced callbacks: all of a guest's are, of dom0's some are "
                "queries; the table hypercalls counts the calls exactly",
                "forced",
                (PV,),
                Reach.RECORDS,
            ),
            Column(
                "forced_callback_count", _INFERRED, "xen_version calls whose next iret is an open one", None
            ),
            Column("block_call_count", _EXACT, "block hypercalls", None, (PV,), Reach.RECORDS),
            Column(
                "block_without_block_count",
                _INFERRED,
                "block hypercalls that found an event pending",
                "pending",
            ),
            Column("block_without_block_ratio", _INFERRED, "their share of all block hypercalls", None),
            Column("upcall_least_per_s", _INFERRED, "upcall_least_count per second", None),
            Column("upcall_most_per_s", _BOUNDED, "upcall_most_count per second", None, is_most=True),
            Column("xen_version_per_s", _INFERRED, "xen_version_count per second", None, (PV,)),
            Column(
                "iret_trap_count", _INFERRED, "irets that return from a recorded trap or page fault", None
            ),
            Column(
                "iret_open_count",
                _INFERRED,
                "irets from an upcall taken while running or a system call",
                None,
            ),
            Column(
                "iret_ambiguous_count",
                _INFERRED,
                "part of iret_trap_count: the guest switched stacks between the trap and the iret",
                None,
            ),
            Column(
                "preempted_count",
                _EXACT,
                "upcalls after a block that are left out because the vCPU was descheduled during them",
                None,
            ),
            Column(
                "forced_inside_count",
                _EXACT,
                "upcalls after a block that are left out because a callback was forced during them: the "
                "iret may be that of the upcall inside",
                None,
            ),
            Column(
                "running_to_entry_most_count", _EXACT, "runs after a block that have a guest record", None
            ),
            *times_columns(
                "running_to_entry_most",
                _BOUNDED,
                "start of the run to the first guest record: the upcall began by then",
            ),
            *times_columns(
                "forced_to_iret", _INFERRED, "xen_version to the next iret, where that is an open one"
            ),
        ),
        needs=(PV, RUNSTATES, SWITCHES),
        reach=Reach.VCPU,
        bias="counts: the truth is between least and most; times: only after a block",
        measured="against the logs of the lab's own guest (samples/, tests/lab/truth.py; emulated; it has "
        "neither system calls nor traps, so the upper count is the true one there). Its own iret "
        "ended each of all 5,649 upcalls that it logged; the iret's record came 1,722 cycles "
        "(p95 5,415) after the end of the handler. 3,140 of these count as least, none as the end "
        "of a trap. In all 3,140 upcalls the handler began within the bounds: the upper bound is "
        "3.1 times the handler's own time (p5 1.7, p95 5.7, more where Xen or the emulator did "
        "not let it run), the lower bound 0.87 times (p5 0.70, p95 0.91). A forced callback's "
        "handler began 2,758 cycles (p95 15,300) after the hypercall",
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
            Column("injection_count", _EXACT, "INJ_VIRQ records", "inj", (HANDLERS,), Reach.RECORDS),
            Column("injection_per_s", _EXACT, "injections per second", "/s", (HANDLERS,)),
            Column("injection_to_entry_count", _EXACT, "injections followed by a VM entry", None),
            *times_columns(
                "injection_to_entry",
                _BOUNDED,
                "VMEXIT before the injection to VMENTRY; the INJ_VIRQ record between them has no TSC",
                {"p50": "entry p50", "p99": "p99"},
            ),
            Column(
                "window_wait_count",
                _EXACT,
                "injections that waited for an interrupt window, with the VM entry after them",
                "waits",
            ),
            Column("window_wait_ratio", _EXACT, "their share of all injections", None),
            *times_columns(
                "window_wait",
                _BOUNDED,
                "VMEXIT before an INTR_WINDOW without a queued vector, to the VMENTRY after the INJ_VIRQ: "
                "neither of the two has a TSC",
                {"p99": "wait p99"},
            ),
            Column(
                "upcall_count", _INFERRED, "VM entries after an injection with a VM exit after them", None
            ),
            *times_columns(
                "upcall", _INFERRED, "VMENTRY after the injection to the next VMEXIT", {"p50": "upcall p50"}
            ),
        ),
        needs=(HANDLERS, EXITS, RUNSTATES),
        reach=Reach.VCPU,
    ),
)
