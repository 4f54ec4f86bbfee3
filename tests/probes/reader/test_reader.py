"""The reader agrees with the slow reference reader: on real, generated and damaged traces."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import random
import re
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from builders.host import Kind, simulate
from oracle import reader as oracle
from oracle.intact import assert_same_whole, reader_of
from oracle.reading import (
    SAMPLES,
    Reading,
    fast,
    filler_count,
    holes_of,
    rows_of,
    same,
    sample_bytes,
    sample_rows,
    sample_trace,
    slow,
    taken,
    unaccounted_bytes,
)
from xtrace.probes.errors import TraceError
from xtrace.probes.format import (
    LOST_RECORDS,
    MAX_PCPUS,
    MAX_WINDOW_BYTES,
    RING_HEADER_BYTES,
    RING_PAGE_BYTES,
    WINDOW_HEADER,
    TraceClass,
)
from xtrace.probes.intact.damage import MAX_DAMAGES_KEPT, Damage
from xtrace.probes.reader import loops
from xtrace.probes.reader.batches import MAX_SHAPES, OVERFLOW_SHAPE
from xtrace.probes.reader.holes import MAX_HOLES_KEPT
from xtrace.probes.reader.reader import CHUNK_BYTES, TraceReader, open_trace
from xtrace.probes.reader.sources import open_source, read_into
from xtrace.probes.reader.writer import DEFAULT_RING_BYTES, TraceWriter, pack_record, pack_window, repeat

DOMAINS: list[tuple[int, int, Kind]] = [(0, 2, "pv"), (1, 3, "pv"), (5, 2, "hvm")]
WAKE = 0x28004
CHUNKS = (64, 1 << 10, 1 << 16, CHUNK_BYTES)

each_sample = pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.name.split(".")[0])


@pytest.fixture(scope="module")
def small() -> bytes:
    """The trace of a calm host, with a few windows per pCPU."""
    return simulate(3, 3, DOMAINS, 12_000_000, poll_cycles=3_000_000).data


def assert_same(data: bytes, *, chunk_bytes: int = 1 << 20, keep: int = 0) -> Reading:
    """Check that both readers agree on the records of whole windows, their order, fillers, and the end."""
    reading, trace = fast(data, chunk_bytes=chunk_bytes, keep=keep), oracle.read(data)
    facts = reading.reader.facts
    assert same(reading.rows, slow(trace.records), facts.late_records)
    assert filler_count(reading.reader) == trace.wrap_count
    assert facts.missing_bytes + facts.tail_bytes == trace.missing_bytes + len(data) % 4
    assert facts.bytes_read == len(data)
    assert [(r.offset, r.pcpu, r.before_tsc, r.after_tsc) for r in facts.restarts] == [
        (r.offset, r.pcpu, r.before, r.after) for r in trace.restarts
    ]
    assert unaccounted_bytes(reading.reader) == 0
    assert holes_of(data, chunk_bytes=chunk_bytes) == trace.holes[:MAX_HOLES_KEPT]
    return reading


# --- real traces -------------------------------------------------------------------------------


@each_sample
@pytest.mark.parametrize("chunk_bytes", CHUNKS)
@pytest.mark.parametrize("keep", [0, 3])
def test_samples(sample: Path, chunk_bytes: int, keep: int) -> None:
    reading, trace = fast(sample_bytes(sample), chunk_bytes=chunk_bytes, keep=keep), sample_trace(sample)
    facts = reading.reader.facts
    assert same(reading.rows, sample_rows(sample), facts.late_records)
    # One loss in one sample, if a chunk is smaller than a round.
    assert facts.late_records <= (chunk_bytes <= 1 << 10 and "lost" in sample.name)
    assert filler_count(reading.reader) == trace.wrap_count
    assert (facts.damages, trace.damages) == ([], [])
    assert (facts.skipped_bytes, facts.missing_bytes, facts.tail_bytes) == (0, 0, 0)
    assert facts.backward_tsc_count == 0
    assert unaccounted_bytes(reading.reader) == 0


@pytest.mark.parametrize(
    ("sample", "lost", "gaps", "ring_pages"),
    [
        ("xen417-pv-all", 0, 0, 256),
        ("xen417-pv-lost", 38_991, 126, 1),
        ("xen417-netbsd7-idle", 0, 0, 256),
    ],
)
def test_samples_match_their_readme(sample: str, lost: int, gaps: int, ring_pages: int) -> None:
    path = next(path for path in SAMPLES if path.name.startswith(sample + "."))
    reading = fast(sample_bytes(path))
    losses = reading.rows[reading.rows[:, 2] == LOST_RECORDS]
    assert (len(losses), losses[:, 5].sum()) == (gaps, lost)
    assert reading.reader.facts.ring_bytes == ring_pages * RING_PAGE_BYTES - RING_HEADER_BYTES
    assert reading.reader.facts.pcpus == [0, 1]
    page = (path.parent / "README.md").read_text("utf-8")
    row = next(line for line in page.splitlines() if line.startswith(f"| {path.name} "))
    assert f"{len(reading.rows):,} records" in row
    if lost:
        assert f"{lost:,} lost" in row


@pytest.mark.parametrize("chunk_bytes", [1 << 12, 1 << 18])
def test_the_last_keep_batches_stay_valid(chunk_bytes: int) -> None:
    keep = 3
    reader = TraceReader(io.BytesIO(sample_bytes(SAMPLES[0])), keep=keep, chunk_bytes=chunk_bytes)
    held: deque[tuple[object, ...]] = deque(maxlen=keep)
    for batch in reader:
        held.append((batch, rows_of(batch)))
        for old, rows in held:
            assert np.array_equal(rows_of(old), rows)  # type: ignore[arg-type]


# --- where the bytes come from -----------------------------------------------------------------


def pack_zstd(data: bytes) -> bytes:
    return bytes(pytest.importorskip("zstandard").ZstdCompressor(write_checksum=True).compress(data))


PACK: dict[str, Callable[[bytes], bytes]] = {
    "plain": bytes,
    "gz": gzip.compress,
    "xz": lzma.compress,
    "zst": pack_zstd,
}


def halves(pack: Callable[[bytes], bytes], data: bytes) -> bytes:
    """Return two concatenated compressed streams, as from `cat a.gz b.gz`."""
    middle = len(data) // 2 + 1
    return pack(data[:middle]) + pack(data[middle:])


@pytest.mark.parametrize("form", PACK)
@pytest.mark.parametrize("join", [lambda pack, data: pack(data), halves], ids=["one", "two"])
def test_compression_is_detected_from_the_content(
    form: str, join: Callable[[Callable[[bytes], bytes], bytes], bytes], small: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "trace"
    path.write_bytes(join(PACK[form], small))
    with open_trace(path, chunk_bytes=5000) as reader:
        reading = taken(reader)
    assert np.array_equal(reading.rows, fast(small).rows)
    assert reading.reader.facts.bytes_read == len(small)


@contextmanager
def dripping(data: bytes, piece_bytes: int) -> Iterator[int]:
    """Yield the read end of a pipe that is filled piece by piece."""
    read_end, write_end = os.pipe()

    def drip() -> None:
        with os.fdopen(write_end, "wb", buffering=0) as pipe:
            for at in range(0, len(data), piece_bytes):
                pipe.write(data[at : at + piece_bytes])

    thread = threading.Thread(target=drip)
    thread.start()
    yield read_end
    thread.join()


@pytest.mark.parametrize("form", PACK)
@pytest.mark.parametrize("piece_bytes", [3, 1000, 1 << 16])
def test_standard_input_in_pieces(
    form: str, piece_bytes: int, small: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = small[:20_000]
    with dripping(PACK[form](data), piece_bytes) as read_end, os.fdopen(read_end, "rb") as stdin:
        monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=stdin))
        with open_trace("-") as reader:
            reading = taken(reader)
    assert np.array_equal(reading.rows, fast(data).rows)


def test_a_named_pipe(small: bytes, tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    thread = threading.Thread(target=path.write_bytes, args=(small,))
    thread.start()
    with open_trace(path) as reader:
        assert np.array_equal(taken(reader).rows, fast(small).rows)
    thread.join()


@pytest.mark.parametrize("form", ["gz", "xz", "zst"])
def test_truncated_compressed_data_is_read_up_to_the_cut(form: str, tmp_path: Path) -> None:
    path = tmp_path / "trace"
    path.write_bytes(PACK[form](sample_bytes(SAMPLES[0]))[:-20])
    with open_trace(path) as reader:
        count = sum(len(batch) for batch in reader)
    count -= filler_count(reader)
    assert 0.5 * len(sample_rows(SAMPLES[0])) < count <= len(sample_rows(SAMPLES[0]))
    assert reader.facts.damage_count == 1
    assert reader.facts.damages[0].reason.startswith("compressed data is damaged or cut short: ")
    with (
        open_trace(path, strict=True) as reader,
        pytest.raises(TraceError, match=r"trace: offset \d+: compressed data is damaged or cut short"),
    ):
        deque(reader, maxlen=0)


@pytest.mark.parametrize("form", ["gz", "xz", "zst"])
def test_damaged_compressed_data_is_an_error_on_every_read(form: str, tmp_path: Path) -> None:
    packed = bytearray(PACK[form](random.Random(1).randbytes(100_000)))
    packed[50_000:50_004] = b"\xff" * 4
    path = tmp_path / "trace"
    path.write_bytes(packed)
    with open_source(path) as source:
        with suppress(TraceError):
            read_into(source, memoryview(bytearray(1 << 20)), "trace")
        for _ in range(2):
            with pytest.raises(TraceError, match="trace: compressed data is damaged"):
                read_into(source, memoryview(bytearray(1)), "trace")


def test_files_that_are_not_traces(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="is a folder, not a trace"), open_trace(tmp_path):
        pass
    with pytest.raises(FileNotFoundError), open_trace(tmp_path / "none"):
        pass
    for content in (b"#!/bin/sh\necho not a trace\n", bytes(100), b"\x7fELF", bytes(5 << 20), b"vm\n", b"\n"):
        path = tmp_path / "file"
        path.write_bytes(content)
        with pytest.raises(TraceError, match="file: not a xentrace file: "), open_trace(path) as reader:
            taken(reader)


@pytest.mark.parametrize("content", [b"", gzip.compress(b""), lzma.compress(b"")], ids=["plain", "gz", "xz"])
def test_an_empty_file_is_an_empty_trace(content: bytes, tmp_path: Path) -> None:
    """xentrace leaves one if no event of the chosen classes occurred."""
    path = tmp_path / "empty"
    path.write_bytes(content)
    with open_trace(path) as reader:
        reading = taken(reader)
    facts = reading.reader.facts
    assert len(reading.rows) == 0
    assert (facts.bytes_read, facts.windows, facts.damage_count, facts.pcpus) == (0, 0, 0, [])


# --- a file that still grows -------------------------------------------------------------------


def record_ends(data: bytes) -> tuple[list[int], list[int]]:
    """Return the offsets where windows begin and where records, including fillers, end."""
    windows = oracle.frame(data).windows
    ends = []
    for window in windows:
        begins = [record.offset for record in window.records]
        ends += [*begins[1:], window.offset + 12 + window.size] if begins else []
    return [window.offset for window in windows], ends


@each_sample
def test_complete_records_of_a_growing_file_are_counted(sample: Path) -> None:
    data = sample_bytes(sample)
    windows, ends = record_ends(data)
    random_ = random.Random(sample.name)
    cuts = [random_.randrange(len(data)) for _ in range(8)]
    cuts += [offset + cut for offset in random_.sample(windows, 1) for cut in (-1, 0, 1, 4, 11, 12, 13, 23)]
    for cut in (cut for cut in cuts if cut >= 0):
        reader = fast(data[:cut]).reader
        facts = reader.facts
        assert facts.damage_count == 0, cut
        assert reader.record_counts.sum() == np.searchsorted(ends, cut, side="right"), cut
        assert unaccounted_bytes(reader) == 0, cut
        inside = next(end for end in [*windows[1:], len(data)] if end >= cut)
        # An incomplete header does not show the size of its window.
        if cut - max(offset for offset in windows if offset <= cut) >= 12:
            assert facts.missing_bytes == inside - cut // 4 * 4, cut


def test_every_cut_of_a_small_file(small: bytes) -> None:
    random_ = random.Random(7)
    for cut in [*range(60), *(random_.randrange(len(small)) for _ in range(120))]:
        assert_same(small[:cut], chunk_bytes=random_.choice((64, 999, 1 << 16)))


# --- traces from the writer and the simulated host ---------------------------------------------


@pytest.mark.parametrize("memory_bytes", [9_000, 40_000])
def test_files_of_the_memory_option(memory_bytes: int) -> None:
    """xentrace -M keeps the last windows in memory, so the file starts in the middle of events."""
    out = io.BytesIO()
    with TraceWriter(out, 3, 4088, memory_bytes=memory_bytes) as writer:
        for step in range(9_000):
            writer.write(step % 3, 1000 + 10 * step, WAKE, (step, 1))
            if step % 200 == 0:
                writer.poll()
    reading = assert_same(out.getvalue(), chunk_bytes=999)
    assert 0 < len(reading.rows) < 9_000
    assert reading.rows[-1, 5] == 8_999


@pytest.mark.parametrize("chunk_bytes", [1 << 10, 1 << 20])
def test_three_hundred_pcpus(chunk_bytes: int) -> None:
    domains: list[tuple[int, int, Kind]] = [(0, 16, "pv"), *((number, 8, "hvm") for number in range(1, 60))]
    simulation = simulate(4, 300, domains, 1_500_000, poll_cycles=500_000)
    reading = assert_same(simulation.data, chunk_bytes=chunk_bytes)
    assert reading.reader.facts.pcpus == list(range(300))
    assert reading.reader.facts.late_records == 0
    assert len(reading.rows) == simulation.truth.written


@pytest.mark.parametrize("chunk_bytes", [1 << 12, 1 << 20])
@pytest.mark.parametrize(
    ("loss", "skew"),
    [(0.0, (0, 3000, -5000)), (0.4, ()), (0.4, (900_000, 0, -70_000))],
    ids=["skew", "lost", "both"],
)
def test_skewed_and_lossy_hosts(loss: float, skew: tuple[int, ...], chunk_bytes: int) -> None:
    simulation = simulate(
        5, 3, DOMAINS, 40_000_000, loss=loss, skew_cycles=skew, ring_bytes=4088, poll_cycles=2_000_000
    )
    reading = assert_same(simulation.data, chunk_bytes=chunk_bytes)
    truth = simulation.truth
    losses = reading.rows[reading.rows[:, 2] == LOST_RECORDS]
    assert losses[:, 5].sum() + truth.untold == truth.dropped
    assert len(reading.rows) - len(losses) == truth.written
    assert (len(losses) > 0) == (loss > 0)


def test_records_of_a_lagging_pcpu_are_counted_as_late() -> None:
    """The reader does not wait for a pCPU skewed by more than two polls: its records are late and counted."""
    simulation = simulate(5, 3, DOMAINS, 80_000_000, skew_cycles=(0, 50_000_000, 0), poll_cycles=2_000_000)
    reading = fast(simulation.data, chunk_bytes=1 << 10)
    assert reading.reader.facts.late_records > 0
    assert len(reading.rows) == simulation.truth.written
    in_order = slow(oracle.read(simulation.data).records)
    for pcpu in range(3):
        assert np.array_equal(reading.rows[reading.rows[:, 1] == pcpu], in_order[in_order[:, 1] == pcpu])


@pytest.mark.parametrize("pages", [1, 2, 32])
def test_the_distance_between_fillers_gives_the_ring_size(pages: int) -> None:
    ring_bytes = pages * RING_PAGE_BYTES - RING_HEADER_BYTES
    out = io.BytesIO()
    with TraceWriter(out, 2, ring_bytes) as writer:
        for step in range(pages * 2000):
            writer.write(step % 2, step, WAKE, range(step % 7))
            if step % (pages * 50) == 0:
                writer.poll()
    facts = assert_same(out.getvalue()).reader.facts
    assert writer.fillers > 4
    assert (facts.ring_bytes, facts.ring_votes > 0) == (ring_bytes, True)


def test_without_fillers_the_ring_size_is_unknown() -> None:
    facts = fast(simulate(6, 2, DOMAINS, 1_000_000).data).reader.facts
    assert (facts.ring_bytes, facts.ring_votes) == (None, 0)


def test_windows_of_more_than_half_a_ring_are_counted() -> None:
    out = io.BytesIO()
    with TraceWriter(out, 1) as writer:
        for burst in [7000, 100, 100, 6000] * 3:
            for _ in range(burst):
                writer.write(0, writer.written, WAKE, (1,))
            writer.poll()
    facts = fast(out.getvalue()).reader.facts
    assert facts.ring_bytes == DEFAULT_RING_BYTES
    assert facts.half_full_windows == 6


# --- filters -----------------------------------------------------------------------------------


@each_sample
@pytest.mark.parametrize(
    "wanted",
    [lambda event: bool(event & TraceClass.PV), lambda event: event == WAKE, lambda _event: False],
    ids=["class", "event", "none"],
)
def test_a_filter_removes_records_but_counts_all(sample: Path, wanted: Callable[[int], bool]) -> None:
    reading = fast(sample_bytes(sample), wanted=wanted, chunk_bytes=1 << 18)
    all_rows = sample_rows(sample)
    chosen = np.array([wanted(int(event)) for event in all_rows[:, 2]], bool)
    assert np.array_equal(reading.rows, all_rows[chosen])
    counts = fast(sample_bytes(sample)).reader.record_counts
    assert np.array_equal(reading.reader.record_counts, counts)


# --- damage ------------------------------------------------------------------------------------


def sound(pcpu: int = 1, tsc: int = 50) -> bytes:
    return pack_window(pcpu, pack_record(WAKE, tsc, (1, 2)))


def words(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}I", *values)


#: Damaged windows, why they are left out, and how many bytes of them.
DAMAGES = {
    "zeros": (bytes(4096), "word 0x00000000 instead of a window header (zeros)", 4096),
    "an impossible pCPU": (
        pack_window(MAX_PCPUS, b""), f"window header of pCPU {MAX_PCPUS} with 0 bytes is out of range", 12
    ),
    "an odd size": (
        words(WINDOW_HEADER, 0, 6, 0), "window header of pCPU 0 with 6 bytes is out of range", 16
    ),
    "an impossible size": (
        words(WINDOW_HEADER, 0, MAX_WINDOW_BYTES + 4),
        f"window header of pCPU 0 with {MAX_WINDOW_BYTES + 4} bytes is out of range", 12,
    ),
    "no class bits": (pack_window(0, words(4, WAKE)), "not a record header", 20),
    "an overrun": (pack_window(0, words(WAKE, 0x7000_0000 | WAKE)), "record overruns its window", 20),
    "a nested window": (words(WINDOW_HEADER, 0, 400, WAKE), "window header inside a window", 16),
    "text in a record": (
        pack_window(0, pack_record(WAKE, 45, struct.unpack("<2I", b"No space"[:7] + b"\n"))),
        "text in a record", 32,
    ),
    "TSCs that go back": (
        pack_window(0, b"".join(pack_record(WAKE, tsc) for tsc in (1 << 30, 45, 1 << 30))),
        "the TSC goes back and on", 48,
    ),
    "a TSC beyond all others": (
        pack_window(0, pack_record(WAKE, 1 << 62)), "a TSC is out of range", 24
    ),
    "a TSC far after all others": (
        pack_window(0, pack_record(WAKE, 1 << 50)), "the TSC of its last record is far after all others", 24
    ),
}  # fmt: skip


@pytest.mark.parametrize("chunk_bytes", [64, 1 << 20])
@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_reported_with_offset_reason_and_size(kind: str, chunk_bytes: int) -> None:
    damaged, reason, skipped_bytes = DAMAGES[kind]
    before = sound(0, 40)
    reading = assert_same_whole(before + damaged + sound(), chunk_bytes=chunk_bytes)
    assert reading.reader.facts.damages == [Damage(len(before), reason, skipped_bytes)]
    assert [int(row[0]) for row in reading.rows if row[3]] == [40, 50]


@pytest.mark.parametrize("kind", DAMAGES)
def test_strict_stops_at_the_first_damage(kind: str) -> None:
    damaged, reason, _ = DAMAGES[kind]
    before = sound(0, 40)
    said = re.escape(f"trace: offset {len(before)}: {reason}")
    with pytest.raises(TraceError, match=f"{said}.*--strict"):
        taken(reader_of(before + damaged + sound() + bytes(16), strict=True))


def test_strict_accepts_a_complete_and_a_growing_file(small: bytes) -> None:
    assert np.array_equal(taken(reader_of(small, strict=True)).rows, fast(small).rows)
    assert len(taken(reader_of(small[:-30], strict=True)).rows) > 0


def test_damaged_samples() -> None:
    random_ = random.Random(11)
    for sample in SAMPLES:
        data = bytearray(sample_bytes(sample)[:300_000])
        for _ in range(12):
            at = random_.randrange(len(data))
            data[at : at + 4] = random_.randbytes(random_.choice((0, 3, 4, 8)))
        assert_same_whole(bytes(data), chunk_bytes=random_.choice((999, 1 << 16)))


def test_more_damages_than_are_kept() -> None:
    damaged = b"".join(sound(0, 100 + tsc) + pack_window(1, words(4)) for tsc in range(3000))
    reading = assert_same_whole(damaged + sound(0, 10_000), chunk_bytes=1 << 12)
    assert (reading.reader.facts.damage_count, len(reading.rows)) == (3000, 3001)
    assert len(reading.reader.facts.damages) == MAX_DAMAGES_KEPT


# --- hostile files -----------------------------------------------------------------------------


@pytest.mark.parametrize("chunk_bytes", [1 << 12, CHUNK_BYTES])
@pytest.mark.parametrize("content", [b"", pack_record(WAKE, None)], ids=["empty", "one record"])
def test_a_hundred_thousand_windows(content: bytes, chunk_bytes: int) -> None:
    count = 100_000
    reader = fast(pack_window(3, content) * count, chunk_bytes=chunk_bytes).reader
    assert reader.facts.windows == count
    assert reader.record_counts.sum() == count * bool(content)
    assert unaccounted_bytes(reader) == 0


def test_a_window_of_the_maximum_size() -> None:
    header = words(WINDOW_HEADER, 0, MAX_WINDOW_BYTES)
    reading = assert_same(header + pack_record(WAKE, 7, (1, 2)) * 100)
    assert reading.reader.facts.missing_bytes == MAX_WINDOW_BYTES - 2000


def test_the_highest_pcpu_number_costs_no_memory() -> None:
    before = resident_bytes()
    reading = assert_same(sound(MAX_PCPUS - 1))
    assert reading.reader.facts.pcpus == [MAX_PCPUS - 1]
    assert resident_bytes() - before < 64 << 20


def test_counts_take_room_for_what_occurs_only() -> None:
    """With a place for each shape on each pCPU that there can be, they took 512 MB and more."""
    data = b"".join(pack_window(pcpu, pack_record(WAKE, pcpu + 1)) for pcpu in range(0, MAX_PCPUS, 4))
    reader = fast(data, chunk_bytes=1 << 12).reader
    assert reader.record_counts.sum() == MAX_PCPUS // 4
    assert reader.record_counts.nbytes <= 32 << 20


@pytest.mark.parametrize("tsc", [(1 << 62) - 1, 1 << 62, (1 << 63) - 1, 1 << 63, (1 << 64) - 1])
def test_an_impossible_tsc_sorts_last(tsc: int) -> None:
    data = (
        pack_window(0, pack_record(WAKE, tsc) + pack_record(WAKE, 7)) + sound(1) + sound(0, 60) + sound(1, 70)
    )
    for chunk_bytes in (64, 1 << 20):
        reading = assert_same(data, chunk_bytes=chunk_bytes)
        assert reading.rows[:, 0].tolist() == [50, 70, tsc, 7, 60]


@pytest.mark.parametrize("first_tsc", [0, 99, 101, 1 << 62, 1 << 63, (1 << 64) - 1])
def test_a_loss_with_an_impossible_start(first_tsc: int) -> None:
    lost = pack_record(LOST_RECORDS, 100, (0xFFFF_FFFF, 0, first_tsc & 0xFFFF_FFFF, first_tsc >> 32))
    content = pack_record(WAKE, 40) + lost + pack_record(WAKE, 120)
    assert_same(pack_window(0, content) + pack_window(1, pack_record(WAKE, 60) + pack_record(WAKE, 110)))


def test_an_untimed_record_after_a_loss_sorts_after_its_end() -> None:
    """This includes a loss in one batch and the record in the next."""
    lost = pack_record(LOST_RECORDS, 100, (5, 0, 10, 0)) + pack_record(0x82013, None)
    rounds = [
        (pack_record(WAKE, 5), pack_record(WAKE, 20)),
        (lost, pack_record(WAKE, 90)),
        (pack_record(WAKE, 120), pack_record(WAKE, 110)),
        (pack_record(WAKE, 130), pack_record(WAKE, 140)),
    ]
    data = b"".join(pack_window(pcpu, content) for pair in rounds for pcpu, content in enumerate(pair))
    for chunk_bytes in range(64, len(data) + 8, 4):
        reading = assert_same(data, chunk_bytes=chunk_bytes)
        assert reading.rows[:, 0].tolist() == [5, 100, 20, 90, 100, 110, 120, 130, 140]


@pytest.mark.parametrize("tsc", [0, 1 << 62, 1 << 63, (1 << 64) - 1])
def test_a_loss_with_an_impossible_end(tsc: int) -> None:
    lost = pack_record(LOST_RECORDS, tsc, (5, 0, 50, 0)) + pack_record(WAKE, 70)
    assert_same(pack_window(0, lost) + pack_window(1, pack_record(WAKE, 40) + pack_record(WAKE, 60)))


def test_more_shapes_than_the_table_holds() -> None:
    """Records of further shapes are returned and counted together under one shape."""
    kinds = 5000
    data = pack_window(0, b"".join(pack_record(WAKE + kind, kind) for kind in range(kinds))) + sound(0, kinds)
    reader = TraceReader(io.BytesIO(data), chunk_bytes=1 << 12)
    tscs = np.concatenate([batch.tsc for batch in reader])
    assert tscs.tolist() == list(range(kinds + 1))
    assert reader.shapes.size == MAX_SHAPES
    assert reader.record_counts[0, OVERFLOW_SHAPE] == kinds + 1 - (MAX_SHAPES - 1)


def test_guests_may_choose_any_event_id() -> None:
    content = b"".join(pack_record(0x0800_0000 | kind, kind, (kind,)) for kind in range(6000))
    reading = assert_same(pack_window(0, content))
    assert reading.reader.shapes.size == 2


# --- memory ------------------------------------------------------------------------------------


def resident_bytes() -> int:
    """Return the resident memory of this process in bytes."""
    try:
        pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    except OSError:
        pytest.skip("needs /proc")
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize("keep", [0, 5])
def test_memory_does_not_grow_with_the_trace(keep: int) -> None:
    read_end, write_end = os.pipe()

    def write() -> None:
        with os.fdopen(write_end, "wb") as pipe:
            repeat(SAMPLES[1], pipe, min_bytes=300 << 20)

    thread = threading.Thread(target=write)
    before = most = resident_bytes()
    records = 0
    thread.start()
    with os.fdopen(read_end, "rb", buffering=0) as pipe:
        reader = TraceReader(pipe, keep=keep)
        for batch in reader:
            records += len(batch)
            most = max(most, resident_bytes())
    thread.join()
    assert reader.facts.bytes_read >= 300 << 20
    assert reader.record_counts.sum() == records
    assert reader.facts.late_records == 0
    assert most - before < 300 << 20


def test_the_sum_of_holes_stops_at_62_bits() -> None:
    sums, found = np.zeros(loops.HOLE_SUMS, np.int64), np.zeros((2, 3), np.int64)
    for begin in range(3):
        loops._count_hole(sums, found, 0, begin, begin + (3 << 60))  # type: ignore[no-untyped-call]
    assert sums[[loops.HOLE_COUNT, loops.HOLE_CYCLES]].tolist() == [3, 1 << 62]
