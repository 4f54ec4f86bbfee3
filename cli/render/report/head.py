"""The head of a report: what was recorded, what of it is missing or damaged, as labelled lines."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from xtrace.cli.render.report import dom0_only
from xtrace.cli.terminal.text import safe
from xtrace.probes.tsc_rate import COARSE_HZ
from xtrace.probes.words import count_of, digits, scaled, time_text

if TYPE_CHECKING:
    from xtrace.analysis.report.build import Report

_SKEWS_SHOWN = 3
_RESTARTS_SHOWN = 3
_NAMES_SHOWN = 12
EMULATED = "emulated: times show order and proportions, not hardware durations"


class Fact(NamedTuple):
    """A line of the head.

    Attributes:
        is_usual: it says what was recorded; the others say what is missing, damaged or uncertain.
    """

    label: str
    text: str
    is_usual: bool = False


def listed(names: Sequence[str]) -> str:
    """Return the names of the first traces, and how many more there are."""
    return safe(", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else ""))


def facts(report: Report) -> Iterator[Fact]:
    """Yield the facts about the traces, in the order in which a report shows them."""
    from xtrace.cli.render.report.coverage import coverage_lines

    trace, hz = report.trace, report.hz
    if trace["damage_count"]:
        first = trace["damages"][0]
        yield Fact(
            "damage",
            f"{count_of(trace['damage_count'], 'place')}, {trace['skipped_bytes']:,} bytes skipped; "
            f"first at offset {first['offset']}: {first['reason']}",
        )
    if trace["missing_bytes"] or trace["tail_bytes"]:
        yield Fact("cut", "the file ends inside a window: it is still being written or was cut short")
    if trace["emulated"]:
        yield Fact("host", EMULATED)
    if hz:
        low, high = (abs(trace[key] - hz) / hz * 1e6 for key in ("tsc_hz_low", "tsc_hz_high"))
        error = f" -{low:.0f} +{high:.0f} ppm" if trace["tsc_hz_pairs"] else ""
        yield Fact("span", f"{trace['span_ns'] / 1e9:.3f} s", is_usual=True)
        resolution = resolution_text(hz)
        rate = f"{hz / 1e6:.3f} MHz{error}, {trace['tsc_hz_source']}{resolution}"
        yield Fact("TSC", safe(rate), is_usual=not resolution)
    else:
        yield Fact("span", f"{scaled(trace['span_cycles'])} cycles", is_usual=True)
        yield Fact("TSC", "rate not known: times are in cycles; give --cpu-hz")
    yield Fact(
        "records",
        f"{trace['records']:,} in {trace['windows']:,} windows of {trace['pcpus']} pCPUs; "
        f"Xen {trace['xen_versions']} ({trace['xen_versions_source']})",
        is_usual=True,
    )
    for label, said in coverage_lines(report.coverage, hz) if report.coverage else ():
        yield Fact(label, said, is_usual=label == "covered")
    if trace["lost_records"]:
        ratio = trace["lost_ratio"]
        # A trace whose records are all of one time has no time of which to give a share.
        said = "" if ratio is None else f"; no records for {ratio:.1%} of the pCPUs' time"
        yield Fact("lost", f"{trace['lost_records']:,} records in {trace['loss_count']} gaps{said}")
    yield from _restarts(trace, hz)
    yield from _skews(trace, hz)
    if report.coverage and report.coverage.has_cores:
        yield Fact(
            "cores",
            "Xen schedules by core: vCPUs are placed by the pairs of records that one pCPU writes for its "
            "siblings",
        )
    if trace["late_records"]:
        yield Fact(
            "order",
            f"{trace['late_records']:,} records came too late to be sorted by time (skewed TSCs)",
        )
    if trace["backward_tsc_count"]:
        yield Fact("order", backward_text(trace["backward_tsc_count"]))
    if trace["dom0_wakes_other_count"]:
        yield Fact(
            "recorder",
            f"at most {trace['recorder_virq_most_count']:,} of {trace['dom0_wakes_other_count']:,} "
            "timer and other wakes of dom0 are its own",
            is_usual=True,
        )
    for text in dom0_only.among_others(report):
        yield Fact("dom0", text)


def domain_names(report: Report) -> str:
    """Return the names of the domains in the tables, as far as the recorder knew them."""
    seen = {
        domain
        for columns in report.columns.values()
        if "domain" in columns
        for domain in columns["domain"].tolist()
    }
    names = {int(domain): name for domain, name in report.trace["domains"].items()}
    shown = [f"d{domain} {safe(names[domain])}" for domain in sorted(seen & set(names))]
    more = f" and {len(shown) - _NAMES_SHOWN} more" if len(shown) > _NAMES_SHOWN else ""
    return ", ".join(shown[:_NAMES_SHOWN]) + more


def resolution_text(hz: float) -> str:
    """Return how long a cycle of a slow TSC is, to be appended to its rate; "" for others."""
    return f"; resolution {digits(1e9 / hz)} ns" if hz <= COARSE_HZ else ""


def backward_text(count: int) -> str:
    """Return what it means that the TSC of some records goes back, without a restart."""
    have, their = ("record has", "its") if count == 1 else ("records have", "their")
    return (
        f"{count:,} {have} a TSC below an earlier one on {their} pCPU: damage or a TSC that was set back; "
        "intervals there are not exact"
    )


def _restarts(trace: Mapping[str, Any], hz: float | None) -> Iterator[Fact]:
    """Yield the lines on restarts of the TSC."""
    count = trace["tsc_restart_count"]
    for restart in trace["tsc_restarts"][:_RESTARTS_SHOWN]:
        after, back = (time_text(restart[key], hz) for key in ("after_cycles", "back_cycles"))
        yield Fact(
            "restart",
            f"the TSC restarted after {after} (offset {restart['offset']}): it went back by {back}; "
            "both parts are counted on their own",
        )
    if count > _RESTARTS_SHOWN:
        yield Fact("restart", f"{count_of(count - _RESTARTS_SHOWN, 'more restart')} of the TSC")


def _skews(trace: Mapping[str, Any], hz: float | None) -> Iterator[Fact]:
    """Yield the lines on TSCs that are apart: what was added to each, or the difference."""
    aligned = trace["tsc_alignment"]
    if aligned:
        parts = [
            f"pCPU {each['pcpu']} by {time_text(each['offset_cycles'], hz)} "
            f"(within {time_text(each['uncertain_cycles'], hz)})"
            for each in aligned[:_SKEWS_SHOWN]
        ]
        if len(aligned) > _SKEWS_SHOWN:
            parts.append(f"{len(aligned) - _SKEWS_SHOWN} more")
        yield Fact("aligned", f"{', '.join(parts)}; figures across pCPUs are inferred")
    unaligned = [pair for pair in trace["skewed_pcpu_pairs"] if pair["unaligned"]]
    for pair in unaligned[:_SKEWS_SHOWN]:
        yield Fact(
            "skew",
            f"TSC of pCPU {pair['other_pcpu']} minus that of pCPU {pair['pcpu']}: {_skew_text(pair, hz)}; "
            f"not aligned ({pair['unaligned']}): figures across pCPUs are inferred",
        )
    if len(unaligned) > _SKEWS_SHOWN:
        yield Fact("skew", f"{len(unaligned) - _SKEWS_SHOWN} more pairs of pCPUs")


def _skew_text(pair: Mapping[str, Any], hz: float | None) -> str:
    """Return the difference of two TSCs, as far as it is known."""
    if not math.isnan(pair["low_cycles"]):
        return f"{time_text(pair['low_cycles'], hz)} to {time_text(pair['high_cycles'], hz)}"
    if pair["least_cycles"]:
        return f"at least {time_text(pair['least_cycles'], hz)}, in either direction"
    return str(pair["evidence"])
