"""Drain the rings of all CPUs of one program into the streams of a CTF trace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from xtrace.probes.bpf import ctf_writer
from xtrace.probes.bpf.abi import Counter
from xtrace.probes.bpf.loader import Program
from xtrace.probes.bpf.ring import Ring, ascending_runs
from xtrace.probes.bpf.tables import Drain
from xtrace.probes.capture.stream import CaptureFullError, Folder

#: Most memory of all rings together, and the bounds of one.
TOTAL_BYTES = 64 << 20
LEAST_BYTES = 256 << 10
MOST_BYTES = 8 << 20


def ring_bytes(cpus: int) -> int:
    """Return the size of each ring, a power of 2."""
    fair = max(TOTAL_BYTES // cpus, LEAST_BYTES)
    return min(1 << (fair.bit_length() - 1), MOST_BYTES)


@dataclass(slots=True)
class Rings:
    """One ring per CPU, and the trace that they are written to.

    Attributes:
        record_count: records written.
        unwritten_count: records taken from the rings that the capture had no room for.
        on_records: is called with each span of records taken from a ring.
    """

    program: Program
    drain: Drain
    cpus: int
    record_bytes: int
    on_records: Callable[[bytes], None] | None = None
    record_count: int = 0
    unwritten_count: int = 0
    _rings: list[Ring] = field(default_factory=list)
    _streams: list[ctf_writer.CpuStreams] = field(default_factory=list)

    def open(self, folder: Folder, directory: str, byte_count: int | None = None) -> None:
        """Create the rings, before anything is attached that would write to them.

        Args:
            directory: of the trace.
            byte_count: size of each ring; None chooses it by the number of CPUs.
        """
        size = byte_count or ring_bytes(self.cpus)
        for cpu in range(self.cpus):
            fd = self.program.new_ring(f"ring_{cpu}", size)
            self.program.put("rings", cpu.to_bytes(4, "little"), fd.to_bytes(4, "little"))
            self._rings.append(Ring(fd, size, self.record_bytes))
            self._streams.append(ctf_writer.CpuStreams(folder, directory, cpu))

    def describe(self, folder: Folder, directory: str, metadata: str) -> None:
        """Write the trace's metadata."""
        described = folder.stream(f"{directory}/metadata")
        described.write(metadata.encode())
        described.flush()

    @property
    def byte_count(self) -> int:
        """Return the bytes written."""
        return sum(streams.byte_count for streams in self._streams)

    def take(self) -> None:
        """Write the records that have arrived.

        Raises:
            CaptureFullError: the capture is full; records that do not fit are counted and dropped.
        """
        dropped = self.drain.by_cpu(Counter.DROPPED)
        for cpu, (ring, streams) in enumerate(zip(self._rings, self._streams, strict=True)):
            span = ring.take()
            if not span:
                continue
            if self.on_records is not None:
                self.on_records(span)
            waiting = len(span) // self.record_bytes
            try:
                for first, last, records in ascending_runs(span, self.record_bytes):
                    streams.write(first, last, records, dropped[cpu])
                    count = len(records) // self.record_bytes
                    self.record_count += count
                    waiting -= count
            except CaptureFullError:
                self.unwritten_count += waiting
                raise

    def finish(self) -> None:
        """Write what is left and the final losses, after the programs have been detached."""
        self.take()
        for streams, dropped in zip(self._streams, self.drain.by_cpu(Counter.DROPPED), strict=True):
            streams.finish(dropped)

    def flush(self) -> None:
        """Flush what was written to the disk."""
        for streams in self._streams:
            streams.flush()

    def close(self) -> None:
        """Unmap the rings."""
        for ring in self._rings:
            ring.close()
        self._rings.clear()
