"""Describe the rules of findings; this prints docs/findings.md."""

from __future__ import annotations

from xtrace.analysis.findings.finding import Rule
from xtrace.analysis.findings.rules.catalogue import RULES

_HEAD = """\
# Findings

The lines of a report that begin with `*` (a note) or `!` (a problem) say what is out of the usual. Each is
made by one of the rules below, which says nothing where its threshold is not reached, or where the trace
lacks the records that it needs. Problems come first; among these, what concerns more time, then what
concerns more events. A rule gives one line, on the subject for which it is worst, and says how many more
subjects it would name. A terminal shows seven; `--only-findings` prints all, and no tables.

The mark at the end of a line is that of the least certain figure in it. `findings` in the JSON report has
every figure with its own. Where a line names a moment, the command below it prints the records that show it.

- `--ignore NAME` leaves one out.
- `--fail-on-finding NAME` exits with 3, after the report, if there is one of this name;
  `--fail-on-finding problem` if any is a problem.

On an emulated host, rules about lengths of time give notes only: its times are not those of hardware.

Of 200 simulated hosts without a fault (1 to 130 pCPUs, 1 to 95 % of their time used), 1 had a problem: a vCPU
with 25 upcalls at least had forced 20 callbacks. Each rule is tested with a host that has the fault, and with
one that nearly has it. On the bundled samples, a second program that reads only the records
(tests/analysis/findings/test_samples.py) finds what each finding says: the wake and the run of the longest
wait, the sums of runstates, the counts of hypercalls and of lost records, idle time while a vCPU waited."""


def markdown() -> str:
    """Return docs/findings.md as text."""
    lines = [_HEAD]
    for rule in RULES:
        lines += ["", f"## {rule.name}", "", *_rows(rule)]
    return "\n".join(lines) + "\n"


def _rows(rule: Rule) -> list[str]:
    needs = ", ".join(" or ".join(need.value.names) for need in rule.needs)
    needs += ", all pCPUs" if rule.needs_all_pcpus else ""
    rows = [
        ("looks at", rule.about),
        ("note", rule.note),
        ("problem", rule.problem + (" (not on an emulated host)" if rule.is_of_lengths else "")),
        ("usual", f"{rule.usual}: {rule.source}"),
        ("needs", needs),
    ]
    return ["| | |", "|---|---|", *(f"| {name} | {text} |" for name, text in rows if text)]


if __name__ == "__main__":
    print(markdown(), end="")  # noqa: T201 - this is a page generator
