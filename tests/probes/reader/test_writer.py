from __future__ import annotations

import io
import lzma
import struct
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from builders.host import IRQ_HANDLED, Simulation, simulate
from oracle.reader import Record, Trace, Window, frame, read
from oracle.reading import SAMPLES
from xtrace.probes.errors import TraceError
from xtrace.probes.format import LOST_RECORDS, WRAP_BUFFER
from xtrace.probes.reader.writer import TraceWriter, pack_record, pack_window, repeat

LARGE_RING = 1 << 20


@dataclass(frozen=True)
class Step:
    """A record to write, ``delay`` cycles after the last one of any pCPU, optionally followed by a poll."""

    pcpu: int
    delay: int
    timed: bool
    event: int
    words: tuple[int, ...]
    poll: bool


WORDS = st.integers(0, 0xFFFF_FFFF)
EVENTS = st.integers(0x10000, 0x0FFF_FFFF).filter(
    lambda event: event >> 16 and event not in (LOST_RECORDS, WRAP_BUFFER, 0x1F003, IRQ_HANDLED, 0x1F004)
)
STEPS = st.lists(
    st.builds(
        Step,
        pcpu=st.integers(0, 3),
        delay=st.integers(1, 1 << 34),
        timed=st.booleans(),
        event=EVENTS,
        words=st.lists(WORDS, max_size=7).map(tuple),
        poll=st.integers(0, 5).map(lambda number: number == 0),
    ),
    max_size=80,
)
#: Rings that hold at least two of the longest records; Xen's are larger but behave the same.
RINGS = st.integers(20, 60).map(lambda words: 4 * words)


@dataclass
class Recording:
    data: bytes
    writer: TraceWriter
    stored: list[list[tuple[int | None, int, tuple[int, ...]]]]
    drop_runs: list[list[tuple[int, int]]]  # by pCPU: (records, TSC of the first) that LOST_RECORDS reports


def record(steps: list[Step], ring_bytes: int, skew: tuple[int, ...] = ()) -> Recording:
    out = io.BytesIO()
    writer = TraceWriter(out, 4, ring_bytes, skew_cycles=skew)
    result = Recording(b"", writer, [[] for _ in range(4)], [[] for _ in range(4)])
    open_run: dict[int, tuple[int, int]] = {}
    last_tsc = [0] * 4
    now = 0
    for step in steps:
        now += step.delay
        tsc = now if step.timed else None
        if step.timed:
            last_tsc[step.pcpu] = now
        if writer.write(step.pcpu, tsc, step.event, step.words):
            result.stored[step.pcpu].append((tsc, step.event, step.words))
            if step.pcpu in open_run:
                result.drop_runs[step.pcpu].append(open_run.pop(step.pcpu))
        else:
            count, first = open_run.get(step.pcpu, (0, last_tsc[step.pcpu]))
            open_run[step.pcpu] = (count + 1, first)
        if step.poll:
            writer.poll()
    writer.close()
    result.data = out.getvalue()
    return result


def by_pcpu(trace: Trace) -> list[list[Record]]:
    records: list[list[Record]] = [[] for _ in range(4)]
    for entry in sorted(trace.records, key=lambda entry: entry.offset):
        records[entry.pcpu].append(entry)
    return records


def plain(entry: Record) -> tuple[int | None, int, tuple[int, ...]]:
    return (entry.tsc if entry.timed else None, entry.event, entry.words)


def test_pack_record() -> None:
    assert pack_record(0x28004, None) == struct.pack("<I", 0x28004)
    assert pack_record(0x28004, 0x1_0000_0002, (3, 4)) == struct.pack("<5I", 0xA002_8004, 2, 1, 3, 4)


@pytest.mark.parametrize(
    ("event", "tsc", "words"),
    [
        (1 << 28, 0, ()),
        (-1, 0, ()),
        (0x28004, -1, ()),
        (0x28004, 1 << 64, ()),
        (0x28004, 0, (1 << 32,)),
        (0x28004, 0, (0,) * 8),
    ],
)
def test_values_that_do_not_fit_are_rejected(event: int, tsc: int, words: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"28 bits|64 bits|at most 7"):
        pack_record(event, tsc, words)


@pytest.mark.parametrize(
    ("pcpus", "ring_bytes", "skew"),
    [(0, 400, ()), (1, 402, ()), (1, 40, ()), (2, 400, (1,)), (16385, 400, ())],
)
def test_impossible_rings_are_rejected(pcpus: int, ring_bytes: int, skew: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"pCPUs|ring"):
        TraceWriter(io.BytesIO(), pcpus, ring_bytes, skew_cycles=skew)


@given(STEPS)
def test_every_record_comes_back(steps: list[Step]) -> None:
    recording = record(steps, LARGE_RING)
    trace = read(recording.data)
    assert (trace.damages, trace.missing_bytes, trace.lost_records, trace.wrap_count) == ([], 0, 0, 0)
    assert [[plain(entry) for entry in entries] for entries in by_pcpu(trace)] == recording.stored
    timed = [entry.tsc for entry in trace.records if entry.timed]
    assert timed == sorted(timed)


@settings(max_examples=300)
@given(STEPS, RINGS)
def test_small_rings_wrap_and_lose_records_as_in_xen(steps: list[Step], ring_bytes: int) -> None:
    recording = record(steps, ring_bytes)
    trace = read(recording.data)
    assert trace.damages == []
    assert trace.wrap_count == recording.writer.fillers
    untold = sum(recording.writer.pending_lost(pcpu) for pcpu in range(4))
    assert trace.lost_records + untold == recording.writer.dropped
    for pcpu, entries in enumerate(by_pcpu(trace)):
        lost = [entry for entry in entries if entry.event == LOST_RECORDS]
        told = [(entry.words[0], entry.words[2] | entry.words[3] << 32) for entry in lost]
        assert told == recording.drop_runs[pcpu]
        assert all(entry.words[1] == 0x7FFF | pcpu << 16 for entry in lost)
        assert [plain(entry) for entry in entries if entry not in lost] == recording.stored[pcpu]
    assert_no_record_straddles(recording.data, ring_bytes)


def assert_no_record_straddles(data: bytes, ring_bytes: int) -> None:
    produced: dict[int, int] = defaultdict(int)
    for window in frame(data).windows:
        assert 0 < window.size <= ring_bytes
        for raw in window.records:
            size = 4 + 8 * (raw.tsc is not None) + 4 * len(raw.words)
            begin = produced[window.pcpu] % ring_bytes
            assert begin + size <= ring_bytes
            if raw.is_wrap:
                assert begin + size == ring_bytes
            produced[window.pcpu] += size


@pytest.mark.parametrize(("left_words", "timed", "extra"), [(1, False, 0), (8, False, 7), (9, True, 6)])
def test_a_filler_is_timed_if_seven_words_are_too_few(left_words: int, timed: bool, extra: int) -> None:
    out = io.BytesIO()
    with TraceWriter(out, 1, 4 * (20 + left_words)) as writer:
        for tsc in (1, 2):
            assert writer.write(0, tsc, 0x28004, (7,) * 7)
        writer.poll()
        assert writer.write(0, 3, 0x28004, (8,) * 7)
    (filler,) = (raw for window in frame(out.getvalue()).windows for raw in window.records if raw.is_wrap)
    assert (filler.tsc, len(filler.words)) == (3 if timed else None, extra)


def test_lost_records_precedes_the_first_record_that_fits() -> None:
    out = io.BytesIO()
    with TraceWriter(out, 1, 80) as writer:
        writer.set_current(0, 5, 3)
        stored = [writer.write(0, tsc, 0x28004, (1, 2)) for tsc in range(10, 16)]
        writer.poll()
        assert writer.write(0, 20, 0x28006, (1, 2))
    assert stored == [True] * 4 + [False] * 2
    last_window = frame(out.getvalue()).windows[-1]
    lost, record_ = last_window.records
    assert (lost.event, lost.tsc, lost.words) == (LOST_RECORDS, 20, (2, 5 | 3 << 16, 14, 0))
    assert record_.event == 0x28006


@given(STEPS, st.lists(st.integers(-1000, 1000), min_size=4, max_size=4))
def test_skew_shifts_every_tsc_of_a_pcpu(steps: list[Step], skew: list[int]) -> None:
    start = Step(0, 1000, True, 0x28004, (), False)
    recording = record([start, *steps], LARGE_RING, tuple(skew))
    for pcpu, entries in enumerate(by_pcpu(read(recording.data))):
        shifted = [(tsc if tsc is None else tsc + skew[pcpu], *rest) for tsc, *rest in recording.stored[pcpu]]
        assert [plain(entry) for entry in entries] == shifted


def test_skew_shifts_the_times_in_irq_handled() -> None:
    out = io.BytesIO()
    with TraceWriter(out, 1, skew_cycles=(-5,)) as writer:
        writer.write(0, 0x1_0000_0009, IRQ_HANDLED, (16, 3, 8))
        writer.write(0, 0x1_0000_000A, IRQ_HANDLED, (16, 0, 8))
    assert [entry.words for entry in read(out.getvalue()).records] == [(16, 0xFFFF_FFFE, 3), (16, 0, 3)]


def full_steps(*pcpus: int) -> list[Step]:
    """Return a 40-byte record for each pCPU; a negative number adds a poll after it."""
    return [Step(abs(pcpu), 1, True, 0x28004, (7,) * 7, pcpu < 0) for pcpu in pcpus]


@given(STEPS, st.integers(300, 2000))
@example(full_steps(0, 0, 1, 1, 2, 2, 3), 320)  # a round of 328 bytes, 316 without its last header
@example(full_steps(0, 0, -1, -2, 3, 3, 3), 300)  # each round fits, but not all together
def test_the_memory_buffer_keeps_the_newest_windows(steps: list[Step], memory_bytes: int) -> None:
    kept, everything = io.BytesIO(), io.BytesIO()
    writers = TraceWriter(kept, 4, 240, memory_bytes=memory_bytes), TraceWriter(everything, 4, 240)
    now = 0
    for step in steps:
        now += step.delay
        for writer in writers:
            writer.write(step.pcpu, now, step.event, step.words)
            if step.poll:
                writer.poll()
    for writer in writers:
        writer.close()
    assert len(kept.getvalue()) <= memory_bytes
    assert everything.getvalue().endswith(kept.getvalue())
    windows = frame(everything.getvalue()).windows
    dropped = len(windows) - len(frame(kept.getvalue()).windows)
    if dropped and kept.getvalue():
        # The file starts with a low pCPU, unless making room for its first window emptied the buffer: then
        # that window and its predecessors since the last low pCPU do not fit together.
        first, low = windows[dropped], dropped
        while low and windows[low - 1].pcpu < windows[low].pcpu:
            low -= 1
        together = first.offset + 12 + first.size - windows[low].offset
        assert low == dropped or together > memory_bytes


def test_an_exactly_full_memory_buffer_keeps_all() -> None:
    out = io.BytesIO()
    with TraceWriter(out, 2, memory_bytes=64) as writer:
        writer.write(0, 1, 0x28004, (1, 2))
        writer.write(1, 2, 0x28004, (1, 2))
    assert [window.pcpu for window in frame(out.getvalue()).windows] == [0, 1]
    assert len(out.getvalue()) == 64


def test_a_window_larger_than_the_memory_buffer_is_rejected() -> None:
    writer = TraceWriter(io.BytesIO(), 1, memory_bytes=20)
    writer.write(0, 1, 0x28004, (1, 2))
    with pytest.raises(ValueError, match="does not fit"):
        writer.poll()


# --- repeat ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def short() -> Simulation:
    domains = [(0, 2, "pv"), (1, 2, "hvm")]
    return simulate(7, 3, domains, 8_000_000, ring_bytes=1000, loss=0.3, poll_cycles=1_000_000)  # type: ignore[arg-type]


@pytest.fixture
def source(tmp_path: Path, short: Simulation) -> Path:
    path = tmp_path / "short.bin"
    path.write_bytes(short.data)
    return path


def test_repeat_shifts_each_copy_by_the_same_span(source: Path, short: Simulation) -> None:
    out = io.BytesIO()
    assert repeat(source, out, copies=5) == len(out.getvalue())
    once, repeated = read(short.data), read(out.getvalue())
    assert once.lost_records > 0
    assert repeated.damages == []
    assert repeated.lost_records == 5 * once.lost_records + 4 * 3
    windows, first = frame(out.getvalue()).windows, frame(short.data).windows
    assert len(windows) == 5 * len(first) + 4 * 3
    base = {window.offset: window for window in first}
    step = windows[len(first) + 3].offset
    spans = set()
    for copy in range(5):
        for offset, window in base.items():
            again = next(entry for entry in windows if entry.offset == offset + copy * step)
            spans |= {shift // copy for shift in shifts(window, again) if copy}
            assert copy or shifts(window, again) == {0}
    (span,) = spans
    tscs = [entry.tsc for entry in once.records if entry.timed]
    assert span > max(tscs) - min(tscs)


def shifts(window: Window, again: Window) -> set[int]:
    """Return by how much the times of ``again`` are later; check that nothing else differs."""
    assert (window.pcpu, window.size, len(window.records)) == (again.pcpu, again.size, len(again.records))
    found = set()
    for one, other in zip(window.records, again.records, strict=True):
        assert (one.event, one.tsc is None) == (other.event, other.tsc is None)
        if one.tsc is None or other.tsc is None:
            assert one.words == other.words
            continue
        shift = other.tsc - one.tsc
        found.add(shift)
        words = list(one.words)
        if one.is_lost:
            first = (words[2] | words[3] << 32) + shift
            words[2:] = first & 0xFFFF_FFFF, first >> 32
        elif one.event == IRQ_HANDLED:
            words[1:] = ((word + shift) & 0xFFFF_FFFF for word in words[1:])
        assert tuple(words) == other.words
    return found


def test_a_seam_is_a_loss_on_every_pcpu(source: Path, short: Simulation) -> None:
    out = io.BytesIO()
    repeat(source, out, copies=2)
    first = frame(short.data).windows
    seam = frame(out.getvalue()).windows[len(first) : len(first) + 3]
    assert [window.pcpu for window in seam] == [0, 1, 2]
    for window in seam:
        (lost,) = window.records
        tscs = [raw.tsc for entry in first if entry.pcpu == window.pcpu for raw in entry.records if raw.tsc]
        assert lost.is_lost
        assert lost.words[0] == 1
        assert lost.words[2] | lost.words[3] << 32 == max(tscs) + 1
        assert lost.tsc is not None
        assert lost.tsc > max(tscs)


@pytest.mark.parametrize("min_bytes", [1, 1_000_000, 40_000_000])
def test_repeat_reaches_the_minimum_size(source: Path, tmp_path: Path, min_bytes: int) -> None:
    out = tmp_path / "long.bin"
    written = repeat(source, out, min_bytes=min_bytes)
    one_copy = source.stat().st_size + 3 * 40
    assert written == out.stat().st_size
    assert min_bytes <= written or written == source.stat().st_size
    assert written < min_bytes + one_copy


def test_the_block_size_does_not_change_the_output_of_repeat(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    large, small = io.BytesIO(), io.BytesIO()
    repeat(source, large, copies=9)
    monkeypatch.setattr("xtrace.probes.reader.writer._BLOCK_BYTES", 2 * len(source.read_bytes()) + 1000)
    repeat(source, small, copies=9)
    assert large.getvalue() == small.getvalue()


def test_repeat_rejects_bad_input(source: Path, tmp_path: Path, short: Simulation) -> None:
    for arguments in ({}, {"copies": 1, "min_bytes": 1}, {"copies": 0}):
        with pytest.raises(ValueError, match=r"copies|one copy"):
            repeat(source, io.BytesIO(), **arguments)
    untimed = pack_window(0, pack_record(0x82004, None, (1,)))
    late = pack_window(0, pack_record(0x28004, 1) + pack_record(0x28004, 1 << 62))
    cases = [(short.data[:-2], "cut short"), (short.data[:-8], "cut short"), (untimed, "no timed record")]
    cases += [(b"\0" * 16, "no window header"), (pack_window(0, b"\0" * 8), "no complete record")]
    for data, message in [*cases, (late, "63 bits")]:
        (tmp_path / "bad.bin").write_bytes(data)
        with pytest.raises(ValueError, match=message) as caught:
            repeat(tmp_path / "bad.bin", io.BytesIO(), copies=3)
        assert isinstance(caught.value, TraceError) == (message != "63 bits")


# --- real traces -------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.name)
def test_repacked_samples_are_identical(path: Path) -> None:
    data = lzma.decompress(path.read_bytes())
    framing = frame(data)
    assert framing.damages == []
    packed = (
        pack_window(
            window.pcpu,
            b"".join(pack_record(raw.event, raw.tsc, raw.words) for raw in window.records),
        )
        for window in framing.windows
    )
    assert b"".join(packed) == data[: len(data) - framing.missing_bytes]
