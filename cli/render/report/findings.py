"""The findings of a report: a sentence each, what is usual, and the command that shows more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from shlex import quote
from typing import TYPE_CHECKING, NamedTuple

from xtrace.cli.terminal.style import width
from xtrace.cli.terminal.text import columns_of, cut, safe, wrapped
from xtrace.probes.words import count_of

if TYPE_CHECKING:
    from xtrace.analysis.findings.finding import Finding

#: Begins the first line of a finding, by its severity.
_MARKS = {"note": "*", "problem": "!"}
#: A finding in one line ends with a clause of at least as many words.
_CLAUSE_WORDS = 3
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
        for number, line in enumerate(wrapped(safe(sentence(finding)), width() - 2)):
            yield Line(f"{'  ' if number else _MARKS[finding.severity] + ' '}{line}", bold=not number)
        usual = f"{finding.name}: usual {finding.usual} ({finding.source})"
        yield from (Line(f"  {line}", dim=True) for line in wrapped(usual, width() - 2))
        yield from (Line(f"  {line}", dim=True) for line in _command(finding.command, path))
    if len(findings) > shown:
        yield Line(f"  {count_of(len(findings) - shown, 'more finding')}: --only-findings", dim=True)


def one_line(finding: Finding, width: int) -> str:
    """Return a finding in one line of ``width`` columns, and how it is known.

    A sentence that does not fit ends after one of its clauses.
    """
    others = f"; {finding.others} more" if finding.others else ""
    known = f" ({_certainty(finding)})"
    whole = safe(finding.sentence)
    for end in (f"{others}{known}", known):
        room = width - columns_of(end)
        if columns_of(whole) <= room:
            return f"{whole}{end}"
        fitting = [place for place in _clauses(whole) if columns_of(whole[:place]) <= room]
        if fitting:
            return f"{whole[: max(fitting)]}{end}"
    return f"{cut(whole, width - columns_of(known))}{known}"


def _clauses(text: str) -> Iterator[int]:
    """Yield where ``text`` can end: after a clause of more than two words."""
    begin = 0
    for place, char in enumerate(text[:-1]):
        if char in ";:," and text[place + 1] == " ":
            if len(text[begin:place].split()) >= _CLAUSE_WORDS:
                yield place
            begin = place + 1


def _certainty(finding: Finding) -> str:
    """Return how the least certain figure of a finding is known."""
    return max((str(figure.quality) for figure in finding.figures), key=_CERTAINTY.index)


def _command(command: str, path: str) -> list[str]:
    """Return the lines of a command, in two where it is long, so that it can be copied to a shell."""
    if not command:
        return []
    words, _, file = command.rpartition(" ")
    file = quote(path) if path else file
    whole = f"$ {words} {file}"
    return [whole] if len(whole) <= width() - 2 else [f"$ {words} \\", f"    {file}"]


def sentence(finding: Finding) -> str:
    """Return the sentence, with how many more subjects there are and how its figures are known."""
    others = f"; {finding.others} more" if finding.others else ""
    return f"{finding.sentence}{others} ({_certainty(finding)})"
