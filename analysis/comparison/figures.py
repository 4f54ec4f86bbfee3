"""The figures that captures are compared by: one number per figure, domain and capture.

What does a repetition look like, in a few figures that a change of kernel, configuration or hardware moves?
Output: measure() returns the figures of FIGURES for each domain (all its vCPUs together) and for the host;
times in ns or cycles, rates per second, shares from 0 to 1.

Bias: as in the tables that show these figures.  A quantile of too few intervals (FEWEST) is left out, because
it would be their maximum.  Rates count what was recorded, so blind time lowers them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from xtrace.analysis.columns import Columns
from xtrace.analysis.comparison.distributions import Times, times_of
from xtrace.analysis.coverage.coverage import Coverage, coverage_of
from xtrace.analysis.coverage.needs import (
    ENTRIES,
    EXITS,
    HANDLERS,
    IRQS,
    PV,
    RUNSTATES,
    SWITCHES,
    Records,
)
from xtrace.analysis.measures.lookup import is_proven, share
from xtrace.analysis.measures.table import Quality
from xtrace.analysis.state_machine.keys import domain_of, high_of, low_of, paired
from xtrace.analysis.state_machine.metrics import FIRST_COUNT, Metric, Woken
from xtrace.analysis.summary import clock
from xtrace.analysis.summary.histogram import summarise
from xtrace.analysis.summary.summary_file import Summary
from xtrace.analysis.summary.summary_head import COST_ENDS
from xtrace.analysis.summary.versions import detected
from xtrace.probes.catalog import VersionRange
from xtrace.probes.xen_abi import IDLE_DOMAIN, Hypercall

F64 = npt.NDArray[np.float64]

#: Domain key of the host's own figures.
HOST = -1
HOST_LABEL = "host"

#: Fewest intervals in a capture for a quantile.
FEWEST = {"p50": 5, "p95": 20, "p99": 100}

_EXACT, _BOUNDED, _INFERRED = Quality.EXACT, Quality.BOUNDED, Quality.INFERRED
_RUNNABLE = (Metric.RUNNABLE_WAKE, Metric.RUNNABLE_PREEMPT, Metric.RUNNABLE_OTHER)
_OF_PCPUS = (
    Metric.PCPU_RUNNING, Metric.PCPU_IDLE, Metric.PCPU_LOST, Metric.PCPU_UNKNOWN, Metric.IRQ_HANDLING
)  # fmt: skip
#: Metrics whose key a is neither a vCPU nor a pCPU, and metrics that no figure is made from.
_OF_OTHERS = (
    Metric.DOMAIN_STATE, Metric.DOMAIN_UNKNOWN, Metric.DOMAIN_PART, Metric.CSTATE, Metric.HANDOFF,
    Metric.SKEW_NOT_FROM, Metric.SKEW_NOT_TO, Metric.RIP, Metric.LOST_RECORDS,
)  # fmt: skip


class Unit(StrEnum):
    """The unit of a figure."""

    TIME = "time"  # ns, or cycles if no TSC rate is known
    PER_S = "per_s"
    RATIO = "ratio"


class Sums:
    """A capture's tallies added up over the vCPUs of each domain.

    Attributes:
        domains: int64, ascending; HOST is one of them.
    """

    def __init__(self, summary: Summary, hz: float | None) -> None:
        partial = summary.partial
        self._span_cycles = float(partial.facts["span_cycles"].sum())
        self._hz = hz
        self.pcpu_count = len(np.unique(partial.pcpus["pcpu"]))
        self.vcpu_counts: dict[int, int] = {}
        tallies = _with_domain(partial.tallies)
        self.domains, place = np.unique(np.append(tallies["domain"], HOST), return_inverse=True)
        self._place = place[:-1]
        self._costs = summary.origin.costs
        self._metric = tallies["metric"]
        self._b = tallies["b"]
        self._count = tallies["count"]
        self._cycles = tallies["sum_cycles"]
        vcpus = np.unique(low_of(tallies["a"][tallies["domain"] != HOST]))
        for key, count in zip(*np.unique(domain_of(vcpus), return_counts=True), strict=True):
            self.vcpu_counts[int(key)] = int(count)
        timed = tallies.where(self._metric < int(FIRST_COUNT))
        buckets = partial.buckets.where(np.isin(partial.buckets["metric"], timed["metric"]))
        self._times = summarise(timed, _with_domain(buckets), ["metric", "domain"])

    def quantile(self, metric: Metric, which: str) -> F64:
        """Return a quantile in ns, or in cycles without a TSC rate; NaN with too few intervals."""
        rows = self._times.where(self._times["metric"] == metric)
        result = np.full(len(self.domains), np.nan)
        values = np.where(rows["count"] >= FEWEST[which], rows[f"{which}_cycles"], np.nan)
        result[np.searchsorted(self.domains, rows["domain"])] = values
        return result * (1e9 / self._hz) if self._hz else result

    def count(self, *metrics: Metric, b: int | None = None) -> F64:
        """Return the counts of the metrics added up, only those with ``b`` if given."""
        return self._added(self._count, metrics, b)

    def cycles(self, *metrics: Metric, b: int | None = None) -> F64:
        """Return the cycles of the metrics added up, only those with ``b`` if given."""
        return self._added(self._cycles, metrics, b)

    def per_s(self, count: F64) -> F64:
        """Return counts per second; NaN without a TSC rate or without recorded time."""
        return count * (self._hz / self._span_cycles) if self._hz and self._span_cycles else count * np.nan

    def of_pcpus(self, cycles: F64) -> F64:
        """Return cycles as shares of the span of all pCPUs."""
        return share(cycles, np.full(len(cycles), self._span_cycles * self.pcpu_count))

    def fences(self, end: str) -> F64:
        """Return each domain's cost of fences at one of COST_ENDS, a share of its running time; or NaN."""
        place = COST_ENDS.index(end)
        none = [np.nan] * len(COST_ENDS)
        return np.array([self._costs.get(domain, none)[place] for domain in self.domains.tolist()], float)

    @property
    def known_cycles(self) -> F64:
        """Time in which the runstate of a domain's vCPUs is known, including open intervals."""
        return self.all_cycles(
            Metric.RUNNING, *_RUNNABLE, Metric.RUNNABLE_BUDGET, Metric.BLOCKED, Metric.OFFLINE
        )

    def all_cycles(self, *metrics: Metric) -> F64:
        """Return the cycles of the metrics added up, with those in intervals that the trace cuts off."""
        opened = [self.cycles(Metric.OPEN, b=paired(metric, 0)) for metric in metrics]
        return self.cycles(*metrics) + sum(opened)

    @property
    def span_s(self) -> float:
        """Seconds that were recorded; NaN without a TSC rate."""
        return self._span_cycles / self._hz if self._hz else float("nan")

    def _added(self, values: npt.NDArray[np.int64], metrics: tuple[Metric, ...], b: int | None) -> F64:
        wanted = np.isin(self._metric, [int(metric) for metric in metrics])
        if b is not None:
            wanted &= self._b == b
        added = np.bincount(self._place[wanted], values[wanted].astype(float), len(self.domains))
        return np.asarray(added, np.float64)


def _with_domain(rows: Columns) -> Columns:
    """Return the rows of vCPUs and pCPUs with their domain, HOST for pCPUs; without those of idle vCPUs.

    The key of an open interval is of the metric that its ``b`` names.
    """
    of = np.where(rows["metric"] == int(Metric.OPEN), high_of(rows["b"]), rows["metric"])
    rows = rows.where(~np.isin(of, [int(metric) for metric in _OF_OTHERS]))
    of_pcpus = np.isin(rows["metric"], [int(metric) for metric in _OF_PCPUS])
    rows = rows.having(domain=np.where(of_pcpus, HOST, domain_of(rows["a"])))
    return rows.where(rows["domain"] < IDLE_DOMAIN)


@dataclass(frozen=True, slots=True)
class Figure:
    """A figure that captures are compared by.

    Attributes:
        name: as users and JSON have it.
        unit: of its values.
        quality: how it is known.
        meaning: in a few words.
        needs: the kinds of records without which a capture does not have it.
        of: returns its value by domain; NaN for none.
        key: shown without --all.
        of_all_pcpus: it has no value where vCPUs were on pCPUs without records.
    """

    name: str
    unit: Unit
    quality: Quality
    meaning: str
    needs: tuple[Records, ...]
    of: Callable[[Sums], F64]
    key: bool = False
    of_all_pcpus: bool = False


@dataclass(frozen=True, slots=True)
class Measured:
    """The figures of a capture.

    Attributes:
        name: as the user named it.
        hz: TSC rate; if it is None, times are in cycles and there are no rates.
        values: by the label of the domain and the name of the figure; unknown values are left out.
        vcpu_counts: by the label of the domain, how many vCPUs were seen.
        span_s: seconds recorded; NaN without a TSC rate.
        emulated: the host was emulated in software.
        versions: Xen versions that may have written it.
        is_part: only a window of its trace was counted.
        ids: of the domains, by label.
        coverage: what the capture covers.
        wake_times: from wake to running, by the label of the domain.
    """

    name: str
    hz: float | None
    values: Mapping[str, Mapping[str, float]]
    vcpu_counts: Mapping[str, int]
    span_s: float
    emulated: bool
    versions: VersionRange
    is_part: bool = False
    ids: Mapping[str, int] = field(default_factory=dict)
    coverage: Coverage | None = None
    wake_times: Mapping[str, Times] = field(default_factory=dict)

    def lacks(self, figure: Figure) -> list[Records]:
        """Return the kinds of records that a figure needs and the capture does not have."""
        return self.coverage.lacking(figure.needs) if self.coverage else []


def measure(summary: Summary, hz: float | None = None) -> Measured:
    """Return the figures of a capture.

    Args:
        hz: TSC cycles per second; None takes the rate from the summary or estimates it from its records.
    """
    rate = hz or summary.origin.tsc_hz
    if not rate:
        found = clock.estimate(summary.partial.pairs)
        rate = found.hz if found else None
    coverage = coverage_of(summary.partial, rate)
    confirmed = _confirmed(summary, coverage)
    sums = Sums(confirmed, rate)
    labels = labels_of(sums.domains.tolist(), summary.origin.domains)
    times = times_of(confirmed.partial, rate)
    recorded = [
        figure
        for figure in FIGURES
        if not coverage.lacking(figure.needs) and (coverage.has_all_pcpus or not figure.of_all_pcpus)
    ]
    columns = {figure.name: figure.of(sums).tolist() for figure in recorded}
    return Measured(
        summary.origin.name,
        rate,
        {
            label: {name: column[row] for name, column in columns.items() if not np.isnan(column[row])}
            for row, label in enumerate(labels)
        },
        {
            label: sums.vcpu_counts[domain]
            for label, domain in zip(labels, sums.domains.tolist(), strict=True)
            if domain in sums.vcpu_counts
        },
        sums.span_s,
        summary.origin.emulated,
        detected(summary.partial.records).range,
        bool(summary.origin.window),
        dict(zip(labels, sums.domains.tolist(), strict=True)),
        coverage,
        {
            label: times[domain]
            for label, domain in zip(labels, sums.domains.tolist(), strict=True)
            if domain in times
        },
    )


def _confirmed(summary: Summary, coverage: Coverage) -> Summary:
    """Return the summary, where pCPUs are missing only with the wakes that the scheduler confirms."""
    if coverage.has_all_pcpus:
        return summary

    def confirmed(rows: Columns) -> Columns:
        is_wake = rows["metric"] == int(Metric.WAKE_TO_RUNNING)
        return rows.where(~is_wake | is_proven(rows["b"]))

    partial = summary.partial
    return replace(
        summary,
        partial=replace(partial, tallies=confirmed(partial.tallies), buckets=confirmed(partial.buckets)),
    )


def labels_of(domains: list[int], known: Mapping[int, str]) -> list[str]:
    """Return a label for each domain: its name if that is known and unique, otherwise d and its id."""
    plain = {domain: HOST_LABEL if domain == HOST else f"d{domain}" for domain in domains}
    called = [known.get(domain) or plain[domain] for domain in domains]
    taken = [*called, *plain.values()]
    return [
        name if name == plain[domain] or taken.count(name) == 1 else plain[domain]
        for domain, name in zip(domains, called, strict=True)
    ]


def _times(
    name: str,
    metric: Metric,
    quality: Quality,
    meaning: str,
    needs: tuple[Records, ...],
    key: str = "",
    other: str = "",
) -> tuple[Figure, ...]:
    """Return the figures of a metric's quantiles: ``key`` are always shown, ``other`` with --all."""

    def quantile(which: str) -> Figure:
        return Figure(
            f"{name}_{which}",
            Unit.TIME,
            quality,
            f"{meaning}, {which}",
            needs,
            lambda sums: sums.quantile(metric, which),
            which in key.split(),
        )

    return tuple(quantile(which) for which in FEWEST if which in (*key.split(), *other.split()))


def _rate(
    name: str,
    quality: Quality,
    meaning: str,
    needs: tuple[Records, ...],
    of: Callable[[Sums], F64],
    key: bool = False,
    of_all_pcpus: bool = False,
) -> Figure:
    return Figure(
        f"{name}_per_s",
        Unit.PER_S,
        quality,
        meaning,
        needs,
        lambda sums: sums.per_s(of(sums)),
        key,
        of_all_pcpus,
    )


def _state_share(name: str, *metrics: Metric, meaning: str, key: bool) -> Figure:
    def of(sums: Sums) -> F64:
        return share(sums.all_cycles(*metrics), sums.known_cycles)

    return Figure(f"{name}_share", Unit.RATIO, _EXACT, meaning, (RUNSTATES,), of, key, of_all_pcpus=True)


_OF_WAKES = (SWITCHES, RUNSTATES)
_OF_CAUSES = (SWITCHES, RUNSTATES, ENTRIES)
_OF_UPCALLS = (PV, RUNSTATES, SWITCHES)
_OF_INJECTIONS = (HANDLERS, EXITS)

FIGURES: tuple[Figure, ...] = (
    # Delivery.
    *_times("wake_to_running", Metric.WAKE_TO_RUNNING, _EXACT, "wake to running", _OF_WAKES,
            "p50 p99", "p95"),
    *_times("send_to_wake", Metric.SEND_TO_WAKE, _INFERRED, "event_channel_op to wake", _OF_CAUSES,
            "p50", "p99"),
    *_times("irq_to_wake", Metric.IRQ_TO_WAKE, _EXACT, "interrupt entry to wake", (*_OF_WAKES, IRQS),
            other="p50"),
    Figure("migrated_share", Unit.RATIO, _EXACT, "wakes whose vCPU ran on a pCPU other than the waker's",
           _OF_WAKES, lambda sums: share(_moved(sums), sums.count(Metric.WAKE_TO_RUNNING)),
           of_all_pcpus=True),
    # Upcalls.
    *_times("upcall_least", Metric.UPCALL_MIN, _INFERRED, "upcall after a block, at least", _OF_UPCALLS,
            "p50", "p99"),
    *_times("upcall_most", Metric.UPCALL_MAX, _BOUNDED, "upcall after a block, at most", _OF_UPCALLS,
            "p50", "p99"),
    *_times("run_to_upcall", Metric.RUNNING_TO_GUEST, _BOUNDED, "running to upcall, at most", _OF_UPCALLS,
            other="p50"),
    *_times("forced_to_iret", Metric.FORCED_CALLBACK, _INFERRED, "forced callback to its iret",
            (PV, RUNSTATES), other="p50"),
    *_times("inject_to_entry", Metric.INJECTION_TO_ENTRY, _BOUNDED, "VM exit before an injection to VMENTRY",
            _OF_INJECTIONS, "p50", "p99"),
    *_times("window_wait", Metric.INTR_WINDOW_WAIT, _BOUNDED, "interrupt window to injection, at most",
            (HANDLERS, EXITS), "p50", "p99"),
    *_times("hvm_upcall", Metric.HVM_UPCALL, _INFERRED, "VMENTRY after an injection to the next VM exit",
            _OF_INJECTIONS, "p50", "p99"),
    Figure("block_pending_share", Unit.RATIO, _INFERRED, "block hypercalls that found an event pending",
           _OF_UPCALLS,
           lambda sums: share(sums.count(Metric.BLOCK_WITHOUT_BLOCK), sums.count(Metric.BLOCK_CALL))),
    # Runstates.
    _state_share("running", Metric.RUNNING, meaning="vCPUs' known time running", key=True),
    _state_share("waiting", *_RUNNABLE, meaning="vCPUs' known time waiting for a pCPU", key=True),
    _state_share("blocked", Metric.BLOCKED, meaning="vCPUs' known time blocked", key=False),
    # Rates.
    _rate("wakes", _EXACT, "wakes", _OF_WAKES, lambda sums: sums.count(Metric.WAKE_CAUSE), key=True),
    _rate("sends", _EXACT, "event_channel_op hypercalls", (ENTRIES,),
          lambda sums: sums.count(Metric.SEND), key=True),
    _rate("hypercalls", _EXACT, "hypercalls", (ENTRIES,),
          lambda sums: sums.count(Metric.HYPERCALL, Metric.VMMCALL), key=True),
    _rate("forced", _EXACT, "xen_version hypercalls: forced callbacks, except a few version queries", (PV,),
          lambda sums: sums.count(Metric.HYPERCALL, b=Hypercall.XEN_VERSION), key=True),
    _rate("upcalls_least", _INFERRED, "irets that end the upcall after a block", _OF_UPCALLS,
          lambda sums: sums.count(Metric.IRET_UPCALL)),
    _rate("upcalls_most", _BOUNDED, "those and every iret that no trap explains", _OF_UPCALLS,
          lambda sums: sums.count(Metric.IRET_UPCALL, Metric.IRET_OPEN)),
    _rate("irets", _EXACT, "iret hypercalls", (PV,),
          lambda sums: sums.count(Metric.HYPERCALL, b=Hypercall.IRET)),
    _rate("blocks", _EXACT, "block hypercalls", (PV,), lambda sums: sums.count(Metric.BLOCK_CALL)),
    _rate("traps", _EXACT, "traps of PV guests", (PV,), lambda sums: sums.count(Metric.TRAP)),
    _rate("exits", _EXACT, "VM exits", (EXITS,),
          lambda sums: sums.count(Metric.HVM_EXIT, Metric.EXIT_WITHOUT_TIME), key=True),
    _rate("injections", _EXACT, "interrupts injected", (HANDLERS,),
          lambda sums: sums.count(Metric.INJECTION), key=True),
    _rate("migrations", _EXACT, "migrations between pCPUs", (RUNSTATES,),
          lambda sums: sums.count(Metric.RESIDENCE), of_all_pcpus=True),
    # Fences: in summaries stored by a report with an image and a calibration.
    Figure("fences_least_share", Unit.RATIO, Quality.MODELLED,
           "running time spent in the fences of its sites, at least, if nothing misses the caches",
           (), lambda sums: sums.fences("hot_low"), key=True),
    Figure("fences_hot_share", Unit.RATIO, Quality.MODELLED,
           "running time spent in the fences of its sites, at most, if nothing misses the caches",
           (), lambda sums: sums.fences("hot"), key=True),
    Figure("fences_most_share", Unit.RATIO, Quality.MODELLED,
           "running time spent in the fences of its sites, at most", (), lambda sums: sums.fences("high")),
    # The host.
    Figure("pcpu_running_share", Unit.RATIO, _EXACT, "pCPUs' time in which a guest ran", (RUNSTATES,),
           lambda sums: _host(sums, sums.of_pcpus(sums.cycles(Metric.PCPU_RUNNING))), key=True),
    Figure("pcpu_lost_share", Unit.RATIO, _EXACT, "pCPUs' time in which records were lost", (),
           lambda sums: _host(sums, sums.of_pcpus(sums.cycles(Metric.PCPU_LOST)))),
    *_times("irq", Metric.IRQ_HANDLING, _EXACT, "handling of an interrupt", (IRQS,), other="p50 p99"),
    _rate("irqs", _EXACT, "interrupts handled", (IRQS,), lambda sums: sums.count(Metric.IRQ_HANDLING)),
)  # fmt: skip

BY_NAME = {figure.name: figure for figure in FIGURES}

#: Figures that describe the load: if these differ, times may differ for that reason alone.
LOADS = ("wakes_per_s", "sends_per_s", "hypercalls_per_s", "exits_per_s", "running_share")


def _moved(sums: Sums) -> F64:
    """Return the wakes after which the vCPU ran on another pCPU."""
    flags = [flags for flags in range(2 * Woken.UNPROVEN) if flags & Woken.MOVED]
    moved = [sums.count(Metric.WAKE_TO_RUNNING, b=each) for each in flags]
    return np.asarray(np.sum(moved, axis=0), np.float64)


def _host(sums: Sums, values: F64) -> F64:
    return np.where(sums.domains == HOST, values, np.nan)
