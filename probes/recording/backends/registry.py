"""The available backends, in the order in which they start; each is imported when it is needed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module

from xtrace.probes.errors import TraceError
from xtrace.probes.recording.backends.base import Availability, Backend, Options

#: xentrace is last, to keep the start-up of the others out of its trace.
_HOMES = {
    "bpf": ("xtrace.probes.recording.backends.bpf", "BpfBackend"),
    "perf": ("xtrace.probes.recording.backends.perf", "PerfBackend"),
    "xenctx": ("xtrace.probes.recording.backends.xenctx", "XenctxBackend"),
    "xentrace": ("xtrace.probes.recording.backends.xentrace", "XentraceBackend"),
}
NAMES = tuple(_HOMES)
#: Used where none is named: they disturb little.  xenctx pauses the domain that it samples, and perf
#: interrupts every CPU at a fixed rate.
XEN = "xentrace"
DEFAULT = ("bpf", XEN)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A backend and whether it works here."""

    backend: Backend
    availability: Availability


def make(name: str) -> Backend:
    """Return the backend ``name``, not started."""
    module, attribute = _HOMES[name]
    made: Backend = getattr(import_module(module), attribute)()
    return made


def candidates(names: Iterable[str]) -> list[Candidate]:
    """Ask each backend in ``names`` whether it works here, without changing anything."""
    found = []
    for name in NAMES:
        if name in names:
            backend = make(name)
            found.append(Candidate(backend, backend.probe()))
    return found


def must_work(found: Sequence[Candidate], *, named: bool) -> None:
    """Raise if none works, or if one that was asked for by name does not.

    Raises:
        TraceError: with the reason for each.
    """
    bad = [each for each in found if not each.availability.usable]
    if bad and (named or len(bad) == len(found)):
        reasons = "; ".join(f"{each.backend.name}: {_why(each.availability)}" for each in bad)
        raise TraceError(f"no backend can record here: {reasons}" if not named else reasons)


def must_honour(found: Sequence[Candidate], options: Options) -> None:
    """Raise if none of the backends that are used honours an option that the user gave.

    Raises:
        TraceError: with the backend to add.
    """
    used = {each.backend.name for each in found if each.availability.usable}
    for option, backends in options.asked().items():
        if used.isdisjoint(backends):
            raise TraceError(
                f"{option} is for {' and '.join(backends)}, which would not record: "
                f"add --backend {backends[0]}, or leave {option} out"
            )


def _why(found: Availability) -> str:
    return f"{found.reason} ({found.remedy})" if found.remedy else found.reason
