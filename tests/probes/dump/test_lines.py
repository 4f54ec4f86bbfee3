"""Lines of text and JSON, compared with the reference renderer in oracle.render."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oracle import reader as oracle
from oracle.render import Twin
from peer.samples import UNPACK, sample_files
from xtrace.probes.catalog import EVENTS, VersionRange
from xtrace.probes.dump.lines import KEEP_BATCHES, Choice, Pushdown, Renderer
from xtrace.probes.dump.templates import RESERVED_KEYS, Style, Unit, json_key
from xtrace.probes.reader.ahead import Source
from xtrace.probes.reader.reader import TraceReader
from xtrace.probes.selection.times import Moment
from xtrace.probes.tsc_rate import HZ_RANGE

XEN = VersionRange.parse("4.17")
ANY = VersionRange()
MAX_TSC = (1 << 63) - 1


def rendered(
    data: bytes,
    style: Style = Style.TEXT,
    versions: VersionRange = XEN,
    choice: Choice | None = None,
    unit: Unit = Unit.CYCLES,
    hz: int = 1,
    chunk_bytes: int = 1 << 20,
) -> list[str]:
    choice = choice or Choice()
    pushdown = Pushdown(choice.event)
    reader = TraceReader(
        cast(Source, io.BytesIO(data)), wanted=pushdown, keep=KEEP_BATCHES, chunk_bytes=chunk_bytes
    )
    restarts = reader.facts.restarts
    renderer = Renderer(style, versions, choice, unit=unit, hz=hz, restarts=restarts, threads=2)
    return b"".join(bytes(lines) for lines in renderer.lines(pushdown.batches(reader))).decode().splitlines()


def window(pcpu: int, *words: int) -> bytes:
    return struct.pack(f"<{3 + len(words)}I", 0x2001F003, pcpu, 4 * len(words), *words)


def record(event: int, extra: Sequence[int] = (), tsc: int | None = None) -> list[int]:
    header = len(extra) << 28 | event
    if tsc is None:
        return [header, *extra]
    return [1 << 31 | header, tsc & 0xFFFF_FFFF, tsc >> 32, *extra]


def unpacked(path: Path) -> bytes:
    return UNPACK[path.suffix](path.read_bytes())


# --- compared with the reference renderer -------------------------------------------------------


@pytest.mark.parametrize("style", list(Style))
@pytest.mark.parametrize("path", sample_files(), ids=lambda path: path.name.split(".")[0])
def test_samples_render_like_the_reference(path: Path, style: Style) -> None:
    data = unpacked(path)
    records = oracle.read(data).records
    # The HVM sample was made on an AMD host; the others have no exits.
    twin = Twin(XEN, vendor="svm", hz=2_400_000_000)
    expected = list(twin.text(records) if style is Style.TEXT else twin.json(records))
    assert rendered(data, style, unit=Unit.SECONDS, hz=2_400_000_000, chunk_bytes=1 << 18) == expected


WORDS = st.one_of(
    st.integers(0, 40), st.sampled_from([0xFFFF_FFFF, 0x8000_0000]), st.integers(0, 0xFFFF_FFFF)
)
EVENT_IDS = st.one_of(
    st.sampled_from([event.id for event in EVENTS if event.id not in (oracle.WRAP_BUFFER, 0x1F003)]),
    st.integers(0x1_0000, 0x0FFF_FFFF).filter(lambda event: event != oracle.WRAP_BUFFER),
    st.sampled_from([0x20100D, 0x20200E, 0x81102, 0x0800_F00F, 0x1F001, *range(0x21001, 0x21400, 16)]),
)
RECORDS = st.tuples(EVENT_IDS, st.lists(WORDS, max_size=7), st.booleans(), st.integers(0, 10**13)).map(
    lambda drawn: (drawn[0], drawn[1], drawn[3] if drawn[2] else None)
)
TRACES = st.lists(st.tuples(st.integers(0, 3), st.lists(RECORDS, max_size=8)), max_size=5)


@settings(max_examples=300)
@given(TRACES, st.sampled_from(["4.0", "4.2", "4.8", "4.17", "4.22", "4.0+"]), st.sampled_from(list(Unit)))
def test_any_record_renders_like_the_reference(
    drawn: list[tuple[int, list[tuple[int, list[int], int | None]]]], version: str, unit: Unit
) -> None:
    data = b"".join(
        window(pcpu, *(word for one in records for word in record(*one))) for pcpu, records in drawn
    )
    versions = VersionRange.parse(version)
    trace = oracle.read(data)
    records = trace.records
    reasons = [one for one in records if one.event in (0x81002, 0x81102) and one.words]
    choice = Choice(event=lambda event_id, _: event_id not in (0x81002, 0x81102)) if reasons else None
    shown = [one for one in records if choice is None or one.event not in (0x81002, 0x81102)]
    hz = 2_100_000_000 if unit is Unit.SECONDS else 0
    twin = Twin(versions, hz=hz, raw=unit is Unit.TSC, restarts=trace.restarts)
    for one in records:
        twin._find_origin(one)
    assert rendered(data, Style.TEXT, versions, choice, unit, hz or 1) == list(twin.text(shown))
    assert rendered(data, Style.JSON, versions, choice) == list(Twin(versions).json(shown))


@given(st.integers(0, MAX_TSC), st.integers(0, MAX_TSC), st.integers(*HZ_RANGE))
@settings(max_examples=300)
def test_times_are_exact(first: int, second: int, hz: int) -> None:
    data = window(0, *record(0x28004, [1, 2], first), *record(0x28004, [1, 2], second))
    records = oracle.read(data).records
    for unit in Unit:
        twin = Twin(XEN, hz=hz if unit is Unit.SECONDS else 0, raw=unit is Unit.TSC)
        assert rendered(data, unit=unit, hz=hz) == list(twin.text(records))


# --- restarts of the TSC -----------------------------------------------------------------------


def runs_at(tsc: int, vcpu: int) -> list[int]:
    """Return a record that says that a vCPU of d1 runs from there on."""
    return record(0x21101, [1 << 16 | vcpu], tsc)


RESTARTED = (
    window(0, *runs_at(1000, 0), *record(0x28004, [1, 2], 1100))
    + window(0, *record(0x28004, [1, 2], 1200), *record(0x28004, [1, 2], 1300))
    + window(0, *record(0x28004, [3, 4], 10), *record(0x28004, [3, 4], 30))
    + window(0, *record(0x28006, [3, 4], 40), *runs_at(50, 7))
)


@pytest.mark.parametrize("chunk_bytes", [64, 1 << 20])
def test_segments_follow_one_another_without_a_gap(chunk_bytes: int) -> None:
    lines = rendered(RESTARTED, chunk_bytes=chunk_bytes)
    assert [line.split()[0] for line in lines] == ["0", "100", "200", "300", "300", "320", "330", "340"]
    assert [line.split()[2] for line in lines[3:7]] == ["d1v0", "d?v?", "d?v?", "d?v?"]
    trace = oracle.read(RESTARTED)
    assert lines == list(Twin(XEN, restarts=trace.restarts).text(trace.records))


@pytest.mark.parametrize(
    ("begin", "end", "times"),
    [
        ("150c", "330c", ["200", "300", "300", "320"]),
        ("310c", None, ["320", "330", "340"]),
        ("tsc:20", "tsc:1050", ["0", "320", "330", "340"]),
    ],
)
def test_a_part_across_a_restart(begin: str, end: str | None, times: list[str]) -> None:
    choice = Choice(begin=Moment.parse(begin), end=Moment.parse(end) if end else None)
    assert [line.split()[0] for line in rendered(RESTARTED, choice=choice, chunk_bytes=64)] == times


def test_times_do_not_depend_on_the_events_shown() -> None:
    choice = Choice(event=lambda event_id, _: event_id == 0x28006)
    assert [line.split()[0] for line in rendered(RESTARTED, choice=choice, chunk_bytes=64)] == ["330"]


@given(st.lists(st.integers(0, (1 << 64) - 1), min_size=1, max_size=20))
@settings(max_examples=300)
def test_64_bit_values_are_exact(values: list[int]) -> None:
    words = [word for value in values for word in record(0x201106, [value & 0xFFFF_FFFF, value >> 32], 5)]
    data = window(0, *words)
    assert [line.split("rip=")[1] for line in rendered(data)] == [hex(value) for value in values]
    assert [json.loads(line)["rip"] for line in rendered(data, Style.JSON)] == values


# --- the running vCPU, filters ------------------------------------------------------------------

RUNS, STOPS = 0x21101, 0x21021


def switches() -> bytes:
    """d3v0 stops, d4v1 starts, on pCPU 0; idle starts on pCPU 1."""
    return window(
        0,
        *record(0x28004, [1, 0], 10),
        *record(STOPS, [3 << 16 | 0], 20),
        *record(0x28004, [1, 0], 25),
        *record(RUNS, [4 << 16 | 1], 30),
        *record(0x28004, [1, 0], 40),
        *record(0x82013, [1]),
    ) + window(1, *record(RUNS, [0x7FFF << 16 | 1], 35), *record(0x28004, [1, 0], 50))


def currents(lines: list[str]) -> list[str]:
    return [line.split("p", 1)[1].split()[1] for line in lines]


def test_a_record_shows_the_running_vcpu() -> None:
    assert currents(rendered(switches())) == [
        "d?v?", "d3v0", "d?v?", "d4v1", "idle", "d4v1", "d4v1", "idle",
    ]  # fmt: skip


def test_a_loss_shows_the_vcpu_that_runs_after_it() -> None:
    lost = record(0x1F001, [5, 7 | 2 << 16, 40, 0], 60)
    data = window(0, *record(RUNS, [4 << 16], 30), *lost, *record(0x28004, [1, 0], 70))
    assert currents(rendered(data)) == ["d4v0", "d7v2", "d7v2"]


@pytest.mark.parametrize(
    ("choice", "count"),
    [
        (Choice(domains=frozenset({4})), 3),
        (Choice(domains=frozenset({0x7FFF})), 2),
        (Choice(vcpus=frozenset({(4, 1)})), 3),
        (Choice(vcpus=frozenset({(None, 1)})), 5),
        (Choice(domains=frozenset({3}), vcpus=frozenset({(None, 1)})), 0),
        (Choice(pcpus=frozenset({1, 99999})), 2),
        (Choice(event=lambda _, name: name == "wake"), 4),
        (Choice(event=lambda _, name: name == "wake", domains=frozenset({4})), 1),
        (Choice(begin=Moment.parse("15c")), 6),
        (Choice(begin=Moment.parse("15c"), end=Moment.parse("25c")), 2),
        (Choice(begin=Moment.parse("tsc:25"), end=Moment.parse("tsc:35")), 2),
        (Choice(end=Moment.parse("0c")), 0),
        (Choice(limit=3), 3),
        (Choice(limit=0), 0),
        (Choice(event=lambda _, __: False), 0),
    ],
)
def test_filters(choice: Choice, count: int) -> None:
    assert len(rendered(switches(), choice=choice)) == count


def test_a_filter_does_not_change_lines() -> None:
    everything = rendered(unpacked(sample_files()[0]), chunk_bytes=1 << 16)
    wakes = rendered(
        unpacked(sample_files()[0]), choice=Choice(event=lambda _, name: name == "wake"), chunk_bytes=1 << 16
    )
    assert wakes == [line for line in everything if " wake " in line]


def test_hypercalls_beyond_the_templates_are_shown_raw() -> None:
    words = [word for op in range(3000) for word in record(0x20100D, [op], op)]
    lines = rendered(window(0, *words))
    assert [line.split("op=")[1].split()[0] for line in lines[100:]] == [str(op) for op in range(100, 3000)]


# --- the catalogue ------------------------------------------------------------------------------


def test_keys_of_a_json_line_are_unique() -> None:
    for event in EVENTS:
        for layout in event.layouts:
            names = [json_key(name) for name, _ in event.constants]
            for place in layout.fields:
                names.append(json_key(place.name))
                if place.table:
                    names.append(f"{place.name}_name")
            assert len({*names, *RESERVED_KEYS}) == len(names) + len(RESERVED_KEYS), event.name
