"""Read the CTF traces of a capture: raw bpf events and samples of instruction pointers.

The metadata file describes the layout to other readers; this one knows the two layouts that
xtrace writes, and refuses any other.  A stream cut by a crash is read up to its last whole packet.
"""

from __future__ import annotations

import mmap
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from xtrace.probes.bpf.abi import EVENT_BYTES, SAMPLE_BYTES
from xtrace.probes.ctf import MAGIC, PACKET
from xtrace.probes.errors import TraceError

#: Columns of an event; duration_ns is how long what ended at timestamp took.
EVENT_DTYPE = np.dtype(
    [("timestamp", "<u8"), ("cpu", "<u4"), ("kind", "u1"), ("duration_ns", "<u8"), ("id", "<u4"),
     ("pid", "<u4")]
)  # fmt: skip
#: Columns of a sample; flags is RFLAGS.
SAMPLE_DTYPE = np.dtype(
    [("timestamp", "<u8"), ("cpu", "<u4"), ("ip", "<u8"), ("tgid", "<u4"), ("pid", "<u4"), ("comm", "S16"),
     ("flags", "<u8")]
)  # fmt: skip

_EVENT_WIRE = np.dtype(
    [("ring", "<u8"), ("timestamp", "<u8"), ("kind_duration", "<u8"), ("id", "<u4"), ("pid", "<u4")]
)
_SAMPLE_WIRE = np.dtype(
    [("ring", "<u8"), ("timestamp", "<u8"), ("kind", "<u8"), ("ip", "<u8"), ("tgid", "<u4"), ("pid", "<u4"),
     ("comm", "S16"), ("flags", "<u8")]
)  # fmt: skip
_STREAM = re.compile(r"stream_[0-9]{1,6}(_[0-9]{1,6})?")
_METADATA_MOST_BYTES = 1 << 20
_CPU_MOST = 1 << 20


@dataclass(frozen=True, slots=True)
class _Stream:
    """The content of one stream of a trace.

    Attributes:
        records: EVENT_DTYPE or SAMPLE_DTYPE, in order of time.
        cpu: that wrote them; -1 if there is no packet.
        discarded: exact number of records that the ring had no room for.
        cut_bytes: bytes of an incomplete packet at the end of the file, left by a crash.
    """

    records: npt.NDArray[Any]
    cpu: int
    discarded: int
    cut_bytes: int


@dataclass(frozen=True, slots=True)
class Events:
    """A whole trace.

    Attributes:
        records: of all streams, by time.
        discarded, cut_bytes: of all streams.
    """

    records: npt.NDArray[Any]
    discarded: int
    cut_bytes: int


def read_events(directory: Path) -> Events:
    """Return the raw events of ``NAME.xtrace/events``.

    Raises:
        TraceError: it is not such a trace, or it is damaged.
        OSError: it cannot be read.
    """
    return _read(directory, EVENT_BYTES, _events, EVENT_DTYPE)


def read_samples(directory: Path) -> Events:
    """Return the samples of ``NAME.xtrace/samples``.

    Raises:
        TraceError: it is not such a trace, or it is damaged.
        OSError: it cannot be read.
    """
    return _read(directory, SAMPLE_BYTES, _samples, SAMPLE_DTYPE)


def _read(directory: Path, record_bytes: int, decode: Any, dtype: np.dtype[Any]) -> Events:
    with (directory / "metadata").open("rb") as file:
        metadata = file.read(_METADATA_MOST_BYTES)
    if not metadata.startswith(b"/* CTF 1.8 */") or f"align({8 * record_bytes})".encode() not in metadata:
        raise TraceError(f"{directory / 'metadata'}: not from a trace that xtrace wrote; use babeltrace2")
    paths = sorted(path for path in directory.iterdir() if _STREAM.fullmatch(path.name))
    streams = [_read_stream(path, record_bytes, decode, dtype) for path in paths]
    records = np.concatenate([np.empty(0, dtype), *(stream.records for stream in streams)])
    return Events(
        records[np.argsort(records["timestamp"], kind="stable")],
        sum(stream.discarded for stream in streams),
        sum(stream.cut_bytes for stream in streams),
    )


def _read_stream(path: Path, record_bytes: int, decode: Any, dtype: np.dtype[Any]) -> _Stream:
    parts, last_cpu, last_discarded, read = [], -1, 0, 0
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        # Mapped: a file with a hole may be larger than the memory, and is read only as far as it has packets.
        content = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) if size else b""
        for begin, end, cpu, discarded in _packets(path, content, record_bytes):
            parts.append(decode(content[begin + PACKET.size : end], cpu))
            last_cpu, last_discarded, read = cpu, discarded, end
    records = np.concatenate([np.empty(0, dtype), *parts])
    return _Stream(records, last_cpu, last_discarded, size - read)


def _packets(
    path: Path, content: bytes | mmap.mmap, record_bytes: int
) -> Iterator[tuple[int, int, int, int]]:
    """Yield begin, end, CPU and number of discarded records of each whole packet."""
    at = 0
    while len(content) - at >= PACKET.size:
        magic, _, _, content_bits, packet_bits, discarded, cpu = PACKET.unpack_from(content, at)
        size = packet_bits // 8
        sound = (
            magic == MAGIC
            and content_bits == packet_bits
            and packet_bits % 8 == 0
            and size >= PACKET.size
            and (size - PACKET.size) % record_bytes == 0
            and cpu < _CPU_MOST
        )
        if not sound:
            raise TraceError(f"{path}: offset {at}: not a packet; everything before it is intact")
        if size > len(content) - at:
            return
        yield at, at + size, cpu, discarded
        at += size


def _events(content: bytes, cpu: int) -> npt.NDArray[Any]:
    wire = np.frombuffer(content, _EVENT_WIRE)
    table = np.empty(len(wire), EVENT_DTYPE)
    for name in ("timestamp", "id", "pid"):
        table[name] = wire[name]
    table["cpu"] = cpu
    table["kind"] = wire["kind_duration"] & 0xFF
    table["duration_ns"] = wire["kind_duration"] >> np.uint64(8)
    return table


def _samples(content: bytes, cpu: int) -> npt.NDArray[Any]:
    wire = np.frombuffer(content, _SAMPLE_WIRE)
    table = np.empty(len(wire), SAMPLE_DTYPE)
    for name in ("timestamp", "ip", "tgid", "pid", "comm", "flags"):
        table[name] = wire[name]
    table["cpu"] = cpu
    return table
