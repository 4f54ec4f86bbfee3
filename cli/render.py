"""Put a report on a terminal of 80 columns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from xtrace.analysis.report import Report
    from xtrace.analysis.tables import Table

IDLE_DOMAIN = 32767
WIDTH = 80

#: What a terminal shows when no section is asked for, and how many rows of each table.
BRIEF = {
    "wakes": 8,
    "wakers": 8,
    "sends": 6,
    "running_targets": 4,
    "upcalls": 8,
    "injections": 6,
    "vcpu_states": 14,
    "domain_states": 8,
    "pcpus": 8,
    "hypercalls": 8,
    "traps": 5,
    "vm_exits": 8,
    "irqs": 5,
    "cuts": 12,
}
LEGEND = "marks    = exact  < bounded  ~ inferred  * modelled"


def print_report(
    console: Console, report: Report, names: Sequence[str], *, rows: int | None, brief: bool, window: str = ""
) -> None:
    """Print the report.

    Args:
        names: the traces, as the user named them.
        rows: most rows of a table; None takes the usual number, 0 all.
        brief: leave out the idle domain.
        window: the part of the trace that is counted, in words; empty for all of it.
    """
    _print_facts(console, report, names)
    if window:
        console.print(f"window   {window}: only what ends there is counted", markup=False, highlight=False)
    _print_first_looks(console, report)
    for name, frame in report.tables.items():
        table = report.described[name]
        if brief and name not in BRIEF:
            continue
        if brief and "domain" in frame:
            frame = frame[frame["domain"] != IDLE_DOMAIN]
        if frame.empty:
            continue
        limit = BRIEF.get(name, 20) if rows is None else rows or len(frame)
        _print_table(console, table, frame, report.hz, limit)


def time_text(cycles: float, hz: float | None) -> str:
    """Return a time in three digits: with a unit of time, or in cycles where the TSC rate is not known."""
    if math.isnan(cycles):
        return "-"
    if hz is None:
        return scaled(cycles) + "c"
    ns = cycles / hz * 1e9
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if abs(ns) >= size:
            return _digits(ns / size) + unit
    return f"{ns:.0f}ns"


def scaled(value: float) -> str:
    """Return a number in three digits and k, M, G or T."""
    for letter, size in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e4)):
        if abs(value) >= size:
            return _digits(value / (1e3 if letter == "k" else size)) + letter
    return f"{value:.0f}"


def _digits(value: float) -> str:
    return f"{value:.2f}" if abs(value) < 9.995 else f"{value:.1f}" if abs(value) < 99.95 else f"{value:.0f}"


def _print_facts(console: Console, report: Report, names: Sequence[str]) -> None:
    trace = report.trace
    hz = report.hz
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    console.print(f"trace    {_safe(shown)}", style="bold", markup=False, highlight=False)
    lines = []
    if hz:
        low, high = (abs(trace[key] - hz) / hz * 1e6 for key in ("tsc_hz_low", "tsc_hz_high"))
        error = f" -{low:.0f} +{high:.0f} ppm" if trace["tsc_hz_pairs"] else ""
        lines.append(f"span     {trace['span_ns'] / 1e9:.3f} s")
        lines.append(f"TSC      {hz / 1e6:.3f} MHz{error}, {trace['tsc_hz_source']}")
    else:
        lines.append(f"span     {scaled(trace['span_cycles'])} cycles")
        lines.append("TSC      the trace does not tell its rate: times are in cycles; give --cpu-hz")
    lines.append(
        f"records  {trace['records']:,} in {trace['windows']:,} windows of {trace['pcpus']} pCPUs; "
        f"Xen {trace['xen_versions']} ({trace['xen_versions_source']})"
    )
    if trace["lost_records"]:
        lines.append(
            f"lost     {trace['lost_records']:,} records in {trace['loss_count']} gaps; "
            f"pCPUs blind {trace['blind_ratio']:.1%} of the time"
        )
    if trace["damage_count"]:
        first = trace["damages"][0]
        lines.append(
            f"damage   {trace['damage_count']} places, {trace['skipped_bytes']:,} bytes skipped; "
            f"first at offset {first['offset']}: {first['reason']}"
        )
    if trace["missing_bytes"] or trace["tail_bytes"]:
        lines.append("cut      the file ends inside a window: it is still being written, or was cut")
    lines += [
        f"skew     TSC of pCPU {pair['other_pcpu']} less that of pCPU {pair['pcpu']}: "
        f"{time_text(pair['low_cycles'], hz)} to {time_text(pair['high_cycles'], hz)}"
        for pair in trace["skewed_pcpu_pairs"][:3]
    ]
    if trace["late_records"]:
        lines.append(
            f"order    {trace['late_records']:,} records came too late to be merged in order (skewed TSCs)"
        )
    lines.append(
        f"recorder at most {trace['recorder_virq_most_count']:,} of {trace['dom0_wakes_other_count']:,} "
        "timer and other wakes of dom0 are its own"
    )
    for line in lines:
        console.print(line, markup=False, highlight=False)
    console.print(LEGEND, style="dim", markup=False, highlight=False)


def _print_first_looks(console: Console, report: Report) -> None:
    """Say in a line each what stands out."""
    hz = report.hz
    looks = []
    wakes = report.tables.get("wakes")
    if wakes is not None and len(guests := wakes[wakes["domain"] != IDLE_DOMAIN]):
        worst = guests.iloc[0]
        looks.append(
            f"{_vcpu(worst)} waits longest: wake to running p99 "
            f"{time_text(worst['wake_to_running_p99_cycles'], hz)} "
            f"over {int(worst['wake_to_running_count'])} wakes"
        )
    states = report.tables.get("domain_states")
    if states is not None and len(states):
        waiting = states[
            states["state"].isin(("full_contention", "partial_contention", "concurrency_hazard"))
        ]
        share = waiting[waiting["domain"] != IDLE_DOMAIN].groupby("domain")["share_ratio"].sum()
        if len(share):
            looks.append(f"d{share.idxmax()} had vCPUs waiting for a pCPU {share.max():.0%} of the time")
    upcalls = report.tables.get("upcalls")
    if upcalls is not None and len(upcalls):
        forced = upcalls.sort_values("xen_version_count", ascending=False).iloc[0]
        looks.append(
            f"{_vcpu(forced)} forced a callback at most {int(forced['xen_version_count'])} times, "
            f"in {int(forced['upcall_least_count'])} to {int(forced['upcall_most_count'])} upcalls"
        )
    for look in looks:
        console.print(f"* {look}", markup=False, highlight=False)


def _print_table(console: Console, table: Table, frame: pd.DataFrame, hz: float | None, limit: int) -> None:
    from rich import box
    from rich.table import Table as RichTable

    from xtrace.analysis.tables import MARKS

    console.print()
    console.print(table.title, style="bold", markup=False, highlight=False)
    if table.bias:
        console.print(f"({table.bias})", style="dim", markup=False, highlight=False)
    shown = [column for column in table.columns if column.heading]
    out = RichTable(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    paired = {"domain", "vcpu"} <= {column.name for column in shown}
    for column in shown:
        if paired and column.name == "vcpu":
            continue
        text = column.name in (
            "state",
            "name",
            "waker",
            "event",
            "what",
            "kind",
            "command",
            "detail",
            "class",
            "id",
        )
        heading = "vcpu" if paired and column.name == "domain" else f"{column.heading}{MARKS[column.quality]}"
        out.add_column(heading, justify="left" if text or column.name == "domain" else "right", no_wrap=True)
    for row in frame.head(limit).to_dict("records"):
        cells = [
            _vcpu(row) if paired and column.name == "domain" else _cell(column.name, row[column.name], hz)
            for column in shown
            if not (paired and column.name == "vcpu")
        ]
        out.add_row(*cells)
    console.print(out)
    if len(frame) > limit:
        console.print(
            f"  {len(frame) - limit} more: --section {table.section} --rows 0",
            style="dim", markup=False, highlight=False,
        )  # fmt: skip


def _vcpu(row: Any) -> str:
    domain = int(row["domain"])
    name = "idle" if domain == IDLE_DOMAIN else "d?" if domain == 32768 else f"d{domain}"
    return f"{name}v{int(row['vcpu'])}"


def _cell(name: str, value: Any, hz: float | None) -> str:
    if isinstance(value, str):
        return value
    number = float(value)
    if math.isnan(number):
        return "-"
    if name.endswith("_cycles"):
        return time_text(number, hz)
    if name.endswith("_ratio"):
        return f"{number:.1%}"
    if name.endswith("per_s"):
        return scaled(number) if number >= 100 else f"{number:.1f}"
    if name == "domain":
        return "idle" if number == IDLE_DOMAIN else f"d{int(number)}"
    return f"{int(number):,}"


def _safe(text: str) -> str:
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
