"""What a finding is, and what a rule is that makes findings."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from xtrace.analysis.coverage.needs import Records
from xtrace.analysis.findings.evidence import Evidence, Figure, Span

#: Stands for the trace in a finding's command.
FILE = "FILE"


class Severity(StrEnum):
    """How much a finding matters."""

    NOTE = "note"  # it is worth knowing
    PROBLEM = "problem"  # something does not work as it should


@dataclass(frozen=True, slots=True)
class Found:
    """What a rule says about one subject.

    Attributes:
        is_problem: it is past the rule's threshold of a problem, and not only of a note.
        sentence: the subject and what was found, without a full stop.
        figures: all figures of the sentence; there is at least one.
        concerned_cycles: how much time it concerns.
        concerned_count: how many events it concerns; a finding that concerns none is left out.
        domain, vcpu, pcpu: the subject; None where it is not one.
        span: the stretch of the trace that shows it at its worst.
        when: what happened there, in words that the time follows; empty where the sentence says the time.
        others: how many more subjects the rule would name.
    """

    is_problem: bool
    sentence: str
    figures: tuple[Figure, ...]
    concerned_count: int
    concerned_cycles: int = 0
    domain: int | None = None
    vcpu: int | None = None
    pcpu: int | None = None
    span: Span | None = None
    when: str = ""
    others: int = 0


@dataclass(frozen=True, slots=True)
class Rule:
    """One question that a report answers only where the answer is out of the usual.

    Attributes:
        name: stable, for options and scripts.
        about: what it looks at, in a sentence.
        note: the threshold of a note, in words.
        problem: the threshold of a problem, in words; empty where it never is one.
        usual: what is usual.
        source: where that is from.
        find: a pure function; it yields one Found for each subject past the threshold.
        needs: kinds of records without which the rule says nothing.
        needs_all_pcpus: it says nothing where vCPUs may have run unseen, on pCPUs or in windows that the
            trace lacks: it would take that time for another state.
        is_of_lengths: the threshold is a length of time, so that on an emulated host there are only notes.
        command: the options of ``xtrace report`` that show more, where no stretch of the trace does.
    """

    name: str
    about: str
    note: str
    problem: str
    usual: str
    source: str
    find: Callable[[Evidence], Iterable[Found]]
    needs: tuple[Records, ...] = ()
    needs_all_pcpus: bool = False
    is_of_lengths: bool = False
    command: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """A finding of a report.

    Attributes:
        name: of the rule.
        severity: note or problem.
        command: shows more about it; FILE stands for the trace.
        usual, source: as in Rule.
        moment_cycles: time from the trace's first record to the beginning of Found.span; None without one.

    The other attributes are as in Found.
    """

    name: str
    severity: Severity
    sentence: str
    figures: tuple[Figure, ...]
    usual: str
    source: str
    concerned_cycles: int
    concerned_count: int
    domain: int | None
    vcpu: int | None
    pcpu: int | None
    others: int
    moment_cycles: int | None
    command: str


def finding_object(finding: Finding, hz: float | None) -> Mapping[str, object]:
    """Return a finding as the JSON report has it.

    Args:
        hz: TSC rate, for times in ns; None where it is not known.
    """
    return {
        "name": finding.name,
        "severity": str(finding.severity),
        "sentence": finding.sentence,
        "figures": [
            {
                "name": figure.name,
                "value": figure.value,
                "value_ns": figure.value * 1e9 / hz if hz and figure.name.endswith("_cycles") else None,
                "quality": str(figure.quality),
            }
            for figure in finding.figures
        ],
        "usual": finding.usual,
        "source": finding.source,
        "concerned_cycles": finding.concerned_cycles,
        "concerned_count": finding.concerned_count,
        "domain": finding.domain,
        "vcpu": finding.vcpu,
        "pcpu": finding.pcpu,
        "others": finding.others,
        "moment_cycles": finding.moment_cycles,
        "moment_ns": finding.moment_cycles * 1e9 / hz if hz and finding.moment_cycles is not None else None,
        "command": finding.command,
    }
