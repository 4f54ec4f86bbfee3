"""The way of an event as a table: a line per vCPU, the stages side by side, how each is known above them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from xtrace.cli.render.report.tables import vcpu_label
from xtrace.cli.terminal.drawn import bar, is_drawn, spark
from xtrace.cli.terminal.grid import GridColumn, grid_lines
from xtrace.cli.terminal.style import Style, width
from xtrace.cli.terminal.text import cut, safe, shortened, wrapped
from xtrace.probes.words import count_of, time_text
from xtrace.probes.xen_abi import IDLE_DOMAIN

if TYPE_CHECKING:
    from xtrace.analysis.report.build import Report

#: A line and its style.
Line = tuple[str, Style]
_LEAST_ROWS = 3
#: From this width on, times have three digits and there are more columns.
_WIDE = 120
_NAME, _BAR = 24, 10


class Stage(NamedTuple):
    """A stage of an event's way.

    Attributes:
        first, second: the heading, in two lines.
        sources: prefixes of the columns that measure it; a vCPU shows the first that it has.
    """

    first: str
    second: str
    sources: tuple[str, ...]


STAGES = (
    Stage("send", "to wake", ("send_to_wake",)),
    Stage("wake to", "runnable", ("wake_to_runnable",)),
    Stage("runnable", "to running", ("runnable_to_running",)),
    Stage("running", "to upcall", ("mark_to_entry", "running_to_entry_most", "injection_to_entry_most")),
    Stage("upcall", "to iret", ("entry_to_iret", "running_to_iret_most", "entry_to_exit")),
)
_WHOLE = Stage("wake to", "running", ("wake_to_running",))
#: What the figures of a vCPU are whose stage has another form than that of most.
_FORMS = {
    "mark_to_entry": "from the mark to the upcall, as recorded",
    "running_to_entry_most": "PV guests, from the start of the run to the first record",
    "injection_to_entry_most": "HVM and PVH guests, from the injection to the VM entry",
    "entry_to_iret": "upcalls as recorded",
    "running_to_iret_most": "PV guests, from the start of the run",
    "entry_to_exit": "HVM and PVH guests, from the VM entry to the next exit",
}
#: What a stage of another form than most is, by its column; marks are those of JSON's documentation.
_MARKS = {"exact": "=", "at most": "<", "at least": ">", "inferred": "~", "modelled": "*"}


def way_lines(report: Report, limit: int | None = None, *, room: int | None = None) -> Iterator[Line]:
    """Yield the table.

    Args:
        limit: at most this many vCPUs; None is as many as fit into ``room``.
        room: how many lines the table may take; at least three vCPUs are shown anyway.
    """
    table = report.columns["event_way"]
    rows = [row for row in table.rows() if row["domain"] != IDLE_DOMAIN]
    quality = report.quality["event_way"]
    if not any(_source(stage, row) for stage in STAGES for row in rows):
        yield "The way of an event: the trace has no wake with its run", Style.BOLD
        for line in wrapped(
            "Stages need records of wakes and runstates (xentrace -e sched, xtrace record --class sched); "
            "--full shows what else the trace has.",
            width(),
        ):
            yield line, Style.PLAIN
        return
    yield "The way of an event: p50 and p99 of each stage, the vCPU that waits most first", Style.BOLD
    yield _summary(report, rows), Style.PLAIN
    whole = [] if width() >= _WIDE else _spread_of_all(report, rows)
    for line in whole:
        yield line, Style.PLAIN
    foot, columns = _columns(report, rows, quality)
    heads, lines, _ = grid_lines(columns, width())
    shown = len(lines)
    if limit is not None:
        shown = min(limit, shown)
    elif room is not None and shown > (left := room - len(heads) - 2 - len(whole) - len(foot)):
        shown = max(left - 1, _LEAST_ROWS)
    for number, line in enumerate(heads):
        yield line, Style.DIM if number == len(heads) - 1 else Style.PLAIN
    for line in lines[:shown]:
        yield line, Style.PLAIN
    if len(lines) > shown:
        yield f"{count_of(len(lines) - shown, 'quieter vCPU')}: --section way --rows 0", Style.DIM
    for line in foot:
        yield line, Style.DIM


def _summary(report: Report, rows: Sequence[Mapping[str, Any]]) -> str:
    """Return in a sentence how long it took from a wake until the vCPU ran."""
    known = [row for row in rows if row["wake_to_running_count"] > 0]
    if not known:
        return "wake to running: not measured"
    ends = []
    for name in ("p50", "p99"):
        times = sorted(row[f"wake_to_running_{name}_cycles"] for row in known)
        low, high = (short_time(time, report.hz) for time in (times[0], times[-1]))
        ends.append(f"{name} {low}" + (f" to {high}" if high != low else ""))
    from xtrace.analysis.measures.certainty import certainty_word

    source = f"{_WHOLE.sources[0]}_p50_cycles"
    described = {column.name: column for column in report.described["event_way"].columns}
    word = certainty_word(described[source], report.quality["event_way"][source])
    wakes = sum(int(row["wake_to_running_count"]) for row in known)
    return cut(f"{count_of(wakes, 'wake')} to running, by vCPU: {', '.join(ends)} ({word})", width())


def _columns(
    report: Report, rows: Sequence[Mapping[str, Any]], quality: Mapping[str, Any]
) -> tuple[list[str], list[GridColumn]]:
    """Return the lines under the table, and its columns, as many as fit."""
    from xtrace.analysis.measures.certainty import certainty_word

    is_wide = width() >= _WIDE
    text: Callable[[float], str] = (
        (lambda cycles: time_text(cycles, report.hz))
        if is_wide
        else (lambda cycles: short_time(cycles, report.hz))
    )
    columns = [GridColumn(("", "", "vcpu"), [vcpu_label(row) for row in rows], left=True)]
    if is_wide:
        wakes = [_count(row["wake_to_running_count"]) for row in rows]
        columns.append(GridColumn(("", "", "wakes"), wakes))
    names = {int(domain): safe(name) for domain, name in report.trace["domains"].items()}
    if is_wide and names:
        columns.append(
            GridColumn(
                ("", "", "domain"),
                [shortened(names.get(row["domain"], "-"), _NAME) for row in rows],
                left=True,
                shorten=shortened,
            )
        )
    described = {column.name: column for column in report.described["event_way"].columns}

    def word(source: str) -> str:
        name = f"{source}_p50_cycles"
        return certainty_word(described[name], quality[name])

    foot: list[str] = []
    marked: set[str] = set()  # sources of the cells that are known in another way than most
    stages = (*STAGES, _WHOLE) if is_wide else STAGES
    for stage in stages:
        sources = [_source(stage, row) for row in rows]
        words = [word(source) for source in sources if source]
        usual = max(words, key=words.count) if words else word(stage.sources[0])
        cells = []
        marks = ["" if not source or word(source) == usual else _MARKS[word(source)] for source in sources]
        pairs = [
            tuple(text(row[f"{source}_{name}_cycles"]) if source else "-" for name in ("p50", "p99"))
            for row, source in zip(rows, sources, strict=True)
        ]
        widths = [max((len(pair[place]) for pair in pairs), default=1) for place in (0, 1)]
        pad = " " if any(marks) else ""
        for (p50, p99), mark in zip(pairs, marks, strict=True):
            cells.append(f"{p50:>{widths[0]}} {p99:>{widths[1]}}{mark or pad}")
        marked |= {source for source, mark in zip(sources, marks, strict=True) if mark}
        columns.append(GridColumn((stage.first, stage.second, usual), cells))
    foot += [
        f"{_MARKS[word(source)]} {word(source)}: {_FORMS[source]}" for source in _FORMS if source in marked
    ]
    shares = list(_shares(rows, described, quality, is_wide=is_wide))
    if is_wide:
        return foot, [*columns, *shares, _spread(report, rows)]
    return foot, [*columns, *shares]


def _source(stage: Stage, row: Mapping[str, Any]) -> str:
    """Return the first source of a stage that the vCPU has a figure of."""
    return next((name for name in stage.sources if _is_known(row[f"{name}_p50_cycles"])), "")


def _is_known(value: Any) -> bool:
    return value is not None and not math.isnan(value)


def _shares(
    rows: Sequence[Mapping[str, Any]],
    described: Mapping[str, Any],
    quality: Mapping[str, Any],
    *,
    is_wide: bool,
) -> Iterator[GridColumn]:
    from xtrace.analysis.measures.certainty import certainty_word

    for first, name in (("runs", "running_share_ratio"), ("waits", "waiting_share_ratio")):
        if first == "runs" and not is_wide:
            continue
        word = certainty_word(described[name], quality[name])
        cells = [_percent(row[name]) for row in rows]
        yield GridColumn((first, "", word), cells)
        if is_wide and is_drawn():
            yield GridColumn(("", "", ""), [bar(row[name], _BAR) for row in rows], left=True)


def _count(value: Any) -> str:
    return f"{int(value):,}" if _is_known(value) else "-"


def _percent(share: float) -> str:
    return f"{share:.1%}" if _is_known(share) else "-"


def _spread(report: Report, rows: Sequence[Mapping[str, Any]]) -> GridColumn:
    """Return the spread of the times from wake to running, as a picture or in words."""
    scale, mine = _octaves(report, rows)
    if not scale:
        return GridColumn(("", "", ""), ["" for _ in rows], left=True)
    if is_drawn():
        cells = [spark([of_vcpu.get(low, 0) for low in scale]) for of_vcpu in mine]
    else:
        cells = [_in_words(of_vcpu, report.hz) for of_vcpu in mine]
    ends = f"{short_time(scale[0], report.hz)} to {short_time(scale[-1] * 2, report.hz)}"
    return GridColumn(("wake to", "running", f"spread, {ends}"), cells, left=True)


def _spread_of_all(report: Report, rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line with the spread of all vCPUs' times, for screens without room for one of each."""
    scale, mine = _octaves(report, rows)
    if not scale:
        return []
    whole = {low: sum(of_vcpu.get(low, 0) for of_vcpu in mine) for low in scale}
    if not is_drawn():
        return [f"of all vCPUs' wakes, {_in_words(whole, report.hz)}"]
    low, high = short_time(scale[0], report.hz), short_time(scale[-1] * 2, report.hz)
    return [cut(f"all vCPUs: {low} {spark(list(whole.values()))} {high}, a column per factor of 2", width())]


def _octaves(report: Report, rows: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[Mapping[int, int]]]:
    """Return the octaves from wake to running, each by its least cycles, and the wakes in them by row."""
    spread = report.columns["wake_spread"]
    found = sorted(set(spread["low_cycles"].tolist()))
    scale = found[:1]
    while scale and scale[-1] < found[-1]:
        scale.append(scale[-1] * 2)
    counts: dict[tuple[int, int], dict[int, int]] = {}
    for each in spread.rows():
        counts.setdefault((each["domain"], each["vcpu"]), {})[each["low_cycles"]] = each["count"]
    return scale, [counts.get((row["domain"], row["vcpu"]), {}) for row in rows]


def _in_words(octaves: Mapping[int, int], hz: float | None) -> str:
    if not octaves:
        return "-"
    most = max(octaves, key=lambda low: octaves[low])
    share = octaves[most] / sum(octaves.values())
    return f"{share:.0%} in {short_time(most, hz)} to {short_time(2 * most, hz)}"


def short_time(cycles: float, hz: float | None) -> str:
    """Return a time with two digits and a unit, or three below 1000 of it."""
    if math.isnan(cycles) or hz is None:
        return time_text(cycles, hz)
    ns = cycles / hz * 1e9
    for unit, size in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        # What would be shown as 1000 of a unit is 1.0 of the next.
        if abs(ns) >= 0.9995 * size:
            value = ns / size
            return f"{value:.1f}{unit}" if abs(value) < 9.95 else f"{value:.0f}{unit}"
    return f"{ns:.0f}ns"


def spread_lines(report: Report, limit: int) -> Iterator[Line]:
    """Yield the spread of the times from wake to running as a table of its own, of ``limit`` vCPUs."""
    rows = [row for row in report.columns["event_way"].rows() if row["wake_to_running_count"] > 0]
    if width() >= _WIDE or not rows:
        return  # it is a column of the other table
    yield "Wakes by the time to running", Style.BOLD
    text = [
        GridColumn(("", "vcpu"), [vcpu_label(row) for row in rows], left=True),
        GridColumn(("", "wakes"), [_count(row["wake_to_running_count"]) for row in rows]),
        *(
            GridColumn(
                ("", name), [time_text(row[f"wake_to_running_{name}_cycles"], report.hz) for row in rows]
            )
            for name in ("p50", "p99")
        ),
        _spread(report, rows),
    ]
    text[-1] = GridColumn(("", text[-1].heads[-1]), text[-1].cells, left=True)
    heads, lines, _ = grid_lines(text, width())
    for line in heads[1:]:
        yield line, Style.DIM
    for line in lines[:limit]:
        yield line, Style.PLAIN
    if len(lines) > limit:
        yield f"{count_of(len(lines) - limit, 'quieter vCPU')}: --section way --rows 0", Style.DIM
