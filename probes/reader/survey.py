"""Summarise a trace from its window headers and a sample of its records, in milliseconds.

Uses neither numba nor a full pass: it visits the window headers of an uncompressed file one by one,
for a limited time, and reads a few hundred kilobytes of records from all over the file.
"""

from __future__ import annotations

import os
import stat
import struct
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from xtrace.probes.catalog import Detection
    from xtrace.probes.intact.damage import Damage
    from xtrace.probes.reader.ahead import Source

#: Headers are visited until the file ends or this much time has passed.
_HOP_SECONDS = 0.2
_HOPS_BETWEEN_LOOKS_AT_THE_CLOCK = 1024
#: Most bytes that are read of a stream.
_STREAM_BYTES = 4 << 20
_BLOCK_BYTES = 1 << 18
#: A damaged file is read for so long.
_DAMAGED_SECONDS = 3.0
_SAMPLE_BYTES = 256 << 10
_SAMPLE_WINDOWS = 64
_LAST_WINDOWS_BYTES = 256 << 10
_FIRST_RECORDS_BYTES = 512
_MAX_FIRST_WINDOWS = 1024

#: Bytes read with each window header: enough for the TSC of the window's first record, if it has one.
_HEAD_BYTES = 24

_HEADER = struct.Struct("<III")
_FIRST_RECORD = struct.Struct("<IQ")
_MARK = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Window:
    """A window header and its offset; ``size`` is the size that it announces, in bytes."""

    offset: int
    pcpu: int
    size: int


@dataclass(frozen=True, slots=True)
class TscRestart:
    """A place where the TSC restarts, as the first records of windows show it.

    Attributes:
        offset: of the first window that begins after it.
        back_cycles: how much earlier that window begins than the pCPU's window before.
    """

    offset: int
    back_cycles: int


@dataclass(slots=True)
class Headers:
    """The window headers of a trace, as far as they were visited.

    Attributes:
        restarts: of the TSC, in the order of the file.
        seen_bytes: offset up to which the headers are known.
        is_whole: whether that is the end of the file.
        fault: what is wrong at ``seen_bytes``, or "".
        missing_bytes: bytes that the last window, or a cut header, lacks at the end of the file.
    """

    windows: list[Window] = field(default_factory=list)
    restarts: list[TscRestart] = field(default_factory=list)
    seen_bytes: int = 0
    is_whole: bool = False
    fault: str = ""
    missing_bytes: int = 0


@dataclass(slots=True)
class Sample:
    """The records that were examined.

    Attributes:
        counts: records by header word, without WRAP fillers.
        records, bytes: totals, including fillers.
        first_tsc, last_tsc: least and greatest TSC seen.
        backward_tsc_count: records whose TSC is below that of an earlier one in their window.
    """

    counts: Counter[int] = field(default_factory=Counter)
    records: int = 0
    bytes: int = 0
    first_tsc: int | None = None
    last_tsc: int | None = None
    backward_tsc_count: int = 0


@dataclass(slots=True)
class Survey:
    """Everything that `xtrace info` shows of a trace.

    Attributes:
        size_bytes: size of the file, compressed or not; None for standard input.
        compression: "gzip", "xz", "bzip2", "zstd", "lz4" or "".
        is_stream: whether only the beginning could be read.
        first_tsc, last_tsc: of the whole trace if the headers are complete, otherwise of what was seen.
        has_last_tsc: whether ``last_tsc`` comes from the last window of each pCPU.
        damages, damage_count, skipped_bytes: as of WholeWindows; a large file in which each window is
            followed by another is not searched for damage.
        record_estimate: number of records in the trace; exact if ``sample`` covers all of it.
    """

    name: str
    size_bytes: int | None
    compression: str
    is_stream: bool
    headers: Headers
    sample: Sample
    first_tsc: int | None
    last_tsc: int | None
    has_last_tsc: bool
    record_estimate: int | None
    record_estimate_is_exact: bool
    detection: Detection
    damages: list[Damage] = field(default_factory=list)
    damage_count: int = 0
    skipped_bytes: int = 0


def survey(path: str, *, strict: bool = False) -> Survey:
    """Survey the trace ``path``, or the trace in a capture's folder; ``-`` is standard input.

    Args:
        strict: raise TraceError at the first damage.

    Raises:
        OSError: it cannot be read.
        TraceError: it is not a trace.
    """
    from xtrace.probes.capture.layout import trace_in
    from xtrace.probes.reader.sources import STDIN, open_source

    place = path if path == STDIN else trace_in(path)
    is_plain = path != STDIN and is_plain_file(place)
    compression = compression_of(place) if is_plain else ""
    size = Path(place).stat().st_size if is_plain else None
    if is_plain and not compression:
        with open(place, "rb", buffering=0) as raw:
            found = _survey_file(path, raw.fileno())
        if found is not None:
            return found
    with open_source(place) as source:
        most = _STREAM_BYTES if compression or not is_plain else None
        return _survey_windows(path, source, size, compression, most, strict=strict)


def compression_of(path: str) -> str:
    """Return how the file is compressed, judging by its first bytes; "" if it is not."""
    from xtrace.probes.intact.compressed import MAGIC_BYTES, compression_in

    if not is_plain_file(path):
        return ""
    with open(path, "rb", buffering=0) as raw:
        found = compression_in(raw.read(MAGIC_BYTES))
    return found.name if found else ""


def is_plain_file(path: str) -> bool:
    """Return whether ``path`` is a regular file, which can be read at any offset."""
    return stat.S_ISREG(Path(path).stat().st_mode)


class Bytes:
    """The bytes to survey: a file, or the beginning of a stream."""

    def __init__(self, file: int | None, held: memoryview, size: int) -> None:
        self.size = size
        self._file = file
        self._held = held

    @property
    def is_file(self) -> bool:
        """Whether bytes are read from a file, which may be large and slow."""
        return self._file is not None

    def read(self, offset: int, count: int) -> bytes:
        """Return up to ``count`` bytes from ``offset``."""
        if self._file is None:
            return bytes(self._held[offset : offset + count])
        return os.pread(self._file, count, offset)


def _survey_file(path: str, file: int) -> Survey | None:
    """Survey a large file in which each window is followed by another; None for others."""
    from xtrace.probes.errors import TraceError

    size = os.fstat(file).st_size
    if hasattr(os, "posix_fadvise"):
        # Read-ahead is wasted on reads of a dozen bytes here and there.
        os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)
    plain = Bytes(file, memoryview(b""), size)
    try:
        headers = visit_headers(path, plain)
    except TraceError:
        return None
    if size <= _SAMPLE_BYTES or headers.fault or headers.missing_bytes:
        return None
    return _survey(path, plain, headers, size=size, compression="", is_stream=False)


def _survey_windows(
    path: str, source: Source, size: int | None, compression: str, most: int | None, *, strict: bool
) -> Survey:
    """Survey the whole windows of a trace, of ``most`` bytes of it, for a limited time."""
    from xtrace.probes.intact.compressed import Damage as CompressedDamage
    from xtrace.probes.intact.compressed import cut_text
    from xtrace.probes.intact.whole_windows import WholeWindows
    from xtrace.probes.reader.sources import STDIN

    name = "standard input" if path == STDIN else path
    whole = WholeWindows(name, strict=strict)
    held = bytearray()
    buffer = memoryview(bytearray(_BLOCK_BYTES))
    until = time.monotonic() + _DAMAGED_SECONDS
    is_beginning = True
    while (most is None or whole.taken_bytes < most) and time.monotonic() < until:
        try:
            left = len(buffer) if most is None else min(len(buffer), most - whole.taken_bytes)
            count = source.readinto(buffer[:left]) or 0
            reason = ""
        except CompressedDamage as error:
            count, reason = 0, cut_text(error)
        if not count:
            if whole.taken_bytes or reason:
                whole.end(reason)
            held += whole.take()
            is_beginning = False
            break
        whole.feed(buffer[:count])
        held += whole.take()
    if is_beginning:
        held += whole.pause()
    plain = Bytes(None, memoryview(held), len(held))
    headers = visit_headers(name, plain, is_beginning=is_beginning)
    headers.restarts = [
        TscRestart(whole.offset_of(restart.offset), restart.back_cycles) for restart in headers.restarts
    ]
    # What is not as it was recorded is counted as a whole.
    budget = len(held) if whole.damages or headers.missing_bytes else _SAMPLE_BYTES
    found = _survey(name, plain, headers, size=size, compression=compression, is_stream=True, budget=budget)
    found.damages, found.damage_count = whole.damages, whole.damage_count
    found.skipped_bytes = whole.skipped_bytes
    found.is_stream = is_beginning
    if is_beginning:
        headers.seen_bytes = whole.taken_bytes
        found.last_tsc = None  # what follows is not known
    return found


def visit_headers(name: str, plain: Bytes, *, is_beginning: bool = False) -> Headers:
    """List the window headers, for a limited time.

    Args:
        is_beginning: whether more bytes follow after ``plain``.

    Raises:
        TraceError: there is no window header at the beginning.
    """
    from xtrace.probes.errors import TraceError
    from xtrace.probes.format import (
        EVENT_MASK,
        MAX_PCPUS,
        MAX_WINDOW_BYTES,
        TIMED_BIT,
        WINDOW_HEADER,
        WINDOW_HEADER_BYTES,
        WRAP_BUFFER,
    )

    headers = Headers()
    restarts = _Restarts(headers.restarts)
    # What is in memory is a few megabytes, however slow the machine is at the moment.
    until = time.monotonic() + (_HOP_SECONDS if plain.is_file else _DAMAGED_SECONDS)
    at = 0
    while at < plain.size:
        hops = len(headers.windows)
        if hops % _HOPS_BETWEEN_LOOKS_AT_THE_CLOCK == 0 and hops and time.monotonic() > until:
            headers.seen_bytes = at
            return headers
        head = plain.read(at, _HEAD_BYTES)
        if len(head) < WINDOW_HEADER_BYTES:
            if at == 0 and not _MARK.pack(WINDOW_HEADER).startswith(head[: _MARK.size]):
                raise TraceError(
                    f"{name}: not a xentrace file: its {len(head)} bytes do not start a window header "
                    f"(0x{WINDOW_HEADER:08x})"
                )
            if not is_beginning:
                headers.missing_bytes = WINDOW_HEADER_BYTES - len(head)
            break
        mark, pcpu, size = _HEADER.unpack_from(head)
        if mark != WINDOW_HEADER or pcpu >= MAX_PCPUS or size % 4 or size > MAX_WINDOW_BYTES:
            if at == 0:
                raise TraceError(
                    f"{name}: not a xentrace file: 0x{mark:08x} instead of a window header at offset 0; "
                    "if only the beginning is damaged, xtrace dump reads the rest"
                )
            headers.fault = f"0x{mark:08x} instead of a window header at offset {at}"
            headers.seen_bytes = at
            return headers
        headers.windows.append(Window(at, pcpu, size))
        if len(head) == _HEAD_BYTES and size >= _FIRST_RECORD.size:
            header, tsc = _FIRST_RECORD.unpack_from(head, WINDOW_HEADER_BYTES)
            if header >= TIMED_BIT and header & EVENT_MASK != WRAP_BUFFER:
                restarts.note(at, pcpu, tsc)
        at += WINDOW_HEADER_BYTES + size
    headers.is_whole = not is_beginning
    if at > plain.size and not is_beginning:
        headers.missing_bytes = at - plain.size
    headers.seen_bytes = min(at, plain.size)
    return headers


class _Restarts:
    """Find restarts of the TSC from the first TSC of windows, as the reader does from whole windows."""

    def __init__(self, found: list[TscRestart]) -> None:
        self._found = found
        self._latest: dict[int, tuple[int, int]] = {}  # by pCPU, of its last two windows
        self._suspect: tuple[int, int, int, int] | None = (
            None  # offset, pCPU, TSC, and the one that it is below
        )

    def note(self, offset: int, pcpu: int, tsc: int) -> None:
        """Take the next window's first TSC."""
        bound = min(self._latest.get(pcpu, (0, 0)))
        if self._suspect is not None:
            at, of_pcpu, suspect, limit = self._suspect
            self._suspect = None
            if tsc < (bound or limit):
                self._found.append(TscRestart(at, limit - suspect))
                self._latest.clear()
                self._add(of_pcpu, suspect)
                bound = 0
            else:
                self._add(of_pcpu, suspect)
        if tsc < bound:
            self._suspect = (offset, pcpu, tsc, self._latest[pcpu][1])
        else:
            self._add(pcpu, tsc)

    def _add(self, pcpu: int, tsc: int) -> None:
        self._latest[pcpu] = (self._latest.get(pcpu, (0, 0))[1], tsc)


def _survey(
    name: str,
    plain: Bytes,
    headers: Headers,
    *,
    size: int | None,
    compression: str,
    is_stream: bool,
    budget: int = _SAMPLE_BYTES,
) -> Survey:
    from xtrace.probes.catalog import detect
    from xtrace.probes.format import EVENT_MASK, EXTRA_MASK, EXTRA_SHIFT, TIMED_BIT

    payload = sum(_present(window, plain.size) for window in headers.windows)
    sample = Sample()
    for piece in sample_pieces(plain, headers.windows, budget, _SAMPLE_WINDOWS):
        look_at(piece, sample)
    all_looked_at = headers.is_whole and payload <= budget
    first = Sample()
    for window in _first_windows(headers.windows):
        look_at(plain.read(window.offset + _HEADER.size, min(window.size, _FIRST_RECORDS_BYTES)), first)
    last, has_last = _last_records(plain, headers)
    estimate: int | None = None
    if all_looked_at:
        estimate = sample.counts.total()
    elif sample.bytes and (headers.is_whole or not is_stream):
        share = sample.counts.total() / sample.bytes
        estimate = round((payload if headers.is_whole else plain.size) * share)
    shapes = (
        (header & EVENT_MASK, header >> EXTRA_SHIFT & EXTRA_MASK, bool(header & TIMED_BIT), count)
        for header, count in sample.counts.items()
    )
    return Survey(
        name=name,
        size_bytes=size,
        compression=compression,
        is_stream=is_stream and not headers.is_whole,
        headers=headers,
        sample=sample,
        first_tsc=first.first_tsc if first.first_tsc is not None else sample.first_tsc,
        last_tsc=last,
        has_last_tsc=has_last,
        record_estimate=estimate,
        record_estimate_is_exact=all_looked_at,
        detection=detect(shapes),
    )


def _present(window: Window, size: int) -> int:
    """Return how many of a window's bytes the file has."""
    return max(0, min(window.size, size - window.offset - _HEADER.size))


def sample_pieces(plain: Bytes, windows: list[Window], budget: int, count: int) -> Iterator[bytes]:
    """Yield the beginnings of ``count`` windows from all over the file, ``budget`` bytes in total.

    If all windows together fit in ``budget``, yield all of them completely.
    """
    filled = [window for window in windows if window.size]
    if sum(_present(window, plain.size) for window in filled) > budget:
        step = max(len(filled) / count, 1.0)
        filled = [filled[int(number * step)] for number in range(min(count, len(filled)))]
        each = budget // len(filled) & ~3
        filled = [Window(window.offset, window.pcpu, min(window.size, each)) for window in filled]
    for window in filled:
        yield plain.read(window.offset + _HEADER.size, window.size)


def look_at(piece: bytes, sample: Sample) -> None:
    """Count the complete records at the beginning of a window, up to the first invalid one."""
    from xtrace.probes.format import EVENT_MASK, EXTRA_MASK, EXTRA_SHIFT, GUEST_CLASS_BIT, WRAP_BUFFER

    words = struct.unpack(f"<{len(piece) // 4}I", piece[: len(piece) & ~3])
    at, end = 0, len(words)
    greatest = 0
    while at < end:
        header = words[at]
        timed = header >> 31
        behind = at + 1 + 2 * timed + (header >> EXTRA_SHIFT & EXTRA_MASK)
        if not header & 0x0FFF_0000 or behind > end:
            break
        sample.records += 1
        if header & EVENT_MASK != WRAP_BUFFER:
            if header & GUEST_CLASS_BIT:
                header &= ~0x07FF_FFFF
            sample.counts[header] += 1
            if timed:
                tsc = words[at + 1] | words[at + 2] << 32
                if sample.first_tsc is None or tsc < sample.first_tsc:
                    sample.first_tsc = tsc
                if sample.last_tsc is None or tsc > sample.last_tsc:
                    sample.last_tsc = tsc
                sample.backward_tsc_count += tsc < greatest
                greatest = max(greatest, tsc)
        at = behind
    sample.bytes += 4 * at


def _first_windows(windows: list[Window]) -> list[Window]:
    """Return the first non-empty window of each pCPU."""
    first: dict[int, Window] = {}
    for window in windows:
        if window.size and window.pcpu not in first:
            first[window.pcpu] = window
            if len(first) == _MAX_FIRST_WINDOWS:
                break
    return list(first.values())


def _last_records(plain: Bytes, headers: Headers) -> tuple[int | None, bool]:
    """Return the greatest TSC in the last windows, and whether those of all pCPUs were read."""
    last: dict[int, Window] = {}
    for window in headers.windows:
        if window.size:
            last[window.pcpu] = window
    sample = Sample()
    left = _LAST_WINDOWS_BYTES
    for window in sorted(last.values(), key=lambda window: -window.offset):
        left -= window.size
        if left < 0:
            return sample.last_tsc, False
        look_at(plain.read(window.offset + _HEADER.size, window.size), sample)
    return sample.last_tsc, headers.is_whole and bool(last)
