"""A report on a terminal of 80 columns."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any, Protocol

import typer

from xtrace.cli.render import dom0_only
from xtrace.cli.render.cost import cost_needs
from xtrace.cli.render.findings import finding_lines
from xtrace.probes.tsc_rate import COARSE_HZ
from xtrace.probes.words import count_of, digits, scaled, share_text, time_text
from xtrace.probes.xen_abi import DEFAULT_DOMAIN, IDLE_DOMAIN

if TYPE_CHECKING:
    from xtrace.analysis.columns import Columns
    from xtrace.analysis.findings.finding import Finding
    from xtrace.analysis.report.build import Report

WIDTH = 80
_LABEL = 9
_NAMES_SHOWN = 12
#: Findings shown without --section; the rest is counted.
_FINDINGS_SHOWN = 7
#: The vCPU of a record of which not even the pCPU's placeholder is known.
_NO_PCPU = 0xFFFF
_SKEWS_SHOWN = 3
_RESTARTS_SHOWN = 3
_TEXT_COLUMNS = {
    "domain", "state", "name", "waker", "event", "what", "kind", "command", "detail", "class", "id", "source",
    "metric", "latency", "decoded", "biased_to", "function", "place", "file", "masked", "part", "fence",
    "agrees", "bound", "channel", "space", "estimate", "of",
}  # fmt: skip
#: Columns with names of any length; a name that is too long is shortened in the middle.
_LONG_COLUMNS = ("function", "name", "place", "file", "fence", "what")

#: Tables shown by default, without --section, with the number of rows of each.
BRIEF = {
    "masked_waits": 8,
    "recorded_upcalls": 8,
    "ports": 8,
    "event_sources": 8,
    "wakes": 8,
    "wakers": 8,
    "sends": 6,
    "upcalls": 8,
    "injections": 6,
    "vcpu_states": 14,
    "domain_states": 8,
    "pcpus": 8,
    "hypercalls": 8,
    "traps": 5,
    "vm_exits": 8,
    "irqs": 5,
    "kernel_images": 0,
    "kernel_sources": 12,
    "kernel_functions": 10,
    "kernel_lines": 10,
    "cost_domains": 9,
    "cost_upcalls": 9,
    "cost_sites": 10,
    "cost_estimates": 8,
    "cost_checks": 10,
    "cost_needs": 0,
    "dom0_upcalls": 8,
    "dom0_ports": 10,
    "dom0_irqs": 8,
    "dom0_work": 8,
    "dom0_samples": 8,
    "cuts": 12,
}
LEGEND = "marks    = exact  < bounded  ~ inferred  * modelled"


class Put(Protocol):
    """Prints a line."""

    def __call__(self, text: str, *, bold: bool = False, dim: bool = False) -> None:
        """Print ``text`` as one line."""


def print_report(
    put: Put,
    report: Report,
    names: Sequence[str],
    *,
    rows: int | None,
    brief: bool,
    window: str = "",
    path: str = "",
) -> None:
    """Print the report.

    Args:
        put: prints a line.
        names: the traces, as the user named them.
        rows: at most this many rows per table; None is the default, 0 all.
        brief: leave out the idle domain.
        window: the part of the trace that was counted, as text; empty for the whole trace.
        path: of the trace, for commands; empty where there are several or it cannot be read again.
    """
    (_print_dom0_facts if dom0_only.is_whole(report) else _print_facts)(put, report, names)
    if window:
        put(f"part     {window}: only what ends there is counted")
    _print_domains(put, report)
    _print_kernels(put, report)
    for need in cost_needs(report):
        _put_labelled(put, "needs", safe(need))
    print_findings(put, report.findings, path, shown=_FINDINGS_SHOWN if brief else len(report.findings))
    for name, columns in report.columns.items():
        if brief and name not in BRIEF:
            continue
        shown = _without_idle(columns) if brief else columns
        if len(shown):
            limit = BRIEF.get(name, 20) if rows is None else rows or len(shown)
            _print_table(put, report, name, shown, limit)


def print_findings(put: Put, findings: Sequence[Finding], path: str, *, shown: int) -> None:
    """Print the first findings, and how many more there are; ``path``: of the trace, for commands."""
    for line in finding_lines(findings, shown, path):
        put(safe(line.text), bold=line.bold, dim=line.dim)


def put(text: str, *, bold: bool = False, dim: bool = False) -> None:
    """Print a line, in style if stdout is a terminal that supports it."""
    if (bold or dim) and sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        text = typer.style(text, bold=bold or None, dim=dim or None)
    sys.stdout.write(text + "\n")


def tell(line: str) -> None:
    """Print a remark on standard error."""
    typer.echo(safe(f"xtrace: {line}"), err=True)


def resolution_text(hz: float) -> str:
    """Return how long a cycle of a slow TSC is, to be appended to its rate; "" for others."""
    return f"; resolution {digits(1e9 / hz)} ns" if hz <= COARSE_HZ else ""


def _without_idle(columns: Columns) -> Columns:
    return columns.where(columns["domain"] != IDLE_DOMAIN) if "domain" in columns else columns


def _print_domains(put: Put, report: Report) -> None:
    """Print the names of the domains in the tables, as far as the recorder knew them."""
    told = {
        domain
        for columns in report.columns.values()
        if "domain" in columns
        for domain in columns["domain"].tolist()
    }
    names = {int(domain): name for domain, name in report.trace["domains"].items()}
    shown = [f"d{domain} {safe(names[domain])}" for domain in sorted(told & set(names))]
    if shown:
        more = f" and {len(shown) - _NAMES_SHOWN} more" if len(shown) > _NAMES_SHOWN else ""
        _put_labelled(put, "domains", ", ".join(shown[:_NAMES_SHOWN]) + more)


def _listed(names: Sequence[str]) -> str:
    return safe(", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else ""))


def _print_dom0_facts(put: Put, report: Report, names: Sequence[str]) -> None:
    put(f"capture  {_listed(names)}", bold=True)
    for label, text in dom0_only.head(report):
        _put_labelled(put, label, text)
    if any(map(len, report.columns.values())):
        put(LEGEND, dim=True)


def _print_facts(put: Put, report: Report, names: Sequence[str]) -> None:
    from xtrace.cli.render.coverage import coverage_lines

    trace = report.trace
    hz = report.hz
    put(f"trace    {_listed(names)}", bold=True)
    lines = []
    if trace["emulated"]:
        lines.append("host     emulated: times show order and proportions, not hardware durations")
    if hz:
        low, high = (abs(trace[key] - hz) / hz * 1e6 for key in ("tsc_hz_low", "tsc_hz_high"))
        error = f" -{low:.0f} +{high:.0f} ppm" if trace["tsc_hz_pairs"] else ""
        lines.append(f"span     {trace['span_ns'] / 1e9:.3f} s")
        rate = f"{hz / 1e6:.3f} MHz{error}, {trace['tsc_hz_source']}{resolution_text(hz)}"
        lines += labelled("TSC", rate)
    else:
        lines.append(f"span     {scaled(trace['span_cycles'])} cycles")
        lines.append("TSC      rate not known: times are in cycles; give --cpu-hz")
    lines.append(
        f"records  {trace['records']:,} in {trace['windows']:,} windows of {trace['pcpus']} pCPUs; "
        f"Xen {trace['xen_versions']} ({trace['xen_versions_source']})"
    )
    for label, said in coverage_lines(report.coverage, hz) if report.coverage else ():
        lines += labelled(label, said)
    if trace["lost_records"]:
        lines.append(
            f"lost     {trace['lost_records']:,} records in {trace['loss_count']} gaps; "
            f"no records for {trace['lost_ratio']:.1%} of the pCPUs' time"
        )
    if trace["damage_count"]:
        first = trace["damages"][0]
        lines.append(
            f"damage   {count_of(trace['damage_count'], 'place')}, {trace['skipped_bytes']:,} bytes skipped; "
            f"first at offset {first['offset']}: {first['reason']}"
        )
    if trace["missing_bytes"] or trace["tail_bytes"]:
        lines.append("cut      the file ends inside a window: it is still being written or was cut short")
    lines += _restart_lines(trace, hz)
    lines += _skew_lines(trace, hz)
    if report.coverage and report.coverage.has_cores:
        lines += labelled(
            "cores",
            "Xen schedules by core: vCPUs are placed by the pairs of records that one pCPU writes for its "
            "siblings",
        )
    if trace["late_records"]:
        lines.append(
            f"order    {trace['late_records']:,} records came too late to be sorted by time (skewed TSCs)"
        )
    if trace["backward_tsc_count"]:
        lines += labelled("order", backward_text(trace["backward_tsc_count"]))
    if trace["dom0_wakes_other_count"]:
        lines.append(
            f"recorder at most {trace['recorder_virq_most_count']:,} of {trace['dom0_wakes_other_count']:,} "
            "timer and other wakes of dom0 are its own"
        )
    lines += dom0_only.among_others(report)
    for line in lines:
        put(line)
    put(LEGEND, dim=True)


def _restart_lines(trace: Mapping[str, Any], hz: float | None) -> list[str]:
    """Return the lines on restarts of the TSC."""
    count = trace["tsc_restart_count"]
    lines: list[str] = []
    for restart in trace["tsc_restarts"][:_RESTARTS_SHOWN]:
        after, back = (time_text(restart[key], hz) for key in ("after_cycles", "back_cycles"))
        lines += labelled(
            "restart",
            f"the TSC restarted after {after} (offset {restart['offset']}): it went back by {back}; "
            "both parts are counted on their own",
        )
    if count > _RESTARTS_SHOWN:
        lines += labelled("restart", f"{count_of(count - _RESTARTS_SHOWN, 'more restart')} of the TSC")
    return lines


def backward_text(count: int) -> str:
    """Return what it means that the TSC of some records goes back, without a restart."""
    have, their = ("record has", "its") if count == 1 else ("records have", "their")
    return (
        f"{count:,} {have} a TSC below an earlier one on {their} pCPU: damage or a TSC that was set back; "
        "intervals there are not exact"
    )


def _skew_lines(trace: Mapping[str, Any], hz: float | None) -> list[str]:
    """Return the lines on TSCs that are apart: what was added to each, or the difference."""
    lines: list[str] = []
    aligned = trace["tsc_alignment"]
    if aligned:
        parts = [
            f"pCPU {each['pcpu']} by {time_text(each['offset_cycles'], hz)} "
            f"(within {time_text(each['uncertain_cycles'], hz)})"
            for each in aligned[:_SKEWS_SHOWN]
        ]
        if len(aligned) > _SKEWS_SHOWN:
            parts.append(f"{len(aligned) - _SKEWS_SHOWN} more")
        lines += labelled("aligned", f"{', '.join(parts)}; figures across pCPUs are inferred")
    unaligned = [pair for pair in trace["skewed_pcpu_pairs"] if pair["unaligned"]]
    for pair in unaligned[:_SKEWS_SHOWN]:
        lines += labelled(
            "skew",
            f"TSC of pCPU {pair['other_pcpu']} minus that of pCPU {pair['pcpu']}: {_skew_text(pair, hz)}; "
            f"not aligned ({pair['unaligned']}): figures across pCPUs are inferred",
        )
    if len(unaligned) > _SKEWS_SHOWN:
        lines += labelled("skew", f"{len(unaligned) - _SKEWS_SHOWN} more pairs of pCPUs")
    return lines


def _skew_text(pair: dict[str, Any], hz: float | None) -> str:
    """Return the difference of two TSCs, as far as it is known."""
    if not math.isnan(pair["low_cycles"]):
        return f"{time_text(pair['low_cycles'], hz)} to {time_text(pair['high_cycles'], hz)}"
    if pair["least_cycles"]:
        return f"at least {time_text(pair['least_cycles'], hz)}, in either direction"
    return str(pair["evidence"])


def _print_table(put: Put, report: Report, name: str, columns: Columns, limit: int) -> None:
    from xtrace.analysis.measures.table import MARKS, Quality

    table, quality, hz = report.described[name], report.quality[name], report.hz
    shown = [c for c in table.columns if c.heading and quality[c.name] is not Quality.ABSENT]
    if not shown:
        return
    put("")
    put(table.title, bold=True)
    if table.bias:
        put(f"({table.bias})", dim=True)
    absent = [c.heading for c in table.columns if c.heading and quality[c.name] is Quality.ABSENT]
    if absent:
        put(f"(not recorded: {', '.join(absent)})", dim=True)
    # Domain and vCPU make one column: d3v0.
    if paired := {"domain", "vcpu"} <= {column.name for column in shown}:
        shown = [column for column in shown if column.name != "vcpu"]
    headings = [f"{c.heading}{MARKS[quality[c.name]]}" for c in shown]
    if paired:
        headings[[c.name for c in shown].index("domain")] = "vcpu"
    lines = [headings]
    lines += [
        [_vcpu(row) if paired and c.name == "domain" else _figure(row, c.name, hz) for c in shown]
        for row in columns.where(slice(limit)).rows()
    ]
    widths = [max(len(line[i]) for line in lines) for i in range(len(shown))]
    long = [place for place, column in enumerate(shown) if column.name in _LONG_COLUMNS]
    while long and sum(widths) + len(widths) - 1 > WIDTH:
        widths[max(long, key=lambda place: widths[place])] -= 1
    gap = "  " if sum(widths) + 2 * (len(widths) - 1) <= WIDTH else " "
    to_left = [c.name in _TEXT_COLUMNS for c in shown]
    for number, line in enumerate(lines):
        cells = [
            (_fitted(cell, width, shown[place].name) if place in long else cell, width, left)
            for place, (cell, width, left) in enumerate(zip(line, widths, to_left, strict=True))
        ]
        text = gap.join(cell.ljust(width) if left else cell.rjust(width) for cell, width, left in cells)
        put(text.rstrip(), bold=number == 0)
        if number == 0:
            put("-" * (sum(widths) + len(gap) * (len(widths) - 1)), dim=True)
    if len(columns) > limit:
        put(f"  {len(columns) - limit} more: --section {table.section} --rows 0", dim=True)


def _print_kernels(put: Put, report: Report) -> None:
    """Print for each image how samples were resolved in it, and what is missing."""
    images = report.columns.get("kernel_images")
    if images is None:
        return
    rows = images.rows()
    for row in rows:
        name = shortened(safe(f"d{row['domain']} {row['image'].rpartition('/')[2]}"), WIDTH - _LABEL)
        if row["note"]:
            _put_labelled(put, "kernel", f"{shortened(name, WIDTH // 2)}: {row['note']}")
            continue
        put(f"{'kernel':<{_LABEL}}{name}", bold=True)
        _put_labelled(put, "", f"load offset {row['load_offset']}, {row['load_offset_source']}")
        _put_labelled(
            put,
            "",
            f"{row['count']:,} samples at {row['address_count']:,} addresses, {row['inside_count']:,} in the "
            f"image, {row['masked_count']:,} of them ({row['masked_ratio']:.1%}) where it masks upcalls",
        )
    if rows and not dom0_only.is_whole(report):
        _put_labelled(
            put,
            "samples",
            f"{rows[0]['carried_count']:,} records of the trace have a guest's address; "
            f"{rows[0]['left_out_count']:,} left out, "
            f"{rows[0]['unknown_domain_count']:,} of a domain not yet known",
        )


def _put_labelled(put: Put, label: str, text: str) -> None:
    for line in labelled(label, text):
        put(line)


def labelled(label: str, text: str) -> list[str]:
    """Return ``text`` as lines, the first one with a label."""
    return [
        f"{'' if number else label:<{_LABEL}}{line}" for number, line in enumerate(wrap(text, WIDTH - _LABEL))
    ]


def domain_name(domain: int) -> str:
    """Return the label of a domain whose name is not known."""
    return "idle" if domain == IDLE_DOMAIN else "?" if domain == DEFAULT_DOMAIN else f"d{domain}"


def _vcpu(row: Any) -> str:
    """Return a vCPU's label; where it is not known which one ran, that of the pCPU."""
    if row["domain"] == DEFAULT_DOMAIN:
        return f"on p{int(row['vcpu'])}" if row["vcpu"] != _NO_PCPU else "?"
    return f"{domain_name(int(row['domain']))}v{int(row['vcpu'])}"


def _figure(row: Any, name: str, hz: float | None) -> str:
    """Return a cell; the greatest time is "at least" where its interval is cut off."""
    opened = row.get("open_max_cycles") if name == "max_cycles" else None
    return ("\u2265" if opened and opened >= row[name] else "") + _cell(name, row[name], hz)


def _cell(name: str, value: Any, hz: float | None) -> str:
    if isinstance(value, str):
        return safe(value)
    number = math.nan if value is None else float(value)
    if math.isnan(number):
        return "-"
    if name == "line":
        return f"{number:.0f}"
    if name.endswith("_cycles"):
        return time_text(number, hz)
    if name.endswith("_ns"):
        return time_text(number, 1e9)
    if name.startswith("cost_") and name.endswith("_ratio"):
        return share_text(number)
    if name.endswith("_ratio"):
        return f"{number:.1%}"
    if name.endswith("per_s"):
        return scaled(number) if number >= 100 else f"{number:.1f}"
    if name == "domain":
        return "idle" if number == IDLE_DOMAIN else f"d{int(number)}"
    return f"{number:.1f}" if number != int(number) and abs(number) < 100 else f"{int(number):,}"


def _fitted(text: str, width: int, name: str) -> str:
    """Return a cell in its column's width; of a file path the end is kept."""
    if name == "file" and len(text) > width:
        return ".." + text[len(text) - width + 2 :]
    return shortened(text, width)


def shortened(text: str, width: int) -> str:
    """Return ``text`` in at most ``width`` characters, shortened in the middle if it is longer."""
    if len(text) <= width:
        return text
    tail = (width - 2) // 2
    return f"{text[: width - 2 - tail]}..{text[len(text) - tail :]}"


def safe(text: str) -> str:
    """Return ``text`` with control characters escaped, so that a terminal does not obey them."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
