"""Tables of what Xen emulates for HVM guests: ports, memory, page tables, interrupts between vCPUs."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from xtrace.analysis.columns import Array, Columns, added, joined, text
from xtrace.analysis.coverage.needs import EXITS, HANDLERS, RUNSTATES, Reach
from xtrace.analysis.measures.lookup import TAIL, merged, with_vcpu
from xtrace.analysis.measures.measures import Measures
from xtrace.analysis.measures.table import DOMAIN, VCPU, Column, Quality, Table
from xtrace.analysis.state_machine.keys import high_of, low_of
from xtrace.analysis.state_machine.metrics import ADDRESS_MOST, AccessKind, Metric

_KEY, _EXACT, _INFERRED = Quality.KEY, Quality.EXACT, Quality.INFERRED
_ADDRESS_BITS = 56
_PAGE_BITS = 12
_KINDS = np.array(["", *(kind.name.lower() for kind in AccessKind)], object)
_NEEDS = (EXITS, HANDLERS, RUNSTATES)


def access_kinds(accesses: npt.NDArray[np.int64]) -> Array:
    """Return the name of what each access was, such as port_read; ``b`` of Metric.ACCESS."""
    found: Array = _KINDS[np.clip(accesses >> _ADDRESS_BITS, 0, len(_KINDS) - 1)]
    return found


def addresses(accesses: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return the port, or the guest-physical address, of each access."""
    return accesses & ADDRESS_MOST


def accesses(measures: Measures) -> Columns:
    """Return accesses by vCPU, kind and address, most cycles first."""
    timed = measures.times_by_b(Metric.ACCESS).renamed({"count": "timed_count"})
    untimed = measures.counts(Metric.ACCESS_WITHOUT_TIME).only(["a", "b", "count"])
    untimed = untimed.renamed({"count": "untimed_count"})
    table = merged(["a", "b"], timed, untimed, counts=("timed_count", "untimed_count", "sum_cycles"))
    count = table["timed_count"] + table["untimed_count"]
    table = table.having(
        kind=access_kinds(table["b"]),
        address=text(f"{address:#x}" for address in addresses(table["b"]).tolist()),
        count=count,
        per_s=measures.per_second(count),
    )
    table = table.having(share_ratio=measures.of_span(table["sum_cycles"]))
    return with_vcpu(table).sorted_by("sum_cycles", descending=True)


def address_spaces(measures: Measures) -> Columns:
    """Return page tables by vCPU, those that it had for longest first."""
    opened = measures.open_times(Metric.ADDRESS_SPACE, ["a", "b"])
    table = merged(
        ["a", "b"],
        measures.times_by_b(Metric.ADDRESS_SPACE),
        opened,
        measures.counts(Metric.ADDRESS_SPACE_FLUSH)
        .only(["a", "b", "count"])
        .renamed({"count": "flush_count"}),
        _sums(measures, Metric.ADDRESS_SPACE_GUEST, "guest_cycles"),
        _sums(measures, Metric.ADDRESS_SPACE_XEN, "xen_cycles"),
        counts=(
            "count", "cut_count", "flush_count", "sum_cycles", "open_cycles", "guest_cycles", "xen_cycles",
        ),
    )  # fmt: skip
    summed = added(table["sum_cycles"], table["open_cycles"])
    table = table.having(
        page_table=text(f"{frame << _PAGE_BITS:#x}" for frame in table["b"].tolist()),
        count=table["count"] + table["cut_count"],
        sum_cycles=summed,
        share_ratio=measures.of_span(summed),
    )
    return with_vcpu(table).sorted_by("sum_cycles", descending=True)


def ipis(measures: Measures) -> Columns:
    """Return interrupts between vCPUs by target, vector and sender, most frequent first."""
    table = measures.times_by_b(Metric.IPI_TO_ENTRY)
    senders = low_of(table["b"])
    table = table.having(
        vector=high_of(table["b"]),
        per_s=measures.per_second(table["count"]),
        sender=senders,
    )
    table = with_vcpu(table, "sender").renamed({"domain": "sender_domain", "vcpu": "sender_vcpu"})
    return with_vcpu(table).sorted_by("count", descending=True)


def ipi_counts(measures: Measures) -> Columns:
    """Return how many interrupts were sent to each vCPU, and how many were delivered or not followed."""
    sent = measures.count_by_a(Metric.IPI_SENT).renamed({"count": "sent_count"})
    delivered = measures.count_by_a(Metric.IPI_TO_ENTRY).renamed({"count": "delivered_count"})
    left_out = measures.count_by_a(Metric.IPI_LEFT_OUT).renamed({"count": "left_out_count"})
    counts = ("sent_count", "delivered_count", "left_out_count")
    return with_vcpu(merged(["a"], sent, delivered, left_out, counts=counts))


def wake_to_halts(measures: Measures) -> Columns:
    """Return times from the first interrupt after a wake to the block, by vCPU and vector."""
    table = measures.times_by_b(Metric.WAKE_TO_HALT).renamed({"b": "vector"})
    table = table.having(per_s=measures.per_second(table["count"]))
    return with_vcpu(table).sorted_by("count", descending=True)


def _sums(measures: Measures, metric: Metric, name: str) -> Columns:
    rows = joined([measures.counts(metric).only(["a", "b", "sum_cycles"])])
    return rows.renamed({"sum_cycles": name})


_SHOWN = {"p50_cycles": "p50", "p99_cycles": "p99", "max_cycles": "max"}


def _times(meaning: str, quality: Quality, shown: Mapping[str, str] = _SHOWN) -> tuple[Column, ...]:
    return tuple(
        Column(name, quality, f"{meaning}: {name.removesuffix('_cycles')}", shown.get(name))
        for name in TAIL[1:]
    )


_COUNT = Column("count", _EXACT, "number of them", "count")
_PER_S = Column("per_s", _EXACT, "number per second", "/s")
_VECTOR = Column("vector", _KEY, "number of the interrupt's vector", "vector")

TABLES = (
    Table(
        "accesses",
        "hvm",
        "Emulated ports and memory of HVM guests",
        accesses,
        (
            DOMAIN,
            VCPU,
            Column("kind", _KEY, "port_read, port_write, memory_read or memory_write", "kind"),
            Column("address", _KEY, "the port, or the guest-physical address", "address"),
            Column("count", _EXACT, "number of accesses", "count", needs=(HANDLERS,)),
            Column("per_s", _EXACT, "accesses per second", "/s", needs=(HANDLERS,)),
            Column("timed_count", _EXACT, "accesses with a measured time", None),
            Column("sum_cycles", _EXACT, "total time, also that in which the vCPU waited", "total"),
            Column("share_ratio", _EXACT, "share of the trace's span", "share"),
            *_times("exit to the vCPU's next entry; of several accesses in it, the last one has it", _EXACT),
        ),
        needs=_NEEDS,
        reach=Reach.VCPU,
        bias="what a device model reads for a string instruction may have one record for many accesses",
    ),
    Table(
        "address_spaces",
        "hvm",
        "Page tables of HVM guests",
        address_spaces,
        (
            DOMAIN,
            VCPU,
            Column(
                "page_table", _KEY, "guest-physical address of the page table: cr3 without its flags", "cr3"
            ),
            Column("count", _EXACT, "times that the vCPU had it", "count"),
            Column("cut_count", _EXACT, "of these, those of which an end was not recorded", None),
            Column("flush_count", _EXACT, "writes of cr3 that left it as it was", "flushes"),
            Column("sum_cycles", _EXACT, "time with it, also that in which the vCPU did not run", "total"),
            Column("share_ratio", _EXACT, "share of the trace's span", "share"),
            Column("guest_cycles", _EXACT, "of this time, that in the guest", "guest"),
            Column("xen_cycles", _EXACT, "of this time, that of VM exits", "exits"),
        ),
        needs=_NEEDS,
        reach=Reach.VCPU,
        bias="only where cr3 is written with an exit: guests with shadow page tables",
    ),
    Table(
        "ipis",
        "hvm",
        "Interrupts between vCPUs of HVM guests",
        ipis,
        (
            DOMAIN,
            VCPU,
            _VECTOR,
            Column("sender_domain", _KEY, "domain of the sender", None),
            Column("sender_vcpu", _KEY, "vCPU that sent first", "sender"),
            Column("count", _INFERRED, "delivered interrupts that a vCPU had sent", "count"),
            Column("per_s", _INFERRED, "number per second", "/s"),
            *_times("the sender's exit to the entry after the injection of the vector", _INFERRED),
        ),
        needs=_NEEDS,
        reach=Reach.VCPU,
        bias="only where writes of the ICR exit, and injections are recorded: not with APICv",
    ),
    Table(
        "ipi_counts",
        "hvm",
        "Interrupts between vCPUs of HVM guests, sent and delivered",
        ipi_counts,
        (
            DOMAIN,
            VCPU,
            Column("sent_count", _INFERRED, "sent to the vCPU, by the ICR's target", "sent"),
            Column("delivered_count", _INFERRED, "delivered; several of a vector may be one", "delivered"),
            Column(
                "left_out_count",
                _INFERRED,
                "sent by it to an x2APIC's logical target or to an unknown one, or too many at a time for it",
                "not followed",
            ),
        ),
        needs=_NEEDS,
        reach=Reach.VCPU,
    ),
    Table(
        "wake_to_halts",
        "hvm",
        "HVM guests from the wake's interrupt to the block",
        wake_to_halts,
        (
            DOMAIN,
            VCPU,
            _VECTOR,
            _COUNT,
            _PER_S,
            *_times("entry with the first interrupt after a wake to the block", _EXACT),
        ),
        needs=_NEEDS,
        reach=Reach.VCPU,
        bias="it may have been preempted in between",
    ),
)
