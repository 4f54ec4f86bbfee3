"""Counting a growing trace gives what the slow reader counts in the whole."""

from __future__ import annotations

import random
import struct
from pathlib import Path

import pytest

from oracle.reader import read
from peer.samples import UNPACK, sample_files
from xtrace.probes.reader.writer import pack_record, pack_window
from xtrace.probes.recording.backends.record_counter import RecordCounter

LOST_RECORDS = 0x1F001
LOST_HEADER = bytes.fromhex("01f001c0")


def part_of(data: bytes) -> bytes:
    """Return the first windows and those with losses: the slow reader would take long over all of them."""
    at = 0
    part = b""
    while at < len(data):
        end = at + 12 + struct.unpack_from("<I", data, at + 8)[0]
        if len(part) < 60_000 or LOST_HEADER in data[at:end]:
            part += data[at:end]
        at = end
    return part


def counted(data: bytes, sizes: list[int]) -> RecordCounter:
    counter = RecordCounter()
    at = 0
    for size in sizes:
        counter.feed(data[at : at + size])
        at += size
    counter.feed(data[at:])
    return counter


@pytest.mark.parametrize("packed", sample_files(), ids=lambda path: path.name.split(".")[0])
def test_samples(packed: Path) -> None:
    data = part_of(UNPACK[packed.suffix](packed.read_bytes()))
    told = read(data)
    lost = [record.words[0] for record in told.records if record.event == LOST_RECORDS]
    chance = random.Random(packed.name)
    for most in (1 << 30, 1 << 16, 997):
        sizes = [chance.randrange(1, most) for _ in range(len(data) // (most // 2) + 2)]
        found = counted(data, sizes)
        assert bool(lost) == ("lost" in packed.name)
        assert (found.records, found.lost, found.gaps) == (len(told.records), sum(lost), len(lost))
        assert not found.fault


def test_whole_records_of_a_window_that_was_cut_are_counted() -> None:
    lost = pack_record(LOST_RECORDS, 1 << 40, [7, 1, 2, 3])
    wrap = pack_record(0x1F002, None, [])
    records = [pack_record(0x28004, 1 << 40, [1, 2]), lost, wrap, pack_record(0x21001, None, [5]), lost] * 3
    data = pack_window(0, records[0]) + pack_window(1, b"".join(records))
    ends = [12 + len(records[0]) + 12]
    for record in records:
        ends.append(ends[-1] + len(record))
    for cut in range(len(data) + 1):
        counter = counted(data[:cut], [5, 40])
        counter.finish()
        counter.finish()
        whole = [record for record, end in zip(records, ends[1:], strict=True) if end <= cut]
        first = int(cut >= 12 + len(records[0]))
        assert counter.records == first + sum(record != wrap for record in whole)
        assert (counter.lost, counter.gaps) == (7 * whole.count(lost), whole.count(lost))
        assert not counter.fault


def test_payload_words_that_look_like_a_loss_or_a_filler() -> None:
    words = [0xC001F001, 0x0001F002, 0x8001F002]
    record = pack_record(0x28004, 0x0001F002_0001F001, words)
    data = pack_window(0, record * 100)
    for cut in range(0, 200, 7):
        found = counted(data, [cut])
        assert (found.records, found.lost) == (100, 0)


def test_a_cut_record_counts_once_it_is_whole() -> None:
    record = pack_record(0x28004, 5, [1, 2])
    window = pack_window(0, record * 3)
    counter = RecordCounter()
    counter.feed(window[:-1])
    before = counter.records
    counter.feed(window[-1:])
    assert before < counter.records == 3


def test_bytes_that_are_not_a_window_are_reported_with_their_offset() -> None:
    window = pack_window(3, pack_record(0x28004, 5, [1, 2]))
    for bad in (b"\0" * 12, struct.pack("<3I", 0x2001F003, 1 << 20, 4), struct.pack("<3I", 0x2001F003, 0, 3)):
        found = counted(window + bad + window, [])
        assert found.records == 1
        assert found.fault == f"no window begins at byte {len(window)}"


def test_groups_are_those_of_the_first_records_of_windows() -> None:
    wake, trap = pack_record(0x28004, 1 << 40, [1, 2]), pack_record(0x201003, 1 << 40, [5])
    data = pack_window(0, wake + trap) + pack_window(1, trap) + pack_window(0, b"")
    for sizes in ([len(data)], [1] * len(data)):
        assert counted(data, sizes).groups <= {0x28, 0x201}
    assert counted(data, [len(data)]).groups == {0x28, 0x201}
