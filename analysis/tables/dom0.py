"""Tables of event delivery inside dom0: upcalls, port handlers, late EOIs, sends, softirqs and samples.

bpf programs in dom0's kernel counted all this while the trace was recorded.  Times are in ns of dom0's
monotonic clock and include the programs' own overhead.  Xen may hold the clock of one vCPU back to that of
another: durations that read 0 are counted separately and enter no other figure.  A table is empty where
the capture has no such data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from xtrace.analysis.columns import Columns, joined
from xtrace.analysis.measures.lookup import merged, share, whole
from xtrace.analysis.measures.measures import Measures
from xtrace.analysis.measures.table import DOMAIN, VCPU, Column, Quality, Table
from xtrace.analysis.summary.histogram import summarise
from xtrace.probes.bpf.abi import Kind
from xtrace.probes.xen_abi import DOM0

_EXACT, _INFERRED, _KEY = Quality.EXACT, Quality.INFERRED, Quality.KEY
_STATISTICS = ("count", "sum_ns", "p50_ns", "p95_ns", "p99_ns", "max_ns", "zero_count")
_BIAS = "dom0 only, measured by bpf; includes bpf's own overhead"


def upcalls(measures: Measures) -> Columns:
    """Return upcall counts and durations by dom0 vCPU."""
    return _finished(measures, _times(measures, Kind.UPCALL, ("vcpu",)))


def ports(measures: Measures) -> Columns:
    """Return handler times by dom0 port and the vCPU that handled it, most time first."""
    keys = ("id", "name", "vcpu")
    table = merged(
        keys,
        _times(measures, Kind.PORT_HANDLER, keys),
        _times(measures, Kind.DISPATCH, keys, "dispatch_"),
    )
    return _finished(measures, table).renamed({"id": "port"}).sorted_by("sum_ns", descending=True)


def irqs(measures: Measures) -> Columns:
    """Return handler, late EOI and wakeup times by dom0 interrupt, most handled first."""
    keys = ("id", "name")
    table = merged(
        keys,
        _times(measures, Kind.IRQ_HANDLER, keys),
        _times(measures, Kind.LATE_EOI, keys, "eoi_"),
        _times(measures, Kind.WAKE_TO_SWITCH, keys, "wake_to_switch_"),
        _times(measures, Kind.SEND, keys, "send_"),
        _times(measures, Kind.DEVICE_EVENT, keys, "device_event_"),
    )
    table = _finished(measures, table).renamed({"id": "irq"})
    return table.sorted_by("count", "send_count", descending=True)


def ipis(measures: Measures) -> Columns:
    """Return the IPIs between dom0's vCPUs by name and sending vCPU, most sent first."""
    table = _finished(measures, _times(measures, Kind.IPI, ("name", "vcpu")))
    return table.sorted_by("count", descending=True)


def work(measures: Measures) -> Columns:
    """Return softirqs, privcmd ioctls of dom0's tools and local interrupts, most time first."""
    parts = [
        _times(measures, kind, ("id", "name")).having(what=what)
        for kind, what in (
            (Kind.SOFTIRQ, "softirq"),
            (Kind.PRIVCMD, "privcmd"),
            (Kind.VECTOR, "local irq"),
        )
    ]
    table = _finished(measures, joined(parts))
    table = table.having(name=np.where(table["name"] != "", table["name"], table["id"].astype(str)))
    return table.sorted_by("sum_ns", descending=True)


def samples(measures: Measures) -> Columns:
    """Return the instruction pointer samples by function, most frequent first."""
    found = measures.partial.dom0_samples
    found = found.having(masked_count=np.where(found["masked"] == 1, found["count"], 0))
    table = found.sums(["space", "name"], ["count", "masked_count"])
    table = table.having(
        share_ratio=table["count"] / (table["count"].sum() or np.nan),
        masked_ratio=share(table["masked_count"], table["count"]),
        function=np.where(table["name"] != "", table["name"], "(no symbol)"),
    )
    return table.sorted_by("count", descending=True)


def losses(measures: Measures) -> Columns:
    """Return how complete the counts are: one row, summed over the captures, or none without a capture."""
    facts = measures.partial.dom0_facts
    tallies = measures.partial.dom0_tallies
    counts = tallies["count"] + tallies["zero_count"]
    is_known = len(tallies) or len(measures.partial.dom0_samples) or int(facts["sample_dropped"].sum())
    row = {
        "span_ns": int(facts["span_ns"].sum()),
        "upcall_count": int(counts[tallies["kind"] == Kind.UPCALL].sum()),
        "port_handler_count": int(counts[tallies["kind"] == Kind.PORT_HANDLER].sum()),
        "irq_handler_count": int(counts[tallies["kind"] == Kind.IRQ_HANDLER].sum()),
        "interrupt_count": int(facts["interrupt_count"].sum()),
        "unpaired_count": int(facts["unpaired"].sum()),
        "not_counted_count": int(facts["no_tally"].sum()),
        "not_in_histogram_count": int(facts["no_bucket"].sum()),
        "dropped_event_count": int(facts["dropped"].sum()),
        "sample_count": int(facts["sample_count"].sum()),
        "dropped_sample_count": int(facts["sample_dropped"].sum()),
    }
    return Columns(row, count=1 if is_known else 0)


def _times(measures: Measures, kind: Kind, by: Sequence[str], prefix: str = "") -> Columns:
    """Return statistics of a kind by columns of the tallies, NaN for what was not timed.

    Args:
        prefix: of the names of the statistics.
    """
    tallies = _of_kind(measures.partial.dom0_tallies, kind)
    buckets = _of_kind(measures.partial.dom0_buckets, kind)
    timed = tallies.where(tallies["count"] > 0).renamed(_TO_CYCLES)
    found = summarise(timed, buckets, by).renamed(_FROM_CYCLES)
    table = merged(by, tallies.sums(by, ["zero_count"]), found).only([*by, *_STATISTICS])
    return table.renamed({name: f"{prefix}{name}" for name in _STATISTICS})


def _of_kind(rows: Columns, kind: Kind) -> Columns:
    return rows.where(rows["kind"] == kind)


_TO_CYCLES = {name: name.replace("_ns", "_cycles") for name in ("sum_ns", "min_ns", "max_ns")}
_FROM_CYCLES = {name.replace("_ns", "_cycles"): name for name in _STATISTICS}


def _finished(measures: Measures, table: Columns) -> Columns:
    """Return ``table`` with rates, shares and the domain added; counts and sums of what is missing are 0."""
    added = {name: whole(table[name]) for name in table.names if name.endswith(("count", "sum_ns"))}
    # A maximum may be NaN, so it is a float in all rows of all tables.
    added |= {name: table[name].astype(float) for name in table.names if name.endswith("max_ns")}
    span_s = float(measures.partial.dom0_facts["span_ns"].sum()) / 1e9 or np.nan
    return table.having(
        **added,
        domain=DOM0,
        per_s=added["count"] / span_s,
        share_ratio=added["sum_ns"] / (span_s * 1e9),
    )


def _columns(prefix: str, meaning: str, headings: dict[str, str]) -> tuple[Column, ...]:
    names = {name: f"{prefix}_{name}" if prefix else name for name in _STATISTICS}
    return tuple(
        Column(names[name], _EXACT, f"{meaning}: {text}", headings.get(name))
        for name, text in (
            ("count", "count, without durations that read 0"),
            ("p50_ns", "median"),
            ("p95_ns", "p95"),
            ("p99_ns", "p99"),
            ("max_ns", "longest"),
            ("sum_ns", "total"),
            ("zero_count", "durations that read 0 because the clock was held back"),
        )
    )


_SOME = {"count": "count", "p50_ns": "p50", "p99_ns": "p99"}
_WAKES = {"count": "wakes", "p50_ns": "p50", "p99_ns": "p99"}
_TO = {"p50_ns": "to p50", "p99_ns": "to p99"}
_ALL = _SOME | {"p95_ns": "p95", "max_ns": "max"}
_RATE = Column("per_s", _EXACT, "count per second of the recording", "/s")
_SHARE = Column("share_ratio", _EXACT, "total time as a share of the recording", "share")
_NAME = Column("name", _KEY, "name in dom0's kernel", "name")

_LOSS_COLUMNS = (
    Column("span_ns", _EXACT, "length of the bpf recording", "span"),
    Column("upcall_count", _EXACT, "upcalls counted", "upcalls"),
    Column("port_handler_count", _EXACT, "port handler calls, counted by a kprobe", "ports"),
    Column(
        "irq_handler_count",
        _EXACT,
        "irq handler calls, counted by a raw tracepoint, which is never skipped",
        "handlers",
    ),
    Column(
        "interrupt_count",
        _EXACT,
        "numbered interrupts in /proc/interrupts; should equal irq_handler_count",
        "by /proc",
    ),
    Column("unpaired_count", _EXACT, "entries without an exit, or exits without an entry", "unpaired"),
    Column(
        "not_counted_count", _EXACT, "events not counted because the table of ids was full", "not counted"
    ),
    Column("not_in_histogram_count", _EXACT, "durations counted but missing from a full histogram", None),
    Column(
        "dropped_event_count", _EXACT, "streamed events dropped because a ring was full", "events dropped"
    ),
    Column("sample_count", _EXACT, "number of samples", "samples"),
    Column("dropped_sample_count", _EXACT, "samples dropped because a ring was full", "samples dropped"),
)


def _table(
    name: str,
    title: str,
    make: Callable[[Measures], Columns],
    columns: tuple[Column, ...],
    bias: str = "",
) -> Table[Measures]:
    return Table(name, "dom0", title, make, columns, bias)


TABLES = (
    _table(
        "dom0_upcalls",
        "dom0's upcalls, entry to return",
        upcalls,
        (
            DOMAIN,
            VCPU,
            *_columns("", "upcalls", _ALL | {"count": "upcalls", "zero_count": "read 0"}),
            _RATE,
            _SHARE,
        ),
        bias=_BIAS,
    ),
    _table(
        "dom0_ports",
        "dom0's ports: time from upcall to handler (to), and in the handler",
        ports,
        (
            DOMAIN,
            VCPU,
            Column("port", _KEY, "event channel of dom0", "port"),
            _NAME,
            *_columns("", "port handler", _SOME | {"max_ns": "max"}),
            _RATE,
            _SHARE,
            *_columns("dispatch", "upcall entry to handler entry", _TO),
        ),
        bias=_BIAS,
    ),
    _table(
        "dom0_irqs",
        "dom0's interrupts: handler, late EOI, and the woken thread",
        irqs,
        (
            Column("irq", _KEY, "Linux irq number", "irq"),
            _NAME,
            *_columns("", "handler", _SOME),
            replace(_RATE, heading=None),
            replace(_SHARE, heading=None),
            *_columns("eoi", "handler entry to the late EOI", {"count": "eois", "p99_ns": "p99"}),
            *_columns("wake_to_switch", "wakeup of a thread until it runs", _WAKES),
            Column("send_count", _EXACT, "events sent through this irq", "sends"),
            Column("device_event_count", _EXACT, "events delivered to /dev/xen/evtchn", None),
        ),
        bias=_BIAS,
    ),
    _table(
        "dom0_ipis",
        "IPIs between dom0's vCPUs",
        ipis,
        (
            DOMAIN,
            VCPU,
            _NAME,
            Column("count", _EXACT, "IPIs sent", "sent"),
            _RATE,
        ),
    ),
    _table(
        "dom0_work",
        "dom0's softirqs, tool hypercalls (privcmd) and local interrupts",
        work,
        (
            Column("what", _KEY, "softirq, privcmd or local irq", "what"),
            _NAME,
            *_columns("", "entry to exit", _ALL),
            _RATE,
            _SHARE,
        ),
        bias=_BIAS,
    ),
    _table(
        "dom0_samples",
        "dom0 samples by function",
        samples,
        (
            Column("space", _KEY, "kernel, user or xen", "where"),
            Column("function", _KEY, "kernel or Xen function; for user, the process name", "function"),
            Column("count", _EXACT, "number of samples", "samples"),
            Column("share_ratio", _INFERRED, "share of all samples, taken as the share of time", "share"),
            Column("masked_count", _EXACT, "kernel samples with interrupts off", None),
            Column("masked_ratio", _INFERRED, "share of these samples with interrupts off", "masked"),
        ),
        bias="a software clock samples code with interrupts off only where it turns them on",
    ),
    _table("dom0_losses", "Completeness of the bpf counts and of the samples", losses, _LOSS_COLUMNS),
)  # fmt: skip
