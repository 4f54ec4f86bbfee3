"""The seam between `xtrace record` and what it records by: xentrace, bpf, perf, xenctx."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from xtrace.probes.capture.stream import Folder


@dataclass(frozen=True, slots=True)
class Availability:
    """Whether a backend can record here.

    Attributes:
        usable: it can.
        reason: why, or why not, in one line.
        remedy: the command that mends it; empty where nothing does, or nothing needs mending.
        missing: what it will do without, a line each, though it is usable.
    """

    usable: bool
    reason: str
    remedy: str = ""
    missing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked of the backends.

    Attributes:
        mask: trace classes by name, or one hexadecimal mask; xentrace's -e.
        pcpus: pCPUs to trace, as xentrace's -c takes them; None is all.
        ring_pages: pages of Xen's trace buffer on each pCPU; None leaves them as they are.
        poll_ms: how often xentrace empties them.
        memory_mib: keep only the last so many MiB, in memory, until the end; None writes at once.
        reserve_mib: of disk left free.
        events: stream raw bpf events, beside the histograms.
        sample_hz: RIP samples a second and pCPU.
        domains: to sample by xenctx; empty is all PV guests.
    """

    mask: str = "all"
    pcpus: str | None = None
    ring_pages: int | None = None
    poll_ms: int = 100
    memory_mib: int | None = None
    reserve_mib: int = 64
    events: bool = False
    sample_hz: int = 99
    domains: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Counts:
    """What a backend has recorded up to now.

    Attributes:
        records: written; lost: known to be lost, exactly; byte_count: in the capture.
        lost_known: False where losses cannot be counted before the end.
    """

    records: int = 0
    lost: int = 0
    byte_count: int = 0
    lost_known: bool = True


class Backend(Protocol):
    """One way to record.

    A backend that changes the host (tracing on, a pmu mode) notes that by
    ``restore.note()`` before it does, so that the next start can take it back.
    """

    name: str

    def probe(self) -> Availability:
        """Tell whether it works here, without changing anything."""

    def start(self, folder: Folder, options: Options) -> None:
        """Begin to record.

        Raises:
            TraceError: it does not work after all.
        """

    def poll(self) -> Counts:
        """Take what has come since and append it to the capture.  Called about every tenth of a second.

        Raises:
            TraceError: it has died; what it recorded up to then stays.
            CaptureFullError: no more fits.
        """

    def stop(self) -> Counts:
        """End it, leave the host as it was, and return the final counts.  May be called twice."""

    def facts(self) -> Mapping[str, Any]:
        """Return what meta.json says of it: tool versions, what was chosen, what is missing, overhead.

        Under "warnings" stand lines for the user, who is told them when it has started.
        """


@dataclass(slots=True)
class Overhead:
    """What recording cost the host.

    Attributes:
        cpu_s: of the recorder and its children.
        own_upcalls: upcalls of dom0 that the recorder itself caused, an upper bound; None is unknown.
        notes: how each is known.
    """

    cpu_s: float = 0.0
    own_upcalls: int | None = None
    notes: list[str] = field(default_factory=list)
