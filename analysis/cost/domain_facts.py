"""What the trace says about a domain, as far as the cost of its fences needs it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from xtrace.analysis.columns import Columns
from xtrace.analysis.coverage.coverage import Held
from xtrace.analysis.coverage.needs import ENTRIES, RUNSTATES
from xtrace.analysis.measures.lookup import of_domain
from xtrace.analysis.measures.measures import Measures
from xtrace.analysis.measures.upcall_bounds import without_event
from xtrace.analysis.state_machine.keys import domain_of, paired
from xtrace.analysis.state_machine.metrics import VCPU_HVM, VCPU_PV, Metric
from xtrace.probes.bpf.abi import Kind
from xtrace.probes.xen_abi import DOM0, HYPERCALL_COUNT, Hypercall, SchedOp

_YIELD = paired(Hypercall.SCHED_OP, SchedOp.YIELD)
#: The other functions may be inlined into their callers, so that not every upcall calls them.
_EACH_UPCALL = "xen_evtchn_do_upcall"


@dataclass(frozen=True, slots=True)
class DomainFacts:
    """A domain in the trace.

    Attributes:
        domain: its id.
        is_known: the trace has it.  is_pv, is_hvm: the type of its vCPUs, if the trace shows it.
        running_cycles: time its vCPUs ran, including the interval that the end of the trace cuts off.
        running_most_cycles: the most that they can have run: with the time in which their state is not known;
            inf where the trace does not show which pCPUs or windows it lacks.
        upcalls: least and most.
        upcall_cycles: mean time of an upcall, least and most; 0 and inf if none was measured.
        xen_version_count, block_count, yield_count: hypercalls; the first include forced callbacks.
        never: hypercalls that it certainly did not make; empty if records were lost or no hypercall was
            recorded.
        calls: calls to functions in the traced time, least and most, if bpf counted in its kernel; the most
            is inf if bpf gives no upper bound.
        upcalls_by_bpf: least and most; None if bpf counted none.
    """

    domain: int
    is_known: bool
    is_pv: bool
    is_hvm: bool
    running_cycles: int
    running_most_cycles: float
    upcalls: tuple[int, int]
    upcall_cycles: tuple[float, float]
    xen_version_count: int
    block_count: int
    yield_count: int
    never: frozenset[int]
    calls: dict[str, tuple[float, float]] = field(default_factory=dict)
    upcalls_by_bpf: tuple[float, float] | None = None


def domain_facts(measures: Measures, domain: int) -> DomainFacts:
    """Return what the trace says about ``domain``."""
    vcpus = measures.partial.vcpus
    types = set(vcpus["type"][domain_of(vcpus["vcpu"]) == domain].tolist())
    running = _sum(measures.counts(Metric.RUNNING), domain, "sum_cycles")
    running += _sum(measures.open_times(Metric.RUNNING), domain, "open_cycles")
    least = _sum(measures.counts(Metric.IRET_UPCALL), domain)
    hypercalls = of_domain(measures.counts(Metric.HYPERCALL), domain)
    commands = of_domain(measures.counts(Metric.COMMAND), domain)
    calls = _calls(measures) if domain == DOM0 else {}
    return DomainFacts(
        domain=domain,
        is_known=bool(types),
        is_pv=VCPU_PV in types,
        is_hvm=VCPU_HVM in types,
        running_cycles=running,
        running_most_cycles=running + _hidden(measures, domain),
        upcalls=(least, least + _open(measures, domain)),
        upcall_cycles=(
            _mean(measures.counts(Metric.UPCALL_MIN), domain, 0.0),
            _mean(measures.counts(Metric.UPCALL_MAX), domain, float("inf")),
        ),
        xen_version_count=int(hypercalls["count"][hypercalls["b"] == Hypercall.XEN_VERSION].sum()),
        block_count=_sum(measures.counts(Metric.BLOCK_CALL), domain),
        yield_count=int(commands["count"][commands["b"] == _YIELD].sum()),
        never=_never(measures, set(hypercalls["b"].tolist())),
        calls={function: bounds for (_, function), bounds in calls.items()},
        upcalls_by_bpf=_upcalls_of(calls),
    )


def _open(measures: Measures, domain: int) -> int:
    """Return how many irets may end an upcall, besides those that do."""
    rows = of_domain(measures.counts(Metric.IRET_OPEN), domain)
    return int(rows["count"].sum() - without_event(measures, rows["a"]).sum())


def lost_records(measures: Measures) -> int:
    """Return how many records Xen reports as lost."""
    return int(measures.counts(Metric.LOST_RECORDS)["sum_cycles"].sum())


def pv_domains(measures: Measures) -> list[int]:
    """Return the ids of PV domains, ascending."""
    vcpus = measures.partial.vcpus
    return sorted(set(domain_of(vcpus["vcpu"][vcpus["type"] == VCPU_PV]).tolist()))


def _hidden(measures: Measures, domain: int) -> float:
    """Return the time in which the states of a domain's vCPUs are not known; inf where that is not known."""
    coverage = measures.coverage
    if not coverage.is_whole or coverage.is_skewed or coverage.holds((RUNSTATES,)) is not Held.FULLY:
        return float("inf")
    return sum(
        _sum(measures.counts(metric), domain, "sum_cycles")
        for metric in (Metric.STATE_LOST, Metric.STATE_UNKNOWN)
    )


def _never(measures: Measures, made: Collection[int]) -> frozenset[int]:
    # An iret may happen without the hypercall; if there are no records of hypercalls, they were not traced.
    coverage = measures.coverage
    is_traced = coverage.is_whole and coverage.holds((ENTRIES,)) is Held.FULLY
    if not made or not is_traced or lost_records(measures):
        return frozenset()
    return frozenset(range(HYPERCALL_COUNT)) - frozenset(made) - {Hypercall.IRET}


def _calls(measures: Measures) -> dict[tuple[int, str], tuple[float, float]]:
    """Return calls to dom0's functions by kind and function; the most is inf unless every trace has one."""
    traces = int(measures.partial.facts["files"].sum())
    calls = measures.partial.dom0_calls.sums(["kind", "function"], ["bounded", "count", "most_count"])
    return {
        (row["kind"], row["function"]): (
            float(row["count"]),
            float(row["most_count"]) if row["bounded"] >= traces else float("inf"),
        )
        for row in calls.rows()
    }


def _upcalls_of(calls: Mapping[tuple[int, str], tuple[float, float]]) -> tuple[float, float] | None:
    found = [
        (low, high if function == _EACH_UPCALL else float("inf"))
        for (kind, function), (low, high) in calls.items()
        if kind == Kind.UPCALL
    ]
    # With captures of several kernels, each function counts only some of the upcalls: no common upper bound.
    return (sum(low for low, _ in found), max(high for _, high in found)) if found else None


def _sum(rows: Columns, domain: int, column: str = "count") -> int:
    return int(of_domain(rows, domain)[column].sum())


def _mean(rows: Columns, domain: int, otherwise: float) -> float:
    own = of_domain(rows, domain)
    count = int(own["count"].sum())
    return float(own["sum_cycles"].sum()) / count if count else otherwise
