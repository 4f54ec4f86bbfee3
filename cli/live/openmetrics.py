"""The figures of `xtrace top` and `stat` as OpenMetrics or Prometheus text: counters since the start.

Histograms are classic ones.  A value counts below a bound if its log-linear bucket ends there or before, so a
count can be too small by values within 1/64 below the bound.  Sums are of the middles of buckets.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from xtrace.probes.live.histogram import bounds_of
from xtrace.probes.words import printable

if TYPE_CHECKING:
    from xtrace.cli.live.feed import Watched
    from xtrace.probes.live.counters import Figures
    from xtrace.probes.live.histogram import Histogram
    from xtrace.probes.live.periods import Period

CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
PLAIN_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
#: Bounds of the histograms' buckets, in seconds.
BOUNDS_S = (*(factor * 10.0**power for power in range(-6, 1) for factor in (1, 2, 5)), 10.0)
_NAME_MOST = 100

#: Counters of a vCPU: name, attribute of Figures, what it counts and how that is known.
_COUNTERS = (
    ("wakes", "wakes", "Wakes while blocked or offline (exact)."),
    ("runs", "runs", "How often it began to run (exact)."),
    ("sends", "sends", "event_channel_op hypercalls (exact)."),
    ("hypercalls", "hypercalls", "Hypercalls (exact)."),
    (
        "forced_callbacks",
        "forced",
        "xen_version calls (exact), most of which force a callback.",
    ),
    ("upcalls_least", "upcalls_least", "Upcalls after a block (inferred): a lower bound."),
    ("upcalls_most", "upcalls_most", "Upcalls (at most)."),
    ("injections", "injections", "Interrupts injected into an HVM or PVH guest (exact)."),
    ("cut_measurements", "cuts", "Measurements that lost records cut off (exact)."),
)
#: Counters of a vCPU's time.
_TIMES = (
    ("running_seconds", "running_cycles", "Time on a pCPU (inferred)."),
    ("waiting_seconds", "waiting_cycles", "Time in which it could run and did not (inferred)."),
)
_HISTOGRAMS = (
    ("wake_to_running_seconds", "wake_to_running", "Time from a wake until it ran (exact)."),
    ("upcall_most_seconds", "upcall_most", "Upper bound of an upcall's time (at most)."),
    ("hvm_upcall_seconds", "hvm_upcall", "From the entry after an injection to the next exit (inferred)."),
)
#: Counters of the host.
_HOST = (
    ("records", "records", "Records that Xen wrote (exact)."),
    ("irqs", "irqs", "Interrupts that Xen handled (exact)."),
    ("lost_records", "lost", "Records that Xen had no room for (exact)."),
    ("record_losses", "gaps", "Gaps of lost records (exact)."),
)


@dataclass(slots=True)
class Totals:
    """Figures since the start.

    Attributes:
        hz: TSC rate; None where it is not known, and then there are no times.
    """

    hz: float | None = None
    vcpus: dict[int, Figures] = field(default_factory=dict)
    host: dict[str, int] = field(default_factory=lambda: {attribute: 0 for _, attribute, _ in _HOST})
    names: Mapping[int, str] = field(default_factory=dict)

    def add(self, watched: Watched, period: Period) -> None:
        """Add a period."""
        from xtrace.probes.live.counters import Figures
        from xtrace.probes.xen_abi import DEFAULT_DOMAIN, IDLE_DOMAIN

        rate = watched.feed.rate
        self.hz = rate.hz if rate.is_known else None
        self.names = watched.feed.names()
        for key, figures in period.vcpus.items():
            if key >> 16 not in (IDLE_DOMAIN, DEFAULT_DOMAIN):
                self.vcpus.setdefault(key, Figures()).add(figures)
        for attribute in self.host:
            self.host[attribute] += getattr(period.host, attribute)


def exposition(totals: Totals, *, is_open: bool = True) -> str:
    """Return all figures as text; without ``is_open``, in the form before OpenMetrics."""
    return "\n".join([*_lines(totals, is_open), *(["# EOF"] if is_open else [])]) + "\n"


def _lines(totals: Totals, is_open: bool) -> Iterator[str]:
    for name, attribute, about in _HOST:
        yield from _head(name, "counter", about, is_open)
        yield f"xtrace_{name}_total {totals.host[attribute]}"
    if totals.names:
        kind = "info" if is_open else "gauge"
        yield from _head("domain" if is_open else "domain_info", kind, "Names of domains.", is_open)
        for domain, name in sorted(totals.names.items()):
            yield f'xtrace_domain_info{{domain="{domain}",name="{escaped(name)}"}} 1'
    for name, attribute, about in _COUNTERS:
        yield from _head(name, "counter", about, is_open)
        for key, figures in sorted(totals.vcpus.items()):
            yield f"xtrace_{name}_total{_labels(key)} {getattr(figures, attribute)}"
    if totals.hz is None:
        return
    for name, attribute, about in _TIMES:
        yield from _head(name, "counter", about, is_open, "seconds")
        for key, figures in sorted(totals.vcpus.items()):
            yield f"xtrace_{name}_total{_labels(key)} {getattr(figures, attribute) / totals.hz:.9f}"
    for name, attribute, about in _HISTOGRAMS:
        yield from _head(name, "histogram", about, is_open, "seconds")
        for key, figures in sorted(totals.vcpus.items()):
            yield from _histogram(f"xtrace_{name}", key, getattr(figures, attribute), totals.hz)


def _head(name: str, kind: str, about: str, is_open: bool, unit: str = "") -> Iterator[str]:
    whole = f"xtrace_{name}" if is_open or kind != "counter" else f"xtrace_{name}_total"
    yield f"# TYPE {whole} {kind}"
    if unit and is_open:
        yield f"# UNIT {whole} {unit}"
    yield f"# HELP {whole} {about}"


def _labels(key: int, more: str = "") -> str:
    return f'{{domain="{key >> 16}",vcpu="{key & 0xFFFF}"{more}}}'


def _histogram(name: str, key: int, histogram: Histogram, hz: float) -> Iterator[str]:
    counts = [0] * len(BOUNDS_S)
    total, cycles = 0, 0.0
    for bucket, count in histogram.buckets.items():
        least, greatest = bounds_of(bucket)
        total += count
        cycles += count * (least + greatest) / 2
        place = next((at for at, bound in enumerate(BOUNDS_S) if greatest <= bound * hz), None)
        if place is not None:
            counts[place] += count
    below = 0
    for bound, count in zip(BOUNDS_S, counts, strict=True):
        below += count
        labels = _labels(key, f',le="{bound:g}"')
        yield f"{name}_bucket{labels} {below}"
    labels = _labels(key, ',le="+Inf"')
    yield f"{name}_bucket{labels} {total}"
    yield f"{name}_sum{_labels(key)} {cycles / hz:.9f}"
    yield f"{name}_count{_labels(key)} {total}"


def escaped(name: str) -> str:
    """Return a name as the value of a label."""
    return printable(name)[:_NAME_MOST].replace("\\", "\\\\").replace('"', '\\"')
