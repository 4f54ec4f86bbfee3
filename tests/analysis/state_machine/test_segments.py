"""Each segment between restarts of the TSC is counted for itself, as if it were a trace of its own."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from builders.host import simulate
from builders.hosts import DOMAINS
from builders.partials import collected, partial
from builders.restarted import halves, packed, suspended
from oracle import machine as oracle
from oracle.reader import frame, read
from oracle.reading import ALL_SAMPLES, sample_bytes
from xtrace.analysis.columns import Columns
from xtrace.analysis.loading.reading import Reading, unseen
from xtrace.analysis.report.build import build
from xtrace.analysis.state_machine.metrics import METRIC_SHIFT, T_B, T_COUNT, T_KEY, T_SUM, Metric
from xtrace.analysis.state_machine.one_pass import collect
from xtrace.analysis.summary import clock
from xtrace.analysis.summary.partial import merge
from xtrace.analysis.summary.summary_file import Summary, read_summary, write_summary
from xtrace.analysis.summary.summary_head import Origin
from xtrace.probes.errors import TraceError
from xtrace.probes.reader.writer import pack_record, pack_window
from xtrace.probes.selection.times import Moment

#: Facts about the files and their windows, not about the records.
PER_FILE = {
    "files",
    "windows",
    "bytes_read",
    "ring_known_files",
    "tsc_restart_count",
    "tsc_restarts",
    "recorder_virq_most_count",
}
#: Columns that depend on what kinds of records, and how large windows, a file has.
OF_FILES = {"upcall_most_count", "upcall_most_per_s"}


def assert_equal(data: bytes, *parts: bytes) -> None:
    """Check that the report on a trace is that on its segments together."""
    one, many = build(partial(data)), build(merge(map(partial, parts)))
    assert one.trace["tsc_restart_count"] == len(parts) - 1
    assert many.trace["tsc_restart_count"] == 0
    for name, table in one.columns.items():
        # Rows that are equal in what they are sorted by may be in either order.
        assert sorted(rows_of(table)) == sorted(rows_of(many.columns[name])), name
    # A kind of records that one part has and the other has not is recorded in one of two files.
    counted = one.trace.keys() - PER_FILE
    for each in (one, many):
        each.trace["coverage"].pop("records")
    assert {key: one.trace[key] for key in counted} == {key: many.trace[key] for key in counted}


def rows_of(table: Columns) -> list[str]:
    return [repr({key: row[key] for key in sorted(row.keys() - OF_FILES)}) for row in table.rows()]


# --- tables ------------------------------------------------------------------------------------


@pytest.mark.parametrize("sample", ALL_SAMPLES, ids=lambda path: path.name.split(".")[0])
def test_halves_of_a_sample_in_the_wrong_order(sample: Path) -> None:
    first, second = halves(sample_bytes(sample))
    assert_equal(second + first, second, first)


def test_three_segments() -> None:
    (sample,) = (path for path in ALL_SAMPLES if "netbsd7" in path.name)
    first, second = halves(sample_bytes(sample))
    other = simulate(4, 5, DOMAINS, 30_000_000).data
    assert_equal(second + first + other, second, first, other)


@pytest.mark.parametrize("loss", [0.0, 0.4])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.93])
def test_a_suspend_in_the_middle_of_windows(share: float, loss: float) -> None:
    """The host wrote records before and after it between two polls."""
    ring_bytes = 4088 if loss else 1 << 20
    data = simulate(3, 3, DOMAINS, 60_000_000, loss=loss, ring_bytes=ring_bytes, poll_cycles=3_000_000).data
    whole, before, after = suspended(data, share)
    assert_equal(whole, before, after)
    assert len(read(whole).restarts) == 1


def test_the_oracle_agrees() -> None:
    data = simulate(8, 3, DOMAINS, 40_000_000, loss=0.3, ring_bytes=4088, poll_cycles=2_000_000).data
    whole, *_ = suspended(data)
    first, second = halves(data)
    for trace in (whole, second + first):
        expected: Counter[tuple[int, int, int]] = Counter()
        sums: Counter[tuple[int, int, int]] = Counter()
        for records in read(trace).segments_with_holes:
            slow = oracle.run(records)
            for interval in [*slow.intervals, *slow.ends]:
                key = (int(interval.metric), interval.a, interval.b)
                expected[key] += 1
                sums[key] += interval.value
        table = collected(trace).tallies.table
        mask = (1 << METRIC_SHIFT) - 1
        keys = [(key >> METRIC_SHIFT, key & mask, b) for key, b in table[:, [T_KEY, T_B]].tolist()]
        assert dict(zip(keys, table[:, T_COUNT].tolist(), strict=True)) == expected
        assert dict(zip(keys, table[:, T_SUM].tolist(), strict=True)) == sums
        assert not any(key[0] == Metric.NEGATIVE for key in keys)


# --- facts -------------------------------------------------------------------------------------


def test_facts_of_a_restart(tmp_path: Path) -> None:
    (sample,) = (path for path in ALL_SAMPLES if "netbsd7" in path.name)
    first, second = halves(sample_bytes(sample))
    found = collected(second + first)
    late, early = collected(second).segments[0], collected(first).segments[0]
    assert [(s.first_tsc, s.last_tsc) for s in found.segments] == [
        (late.first_tsc, late.last_tsc),
        (early.first_tsc, early.last_tsc),
    ]
    whole = partial(second + first)
    (row,) = build(whole).trace["tsc_restarts"]
    back = late.last_tsc - early.first_tsc
    assert row == {"offset": len(second), "after_cycles": late.cycles, "back_cycles": back}
    assert build(merge([whole, whole, partial(first)])).trace["tsc_restart_count"] == 2
    path = tmp_path / "x.summary"
    write_summary(Summary(whole, Origin("x")), path)
    assert read_summary(path).partial.restarts.rows() == [row]


def test_nothing_of_a_restart_is_skew() -> None:
    """Even where each segment has other pCPUs, so that their times are far apart."""
    late = simulate(1, 2, DOMAINS, 30_000_000, skew_cycles=(1 << 40,) * 2).data
    early = simulate(2, 3, DOMAINS, 30_000_000).data
    windows = frame(early).windows
    data = late + b"".join(packed(window, window.records) for window in windows)
    whole = partial(data)
    assert whole.facts["tsc_restart_count"].tolist() == [1]
    assert not clock.skew(whole)["skewed"].any()
    assert build(whole).trace["skewed_pcpu_pairs"] == []


def test_skew_in_a_segment_is_still_found() -> None:
    skewed = simulate(5, 3, DOMAINS, 80_000_000, skew_cycles=(0, 900_000, 0)).data
    first, second = halves(skewed)
    assert build(partial(second + first)).trace["skewed_pcpu_pairs"]


# --- parts -------------------------------------------------------------------------------------


def read_part(path: Path, begin: str | None, end: str | None, hz: float | None = None) -> int:
    """Return the number of cycles that --from and --to select."""
    reading = Reading(
        begin=Moment.parse(begin) if begin else None, end=Moment.parse(end) if end else None, hz=hz
    )
    (found,) = reading.start([str(path)]).result(unseen)
    return found.span_cycles


def test_times_go_on_across_a_restart(tmp_path: Path) -> None:
    late = b"".join(pack_window(0, pack_record(0x28004, tsc, (1, 2))) for tsc in (1000, 1040, 1080, 1100))
    early = b"".join(pack_window(0, pack_record(0x28004, tsc, (1, 2))) for tsc in (10, 20, 60))
    path = tmp_path / "trace"
    path.write_bytes(late + early)
    assert [segment.cycles for segment in collect(path).segments] == [100, 50]
    assert read_part(path, "0c", "1000c") == 150
    assert read_part(path, "60c", "91c") == 30
    assert read_part(path, "90c", "121c") == 10 + 20
    assert read_part(path, "120c", None) == 30
    assert read_part(path, "1us", None, 1e8) == 50
    assert read_part(path, "tsc:15", "tsc:41") == 25
    assert read_part(path, "tsc:1050", None) == 50
    for begin, end in (("151c", None), ("tsc:2000", None), (None, "tsc:10")):
        with pytest.raises(TraceError, match=r"no records from .*: its TSCs are 1000 to 1100, 10 to 60"):
            read_part(path, begin, end)
