"""Tables of guest activity: hypercalls, traps, grants, VM exits, interrupts, C-states and guest RIPs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from xtrace.analysis.columns import Columns, joined, text
from xtrace.analysis.coverage.needs import EXITS, HANDLERS, IDLE, IRQS, MEMORY, PV, RUNSTATES, Reach
from xtrace.analysis.measures.lookup import TAIL, merged, with_vcpu
from xtrace.analysis.measures.measures import Measures
from xtrace.analysis.measures.table import DOMAIN, VCPU, Column, Quality, Table
from xtrace.analysis.state_machine.keys import high_of, low_of
from xtrace.analysis.state_machine.metrics import Metric, RipSource
from xtrace.probes.catalog import by_id, exits, names
from xtrace.probes.xen_abi import Hypercall

_EXACT = Quality.EXACT
_COUNT = Column("count", _EXACT, "number of records", "count", reach=Reach.RECORDS)
_PER_S = Column("per_s", _EXACT, "records per second", "/s")
_EXIT_COUNT = replace(_COUNT, needs=(EXITS,))
_EXIT_PER_S = replace(_PER_S, needs=(EXITS,))
_COMMANDS: dict[int, Mapping[int, str]] = {
    Hypercall.SCHED_OP: names.SCHED_OPS,
    Hypercall.SCHED_OP_COMPAT: names.SCHED_OPS,
    Hypercall.VCPU_OP: names.VCPU_OPS,
    Hypercall.GRANT_TABLE_OP: names.GRANT_TABLE_OPS,
}
_WINDOWS = {0: "queue one more", 1: "an event waits"}


def hypercalls(measures: Measures) -> Columns:
    """Return hypercalls and multicall entries by vCPU and number, most frequent first."""
    calls = measures.counts(Metric.HYPERCALL).having(kind="call")
    subcalls = measures.counts(Metric.SUBCALL).having(kind="subcall")
    table = joined([calls, subcalls]).renamed({"b": "op"})
    return _ranked(measures, table.having(name=text(map(_hypercall_name, table["op"].tolist()))))


def commands(measures: Measures) -> Columns:
    """Return the commands of sched_op, vcpu_op and grant_table_op, most frequent first."""
    table = measures.counts(Metric.COMMAND)
    ops, codes = high_of(table["b"]), low_of(table["b"])
    table = table.having(
        op=ops,
        name=text(map(_hypercall_name, ops.tolist())),
        command=text(map(_command_name, ops.tolist(), codes.tolist())),
    )
    return _ranked(measures, table)


def traps(measures: Measures) -> Columns:
    """Return traps, faults and emulations of PV guests, most frequent first."""
    trapped = measures.counts(Metric.TRAP)
    trapped = trapped.having(
        event="trap",
        what=text(names.TRAPS.get(vector, f"vector {vector}") for vector in trapped["b"].tolist()),
    )
    events = measures.counts(Metric.PV_EVENT)
    events = events.where(~np.isin(events["b"], (1, 3, 13, 14)))
    events = events.having(event=text(map(_pv_event_name, events["b"].tolist())), what="")
    return _ranked(measures, joined([trapped, events]))


def memory(measures: Measures) -> Columns:
    """Return grant and memory records by the running vCPU and the domain whose pages they are about."""
    table = measures.counts(Metric.MEMORY)
    events = high_of(table["b"]).tolist()
    return _ranked(measures, table.having(event=text(map(_event_name, events)), target=low_of(table["b"])))


def vm_exits(measures: Measures) -> Columns:
    """Return VM exits by vCPU and reason, most cycles first."""
    timed = measures.times_by_b(Metric.HVM_EXIT).renamed({"count": "timed_count"})
    untimed = measures.counts(Metric.EXIT_WITHOUT_TIME).only(["a", "b", "count"])
    untimed = untimed.renamed({"count": "untimed_count"})
    counts = ("timed_count", "untimed_count", "sum_cycles")
    table = merged(["a", "b"], timed, untimed, counts=counts).renamed({"b": "reason"})
    table = table.having(count=table["timed_count"] + table["untimed_count"])
    reasons = table["reason"].tolist()
    vendor = exits.vendor_of(reasons)
    table = table.having(
        name=text(_exit_name(vendor, reason) for reason in reasons),
        share_ratio=measures.of_span(table["sum_cycles"]),
        per_s=measures.per_second(table["count"]),
    )
    return with_vcpu(table).sorted_by("sum_cycles", descending=True)


def hvm_events(measures: Measures) -> Columns:
    """Return the records of HVM handlers, most frequent first."""
    table = measures.counts(Metric.HVM_EVENT)
    table = table.having(event=text(map(_event_name, table["b"].tolist())), detail="")
    # These are counted by what they were about.
    table = table.where((table["event"] != "vmmcall") & (table["event"] != "intr_window"))
    calls = measures.counts(Metric.VMMCALL)
    calls = calls.having(
        event="vmmcall", detail=text(names.HYPERCALLS.get(op, str(op)) for op in calls["b"].tolist())
    )
    windows = measures.counts(Metric.INTR_WINDOW)
    windows = windows.having(event="intr_window", detail=text(map(_WINDOWS.get, windows["b"].tolist())))
    return _ranked(measures, joined([table, calls, windows]))


def irqs(measures: Measures) -> Columns:
    """Return interrupt handling times by irq and pCPU, most cycles first."""
    table = measures.times_by_b(Metric.IRQ_HANDLING).renamed({"a": "irq", "b": "pcpu"})
    table = table.having(per_s=measures.per_second(table["count"]))
    return table.sorted_by("sum_cycles", descending=True)


def idle_states(measures: Measures) -> Columns:
    """Return the time of each pCPU in each C-state, by pCPU and C-state."""
    table = measures.times_by_b(Metric.CSTATE).renamed({"a": "pcpu", "b": "cstate"})
    return table.having(
        share_ratio=measures.of_span(table["sum_cycles"]), per_s=measures.per_second(table["count"])
    )


def rip_samples(measures: Measures) -> Columns:
    """Return guest instruction pointers by vCPU and source, most frequent first."""
    table = measures.counts(Metric.RIP)
    sources = {int(source): source.name.lower() for source in RipSource}
    table = table.having(
        source=text(map(sources.get, high_of(table["a"]).tolist())),
        rip=text(f"0x{rip % 2**64:x}" for rip in table["b"].tolist()),
    )
    return _ranked(measures, table)


def _ranked(measures: Measures, table: Columns) -> Columns:
    table = table.having(per_s=measures.per_second(table["count"]))
    return with_vcpu(table).sorted_by("count", descending=True)


def _hypercall_name(op: int) -> str:
    return names.HYPERCALLS.get(op, "unknown")


def _command_name(op: int, command: int) -> str:
    return _COMMANDS.get(op, {}).get(command, str(command))


def _pv_event_name(minor: int) -> str:
    found = by_id(0x201000 | minor) or by_id(0x201100 | minor)
    return found[-1].name.removeprefix("pv_") if found else f"0x{minor:02x}"


def _exit_name(vendor: exits.Vendor | None, reason: int) -> str:
    return (vendor and exits.exit_name(vendor, reason)) or str(reason)


def _event_name(event: int) -> str:
    found = by_id(event)
    return found[-1].name if found else f"0x{event:x}"


def _times(what: str, shown: dict[str, str]) -> tuple[Column, ...]:
    return tuple(
        Column(name, _EXACT, f"{what}: {name.removesuffix('_cycles')}", shown.get(name))
        for name in ("mean_cycles", *TAIL[1:])
    )


_SHOWN = {"mean_cycles": "mean", "p50_cycles": "p50", "p95_cycles": "p95", "max_cycles": "max"}
_SUM = Column("sum_cycles", _EXACT, "total time", "total")
_SHARE = Column("share_ratio", _EXACT, "share of the trace's span", "share")

TABLES = (
    Table(
        "hypercalls",
        "hypercalls",
        "Hypercalls",
        hypercalls,
        (
            DOMAIN,
            VCPU,
            Column("op", Quality.KEY, "hypercall number", "op"),
            Column("name", Quality.KEY, "hypercall name", "name"),
            Column("kind", Quality.KEY, "call, or subcall for a multicall entry", "kind"),
            _COUNT,
            _PER_S,
        ),
        needs=(PV,),
        reach=Reach.VCPU,
    ),
    Table(
        "commands",
        "hypercalls",
        "Commands of sched_op, vcpu_op and grant_table_op",
        commands,
        (
            DOMAIN,
            VCPU,
            Column("op", Quality.KEY, "hypercall number", None),
            Column("name", Quality.KEY, "hypercall name", "hypercall"),
            Column("command", Quality.KEY, "command, the hypercall's first argument", "command"),
            _COUNT,
            _PER_S,
        ),
        needs=(PV,),
        reach=Reach.VCPU,
    ),
    Table(
        "traps",
        "hypercalls",
        "Traps, faults and emulations of PV guests",
        traps,
        (
            DOMAIN,
            VCPU,
            Column("event", Quality.KEY, "event name", "event"),
            Column("what", Quality.KEY, "trap name or vector; empty for other events", "trap"),
            _COUNT,
            _PER_S,
        ),
        needs=(PV,),
        reach=Reach.VCPU,
    ),
    Table(
        "memory",
        "hypercalls",
        "Grants and memory",
        memory,
        (
            DOMAIN,
            VCPU,
            Column("event", Quality.KEY, "event name", "event"),
            Column("target", Quality.KEY, "domain whose pages the record is about", "for domain"),
            _COUNT,
            _PER_S,
        ),
        needs=(MEMORY,),
        reach=Reach.VCPU,
        bias="domain and vcpu are what was running on the pCPU; domain 32768 is unknown",
    ),
    Table(
        "vm_exits",
        "hvm",
        "VM exits, and the time to the next VM entry",
        vm_exits,
        (
            DOMAIN,
            VCPU,
            Column("reason", Quality.KEY, "exit reason", None),
            Column("name", Quality.KEY, "name of the reason; VMX or SVM, by which reasons occur", "reason"),
            _EXIT_COUNT,
            _EXIT_PER_S,
            Column("timed_count", _EXACT, "exits with a measured time", None),
            _SUM,
            _SHARE,
            *_times("VMEXIT to the vCPU's next VMENTRY, or until it leaves the pCPU", _SHOWN),
        ),
        needs=(EXITS, RUNSTATES),
        reach=Reach.VCPU,
    ),
    Table(
        "hvm_events",
        "hvm",
        "HVM handler events",
        hvm_events,
        (
            DOMAIN,
            VCPU,
            Column("event", Quality.KEY, "event name", "event"),
            Column("detail", Quality.KEY, "vmmcall: the hypercall; intr_window: why it was opened", "detail"),
            _COUNT,
            _PER_S,
        ),
        needs=(HANDLERS,),
        reach=Reach.VCPU,
    ),
    Table(
        "irqs",
        "irqs",
        "Interrupts handled by Xen",
        irqs,
        (
            Column("irq", Quality.KEY, "Xen's irq number", "irq"),
            Column("pcpu", Quality.KEY, "physical CPU", "pcpu"),
            _COUNT,
            _PER_S,
            _SUM,
            *_times("handler entry to exit", _SHOWN),
        ),
        needs=(IRQS,),
        reach=Reach.PCPU,
    ),
    Table(
        "idle_states",
        "irqs",
        "pCPU C-states",
        idle_states,
        (
            Column("pcpu", Quality.KEY, "physical CPU", "pcpu"),
            Column("cstate", Quality.KEY, "C-state", "C-state"),
            _COUNT,
            _PER_S,
            _SUM,
            _SHARE,
            *_times("residency", _SHOWN),
        ),
        needs=(IDLE,),
        reach=Reach.PCPU,
    ),
    Table(
        "rip_samples",
        "rips",
        "Guest instruction pointers by source",
        rip_samples,
        (
            DOMAIN,
            VCPU,
            Column(
                "source",
                Quality.KEY,
                "what recorded it; xenctx: sampled while paused; perf_clock: dom0's software clock",
                "source",
            ),
            Column("rip", Quality.KEY, "guest instruction pointer", "rip"),
            _COUNT,
            _PER_S,
        ),
        bias="entries into Xen; xenctx: where vCPUs block; perf_clock: samples in time",
    ),
)
