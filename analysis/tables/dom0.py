"""Tables of event delivery inside dom0: upcalls, port handlers, late EOIs, sends, softirqs and samples.

bpf programs in dom0's kernel counted all this while the trace was recorded.  Times are in ns of dom0's
monotonic clock and include the programs' own overhead.  Xen may hold the clock of one vCPU back to that of
another: durations that read 0 are counted separately and enter no other figure.  A table is empty where
the capture has no such data.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace

import numpy as np
import pandas as pd

from xtrace.analysis.measures.lookup import looked_up, share
from xtrace.analysis.measures.measures import Measures
from xtrace.analysis.measures.table import DOMAIN, VCPU, Column, Quality, Table
from xtrace.analysis.summary.histogram import summarise
from xtrace.probes.bpf.abi import Kind

_EXACT, _INFERRED, _KEY = Quality.EXACT, Quality.INFERRED, Quality.KEY
_STATISTICS = ("count", "sum_ns", "p50_ns", "p95_ns", "p99_ns", "max_ns", "zero_count")
_BIAS = "dom0 only, measured by bpf; includes bpf's own overhead"


def upcalls(measures: Measures) -> pd.DataFrame:
    """Return upcall counts and durations by dom0 vCPU."""
    table = _times(measures, Kind.UPCALL, ("vcpu",))
    return _finished(measures, table).sort_values("vcpu", kind="stable")


def ports(measures: Measures) -> pd.DataFrame:
    """Return handler times by dom0 port and the vCPU that handled it, most time first."""
    keys = ("id", "name", "vcpu")
    table = _times(measures, Kind.PORT_HANDLER, keys)
    table = _joined(table, _times(measures, Kind.DISPATCH, keys), keys, "dispatch")
    table = _finished(measures, table).rename(columns={"id": "port"})
    return table.sort_values("sum_ns", ascending=False, kind="stable")


def irqs(measures: Measures) -> pd.DataFrame:
    """Return handler, late EOI and wakeup times by dom0 interrupt, most handled first."""
    keys = ("id", "name")
    table = _times(measures, Kind.IRQ_HANDLER, keys)
    for kind, prefix in ((Kind.LATE_EOI, "eoi"), (Kind.WAKE_TO_SWITCH, "wake_to_switch")):
        table = _joined(table, _times(measures, kind, keys), keys, prefix)
    for kind, prefix in ((Kind.SEND, "send"), (Kind.DEVICE_EVENT, "device_event")):
        table = _joined(table, _times(measures, kind, keys), keys, prefix)
    table = _finished(measures, table).rename(columns={"id": "irq"})
    return table.sort_values(["count", "send_count"], ascending=False)


def ipis(measures: Measures) -> pd.DataFrame:
    """Return the IPIs between dom0's vCPUs by name and sending vCPU, most sent first."""
    table = _finished(measures, _times(measures, Kind.IPI, ("name", "vcpu")))
    return table.sort_values("count", ascending=False, kind="stable")


def work(measures: Measures) -> pd.DataFrame:
    """Return softirqs, privcmd ioctls of dom0's tools and local interrupts, most time first."""
    parts = [
        _times(measures, kind, ("id", "name")).assign(what=what)
        for kind, what in (
            (Kind.SOFTIRQ, "softirq"),
            (Kind.PRIVCMD, "privcmd"),
            (Kind.VECTOR, "local irq"),
        )
    ]
    table = _finished(measures, pd.concat(parts, ignore_index=True))
    table["name"] = table["name"].where(table["name"] != "", table["id"].astype(str))
    return table.sort_values("sum_ns", ascending=False, kind="stable")


def samples(measures: Measures) -> pd.DataFrame:
    """Return the instruction pointer samples by function, most frequent first."""
    frame = measures.partial.dom0_samples
    table = frame.groupby(["space", "name"], as_index=False)[["count"]].sum()
    masked = frame[frame["masked"] == 1].groupby(["space", "name"])["count"].sum()
    index = pd.MultiIndex.from_frame(table[["space", "name"]])
    table["masked_count"] = masked.reindex(index, fill_value=0).to_numpy(np.int64)
    table["share_ratio"] = table["count"] / (table["count"].sum() or np.nan)
    table["masked_ratio"] = share(table["masked_count"], table["count"])
    table["name"] = table["name"].where(table["name"] != "", "(no symbol)")
    return table.rename(columns={"name": "function"}).sort_values("count", ascending=False, kind="stable")


def losses(measures: Measures) -> pd.DataFrame:
    """Return how complete the counts are: one row, summed over the captures, or none without a capture."""
    facts = measures.partial.dom0_facts.sum(numeric_only=True)
    if not facts["captures"] and not facts["sample_count"]:
        return pd.DataFrame(columns=[column.name for column in _LOSS_COLUMNS])
    tallies = measures.partial.dom0_tallies
    counted = tallies.assign(all=tallies["count"] + tallies["zero_count"]).groupby("kind")["all"].sum()
    handled, ported = (int(counted.get(int(kind), 0)) for kind in (Kind.IRQ_HANDLER, Kind.PORT_HANDLER))
    row = {
        "span_ns": int(facts["span_ns"]),
        "upcall_count": int(counted.get(int(Kind.UPCALL), 0)),
        "port_handler_count": ported,
        "irq_handler_count": handled,
        "interrupt_count": int(facts["interrupt_count"]),
        "unpaired_count": int(facts["unpaired"]),
        "not_counted_count": int(facts["no_tally"]),
        "not_in_histogram_count": int(facts["no_bucket"]),
        "dropped_event_count": int(facts["dropped"]),
        "sample_count": int(facts["sample_count"]),
        "dropped_sample_count": int(facts["sample_dropped"]),
    }
    return pd.DataFrame([row])


def _times(measures: Measures, kind: Kind, by: Collection[str]) -> pd.DataFrame:
    """Return statistics of a kind by columns of the tallies; quantiles are NaN for what was not timed."""
    keys = list(by)
    tallies = measures.partial.dom0_tallies
    tallies = tallies[tallies["kind"] == int(kind)]
    buckets = measures.partial.dom0_buckets
    buckets = buckets[buckets["kind"] == int(kind)]
    if tallies.empty:
        empty = tallies[[*keys, "count", "sum_ns", "zero_count"]]
        return empty.assign(**{name: np.zeros(0) for name in _STATISTICS if name not in empty})
    # summarise() needs integer keys, and these contain names.
    codes, values = pd.factorize(pd.MultiIndex.from_frame(tallies[keys]), sort=True)
    place = np.zeros(0, np.int64)
    if len(buckets):
        place = values.get_indexer(pd.MultiIndex.from_frame(buckets[keys]))
    groups = tallies.assign(a=codes)
    table = pd.DataFrame(list(values), columns=keys)
    zeros = groups.groupby("a")["zero_count"].sum()
    found = summarise(
        groups[groups["count"] > 0].rename(columns=_TO_CYCLES),
        buckets.assign(a=place)[["a", "bucket", "count"]],
        ["a"],
    )
    row = np.arange(len(table))
    table["zero_count"] = zeros.reindex(row, fill_value=0).to_numpy(np.int64)
    statistics = looked_up(row, found, _FROM_CYCLES)
    for name, column in statistics.items():
        table[name] = column
    for name in ("count", "sum_ns"):
        table[name] = table[name].fillna(0).astype(np.int64)
    return table


_TO_CYCLES = {name: name.replace("_ns", "_cycles") for name in ("sum_ns", "min_ns", "max_ns")}
_FROM_CYCLES = {name: name.replace("_ns", "_cycles") for name in _STATISTICS if name != "zero_count"}


def _joined(table: pd.DataFrame, other: pd.DataFrame, keys: Collection[str], prefix: str) -> pd.DataFrame:
    """Return the outer join of ``table`` and ``other`` on ``keys``, the latter's statistics prefixed."""
    named = other.rename(columns={name: f"{prefix}_{name}" for name in _STATISTICS})
    joined = table.merge(named, on=list(keys), how="outer")
    for name in joined.columns:
        if name.endswith(("count", "sum_ns")):
            joined[name] = joined[name].fillna(0).astype(np.int64)
    return joined


def _finished(measures: Measures, table: pd.DataFrame) -> pd.DataFrame:
    """Return ``table`` with rates, shares and the domain added."""
    span_s = float(measures.partial.dom0_facts["span_ns"].sum()) / 1e9 or np.nan
    table = table.assign(domain=0)
    table["per_s"] = table["count"] / span_s
    table["share_ratio"] = table["sum_ns"] / (span_s * 1e9)
    return table


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
    Column("not_counted_count", _EXACT, "events not counted because the table of ids was full", None),
    Column("not_in_histogram_count", _EXACT, "durations counted but missing from a full histogram", None),
    Column("dropped_event_count", _EXACT, "streamed events dropped because a ring was full", "dropped"),
    Column("sample_count", _EXACT, "number of samples", "samples"),
    Column("dropped_sample_count", _EXACT, "samples dropped because a ring was full", None),
)


def _table(
    name: str,
    title: str,
    make: Callable[[Measures], pd.DataFrame],
    columns: tuple[Column, ...],
    bias: str = "",
) -> Table[Measures]:
    """Return a table of the section; without dom0 data in the capture it is empty and costs nothing."""

    def made(measures: Measures) -> pd.DataFrame:
        partial = measures.partial
        if partial.dom0_tallies.empty and partial.dom0_samples.empty:
            return pd.DataFrame(columns=[column.name for column in columns])
        return make(measures)

    return Table(name, "dom0", title, made, columns, bias)


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
    _table("dom0_losses", "Completeness of the bpf counts", losses, _LOSS_COLUMNS),
)  # fmt: skip
