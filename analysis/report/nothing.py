"""Refuse a request that leaves nothing to report: no record, an unknown domain or vCPU, no row."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from xtrace.analysis.state_machine.keys import domain_of, vcpu_of
from xtrace.analysis.state_machine.metrics import Metric
from xtrace.probes.capture.layout import TRACE_REMEDY, WITHOUT_TRACE
from xtrace.probes.errors import TraceError, without_records
from xtrace.probes.selection.vcpus import Vcpu
from xtrace.probes.xen_abi import DEFAULT_DOMAIN, DOM0, IDLE_DOMAIN

if TYPE_CHECKING:
    from xtrace.analysis.report.build import Report
    from xtrace.analysis.summary.partial import Partial
    from xtrace.analysis.summary.summary_file import Summary

#: What gives a section rows.
_NEEDS = {
    "hvm": "it has no records of HVM or PVH guests (record --class hvm)",
    "kernel": "it needs an image (--kernel DOMAIN=IMAGE) and samples of guest addresses",
    "dom0": "it needs a capture that xtrace record made with bpf or perf in dom0",
    "rips": "it has no records with guest addresses",
    "irqs": "it has no records of interrupts (record --class hw)",
    "hypercalls": "it has no records of PV guests (record --class pv)",
    "upcalls": "it has no records of guests (record --class pv, hvm)",
    "delivery": "it has no records of wakes (record --class sched)",
    "runstates": "it has no scheduler's records (record --class sched)",
    "trace": "it has no records",
}
#: The same of a capture that bpf, perf or xenctx made.
_NEEDS_OF_DOM0_ONLY = {
    "kernel": _NEEDS["kernel"],
    "dom0": "nothing happened that is counted",
    "rips": "it has no samples (record --backend perf)",
}


def refuse_empty(paths: Sequence[Path], summaries: Sequence[Summary], tell: Callable[[str], None]) -> None:
    """Warn about each trace without a record.

    Raises:
        TraceError: there is no other.
    """
    empty = [path for path, one in zip(paths, summaries, strict=True) if _is_empty(one.partial)]
    lines = [without_records(path) for path in dict.fromkeys(empty)]
    if len(empty) == len(paths):
        raise TraceError(lines[0])
    for line in lines:
        tell(line)


def refuse_unknown(name: str, partial: Partial, domains: Collection[int], vcpus: Collection[Vcpu]) -> None:
    """Refuse domains and vCPUs that are in no record.

    Args:
        name: of the trace, for the message.

    Raises:
        TraceError: one of them is not in the trace; it lists what is.
    """
    keys = partial.vcpus["vcpu"]
    tallies = partial.tallies
    # With those that xenctx or perf sampled.
    keys = np.concatenate((keys, tallies["a"][tallies["metric"] == int(Metric.RIP)]))
    known = set(zip(domain_of(keys).tolist(), vcpu_of(keys).tolist(), strict=True))
    if _has_dom0(partial):
        known |= {(DOM0, number) for number in partial.dom0_tallies["vcpu"].tolist()} | {(DOM0, 0)}
    names = ", ".join(_name(domain) for domain in sorted({domain for domain, _ in known} - {DEFAULT_DOMAIN}))
    for domain in domains:
        if domain not in {one for one, _ in known}:
            raise TraceError(f"{name}: has no domain {domain}; its domains are {names or 'not known'}")
    for vcpu in vcpus:
        if not any(number == vcpu.number and vcpu.domain in (None, domain) for domain, number in known):
            raise TraceError(
                f"{name}: has no vCPU {_vcpu_name(vcpu)}; its domains are {names or 'not known'}"
            )


def refuse_without_rows(name: str, sections: Sequence[str], report: Report) -> None:
    """Refuse a report on sections of which no table has a row.

    Raises:
        TraceError: there is none; it says what the first of them needs.
    """
    tables = {table for table, columns in report.columns.items() if len(columns)}
    dom0_only = report.trace["dom0_only_files"] == report.trace["files"]
    if dom0_only:
        # Its rows say what the cost lacks, Xen's trace not among it.
        tables.discard("cost_needs")
    if not sections or tables:
        return
    first = sections[0]
    if dom0_only and first not in _NEEDS_OF_DOM0_ONLY:
        raise TraceError(f"{name}: nothing for --section {first}: it {WITHOUT_TRACE}; {TRACE_REMEDY}")
    needs = _NEEDS_OF_DOM0_ONLY if dom0_only else _NEEDS
    why = f": {needs[first]}" if first in needs else ""
    raise TraceError(f"{name}: nothing for --section {first}{why}")


def _is_empty(partial: Partial) -> bool:
    return not (len(partial.records) or len(partial.tallies) or _has_dom0(partial))


def _has_dom0(partial: Partial) -> bool:
    return bool(
        len(partial.dom0_tallies) or len(partial.dom0_samples) or partial.dom0_facts["captures"].sum()
    )


def _vcpu_name(vcpu: Vcpu) -> str:
    return str(vcpu.number) if vcpu.domain is None else f"d{vcpu.domain}v{vcpu.number}"


def _name(domain: int) -> str:
    return "idle" if domain == IDLE_DOMAIN else f"d{domain}"
