"""Facts about captures of dom0, with or without Xen's trace: those of bpf, perf and xenctx.

Where no file has Xen's trace, the figures that count its records do not exist; they are null, not 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from xtrace.analysis.state_machine.keys import high_of
from xtrace.analysis.state_machine.metrics import Metric, RipSource
from xtrace.analysis.summary.partial import Partial

#: What bpf and perf did not count or write because a ring or a table was full.
_LOSSES = ("dropped", "no_tally", "sample_dropped")
#: The keys of the report's ``trace`` that only Xen's trace can give.
OF_TRACE = (
    "lost_records", "loss_count", "pcpus", "span_cycles", "span_ns", "lost_ratio", "xen_versions",
    "xen_versions_source", "recorder_virq_most_count", "dom0_wakes_other_count",
)  # fmt: skip


def dom0_keys(partial: Partial) -> Mapping[str, object]:
    """Return the keys of ``trace`` about dom0, and None for those that need Xen's trace if there is none."""
    facts = partial.dom0_facts
    return {
        "dom0_only_files": int(facts["dom0_only"].sum()),
        "dom0_backends": list(_backends(partial)),
        "dom0_span_ns": int(facts["length_ns"].sum()) or None,
        "dom0_lost_count": sum(int(facts[name].sum()) for name in _LOSSES),
        **(dict.fromkeys(OF_TRACE) if partial.is_dom0_only else {}),
    }


def _backends(partial: Partial) -> Iterator[str]:
    """Yield what recorded in dom0."""
    facts, tallies = partial.dom0_facts, partial.tallies
    if facts["captures"].sum():
        yield "bpf"
    if facts["sample_hz"].sum() or facts["sample_count"].sum():
        yield "perf"
    rips = tallies["a"][tallies["metric"] == int(Metric.RIP)]
    if (high_of(rips) == int(RipSource.XENCTX)).any():
        yield "xenctx"
