"""The whole report on a terminal: the head, the findings, the tables of the sections that are wanted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from xtrace.cli.render.report import dom0_only
from xtrace.cli.render.report.findings import finding_lines
from xtrace.cli.render.report.head import domain_names, facts, listed
from xtrace.cli.render.report.tables import print_table
from xtrace.cli.render.report.way import spread_lines, way_lines
from xtrace.cli.terminal.style import Put, styled, width
from xtrace.cli.terminal.text import LABEL, labelled, safe, shortened
from xtrace.probes.words import count_of, share_text
from xtrace.probes.xen_abi import IDLE_DOMAIN

if TYPE_CHECKING:
    from xtrace.analysis.columns import Columns
    from xtrace.analysis.findings.finding import Finding
    from xtrace.analysis.report.build import Report

#: Findings shown without --section; the rest is counted.
_FINDINGS_SHOWN = 7

#: Tables shown by --full, with the number of rows of each.
BRIEF = {
    "event_way": 8,
    "wake_spread": 8,
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
    "cost_close": 8,
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
#: xtrace.analysis.cost.missing_inputs.HOST.
_HOST = "host"
#: The finding that answers what fences cost.
_ANSWER = "removable-fences"
#: Costs of sites close together that add up to at least this share are taken for a sum.
_SUM = 0.9
#: Tables of the first screen.
FIRST = ("event_way", "wake_spread")
#: Beginnings of the names of tables that follow it where images or prices are given.
COSTS = ("kernel_", "cost_")
#: Tables that are not plain columns, by what makes their lines of the report and a number of rows.
_DRAWN = {"event_way": way_lines, "wake_spread": spread_lines}


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
        _put_labelled(put, "part", f"{window}: only what ends there is counted")
    if known := domain_names(report):
        _put_labelled(put, "domains", known)
    _print_trials(put, report)
    _print_kernels(put, report)
    print_findings(put, report.findings, path, shown=_FINDINGS_SHOWN if brief else len(report.findings))
    if said := _close_sites(report):
        _put_labelled(put, "close", said)
    for need in _cost_needs(report):
        _put_labelled(put, "needs", safe(need))
    for name, columns in report.columns.items():
        if brief and name not in BRIEF:
            continue
        shown = without_idle(columns) if brief else columns
        if len(shown):
            limit = BRIEF.get(name, 20) if rows is None else rows or len(shown)
            if name in _DRAWN:
                _print_drawn(put, report, name, limit)
            else:
                print_table(put, report, name, shown, limit)


def print_costs(put: Put, report: Report) -> None:
    """Print what samples in guests' kernels and the cost of fences add to the first screen."""
    names = [name for name, columns in report.columns.items() if name.startswith(COSTS) and len(columns)]
    needs = list(_cost_needs(report))
    if names or needs:
        put("")
    _print_trials(put, report)
    for finding in report.findings:
        if finding.name == _ANSWER:
            _put_labelled(put, "cost", f"{finding.sentence} (modelled)")
    if said := _close_sites(report):
        _put_labelled(put, "close", said)
    _print_kernels(put, report)
    for need in needs:
        _put_labelled(put, "needs", safe(need))
    for name in names:
        if name in BRIEF:
            print_table(put, report, name, report.columns[name], BRIEF[name])


def _close_sites(report: Report) -> str:
    """Return the sentence that savings are not sums; "" where they are."""
    close = report.columns.get("cost_close")
    rows = [] if close is None else [row for row in close.rows() if row["saving_ratio"] < _SUM]
    if not rows:
        return ""
    least = min(rows, key=lambda row: row["saving_ratio"])
    return (
        f"{count_of(len(rows), 'pair')} of sites close together: what both cost is not the sum, and removing "
        f"one of two may save only {share_text(least['saving_ratio'])} of what it costs alone (modelled)"
    )


def _print_trials(put: Put, report: Report) -> None:
    """Print what trials measured in place: it leads the cost, which the model only computes."""
    compared = report.columns.get("cost_estimates")
    for row in compared.rows() if compared is not None else ():
        if row["estimate"] == "trial":
            _put_labelled(put, "trial", f"d{row['domain']}: {safe(row['basis'])} (measured in place)")


def _print_drawn(put: Put, report: Report, name: str, limit: int) -> None:
    """Print a table that is not one of plain columns."""
    lines = list(_DRAWN[name](report, limit))
    if lines:
        put("")
    for text, style in lines:
        put(styled(text, style))


def print_findings(put: Put, findings: Sequence[Finding], path: str, *, shown: int) -> None:
    """Print the first findings, and how many more there are; ``path``: of the trace, for commands."""
    for line in finding_lines(findings, shown, path):
        put(safe(line.text), bold=line.bold, dim=line.dim)


def without_idle(columns: Columns) -> Columns:
    """Return the rows that are not of the idle domain."""
    return columns.where(columns["domain"] != IDLE_DOMAIN) if "domain" in columns else columns


def _print_dom0_facts(put: Put, report: Report, names: Sequence[str]) -> None:
    put(f"{'capture':<{LABEL}}{listed(names)}", bold=True)
    for label, text in dom0_only.head(report):
        _put_labelled(put, label, text)


def _print_facts(put: Put, report: Report, names: Sequence[str]) -> None:
    put(f"{'trace':<{LABEL}}{listed(names)}", bold=True)
    for fact in facts(report):
        _put_labelled(put, fact.label, fact.text)


def _print_kernels(put: Put, report: Report) -> None:
    """Print for each image how samples were resolved in it, and what is missing."""
    images = report.columns.get("kernel_images")
    if images is None:
        return
    rows = images.rows()
    for row in rows:
        name = shortened(safe(f"d{row['domain']} {row['image'].rpartition('/')[2]}"), width() - LABEL)
        if row["note"]:
            _put_labelled(put, "kernel", f"{shortened(name, width() // 2)}: {row['note']}")
            continue
        put(f"{'kernel':<{LABEL}}{name}", bold=True)
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
    for line in labelled(label, text, width()):
        put(line)


def _cost_needs(report: Report) -> Iterator[str]:
    """Yield one line per missing input of the cost, with how to get it."""
    needs = report.columns.get("cost_needs")
    if needs is None:
        return
    for row in needs.rows():
        whose = "" if row["about"] == _HOST else f"{row['about']}: "
        remedy = f"; {row['remedy']}" if row["remedy"] else ""
        yield f"{whose}{row['missing']}: {row['reason']}{remedy}"
