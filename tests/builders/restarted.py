"""Traces whose TSC restarts."""

from __future__ import annotations

from oracle.reader import RawRecord, Window, frame
from xtrace.probes.reader.writer import pack_record, pack_window


def halves(data: bytes) -> tuple[bytes, bytes]:
    """Return the two halves of a trace, each of whole windows."""
    offsets = [window.offset for window in frame(data).windows]
    middle = offsets[len(offsets) // 2]
    return data[:middle], data[middle:]


def packed(window: Window, records: tuple[RawRecord, ...], earlier: int = 0) -> bytes:
    """Return a window with these records, their TSCs moved back."""
    content = b"".join(
        pack_record(
            record.event,
            None if record.tsc is None else record.tsc - earlier,
            (*record.words[:2], *moved(record, earlier)) if record.is_lost else record.words,
        )
        for record in records
    )
    return pack_window(window.pcpu, content)


def moved(record: RawRecord, earlier: int) -> tuple[int, int]:
    """Return the beginning of a loss, moved back unless it was before the restart."""
    first = record.words[2] | record.words[3] << 32
    if first >= earlier:
        first -= earlier
    return first & 0xFFFF_FFFF, first >> 32


def suspended(data: bytes, share: float = 0.5, *, to: int = 1000) -> tuple[bytes, bytes, bytes]:
    """Return a trace whose TSC restarts in the middle of its windows, and what is before and after."""
    windows = frame(data).windows
    tscs = sorted(raw.tsc for window in windows for raw in window.records if raw.tsc is not None)
    at = tscs[int(share * len(tscs))]
    whole, before, after = bytearray(), bytearray(), bytearray()
    for window in windows:
        count = next(
            (i for i, raw in enumerate(window.records) if raw.tsc is not None and raw.tsc >= at),
            len(window.records),
        )
        if all(raw.tsc is None or raw.tsc < at for raw in window.records):
            count = len(window.records)
        first, rest = window.records[:count], window.records[count:]
        early, late = packed(window, first), packed(window, rest, at - to)
        whole += pack_window(window.pcpu, early[12:] + late[12:])
        before += early if first else b""
        after += late if rest else b""
    return bytes(whole), bytes(before), bytes(after)
