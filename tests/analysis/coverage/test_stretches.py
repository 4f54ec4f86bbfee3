"""Cut traces, compared with what the whole one gives for the stretches of time that are left.

Figures that stay exact are right to the cycle, bounded ones hold, and what the records give is there.

Each sample is cut by class, by pCPU, by windows and by time.  What the cut trace should say comes from the
slow machines over the whole one (oracle.covered), which never read the cut one.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from builders import cut
from builders.partials import partial
from builders.shifted import shifted
from oracle import covered
from oracle.covered import Emitted, Inside
from oracle.machine import Interval
from oracle.reader import LOST_RECORDS, Record, Window, read
from oracle.reading import ALL_SAMPLES, sample_bytes
from xtrace.analysis.coverage.needs import Reach, Records
from xtrace.analysis.measures.table import Column, Quality, Table
from xtrace.analysis.report.build import TABLES, Report, build
from xtrace.analysis.state_machine.metrics import FIRST_COUNT, Metric
from xtrace.analysis.summary.partial import Partial
from xtrace.analysis.summary.versions import detected
from xtrace.probes.catalog import VersionRange
from xtrace.probes.selection.event_masks import event_mask, passes
from xtrace.probes.xen_abi import DEFAULT_DOMAIN

HZ = 2.3e9
#: Bytes of a sample that are cut in a run that is not nightly.
_SOME = 1 << 20
_SOON = (
    "xen417-pv-all", "xen417-pvh-all", "xen417-own-lfence", "xen417-sched-null", "xen417-events-pv",
    "xen417-events-pvh",
)  # fmt: skip
#: Group of Xen's own records about the trace, which pass every mask.
_GEN = 0x1F000

CLASSES = ("sched", "pv", "hvm", "hw", "mem")
#: As `xentrace -e` takes them; one mask selects the same sub-classes of all its classes.
MASKS = (
    "0x21000", "0x22000", "0x28000", "0x201000", "0x202000", "0x81000", "0x82000", "0x801000", "0x802000",
    "0x804000", "0x221000", "0x823000", "0x228000", "0xa1000",
)  # fmt: skip
CUTS = (
    *(f"only {name}" for name in CLASSES),
    *(f"no {name}" for name in CLASSES),
    *(f"pcpu {number}" for number in range(3)),
    *("no start", "no middle", "no end"),
    "time",
)
MASK_CUTS = tuple(f"only {mask}" for mask in MASKS)
#: Of what a loss can cut off, an event that it is measured by.
_MEASURED_BY = {
    Metric.UPCALL_MAX: 0x20100D,
    Metric.HVM_EXIT: 0x81001,
    Metric.INJECTION_TO_ENTRY: 0x82004,
    Metric.INTR_WINDOW_WAIT: 0x82004,
}
_SAMPLE_NAMES = [path.name.split(".")[0] for path in ALL_SAMPLES]
#: Single windows whose absence the next switch does not show: the vCPU that ran before runs after it, too.
_HIDDEN = (("xen417-pv-all", "window 110"), ("xen417-sched-credit", "window 16"))
#: More that are left out, one at a time, as parts of a sample's number of windows.
_PLACES = (0.13, 0.29, 0.41, 0.57, 0.71, 0.83)
_PAIRS = [
    *(
        pytest.param(name, None, each, id=f"whole {name} {each}", marks=pytest.mark.nightly)
        for name, each in _HIDDEN
    ),
    *(
        pytest.param(name, None, f"window {place}", id=f"whole {name} {place}", marks=pytest.mark.nightly)
        for name in _SAMPLE_NAMES
        for place in _PLACES
    ),
    *(pytest.param(name, _SOME, each, id=f"{name} {each}") for name in _SOON for each in CUTS),
    *(pytest.param("xen417-pv-lost", _SOME, each, id=f"xen417-pv-lost {each}") for each in MASK_CUTS),
    *(
        pytest.param(name, None, each, id=f"whole {name} {each}", marks=pytest.mark.nightly)
        for name in _SAMPLE_NAMES
        for each in (*CUTS, *MASK_CUTS)
    ),
]
each_cut = pytest.mark.parametrize(("sample", "limit", "name"), _PAIRS)


@dataclass(frozen=True, slots=True, eq=False)
class Whole:
    """A sample, and what the slow machines emit for it.

    Attributes:
        span: first and last TSC.
    """

    windows: Sequence[Window]
    records: Sequence[Record]
    emitted: Sequence[Emitted]
    base: Partial
    versions: VersionRange
    span: tuple[int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Cut:
    """A cut trace's report, and what it should say.

    Attributes:
        of_records: of figures that count the records left.
        of_stretches: of figures that need records of some kinds, over the covered stretches.
        of_span: the same over the span of the cut, on all pCPUs.
        kept: the windows that are left.
        unseen_cycles: length of a window that is left out where nothing in the file can show that: what ran
            before it ran after it.  Figures may be wrong by as much.
    """

    report: Report
    of_records: Report
    of_stretches: Report
    of_span: Report
    kept: Sequence[Window]
    unseen_cycles: int = 0


@cache
def whole(sample: str, limit: int | None) -> Whole:
    path = next(each for each in ALL_SAMPLES if each.name.split(".")[0] == sample)
    windows: list[Window] = []
    size = 0
    for window in cut.windows_of(sample_bytes(path)):
        if limit is not None and size > limit:
            break
        windows.append(window)
        size += window.size
    # All pCPUs end at the same time, as if the recorder had been stopped.
    lasts = {pcpu: end for pcpu, _, end in covered.stretches_of([windows])}
    windows = cut.in_time(windows, 0, min(lasts.values()))
    data = cut.packed(windows)
    base = partial(data)
    if len(base.aligned):
        # Clocks that are apart are moved first: a cut need not show by how much.
        data = shifted(data, {row["pcpu"]: row["offset_cycles"] for row in base.aligned.rows()})
        windows, base = cut.windows_of(data), partial(data)
    records = read(data).records
    emitted, host = covered.emitted_by(records)
    assert host.first_tsc is not None
    return Whole(
        windows, records, emitted, base, detected(base.records).range, (host.first_tsc, host.last_tsc)
    )


@cache
def cut_of(sample: str, limit: int | None, name: str) -> Cut | None:
    """Return the cut with that name, None where nothing is left or cut off."""
    origin = whole(sample, limit)
    runs = runs_of(origin, name)
    kept = [window for run in runs for window in run]
    stretches = covered.stretches_of(runs)
    left = sum(len(window.records) for window in kept)
    is_by_class = name.split()[-1] in (*CLASSES, *MASKS)
    if is_by_class and not any(passes(mask_of(name), raw.event) for window in kept for raw in window.records):
        return None
    if not stretches or left == sum(len(window.records) for window in origin.windows):
        return None
    span = min(begin for _, begin, _ in stretches), max(end for _, _, end in stretches)
    every = [(pcpu, span[0], span[1]) for pcpu, _, _ in covered.stretches_of([origin.windows])]
    known = covered.known_of(kept, stretches)
    of_span = Inside(every, tscs_of(origin.windows), span, known, is_all=True, counts_all=is_by_class)
    ends = covered.ends_of(kept)
    if len(runs) == 1:
        # Each pCPU is covered from its first record to the end of all, or to where it was read last.
        stretches = [(pcpu, begin, ends.get(pcpu, span[1])) for pcpu, begin, _ in stretches]
    if is_by_class:
        mask = mask_of(name)
        lacks = {metric for metric, event in _MEASURED_BY.items() if not is_kept(mask, event)}
        inside = Inside(
            stretches, tscs_of(origin.windows), span, known, ends=ends, lacks=lacks, counts_all=True
        )

        timed = covered.first_timed(kept)

        def of_records(one: Emitted) -> Interval | None:
            if one.writer is None or one.interval.metric < FIRST_COUNT:
                return inside(one)
            # Without a TSC before it, a record has no time.
            is_there = is_kept(mask, one.event) and one.offset >= timed.get(one.writer, 0)
            return inside(one) if is_there else None
    else:
        inside = of_records = Inside(stretches, tscs_of(kept), span, known, ends=ends)

    emitted = origin.emitted
    if any(record.event == LOST_RECORDS for record in origin.records):
        left_offsets = {raw.offset for window in kept for raw in window.records}
        firsts = covered.firsts_of(stretches)

        def is_there(record: Record) -> bool:
            return record.offset in left_offsets or record.tsc < firsts.get(record.pcpu, 0)

        emitted, _ = covered.emitted_by(origin.records, is_there)

    def said(
        emitted: Sequence[Emitted], windows: Sequence[Window], counts: Callable[[Emitted], Interval | None]
    ) -> Report:
        found = covered.expected(emitted, origin.base, windows, counts, span, known.named)
        return build(found, hz=HZ, versions=origin.versions)

    report = build(partial(cut.packed(kept)), hz=HZ, versions=origin.versions)
    assert report.coverage is not None
    unseen = 0
    if name.startswith("window") and not report.coverage.may_have_holes:
        (left_out,) = set(origin.windows) - set(kept)
        tscs = [raw.tsc for raw in left_out.records if raw.tsc is not None]
        unseen = max(tscs) - min(tscs)
    return Cut(
        report=report,
        of_records=said(emitted, kept, of_records),
        of_stretches=said(emitted, origin.windows, inside),
        of_span=said(origin.emitted, origin.windows, of_span),
        kept=kept,
        unseen_cycles=unseen,
    )


def runs_of(origin: Whole, name: str) -> list[list[Window]]:
    """Return the contiguous runs of windows that a cut leaves."""
    windows = list(origin.windows)
    third = len(windows) // 3
    match name.split():
        case ["only" | "no", kind] if kind in (*CLASSES, *MASKS):
            mask = mask_of(name)
            return [
                [
                    replace(each, records=tuple(raw for raw in each.records if is_kept(mask, raw.event)))
                    for each in windows
                ]
            ]
        case ["pcpu", number]:
            return [cut.of_pcpus(windows, {int(number)})]
        case ["window", number]:
            at = int(number) if number.isdigit() else int(len(windows) * float(number))
            return [windows[:at], windows[at + 1 :]]
        case ["no", "start"]:
            return [windows[third:]]
        case ["no", "middle"]:
            return [windows[:third], windows[2 * third :]]
        case ["no", "end"]:
            return [windows[: 2 * third]]
        case ["time"]:
            begin, end = origin.span
            length = end - begin
            return [cut.in_time(windows, begin + length * 3 // 10, begin + length * 7 // 10)]
    raise ValueError(name)


def mask_of(name: str) -> int:
    how, kind = name.split()
    return event_mask(kind if how == "only" else ",".join(each for each in CLASSES if each != kind))


def is_kept(mask: int, event: int) -> bool:
    return passes(mask, event) or event & 0x0FFF_F000 == _GEN


def tscs_of(windows: Collection[Window]) -> set[int]:
    return {raw.tsc for window in windows for raw in window.records if raw.tsc is not None}


# --- comparison --------------------------------------------------------------------------------

Rows = dict[tuple[object, ...], dict[str, Any]]


def keys_of(table: Table[Any]) -> list[str]:
    return [column.name for column in table.columns if column.quality is Quality.KEY]


def rows_of(report: Report, table: Table[Any]) -> Rows:
    names = keys_of(table)
    return {tuple(row[name] for name in names): row for row in report.columns[table.name].rows()}


def figures(report: Report) -> list[tuple[Table[Any], Column, Quality]]:
    return [
        (table, column, report.quality[table.name][column.name])
        for table in TABLES
        for column in table.columns
        if column.quality is not Quality.KEY
    ]


def is_nothing(value: object) -> bool:
    return value is None or value == 0 or (isinstance(value, float) and math.isnan(value))


def pairs_of(
    table: Table[Any], column: Column, mine: Report, other: Report
) -> list[tuple[tuple[object, ...], Any, Any]]:
    """Return the key and both values of each row in which they are not both nothing."""
    some, others = rows_of(mine, table), rows_of(other, table)
    names = keys_of(table)
    is_sum = column.name.endswith(("count", "per_s"))
    if is_sum and "vcpu" in names and any(row["domain"] == DEFAULT_DOMAIN for row in some.values()):
        # A vCPU that is not known stands for any.
        some, others = _of_any_vcpu(some, names, column), _of_any_vcpu(others, names, column)
    found = []
    for key in sorted(some.keys() | others.keys(), key=str):
        values = some.get(key, {}).get(column.name), others.get(key, {}).get(column.name)
        if not (is_nothing(values[0]) and is_nothing(values[1])):
            mine_value, other_value = (0 if is_nothing(value) else value for value in values)
            found.append((key, mine_value, other_value))
    return found


def _of_any_vcpu(rows: Rows, names: list[str], column: Column) -> Rows:
    sums: defaultdict[tuple[object, ...], float] = defaultdict(float)
    for key, row in rows.items():
        if not is_nothing(row[column.name]):
            short = tuple(
                part for name, part in zip(names, key, strict=True) if name not in ("domain", "vcpu")
            )
            sums[short] += row[column.name]
    return {key: {column.name: value} for key, value in sums.items()}


@pytest.mark.parametrize(("sample", "name"), _HIDDEN)
def test_a_hole_that_no_switch_shows_is_noticed(sample: str, name: str) -> None:
    found = cut_of(sample, None, name)
    assert found is not None
    coverage = found.report.coverage
    assert coverage is not None
    assert coverage.hole_count == 0
    assert coverage.hidden_hole_count > 0


@pytest.mark.parametrize("path", ALL_SAMPLES, ids=lambda path: path.name.split(".")[0])
def test_no_hole_is_suspected_where_there_is_none(path: Path) -> None:
    found = partial(sample_bytes(path)).facts
    assert int(found["hidden_hole_count"].sum()) == 0


# --- the rules ---------------------------------------------------------------------------------


@each_cut
def test_figures_of_a_cut_are_what_they_claim(sample: str, limit: int | None, name: str) -> None:
    """All rules in one test, because it takes long to make a cut and its figures."""
    found = cut_of(sample, limit, name)
    if found is None:
        pytest.skip("nothing is cut off")
    assert not absent_wrong(found)
    assert not exact_wrong(found)
    assert not bounded_wrong(found)


def absent_wrong(found: Cut) -> list[tuple[str, str, str]]:
    """Return figures that are absent though no kind of record that they need is missing, or the reverse."""
    groups = {raw.event >> 12 for window in found.kept for raw in window.records}
    recorded = {kind for kind in Records if kind.value.groups & groups}
    return [
        (table.name, column.name, str(quality))
        for table, column, quality in figures(found.report)
        if (quality is Quality.ABSENT) != bool(set(table.needs_of(column)) - recorded)
    ]


def exact_wrong(found: Cut) -> list[tuple[object, ...]]:
    """Return table, column, key, value and right value of the figures that are not what they claim."""
    wrong: list[tuple[object, ...]] = []
    for table, column, quality in figures(found.report):
        if quality is Quality.EXACT:
            is_of_records = table.reach_of(column) is Reach.RECORDS
            right = found.of_records if is_of_records else found.of_stretches
            wrong += [
                (table.name, column.name, *pair)
                for pair in pairs_of(table, column, found.report, right)
                if not math.isclose(pair[1], pair[2], rel_tol=1e-9)
            ]
    return wrong


#: Columns whose bound is the upper one; that of all others is the lower one.
UPPER = re.compile(
    r"pcpus\.unknown_.*|upcalls\.upcall_most_.*|upcalls\.running_to_entry_most_.*"
    r"|injections\.(injection_to_entry|window_wait)_.*_cycles|masked_waits\.taken_most_.*_cycles"
)
#: Where it is not known what a vCPU did before it became runnable, that time counts as the first of these.
_RUNNABLE = ("runnable/other", "runnable/wake", "runnable/preempt")
#: A quantile is within this of the value of its rank.
_QUANTILE = 0.016


def bounded_wrong(found: Cut) -> list[tuple[object, ...]]:
    """Return table, column, key, bound and right value of the bounds that do not hold."""
    wrong: list[tuple[object, ...]] = []
    for table, column, quality in figures(found.report):
        if quality is not Quality.BOUNDED:
            continue
        is_upper = bool(UPPER.fullmatch(f"{table.name}.{column.name}"))
        slack = _QUANTILE if re.search(r"p[0-9]+_cycles$", column.name) else 1e-9
        # A bound of each interval that the trace has is one of the statistics of these.
        is_of_each = column.quality is Quality.BOUNDED
        pairs = pairs_of(table, column, found.report, found.of_stretches if is_of_each else found.of_span)
        by_key = {key: right for key, _, right in pairs}
        for key, value, right in pairs:
            if is_upper and key not in rows_of(found.report, table):
                continue  # there is no bound
            if not {"unknown", "lost"}.isdisjoint(key):
                continue  # what is left of the span, whose other parts are lower bounds
            if _RUNNABLE[0] in key:
                right = sum(by_key.get((*key[:-1], state), 0) for state in _RUNNABLE)
            low, high = (right, value) if is_upper else (value, right)
            span = found.of_span.trace["span_cycles"]
            unseen = found.unseen_cycles * (
                1 if column.name.endswith("_cycles") else 1 / span if column.name.endswith("_ratio") else 0
            )
            if low > high * (1 + slack) + unseen:
                wrong.append((table.name, column.name, key, value, right))
    return wrong
