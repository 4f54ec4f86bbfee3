"""Files beyond 4 GiB, and 100 GB by arithmetic: offsets and counts are right, time and memory bounded."""

from __future__ import annotations

import os
import resource
import time
from pathlib import Path

import pytest

from oracle.intact import reader_of, whole
from oracle.reading import taken
from xtrace.probes.format import MAX_WINDOW_BYTES, WINDOW_HEADER, WINDOW_HEADER_BYTES
from xtrace.probes.intact import compressed
from xtrace.probes.intact.damage import Damage
from xtrace.probes.intact.whole_windows import WholeWindows
from xtrace.probes.reader.reader import open_trace
from xtrace.probes.reader.survey import survey
from xtrace.probes.reader.writer import pack_record, pack_window

GIB = 1 << 30
WAKE = 0x28004


def window(pcpu: int, *tscs: int) -> bytes:
    return pack_window(pcpu, b"".join(pack_record(WAKE, tsc, (1, 0)) for tsc in tscs))


@pytest.mark.parametrize("is_compiled", [True, False])
def test_offsets_after_a_hundred_gigabytes(is_compiled: bool) -> None:
    begin = window(0, 10, 20) + window(1, 11, 21)
    windows = WholeWindows(is_compiled=is_compiled)
    windows.feed(begin)
    given = windows.take()
    windows.release()
    windows.accept(100 * GIB - len(given), 25_000_000)
    windows.last[0] = windows.last[1] = windows.greatest[0] = 1 << 47
    at = 100 * GIB
    lost = window(0, (1 << 47) + 5)[:-4]
    text = b"write failed: No space left on device\n"
    tail = window(1, (1 << 47) + 9) + text + window(0, (1 << 47) + 30, (1 << 47) + 40)
    windows.feed(lost + tail)
    windows.end()
    found = windows.take()
    assert found == window(1, (1 << 47) + 9) + window(0, (1 << 47) + 30, (1 << 47) + 40)
    place = at + len(lost) + len(window(1, 9))
    assert windows.damages == [
        Damage(at, "no window follows where this one should end", len(lost)),
        Damage(place, "word 0x74697277 instead of a window header (text)", len(text)),
    ]
    assert (windows.skipped_bytes, windows.windows) == (len(lost) + len(text), 25_000_003)
    assert windows.taken_bytes == at + len(lost + tail)
    assert windows.given_bytes == windows.taken_bytes - windows.skipped_bytes
    assert windows.offset_of(windows.given_bytes - 1) == windows.taken_bytes - 1
    assert windows.offset_of(at) == at + len(lost)


def test_a_hundred_gigabytes_of_windows_are_surveyed_at_once(tmp_path: Path) -> None:
    """A sparse file: the records of all windows but the first and the last are zeros."""
    path = tmp_path / "trace"
    first, last = window(0, 10, 20), window(0, 1 << 50, (1 << 50) + 10)
    count = 400
    with path.open("wb") as file:
        file.write(first)
        for number in range(count):
            file.seek(len(first) + number * (WINDOW_HEADER_BYTES + MAX_WINDOW_BYTES))
            file.write(WINDOW_HEADER.to_bytes(4, "little") + (0).to_bytes(4, "little"))
            file.write(MAX_WINDOW_BYTES.to_bytes(4, "little"))
        file.seek(len(first) + count * (WINDOW_HEADER_BYTES + MAX_WINDOW_BYTES))
        file.write(last)
    size = path.stat().st_size
    assert size > 100_000_000_000 > path.stat().st_blocks * 512 * 1000
    began = time.process_time()
    found = survey(str(path))
    assert time.process_time() - began < 2.0
    assert found.size_bytes == found.headers.seen_bytes == size
    assert (len(found.headers.windows), found.headers.is_whole, found.headers.fault) == (count + 2, True, "")
    assert found.headers.windows[-1].offset == size - len(last)
    assert (found.first_tsc, found.last_tsc) == (10, (1 << 50) + 10)


@pytest.fixture
def allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read files with more holes than any recording has, as --max-input does."""
    monkeypatch.setattr(compressed._limit, "plain_bytes", 8 * GIB)


def test_zeros_in_the_middle_are_passed_over_as_bytes(tmp_path: Path, allowed: None) -> None:
    """As many as show how long 5 GiB would take; the nightly test has a file of that size."""
    _check_sparse(tmp_path / "trace", GIB // 4, limit_s=10.0)


@pytest.mark.nightly
def test_a_sparse_file_beyond_4_gib(tmp_path: Path, allowed: None) -> None:
    _check_sparse(tmp_path / "trace", 5 * GIB, limit_s=200.0)


def _check_sparse(path: Path, hole_bytes: int, *, limit_s: float) -> None:
    before = b"".join(window(pcpu, tsc, tsc + 5) for tsc in range(10, 1000, 10) for pcpu in range(3))
    after = b"".join(window(pcpu, tsc, tsc + 5) for tsc in range(2000, 3000, 10) for pcpu in range(3))
    with path.open("wb") as file:
        file.write(before)
        file.seek(len(before) + hole_bytes)
        file.write(after)
    expected = taken(reader_of(before + bytes(4096) + after)).rows
    began, resident = time.process_time(), _resident_bytes()
    with open_trace(path) as reader:
        reading = taken(reader)
    facts = reading.reader.facts
    assert reading.rows.tolist() == expected.tolist()
    reason = "word 0x00000000 instead of a window header (zeros)"
    assert facts.damages == [Damage(len(before), reason, hole_bytes)]
    assert facts.bytes_read == path.stat().st_size == len(before) + hole_bytes + len(after)
    assert time.process_time() - began < limit_s
    assert _resident_bytes() - resident < 64 << 20
    assert whole(before + bytes(4096) + after)[1].windows == facts.windows


def _resident_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def test_sparse_files_are_sparse_here(tmp_path: Path) -> None:
    """Otherwise the tests above fill the disk."""
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        os.truncate(file.fileno(), GIB)
    assert path.stat().st_blocks == 0
