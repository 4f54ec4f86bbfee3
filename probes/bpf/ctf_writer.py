"""Write records as CTF 1.8, the Common Trace Format, which babeltrace2 and Trace Compass read.

A trace is a folder: ``metadata``, which describes every byte in TSDL, and streams of packets.
Records are copied as they are in the ring; the 8 bytes that the ring puts before each are padding
to CTF, because the metadata aligns events to the size of a record.  Only whole packets are
appended, so a truncated file loses at most its last packet.
"""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from xtrace.probes.bpf.abi import EVENT_BYTES, MEANINGS, SAMPLE_BYTES, UNTIMED, Kind
from xtrace.probes.capture.stream import Folder, Stream
from xtrace.probes.ctf import MAGIC, PACKET, Clock, head
from xtrace.probes.host.texts import read

_ID_NAMES = {
    Kind.DISPATCH: "port", Kind.PORT_HANDLER: "port", Kind.IRQ_HANDLER: "irq", Kind.LATE_EOI: "irq",
    Kind.SEND: "irq", Kind.IPI: "vector_and_target", Kind.DEVICE_EVENT: "irq", Kind.PRIVCMD: "ioctl",
    Kind.SOFTIRQ: "vector", Kind.WAKE_TO_SWITCH: "irq", Kind.VECTOR: "vector", Kind.UPCALL: "unused",
}  # fmt: skip

_TYPES = (
    "size = 8; align = 8; signed = false; uint8_t",
    "size = 56; align = 8; signed = false; uint56_t",
    "size = 32; align = 8; signed = false; uint32_t",
    "size = 64; align = 64; signed = false; uint64_t",
    "size = 64; align = 64; signed = false; base = 16; address_t",
    "size = 64; align = 64; signed = false; map = clock.monotonic.value; time_t",
    "size = 8; align = 8; signed = false; encoding = UTF8; char_t",
)
_ENV: dict[str, str | int] = {
    "domain": "kernel",
    "tracer_name": "xtrace",
    "tracer_major": 1,
    "tracer_minor": 0,
}


def event_metadata() -> str:
    """Return the metadata of raw events: struct event of abi.h."""
    text = [_head("events that BPF programs saw; a duration's timestamp is that of its end", EVENT_BYTES)]
    for kind, meaning in MEANINGS.items():
        unit = "unused_duration" if kind in UNTIMED else "duration_ns"
        text.append(
            f'\nevent {{ /* {meaning} */\n    name = "{kind.name.lower()}";\n    id = {int(kind)};\n'
            f"    fields := struct {{\n        uint56_t {unit};\n"
            f"        uint32_t {_ID_NAMES[kind]};\n        uint32_t pid;\n    }};\n}};\n"
        )
    return "".join(text)


def sample_metadata(event: str) -> str:
    """Return the metadata of samples of the perf event ``event``: struct sample of abi.h."""
    return _head(f"instruction pointers, sampled by {event}", SAMPLE_BYTES) + (
        f'\nevent {{\n    name = "sample";\n    id = {int(Kind.SAMPLE)};\n'
        "    fields := struct {\n        address_t ip;\n        uint32_t tgid;\n        uint32_t pid;\n"
        "        char_t comm[16];\n        address_t flags;\n    };\n};\n"
    )


def _head(about: str, record_bytes: int) -> str:
    offset_s, offset_ns = divmod(_offset(), 10**9)
    description = "CLOCK_MONOTONIC, which bpf_ktime_get_ns reads"
    clock = Clock("monotonic", _clock(), description, 10**9, offset_s, offset_ns)
    # With the ring's 8 bytes after a packet's header, the first event is aligned.
    return head(
        about,
        _TYPES,
        _ENV,
        clock,
        ("time_t timestamp", "uint8_t id"),
        align=8 * record_bytes,
        packet_time="time_t",
    )


@cache
def _clock() -> uuid.UUID:
    """Return the identity of this boot's monotonic clock: readers refuse clocks that differ in it."""
    boot_id = read(Path("/proc/sys/kernel/random/boot_id"))
    return uuid.uuid5(uuid.UUID(boot_id), "monotonic") if boot_id else uuid.uuid4()


@cache
def _offset() -> int:
    """Return the ns from the monotonic clock to the time of day; the two are read back to back.

    Read once, because it is adjusted all the time: what is recorded together has one offset.
    """
    return time.time_ns() - time.monotonic_ns()


@dataclass(slots=True)
class _Chain:
    stream: Stream
    last: int = 0


@dataclass(slots=True)
class CpuStreams:
    """The streams of one CPU: times in each are ascending, as CTF requires.

    A record that arrives after a later one goes to another stream; readers merge them by time.
    """

    folder: Folder
    directory: str
    cpu: int
    discarded: int = 0
    byte_count: int = 0
    _chains: list[_Chain] = field(default_factory=list)

    def write(self, first: int, last: int, records: bytes, discarded: int) -> None:
        """Append one packet of records whose times ascend from ``first`` to ``last``.

        Args:
            discarded: records that this CPU's ring had no room for, since the start.
        """
        number, chain = next(
            ((at, chain) for at, chain in enumerate(self._chains) if chain.last <= first), (-1, None)
        )
        if chain is None:
            number = len(self._chains)
            name = f"stream_{self.cpu}" + (f"_{number}" if number else "")
            chain = _Chain(self.folder.stream(f"{self.directory}/{name}"))
            self._chains.append(chain)
        packet = _packet(self.cpu, first, last, records, discarded if number == 0 else 0)
        chain.stream.write(packet)
        chain.last = last
        if number == 0:
            self.discarded = discarded
        self.byte_count += len(packet)

    def finish(self, discarded: int) -> None:
        """Append a packet without records if records were lost after the last packet."""
        if discarded != self.discarded:
            now = max(time.monotonic_ns(), self._chains[0].last if self._chains else 0)
            self.write(now, now, b"", discarded)

    def flush(self) -> None:
        """Flush what was written to the disk."""
        for chain in self._chains:
            chain.stream.flush()


def _packet(cpu: int, first: int, last: int, records: bytes, discarded: int) -> bytes:
    bits = 8 * (PACKET.size + len(records))
    return PACKET.pack(MAGIC, first, last, bits, bits, discarded, cpu) + records
