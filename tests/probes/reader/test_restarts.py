"""The TSC restarts: the reader splits the trace there as the reference reader does, and nowhere else."""

from __future__ import annotations

import io
import os
import random
import threading
from pathlib import Path

import numpy as np
import pytest

from oracle import reader as oracle
from oracle.reading import SAMPLES, Rows, fast, rows_of, sample_bytes, slow, without_fillers
from xtrace.probes.format import LOST_RECORDS, WRAP_BUFFER
from xtrace.probes.reader.reader import CHUNK_BYTES, TraceReader
from xtrace.probes.reader.restarts import MAX_RESTARTS
from xtrace.probes.reader.writer import pack_record, pack_window

WAKE = 0x28004
CHUNKS = (64, 1 << 12, CHUNK_BYTES)


def window(pcpu: int, *tscs: int | None) -> bytes:
    """Return a window with one record per TSC, untimed for None."""
    return pack_window(pcpu, b"".join(pack_record(WAKE, tsc, (1, 2)) for tsc in tscs))


def rounds(pcpus: int, begin: int, end: int, step: int = 10) -> list[bytes]:
    """Return windows of all pCPUs, round by round, with three records each."""
    return [
        window(pcpu, tsc + pcpu, tsc + pcpu + 3, tsc + pcpu + 6)
        for tsc in range(begin, end, step)
        for pcpu in range(pcpus)
    ]


def places(data: bytes, chunk_bytes: int = CHUNK_BYTES) -> list[tuple[int, int, int, int]]:
    """Return offset, pCPU, TSC before and after of each restart; both readers agree on them and the rows."""
    trace = oracle.read(data)
    reader = TraceReader(io.BytesIO(data), chunk_bytes=chunk_bytes, keep=2)
    parts: list[Rows] = []
    segments: list[int] = []
    for batch in reader:
        parts.append(without_fillers(rows_of(batch)))
        segments += [batch.segment] * len(parts[-1])
    rows, twins = np.concatenate(parts), slow(trace.records)
    numbers = np.array(segments)
    assert segments == [record.segment for record in trace.records]
    # After a TSC far ahead the merge does not wait, so that equal TSCs may be out of order too.
    if reader.facts.late_records or (twins[:, 0] >= 1 << 40).any():
        order = np.lexsort((rows[:, 1], numbers))
        rows, twins = rows[order], twins[np.lexsort((twins[:, 1], numbers))]
    assert np.array_equal(rows, twins)
    found = [(r.offset, r.pcpu, r.before_tsc, r.after_tsc) for r in reader.facts.restarts]
    assert found == [(r.offset, r.pcpu, r.before, r.after) for r in trace.restarts]
    return found


@pytest.mark.parametrize("chunk_bytes", CHUNKS)
@pytest.mark.parametrize("pcpus", [1, 2, 5])
def test_a_file_appended_to_a_later_one(pcpus: int, chunk_bytes: int) -> None:
    late, early = b"".join(rounds(pcpus, 1000, 1100)), b"".join(rounds(pcpus, 100, 300))
    assert places(late + early, chunk_bytes) == [(len(late), 0, 1096 + pcpus - 1, 100)]
    assert places(early + late, chunk_bytes) == []
    facts = fast(late + early, chunk_bytes=chunk_bytes).reader.facts
    assert (facts.late_records, facts.backward_tsc_count) == (0, 0)
    assert len(places(late + early + late + early + early, chunk_bytes)) == 3


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda path: path.name.split(".")[0])
def test_both_segments_are_those_of_the_two_files(sample: Path) -> None:
    data = sample_bytes(sample)[: 1 << 18]
    offsets = [each.offset for each in oracle.frame(data).windows]
    middle = offsets[len(offsets) // 2]
    # The end of the sample is cut: the window there ends where the next one begins.
    whole = data[: offsets[-1]]
    swapped = whole[middle:] + whole[:middle]
    parts = [oracle.read(whole[middle:]), oracle.read(whole[:middle])]
    alone = np.concatenate([slow(part.records) for part in parts])
    assert [place[0] for place in places(swapped)] == [len(whole) - middle]
    for chunk_bytes in CHUNKS:
        assert np.array_equal(fast(swapped, chunk_bytes=chunk_bytes).rows, alone)


@pytest.mark.parametrize("chunk_bytes", CHUNKS)
def test_a_suspend_in_the_middle_of_windows(chunk_bytes: int) -> None:
    """Each pCPU's window has records of before and of after; an idle one has none of after."""
    before = b"".join(rounds(4, 1000, 1050))
    after = b"".join(rounds(4, 60, 100))
    mixed = [
        window(0, 1050, 1055, None, 20, None, 25),
        window(1, 1051, 18, 30),
        window(2, 1060, 1062),
        window(3, 40, 41),
    ]
    data = before + b"".join(mixed) + after
    header, timed, untimed = 12, 20, 12
    assert places(data, chunk_bytes) == [(len(before) + header + 2 * timed + untimed, 0, 1062, 18)]
    assert [(record.pcpu, record.tsc) for record in oracle.read(data).segments[1] if record.tsc < 60] == [
        (1, 18),
        (0, 20),
        (0, 20),
        (0, 25),
        (1, 30),
        (3, 40),
        (3, 41),
    ]


def test_windows_of_all_records() -> None:
    """Without an earlier window, a window is compared with its own beginning."""
    data = window(0, 1000, 1001, 1002, 5, 6) + window(1, 1000, 1003, 7, 8)
    assert places(data) == [(12 + 60, 0, 1003, 5)]
    assert places(window(0, 1000, 1001, 5, 6)) == [(12 + 40, 0, 1001, 5)]


@pytest.mark.parametrize("pcpus", [1, 2, 3])
@pytest.mark.parametrize("chunk_bytes", [64, CHUNK_BYTES])
def test_one_damaged_tsc_is_no_restart(pcpus: int, chunk_bytes: int) -> None:
    for size in (1, 2, 3):
        tscs = [(pcpu, 1000 + 10 * number) for number in range(3 * size) for pcpu in range(pcpus)]
        for place in range(len(tscs)):
            for wrong in (1, 999_999, (1 << 63) + 5):
                each = [list(entry) for entry in tscs]
                each[place][1] = wrong
                windows = [
                    window(pcpu, *[tsc for number, tsc in each if number == pcpu][first : first + size])
                    for first in range(0, 3 * size, size)
                    for pcpu in range(pcpus)
                ]
                assert places(b"".join(windows), chunk_bytes) == [], (size, place, wrong)


def test_a_restart_of_one_pcpu_alone_is_none() -> None:
    skewed = [
        window(pcpu, *(tsc + 500 * (pcpu == 1) * (-1 if tsc > 1050 else 1) for tsc in range(at, at + 10, 3)))
        for at in range(1000, 1100, 10)
        for pcpu in range(3)
    ]
    assert places(b"".join(skewed)) == []
    assert fast(b"".join(skewed)).reader.facts.backward_tsc_count > 0


@pytest.mark.parametrize("skew", [3, 50, 5000])
def test_skewed_pcpus_are_no_restart(skew: int) -> None:
    windows = [
        window(pcpu, *(10_000 + tsc + skew * (-1) ** pcpu for tsc in (at, at + 4)))
        for at in range(0, 500, 10)
        for pcpu in range(4)
    ]
    assert places(b"".join(windows), 64) == []


def test_what_a_restart_needs() -> None:
    high = window(0, 100, 110) + window(0, 120, 130)
    assert places(high + window(0, 10, 20)) == [(len(high), 0, 130, 10)]
    assert places(high + window(0, 10)) == []  # may be damage
    assert places(high + window(0, 10) + window(0, 20)) == [(len(high), 0, 130, 10)]
    assert places(high + window(0, 10) + window(0, 140)) == []
    assert places(high + window(0, 119, 120)) == []  # not before the window before
    assert places(high + window(0, 10, 20) + window(1, 15)) == [(len(high), 0, 130, 10)]
    assert places(high + window(0, 10, 20) + window(1, 140)) == []
    assert places(high + window(0, None) + window(0, 10, 20) + window(0, None)) == [
        (len(high) + 24, 0, 130, 10)
    ]
    assert places(window(0, None, None)) == places(b"") == []


def test_losses_and_fillers_around_a_restart() -> None:
    high = window(0, 1000, 1010) + window(1, 1005, 1020)
    filler = pack_record(WRAP_BUFFER, 7, (1,))
    loss = pack_record(LOST_RECORDS, 50, (3, 0, 2, 0))
    low = pack_window(0, filler + loss + pack_record(WAKE, None, (1, 2)) + filler) + window(1, 40, 60)
    assert places(high + low) == [(len(high), 0, 1020, 40)]


def test_a_restart_whose_first_window_is_the_first_of_a_chunk() -> None:
    high, low = b"".join(rounds(2, 1000, 1200)), b"".join(rounds(2, 10, 200))
    for chunk_bytes in (len(high), len(high) // 2, len(high) - 12, len(high) + 12, len(high) + 4):
        assert places(high + low, chunk_bytes) == [(len(high), 0, 1197, 10)]


def test_a_pipe() -> None:
    data = b"".join(rounds(2, 1000, 1200) + rounds(2, 10, 200) + rounds(2, 5, 9))
    read_end, write_end = os.pipe()

    def write() -> None:
        with os.fdopen(write_end, "wb", buffering=0) as pipe:
            for at in range(0, len(data), 100):
                pipe.write(data[at : at + 100])

    thread = threading.Thread(target=write)
    thread.start()
    with os.fdopen(read_end, "rb", buffering=0) as pipe:
        reader = TraceReader(pipe)
        segments = {batch.segment for batch in reader if len(batch)}
    thread.join()
    assert segments == {0, 1, 2}
    assert len(reader.facts.restarts) == 2


def test_there_is_a_limit() -> None:
    data = b"".join(rounds(1, 10_000 - 60 * number, 10_030 - 60 * number)[0] for number in range(150))
    assert len(places(data)) == MAX_RESTARTS
    assert fast(data).reader.facts.backward_tsc_count > 0


def test_the_end_of_the_file_is_counted_once() -> None:
    data = b"".join(rounds(2, 1000, 1100) + rounds(2, 10, 100))
    for cut in range(1, 60):
        reading = fast(data[:-cut])
        trace = oracle.read(data[:-cut])
        facts = reading.reader.facts
        assert facts.missing_bytes + facts.tail_bytes == trace.missing_bytes + (len(data) - cut) % 4


@pytest.mark.parametrize("seed", range(8))
def test_random_windows(seed: int) -> None:
    """Windows whose TSCs jump in every way."""
    random_ = random.Random(seed)
    for _ in range(120):
        pcpus, clock = random_.choice((1, 1, 2, 3)), 1000
        windows = []
        for _ in range(random_.randrange(1, 25)):
            for pcpu in range(pcpus):
                tscs: list[int | None] = []
                for _ in range(random_.choice((0, 1, 1, 2, 3, 5))):
                    clock += random_.choice((0, 1, 1, 7))
                    jump = random_.random()
                    if jump < 0.02:
                        clock = max(clock + random_.choice((-900, -300, -40, 400)), 1)
                    damage = random_.choice((0, 0, 1, 1 << 40, 1 << 63)) if random_.random() < 0.01 else None
                    tscs.append(None if jump > 0.9 else damage or clock)
                if random_.random() < 0.95:
                    windows.append(window(pcpu, *tscs))
        places(b"".join(windows), random_.choice(CHUNKS))


@pytest.mark.parametrize("chunk_bytes", [1 << 10, CHUNK_BYTES])
def test_a_round_of_many_pcpus_that_does_not_fit_into_a_chunk(chunk_bytes: int) -> None:
    order = sorted(random.Random(3).sample(range(16384), 400))
    high = b"".join(window(pcpu, 50_000 + pcpu, 50_001 + pcpu) for pcpu in order)
    low = b"".join(window(pcpu, 10 + pcpu, 11 + pcpu) for pcpu in order)
    found = [(len(high), order[0], 50_001 + order[-1], 10 + order[0])]
    assert places(high + low, chunk_bytes) == found
    assert places(high + low + low, chunk_bytes) == found
