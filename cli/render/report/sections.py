"""The sections of a report: what each answers, and the legend of what a screen shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from xtrace.cli.terminal.style import width
from xtrace.cli.terminal.text import LABEL, wrapped

if TYPE_CHECKING:
    from xtrace.analysis.measures.table import Column

#: The question that each section answers; a test holds that these are all sections, in their order.
ANSWERS = {
    "way": "How long does each stage of an event's way to a vCPU take, and who waits?",
    "delivery": "What wakes each vCPU, how long until it runs, who sends to whom?",
    "upcalls": "How many upcalls does each vCPU take, how long do they last, how often are they forced?",
    "runstates": "Where does the time of vCPUs, domains and pCPUs go?",
    "hypercalls": "Which hypercalls, traps and faults do PV guests make, and how often?",
    "hvm": "Why do HVM and PVH guests leave to Xen, and for how long?",
    "irqs": "Which interrupts does Xen handle, on which pCPU, for how long?",
    "rips": "Where in guests' code do the records of Xen find them?",
    "kernel": "Which functions and lines of a guest's kernel is that? (--kernel)",
    "dom0": "What did bpf, perf and xenctx see in dom0?",
    "cost": "What do a kernel's fences cost? (--kernel, --calibration)",
    "trace": "What is in the trace: records by event and pCPU, and what was left out?",
}
#: What is known about a figure, in the words of the screen.
WORDS = {
    "exact": "both ends are records of the trace",
    "at most": "bounded: one end is only known to lie in an interval; the figure is its upper bound",
    "at least": "bounded from below, also where the trace covers only a part",
    "inferred": "a rule decided, which the column's explanation states; docs/accuracy-delivery.md says "
    "how often it is right",
    "modelled": "computed from rates and a calibration, always an interval",
}
_INDENT = 4


def section_list() -> Iterator[str]:
    """Yield the lines of --list."""
    longest = max(map(len, ANSWERS)) + 2
    for name, answer in ANSWERS.items():
        for number, line in enumerate(wrapped(answer, width() - longest)):
            yield f"{'' if number else name:<{longest}}{line}"
    yield ""
    yield from wrapped(
        "xtrace report --section NAME prints one whole; --full all, briefly; --legend explains columns.",
        width(),
    )


def legend(sections: Sequence[str]) -> Iterator[str]:
    """Yield the lines of --legend: words, and the columns shown; of the first screen without sections."""
    yield "How a figure is known"
    for word, meaning in WORDS.items():
        yield from _entry(word, meaning)
    yield from _legend_of_tables(sections) if sections else _legend_of_first_screen()


def _legend_of_first_screen() -> Iterator[str]:
    from xtrace.analysis.tables.event_way import TABLES
    from xtrace.cli.render.report.way import STAGES

    meanings = {column.name: column.meaning for column in TABLES[0].columns}
    yield ""
    yield "The way of an event: for each vCPU, p50 and p99 of each stage"
    for stage in STAGES:
        for number, source in enumerate(stage.sources):
            meaning = meanings[f"{source}_p50_cycles"].removesuffix(", p50")
            yield from _entry("" if number else f"{stage.first} {stage.second}", meaning)
    yield from _entry("runs", meanings["running_share_ratio"])
    yield from _entry("waits", meanings["waiting_share_ratio"])
    yield from _entry("spread", "wakes by the time to running, a column per octave (factor of 2)")


def _legend_of_tables(sections: Sequence[str]) -> Iterator[str]:
    from xtrace.analysis.report.build import TABLES

    for table in TABLES:
        shown: list[Column] = [column for column in table.columns if column.heading]
        if table.section in sections and shown:
            yield ""
            yield table.title
            for column in shown:
                yield from _entry(column.heading or "", column.meaning)


def _entry(term: str, meaning: str) -> Iterator[str]:
    longest = 2 * LABEL + 2
    for number, line in enumerate(wrapped(meaning, width() - longest - _INDENT // 2)):
        yield f"  {'' if number else term:<{longest}}{line}"
