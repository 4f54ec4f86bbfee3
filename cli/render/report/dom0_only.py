"""Lines in the head of a report on captures without Xen's trace: what recorded in dom0, for how long."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from xtrace.probes.capture.layout import TRACE_REMEDY

if TYPE_CHECKING:
    from xtrace.analysis.report.build import Report


def is_whole(report: Report) -> bool:
    """Return whether the whole report is on captures without Xen's trace."""
    return bool(report.trace["dom0_only_files"] == report.trace["files"])


def head(report: Report) -> Iterator[tuple[str, str]]:
    """Yield the labelled lines that precede the tables."""
    trace = report.trace
    if trace["emulated"]:
        yield "host", "emulated: times show order and proportions, not hardware durations"
    yield "dom0", _recorded(report)
    known = "dom0, rips and kernel" if set(trace["dom0_backends"]) - {"bpf"} else "dom0"
    yield "Xen", f"no trace: sections other than {known} need one; {TRACE_REMEDY}"
    if trace["dom0_lost_count"]:
        yield (
            "lost",
            f"{trace['dom0_lost_count']:,} events or samples: rings or tables of bpf were full "
            "(--section dom0)",
        )
    if not any(map(len, report.columns.values())):
        yield "counts", "none: nothing happened that is counted"


def among_others(report: Report) -> list[str]:
    """Return a text about the captures without Xen's trace in a report on traces, if there are any."""
    count, files = report.trace["dom0_only_files"], report.trace["files"]
    return [f"{count} of {files} files without Xen's trace: figures of dom0 only"] if count else []


def _recorded(report: Report) -> str:
    """Return what recorded, for how long, in how many captures."""
    trace = report.trace
    *others, last = trace["dom0_backends"] or ["bpf"]
    by = f"{', '.join(others)} and {last}" if others else last
    span_ns, count = trace["dom0_span_ns"], trace["dom0_only_files"]
    length = f"{span_ns / 1e9:.3f} s" if span_ns else "a time that is not known"
    return f"recorded by {by} only, for {length}" + (f" in {count} captures" if count > 1 else "")
