"""Read the file that a recorder leaves beside a trace, because a trace has no header.

It is ``TRACE.json``, or the ``meta.json`` of the capture that contains the trace: a
JSON object.  Keys used here: ``tsc_hz``, the frequency of the host's TSC,
``xen_version``, such as "4.17", and ``timing``, which is "emulated" if
software emulated the host's processors.  Other keys are ignored.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtrace.probes.capture.inside import MAX_META_BYTES, check
from xtrace.probes.capture.layout import META, TRACE
from xtrace.probes.errors import TraceError
from xtrace.probes.format import MAX_PCPUS
from xtrace.probes.selection.event_masks import event_mask
from xtrace.probes.tsc_rate import is_possible

_MAX_BYTES = 1 << 20
_XENTRACE_FACTS = ("backends", "xentrace", "facts")
_TIMINGS = (None, "emulated", "hardware")


@dataclass(frozen=True, slots=True)
class Sidecar:
    """Facts about a trace from the file beside it.

    Attributes:
        path: the file they were read from.
        tsc_hz: TSC cycles per second, or None.
        xen_version: as written there, or None.
        emulated: whether software emulated the host's processors.
        event_mask: the event classes that xentrace was to record, or None.
        pcpus: number of the host's pCPUs, or None.
        is_shared: another xentrace ran meanwhile and took some of the records.
    """

    path: Path
    tsc_hz: float | None
    xen_version: str | None
    emulated: bool = False
    event_mask: int | None = None
    pcpus: int | None = None
    is_shared: bool = False


def sidecar_of(trace: str | os.PathLike[str]) -> Sidecar | None:
    """Return the sidecar of a trace file or of a capture's folder, or None if there is none.

    Raises:
        TraceError: it exists and is not valid.
    """
    path = _path(Path(trace))
    if path.name == META and path.parent == Path(trace):
        check(path.parent)
    if not path.is_file():
        return None
    most = MAX_META_BYTES if path.name == META else _MAX_BYTES
    with path.open("rb") as file:
        text = file.read(most + 1)
    try:
        if len(text) > most:
            raise ValueError(f"larger than {most} bytes")
        content = json.loads(text)
        if not isinstance(content, dict):
            raise ValueError("not a JSON object")
        hz = content.get("tsc_hz")
        if hz is not None and not (isinstance(hz, int | float) and is_possible(hz)):
            raise ValueError(f"tsc_hz is {hz!r}, not a TSC frequency in Hz")
        version = content.get("xen_version")
        if version is not None and not isinstance(version, str):
            raise ValueError(f"xen_version is {version!r}, not a string")
        timing = content.get("timing")
        if timing not in _TIMINGS:
            raise ValueError(f"timing is {timing!r}, neither emulated nor hardware")
    except (ValueError, RecursionError, OverflowError) as error:
        raise TraceError(f"{path}: not a valid sidecar: {error}; fix it or move it away") from None
    return Sidecar(
        path,
        float(hz) if hz is not None else None,
        version,
        timing == "emulated",
        _event_mask(content),
        _pcpus(content),
        bool(_inside(content, *_XENTRACE_FACTS, "shared_with")),
    )


def _event_mask(content: Mapping[str, Any]) -> int | None:
    """Return the mask of event classes: that of a capture, or -e of the command in a sidecar."""
    text = _inside(content, *_XENTRACE_FACTS, "event_mask")
    if text is None:
        words = str(content.get("command", "")).split()
        text = words[words.index("-e") + 1] if "-e" in words[:-1] else None
    try:
        return event_mask(str(text)) if text is not None else None
    except ValueError:
        return None


def _pcpus(content: Mapping[str, Any]) -> int | None:
    """Return the number of the host's pCPUs."""
    info = _inside(content, "xen", "info")
    number = info.get("nr_cpus") if isinstance(info, dict) else content.get("pcpus")
    try:
        found = int(str(number))
    except ValueError:
        return None
    return found if 0 < found <= MAX_PCPUS else None


def _inside(content: object, *keys: str) -> object:
    """Return what is under nested keys; None where a key is missing."""
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content


def _path(trace: Path) -> Path:
    if trace.is_dir():
        return trace / META
    inside = trace.parent / META
    if trace.name.startswith(TRACE) and inside.is_file():
        return inside
    return Path(f"{trace}.json")
