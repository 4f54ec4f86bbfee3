"""The interface between `xtrace record` and its backends: xentrace, bpf, perf, xenctx."""

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
        remedy: the command that fixes it; empty if nothing does or nothing needs fixing.
        missing: what it cannot record although it is usable, one line each.
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
        memory_mib: keep only the last ``memory_mib`` MiB, in memory, until the end; None writes at once.
        reserve_mib: disk space to leave free.
        events: stream raw bpf events in addition to the histograms.
        sample_hz: RIP samples per second and CPU.
        domains: to sample with xenctx; empty means all PV guests.
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

    def asked(self) -> dict[str, tuple[str, ...]]:
        """Return the options that differ from their default, and the backends that honour each."""
        usual = Options()
        return {
            option: backends
            for option, name, backends in _HONOURED_BY
            if getattr(self, name) != getattr(usual, name)
        }


#: Options of the command that only some backends honour: its name, that of the field, these backends.
_HONOURED_BY = (
    ("--class", "mask", ("xentrace",)),
    ("--pcpu", "pcpus", ("xentrace",)),
    ("--ring-pages", "ring_pages", ("xentrace",)),
    ("--poll-ms", "poll_ms", ("xentrace",)),
    ("--memory", "memory_mib", ("xentrace",)),
    ("--events", "events", ("bpf",)),
    ("--frequency", "sample_hz", ("perf", "xenctx")),
    ("--domain", "domains", ("xenctx",)),
)


@dataclass(frozen=True, slots=True)
class Counts:
    """What a backend has recorded so far.

    Attributes:
        records: written; lost: exact number known to be lost; byte_count: in the capture.
        lost_known: False if ``lost`` is only a lower bound.
    """

    records: int = 0
    lost: int = 0
    byte_count: int = 0
    lost_known: bool = True


class Backend(Protocol):
    """One way to record.

    A backend that changes the host (tracing on, a pmu mode) first notes that with
    ``restore.note()``, so that the next start can undo it.
    """

    name: str

    def probe(self) -> Availability:
        """Return whether it works here, without changing anything."""

    def start(self, folder: Folder, options: Options) -> None:
        """Start recording.

        Raises:
            TraceError: it does not work after all.
        """

    def poll(self) -> Counts:
        """Append what has arrived since the last call to the capture.  Called about every tenth of a second.

        Raises:
            TraceError: it has died; what it recorded until then stays.
            CaptureFullError: no more fits.
        """

    def stop(self) -> Counts:
        """Stop recording, restore the host, and return the final counts.  May be called twice."""

    def facts(self) -> Mapping[str, Any]:
        """Return the facts for meta.json: tool versions, what was chosen, what is missing, overhead.

        "warnings" holds lines that are shown to the user, each once, when it has started and later on.
        """


@dataclass(slots=True)
class Overhead:
    """What recording cost the host.

    Attributes:
        cpu_s: of the recorder and its children.
        cpu_s_by_backend: the part of each.
        own_upcalls: upper bound of the upcalls in dom0 that the recorder itself caused; None is unknown.
        notes: how each is known.
    """

    cpu_s: float = 0.0
    cpu_s_by_backend: dict[str, float] = field(default_factory=dict)
    own_upcalls: int | None = None
    notes: list[str] = field(default_factory=list)
