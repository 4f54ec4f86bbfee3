"""How long does each stage of a wake take, by vCPU?

The stages stand side by side and do not add up: each is measured over other wakes, and a p99 of a sum is not
the sum of p99s.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from xtrace.cli.page import plots
from xtrace.cli.page.figure import Column, Figure, PageTable, Row
from xtrace.cli.page.scales import Log, log_around
from xtrace.cli.page.tables import Tables
from xtrace.cli.page.words import tick_text, vcpu_label
from xtrace.probes.words import scaled

#: vCPUs that are drawn; the busiest ones.
MOST_VCPUS = 24


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage of an event's way.

    Attributes:
        prefix: of its columns in the table event_way.
    """

    title: str
    prefix: str


#: Those of the way of an event on a terminal; a vCPU has the last two in the form that its guest has.
STAGES = (
    Stage("send to wake", "send_to_wake"),
    Stage("wake to runnable", "wake_to_runnable"),
    Stage("runnable to running", "runnable_to_running"),
    Stage("both: wake to running", "wake_to_running"),
    Stage("running to upcall: from the mark, as recorded", "mark_to_entry"),
    Stage("running to upcall: PV, to the first record", "running_to_entry_most"),
    Stage("running to upcall: HVM and PVH, from the injection", "injection_to_entry_most"),
    Stage("upcall to iret: as recorded", "entry_to_iret"),
    Stage("upcall to iret: PV, from the start of the run", "running_to_iret_most"),
    Stage("upcall to iret: HVM and PVH, to the next exit", "entry_to_exit"),
)
_TABLE = "event_way"


def waterfall(tables: Tables, named: Sequence[tuple[int, int]]) -> Figure | None:
    """Return the figure, None where no stage has a time.

    Args:
        named: vCPUs that findings name.
    """
    drawn, left_out = chosen(tables, named)
    stages = [stage for stage in STAGES if _times(tables, stage, drawn)]
    if not stages:
        return None
    values = [
        value for stage in stages for _, row in _times(tables, stage, drawn) for value in _ends(stage, row)
    ]
    scale = log_around(tables.ns(value) for value in values)
    way = [stage for stage in stages if stage.prefix != "wake_to_running"]
    details = [
        tables.page_table(
            _TABLE,
            [
                ("vcpu", "vCPU"),
                ("running_share_ratio", "runs"),
                ("waiting_share_ratio", "waits"),
                *((f"{stage.prefix}_count", "count") for stage in stages if stage not in way),
                *(
                    (f"{stage.prefix}_{end}_cycles", f"{stage.title.partition(':')[0]} {end}")
                    for stage in way
                    for end in ("p50", "p99")
                ),
            ],
            "The way of an event: all vCPUs",
            places=[place for place, _ in tables.guests(_TABLE)],
        )
    ]
    details += [
        tables.page_table(
            name,
            [("vcpu", "vCPU"), *columns],
            f"{title}: all vCPUs",
            places=[place for place, _ in tables.guests(name)],
        )
        for name, title, columns in _DETAILS
        if tables.guests(name)
    ]
    more = f" {left_out:,} quieter vCPUs are not drawn; the table below has more of them." if left_out else ""
    return Figure(
        "waterfall",
        "From send to upcall: each stage by vCPU",
        "A bar ends at the p50 of a stage, its whisker at the p99; all stages have one logarithmic axis. "
        "The stages do not add up: each is measured over its own wakes, and p99s are not summands." + more,
        panels=[(stage.title, _panel(tables, stage, drawn, scale)) for stage in stages],
        details=details,
        legend=(
            ("bar exact", "exact: both ends are records"),
            ("bar bounded", "bounded: the end is a bound"),
            ("bar inferred", "inferred by a rule"),
        ),
    )


_DETAILS = (
    (
        "wakes",
        "Wakes",
        [
            ("wake_count", "wakes"),
            ("wake_per_s", "/s"),
            *((f"wake_to_running_{end}_cycles", f"to running {end}") for end in ("p50", "p95", "p99", "max")),
            ("other_pcpu_ratio", "moved"),
            *((f"send_to_wake_{end}_cycles", f"send to wake {end}") for end in ("p50", "p99", "max")),
        ],
    ),
    (
        "upcalls",
        "Upcalls of PV guests",
        [
            ("upcall_least_count", "at least"),
            ("upcall_most_count", "at most"),
            *((f"running_to_entry_most_{end}_cycles", f"to guest {end}") for end in ("p50", "p99", "max")),
            *((f"upcall_least_{end}_cycles", f"least {end}") for end in ("p50", "p99")),
            *((f"upcall_most_{end}_cycles", f"most {end}") for end in ("p50", "p99", "max")),
            ("xen_version_count", "forced"),
        ],
    ),
    (
        "injections",
        "Interrupts injected into HVM and PVH guests",
        [
            ("vector", "vector"),
            ("injection_count", "injected"),
            ("injection_per_s", "/s"),
            *((f"injection_to_entry_{end}_cycles", f"to entry {end}") for end in ("p50", "p99", "max")),
            ("window_wait_count", "waits"),
            *((f"window_wait_{end}_cycles", f"wait {end}") for end in ("p50", "p99", "max")),
        ],
    ),
)


def chosen(tables: Tables, named: Sequence[tuple[int, int]]) -> tuple[list[tuple[int, int]], int]:
    """Return the vCPUs to draw, by domain, and how many are left out: the named ones and the busiest."""
    counts = {
        (row["domain"], row["vcpu"]): row["wake_to_running_count"] or 0
        for _, row in tables.guests(_TABLE)
        if _is_vcpu(row)
    }
    order = sorted(counts, key=lambda vcpu: (vcpu not in named, -counts[vcpu], vcpu))
    return sorted(order[:MOST_VCPUS]), max(len(order) - MOST_VCPUS, 0)


def _is_vcpu(row: dict[str, Any]) -> bool:
    return bool(row["domain"] < 0x7FF0)


def _ends(stage: Stage, row: dict[str, Any]) -> list[float]:
    ends = (row[f"{stage.prefix}_{end}_cycles"] for end in ("p50", "p99"))
    return [value for value in ends if value is not None]


def _times(
    tables: Tables, stage: Stage, drawn: Sequence[tuple[int, int]]
) -> list[tuple[int, dict[str, Any]]]:
    """Return the rows of the vCPUs that have the stage, with their places, by vCPU."""
    found = {
        (row["domain"], row["vcpu"]): (place, row)
        for place, row in tables.guests(_TABLE)
        if len(_ends(stage, row)) == 2
    }
    return [found[vcpu] for vcpu in drawn if vcpu in found]


def _panel(tables: Tables, stage: Stage, drawn: Sequence[tuple[int, int]], scale: Log) -> PageTable:
    p50, p99 = f"{stage.prefix}_p50_cycles", f"{stage.prefix}_p99_cycles"
    quality, worst = tables.quality(_TABLE, p50), tables.quality(_TABLE, p99)
    said = tick_text if tables.hz else lambda value: f"{scaled(value)}c"
    is_grouped = tables.are_grouped([domain for domain, _ in drawn])
    rows: list[Row] = []
    domain = -1
    for place, row in _times(tables, stage, drawn):
        if row["domain"] != domain and is_grouped:
            domain = row["domain"]
            rows.append(Row([tables.domain(domain)], is_heading=True))
        low, high = tables.ns(row[p50]), tables.ns(row[p99])
        drawing = plots.row(
            scale,
            plots.whisker(scale, low, high, worst.split()[0], (p50, p99)),
            plots.bar(scale, low, quality.split()[0], p50),
        )
        label = vcpu_label(row["domain"], row["vcpu"])
        rows.append(Row([label, drawing, tables.text(p50, row[p50]), tables.text(p99, row[p99])], place))
    return PageTable(
        (
            Column("vcpu", "vCPU", is_text=True),
            Column("", plots.axis(scale, said), is_plot=True),
            Column(p50, "p50", tables.known(_TABLE, p50)),
            Column(p99, "p99", tables.known(_TABLE, p99)),
        ),
        rows,
        stage.title,
        f"tables.{_TABLE}.rows.{{i}}.{{k}}",
        class_="plot",
    )
