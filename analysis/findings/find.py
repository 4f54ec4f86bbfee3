"""Apply the rules: all findings of the traces, worst first."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

import numpy as np

from xtrace.analysis.coverage.coverage import Held
from xtrace.analysis.findings.evidence import Evidence, Span
from xtrace.analysis.findings.finding import FILE, Finding, Found, Rule, Severity
from xtrace.analysis.measures.table import Quality
from xtrace.probes.selection.vcpus import Vcpu

#: How many findings a terminal shows; the rest is counted.
SHOWN = 7


def find_all(
    evidence: Evidence,
    rules: Iterable[Rule],
    *,
    domains: Collection[int] = (),
    vcpus: Collection[Vcpu] = (),
) -> list[Finding]:
    """Return one finding for each rule that has something to say, worst first.

    Problems come before notes; among these, what concerns more time, then what concerns more events.

    Args:
        domains, vcpus: leave out what is about others; empty means all.
    """
    findings = []
    for rule in rules:
        coverage = evidence.coverage
        is_seen = coverage.has_all_pcpus and not coverage.hole_count
        if coverage.holds(rule.needs) is Held.NOT or (rule.needs_all_pcpus and not is_seen):
            continue
        found = [one for one in rule.find(evidence) if _is_wanted(one, domains, vcpus)]
        if found:
            worst = min(found, key=lambda one: (not one.is_problem, *_weight(one)))
            others = sum(one.others + 1 for one in found) - 1
            findings.append(_finding(evidence, rule, replace(worst, others=others)))
    return sorted(findings, key=lambda one: (one.severity is Severity.NOTE, *_weight(one), one.name))


def _weight(found: Found | Finding) -> tuple[int, int]:
    return -found.concerned_cycles, -found.concerned_count


def _is_wanted(found: Found, domains: Collection[int], vcpus: Collection[Vcpu]) -> bool:
    if not found.concerned_count or any(each.quality is Quality.ABSENT for each in found.figures):
        return False
    if found.domain is not None and domains and found.domain not in domains:
        return False
    if found.vcpu is None or not vcpus:
        return True
    return any(each.number == found.vcpu and each.domain in (None, found.domain) for each in vcpus)


def _finding(evidence: Evidence, rule: Rule, found: Found) -> Finding:
    is_problem = found.is_problem and not (rule.is_of_lengths and evidence.emulated)
    sentence, moment = found.sentence, None
    command = f"xtrace report {rule.command}" if rule.command else ""
    if found.span is not None:
        moment = evidence.since_first(found.span.begin_tsc)
        if found.when:
            sentence += f"; {found.when} at {evidence.at(found.span.begin_tsc)}"
        if len(evidence.measures.partial.spans) == 1:
            command = _dump(evidence, found.span)
    return Finding(
        name=rule.name,
        severity=Severity.PROBLEM if is_problem else Severity.NOTE,
        sentence=sentence,
        figures=found.figures,
        usual=rule.usual,
        source=rule.source,
        concerned_cycles=found.concerned_cycles,
        concerned_count=found.concerned_count,
        domain=found.domain,
        vcpu=found.vcpu,
        pcpu=found.pcpu,
        others=found.others,
        moment_cycles=moment,
        command=f"{command} {FILE}" if command else "",
    )


def _dump(evidence: Evidence, span: Span) -> str:
    """Return the command that prints the records of a stretch; its times are those before an alignment."""
    aligned = evidence.measures.partial.aligned
    margin = (
        int((np.abs(aligned["offset_cycles"]) + aligned["uncertain_cycles"]).max()) if len(aligned) else 0
    )
    begin = max(evidence.since_first(span.begin_tsc) - margin, 0)
    return f"xtrace dump --from {begin}c --to {evidence.since_first(span.end_tsc) + margin + 1}c"


def without(findings: Sequence[Finding], names: Collection[str]) -> list[Finding]:
    """Return the findings that have none of these names."""
    return [finding for finding in findings if finding.name not in names]
