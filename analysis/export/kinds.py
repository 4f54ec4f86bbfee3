"""The kinds of single events: for each a table of one row per event, with unit and mark of each column.

Names end in their unit: _tsc is a TSC of the host in cycles, as if it had never restarted; _cycles is a
duration; a flag begins with is_.  A row of which an end was not recorded lasted at least as long.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from xtrace.analysis.columns import Columns
from xtrace.analysis.coverage.needs import (
    ENTRIES,
    EVENTS,
    EXITS,
    HANDLERS,
    IRQS,
    MEMORY,
    PV,
    RUNSTATES,
    SWITCHES,
    Reach,
)
from xtrace.analysis.export.names import What
from xtrace.analysis.export.rows import RUNSTATES as STATES
from xtrace.analysis.export.rows import Rows
from xtrace.analysis.measures.table import DOMAIN, VCPU, Column, Quality, Table
from xtrace.analysis.state_machine.keys import domain_of, high_of, low_of, vcpu_of
from xtrace.analysis.state_machine.metrics import STATE_LOST, Detail, Metric, RipSource, WakeCause, Woken
from xtrace.analysis.tables.emulation import access_kinds, addresses
from xtrace.probes.catalog import by_id
from xtrace.probes.catalog.names import HYPERCALLS
from xtrace.probes.reader.batches import I64
from xtrace.probes.xen_abi import IDLE_DOMAIN

_KEY, _EXACT, _BOUNDED, _INFERRED = Quality.KEY, Quality.EXACT, Quality.BOUNDED, Quality.INFERRED
_PCPU = Column("pcpu", _KEY, "number of the pCPU")
_OPEN = Column("is_open", _KEY, "an end was not recorded, so it lasted at least as long")
_STATE_NAMES = np.array(
    [
        "running", "runnable_wake", "runnable_preempt", "runnable_other", "blocked", "offline", "lost",
        "unknown", "runnable_budget",
    ],
    object,
)  # fmt: skip
_AFTER_NAMES = np.array(["running", "runnable", "blocked", "offline", "lost", "unknown", "unknown"], object)
_CAUSES = np.array(["", *(cause.name.lower() for cause in WakeCause)], object)
_RIP_SOURCES = np.array(["", *(source.name.lower() for source in RipSource)], object)
_LOSSES = (Metric.PCPU_LOST, Metric.PCPU_UNKNOWN)
_UPCALLS = np.array(["block", "callback", "recorded"], object)


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of events.

    Attributes:
        table: its name, title and columns; its pipeline takes Rows.
        metrics: what the rows are made of.
    """

    table: Table[Any]
    metrics: tuple[Metric | Detail, ...]


def _runs(rows: Rows) -> Columns:
    found, after = rows.runs()
    has_begun = found.b & 1 == 1
    return Columns(
        {
            **_vcpu(found.a),
            "pcpu": found.b >> 1,
            **_times(found, "run"),
            "next_state": _AFTER_NAMES[after],
            "is_open": ~has_begun | found.is_open | (after < 0) | (after >= STATE_LOST),
        }
    )


def _runstates(rows: Rows) -> Columns:
    found = rows.only(*STATES)
    found = found.where(domain_of(found.a) != IDLE_DOMAIN)
    places = np.zeros(256, np.int64)
    places[list(STATES)] = np.arange(len(STATES))
    state = _STATE_NAMES[places[found.metric]]
    return Columns({**_vcpu(found.a), "state": state, **_times(found, "state"), "is_open": found.is_open})


def _wakes(rows: Rows) -> Columns:
    woken, who = rows.pairs(Metric.WAKE_TO_RUNNING, Detail.WOKEN)
    return Columns(
        {
            **_vcpu(woken.a),
            "pcpu": who.b >> 48,
            **_vcpu(low_of(who.b), "waker_"),
            "waker_pcpu": who.b >> 32 & 0xFFFF,
            "wake_tsc": woken.begin,
            "running_tsc": woken.end,
            "wake_to_running_cycles": woken.value,
            **{f"is_{flag.name.lower()}": woken.b & flag != 0 for flag in Woken},
        }
    )


def _causes(rows: Rows) -> Columns:
    found = rows.only(Metric.WAKE_CAUSE)
    cause = _CAUSES[np.minimum(high_of(found.b), len(_CAUSES) - 1)]
    return Columns({**_vcpu(found.a), "wake_tsc": found.end, "cause": cause, "argument": low_of(found.b)})


def _sends(rows: Rows) -> Columns:
    found = rows.only(Metric.SEND_TO_WAKE)
    return Columns(
        {
            **_vcpu(found.a),
            **_vcpu(found.b, "sender_"),
            "send_tsc": found.begin,
            "wake_tsc": found.end,
            "send_to_wake_cycles": found.value,
        }
    )


def _upcalls(rows: Rows) -> Columns:
    most, least = rows.pairs(Metric.UPCALL_MAX, Metric.UPCALL_MIN)
    hvm, told = rows.only(Metric.HVM_UPCALL), rows.only(Metric.UPCALL)
    all_of = [most, hvm, told]
    end = np.concatenate([each.end for each in all_of])
    longest = np.concatenate([each.value for each in all_of])
    shortest = np.concatenate([least.value, np.zeros(len(hvm), np.int64), told.value])
    which = np.repeat(np.arange(3), [len(each) for each in all_of])
    return Columns(
        {
            **_vcpu(np.concatenate([each.a for each in all_of])),
            "after": _UPCALLS[which],
            "vector": np.concatenate([np.full(len(most), -1), hvm.b, np.full(len(told), -1)]),
            "begin_earliest_tsc": end - longest,
            "end_tsc": end,
            "upcall_most_cycles": longest,
            "upcall_least_cycles": shortest,
        }
    )


def _forced(rows: Rows) -> Columns:
    found = rows.only(Metric.FORCED_CALLBACK)
    return Columns({**_vcpu(found.a), **_times(found, "callback")})


def _hypercalls(rows: Rows) -> Columns:
    found = rows.only(Detail.HYPERCALL)
    ops, place = np.unique(low_of(found.b), return_inverse=True)
    names = np.array([HYPERCALLS.get(op, "") for op in ops.tolist()], object)
    return Columns(
        {
            **_vcpu(found.a),
            "tsc": found.end,
            "op": low_of(found.b),
            "name": names[place] if len(names) else np.empty(0, object),
            "is_in_multicall": high_of(found.b) == 1,
        }
    )


def _exits(rows: Rows) -> Columns:
    found, where = rows.pairs(Metric.HVM_EXIT, Detail.EXIT)
    return Columns(
        {
            **_vcpu(found.a),
            "reason": found.b,
            "vector": where.value,
            "rip": where.b.view(np.uint64),
            **_times(found, "exit"),
        }
    )


def _accesses(rows: Rows) -> Columns:
    found = rows.only(Metric.ACCESS, Metric.ACCESS_WITHOUT_TIME)
    return Columns(
        {
            **_vcpu(found.a),
            "access": access_kinds(found.b),
            "address": addresses(found.b),
            **_times(found, "access"),
            "is_open": found.metric != Metric.ACCESS,
        }
    )


def _address_spaces(rows: Rows) -> Columns:
    places = np.flatnonzero(rows.metric == Metric.ADDRESS_SPACE)
    found = rows.where(places)
    return Columns(
        {
            **_vcpu(found.a),
            "page_table": found.b << 12,
            **_times(found, "space"),
            "guest_cycles": rows.value[places + 1],
            "xen_cycles": rows.value[places + 2],
            "is_open": found.is_open,
        }
    )


def _ipis(rows: Rows) -> Columns:
    found = rows.only(Metric.IPI_TO_ENTRY)
    return Columns(
        {
            **_vcpu(found.a),
            "vector": high_of(found.b),
            **_vcpu(found.b, "sender_"),
            "send_tsc": found.begin,
            "entry_tsc": found.end,
            "send_to_entry_cycles": found.value,
        }
    )


def _wake_to_halts(rows: Rows) -> Columns:
    found = rows.only(Metric.WAKE_TO_HALT)
    return Columns({**_vcpu(found.a), "vector": found.b, **_times(found, "awake")})


def _memory(rows: Rows) -> Columns:
    found = rows.only(Metric.MEMORY)
    events, place = np.unique(high_of(found.b), return_inverse=True)
    names = np.array([_event_name(event) for event in events.tolist()], object)
    return Columns(
        {
            **_vcpu(found.a),
            "tsc": found.end,
            "name": names[place] if len(names) else np.empty(0, object),
            "of_domain": low_of(found.b),
        }
    )


def _event_name(event: int) -> str:
    known = by_id(event)
    return known[-1].name if known else f"{event:#x}"


def _injections(rows: Rows) -> Columns:
    found = rows.only(Metric.INJECTION_TO_ENTRY)
    return Columns({**_vcpu(found.a), "vector": found.b, **_times(found, "injection")})


def _irqs(rows: Rows) -> Columns:
    found = rows.only(Metric.IRQ_HANDLING)
    return Columns({"irq": found.a, "pcpu": found.b, **_times(found, "irq")})


def _losses(rows: Rows) -> Columns:
    found = rows.only(*_LOSSES)
    what = np.where(found.metric == Metric.PCPU_LOST, "lost", "unknown").astype(object)
    return Columns({"pcpu": found.a, "what": what, **_times(found, "loss")})


def _deliveries(rows: Rows) -> Columns:
    found = rows.only(Metric.EVENT_TO_UPCALL)
    return Columns(
        {
            **_vcpu(found.a),
            "channel_kind": high_of(found.b),
            "port": low_of(found.b),
            "notify_tsc": found.begin,
            "upcall_tsc": found.end,
            "notify_to_upcall_cycles": found.value,
        }
    )


def _rips(rows: Rows) -> Columns:
    found = rows.only(Metric.RIP)
    return Columns(
        {
            **_vcpu(low_of(found.a)),
            "tsc": found.end,
            "source": _RIP_SOURCES[np.minimum(high_of(found.a), len(_RIP_SOURCES) - 1)],
            "rip": found.b.view(np.uint64),
        }
    )


def _vcpu(keys: I64, prefix: str = "") -> dict[str, npt.NDArray[Any]]:
    return {f"{prefix}domain": domain_of(keys), f"{prefix}vcpu": vcpu_of(keys)}


def _times(rows: Rows, what: str) -> dict[str, npt.NDArray[Any]]:
    return {"begin_tsc": rows.begin, "end_tsc": rows.end, f"{what}_cycles": rows.value}


def _time_columns(what: str, meaning: str, quality: Quality = _EXACT) -> tuple[Column, ...]:
    return (
        Column("begin_tsc", quality, "when it began"),
        Column("end_tsc", quality, "when it ended"),
        Column(f"{what}_cycles", quality, meaning),
    )


_WAKER = (
    Column("waker_domain", _INFERRED, "domain of the vCPU that ran there; 32768: not known"),
    Column("waker_vcpu", _INFERRED, "its number"),
)

KINDS = {
    kind.table.name: kind
    for kind in (
        Kind(
            Table(
                What.RUNS, "events", "Stays of vCPUs on pCPUs", _runs,
                (
                    DOMAIN, VCPU, _PCPU, *_time_columns("run", "time on the pCPU"),
                    Column("next_state", _EXACT, "its state afterwards; lost or unknown"),
                    _OPEN,
                ), needs=(RUNSTATES,), reach=Reach.PCPU,
            ), (Detail.RUN, Detail.STATE),
        ),
        Kind(
            Table(
                What.RUNSTATES, "events", "Times that vCPUs were in a runstate", _runstates,
                (
                    DOMAIN, VCPU, Column("state", _EXACT, "the state, and why it is runnable"),
                    *_time_columns("state", "time in it"), _OPEN,
                ), needs=(RUNSTATES,), reach=Reach.VCPU,
            ), STATES,
        ),
        Kind(
            Table(
                What.WAKES, "events", "Wakes that a run followed", _wakes,
                (
                    DOMAIN, VCPU, Column("pcpu", _KEY, "pCPU that it ran on"), *_WAKER,
                    Column("waker_pcpu", _KEY, "pCPU whose record the wake is"),
                    Column("wake_tsc", _EXACT, "when it was woken"),
                    Column("running_tsc", _EXACT, "when it ran"),
                    Column("wake_to_running_cycles", _EXACT, "time from the wake to the run"),
                    Column("is_moved", _KEY, "it ran on another pCPU than the waker's"),
                    Column("is_paused", _KEY, "it was offline in between"),
                    Column("is_unproven", _KEY, "it may have run unseen in between"),
                ), needs=(RUNSTATES, SWITCHES), reach=Reach.VCPU,
            ), (Metric.WAKE_TO_RUNNING, Detail.WOKEN),
        ),
        Kind(
            Table(
                What.WAKE_CAUSES, "events", "What caused each wake", _causes,
                (
                    DOMAIN, VCPU, Column("wake_tsc", _EXACT, "when it was woken, as in wakes"),
                    Column("cause", _INFERRED, "event_channel, hypercall, irq, timer_or_other or unknown"),
                    Column("argument", _INFERRED, "of a hypercall its number, of an irq the irq"),
                ), needs=(SWITCHES,),
            ), (Metric.WAKE_CAUSE,),
        ),
        Kind(
            Table(
                What.SENDS, "events", "Sends that woke a vCPU", _sends,
                (
                    DOMAIN, VCPU, Column("sender_domain", _INFERRED, "domain of the sender"),
                    Column("sender_vcpu", _INFERRED, "its vCPU"),
                    Column("send_tsc", _INFERRED, "when the sender called Xen"),
                    Column("wake_tsc", _EXACT, "when the vCPU was woken, as in wakes"),
                    Column("send_to_wake_cycles", _INFERRED, "time in between"),
                ), needs=(SWITCHES, ENTRIES),
            ), (Metric.SEND_TO_WAKE,),
        ),
        Kind(
            Table(
                What.UPCALLS, "events", "Upcalls of which a bound is known", _upcalls,
                (
                    DOMAIN, VCPU,
                    Column("after", _KEY, "block, of a PV guest; callback, of HVM; recorded, by Xen"),
                    Column("vector", _KEY, "the vector injected; -1 for a PV guest"),
                    Column("begin_earliest_tsc", _BOUNDED, "it began then or later"),
                    Column("end_tsc", _INFERRED, "when it ended"),
                    Column("upcall_most_cycles", _BOUNDED, "it lasted at most so long"),
                    Column("upcall_least_cycles", _BOUNDED, "and at least so long"),
                ),
            ), (Metric.UPCALL_MAX, Metric.UPCALL_MIN, Metric.HVM_UPCALL, Metric.UPCALL),
        ),
        Kind(
            Table(
                What.FORCED_CALLBACKS, "events", "Callbacks that guests forced", _forced,
                (DOMAIN, VCPU, *_time_columns("callback", "xen_version to the next open iret", _INFERRED)),
                needs=(PV,),
            ), (Metric.FORCED_CALLBACK,),
        ),
        Kind(
            Table(
                What.HYPERCALLS, "events", "Hypercalls, and entries of multicalls, of PV guests", _hypercalls,
                (
                    DOMAIN, VCPU, Column("tsc", _EXACT, "when it entered Xen"),
                    Column("op", _EXACT, "number"), Column("name", _EXACT, "its name, empty if it has none"),
                    Column("is_in_multicall", _KEY, "it is an entry of a multicall"),
                ), needs=(PV,),
            ), (Detail.HYPERCALL,),
        ),
        Kind(
            Table(
                What.EXITS, "events", "VM exits, until the entry or the end of the run", _exits,
                (DOMAIN, VCPU, Column("reason", _KEY, "number of the exit reason"),
                 Column("vector", _KEY, "the host's, of an exit by an interrupt; else, and on SVM, -1"),
                 Column("rip", _EXACT, "address that it left, 64 bits"),
                 *_time_columns("exit", "time outside the guest, until it left the pCPU")),
                needs=(EXITS,),
            ), (Metric.HVM_EXIT, Detail.EXIT),
        ),
        Kind(
            Table(
                What.ACCESSES, "events", "Emulated ports and memory that HVM guests used", _accesses,
                (
                    DOMAIN, VCPU, Column("access", _KEY, "port_read or _write, memory_read or _write"),
                    Column("address", _KEY, "the port, or the guest-physical address"),
                    *_time_columns("access", "exit to the next entry, also where it waited in between"),
                    Column("is_open", _KEY, "no time: another one in the same exit, or an end not recorded"),
                ), needs=(EXITS, HANDLERS), reach=Reach.VCPU,
            ), (Metric.ACCESS, Metric.ACCESS_WITHOUT_TIME),
        ),
        Kind(
            Table(
                What.ADDRESS_SPACES, "events", "Page tables that HVM guests' vCPUs had", _address_spaces,
                (
                    DOMAIN, VCPU, Column("page_table", _KEY, "its guest-physical address"),
                    *_time_columns("space", "entry after it got it to the entry after it got another one"),
                    Column("guest_cycles", _EXACT, "of this, in the guest"),
                    Column("xen_cycles", _EXACT, "of this, in VM exits"), _OPEN,
                ), needs=(EXITS, HANDLERS), reach=Reach.VCPU,
            ), (Metric.ADDRESS_SPACE, Metric.ADDRESS_SPACE_GUEST, Metric.ADDRESS_SPACE_XEN),
        ),
        Kind(
            Table(
                What.IPIS, "events", "Interrupts between vCPUs of HVM guests", _ipis,
                (
                    DOMAIN, VCPU, Column("vector", _KEY, "the vector"),
                    Column("sender_domain", _INFERRED, "domain of the first sender"),
                    Column("sender_vcpu", _INFERRED, "its vCPU"),
                    Column("send_tsc", _INFERRED, "the exit in which it was sent"),
                    Column("entry_tsc", _EXACT, "the entry after the injection of the vector"),
                    Column("send_to_entry_cycles", _INFERRED, "time in between"),
                ), needs=(EXITS, HANDLERS), reach=Reach.VCPU,
            ), (Metric.IPI_TO_ENTRY,),
        ),
        Kind(
            Table(
                What.WAKE_TO_HALTS, "events", "From the interrupt that woke an HVM guest to its block",
                _wake_to_halts,
                (DOMAIN, VCPU, Column("vector", _KEY, "the first one that was injected after the wake"),
                 *_time_columns("awake", "entry with it to the block")),
                needs=(EXITS, HANDLERS, RUNSTATES), reach=Reach.VCPU,
            ), (Metric.WAKE_TO_HALT,),
        ),
        Kind(
            Table(
                What.MEMORY, "events", "Grants and memory", _memory,
                (DOMAIN, VCPU, Column("tsc", _EXACT, "when; of an untimed record that before it"),
                 Column("name", _EXACT, "event, such as page_grant_map"),
                 Column("of_domain", _EXACT, "domain whose pages they are")),
                needs=(MEMORY,), reach=Reach.VCPU,
            ), (Metric.MEMORY,),
        ),
        Kind(
            Table(
                What.INJECTIONS, "events", "Interrupts injected into HVM guests", _injections,
                (DOMAIN, VCPU, Column("vector", _KEY, "the vector"),
                 *_time_columns("injection", "time to the VM entry")),
                needs=(EXITS, HANDLERS),
            ), (Metric.INJECTION_TO_ENTRY,),
        ),
        Kind(
            Table(
                What.IRQS, "events", "Interrupts that Xen handled", _irqs,
                (Column("irq", _KEY, "number"), _PCPU, *_time_columns("irq", "time in its handlers")),
                needs=(IRQS,),
            ), (Metric.IRQ_HANDLING,),
        ),
        Kind(
            Table(
                What.LOSSES, "events", "Times of pCPUs without a known vCPU", _losses,
                (
                    _PCPU,
                    Column("what", _KEY, "lost: records were; unknown: what ran is, also in a switch"),
                    *_time_columns("loss", "how long"),
                ),
            ), _LOSSES,
        ),
        Kind(
            Table(
                What.DELIVERIES, "events", "Events from notification to upcall, if recorded", _deliveries,
                (
                    DOMAIN, VCPU, Column("channel_kind", _KEY, "kind of the channel"),
                    Column("port", _KEY, "port"),
                    Column("notify_tsc", _EXACT, "when it was notified"),
                    Column("upcall_tsc", _EXACT, "when the upcall began"),
                    Column("notify_to_upcall_cycles", _EXACT, "time in between"),
                ), needs=(EVENTS,),
            ), (Metric.EVENT_TO_UPCALL,),
        ),
        Kind(
            Table(
                What.RIPS, "events", "Instruction pointers of guests in records", _rips,
                (DOMAIN, VCPU, Column("tsc", _EXACT, "when it was recorded"),
                 Column("source", _KEY, "what recorded it"), Column("rip", _EXACT, "address, 64 bits")),
            ), (Metric.RIP,),
        ),
    )
}  # fmt: skip
