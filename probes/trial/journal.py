"""What a trial has changed and must put back, on disk before it changes it.

One file per target, in /run/xtrace for root and $XDG_RUNTIME_DIR/xtrace for others, both of which a boot
empties.  It lists every byte that any arm writes, so whoever finds it can put the code back at any moment.
The file is locked while a trial uses it, which is also what keeps a second trial from the same target.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xtrace.probes.errors import TraceError
from xtrace.probes.host.run_folder import run_path
from xtrace.probes.trial.target import Patch, TrialError

_SUFFIX = ".trial"
_FORMAT = 1
_MOST_BYTES = 8 << 20
_ARM_DIGITS = 4


@dataclass(frozen=True, slots=True)
class Entry:
    """What a journal holds.

    Attributes:
        pid, started: the process and its start time, because ids are reused.
        program: device and inode of what it executes.
        image: the image's path, for messages.
        arm: the arm written last; -1 before any.
        patches: everything that may have been written.
    """

    pid: int
    started: str
    program: str
    image: str
    arm: int
    patches: tuple[Patch, ...]


def directory() -> Path:
    """Return the folder of the journals, whether or not it exists.

    Raises:
        TrialError: a user without a runtime folder.
    """
    try:
        return run_path()
    except TraceError:
        raise TrialError(
            "no folder for the journal: XDG_RUNTIME_DIR is not set; log in as this user, or name a folder of "
            "its own that a reboot empties"
        ) from None


class Journal:
    """A journal that this process writes.

    Raises:
        TrialError: another trial has the target.
    """

    def __init__(self, pid: int) -> None:
        folder = directory()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = folder.stat()
        if owner.st_uid != os.geteuid() or stat.S_IMODE(owner.st_mode) & 0o022:
            raise TrialError(f"{folder}: others may write here, so it cannot hold a journal; remove it")
        self.path = folder / f"{pid}{_SUFFIX}"
        self.file = self._locked(pid)

    def _locked(self, pid: int) -> int:
        while True:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                raise TrialError(
                    f"process {pid}: another trial runs on it; wait until it ends, or stop it with Ctrl-C"
                ) from None
            # The one that held the lock before may have removed the file it is on.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file), self.path.stat()):
                    return file
            os.close(file)

    def leftover(self) -> Entry | None:
        """Return what an earlier trial left here, None if nothing."""
        return parsed(os.pread(self.file, _MOST_BYTES, 0), self.path)

    def begin(self, pid: int, image: str, patches: Sequence[Patch]) -> None:
        """Write everything that will be changed, before anything is."""
        head = f"{'-1':>{_ARM_DIGITS}}\n"
        content = {
            "format": _FORMAT,
            "pid": pid,
            "started": started(pid),
            "program": program(pid),
            "image": image,
            "patches": [
                [patch.address, patch.original.hex(), [arm.hex() for arm in patch.arms]] for patch in patches
            ],
        }
        data = (head + json.dumps(content) + "\n").encode()
        os.ftruncate(self.file, 0)
        os.pwrite(self.file, data, 0)
        os.fsync(self.file)

    def arm(self, number: int) -> None:
        """Note which arm is written next."""
        os.pwrite(self.file, f"{number:>{_ARM_DIGITS}}".encode(), 0)

    def finish(self) -> None:
        """Remove the journal: nothing is left to put back."""
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()
        os.close(self.file)

    def keep(self) -> None:
        """Leave the journal for the next start."""
        os.close(self.file)


def parsed(data: bytes, path: Path) -> Entry | None:
    """Return a journal's content, None if its trial had not begun to write.

    Raises:
        TrialError: it is damaged.
    """
    if not data:
        return None
    try:
        head, _, rest = data.partition(b"\n")
        content: dict[str, Any] = json.loads(rest)
        if content["format"] != _FORMAT:
            raise TrialError(f"{path}: a journal of another version of xtrace; restore with that version")
        patches = tuple(
            Patch(int(address), bytes.fromhex(original), tuple(bytes.fromhex(arm) for arm in arms))
            for address, original, arms in content["patches"]
        )
        return Entry(
            int(content["pid"]),
            str(content["started"]),
            str(content["program"]),
            str(content["image"]),
            int(head),
            patches,
        )
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        if isinstance(error, TrialError):
            raise
        raise TrialError(f"{path}: the journal of a trial is damaged: {error}") from None


def left() -> Iterator[Path]:
    """Yield the journals in the folder, in use or not."""
    with contextlib.suppress(TrialError):
        yield from sorted(directory().glob(f"*{_SUFFIX}"))


def in_use(path: Path) -> bool:
    """Return whether a trial, or its watchdog, works with a journal now."""
    try:
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(file)


def started(pid: int) -> str:
    """Return when a process started, in clock ticks since boot, "" if it does not run."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def program(pid: int) -> str:
    """Return device and inode of what a process executes, "" if it does not run."""
    try:
        found = Path(f"/proc/{pid}/exe").stat()
    except OSError:
        return ""
    return f"{found.st_dev}:{found.st_ino}"
