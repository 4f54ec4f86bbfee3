"""Undo what a recorder changed on the host, even if it was killed.

Before a backend changes the host, it leaves a note in a folder under /run; it removes the
note once the host is as it was.  The next start acts on notes whose writer is gone.  A boot
empties /run, and undoes the changes too.  A note says what to undo, never where: whoever could
write one could not make root write elsewhere.
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
from xtrace.probes.host import dom0
from xtrace.probes.host.run_folder import BPF_SCRATCH, run_folder

NOTE_SUFFIX = ".note"
_KIND_CHARACTERS = 40
#: What dom0's /sys/hypervisor/pmu/pmu_mode can be set to.
_PMU_MODES = ("off", "self", "hv", "all")

Undo = Callable[[Mapping[str, Any]], None]


@dataclass(slots=True)
class Note:
    """A change to the host that is still to be undone.

    Attributes:
        kind: a key of UNDO.
        data: what undoing it needs, as JSON values.
        name: of the note's file.
    """

    kind: str
    data: Mapping[str, Any]
    name: str

    def drop(self) -> None:
        """Remove the note: the host is as it was.  May be called twice."""
        with run_folder() as folder:
            folder.remove(self.name)

    def undo(self) -> None:
        """Undo the change, then remove the note.

        Raises:
            OSError, TraceError: undoing failed; the note stays for the next start.
        """
        if self.kind not in UNDO:
            raise TraceError(f"cannot undo an unknown change: {self.kind!r}")
        UNDO[self.kind](self.data)
        self.drop()


def note(kind: str, data: Mapping[str, Any]) -> Note:
    """Leave a note of a change that is about to be made.

    Args:
        kind: a key of UNDO.
        data: what undoing it needs, as JSON values.
    """
    if kind not in UNDO:
        raise ValueError(f"no way to undo {kind!r}")
    pid = os.getpid()
    content = {"kind": kind, "data": dict(data), "pid": pid, "started": _started(pid)}
    with run_folder() as folder:
        taken = set(folder.names(NOTE_SUFFIX))
        number = 0
        while (name := f"{pid}-{number}{NOTE_SUFFIX}") in taken:
            number += 1
        folder.write(name, json.dumps(content).encode())
    return Note(kind, dict(data), name)


def recover() -> list[str]:
    """Undo what recorders that are gone left; return a line for each: what was undone, or why it was not."""
    done = []
    with run_folder() as folder:
        folder.clear(BPF_SCRATCH)
        for name in folder.names(NOTE_SUFFIX):
            try:
                found = parsed(folder.read(name))
                if found.writer_lives:
                    continue  # the writer undoes it itself
                Note(found.kind, found.data, name).undo()
            except FileNotFoundError:
                continue  # its writer removed it meanwhile
            except (OSError, TraceError) as error:
                path = folder.path / name
                done.append(f"could not undo what a recorder left, {path}: {error}")
            else:
                done.append(f"undid what a killed recorder left: {found.kind}")
    return done


@dataclass(frozen=True, slots=True)
class Left:
    """What a note says.

    Attributes:
        kind, data: as in Note.
        pid: of the process that left it.
        writer_lives: that process still runs: PID and start time, because PIDs are reused.
    """

    kind: str
    data: Mapping[str, Any]
    pid: int
    writer_lives: bool


def parsed(text: bytes) -> Left:
    """Return what a note says.

    Raises:
        TraceError: it is none.
    """
    try:
        content = json.loads(text)
        kind, data, pid, started = (content[key] for key in ("kind", "data", "pid", "started"))
    except (ValueError, RecursionError, KeyError, TypeError):
        raise TraceError("not a note of a recorder; remove it") from None
    is_kind = isinstance(kind, str) and len(kind) <= _KIND_CHARACTERS
    if not (is_kind and isinstance(data, dict) and isinstance(pid, int)):
        raise TraceError("not a note of a recorder; remove it")
    return Left(kind, data, pid, writer_lives=_started(pid) == started)


def _started(pid: int) -> str | None:
    """Return when a process started, in clock ticks since boot, None if it does not run."""
    with contextlib.suppress(OSError):
        stat = Path(f"/proc/{pid}/stat").read_text()
        # The name, field 2, may contain spaces and parentheses.
        fields = stat.rpartition(")")[2].split()
        return None if fields[0] == "Z" else fields[19]
    return None


def _put_back_pmu_mode(data: Mapping[str, Any]) -> None:
    mode = data.get("mode")
    if mode not in _PMU_MODES:
        raise TraceError(f"{str(mode)[:40]!r} is not a mode of {dom0.PMU_MODE}")
    dom0.PMU_MODE.write_text(mode)


def _stop_xentrace(data: Mapping[str, Any]) -> None:
    from xtrace.probes.host import trace_buffers

    # A running xentrace, whoever started it, needs tracing on, and switches it off when it ends.
    if not dom0.running("xentrace"):
        trace_buffers.switch_off()


#: pmu_mode: write it back.  xen_tracing: switch Xen's tracing off.
UNDO: dict[str, Undo] = {"pmu_mode": _put_back_pmu_mode, "xen_tracing": _stop_xentrace}
