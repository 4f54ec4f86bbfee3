"""The report has its documented tables for any trace, and its exports can be read back."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import cache
from functools import partial as partial_call
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pytest

from builders.host import simulate
from builders.hosts import DOMAINS, HOSTS
from builders.partials import partial
from oracle import reader as oracle
from oracle.reading import SAMPLES, sample_bytes
from xtrace.analysis.measures.table import Quality
from xtrace.analysis.report.build import (
    SCHEMA_VERSION,
    SECTIONS,
    TABLES,
    Report,
    Selection,
    build,
    json_text,
    write_csv,
    write_parquet,
)
from xtrace.analysis.summary.partial import Partial
from xtrace.probes.catalog import VersionRange
from xtrace.probes.reader.writer import pack_record, pack_window
from xtrace.probes.selection.vcpus import Vcpu


def damaged(data: bytes) -> bytes:
    """Return a trace with 20 bytes that are not a window between two windows."""
    windows = oracle.frame(data).windows
    middle = windows[len(windows) // 2].offset
    return data[:middle] + b"\0" * 20 + data[middle:]


TRACES: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "one untimed record": lambda: pack_window(0, pack_record(0x28004, None, (1, 0))),
    "HVM only": lambda: simulate(3, 2, [(4, 2, "hvm")], 20_000_000).data,
    "PV and HVM": lambda: HOSTS["calm"](2),
    "lossy": lambda: HOSTS["lossy"](2),
    "damaged": lambda: damaged(HOSTS["calm"](3)),
    "unknown events": lambda: pack_window(0, pack_record(0xFFF_0000, 5, (1,)) + pack_record(0x1E_1234, 6)),
    **{path.name.split(".")[0]: partial_call(sample_bytes, path) for path in SAMPLES},
}
REQUIRED = {"records", "lost_records", "skipped_bytes", "pcpus", "tsc_hz", "tsc_hz_source", "span_ns"}


@pytest.fixture(scope="module", params=TRACES)
def part(request: pytest.FixtureRequest) -> Partial:
    return partial(TRACES[request.param]())


@pytest.fixture(scope="module")
def report(part: Partial) -> Report:
    return build(part)


@pytest.fixture(scope="module")
def host() -> Partial:
    return partial(HOSTS["lossy"](1))


@cache
def report_of_sample() -> Report:
    return build(partial(sample_bytes(SAMPLES[1])))


def refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is not JSON")


def loaded(report: Report) -> Any:
    return json.loads(json_text(report), parse_constant=refuse)


# --- tables ------------------------------------------------------------------------------------


def test_each_table_has_its_columns_and_no_others(report: Report) -> None:
    assert list(report.tables) == [table.name for table in TABLES]
    for table in TABLES:
        assert list(report.tables[table.name].columns) == [column.name for column in table.columns], (
            table.name
        )


def test_an_empty_trace_gives_empty_tables() -> None:
    assert {name for name, frame in build(partial(b"")).tables.items() if len(frame)} == set()


def test_table_names_are_unique_and_sections_cover_all() -> None:
    assert len({table.name for table in TABLES}) == len(TABLES)
    assert {table.section for table in TABLES} == set(SECTIONS)
    for table in TABLES:
        names = [column.name for column in table.columns]
        assert len(set(names)) == len(names), table.name
        assert all(column.meaning for column in table.columns), table.name


def test_shape_of_a_table_does_not_depend_on_the_trace(report: Report) -> None:
    """A column that is a number in one trace is a number in all, also in tables without rows."""
    whole = report_of_sample()
    for name, columns in report.columns.items():
        for column in columns.names:
            is_text = columns[column].dtype == object
            assert is_text == (whole.columns[name][column].dtype == object), (name, column)


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.name.split(".")[0])
def test_states_of_a_vcpu_add_up_to_the_span(sample: Path) -> None:
    part = partial(sample_bytes(sample))
    report = build(part)
    states = report.tables["vcpu_states"].groupby(["domain", "vcpu"])
    assert len(states) >= 5
    span = report.trace["span_cycles"]
    for key, rows in states:
        domain, vcpu = cast("tuple[int, int]", key)
        total = rows["total_cycles"].sum()
        assert total == span, (domain, vcpu)
        assert rows["share_ratio"].sum() == pytest.approx(1.0)


def test_ratios_are_between_0_and_1(report: Report) -> None:
    for name, frame in report.tables.items():
        for column in map(str, frame.columns):
            if column.endswith("_ratio"):
                # Intervals that are open at the ends of a pCPU's trace may count some cycles twice.
                assert frame[column].dropna().between(0, 1.0001).all(), (name, column)
            if column.endswith(("_count", "_cycles", "_bytes")) and column != "low_cycles":
                assert (frame[column].dropna() >= 0).all(), (name, column)


def test_frames_are_made_from_the_columns_when_they_are_read(report: Report) -> None:
    assert list(report.tables) == list(report.columns)
    assert len(report.tables) == len(report.columns)
    for name, columns in report.columns.items():
        assert report.tables[name] is report.tables[name]
        assert _json_rows(report.tables[name].to_dict("records")) == _json_rows(columns.rows()), name
    with pytest.raises(KeyError):
        report.tables["no such table"]


def _json_rows(rows: list[Any]) -> list[str]:
    """Return rows as text that is equal for equal values of equal types; NaN is equal to None."""
    return [repr({name: None if value != value else value for name, value in row.items()}) for row in rows]


# --- JSON --------------------------------------------------------------------------------------


def test_json_has_the_documented_keys(report: Report) -> None:
    found = loaded(report)
    trace = found["trace"]
    assert found["schema_version"] == SCHEMA_VERSION
    assert set(trace) >= REQUIRED
    for key in ("records", "lost_records", "skipped_bytes", "pcpus"):
        assert isinstance(trace[key], int), key
    assert (trace["tsc_hz"] is None) == (trace["tsc_hz_source"] is None) == (trace["span_ns"] is None)
    assert list(found["tables"]) == [table.name for table in TABLES]
    for table in TABLES:
        quality = found["tables"][table.name]["quality"]
        figures = {column.name for column in table.columns if column.quality is not Quality.KEY}
        assert figures <= set(quality), table.name
        for row in found["tables"][table.name]["rows"]:
            assert set(row) == set(quality) | {column.name for column in table.columns}, table.name


def test_json_of_an_empty_trace() -> None:
    trace = loaded(build(partial(b"")))["trace"]
    wanted = {**dict.fromkeys(REQUIRED, 0), "tsc_hz": None, "tsc_hz_source": None, "span_ns": None}
    assert {key: trace[key] for key in REQUIRED} == wanted
    assert trace["tsc_resolution_ns"] is None


def test_with_a_given_rate_times_are_also_in_ns(host: Partial) -> None:
    assert "mean_ns" not in loaded(build(host))["tables"]["vcpu_states"]["rows"][0]
    found = loaded(build(host, hz=2e9, hz_source="a sidecar"))
    assert (found["trace"]["tsc_hz"], found["trace"]["tsc_hz_source"]) == (2e9, "a sidecar")
    assert found["trace"]["span_ns"] == round(found["trace"]["span_cycles"] / 2)
    assert found["trace"]["tsc_resolution_ns"] == 0.5
    for row in found["tables"]["vcpu_states"]["rows"]:
        for name in [name for name in row if name.endswith("_cycles") and row[name] is not None]:
            assert row[name.removesuffix("_cycles") + "_ns"] == pytest.approx(row[name] / 2)


def test_damage_and_loss_are_reported() -> None:
    found = loaded(build(partial(TRACES["damaged"]())))["trace"]
    assert (found["damage_count"], found["skipped_bytes"]) == (1, 20)
    assert found["damages"][0]["skipped_bytes"] == 20
    simulation = simulate(2, 3, DOMAINS, 60_000_000, loss=0.4, ring_bytes=4088, poll_cycles=2_000_000)
    lossy = loaded(build(partial(simulation.data)))["trace"]
    assert lossy["lost_records"] == simulation.truth.dropped - simulation.truth.untold
    assert lossy["records"] - lossy["loss_count"] == simulation.truth.written
    assert 0 < lossy["lost_ratio"] < 1


@pytest.mark.parametrize(("xen", "source"), [(None, "detected"), ("4.17", "given")])
def test_the_version_is_detected_or_given(host: Partial, xen: str | None, source: str) -> None:
    trace = build(host, versions=VersionRange.parse(xen) if xen else None).trace
    assert trace["xen_versions_source"] == source
    if xen:
        assert trace["xen_versions"] == xen


# --- files -------------------------------------------------------------------------------------

exported = pytest.mark.parametrize("trace", ["empty", "HVM only", "lossy"])


@exported
def test_csv_files_can_be_read_back(trace: str, tmp_path: Path) -> None:
    report = build(partial(TRACES[trace]()), hz=2.6e9)
    paths = list(write_csv(report, tmp_path / "out"))
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in paths}
    for name, frame in report.tables.items():
        again = pd.read_csv(tmp_path / "out" / f"{name}.csv")
        assert len(again) == len(frame), name
        assert list(again.columns)[: len(frame.columns)] == list(frame.columns), name
        for column in map(str, frame.columns):
            if pd.api.types.is_numeric_dtype(frame[column]) and len(frame):
                assert again[column].to_numpy(float) == pytest.approx(
                    frame[column].to_numpy(float), nan_ok=True
                ), (name, column)
    facts = pd.read_csv(tmp_path / "out" / "trace.csv").set_index("fact")["value"]
    assert int(facts["records"]) == report.trace["records"]


@exported
def test_parquet_files_can_be_read_back(trace: str, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    report = build(partial(TRACES[trace]()), hz=2.6e9)
    list(write_parquet(report, tmp_path / "out"))
    for name, frame in report.tables.items():
        again = pd.read_parquet(tmp_path / "out" / f"{name}.parquet")
        pd.testing.assert_frame_equal(
            again[list(frame.columns)], frame.reset_index(drop=True), check_dtype=False, obj=name
        )
        assert all(
            f"{column.removesuffix('_cycles')}_ns" in again
            for column in map(str, frame)
            if column.endswith("_cycles")
        )


# --- selections --------------------------------------------------------------------------------


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_has_all_of_its_tables(host: Partial, section: str) -> None:
    chosen, whole = build(host, selection=Selection(sections=[section])), build(host)
    assert list(chosen.tables) == [table.name for table in TABLES if table.section == section]
    for name, frame in chosen.tables.items():
        pd.testing.assert_frame_equal(frame, whole.tables[name])
    assert chosen.trace == whole.trace


def test_domains_and_vcpus_select_rows(host: Partial) -> None:
    whole = build(host)
    vcpus = [Vcpu(0), Vcpu(2)]
    for name, frame in build(host, selection=Selection(domains=[1], vcpus=vcpus)).tables.items():
        was = whole.tables[name]
        for column, values in (("domain", [1]), ("vcpu", [0, 2])):
            if column in was:
                was = was[was[column].isin(values)]
        # A column of text without a row is of objects.
        pd.testing.assert_frame_equal(frame, was.reset_index(drop=True), check_dtype=len(was) > 0)
    states = build(host, selection=Selection(domains=[1], vcpus=vcpus)).tables["vcpu_states"]
    assert set(zip(states["domain"], states["vcpu"], strict=True)) == {(1, 0), (1, 2)}


def test_a_vcpu_of_one_domain_selects_its_rows(host: Partial) -> None:
    chosen = [Vcpu(0, 1), Vcpu(1, 0)]
    states = build(host, selection=Selection(vcpus=chosen)).tables["vcpu_states"]
    assert set(zip(states["domain"], states["vcpu"], strict=True)) == {(1, 0), (0, 1)}


def test_an_absent_domain_leaves_no_row(host: Partial) -> None:
    tables = build(host, selection=Selection(domains=[99])).tables
    assert all(frame.empty for frame in tables.values() if "domain" in frame)
    json_text(build(host, selection=Selection(domains=[99])))


def test_names_select_tables(host: Partial) -> None:
    assert list(build(host, selection=Selection(names=["wakes", "pcpus"])).tables) == ["wakes", "pcpus"]


def test_a_time_window_counts_what_ends_in_it() -> None:
    """Two adjacent windows share only what ends where they meet, and together they are the whole."""
    simulation = simulate(1, 3, DOMAINS, 30_000_000)
    first, last = simulation.truth.first_tsc, simulation.truth.last_tsc
    middle = first + 13_000_000
    windows = [(first, middle), (middle + 1, last + 1)]
    parts = [build(partial(simulation.data, window)) for window in windows]
    whole = build(partial(simulation.data))
    for name in ("hypercalls", "wakes", "traps"):
        column = next(column for column in map(str, whole.tables[name]) if column.endswith("count"))
        total = whole.tables[name][column].sum()
        assert [0 < report.tables[name][column].sum() < total for report in parts] == [True, True], name
        assert sum(report.tables[name][column].sum() for report in parts) == total, name
    spans = [report.trace["span_cycles"] for report in parts]
    assert spans[0] <= 13_000_000
    assert math.isclose(sum(spans), whole.trace["span_cycles"], rel_tol=1e-3)
