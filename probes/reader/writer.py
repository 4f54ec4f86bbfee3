"""Write xentrace files, for tests and benchmarks.

``TraceWriter`` models both halves of a recording: Xen's per-pCPU rings
(xen/common/trace.c: fillers at the end of the ring, records dropped while the ring is
full, LOST_RECORDS once there is room) and xentrace's polling loop
(tools/xentrace/xentrace.c: one window per pCPU and round, the circular buffer of
-M).  ``repeat`` makes a long trace out of a short real one.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import numpy.typing as npt

from xtrace.probes.errors import TraceError
from xtrace.probes.format import (
    EVENT_MASK,
    EXTRA_MASK,
    EXTRA_SHIFT,
    LOST_RECORDS,
    MAX_PCPUS,
    MAX_WINDOW_BYTES,
    RING_HEADER_BYTES,
    RING_PAGE_BYTES,
    TIMED_BIT,
    WINDOW_HEADER,
    WINDOW_HEADER_BYTES,
    WORD_BYTES,
    WRAP_BUFFER,
)
from xtrace.probes.reader.ahead import Source
from xtrace.probes.reader.sources import open_source, read_into
from xtrace.probes.xen_abi import IDLE_DOMAIN

#: xentrace asks for 32 pages per pCPU by default.
DEFAULT_RING_BYTES = 32 * RING_PAGE_BYTES - RING_HEADER_BYTES

_MAX_TSC = 1 << 63
_LOST_WORDS = 4
_LOST_BYTES = 28
_LONGEST_RECORD = 40

#: Timed events whose extra words 1 and 2 are the low halves of TSCs: TRC_TRACE_IRQ
#: (4.0 and 4.1) and TRC_HW_IRQ_HANDLED.  A 0 means that the time was not taken.
_IRQ_EVENTS = frozenset({0x1F004, 0x802008})
_IRQ_WORDS = 3

#: RUNSTATE_CHANGE is 0x21001 | old << 8 | new << 4; old is 0 for a vCPU that ran on this pCPU.
_RUNNING_TO = 0x21001
_RUNSTATE_NEW = 0x0F0
_CONTINUE_RUNNING = 0x21002

#: Approximate size of a write; larger ones only waste cache.
_BLOCK_BYTES = 16 << 20
_READ_BYTES = 1 << 20


def pack_record(event: int, tsc: int | None, words: Sequence[int] = ()) -> bytes:
    """Return one record: header word, TSC unless it is None, extra words.

    Raises:
        ValueError: more than 7 words, or a number that does not fit in its field.
    """
    if len(words) > EXTRA_MASK:
        raise ValueError(f"a record holds at most {EXTRA_MASK} extra words, not {len(words)}")
    if not 0 <= event <= EVENT_MASK:
        raise ValueError(f"event id {event:#x} does not fit in 28 bits")
    header = event | len(words) << EXTRA_SHIFT
    try:
        if tsc is None:
            return struct.pack(f"<I{len(words)}I", header, *words)
        return struct.pack(f"<IQ{len(words)}I", header | TIMED_BIT, tsc, *words)
    except struct.error as error:
        raise ValueError(f"event {event:#x}: a TSC has 64 bits and a word 32: {error}") from None


def pack_window(pcpu: int, content: bytes) -> bytes:
    """Return ``content`` as one window of ``pcpu``, after its CPU_CHANGE record."""
    return struct.pack("<III", WINDOW_HEADER, pcpu, len(content)) + content


@dataclass(slots=True)
class _Ring:
    """One pCPU's ring.

    ``produced`` and ``consumed`` only grow; Xen keeps them modulo twice the
    size of the ring, which also distinguishes a full ring from an empty one.
    """

    content: bytearray
    produced: int = 0
    consumed: int = 0
    lost: int = 0
    lost_first_tsc: int = 0
    last_tsc: int = 0
    current: tuple[int, int] = (IDLE_DOMAIN, 0)

    @property
    def unread(self) -> int:
        return self.produced - self.consumed

    @property
    def free(self) -> int:
        return len(self.content) - self.unread

    @property
    def to_wrap(self) -> int:
        return len(self.content) - self.produced % len(self.content)

    def append(self, record: bytes) -> None:
        begin = self.produced % len(self.content)
        self.content[begin : begin + len(record)] = record
        self.produced += len(record)

    def take(self) -> bytes:
        """Return all unread bytes and mark them as read."""
        begin = self.consumed % len(self.content)
        straight = self.content[begin : begin + self.unread]
        taken = bytes(straight + self.content[: self.unread - len(straight)])
        self.consumed = self.produced
        return taken


@dataclass(slots=True)
class _MemoryRing:
    """The circular buffer of xentrace -M: whole windows, the oldest dropped first."""

    size: int
    windows: deque[tuple[int, bytes]] = field(default_factory=deque)
    used: int = 0

    def add(self, pcpu: int, window: bytes) -> None:
        if len(window) > self.size:
            raise ValueError(f"a window of {len(window)} bytes does not fit in a buffer of {self.size}")
        free = self.size - self.used
        if len(window) > free:
            self._make_room(len(window) - free)
        self.windows.append((pcpu, window))
        self.used += len(window)

    def _make_room(self, need: int) -> None:
        last_pcpu = -1
        while need > 0:
            last_pcpu, dropped = self._drop()
            need -= dropped
        # Drop the rest of that round too, so that the file starts with a low pCPU.
        while self.windows and self.windows[0][0] > last_pcpu:
            last_pcpu, _ = self._drop()

    def _drop(self) -> tuple[int, int]:
        pcpu, window = self.windows.popleft()
        self.used -= len(window)
        return pcpu, len(window)


class TraceWriter:
    """Put records into per-pCPU rings and poll them into a file, as Xen and xentrace do.

    Use it as a context manager or call ``close()``; ``out`` stays open.

    Attributes:
        written: records stored, without fillers and LOST_RECORDS.
        dropped: records dropped because the ring was full.
        fillers: WRAP_BUFFER records inserted.
    """

    def __init__(
        self,
        out: BinaryIO,
        pcpus: int,
        ring_bytes: int = DEFAULT_RING_BYTES,
        *,
        skew_cycles: Sequence[int] = (),
        memory_bytes: int | None = None,
    ) -> None:
        """Set up empty rings.

        Args:
            out: the stream to write windows to.
            pcpus: number of pCPUs, each with its own ring.
            ring_bytes: data bytes of a ring; Xen's are pages * 4096 - 8.
            skew_cycles: for each pCPU, how far its TSC is ahead of the times passed to ``write``.
            memory_bytes: size of the circular buffer of -M; with None each round is written at once.

        Raises:
            ValueError: an argument is out of bounds.
        """
        if not 0 < pcpus <= MAX_PCPUS:
            raise ValueError(f"the number of pCPUs must be 1 to {MAX_PCPUS}, not {pcpus}")
        if ring_bytes % WORD_BYTES or not 2 * _LONGEST_RECORD <= ring_bytes <= MAX_WINDOW_BYTES:
            raise ValueError(f"not a valid ring size: {ring_bytes} bytes")
        if skew_cycles and len(skew_cycles) != pcpus:
            raise ValueError(f"{len(skew_cycles)} skews for {pcpus} pCPUs")
        self.written = 0
        self.dropped = 0
        self.fillers = 0
        self._out = out
        self._skew = tuple(skew_cycles) or (0,) * pcpus
        self._memory = None if memory_bytes is None else _MemoryRing(memory_bytes)
        self._rings = [_Ring(bytearray(ring_bytes), current=(IDLE_DOMAIN, pcpu)) for pcpu in range(pcpus)]

    def __enter__(self) -> TraceWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def set_current(self, pcpu: int, domain: int, vcpu: int) -> None:
        """Set the vCPU that runs on ``pcpu``, for LOST_RECORDS.  Initially it is the idle vCPU."""
        self._rings[pcpu].current = (domain, vcpu)

    def unread_bytes(self, pcpu: int) -> int:
        """Return how many bytes of the ring of ``pcpu`` are unread (Xen raises VIRQ_TBUF at one half)."""
        return self._rings[pcpu].unread

    def pending_lost(self, pcpu: int) -> int:
        """Return how many dropped records of ``pcpu`` no LOST_RECORDS has reported yet."""
        return self._rings[pcpu].lost

    def write(self, pcpu: int, tsc: int | None, event: int, words: Sequence[int] = ()) -> bool:
        """Put a record into the ring of ``pcpu`` and return whether it fitted.

        Args:
            pcpu: the pCPU whose ring to use.
            tsc: cycles before skew, None for an untimed record.  What Xen stamps itself
                (fillers, LOST_RECORDS, the first loss) gets this time, or the pCPU's last
                time if this is None.
            event: event id, 28 bits.
            words: 0 to 7 extra words.  The TSC halves in HW_IRQ_HANDLED are skewed too.

        Raises:
            ValueError: a number does not fit in its field.
        """
        ring = self._rings[pcpu]
        skew = self._skew[pcpu]
        if tsc is not None:
            ring.last_tsc = tsc = tsc + skew
            if skew and event in _IRQ_EVENTS and len(words) == _IRQ_WORDS:
                words = (words[0], *((word + skew) & 0xFFFF_FFFF if word else 0 for word in words[1:]))
        record = pack_record(event, tsc, words)
        if _bytes_needed(ring, len(record)) > ring.free:
            if ring.lost == 0:
                ring.lost_first_tsc = ring.last_tsc
            ring.lost += 1
            self.dropped += 1
            return False
        if ring.lost:
            self._append(ring, _lost_record(ring))
            ring.lost = 0
        self._append(ring, record)
        self.written += 1
        return True

    def poll(self) -> None:
        """Write one round: a window for each pCPU with unread bytes, lowest pCPU first."""
        for pcpu, ring in enumerate(self._rings):
            if not ring.unread:
                continue
            window = pack_window(pcpu, ring.take())
            if self._memory is None:
                self._out.write(window)
            else:
                self._memory.add(pcpu, window)

    def close(self) -> None:
        """Write the last round, and the content of the circular buffer of -M.

        Dropped records that no LOST_RECORDS has reported stay unreported, as when
        xentrace stops tracing.
        """
        self.poll()
        if self._memory is not None:
            for _, window in self._memory.windows:
                self._out.write(window)
            self._memory.windows.clear()
            self._memory.used = 0

    def _append(self, ring: _Ring, record: bytes) -> None:
        if len(record) > ring.to_wrap:
            ring.append(_filler(ring))
            self.fillers += 1
        ring.append(record)


def _bytes_needed(ring: _Ring, size: int) -> int:
    """Return the bytes that a record of ``size`` needs, with LOST_RECORDS and fillers before it."""
    to_wrap = ring.to_wrap
    needed = size
    if ring.lost:
        needed += _LOST_BYTES
        if to_wrap < _LOST_BYTES:
            needed += to_wrap
            to_wrap = len(ring.content)
        to_wrap = to_wrap - _LOST_BYTES or len(ring.content)
    return needed + to_wrap if size > to_wrap else needed


def _filler(ring: _Ring) -> bytes:
    """Return the WRAP_BUFFER that fills the ring to its end, with the stale words in it."""
    to_wrap = ring.to_wrap
    timed = to_wrap // WORD_BYTES - 1 > EXTRA_MASK
    begin = len(ring.content) - to_wrap + WORD_BYTES + (8 if timed else 0)
    stale = ring.content[begin:]
    words = struct.unpack(f"<{len(stale) // WORD_BYTES}I", stale)
    return pack_record(WRAP_BUFFER, ring.last_tsc if timed else None, words)


def _lost_record(ring: _Ring) -> bytes:
    domain, vcpu = ring.current
    first = ring.lost_first_tsc
    words = (ring.lost, domain | vcpu << 16, first & 0xFFFF_FFFF, first >> 32)
    return pack_record(LOST_RECORDS, ring.last_tsc, words)


def repeat(
    source: Path, out: Path | BinaryIO, *, copies: int | None = None, min_bytes: int | None = None
) -> int:
    """Write a trace several times in a row, each copy later than the previous one.

    Copy k is the source with k spans added to each time in it; a span
    is the distance from the first TSC to the last one, plus the mean distance between
    timed records.  This shifts the TSCs of timed records, the first_tsc of LOST_RECORDS and
    tsc_in and tsc_out of HW_IRQ_HANDLED.  Times on Xen's own clock (the ticks of IDLE_ENTRY
    and IDLE_EXIT) stay.

    At a seam the vCPUs jump from their last state to their first, and xenalyze gives up
    at the first impossible runstate.  So an extra round separates two copies: on each pCPU
    one LOST_RECORDS for one record, whose blind interval lasts from the pCPU's last record
    in one copy to its first in the next, and which names the vCPU that runs there.  A
    repeated trace therefore has (copies - 1) more lost records per pCPU than copies of its source.

    Args:
        source: a complete, undamaged trace; it may be compressed.
        out: a file to create, or a stream to write to.
        copies: the number of copies, or None if ``min_bytes`` is given.
        min_bytes: write as many copies as needed for at least this size.

    Returns:
        The number of bytes written.

    Raises:
        OSError: a file cannot be read or written.
        TraceError: ``source`` is damaged, cut short, or has no timed record.
        ValueError: not exactly one of ``copies`` and ``min_bytes`` is given, no copy is asked for, or
            TSCs would need more than 63 bits.
    """
    with open_source(source) as stream:
        data = _read_all(stream, str(source))
    scan = _scan(data, str(source))
    seam = _seam(scan)
    count = _copies_wanted(len(data) + len(seam), len(seam), copies, min_bytes)
    if scan.last_tsc + count * scan.span >= _MAX_TSC:
        raise ValueError(f"{count} copies of {source} would need TSCs of more than 63 bits")
    unit = data + seam
    left = written = count * len(unit) - len(seam)
    with open(out, "wb") if isinstance(out, Path) else nullcontext(out) as target:
        for block in _shifted(unit, _find_times(unit), scan.span, count):
            target.write(block[:left])
            left -= len(block)
    return written


@dataclass(slots=True)
class _PcpuEnds:
    """The first and last TSC of a pCPU, and the vCPU that runs there first (None if unknown)."""

    first_tsc: int
    last_tsc: int
    current: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class _Scan:
    """What ``repeat`` needs to know about its source."""

    ends: dict[int, _PcpuEnds]
    last_tsc: int
    span: int


def _read_all(stream: Source, name: str) -> bytes:
    data = bytearray()
    chunk = bytearray(_READ_BYTES)
    while count := read_into(stream, memoryview(chunk), name):
        data += chunk[:count]
    return bytes(data)


def _copies_wanted(unit_bytes: int, seam_bytes: int, copies: int | None, min_bytes: int | None) -> int:
    if (copies is None) == (min_bytes is None):
        raise ValueError("give either copies or min_bytes")
    wanted = copies if min_bytes is None else -(-(min_bytes + seam_bytes) // unit_bytes)
    if wanted is None or wanted < 1:
        raise ValueError("write at least one copy")
    return wanted


def _shifted(unit: bytes, times: _Times, span: int, count: int) -> Iterator[memoryview]:
    """Yield ``count`` copies of ``unit`` in order, several per block.

    The block is built once; for each further one only its times are shifted, all by the same amount.
    """
    per_block = max(1, min(count, _BLOCK_BYTES // len(unit)))
    words = len(unit) // WORD_BYTES
    block = np.tile(np.frombuffer(unit, dtype="<u4"), per_block)
    copy = np.arange(per_block)[:, np.newaxis]
    low = (times.wide + copy * words).ravel()
    narrow = (times.narrow + copy * words).ravel()
    shift = copy.astype(np.uint64) * np.uint64(span)
    tsc = block[low].astype(np.uint64) | block[low + 1].astype(np.uint64) << np.uint64(32)
    tsc += np.broadcast_to(shift, (per_block, len(times.wide))).ravel()
    block[narrow] += np.broadcast_to(shift.astype(np.uint32), (per_block, len(times.narrow))).ravel()
    step = span * per_block
    for done in range(0, count, per_block):
        if done:
            tsc += np.uint64(step)
            block[narrow] += np.uint32(step & 0xFFFF_FFFF)
        block[low] = tsc.astype(np.uint32)
        block[low + 1] = (tsc >> np.uint64(32)).astype(np.uint32)
        yield block[: min(per_block, count - done) * words].data.cast("B")


def _seam(scan: _Scan) -> bytes:
    """Return the round between two copies, with times relative to the first of them."""
    round_ = []
    for pcpu, ends in sorted(scan.ends.items()):
        domain, vcpu = ends.current or (IDLE_DOMAIN, pcpu)
        first = ends.last_tsc + 1
        words = (1, domain | vcpu << 16, first & 0xFFFF_FFFF, first >> 32)
        round_.append(pack_window(pcpu, pack_record(LOST_RECORDS, ends.first_tsc + scan.span, words)))
    return b"".join(round_)


def _scan(data: bytes, name: str) -> _Scan:
    """Return the ends of the pCPUs in ``data`` after checking that it is complete.

    Raises:
        TraceError: it is damaged, cut short, or has no timed record.
    """
    ends: dict[int, _PcpuEnds] = {}
    timed_count = 0
    for record in _walk(data, name):
        if record.tsc is None:
            continue
        timed_count += 1
        here = ends.setdefault(record.pcpu, _PcpuEnds(record.tsc, record.tsc))
        here.first_tsc = min(here.first_tsc, record.tsc)
        here.last_tsc = max(here.last_tsc, record.tsc)
        if here.current is None:
            here.current = _vcpu_before(record)
    if not ends:
        raise TraceError(f"{name}: has no timed record")
    last_tsc = max(here.last_tsc for here in ends.values())
    distance = last_tsc - min(here.first_tsc for here in ends.values())
    return _Scan(ends, last_tsc, distance + max(1, distance // timed_count))


def _vcpu_before(record: _Walked) -> tuple[int, int] | None:
    """Return the (domain, vcpu) that ran on the pCPU before ``record``, if the record shows it."""
    if record.event & ~_RUNSTATE_NEW in (_RUNNING_TO, _CONTINUE_RUNNING) and record.words:
        return record.words[0] >> 16, record.words[0] & 0xFFFF
    if record.event == LOST_RECORDS and len(record.words) == _LOST_WORDS:
        return record.words[1] & 0xFFFF, record.words[1] >> 16
    return None


@dataclass(frozen=True, slots=True)
class _Times:
    """Indices of the words with times: ``wide`` the low words of 64-bit TSCs, ``narrow`` single words."""

    wide: npt.NDArray[np.intp]
    narrow: npt.NDArray[np.intp]


def _find_times(data: bytes) -> _Times:
    wide: list[int] = []
    narrow: list[int] = []
    for record in _walk(data, ""):
        if record.tsc is None:
            continue
        extra = record.position + 3
        wide.append(record.position + 1)
        if record.event == LOST_RECORDS and len(record.words) == _LOST_WORDS:
            wide.append(extra + 2)
        elif record.event in _IRQ_EVENTS and len(record.words) == _IRQ_WORDS:
            narrow.extend(extra + index for index in (1, 2) if record.words[index])
    return _Times(np.array(wide, np.intp), np.array(narrow, np.intp))


class _Walked(NamedTuple):
    """A record and the index of its header word."""

    position: int
    pcpu: int
    event: int
    tsc: int | None
    words: list[int]


def _walk(data: bytes, name: str) -> Iterator[_Walked]:
    """Yield all records of a file in file order, including fillers.

    Raises:
        TraceError: the file is damaged or cut short.
    """
    words = np.frombuffer(data[: len(data) & ~3], dtype="<u4").tolist()
    position = 0
    while position < len(words):
        pcpu, end = _window(words, position, name)
        position += WINDOW_HEADER_BYTES // WORD_BYTES
        while position < end:
            header = words[position]
            event = header & EVENT_MASK
            begin = position + (3 if header & TIMED_BIT else 1)
            stop = begin + (header >> EXTRA_SHIFT & EXTRA_MASK)
            if not event >> 16 or header == WINDOW_HEADER or stop > end:
                raise TraceError(f"{name}: no complete record at byte {position * WORD_BYTES}")
            tsc = words[position + 1] | words[position + 2] << 32 if header & TIMED_BIT else None
            yield _Walked(position, pcpu, event, tsc, words[begin:stop])
            position = stop
    if len(data) % WORD_BYTES:
        raise TraceError(f"{name}: is cut short")


def _window(words: list[int], position: int, name: str) -> tuple[int, int]:
    """Return the pCPU of the window at ``position`` and the index of the word after it."""
    header = words[position : position + 3]
    if len(header) < 3 or header[0] != WINDOW_HEADER:
        raise TraceError(f"{name}: no window header at byte {position * WORD_BYTES}")
    end = position + 3 + header[2] // WORD_BYTES
    if end > len(words) or header[2] % WORD_BYTES:
        raise TraceError(f"{name}: the window at byte {position * WORD_BYTES} is cut short")
    return header[1], end
