"""The first screen of a report: what was recorded, what is out of the usual, the way of an event.

It fits in 24 lines of 80 columns.  Wider terminals show more columns, higher ones more rows.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from xtrace.cli.render.report.coverage import covered_briefly
from xtrace.cli.render.report.findings import one_line
from xtrace.cli.render.report.head import EMULATED, domain_names, facts, listed
from xtrace.cli.render.report.way import Line, way_lines
from xtrace.cli.terminal.style import Put, Style, height, is_dumb, styled, width
from xtrace.cli.terminal.text import columns_of, cut, labelled, shortened
from xtrace.probes.words import count_of, scaled

if TYPE_CHECKING:
    from xtrace.analysis.report.build import Report

_NOTES, _FINDINGS = 4, 6
#: Up to this many facts out of the usual and findings, facts have two lines: the second says what to do.
_LONG_NOTES = 6


def print_first_screen(put: Put, report: Report, names: Sequence[str], *, window: str = "") -> None:
    """Print the first screen.

    Args:
        names: the traces, as the user named them.
        window: the part of the trace that was counted, as text; empty for the whole trace.
    """
    room = height() - 1
    lines = [*_head(report, names, window), *_found(report)]
    for text, style in lines:
        put(styled(text, style))
    room -= len(lines) + 1
    put("")
    for text, style in way_lines(report, room=room - 2):
        put(styled(text, style))
    put("")
    put("xtrace report --list: sections   --full: all   --legend: what columns mean", dim=True)


# --- what was recorded, what is out of the usual ------------------------------------------------


def _head(report: Report, names: Sequence[str], window: str) -> Iterator[Line]:
    trace = report.trace
    yield shortened(listed(names), width()), Style.BOLD
    span = f"{trace['span_ns'] / 1e9:.3f} s" if report.hz else f"{scaled(trace['span_cycles'])} cycles"
    of = f" of {covered_briefly(report.coverage)}" if report.coverage else ""
    yield cut(f"{span}{of}; Xen {trace['xen_versions']}", width()), Style.PLAIN
    if window:
        yield _labelled("part", f"{window}: only what ends there is counted"), Style.NOTE
    if named := domain_names(report):
        yield _labelled("domains", named), Style.PLAIN
    if trace["emulated"]:
        yield _labelled("host", EMULATED), Style.PLAIN
    notes = [fact for fact in facts(report) if not fact.is_usual and fact.text != EMULATED]
    shown = notes if len(notes) <= _NOTES else notes[: _NOTES - 1]
    most = 2 if len(notes) + len(report.findings) <= _LONG_NOTES else 1
    for fact in shown:
        lines = labelled(fact.label, fact.text, width())
        if len(lines) > most:
            lines[most - 1 :] = [cut(f"{lines[most - 1]} {lines[most].strip()}", width())]
        yield from ((line, Style.NOTE) for line in lines)
    if len(notes) > len(shown):
        yield _labelled("", f"{len(notes) - len(shown)} more such lines: --full"), Style.NOTE


def _labelled(label: str, text: str) -> str:
    """Return a fact in one line."""
    whole = labelled(label, text, 1 << 20)[0]
    return whole if columns_of(whole) <= width() else cut(whole, width())


def _found(report: Report) -> Iterator[Line]:
    findings = report.findings
    problems = sum(finding.severity == "problem" for finding in findings)
    if not findings:
        yield _labelled("found", "nothing out of the usual in what was recorded"), Style.PLAIN
        return
    notes = len(findings) - problems
    counts = [
        count_of(problems, "problem") if problems else "no problem",
        *([count_of(notes, "note")] if notes else []),
    ]
    more = f"; {len(findings) - _FINDINGS} not shown" if len(findings) > _FINDINGS else ""
    yield _labelled("found", f"{', '.join(counts)}{more}; --only-findings has the details"), Style.PLAIN
    for finding in findings[:_FINDINGS]:
        is_problem = finding.severity == "problem"
        mark = f"{finding.severity}: " if is_dumb() else "! " if is_problem else "* "
        line = f"{mark}{one_line(finding, width() - len(mark))}"
        yield line, Style.PROBLEM if is_problem else Style.PLAIN
