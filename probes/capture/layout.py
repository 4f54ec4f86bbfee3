"""Read a capture of `xtrace record`, ``NAME.xtrace/``, complete or cut short.

================  ===============================================================
file              content
================  ===============================================================
meta.json         the host, its domains, the clocks, each backend, losses, cost
xentrace.bin      xentrace's output, unmodified
xentrace.log      xentrace's messages
clocks.jsonl      one JSON object per line: clock pairs, markers, clock steps
progress.jsonl    one JSON object per line: each second, counts and losses by backend;
                  domains that came and went
bpf/, events/...  files of other backends
================  ===============================================================

After a kill, a full disk or a power cut all files can be read up to their last complete line or record,
and ``meta.json`` is the one from the start: its ``state`` is "recording".
Uses only the standard library.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xtrace.probes.capture.inside import MAX_META_BYTES, check
from xtrace.probes.errors import TraceError

if TYPE_CHECKING:
    from xtrace.probes.capture.clock_line import ClockPair

SUFFIX = ".xtrace"
META = "meta.json"
TRACE = "xentrace.bin"
TRACE_LOG = "xentrace.log"
CLOCKS = "clocks.jsonl"
PROGRESS = "progress.jsonl"
BPF_TABLES = "bpf/tables.jsonl"
BPF_EVENTS = "events"
SAMPLES = "samples"
SYMBOLS = "perf/symbols.jsonl"
XENCTX_SAMPLES = "xenctx/samples.jsonl"
#: What to say of a capture that is_dom0_only() finds.
WITHOUT_TRACE = f"has no Xen trace ({TRACE})"
TRACE_REMEDY = "xtrace record without --backend, in a dom0, makes one"

#: What shows that bpf, perf or xenctx recorded.
_DOM0_FILES = (BPF_TABLES, f"{SAMPLES}/metadata", XENCTX_SAMPLES)
_SCHEMA_VERSIONS = (1,)
_MAX_LINE_BYTES = 1 << 20
#: The greatest weight that xl sets.
MAX_WEIGHT = 65535
_MAX_LENGTH_S = 1e9
_STDIN = "-"
#: A user may have compressed the trace.
_ENDINGS = ("", ".zst", ".xz", ".gz")


@dataclass(frozen=True, slots=True)
class Mark:
    """A marker; Xen's record of it has a TSC between the two that were read around sending it.

    Attributes:
        before, after: TSC cycles before and after it was sent.
        number: its second argument.
        cpu: the kernel's number of the CPU that sent it, or None.
    """

    before: int
    after: int
    number: int
    cpu: int | None


@dataclass(frozen=True, slots=True)
class Capture:
    """A capture on disk.

    Attributes:
        path: its folder.
        meta: the content of meta.json; other versions may have more or fewer keys.
    """

    path: Path
    meta: Mapping[str, Any]

    @property
    def has_ended(self) -> bool:
        """Return whether the recorder ended normally; otherwise it was killed or is still recording."""
        return self.meta.get("state") == "ended"

    @property
    def domain_names(self) -> dict[int, str]:
        """Return the domains' names by id; guests choose them, so escape them."""
        rows = self.meta.get("domains")
        return {
            row["id"]: row["name"]
            for row in (rows if isinstance(rows, list) else [])
            if isinstance(row, dict) and isinstance(row.get("id"), int) and isinstance(row.get("name"), str)
        }

    @property
    def weights(self) -> dict[int, float]:
        """Return the weight of each vCPU by domain, where the scheduler has weights and the recorder knew."""
        rows = self.meta.get("domains")
        by_domain = self.meta.get("scheduler") == "credit"
        found = {}
        for row in rows if isinstance(rows, list) else []:
            if not isinstance(row, dict) or not isinstance(row.get("id"), int):
                continue
            weight, vcpus = row.get("weight"), row.get("vcpus")
            count = len(vcpus) if isinstance(vcpus, list) and by_domain else 1
            if isinstance(weight, int) and 0 < weight <= MAX_WEIGHT and count:
                found[row["id"]] = weight / count
        return found

    @property
    def recorder_cpu_s(self) -> float | None:
        """Return the CPU time that recording took, as the recorder noted it at the end; None without it."""
        cost = self.meta.get("overhead")
        cpu_s = cost.get("cpu_s") if isinstance(cost, dict) else None
        return float(cpu_s) if isinstance(cpu_s, int | float) and 0 <= cpu_s < _MAX_LENGTH_S else None

    @property
    def has_trace(self) -> bool:
        """Return whether it contains Xen's trace."""
        return _trace(self.path) is not None

    @property
    def lost(self) -> dict[str, int]:
        """Return the number of lost records by backend: the final one, or that of the last progress line."""
        if self.has_ended:
            found = self.meta.get("lost")
            return dict(found) if isinstance(found, dict) else {}
        last = self.last_progress().get("backends") or {}
        return {name: int(counts["lost"]) for name, counts in last.items()}

    @property
    def length_s(self) -> float | None:
        """Return the length that the recorder noted at the end, else last; None if it noted none."""
        found = self.meta.get("duration_s") if self.has_ended else self.last_progress().get("elapsed_s")
        return float(found) if isinstance(found, int | float) and 0 < found < _MAX_LENGTH_S else None

    def last_progress(self) -> Mapping[str, Any]:
        """Return the last line about the progress of the recording; empty if there is none."""
        last: Mapping[str, Any] = {}
        for line in self.lines(PROGRESS):
            if line.get("kind") == "progress":
                last = line
        return last

    def lines(self, name: str) -> Iterator[dict[str, Any]]:
        """Yield the objects of the complete lines of a .jsonl file; none if there is no such file.

        Raises:
            TraceError: a complete line is not a JSON object, or a line is longer than any that is written.
        """
        path = self.path / name
        if not path.is_file():
            return
        with open(path, "rb") as file:
            number = 0
            while line := file.readline(_MAX_LINE_BYTES + 1):
                number += 1
                if len(line) > _MAX_LINE_BYTES:
                    raise TraceError(f"{path}: line {number} is longer than {_MAX_LINE_BYTES >> 20} MiB")
                if not line.endswith(b"\n"):
                    return  # cut short
                try:
                    found = json.loads(line)
                    if not isinstance(found, dict):
                        raise ValueError("not a JSON object")
                except (ValueError, RecursionError) as error:
                    raise TraceError(f"{path}: line {number} is damaged: {error}") from None
                yield found

    def clock_pairs(self) -> list[ClockPair]:
        """Return the readings of TSC and CLOCK_MONOTONIC."""
        from xtrace.probes.capture.clock_line import ClockPair

        return [
            ClockPair(line["tsc"][0], line["monotonic_ns"], line["tsc"][1], line.get("cpu"))
            for line in self.lines(CLOCKS)
            if line.get("kind") == "pair"
        ]

    def marks(self) -> list[Mark]:
        """Return the markers that the recorder sent into Xen's trace."""
        return [
            Mark(line["tsc"][0], line["tsc"][1], line["number"], line.get("cpu"))
            for line in self.lines(CLOCKS)
            if line.get("kind") == "mark"
        ]


def told_by(path: str | os.PathLike[str]) -> Capture | None:
    """Return the capture at a path; None for a bare trace.

    Raises:
        TraceError: its meta.json cannot be understood.
    """
    return open_capture(path) if (Path(path) / META).is_file() else None


def is_capture(path: str | os.PathLike[str]) -> bool:
    """Return whether ``path`` is the folder of a capture."""
    folder = Path(path)
    return folder.is_dir() and ((folder / META).is_file() or _trace(folder) is not None)


def is_dom0_only(path: str | os.PathLike[str]) -> bool:
    """Return whether ``path`` is a capture without Xen's trace, by bpf, perf or xenctx alone."""
    folder = Path(path)
    return (
        os.fspath(path) != _STDIN
        and (folder / META).is_file()
        and _trace(folder) is None
        and any((folder / name).is_file() for name in _DOM0_FILES)
    )


def has_events(path: str | os.PathLike[str]) -> bool:
    """Return whether bpf wrote each event to a capture (``record --events``)."""
    return (Path(path) / BPF_EVENTS / "metadata").is_file()


def open_capture(path: str | os.PathLike[str]) -> Capture:
    """Open a capture; reads only its meta.json.

    Raises:
        TraceError: it is not a capture, it contains what none does, or it was written by a later xtrace.
    """
    folder = Path(path)
    file = folder / META
    if folder.is_dir():
        check(folder)
    if not file.is_file():
        raise TraceError(f"{folder}: not a capture: it contains no {META}")
    with file.open("rb") as content:
        text = content.read(MAX_META_BYTES + 1)
    try:
        if len(text) > MAX_META_BYTES:
            raise ValueError(f"larger than {MAX_META_BYTES >> 20} MiB")
        meta = json.loads(text)
        if not isinstance(meta, dict):
            raise ValueError("not a JSON object")
    except (ValueError, RecursionError) as error:
        raise TraceError(f"{file}: is damaged: {error}; {TRACE} beside it can still be read") from None
    if meta.get("schema_version") not in _SCHEMA_VERSIONS:
        version = meta.get("schema_version")
        raise TraceError(f"{file}: unknown schema_version {version!r}; use the xtrace that wrote it")
    return Capture(folder, meta)


def names_of(path: str | os.PathLike[str]) -> dict[int, str]:
    """Return the names of domains by id that a capture has; a bare trace has none.

    Raises:
        TraceError: its meta.json cannot be understood.
    """
    return open_capture(path).domain_names if (Path(path) / META).is_file() else {}


def trace_in(path: str | os.PathLike[str]) -> str:
    """Return the path of the trace in a capture's folder, or any other path unchanged.

    Raises:
        TraceError: a folder without a trace.
    """
    folder = Path(path)
    if os.fspath(path) == _STDIN or not folder.is_dir():
        return os.fspath(path)
    found = _trace(folder)
    if found is not None:
        check(folder)
        return str(found)
    if is_dom0_only(folder):
        raise TraceError(f"{folder}: {WITHOUT_TRACE}; xtrace report and xtrace info read it")
    why = "was recorded without xentrace" if (folder / META).is_file() else "is a folder, not a trace"
    raise TraceError(f"{folder}: {why}; give a trace file, or a capture that contains {TRACE}")


def _trace(folder: Path) -> Path | None:
    return next((path for end in _ENDINGS if (path := folder / f"{TRACE}{end}").is_file()), None)
