"""How many of a PV vCPU's irets that may end upcalls provably end system calls."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from xtrace.analysis.coverage.coverage import Held
from xtrace.analysis.coverage.needs import EXITS, IRQS, PV, RUNSTATES, SWITCHES
from xtrace.analysis.measures.lookup import counted
from xtrace.analysis.measures.measures import Measures
from xtrace.analysis.state_machine.keys import are_guests, domain_of
from xtrace.analysis.state_machine.metrics import VCPU_PV, Metric
from xtrace.probes.xen_abi import DOM0

#: What sets events pending, and when vCPUs block.
_NEEDS = (RUNSTATES, SWITCHES, PV, IRQS)
_DAMAGE = ("skipped_bytes", "missing_bytes", "damage_count", "late_records", "backward_tsc_count")


def without_event(measures: Measures, vcpus: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return, by vCPU, how many of its IRET_OPEN end no upcall, because no event can have been pending.

    It is 0 where a record of an event may be missing.  The trace buffer's own interrupt to dom0, which leaves
    no record, comes at most once for each window of half a ring, and once more at the end of each pCPU.
    """
    if not _has_all_events(measures):
        return np.zeros(len(vcpus), np.int64)
    found = counted(vcpus, measures.counts(Metric.IRET_NO_EVENT))
    partial = measures.partial
    notified = int(partial.facts["half_full_windows"].sum()) + len(partial.pcpus)
    return np.where(domain_of(vcpus) == DOM0, np.maximum(found - notified, 0), found)


def _has_all_events(measures: Measures) -> bool:
    coverage, facts = measures.coverage, measures.partial.facts
    vcpus = measures.partial.vcpus
    types = vcpus["type"][are_guests(vcpus["vcpu"])]
    needs = (*_NEEDS, EXITS) if (types != VCPU_PV).any() else _NEEDS
    is_damaged = any(facts[name].sum() > 0 for name in _DAMAGE)
    has_loss = len(measures.counts(Metric.LOST_RECORDS)) > 0
    is_whole = coverage.is_whole and not (coverage.is_skewed or coverage.has_cores)
    return is_whole and not (is_damaged or has_loss) and coverage.holds(needs) is Held.FULLY
