"""What the rules of whole windows leave of a trace, by plain Python alone: the compiled checks must agree."""

from __future__ import annotations

import io
from typing import cast

from oracle import reader as oracle
from oracle.reading import Reading, same, slow, taken, unaccounted_bytes
from xtrace.probes.intact.whole_windows import WholeWindows
from xtrace.probes.reader.ahead import Source
from xtrace.probes.reader.reader import TraceReader
from xtrace.probes.reader.whole_source import WholeSource


def whole(data: bytes, *, chunk_bytes: int = 1 << 16, cut: str = "") -> tuple[bytes, WholeWindows]:
    """Return the whole windows of a trace, and what is said of the rest.

    Args:
        cut: why the data ends where it does.

    Raises:
        TraceError: it is not a trace.
    """
    windows = WholeWindows(is_compiled=False)
    content = b""
    for at in range(0, len(data), chunk_bytes):
        windows.feed(data[at : at + chunk_bytes])
        content += windows.take()
    windows.end(cut)
    return content + windows.take(), windows


def reader_of(
    data: bytes, *, chunk_bytes: int = 1 << 20, keep: int = 0, strict: bool = False, holes: bool = False
) -> TraceReader:
    """Return a reader of a trace that may be damaged."""
    source = WholeSource(cast(Source, io.BytesIO(data)), "trace", strict=strict)
    return TraceReader(source, chunk_bytes=chunk_bytes, keep=keep, holes=holes)


def assert_same_whole(data: bytes, *, chunk_bytes: int = 1 << 20) -> Reading:
    """Check that the reader finds in a trace what the reference reader finds in its whole windows."""
    content, windows = whole(data)
    reading, trace = taken(reader_of(data, chunk_bytes=chunk_bytes)), oracle.read(content)
    facts = reading.reader.facts
    assert same(reading.rows, slow(trace.records), facts.late_records)
    assert facts.damages == windows.damages
    assert (facts.damage_count, facts.skipped_bytes) == (windows.damage_count, windows.skipped_bytes)
    assert [(r.offset, r.pcpu, r.before_tsc, r.after_tsc) for r in facts.restarts] == [
        (windows.offset_of(r.offset), r.pcpu, r.before, r.after) for r in trace.restarts
    ]
    assert facts.bytes_read == len(data)
    assert unaccounted_bytes(reading.reader) == 0
    return reading
