"""Cut, rearrange and damage real traces in every way."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from oracle import reader as oracle
from oracle.reading import SAMPLES, sample_bytes
from xtrace.probes.format import LOST_RECORDS, MAX_PCPUS, MAX_WINDOW_BYTES, WINDOW_HEADER, WRAP_BUFFER
from xtrace.probes.reader.writer import pack_record, pack_window

_LARGEST_BYTES = 8 << 10
WORDS = (
    0, 1, 4, 0xFFFF_FFFF, 0x7FFF_FFFF, 0x8000_0000,
    WINDOW_HEADER, MAX_PCPUS - 1, MAX_PCPUS, MAX_WINDOW_BYTES, MAX_WINDOW_BYTES + 4,
    0xC000_0000 | LOST_RECORDS, LOST_RECORDS, 0xF000_0000 | WRAP_BUFFER, WRAP_BUFFER, 0x1F003,
    0x9000_0000 | 0x21011, 0x9000_0000 | 0x21101, 0xA002_8004, 0x0800_0001, 0x8008_1001, 0xB008_1102,
    0x7FFF_0000, 0x8000_0000 | 0x7FFF, 0x0000_7FFF,
)  # fmt: skip


@cache
def real_windows() -> tuple[tuple[tuple[int, tuple[bytes, ...]], ...], ...]:
    """Return some windows of each sample, as (pCPU, the first records in it)."""
    return tuple(tuple(_some_windows(sample_bytes(path))) for path in SAMPLES)


def _some_windows(data: bytes) -> Iterator[tuple[int, tuple[bytes, ...]]]:
    lost = struct.pack("<I", 0xC000_0000 | LOST_RECORDS)
    at = number = 0
    while at < len(data):
        pcpu, size = struct.unpack_from("<II", data, at + 4)
        content = data[at + 12 : at + 12 + size]
        at += 12 + size
        number += 1
        found = content.find(lost)
        if found < 0 and number % 6 and number > 8:
            continue
        window = oracle.frame(pack_window(pcpu, content)).windows[0]
        begins = [record.offset - 12 for record in window.records] + [size]
        first = max(next((i for i, begin in enumerate(begins) if begin >= found), 0) - 300, 0)
        pairs = list(zip(begins[first : first + 2000], begins[first + 1 : first + 2001], strict=False))
        yield pcpu, tuple(content[begin:end] for begin, end in pairs)


@cache
def real_offsets(path: Path) -> tuple[int, ...]:
    """Return the offsets of a sample's windows."""
    data, at, offsets = sample_bytes(path), 0, []
    while at < len(data):
        offsets.append(at)
        at += 12 + int(struct.unpack_from("<I", data, at + 8)[0])
    return tuple(offsets)


def real_slice(random_: random.Random) -> bytes:
    """Return some bytes of a real trace, starting at a window."""
    path = random_.choice(SAMPLES)
    begin = random_.choice(real_offsets(path))
    return sample_bytes(path)[begin : begin + int(random_.triangular(200, _LARGEST_BYTES, 800))]


def real_rounds(random_: random.Random) -> bytes:
    """Return real records in smaller windows, a few rounds of them, possibly from many pCPUs."""
    windows = random_.choice(real_windows())
    at = random_.randrange(len(windows))
    pcpus = random_.choice((1, 2, 2, 3, 8))
    spread = random_.choice((1,) * 14 + (63, 2000))
    sources = [windows[(at + pcpu) % len(windows)][1] for pcpu in range(pcpus)]
    next_ = [random_.randrange(max(len(source) - 100, 1)) for source in sources]
    out = bytearray()
    most = random_.choice((200, 500, 1000, 4000, _LARGEST_BYTES))
    while len(out) < most:
        for pcpu, source in enumerate(sources):
            count = int(random_.expovariate(0.1))
            out += pack_window(pcpu * spread, b"".join(source[next_[pcpu] : next_[pcpu] + count]))
            next_[pcpu] += count
    return bytes(out[: _LARGEST_BYTES + random_.randrange(64)])


Mutation = Callable[[random.Random, bytearray], None]


def flip_bits(random_: random.Random, data: bytearray) -> None:
    for _ in range(random_.choice((1, 1, 2, 8))):
        data[random_.randrange(len(data))] ^= 1 << random_.randrange(8)


def put_word(random_: random.Random, data: bytearray) -> None:
    at = random_.randrange(len(data)) & ~3
    data[at : at + 4] = struct.pack("<I", random_.choice(WORDS))


def put_random_word(random_: random.Random, data: bytearray) -> None:
    at = random_.randrange(len(data)) & ~3
    data[at : at + 4] = random_.randbytes(4)


def spoil_header(random_: random.Random, data: bytearray) -> None:
    """Put a special value into a window's header, or next to it."""
    at = data.find(struct.pack("<I", WINDOW_HEADER), random_.randrange(len(data)))
    at = max(at, 0) + 4 * random_.randrange(5)
    data[at : at + 4] = struct.pack("<I", random_.choice(WORDS))


def insert_header(random_: random.Random, data: bytearray) -> None:
    pcpu = random_.choice((0, 1, 2, 2, 3, 77, MAX_PCPUS, random_.getrandbits(32)))
    size = random_.choice((0, 4, 5, 12, 400, len(data), MAX_WINDOW_BYTES, random_.getrandbits(32)))
    at = random_.randrange(len(data) + 1) & ~3
    data[at:at] = struct.pack("<III", WINDOW_HEADER, pcpu, size)


def insert_lost(random_: random.Random, data: bytearray) -> None:
    tsc, first = (random_.choice((0, 1, 1 << 40, 1 << 62, 1 << 63, (1 << 64) - 1)) for _ in range(2))
    words = (random_.getrandbits(32), random_.getrandbits(32), first & 0xFFFF_FFFF, first >> 32)
    at = random_.randrange(len(data) + 1) & ~3
    data[at:at] = pack_record(LOST_RECORDS, tsc, words)


def delete(random_: random.Random, data: bytearray) -> None:
    at = random_.randrange(len(data))
    del data[at : at + random_.choice((1, 2, 4, 4, 8, 12, 64, 400))]


def insert(random_: random.Random, data: bytearray) -> None:
    at = random_.randrange(len(data) + 1)
    data[at:at] = random_.randbytes(random_.choice((1, 3, 4, 4, 8, 12, 64)))


def repeat_block(random_: random.Random, data: bytearray) -> None:
    at, size = random_.randrange(len(data)) & ~3, random_.choice((4, 12, 24, 100, 800))
    data[at:at] = data[at : at + size] * random_.choice((1, 1, 2, 9))


def move_block(random_: random.Random, data: bytearray) -> None:
    at, size = random_.randrange(len(data)) & ~3, random_.choice((4, 12, 24, 100, 800))
    block = data[at : at + size]
    del data[at : at + size]
    at = random_.randrange(len(data) + 1) & ~3
    data[at:at] = block


def truncate(random_: random.Random, data: bytearray) -> None:
    del data[random_.randrange(len(data)) :]


MUTATIONS: tuple[Mutation, ...] = (
    flip_bits, put_word, put_random_word, spoil_header, insert_header, insert_lost, delete, insert,
    repeat_block, move_block, truncate,
)  # fmt: skip


def case_of(random_: random.Random) -> bytes:
    """Return the bytes of one case."""
    data = bytearray(random_.choice((real_slice, real_rounds))(random_))
    for _ in range(random_.randrange(7)):
        if data:
            random_.choice(MUTATIONS)(random_, data)
    return bytes(data)
