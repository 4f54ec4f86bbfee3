"""The findings of a report: a sentence each, what is usual, and the command that shows more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from shlex import quote
from textwrap import wrap
from typing import TYPE_CHECKING, NamedTuple

from xtrace.probes.words import count_of

if TYPE_CHECKING:
    from xtrace.analysis.findings.finding import Finding

_WIDTH = 80
#: Begins the first line of a finding, by its severity.
_MARKS = {"note": "*", "problem": "!"}
#: How a figure is known, the least certain last.
_CERTAINTY = ("exact", "bounded", "inferred", "modelled")


class Line(NamedTuple):
    """A line, and how a terminal shows it."""

    text: str
    bold: bool = False
    dim: bool = False


def finding_lines(findings: Sequence[Finding], shown: int, path: str) -> Iterator[Line]:
    """Yield the lines of the first findings, and one that says how many more there are.

    Args:
        path: of the trace, for commands; empty where there are several or it cannot be read again.
    """
    for finding in findings[:shown]:
        for number, line in enumerate(wrap(_sentence(finding), _WIDTH - 2)):
            yield Line(f"{'  ' if number else _MARKS[finding.severity] + ' '}{line}", bold=not number)
        usual = f"{finding.name}: usual {finding.usual} ({finding.source})"
        yield from (Line(f"  {line}", dim=True) for line in wrap(usual, _WIDTH - 2))
        yield from (Line(f"  {line}", dim=True) for line in _command(finding.command, path))
    if len(findings) > shown:
        yield Line(f"  {count_of(len(findings) - shown, 'more finding')}: --only-findings", dim=True)


def _command(command: str, path: str) -> list[str]:
    """Return the lines of a command, in two where it is long, so that it can be copied to a shell."""
    if not command:
        return []
    words, _, file = command.rpartition(" ")
    file = quote(path) if path else file
    whole = f"$ {words} {file}"
    return [whole] if len(whole) <= _WIDTH - 2 else [f"$ {words} \\", f"    {file}"]


def _sentence(finding: Finding) -> str:
    """Return the sentence, with how many more subjects there are and how its figures are known."""
    known = max((str(figure.quality) for figure in finding.figures), key=_CERTAINTY.index)
    others = f"; {finding.others} more" if finding.others else ""
    return f"{finding.sentence}{others} ({known})"
