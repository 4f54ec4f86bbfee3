"""The way of an event to a vCPU, stage by stage: send, wake, runnable, running, upcall entry, iret.

Every figure is also in another table, with the same needs: wakes, upcalls, injections, recorded_upcalls,
vcpu_states.  Here they are side by side, a row per vCPU.  The stages do not add up: each is measured over
the events for which both its ends are known.

What ends a wait depends on the guest and on the trace, so the last two stages have three forms: those of PV
guests after a block (upper bounds), those of HVM and PVH guests from an injection on, and those that a Xen
with records of event delivery writes (docs/xen-records.md).
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from xtrace.analysis.columns import Array, Columns, distinct
from xtrace.analysis.coverage.needs import (
    ENTRIES,
    EXITS,
    HANDLERS,
    PV,
    RUNSTATES,
    SWITCHES,
    Reach,
    Records,
)
from xtrace.analysis.measures.lookup import counted, keys_of, looked_up, tail_columns, with_vcpu
from xtrace.analysis.measures.measures import Measures
from xtrace.analysis.measures.table import DOMAIN, VCPU, Column, Quality, Table
from xtrace.analysis.state_machine.keys import are_guests
from xtrace.analysis.state_machine.metrics import Metric
from xtrace.analysis.summary.histogram import bucket_bounds
from xtrace.analysis.tables import event_delivery
from xtrace.analysis.tables.runstates import vcpu_states

_EXACT, _BOUNDED, _INFERRED = Quality.EXACT, Quality.BOUNDED, Quality.INFERRED
_STATISTICS = ("count", "p50_cycles", "p99_cycles")
_OF_WAKES = (SWITCHES, RUNSTATES)
_OF_PV = (PV, RUNSTATES, SWITCHES)
_OF_HVM = (HANDLERS, EXITS, RUNSTATES)


def event_way(measures: Measures) -> Columns:
    """Return the stages by vCPU, those first that waited for a pCPU the longest in all."""
    stages = _stages(measures)
    shares = _shares(measures)
    vcpus = distinct(np.concatenate([shares["a"], keys_of(*stages.values())]))
    vcpus = vcpus[are_guests(vcpus)]
    columns: dict[str, Array] = {"a": vcpus}
    columns |= looked_up(vcpus, shares, {name: name for name in shares.names if name != "a"})
    for name, times in stages.items():
        columns |= {f"{name}_count": counted(vcpus, times)}
        columns |= looked_up(vcpus, times, tail_columns(name, _STATISTICS[1:]))
    return with_vcpu(Columns(columns)).sorted_by("waiting_share_ratio", descending=True)


def wake_spread(measures: Measures) -> Columns:
    """Return how the times from wake to running are spread: counts by vCPU and octave of the time."""
    buckets = measures.partial.buckets
    buckets = measures.proven(buckets.where(buckets["metric"] == int(Metric.WAKE_TO_RUNNING)))
    buckets = buckets.where(are_guests(buckets["a"]))
    least, _ = bucket_bounds(buckets["bucket"])
    octave = np.where(least > 0, np.frexp(least.astype(float))[1] - 1, 0)
    table = buckets.having(low_cycles=np.left_shift(np.int64(1), octave))
    return with_vcpu(table.sums(["a", "low_cycles"], ["count"])).sorted_by("domain", "vcpu", "low_cycles")


def _stages(measures: Measures) -> Mapping[str, Columns]:
    """Return the times of each stage, by the prefix of its columns; column ``a`` is the vCPU."""
    return {
        "send_to_wake": measures.times(Metric.SEND_TO_WAKE),
        "wake_to_runnable": measures.times(Metric.WAKE_TO_RUNNABLE),
        "runnable_to_running": measures.times(Metric.RUNNABLE_WAKE),
        "wake_to_running": measures.proven_times(Metric.WAKE_TO_RUNNING),
        "running_to_entry_most": measures.times(Metric.RUNNING_TO_GUEST),
        "running_to_iret_most": measures.times(Metric.UPCALL_MAX),
        "injection_to_entry_most": measures.times(Metric.INJECTION_TO_ENTRY),
        "entry_to_exit": measures.times(Metric.HVM_UPCALL),
        "mark_to_entry": measures.times(Metric.MARK_TO_UPCALL),
        "entry_to_iret": event_delivery.ended_upcalls(measures),
    }


def _shares(measures: Measures) -> Columns:
    """Return the share of the span that each vCPU ran, and that it waited for a pCPU."""
    states = vcpu_states(measures)
    vcpus = distinct(states["a"])
    is_waiting = np.array([str(state).startswith("runnable") for state in states["state"]], bool)
    found: dict[str, Array] = {}
    for name, chosen in (("running", states["state"] == "running"), ("waiting", is_waiting)):
        cycles = states.where(chosen.astype(bool)).sums(["a"], ["total_cycles"])
        found[f"{name}_share_ratio"] = measures.of_span(counted(vcpus, cycles, column="total_cycles"))
    return Columns({"a": vcpus, **found})


def _stage(
    prefix: str,
    quality: Quality,
    meaning: str,
    needs: tuple[Records, ...],
    reach: Reach = Reach.VCPU,
    blurred_without: tuple[Records, ...] | None = None,
) -> tuple[Column, ...]:
    """Return the columns of a stage."""
    shared = None, needs, reach, blurred_without
    return (
        Column(f"{prefix}_count", _EXACT, f"{meaning}: how many were measured", *shared),
        *(
            Column(f"{prefix}_{name}", quality, f"{meaning}, {name.partition('_')[0]}", *shared)
            for name in _STATISTICS[1:]
        ),
    )


TABLES = (
    Table(
        "event_way",
        "way",
        "The way of an event: the time of each stage",
        event_way,
        (
            DOMAIN,
            VCPU,
            Column("running_share_ratio", _EXACT, "share of the trace's span in which it ran"),
            Column("waiting_share_ratio", _EXACT, "share of the span in which it waited for a pCPU"),
            *_stage(
                "send_to_wake", _INFERRED, "event_channel_op of the sender to WAKE", (*_OF_WAKES, ENTRIES)
            ),
            *_stage("wake_to_runnable", _EXACT, "WAKE to RUNSTATE_CHANGE to runnable", _OF_WAKES),
            *_stage("runnable_to_running", _EXACT, "runnable after a wake, to running", _OF_WAKES),
            *_stage("wake_to_running", _EXACT, "WAKE to RUNSTATE_CHANGE to running", _OF_WAKES),
            *_stage(
                "running_to_entry_most",
                _BOUNDED,
                "PV guests, after a block: start of the run to the first guest record: the upcall began by "
                "then",
                _OF_PV,
            ),
            *_stage(
                "running_to_iret_most",
                _BOUNDED,
                "PV guests, after a block: start of the run to the iret, an upper bound of the upcall's time",
                _OF_PV,
            ),
            *_stage(
                "injection_to_entry_most",
                _BOUNDED,
                "HVM and PVH guests: VMEXIT before the injection to VMENTRY; the INJ_VIRQ record between "
                "them has no TSC",
                _OF_HVM,
            ),
            *_stage(
                "entry_to_exit",
                _INFERRED,
                "HVM and PVH guests: VMENTRY after the injection to the next VMEXIT",
                _OF_HVM,
            ),
            *_stage(
                "mark_to_entry",
                _EXACT,
                "first PENDING since the upcall before, to UPCALL or to the VM entry after an INJECT",
                event_delivery.NEEDS,
                Reach.HOST,
                (ENTRIES,),
            ),
            *_stage(
                "entry_to_iret",
                _EXACT,
                "UPCALL to the iret with its frame (PV guests)",
                (*event_delivery.NEEDS, PV),
                Reach.HOST,
                (ENTRIES,),
            ),
        ),
        needs=(RUNSTATES,),
        reach=Reach.VCPU,
        bias="the stages do not add up: each is measured over the events for which both its ends are known",
    ),
    Table(
        "wake_spread",
        "way",
        "Wakes by the time to running",
        wake_spread,
        (
            DOMAIN,
            VCPU,
            Column("low_cycles", _EXACT, "least time of the octave; the next one begins at its double"),
            Column("count", _EXACT, "wakes whose time from wake to running is in it"),
        ),
        needs=_OF_WAKES,
        reach=Reach.VCPU,
    ),
)
