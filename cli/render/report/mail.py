"""A report for a mail or an issue: versions, command line, coverage, findings, and the one table.

A mail has 72 columns and fewer than 60 lines of plain ASCII; an issue the same in Markdown.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from shlex import join
from typing import TYPE_CHECKING

from xtrace import __version__
from xtrace.cli.render.report.coverage import covered_briefly
from xtrace.cli.render.report.findings import sentence
from xtrace.cli.render.report.head import domain_names, facts, listed
from xtrace.cli.render.report.tables import vcpu_label
from xtrace.cli.terminal.text import safe, wrapped
from xtrace.probes.words import count_of, scaled, time_text
from xtrace.probes.xen_abi import IDLE_DOMAIN

if TYPE_CHECKING:
    from xtrace.analysis.report.build import Report

COLUMNS, LINES = 72, 59
_LABEL = 10
_FINDINGS, _FINDING_LINES, _FACT_LINES = 10, 3, 3
_HEADS = ("vcpu", "wakes", "wake-run p50", "p99", "wait p99", "send-wake p99", "waits")
#: The columns of the table event_way: how often, and times.
_TIMES = (
    "wake_to_running_p50_cycles",
    "wake_to_running_p99_cycles",
    "runnable_to_running_p99_cycles",
    "send_to_wake_p99_cycles",
)
_MARKDOWN = str.maketrans({each: f"\\{each}" for each in "\\`*_{}[]<>|#"})


@dataclass(frozen=True, slots=True)
class Letter:
    """What a mail or an issue says.

    Attributes:
        facts: a label and a text each.
        findings: sentences, with a word for how they are known.
        rows: of the table, in words.
        known: how the table's figures are known.
    """

    facts: list[tuple[str, str]]
    findings: list[str]
    rows: list[tuple[str, ...]]
    known: str


def letter(report: Report, names: Sequence[str], arguments: Sequence[str], window: str) -> Letter:
    """Return what is said of a report.

    Args:
        names: the traces, as the user named them.
        arguments: of the command line, without the program's name.
        window: the part of the trace that was counted, as text; empty for the whole trace.
    """
    trace = report.trace
    span = f"{trace['span_ns'] / 1e9:.3f} s" if report.hz else f"{scaled(trace['span_cycles'])} cycles"
    covered = f" of {covered_briefly(report.coverage)}" if report.coverage else ""
    said = [
        ("trace", listed(names)),
        ("command", safe(join(["xtrace", *arguments]))),
        ("versions", f"xtrace {__version__}, Python {platform.python_version()}; Xen {trace['xen_versions']} "
                     f"({trace['xen_versions_source']})"),
        ("covered", span + covered),
    ]  # fmt: skip
    if window:
        said.append(("part", f"{window}: only what ends there is counted"))
    if named := domain_names(report):
        said.append(("domains", named))
    notable = (fact for fact in facts(report) if fact.label == "TSC" or not fact.is_usual)
    said += [(fact.label, safe(fact.text)) for fact in notable]
    found = [f"{each.severity}: {safe(sentence(each))}" for each in report.findings]
    return Letter(said, found, *_table(report))


def mail_lines(said: Letter) -> Iterator[str]:
    """Yield the lines of a mail, in ASCII."""
    lines = []
    for label, text in said.facts:
        lines += _labelled(label, text, _FACT_LINES)
    lines.append("")
    lines.append(count_of(len(said.findings), "finding") if said.findings else "nothing out of the usual")
    for text in said.findings[:_FINDINGS]:
        lines += _hanging("- ", text, _FINDING_LINES)
    if len(said.findings) > _FINDINGS:
        lines.append(f"- {len(said.findings) - _FINDINGS} more")
    lines = lines[: LINES - 8]
    lines += [
        "",
        "Wakes of vCPUs, the one that waits most first",
        *_hanging("", f"({said.known})", _FACT_LINES),
    ]
    sizes = [max(len(head), *(len(row[place]) for row in said.rows), 0) for place, head in enumerate(_HEADS)]
    room = LINES - len(lines) - 2
    shown = said.rows if len(said.rows) <= room else said.rows[: room - 1]
    for row in (_HEADS, *shown):
        lines.append("  ".join(cell.rjust(size) for cell, size in zip(row, sizes, strict=True)))
    if len(shown) < len(said.rows):
        lines.append(f"{len(said.rows) - len(shown)} quieter vCPUs")
    for line in lines:
        yield safe(line).encode("ascii", "backslashreplace").decode()[:COLUMNS].rstrip()


def markdown_lines(said: Letter) -> Iterator[str]:
    """Yield the lines of an issue."""
    yield "| | |"
    yield "|---|---|"
    yield from (f"| {label} | {_plain(text)} |" for label, text in said.facts)
    yield ""
    yield "**Findings**" if said.findings else "Nothing is out of the usual."
    yield ""
    yield from (f"- {_plain(text)}" for text in said.findings)
    yield ""
    yield f"**Wakes of vCPUs**, the one that waits most first ({said.known})"
    yield ""
    yield f"| {' | '.join(_HEADS)} |"
    yield f"|---|{'---:|' * (len(_HEADS) - 1)}"
    yield from (f"| {' | '.join(map(_plain, row))} |" for row in said.rows)


def _table(report: Report) -> tuple[list[tuple[str, ...]], str]:
    """Return the rows, and how they are known."""
    quality = report.quality["event_way"]
    rows = []
    for row in report.columns["event_way"].rows():
        if row["domain"] == IDLE_DOMAIN or not row["wake_to_running_count"] > 0:
            continue
        times = (time_text(row[name], report.hz) for name in _TIMES)
        share = row["waiting_share_ratio"]
        waits = "-" if share != share else f"{share:.1%}"
        rows.append((vcpu_label(row), f"{int(row['wake_to_running_count']):,}", *times, waits))
    from xtrace.analysis.measures.certainty import certainty_word

    described = {column.name: column for column in report.described["event_way"].columns}
    sources = {
        "wake-run": _TIMES[0],
        "wait": _TIMES[2],
        "send-wake": _TIMES[3],
        "waits": "waiting_share_ratio",
    }
    known = (f"{what} {certainty_word(described[name], quality[name])}" for what, name in sources.items())
    return rows, ", ".join(known)


def _plain(text: str) -> str:
    """Return text that Markdown shows as it is."""
    return text.translate(_MARKDOWN).replace("@", "@\u200b")


def _labelled(label: str, text: str, most: int) -> list[str]:
    return _hanging(f"{label:<{_LABEL}}", text, most)


def _hanging(head: str, text: str, most: int) -> list[str]:
    """Return text after a head, in up to ``most`` lines."""
    lines = wrapped(text, COLUMNS - len(head))
    if len(lines) > most:
        lines = [*lines[: most - 1], f"{lines[most - 1][: COLUMNS - len(head) - 4]} ..."]
    return [f"{head if not number else ' ' * len(head)}{line}" for number, line in enumerate(lines)]
