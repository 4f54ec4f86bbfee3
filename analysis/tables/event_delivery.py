"""Tables of event delivery as a Xen records it: from the sender to the mark, the upcall and its end.

No release of Xen writes these records (docs/xen-records.md), so most traces do not have these tables.
Where they are present, both ends of a time are records; only of an event that the guest took without a
further upcall it is not known when, and its time is a bound.
"""

from __future__ import annotations

from xtrace.analysis.columns import Array, Columns, joined, matched, text
from xtrace.analysis.coverage.needs import ENTRIES, EVENTS, PV, RUNSTATES, SWITCHES, Reach
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
from xtrace.analysis.state_machine.delivery_columns import NOBODY, Mark, Returned, Source, Waited
from xtrace.analysis.state_machine.keys import domain_of, high_of, low_of, vcpu_of
from xtrace.analysis.state_machine.metrics import Metric
from xtrace.probes.catalog import names

#: Of what follows from records of event delivery: without runstates it is not known which vCPU acts, nor when
#: one sleeps.
NEEDS = (EVENTS, ENTRIES, RUNSTATES)
_EXACT, _BOUNDED = Quality.EXACT, Quality.BOUNDED
_OF_WAITS = ("count", *(f"{name}_cycles" for name in ("p50", "p95", "p99", "max")))
_ALL = {name: name for name in ("p50", "p95", "p99", "max")}
_OUTSIDE, _INSIDE = int(Waited.MASKED), int(Waited.MASKED | Waited.INSIDE)
_SOURCES: dict[int, str] = {**names.CHANNELS, Source.NONE: "no event", Source.UNMASK: "unmask"}


def masked_waits(measures: Measures) -> Columns:
    """Return how many events found the upcall mask set, and how long each waited, by vCPU."""
    marks = measures.counts(Metric.EVENT_MARK)
    vcpus = keys_of(marks)
    masked = marks.where(marks["b"] & int(Mark.MASKED) != 0)
    inside = masked.where(masked["b"] & int(Mark.INSIDE) != 0)
    outside = masked.where(masked["b"] & int(Mark.INSIDE | Mark.UNKNOWN) == 0)
    mark_count, masked_count = _count(vcpus, marks), _count(vcpus, masked)
    waits = {
        "outside": measures.times_of(Metric.MASKED_WAIT, lambda b: b == _OUTSIDE),
        "inside": measures.times_of(Metric.MASKED_WAIT, lambda b: b == _INSIDE),
        "taken_most": measures.times_of(Metric.MASKED_WAIT, lambda b: b & int(Waited.TAKEN) != 0),
    }
    columns: dict[str, Array] = {
        "a": vcpus,
        "mark_count": mark_count,
        "masked_count": masked_count,
        "masked_ratio": share(masked_count, mark_count),
        "outside_count": _count(vcpus, outside),
        "inside_count": _count(vcpus, inside),
    }
    unknown = _count(vcpus, masked.where(masked["b"] & int(Mark.UNKNOWN) != 0)) > 0
    columns |= {f"{name}_is_part": unknown for name in ("outside_count", "inside_count")}
    for name, times in waits.items():
        if name != "taken_most":
            columns |= {f"{name}_wait_{each}_is_part": unknown for each in _OF_WAITS}
        columns |= {f"{name}_wait_count": counted(vcpus, times)}
        columns |= looked_up(vcpus, times, tail_columns(f"{name}_wait", TAIL[1:]))
    return with_vcpu(Columns(columns)).sorted_by("outside_wait_p99_cycles", descending=True)


def recorded_upcalls(measures: Measures) -> Columns:
    """Return the upcalls by vCPU, and the times from the mark to the entry and from there to the iret."""
    entries = measures.counts(Metric.UPCALL_ENTRY)
    vcpus = keys_of(entries)
    ended = measures.counts(Metric.UPCALL)
    entry_count = _count(vcpus, entries)
    marked = measures.times(Metric.MARK_TO_UPCALL)
    unknown = entries.where(entries["b"] & int(Returned.UNKNOWN) != 0)
    lasted = ended_upcalls(measures)
    table = Columns(
        {
            "a": vcpus,
            "entry_count": entry_count,
            "entry_per_s": measures.per_second(entry_count),
            "nested_count": _count(vcpus, entries.where(entries["b"] & int(Returned.INSIDE) != 0)),
            "nested_count_is_part": _count(vcpus, unknown) > 0,
            "user_count": _count(vcpus, entries.where(entries["b"] & int(Returned.USER) != 0)),
            "slept_count": _count(vcpus, ended.where(ended["b"] & int(Returned.SLEPT) != 0)),
            "upcall_count": counted(vcpus, lasted),
            **looked_up(vcpus, marked, tail_columns("mark_to_entry", TAIL[1:])),
            **looked_up(vcpus, lasted, tail_columns("upcall", TAIL[1:])),
        }
    )
    return with_vcpu(table).sorted_by("upcall_p99_cycles", descending=True)


def ended_upcalls(measures: Measures) -> Columns:
    """Return the times of upcalls to their iret, by vCPU; if another thread ran before that, none."""
    return measures.times_of(Metric.UPCALL, lambda b: b & int(Returned.SLEPT) == 0)


def ports(measures: Measures) -> Columns:
    """Return the events by port, most events first."""
    notified = measures.counts(Metric.EVENT)
    table = notified.only(["a", "b"]).having(event_count=notified["count"])
    keys = table.only(["a", "b"])
    for name, metric in (
        ("coalesced_count", Metric.EVENT_COALESCED),
        ("port_masked_count", Metric.EVENT_PORT_MASKED),
        ("taken_count", Metric.EVENT_TAKEN),
    ):
        table = table.having(**{name: _counted_at(keys, measures.counts(metric))})
    times = measures.times_by_b(Metric.EVENT_TO_UPCALL)
    place = matched(keys, times)
    table = table.having(
        coalesced_ratio=share(table["coalesced_count"], table["event_count"]),
        delivered_count=_counted_at(keys, times),
        port=low_of(table["b"]),
        channel=text(names.CHANNELS.get(kind, str(kind)) for kind in high_of(table["b"]).tolist()),
        **taken(times, place, tail_columns("event_to_upcall", TAIL[1:])),
    )
    return with_vcpu(table).sorted_by("event_count", descending=True)


def event_sources(measures: Measures) -> Columns:
    """Return what sent each vCPU its events, and how many of its wakes each of these is the cause of."""
    sent, wakes = measures.counts(Metric.EVENT_SENT), measures.counts(Metric.EVENT_WAKE)
    keys = joined([sent.only(["a", "b"]), wakes.only(["a", "b"])]).grouped(["a", "b"]).keys
    sent_count, coalesced = _counted_at(keys, sent), _counted_at(keys, sent, "sum_cycles")
    times = measures.times_by_b(Metric.EVENT_FROM)
    table = keys.having(
        source=text(map(_source, keys["b"].tolist())),
        event_count=sent_count,
        coalesced_count=coalesced,
        coalesced_ratio=share(coalesced, sent_count),
        woke_count=_counted_at(keys, wakes),
        delivered_count=_counted_at(keys, times),
        **taken(times, matched(keys, times), tail_columns("event_to_upcall", TAIL[1:])),
    )
    return with_vcpu(table).sorted_by("event_count", descending=True)


def _count(vcpus: Array, rows: Columns) -> Array:
    return counted(vcpus, rows.sums(["a"], ["count"]))


def _counted_at(keys: Columns, rows: Columns, column: str = "count") -> Array:
    return counts_at(rows, matched(keys, rows), column)


def _source(key: int) -> str:
    if key >> 32 == 0 and key != NOBODY:
        return f"d{int(domain_of(key))}v{int(vcpu_of(key))}"
    return _SOURCES.get(key >> 32, str(key >> 32))


def _of_records(name: str, meaning: str, heading: str | None = None) -> Column:
    """Return a column that counts records of event delivery."""
    return Column(name, _EXACT, meaning, heading, (EVENTS,), Reach.RECORDS)


TABLES = (
    Table(
        "masked_waits",
        "delivery",
        "Events that found the upcall mask set, and how long they waited",
        masked_waits,
        (
            DOMAIN,
            VCPU,
            _of_records("mark_count", "PENDING records: the vCPU was marked", "marks"),
            _of_records("masked_count", "of these, those that found evtchn_upcall_mask set", "masked"),
            _of_records("masked_ratio", "their share of all marks", "share"),
            Column("outside_count", _EXACT, "of the masked ones, those outside an upcall", "outside"),
            Column("inside_count", _EXACT, "of the masked ones, those inside an upcall", "inside"),
            Column("outside_wait_count", _EXACT, "waits outside an upcall that an upcall ended", None),
            *times_columns(
                "outside_wait",
                _EXACT,
                "PENDING outside an upcall with the mask set, to the next UPCALL",
                _ALL,
            ),
            Column("inside_wait_count", _EXACT, "waits inside an upcall that a further upcall ended", None),
            *times_columns(
                "inside_wait", _EXACT, "PENDING inside an upcall with the mask set, to the next UPCALL"
            ),
            Column(
                "taken_most_wait_count",
                _EXACT,
                "waits that ended without a further upcall: the one that ran took the event",
                "taken",
            ),
            *times_columns(
                "taken_most_wait",
                _BOUNDED,
                "of these, PENDING to the iret of the upcall that took the event, or to the next mark: an "
                "upper bound",
            ),
        ),
        needs=NEEDS,
        blurred_without=(ENTRIES,),
        reach=Reach.HOST,
        bias="taken: the upcall that ran took the event, no further one followed",
    ),
    Table(
        "recorded_upcalls",
        "delivery",
        "Upcalls: from the mark to the entry, and from there to the iret",
        recorded_upcalls,
        (
            DOMAIN,
            VCPU,
            Column("entry_count", _EXACT, "UPCALL records, and VM entries after an INJECT", "upcalls"),
            Column("entry_per_s", _EXACT, "upcalls per second", "/s"),
            Column("nested_count", _EXACT, "upcalls that began inside another one", "nested"),
            Column("user_count", _EXACT, "upcalls that interrupted user mode", None),
            Column(
                "slept_count",
                _EXACT,
                "upcalls before whose iret another thread ran; no time counts them",
                "slept",
                (*NEEDS, PV),
            ),
            Column(
                "upcall_count",
                _EXACT,
                "the other upcalls with an iret of their frame",
                None,
                (*NEEDS, PV),
            ),
            *times_columns(
                "mark_to_entry",
                _EXACT,
                "first PENDING since the upcall before, to UPCALL or to the VM entry after an INJECT",
                {"p50": "entry p50", "p99": "p99"},
            ),
            *times_columns(
                "upcall",
                _EXACT,
                "UPCALL to the iret with its frame (PV guests)",
                {"p50": "upcall p50", "p95": "p95", "p99": "p99"},
                (*NEEDS, PV),
            ),
        ),
        needs=NEEDS,
        blurred_without=(ENTRIES,),
        reach=Reach.HOST,
    ),
    Table(
        "ports",
        "delivery",
        "Events by port, and the time to the upcall",
        ports,
        (
            DOMAIN,
            VCPU,
            Column("port", Quality.KEY, "number of the port in the domain", "port"),
            Column("channel", Quality.KEY, "kind of the event channel", "channel"),
            _of_records("event_count", "NOTIFY records", "events"),
            _of_records("coalesced_count", "events that found the port pending", "coal"),
            _of_records("coalesced_ratio", "their share", None),
            _of_records(
                "port_masked_count",
                "events that made a masked port pending: they wait until it is unmasked",
                None,
            ),
            Column("delivered_count", _EXACT, "events that an upcall followed", "upcall"),
            Column("taken_count", _EXACT, "events that the guest took without a further upcall", "taken"),
            *times_columns(
                "event_to_upcall", _EXACT, "NOTIFY to UPCALL, or to the VM entry after an INJECT", _ALL
            ),
        ),
        needs=NEEDS,
        blurred_without=(ENTRIES,),
        reach=Reach.HOST,
    ),
    Table(
        "event_sources",
        "delivery",
        "Who sends events to whom, and the wakes that they cause",
        event_sources,
        (
            DOMAIN,
            VCPU,
            Column(
                "source",
                Quality.KEY,
                "the sending vCPU, pirq (an interrupt), virq (a timer, for instance), unmask (a pending port "
                "was unmasked), or no event: a poll's timeout, VCPUOP_up, a domctl",
                "from",
            ),
            _of_records("event_count", "NOTIFY records", "events"),
            _of_records("coalesced_count", "events that found the port pending", "coal"),
            _of_records("coalesced_ratio", "their share", "share"),
            Column(
                "woke_count",
                _EXACT,
                "wakes of the vCPU whose cause it is, by the record before the WAKE on the same pCPU",
                "woke",
                (*NEEDS, SWITCHES),
            ),
            Column("delivered_count", _EXACT, "events that an upcall followed", None),
            *times_columns(
                "event_to_upcall", _EXACT, "NOTIFY to UPCALL, or to the VM entry after an INJECT", _ALL
            ),
        ),
        needs=NEEDS,
        blurred_without=(ENTRIES,),
        reach=Reach.HOST,
    ),
)
