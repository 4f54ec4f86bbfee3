"""Event channels of dom0 for `xtrace top -p`: what the bpf backend counts and times, per port.

Live, the backend writes its lines to memory instead of to a capture; in a replay they come from
the capture.  If the kernel has no kprobes, interrupts replace ports.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from xtrace.probes.bpf.abi import Kind
from xtrace.probes.capture.layout import BPF_TABLES, Capture
from xtrace.probes.errors import TraceError
from xtrace.probes.live.histogram import Histogram
from xtrace.probes.recording.backends.base import Options
from xtrace.probes.recording.backends.bpf import BpfBackend

#: By port if functions can be probed, otherwise by irq.
_HANDLERS = (Kind.PORT_HANDLER, Kind.IRQ_HANDLER)
#: Most ports and irqs that are remembered; a hostile capture may name any number.
_MAX_PORTS = 16384


@dataclass(slots=True)
class PortFigures:
    """What one port did in a period.

    Attributes:
        port: None if only the irq is known; irq and name: of dom0's kernel.
        handled: runs of its handler; zero_count: those that read 0 because the clock was held back.
        handler: their durations, ns; dispatch: from the upcall's entry to the handler's, ns.
    """

    port: int | None
    irq: int | None
    name: str
    handled: int = 0
    zero_count: int = 0
    handler: Histogram = field(default_factory=Histogram)
    dispatch: Histogram = field(default_factory=Histogram)


@dataclass(slots=True)
class PortPeriod:
    """What dom0's ports did in a period.

    Attributes:
        seconds: its length, by the clock of the lines.
        ports: those that did something.
        upcalls: upcalls of dom0; upcall: their durations, ns.
    """

    seconds: float
    ports: list[PortFigures]
    upcalls: int
    upcall: Histogram


class PortTable:
    """Adds up lines of bpf/tables.jsonl."""

    def __init__(self) -> None:
        self._irqs: dict[int, str] = {}
        self._irq_of_port: dict[int, int] = {}
        self._counts: dict[tuple[int, int], list[int]] = {}
        self._times: dict[tuple[int, int], Histogram] = {}
        self._begin_ns: int | None = None
        self._last_ns = 0

    def take(self, line: Mapping[str, Any]) -> None:
        """Add a line; unknown keys are ignored.

        Raises:
            TraceError: the line is invalid.
        """
        try:
            self._take(line)
        except (TypeError, ValueError, KeyError, IndexError, AttributeError) as error:
            raise TraceError(f"{BPF_TABLES}: invalid line: {error}") from None

    def period(self) -> PortPeriod:
        """Return the figures since the last call."""
        begin = self._last_ns if self._begin_ns is None else self._begin_ns
        seconds = max(self._last_ns - begin, 0) / 1e9
        kind = next((kind for kind in _HANDLERS if any(key[0] == kind for key in self._counts)), _HANDLERS[0])
        ports = [self._figures(kind, number) for found, number in self._counts if found == kind]
        upcall = self._times.get((Kind.UPCALL, 0), Histogram())
        upcalls = sum(self._counts.get((Kind.UPCALL, 0), [0, 0]))
        self._counts, self._times = {}, {}
        self._begin_ns = self._last_ns
        return PortPeriod(seconds, ports, upcalls, upcall)

    def _take(self, line: Mapping[str, Any]) -> None:
        if "schema_version" in line:
            return  # the heading, which names the columns
        if "t_ns" in line:
            self._last_ns = int(line["t_ns"])
            if self._begin_ns is None:
                self._begin_ns = self._last_ns
        for irq, (_chip, name) in line.get("irqs", {}).items():
            _bounded(self._irqs)[int(irq)] = str(name)
        for port, irq in line.get("ports", {}).items():
            _bounded(self._irq_of_port)[int(port)] = int(irq)
        for row in line.get("rows", ()):
            kind, number, _cpu, count, _sum, least, most, zeros = map(int, row)
            counts = _bounded(self._counts).setdefault((kind, number), [0, 0])
            counts[0] += count
            counts[1] += zeros
            times = self._times.setdefault((kind, number), Histogram())
            # These are since the start of the recording, so they still bound this period's values.
            times.least = min(times.least, least) if times.greatest else least
            times.greatest = max(times.greatest, most)
        for row in line.get("buckets", ()):
            kind, number, _cpu, bucket, count = map(int, row)
            times = _bounded(self._times).setdefault((kind, number), Histogram())
            times.count += count
            times.buckets[bucket] = times.buckets.get(bucket, 0) + count

    def _figures(self, kind: Kind, number: int) -> PortFigures:
        port = number if kind is Kind.PORT_HANDLER else None
        irq = self._irq_of_port.get(number) if kind is Kind.PORT_HANDLER else number
        name = self._irqs.get(irq, "") if irq is not None else ""
        timed, zeros = self._counts[kind, number]
        handler = self._times.get((kind, number), Histogram())
        dispatch = self._times.get((Kind.DISPATCH, number), Histogram()) if port is not None else Histogram()
        return PortFigures(port, irq, name, timed + zeros, zeros, handler, dispatch)


class Ports(Protocol):
    """A source of port figures."""

    def poll(self) -> None:
        """Take what has arrived; called often."""

    def period(self, end_tsc: int) -> PortPeriod:
        """Return the figures since the last call; a replay's end at ``end_tsc``."""


class LivePorts:
    """A bpf backend that this process runs."""

    def __init__(self, backend: BpfBackend, memory: _Memory) -> None:
        self._backend = backend
        self._memory = memory
        self._table = PortTable()

    def poll(self) -> None:
        """Take what the programs counted; the backend reads it once a second."""
        self._backend.poll()
        for line in self._memory.lines():
            self._table.take(line)

    def period(self, end_tsc: int) -> PortPeriod:
        """Return the figures since the last call."""
        return self._table.period()


class ReplayedPorts:
    """The lines of a capture."""

    def __init__(self, capture: Capture, hz: float) -> None:
        pairs = capture.clock_pairs()
        if not pairs:
            raise TraceError(f"{capture.path}: has no clock pair to align its ports with its trace")
        if not (capture.path / BPF_TABLES).is_file():
            raise TraceError(f"{capture.path}: has no {BPF_TABLES}: it was recorded without bpf")
        self._origin_tsc, self._origin_ns = pairs[0].middle, pairs[0].monotonic_ns
        self._hz = hz
        self._lines = capture.lines(BPF_TABLES)
        self._next: dict[str, Any] | None = None
        self._table = PortTable()

    def poll(self) -> None:
        """Do nothing: all lines are already there."""

    def period(self, end_tsc: int) -> PortPeriod:
        """Return the figures since the last call, from the lines up to ``end_tsc``."""
        end_ns = self._origin_ns + (end_tsc - self._origin_tsc) / self._hz * 1e9
        while True:
            line, self._next = self._next or next(self._lines, None), None
            if line is None:
                break
            if line.get("t_ns", 0) > end_ns:
                self._next = line
                break
            self._table.take(line)
        return self._table.period()


@contextlib.contextmanager
def open_live_ports() -> Iterator[LivePorts]:
    """Count dom0's ports for as long as the context lasts.

    Raises:
        TraceError: bpf does not work here; the message says how to fix it.
    """
    backend = BpfBackend()
    found = backend.probe()
    if not found.usable:
        raise TraceError(f"-p needs bpf: {found.reason}{f'; {found.remedy}' if found.remedy else ''}")
    memory = _Memory()
    try:
        backend.start(memory, Options())
        yield LivePorts(backend, memory)
    finally:
        backend.stop()


class _Memory:
    """A capture folder with one file, kept in memory until it is read."""

    def __init__(self) -> None:
        self._content = b""

    def stream(self, name: str) -> _Memory:
        return self

    def file(self, name: str) -> int:
        raise NotImplementedError(f"nothing here writes {name} itself")

    def write(self, content: bytes) -> None:
        self._content += content

    def flush(self) -> None:
        pass

    def lines(self) -> Iterator[dict[str, Any]]:
        whole, _, self._content = self._content.rpartition(b"\n")
        for line in whole.split(b"\n"):
            if line:
                yield json.loads(line)


def _bounded(table: dict[Any, Any]) -> dict[Any, Any]:
    """Return ``table``, emptied if it has grown larger than any real host needs."""
    if len(table) > _MAX_PORTS:
        table.clear()
    return table
