"""Time in slots: what pCPUs and vCPUs did in each, and how long its wakes took.

The slots are those that the pass keeps: at most 512 of 2^n TSC cycles.  In each slot the parts of the time of
a pCPU or a vCPU add up to the slot's length, to the cycle; the rest, of which the trace does not show what it
was, is unknown: after lost records, before a first record, or where windows are missing.

Bias: where pCPUs are missing, a vCPU may have run there while it counts as blocked or waiting; then the
figures are inferred.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from xtrace.analysis.columns import I64, distinct
from xtrace.analysis.measures.measures import Measures
from xtrace.analysis.measures.slots import Slots
from xtrace.analysis.state_machine.kept import TIME_OCTAVES, Slotted
from xtrace.analysis.state_machine.keys import domain_of, vcpu_of
from xtrace.probes.xen_abi import DEFAULT_DOMAIN, IDLE_DOMAIN

Mask: TypeAlias = npt.NDArray[np.bool_]

#: The parts of a pCPU's and of a vCPU's time, and what the pass keeps of them.
_PCPU_PARTS: Mapping[str, tuple[Slotted, ...]] = {
    "running": (Slotted.PCPU_RUNNING,),
    "idle": (Slotted.IDLE,),
    "lost": (Slotted.PCPU_LOST,),
}
_VCPU_PARTS: Mapping[str, tuple[Slotted, ...]] = {
    "running": (Slotted.RUNNING,),
    "waiting": (Slotted.WAITING, Slotted.DEPLETED),
    "blocked": (Slotted.BLOCKED,),
    "offline": (Slotted.OFFLINE,),
}


@dataclass(frozen=True, slots=True)
class PcpuOverTime:
    """A pCPU's time by slot.

    Attributes:
        cycles: int64 [slots] of each part: running, idle, lost, unknown.
        lost_records: int64 [slots].
    """

    pcpu: int
    cycles: Mapping[str, I64]
    lost_records: I64


@dataclass(frozen=True, slots=True)
class VcpuOverTime:
    """A vCPU's time by slot.

    Attributes:
        cycles: int64 [slots] of each part: running, waiting, blocked, offline, unknown.
        wakes: int64 [slots].
    """

    domain: int
    vcpu: int
    cycles: Mapping[str, I64]
    wakes: I64


@dataclass(frozen=True, slots=True)
class WakesOverTime:
    """Wakes that took from ``least_cycles`` to less than twice that, by the slot in which they ended.

    Attributes:
        least_cycles: a power of two; 0 stands for less than 2 cycles.
        counts: int64 [slots].
    """

    least_cycles: int
    counts: I64


@dataclass(frozen=True, slots=True)
class OverTime:
    """What a trace has in each slot of time.

    Attributes:
        slot_cycles: length of a slot; the first and the last one are cut to the trace.
        begin_cycles: int64 [slots], from the trace's first record on.
        length_cycles: int64 [slots].
        first_tsc: of the trace's first record.
        folded_count: keys that were too many for slots of their own; their rows are missing.
    """

    slot_cycles: int
    begin_cycles: I64
    length_cycles: I64
    first_tsc: int
    pcpus: Sequence[PcpuOverTime]
    vcpus: Sequence[VcpuOverTime]
    wake_to_running: Sequence[WakesOverTime]
    folded_count: int


def over_time(
    measures: Measures, slots: Slots, wanted: Callable[[int], bool] = lambda key: True
) -> OverTime | None:
    """Return what the traces have in each slot; None where their times cannot be compared.

    Args:
        slots: of the same Partial.
        wanted: whether the vCPU with this key is.
    """
    if not slots.count or not slots.has_one_axis:
        return None
    first_tsc = int(measures.partial.spans["first_tsc"].min())
    lengths = slots.lengths
    inside = lengths > 0
    if not inside.any():
        return None  # all records are of one time
    begins = np.array([slots.begin_tsc(place) for place in range(slots.count)], np.int64)
    return OverTime(
        slots.cycles,
        begins[inside] - first_tsc,
        lengths[inside],
        first_tsc,
        [_pcpu(slots, each, lengths, inside) for each in distinct(measures.partial.pcpus["pcpu"]).tolist()],
        [_vcpu(slots, key, lengths, inside) for key in _keys(slots) if wanted(key)],
        _wakes(slots, inside),
        int(measures.partial.facts["slot_keys_folded"].sum()),
    )


def _keys(slots: Slots) -> list[int]:
    """Return the keys of the guests' vCPUs that have a sum."""
    found = {key for kinds in _VCPU_PARTS.values() for kind in kinds for key, _ in slots.keys(kind)}
    return sorted(key for key in found if domain_of(key) not in (IDLE_DOMAIN, DEFAULT_DOMAIN))


def _pcpu(slots: Slots, number: int, lengths: I64, inside: Mask) -> PcpuOverTime:
    cycles = _parts(slots, _PCPU_PARTS, number, lengths, inside)
    return PcpuOverTime(number, cycles, slots.series(Slotted.LOST, number).totals[inside])


def _vcpu(slots: Slots, key: int, lengths: I64, inside: Mask) -> VcpuOverTime:
    cycles = _parts(slots, _VCPU_PARTS, key, lengths, inside)
    wakes = slots.series(Slotted.WAKES, key).counts[inside]
    return VcpuOverTime(domain_of(key), vcpu_of(key), cycles, wakes)


def _parts(
    slots: Slots, parts: Mapping[str, tuple[Slotted, ...]], a: int, lengths: I64, inside: Mask
) -> dict[str, I64]:
    """Return the cycles of each part by slot; "unknown" is the rest.

    Parts overlap where the TSCs of pCPUs differ, and may be anything in a stranger's summary: no rest then.
    """
    rest = lengths.copy()
    cycles = {}
    for name, kinds in parts.items():
        total = sum((slots.series(kind, a).totals for kind in kinds), np.zeros_like(lengths))
        cycles[name] = total[inside]
        rest -= total
    return cycles | {"unknown": np.maximum(rest[inside], 0)}


def _wakes(slots: Slots, inside: Mask) -> list[WakesOverTime]:
    rows = []
    for octave in range(TIME_OCTAVES):
        counts = slots.series(Slotted.LATENCY, octave).counts[inside]
        if counts.any():
            rows.append(WakesOverTime(1 << octave if octave else 0, counts))
    return rows
