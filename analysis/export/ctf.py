"""Xen's records as CTF 1.8, the Common Trace Format, for babeltrace2 and Trace Compass.

A folder: ``metadata``, which describes every byte in TSDL, and a stream of packets for each pCPU.  Every
record is 32-bit words: the number of its shape, its TSC, its extra words.  The fields of an event are those
of the catalogue for the Xen version that wrote the trace; bits that no field names are padding.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from xtrace.analysis.export.source import Exported
from xtrace.probes.catalog import Field, VersionRange, find
from xtrace.probes.ctf import MAGIC, PACKET, Clock, head
from xtrace.probes.dump.templates import OVERFLOW_NAME, UNKNOWN_NAME
from xtrace.probes.format import EVENT_MASK, EXTRA_MASK, EXTRA_SHIFT, TIMED_BIT
from xtrace.probes.outputs import opened
from xtrace.probes.reader.batches import I64, OVERFLOW_SHAPE, RecordBatch
from xtrace.probes.words import printable

METADATA = "metadata"
_HEADER_WORDS = 3
_TEXT_MOST = 200
_TYPES = (
    "size = 32; align = 32; signed = false; uint32_t",
    "size = 64; align = 64; signed = false; uint64_t",
    "size = 64; align = 32; signed = false; map = clock.tsc.value; tsc_t",
)


@dataclass(slots=True)
class _Stream:
    last: int = 0


def write(exported: Exported, folder: Path, *, force: bool = False) -> int:
    """Write the wanted records into a new folder and return their number.

    A record without a TSC has that of the record before it on its pCPU; one whose TSC is before that, too.

    Raises:
        OSError, TraceError: the trace cannot be read, or the folder is there.
    """
    inputs = [exported.request.path]
    folder.mkdir(exist_ok=force)
    streams: dict[int, _Stream] = {}
    headers: list[int] = []
    count = 0
    for records, chosen, tscs, _ in exported.records():
        headers = records.shapes.header[: records.shapes.size].tolist()
        for pcpu, rows in _by_pcpu(records, chosen):
            if pcpu not in streams:
                streams[pcpu] = _Stream()
                with opened(folder / f"stream_{pcpu}", force=force, inputs=inputs):
                    pass
            packet = _packet(pcpu, records, rows, tscs[rows], streams[pcpu])
            with (folder / f"stream_{pcpu}").open("ab") as file:
                file.write(packet)
            count += len(rows)
    with opened(folder / METADATA, force=force, inputs=inputs) as file:
        file.write(_metadata(exported, headers).encode())
    return count


def _by_pcpu(records: RecordBatch, rows: npt.NDArray[np.intp]) -> Iterator[tuple[int, npt.NDArray[np.intp]]]:
    pcpus = records.pcpu[rows]
    for pcpu in np.unique(pcpus).tolist():
        yield pcpu, rows[pcpus == pcpu]


def _packet(pcpu: int, records: RecordBatch, rows: npt.NDArray[np.intp], tscs: I64, stream: _Stream) -> bytes:
    times = np.maximum.accumulate(np.maximum(tscs, stream.last))
    stream.last = int(times[-1])
    counts = records.extra_count[rows].astype(np.int64)
    counts[records.shape[rows] == OVERFLOW_SHAPE] = 0
    ends = np.cumsum(counts + _HEADER_WORDS)
    starts = ends - counts - _HEADER_WORDS
    out = np.empty(int(ends[-1]), "<u4")
    out[starts] = records.shape[rows]
    out[starts + 1] = times & 0xFFFF_FFFF
    out[starts + 2] = times >> 32
    total = int(counts.sum())
    within = np.arange(total) - np.repeat(np.cumsum(counts) - counts, counts)
    out[np.repeat(starts + _HEADER_WORDS, counts) + within] = records.words[
        np.repeat(records.start[rows].astype(np.int64), counts) + within
    ]
    bits = 8 * (PACKET.size + out.nbytes)
    padded = bits + -bits % 64
    header = PACKET.pack(MAGIC, int(times[0]), stream.last, bits, padded, 0, pcpu)
    return header + out.tobytes() + bytes((padded - bits) // 8)


def _metadata(exported: Exported, headers: list[int]) -> str:
    rate = exported.report.trace.get("tsc_hz_source") or "not known"
    description = f"TSC of the host, as if it had never restarted; rate {_quoted(str(rate))}"
    beginning = head(
        "records of Xen",
        _TYPES,
        {
            "domain": "xen",
            "tracer_name": "xentrace",
            "xen_versions": str(exported.versions),
            "exported_by": "xtrace",
        },
        Clock("tsc", uuid.uuid4(), description, round(exported.hz)),
        ("uint32_t id", "tsc_t timestamp"),
        align=32,
    )
    events = (_event(shape, header, exported.versions) for shape, header in enumerate(headers))
    return beginning + "".join(events)


def _event(shape: int, header: int, versions: VersionRange) -> str:
    """Return the declaration of a shape's events."""
    words, event = header >> EXTRA_SHIFT & EXTRA_MASK, header & EVENT_MASK
    if shape == OVERFLOW_SHAPE:
        return f'\nevent {{ name = "{OVERFLOW_NAME}"; id = {shape}; fields := struct {{ }}; }};\n'
    match = find(event, words, bool(header & TIMED_BIT), versions)
    name = match.event.name if match else f"{UNKNOWN_NAME}_{event:#x}"
    layout = match.layout if match else None
    fields = layout.present(words) if layout else ()
    lines = [f"        {line}\n" for line in _declared(fields, words)]
    return (
        f'\nevent {{ /* {event:#x} */\n    name = "{name}";\n    id = {shape};\n'
        f"    fields := struct {{\n{''.join(lines)}    }};\n}};\n"
    )


def _declared(fields: tuple[Field, ...], words: int) -> Iterator[str]:
    """Yield the members of a struct that covers the words; fields that overlap others are left out."""
    bit = 0
    for field in sorted(fields, key=lambda each: (32 * each.word + each.shift, -each.bits)):
        start = 32 * field.word + field.shift
        if start < bit:
            continue
        yield from _padding(bit, start)
        yield _integer(field.bits, f"_{field.name}", signed=field.signed, is_hex=field.base == "hex")
        bit = start + field.bits
    yield from _padding(bit, 32 * words)


def _padding(begin: int, end: int) -> Iterator[str]:
    while begin < end:
        size = min(end - begin, 32 - begin % 32)
        yield _integer(size, f"_w{begin // 32}_{begin % 32}")
        begin += size


def _integer(bits: int, name: str, *, signed: bool = False, is_hex: bool = True) -> str:
    said = f"signed = {str(signed).lower()}; base = {16 if is_hex else 10}"
    return f"integer {{ size = {bits}; align = 1; {said}; }} {name};"


def _quoted(text: str) -> str:
    return printable(text)[:_TEXT_MOST].replace("\\", "/").replace('"', "'")
