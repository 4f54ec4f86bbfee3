"""Undo what a recorder changed on the host, even if it was killed.

Before a backend changes the host, it leaves a note in a folder under /run; it removes the
note once the host is as it was.  The next start acts on notes whose writer is gone.  A boot
empties /run, and undoes the changes too.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtrace.probes.errors import TraceError

#: Overrides the folder of the notes and the lock, for tests: they must not get into each other's way.
RUN_DIRECTORY_VARIABLE = "XTRACE_RUN_DIR"
_RUN_DIRECTORY = "/run/xtrace"
_NOTE_SUFFIX = ".note"

Undo = Callable[[Mapping[str, Any]], None]


@dataclass(slots=True)
class Note:
    """A change to the host that is still to be undone.

    Attributes:
        kind: a key of UNDO.
        data: what undoing it needs, as JSON values.
        path: the note's file.
    """

    kind: str
    data: Mapping[str, Any]
    path: Path

    def drop(self) -> None:
        """Remove the note: the host is as it was.  May be called twice."""
        self.path.unlink(missing_ok=True)

    def undo(self) -> None:
        """Undo the change, then remove the note.

        Raises:
            OSError, TraceError: undoing failed; the note stays for the next start.
        """
        if self.kind not in UNDO:
            raise TraceError(f"{self.path}: cannot undo an unknown change: {self.kind!r}")
        UNDO[self.kind](self.data)
        self.drop()


def run_path() -> Path:
    """Return the folder of the notes and the lock, whether or not it exists."""
    return Path(os.environ.get(RUN_DIRECTORY_VARIABLE) or _RUN_DIRECTORY)


def run_directory() -> Path:
    """Return the folder of the notes and the lock, created with mode 0700 if need be."""
    directory = run_path()
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    return directory


def note(kind: str, data: Mapping[str, Any]) -> Note:
    """Leave a note of a change that is about to be made.

    Args:
        kind: a key of UNDO.
        data: what undoing it needs, as JSON values.
    """
    if kind not in UNDO:
        raise ValueError(f"no way to undo {kind!r}")
    directory = run_directory()
    pid = os.getpid()
    content = {"kind": kind, "data": dict(data), "pid": pid, "started": _started(pid)}
    number = 0
    while (path := directory / f"{pid}-{number}{_NOTE_SUFFIX}").exists():
        number += 1
    new = path.with_suffix(".new")
    new.write_text(json.dumps(content))
    new.replace(path)
    return Note(kind, dict(data), path)


def recover() -> list[str]:
    """Undo what recorders that are gone left; return a line for each: what was undone, or why it was not."""
    done = []
    for path in sorted(run_directory().glob(f"*{_NOTE_SUFFIX}")):
        try:
            text = path.read_text()
        except FileNotFoundError:
            continue  # its writer removed it meanwhile
        try:
            content = json.loads(text)
            if writer_lives(content):
                continue  # the writer undoes it itself
            left = Note(content["kind"], content["data"], path)
            left.undo()
        except (OSError, TraceError, KeyError, TypeError, ValueError) as error:
            done.append(f"could not undo what a recorder left, {path}: {error}")
        else:
            done.append(f"undid what a killed recorder left: {_described(left)}")
    return done


def writer_lives(content: Mapping[str, Any]) -> bool:
    """Return whether the process that left a note still runs: PID and start time, because PIDs are reused.

    Raises:
        KeyError, TypeError: it is not a note.
    """
    return bool(_started(content["pid"]) == content["started"])


def _described(left: Note) -> str:
    return f"{left.kind} {left.data.get('path', '')}".rstrip()


def _started(pid: int) -> str | None:
    """Return when a process started, in clock ticks since boot, None if it does not run."""
    with contextlib.suppress(OSError):
        stat = Path(f"/proc/{pid}/stat").read_text()
        # The name, field 2, may contain spaces and parentheses.
        fields = stat.rpartition(")")[2].split()
        return None if fields[0] == "Z" else fields[19]
    return None


def _put_back(data: Mapping[str, Any]) -> None:
    """Write ``data["content"]`` into ``data["path"]``, such as /sys/hypervisor/pmu/pmu_mode."""
    Path(data["path"]).write_text(data["content"])


def _stop_xentrace(data: Mapping[str, Any]) -> None:
    from xtrace.probes.host import dom0, trace_buffers

    # A running xentrace, whoever started it, needs tracing on, and switches it off when it ends.
    if not dom0.running("xentrace"):
        trace_buffers.switch_off()


#: file: write content back to path.  xen_tracing: switch Xen's tracing off.
UNDO: dict[str, Undo] = {"file": _put_back, "xen_tracing": _stop_xentrace}
