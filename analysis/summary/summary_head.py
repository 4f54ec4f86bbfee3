"""Identify stored summaries without importing NumPy: whether a file is one, and of which trace.

A summary is a zip archive whose first member is its head, ``xtrace-summary.json``.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from xtrace import __version__
from xtrace.analysis.state_machine.metrics import Metric
from xtrace.probes.capture import inside
from xtrace.probes.capture.layout import MAX_WEIGHT
from xtrace.probes.errors import TraceError
from xtrace.probes.intact.compressed import refuse_holes
from xtrace.probes.tsc_rate import is_possible

SCHEMA_VERSION = 9
SUFFIX = ".summary"
#: The ends of a cost interval: least, least and greatest with no cache misses, greatest.
COST_ENDS = ("low", "hot_low", "hot", "high")
HEAD = "xtrace-summary.json"

#: What Python's readers can raise on a damaged or malicious archive.
BROKEN = (
    ValueError, TypeError, KeyError, AttributeError, EOFError, NotImplementedError, RuntimeError,
    RecursionError, OverflowError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip

_MAX_HEAD_BYTES = 4 << 20
#: Of all members together, and of those that are JSON: text takes twenty times its size as objects.
_MAX_BYTES = 256 << 20
_MAX_JSON_BYTES = 16 << 20
_MAX_MEMBERS = 1000
_MAX_NAME = 200
#: How members may be compressed; the errors of Python's other decompressors are not in BROKEN.
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class OtherVersionError(TraceError):
    """A summary whose schema, frames or metrics are not those of this version."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What is known about a summary's trace besides its records.

    Attributes:
        name: the trace as the user named it.
        tsc_hz: TSC rate from a sidecar file or the user; None to estimate it from the records.
        tsc_hz_source: how ``tsc_hz`` is known.
        emulated: software emulated the host.
        window: the part of the trace that was counted, in words; empty for all of it.
        domains: names of domains by id, where the recorder saved them.
        files: name and SHA-256 of each file that it was made from, where it is kept beside them; else empty.
        costs: by domain, the share of its running time that fences take (COST_ENDS), from a report with
            image and calibration; empty without one.
        weights: of each vCPU in the scheduler, by domain, as the recorder noted them.
        recorder_cpu_s: CPU time that recording took; None where it is not known.
    """

    name: str
    tsc_hz: float | None = None
    tsc_hz_source: str = ""
    emulated: bool = False
    window: str = ""
    domains: Mapping[int, str] = field(default_factory=dict)
    files: tuple[tuple[str, str], ...] = ()
    costs: Mapping[int, tuple[float, ...]] = field(default_factory=dict)
    weights: Mapping[int, float] = field(default_factory=dict)
    recorder_cpu_s: float | None = None


def is_summary(path: str | os.PathLike[str]) -> bool:
    """Return whether the file at ``path`` starts like a summary; False where it does not exist."""
    mark = HEAD.encode()
    try:
        # What is read from a pipe here would be lost to the reader.
        if not Path(path).is_file():
            return False
        with open(path, "rb") as file:
            start = file.read(30 + len(mark))
    except OSError:
        return False
    return start.startswith(b"PK\x03\x04") and start[30:] == mark


def beside(trace: Path) -> Path:
    """Return the path at which the summary of a trace or of a capture folder is kept."""
    return trace / SUFFIX[1:] if trace.is_dir() else trace.with_name(trace.name + SUFFIX)


def files_of(trace: Path) -> tuple[tuple[str, str], ...]:
    """Return name and SHA-256 of a trace and its sidecar, or of all files in a folder.

    Raises:
        OSError: one cannot be read.
        TraceError: the folder contains what a capture never does, or a file is all holes.
    """
    if trace.is_dir():
        own = beside(trace)
        found = sorted(path for path in inside.files(trace) if path != own)
    else:
        found = [path for path in (trace, Path(f"{trace}.json")) if path.is_file()]
    top = trace if trace.is_dir() else trace.parent
    return tuple((path.relative_to(top).as_posix(), _sha256(path)) for path in found)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        refuse_holes(file.fileno(), str(path))
        return hashlib.file_digest(file, "sha256").hexdigest()


def kept(trace: Path) -> Path | None:
    """Return the path of the summary kept for a trace, or None if none was made from what the trace is now.

    Raises:
        OSError: the trace cannot be read.
    """
    path = beside(trace)
    if not is_summary(path):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            head = head_of(archive)
            if head["xtrace_version"] != __version__:
                return None
            origin = origin_of(head)
    except BROKEN:
        return None
    return path if not origin.window and origin.files and origin.files == files_of(trace) else None


def names_in(path: Path) -> Mapping[int, str]:
    """Return the names of domains by id in a stored summary; empty where it cannot be read."""
    try:
        with zipfile.ZipFile(path) as archive:
            return origin_of(head_of(archive)).domains
    except (*BROKEN, OSError, TraceError):
        return {}


def head_for(origin: Origin) -> dict[str, Any]:
    """Return the part of a head that identifies the trace and the version of the tables."""
    return {
        "schema_version": SCHEMA_VERSION,
        "xtrace_version": __version__,
        "origin": asdict(origin),
        "metrics": _metrics(),
    }


def head_of(archive: zipfile.ZipFile) -> dict[str, Any]:
    """Check the sizes in a summary's archive and return its head.

    Raises:
        OtherVersionError: another version of the tables wrote it.
        Exception: one of BROKEN: it is damaged.
    """
    sizes = {member.filename: member.file_size for member in archive.infolist()}
    if len(sizes) > _MAX_MEMBERS or sum(sizes.values()) > _MAX_BYTES:
        raise ValueError(f"more than {_MAX_MEMBERS} members or {_MAX_BYTES >> 20} MiB")
    if sum(size for name, size in sizes.items() if not name.endswith(".npy")) > _MAX_JSON_BYTES:
        raise ValueError(f"more than {_MAX_JSON_BYTES >> 20} MiB of text")
    if any(member.compress_type not in _COMPRESSIONS for member in archive.infolist()):
        raise ValueError("a member is compressed in another way")
    if sizes[HEAD] > _MAX_HEAD_BYTES:
        raise ValueError("its head is too large")
    head = json.loads(archive.read(HEAD))
    if not isinstance(head, dict):
        raise ValueError("its head is not a JSON object")
    if head["schema_version"] != SCHEMA_VERSION:
        raise OtherVersionError("another schema")
    if head["metrics"] != _metrics():
        raise OtherVersionError("other metrics")
    return head


def origin_of(head: Mapping[str, Any]) -> Origin:
    """Return the origin in a summary's head.

    Raises:
        Exception: one of BROKEN: it is damaged.
    """
    found = head["origin"]
    hz = found["tsc_hz"]
    if hz is not None and not (isinstance(hz, int | float) and is_possible(hz)):
        raise ValueError("its tsc_hz is not a possible TSC rate")
    name, source, window = (found[key] for key in ("name", "tsc_hz_source", "window"))
    if not all(isinstance(text, str) for text in (name, source, window)):
        raise ValueError("name, tsc_hz_source or window in its origin is not text")
    domains = {int(domain): str(text)[:_MAX_NAME] for domain, text in found["domains"].items()}
    files = tuple((str(path), str(digest)) for path, digest in found["files"])
    costs = {int(domain): tuple(map(float, ends)) for domain, ends in found["costs"].items()}
    if any(len(ends) != len(COST_ENDS) or not all(abs(end) <= 1 for end in ends) for ends in costs.values()):
        raise ValueError(f"its costs are not {len(COST_ENDS)} shares from -1 to 1")
    weights = {int(domain): float(weight) for domain, weight in found["weights"].items()}
    if not all(0 < weight <= MAX_WEIGHT for weight in weights.values()):
        raise ValueError(f"its weights are not up to {MAX_WEIGHT}")
    cpu_s = found["recorder_cpu_s"]
    if cpu_s is not None and not 0 <= float(cpu_s) < math.inf:
        raise ValueError("its recorder_cpu_s is not a time")
    emulated = found["emulated"] is True
    return Origin(name, hz, source, emulated, window, domains, files, costs, weights, cpu_s)


@cache
def _metrics() -> dict[str, int]:
    return {metric.name: int(metric) for metric in Metric}
