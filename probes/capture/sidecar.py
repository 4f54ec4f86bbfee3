"""Read the file that a recorder leaves beside a trace, because a trace has no header.

It is ``TRACE.json``, or the ``meta.json`` of the capture that contains the trace: a
JSON object.  Keys used here: ``tsc_hz``, the frequency of the host's TSC,
``xen_version``, such as "4.17", and ``timing``, which is "emulated" if
software emulated the host's processors.  Other keys are ignored.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path

from xtrace.probes.capture.layout import META, TRACE
from xtrace.probes.errors import TraceError

_MAX_BYTES = 1 << 20
#: The meta.json of a capture also lists every domain and event channel.
_MAX_META_BYTES = 64 << 20
_HZ_RANGE = (1e8, 2e10)
_TIMINGS = (None, "emulated", "hardware")


@dataclass(frozen=True, slots=True)
class Sidecar:
    """Facts about a trace from the file beside it.

    Attributes:
        path: the file they were read from.
        tsc_hz: TSC cycles per second, or None.
        xen_version: as written there, or None.
        emulated: whether software emulated the host's processors.
    """

    path: Path
    tsc_hz: float | None
    xen_version: str | None
    emulated: bool = False


def sidecar_of(trace: str | os.PathLike[str]) -> Sidecar | None:
    """Return the sidecar of a trace file or of a capture's folder, or None if there is none.

    Raises:
        TraceError: it exists and is not valid.
    """
    path = _path(Path(trace))
    if not path.is_file():
        return None
    most = _MAX_META_BYTES if path.name == META else _MAX_BYTES
    with path.open("rb") as file:
        text = file.read(most + 1)
    try:
        if len(text) > most:
            raise ValueError(f"larger than {most} bytes")
        content = json.loads(text)
        if not isinstance(content, dict):
            raise ValueError("not a JSON object")
        hz = content.get("tsc_hz")
        if hz is not None and not (isinstance(hz, int | float) and _HZ_RANGE[0] <= hz <= _HZ_RANGE[1]):
            raise ValueError(f"tsc_hz is {hz!r}, not a TSC frequency in Hz")
        version = content.get("xen_version")
        if version is not None and not isinstance(version, str):
            raise ValueError(f"xen_version is {version!r}, not a string")
        timing = content.get("timing")
        if timing not in _TIMINGS:
            raise ValueError(f"timing is {timing!r}, neither emulated nor hardware")
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{path}: not a valid sidecar: {error}; fix it or move it away") from None
    return Sidecar(path, float(hz) if hz is not None else None, version, timing == "emulated")


def _path(trace: Path) -> Path:
    if trace.is_dir():
        return trace / META
    inside = trace.parent / META
    if trace.name.startswith(TRACE) and inside.is_file():
        return inside
    return Path(f"{trace}.json")
