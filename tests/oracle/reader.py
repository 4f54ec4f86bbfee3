"""A slow, simple reference implementation of the reader, to compare the real one with.

It uses only ``struct``, lists and dicts, and handles one record after the other.  If the
two differ, read this one first, because its rules are short:

Framing
    A file is windows back to back.  A window is a 12-byte header {0x2001f003,
    pCPU, size} and ``size`` bytes of records.

    (a) At a window boundary the word must be 0x2001f003, the pCPU < 16384, the
        size a multiple of 4 and at most 65535 * 4096.  Anything else is the
        damage "not a window header" at that offset.  The search continues from the
        next word, in steps of 4 bytes, to the first complete 12-byte header that
        is within those bounds and, if its size is not 0 and the file has the
        word after it, is followed by a plausible record header: one that (c)
        would accept as the first of the window.  If there is none, the rest of
        the file is skipped.
    (b) A file may end inside a window (it is still being written).  Complete
        records count; the rest is ``missing_bytes`` and not damage.
    (c) Inside a window, in this order:
        the word 0x2001f003 is "window header inside a window": the window ends
        there, nothing is skipped, (a) applies at that offset;
        a header whose class bits (16 to 27) are all zero is "not a record header";
        a record that ends beyond the window's announced end is "record overruns
        its window".  The last two skip the rest of the window, as far
        as the file has it.
    (d) Fewer than 12 bytes at a boundary that begin with 0x2001f003 are the
        end of a file still being written: they are not damage, and count as
        ``missing_bytes``.  1 to 3 bytes after the last whole word are ignored.
    (e) A file of 1 to 3 bytes that are not the first bytes of 0x2001f003 is not a trace: "not a window
        header" at 0.

Time
    A timed record shows its TSC.  An untimed one shows the TSC of the timed
    record before it on its pCPU (0 if there is none).  LOST_RECORDS (timed, 4
    words) shows its own TSC, and so do untimed records after it.
    WRAP_BUFFER fillers are counted but not returned, and the TSC of a timed
    filler is not used.

Order
    Records are merged across pCPUs by key.  The key is the shown TSC.  The key
    of LOST_RECORDS is its first_tsc, but not below the key before it and not above its
    own TSC; for the records that follow on its pCPU it counts as its own TSC.  On
    one pCPU a key is never below the one before it (a running maximum), whatever
    TSC is shown.  Equal keys: lower pCPU first; on one pCPU always file order.

TSCs are unsigned 64-bit here.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

WINDOW_HEADER = 0x2001F003
LOST_RECORDS = 0x1F001
WRAP_BUFFER = 0x1F002
MAX_PCPUS = 16384
MAX_WINDOW_BYTES = 65535 * 4096
#: TSCs above this are damage; they all sort last.
MAX_KEY = (1 << 62) - 1

NOT_A_WINDOW = "not a window header"
NOT_A_RECORD = "not a record header"
OVERRUN = "record overruns its window"
WINDOW_INSIDE = "window header inside a window"


@dataclass(frozen=True, slots=True)
class Record:
    """One record of the merged trace.

    Attributes:
        offset: byte offset of its header word in the file.
        pcpu: the pCPU that wrote it.
        tsc: TSC shown, in cycles (see the module's rules).
        timed: whether the record has its own TSC.
        event: event id, bits 0 to 27 of the header.
        words: the 0 to 7 extra words.
    """

    offset: int
    pcpu: int
    tsc: int
    timed: bool
    event: int
    words: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Damage:
    """Damaged bytes: offset, reason, and how many were skipped."""

    offset: int
    reason: str
    skipped_bytes: int


@dataclass(frozen=True, slots=True)
class RawRecord:
    """A record as framed, fillers included; ``tsc`` is None if untimed."""

    offset: int
    event: int
    tsc: int | None
    words: tuple[int, ...]

    @property
    def is_lost(self) -> bool:
        """Whether it has the format of LOST_RECORDS."""
        return self.event == LOST_RECORDS and self.tsc is not None and len(self.words) == 4

    @property
    def is_wrap(self) -> bool:
        """Whether it is a filler."""
        return self.event == WRAP_BUFFER


@dataclass(frozen=True, slots=True)
class Window:
    """One window: header at ``offset``, announced ``size``, its complete records."""

    offset: int
    pcpu: int
    size: int
    records: tuple[RawRecord, ...]


@dataclass(slots=True)
class Framing:
    """A file cut into windows and records, in file order."""

    windows: list[Window] = field(default_factory=list)
    damages: list[Damage] = field(default_factory=list)
    missing_bytes: int = 0


@dataclass(slots=True)
class Trace:
    """The result of ``read``.

    Attributes:
        records: in merged order, without fillers.
        damages: in file order.
        lost_records: sum of the counts of all LOST_RECORDS.
        wrap_count: number of fillers.
        skipped_bytes: sum over ``damages``.
        missing_bytes: from the end of the last complete record to the announced end of the last
            window; for an incomplete window header, its 1 to 11 bytes.
    """

    records: list[Record]
    damages: list[Damage]
    lost_records: int
    wrap_count: int
    skipped_bytes: int
    missing_bytes: int


def read(data: bytes) -> Trace:
    """Read a whole trace and return its records in merged order."""
    framing = frame(data)
    keyed: list[tuple[int, int, int, Record]] = []
    last_tsc: dict[int, int] = {}
    last_key: dict[int, int] = {}
    lost = wraps = 0
    for window in framing.windows:
        pcpu = window.pcpu
        for raw in window.records:
            if raw.is_wrap:
                wraps += 1
                continue
            tsc = last_tsc.get(pcpu, 0) if raw.tsc is None else raw.tsc
            before = last_key.get(pcpu, 0)
            key = tsc
            if raw.is_lost:
                lost += raw.words[0]
                first_tsc = raw.words[2] | raw.words[3] << 32
                key = min(max(first_tsc, before), tsc)
            last_tsc[pcpu] = tsc
            last_key[pcpu] = max(min(key, MAX_KEY), before)
            record = Record(raw.offset, pcpu, tsc, raw.tsc is not None, raw.event, raw.words)
            keyed.append((last_key[pcpu], pcpu, len(keyed), record))
            if raw.is_lost:
                last_key[pcpu] = max(last_key[pcpu], min(tsc, MAX_KEY))
    keyed.sort(key=lambda entry: entry[:3])
    return Trace(
        records=[entry[3] for entry in keyed],
        damages=framing.damages,
        lost_records=lost,
        wrap_count=wraps,
        skipped_bytes=sum(damage.skipped_bytes for damage in framing.damages),
        missing_bytes=framing.missing_bytes,
    )


def frame(data: bytes) -> Framing:
    """Split ``data`` into windows and records by rules (a) to (e)."""
    framing = Framing()
    if len(data) < 4 and not struct.pack("<I", WINDOW_HEADER).startswith(data):
        return Framing(damages=[Damage(0, NOT_A_WINDOW, len(data))])
    data = data[: len(data) // 4 * 4]
    offset = 0
    while offset < len(data):
        left = len(data) - offset
        if left < 12 and _word(data, offset) == WINDOW_HEADER:
            framing.missing_bytes = left
            break
        if not _is_window_header(data, offset):
            found = _next_window(data, offset + 4)
            framing.damages.append(Damage(offset, NOT_A_WINDOW, found - offset))
            offset = found
            continue
        pcpu, size = struct.unpack_from("<II", data, offset + 4)
        begin = offset + 12
        announced_end = begin + size
        records, stop, damage = _frame_window(data, begin, announced_end)
        framing.windows.append(Window(offset, pcpu, size, tuple(records)))
        offset = announced_end
        if damage is not None:
            framing.damages.append(damage)
            if damage.reason == WINDOW_INSIDE:
                offset = stop
        if offset > len(data):
            framing.missing_bytes = announced_end - stop
    return framing


def _frame_window(data: bytes, begin: int, announced_end: int) -> tuple[list[RawRecord], int, Damage | None]:
    """Return the complete records of a window, the offset where its known part ends, and the damage."""
    records: list[RawRecord] = []
    present_end = min(announced_end, len(data))
    offset = begin
    while present_end - offset >= 4:
        header = _word(data, offset)
        if header == WINDOW_HEADER:
            return records, offset, Damage(offset, WINDOW_INSIDE, 0)
        reason = _record_fault(header, announced_end - offset)
        if reason is not None:
            return records, present_end, Damage(offset, reason, present_end - offset)
        end = offset + _record_bytes(header)
        if end > present_end:
            break
        words = struct.unpack_from(f"<{(end - offset) // 4}I", data, offset)
        timed = header >> 31
        tsc = words[1] | words[2] << 32 if timed else None
        records.append(RawRecord(offset, header & 0x0FFFFFFF, tsc, words[3:] if timed else words[1:]))
        offset = end
    return records, offset, None


def _record_fault(header: int, room: int) -> str | None:
    if (header >> 16) & 0xFFF == 0:
        return NOT_A_RECORD
    if _record_bytes(header) > room:
        return OVERRUN
    return None


def _record_bytes(header: int) -> int:
    return 4 + 8 * (header >> 31) + 4 * (header >> 28 & 7)


def _is_window_header(data: bytes, offset: int) -> bool:
    if offset + 12 > len(data):
        return False
    header, pcpu, size = struct.unpack_from("<III", data, offset)
    return bool(header == WINDOW_HEADER and pcpu < MAX_PCPUS and size % 4 == 0 and size <= MAX_WINDOW_BYTES)


def _next_window(data: bytes, offset: int) -> int:
    for candidate in _words_from(data, offset):
        if _is_window_header(data, candidate) and _is_plausible(data, candidate):
            return candidate
    return len(data)


def _is_plausible(data: bytes, offset: int) -> bool:
    size = _word(data, offset + 8)
    first = offset + 12
    if size == 0 or first + 4 > len(data):
        return True
    header = _word(data, first)
    return header != WINDOW_HEADER and _record_fault(header, size) is None


def _words_from(data: bytes, offset: int) -> Iterator[int]:
    return iter(range(offset, len(data) - 3, 4))


def _word(data: bytes, offset: int) -> int:
    return int(struct.unpack_from("<I", data, offset)[0])
