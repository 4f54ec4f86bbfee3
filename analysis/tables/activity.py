"""What did guests ask of Xen: hypercalls, traps, emulations, memory, VM exits, and where they were then?"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from xtrace.analysis.measures.lookup import with_vcpu
from xtrace.analysis.measures.measures import Measures
from xtrace.analysis.measures.table import DOMAIN, TAIL, VCPU, Column, Quality, Table
from xtrace.analysis.state_machine.keys import high_of, low_of
from xtrace.analysis.state_machine.metrics import Metric, RipSource
from xtrace.probes.catalog import by_id, exits, names
from xtrace.probes.xen_abi import Hypercall

_EXACT = Quality.EXACT
_COUNT = Column("count", _EXACT, "records", "count")
_PER_S = Column("per_s", _EXACT, "a second", "/s")
_COMMANDS: dict[int, Mapping[int, str]] = {
    Hypercall.SCHED_OP: names.SCHED_OPS,
    Hypercall.SCHED_OP_COMPAT: names.SCHED_OPS,
    Hypercall.VCPU_OP: names.VCPU_OPS,
    Hypercall.GRANT_TABLE_OP: names.GRANT_TABLE_OPS,
}


def hypercalls(measures: Measures) -> pd.DataFrame:
    """Return hypercalls and multicall entries by vCPU and number, most first."""
    calls = measures.counts(Metric.HYPERCALL).assign(kind="call")
    subcalls = measures.counts(Metric.SUBCALL).assign(kind="subcall")
    table = pd.concat((calls, subcalls)).rename(columns={"b": "op"})
    table["name"] = table["op"].map(lambda op: names.HYPERCALLS.get(int(op), "unknown"))
    return _ranked(measures, table)


def commands(measures: Measures) -> pd.DataFrame:
    """Return the commands of sched_op, vcpu_op and grant_table_op, most first."""
    table = measures.counts(Metric.COMMAND)
    op, command = high_of(table["b"]), low_of(table["b"])
    label = [_COMMANDS[int(o)].get(int(c), str(c)) for o, c in zip(op, command, strict=True)]
    table = table.assign(op=op, name=op.map(lambda o: names.HYPERCALLS.get(int(o), "unknown")), command=label)
    return _ranked(measures, table)


def traps(measures: Measures) -> pd.DataFrame:
    """Return traps, faults and emulations of PV guests, most first."""
    trapped = measures.counts(Metric.TRAP)
    trapped = trapped.assign(
        event="trap", what=trapped["b"].map(lambda vector: names.TRAPS.get(int(vector), f"vector {vector}"))
    )
    events = measures.counts(Metric.PV_EVENT)
    events = events[~events["b"].isin((1, 3, 13, 14))].assign(what="")
    events["event"] = events["b"].map(_pv_event_name)
    return _ranked(measures, pd.concat((trapped, events)))


def memory(measures: Measures) -> pd.DataFrame:
    """Return grant and memory records by the vCPU that ran and the domain they concern."""
    table = measures.counts(Metric.MEMORY)
    table = table.assign(
        event=high_of(table["b"]).map(lambda event: _event_name(int(event))), target=low_of(table["b"])
    )
    return _ranked(measures, table)


def vm_exits(measures: Measures) -> pd.DataFrame:
    """Return VM exits by vCPU and reason, most cycles first."""
    table = measures.times_by_b(Metric.HVM_EXIT).rename(columns={"b": "reason"}).copy()
    vendor = exits.vendor_of(int(reason) for reason in table["reason"])
    table["name"] = [_exit_name(vendor, int(reason)) for reason in table["reason"]]
    table["share_ratio"] = measures.of_span(table["sum_cycles"])
    table["per_s"] = measures.per_second(table["count"])
    return with_vcpu(table).sort_values("sum_cycles", ascending=False, kind="stable")


def hvm_events(measures: Measures) -> pd.DataFrame:
    """Return the records of HVM handlers, most first."""
    table = measures.counts(Metric.HVM_EVENT)
    table = table.assign(event=table["b"].map(lambda event: _event_name(int(event))), detail="")
    calls = measures.counts(Metric.VMMCALL)
    calls = calls.assign(
        event="vmmcall", detail=calls["b"].map(lambda op: names.HYPERCALLS.get(int(op), str(op)))
    )
    windows = measures.counts(Metric.INTR_WINDOW)
    windows = windows.assign(
        event="intr_window", detail=windows["b"].map({0: "queue one more", 1: "an event waits"})
    )
    whole = table[~table["event"].isin(("vmmcall", "intr_window"))]
    return _ranked(measures, pd.concat((whole, calls, windows)))


def irqs(measures: Measures) -> pd.DataFrame:
    """Return the handling of interrupts by irq and pCPU, most cycles first."""
    table = measures.times_by_b(Metric.IRQ_HANDLING).rename(columns={"a": "irq", "b": "pcpu"})
    table["per_s"] = measures.per_second(table["count"])
    return table.sort_values("sum_cycles", ascending=False, kind="stable")


def idle_states(measures: Measures) -> pd.DataFrame:
    """Return the time of each pCPU by C-state."""
    table = measures.times_by_b(Metric.CSTATE).rename(columns={"a": "pcpu", "b": "cstate"})
    table["share_ratio"] = measures.of_span(table["sum_cycles"])
    table["per_s"] = measures.per_second(table["count"])
    return table.sort_values(["pcpu", "cstate"])


def rip_samples(measures: Measures) -> pd.DataFrame:
    """Return the guest instruction pointers that records carry, most first."""
    table = measures.counts(Metric.RIP)
    sources = {int(source): source.name.lower() for source in RipSource}
    table = table.assign(
        source=high_of(table["a"]).map(sources), rip=[f"0x{int(rip) % 2**64:x}" for rip in table["b"]]
    )
    return _ranked(measures, table)


def _ranked(measures: Measures, table: pd.DataFrame) -> pd.DataFrame:
    table = table.assign(per_s=measures.per_second(table["count"]))
    return with_vcpu(table).sort_values("count", ascending=False, kind="stable")


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
_SUM = Column("sum_cycles", _EXACT, "time", "total")
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
            Column("name", Quality.KEY, "its name", "name"),
            Column("kind", Quality.KEY, "call, or subcall for an entry of a multicall", "kind"),
            _COUNT,
            _PER_S,
        ),
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
            Column("name", Quality.KEY, "its name", "hypercall"),
            Column("command", Quality.KEY, "the command", "command"),
            _COUNT,
            _PER_S,
        ),
    ),
    Table(
        "traps",
        "hypercalls",
        "Traps, faults and emulations of PV guests",
        traps,
        (
            DOMAIN,
            VCPU,
            Column("event", Quality.KEY, "record", "event"),
            Column("what", Quality.KEY, "which trap", "trap"),
            _COUNT,
            _PER_S,
        ),
    ),
    Table(
        "memory",
        "hypercalls",
        "Grants and memory",
        memory,
        (
            DOMAIN,
            VCPU,
            Column("event", Quality.KEY, "record", "event"),
            Column("target", Quality.KEY, "domain whose pages it concerns", "for domain"),
            _COUNT,
            _PER_S,
        ),
        bias="domain and vcpu are those that ran on the pCPU; 32768 stands for unknown",
    ),
    Table(
        "vm_exits",
        "hvm",
        "VM exits, and the time until the entry",
        vm_exits,
        (
            DOMAIN,
            VCPU,
            Column("reason", Quality.KEY, "exit reason", None),
            Column("name", Quality.KEY, "its name; VMX or SVM told by the reasons that occur", "reason"),
            _COUNT,
            _PER_S,
            _SUM,
            _SHARE,
            *_times("VMEXIT to VMENTRY, or to where the vCPU waits for a pCPU", _SHOWN),
        ),
    ),
    Table(
        "hvm_events",
        "hvm",
        "What the exits did",
        hvm_events,
        (
            DOMAIN,
            VCPU,
            Column("event", Quality.KEY, "record", "event"),
            Column(
                "detail", Quality.KEY, "hypercall of a VMMCALL; what an interrupt window is for", "detail"
            ),
            _COUNT,
            _PER_S,
        ),
    ),
    Table(
        "irqs",
        "irqs",
        "Interrupts that Xen handled",
        irqs,
        (
            Column("irq", Quality.KEY, "Xen's irq number", "irq"),
            Column("pcpu", Quality.KEY, "physical CPU", "pcpu"),
            _COUNT,
            _PER_S,
            _SUM,
            *_times("entry to exit of the handler", _SHOWN),
        ),
    ),
    Table(
        "idle_states",
        "irqs",
        "C-states of the pCPUs",
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
    ),
    Table(
        "rip_samples",
        "rips",
        "Where guests were when a record told it",
        rip_samples,
        (
            DOMAIN,
            VCPU,
            Column(
                "source",
                Quality.KEY,
                "what made Xen record it; xenctx: asked for, pausing it; perf_clock: dom0, by its clock",
                "source",
            ),
            Column("rip", Quality.KEY, "guest instruction pointer", "rip"),
            _COUNT,
            _PER_S,
        ),
        bias="places that trap; by xenctx, where a paused vCPU blocks; by perf_clock: time",
    ),
)
