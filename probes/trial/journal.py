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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from xtrace.probes.errors import TraceError
from xtrace.probes.host.run_folder import run_path
from xtrace.probes.trial.target import Patch, TrialError

_SUFFIX = ".trial"
_FORMAT = 2
_MOST_BYTES = 8 << 20
_ARM_DIGITS = 4
_PROCESS, _DOMAIN = "process", "domain"
_IDENTITY = {_PROCESS: {"started", "program"}, _DOMAIN: {"handle"}}


class Pause(Enum):
    """Whether the trial has paused its domain: each step is written before it is made."""

    FREE = "-"
    BEGINS = "<"
    HELD = "="
    ENDS = ">"


@dataclass(frozen=True, slots=True)
class Subject:
    """What a trial is of.

    Attributes:
        kind: process or domain.
        number: its id.
    """

    kind: str
    number: int

    @classmethod
    def process(cls, pid: int) -> Subject:
        """Return a process."""
        return cls(_PROCESS, pid)

    @classmethod
    def domain(cls, number: int) -> Subject:
        """Return a domain."""
        return cls(_DOMAIN, number)

    @classmethod
    def of(cls, name: str) -> Subject:
        """Return the one whose file has this name, without its suffix.

        Raises:
            ValueError: it is no such name.
        """
        kind, _, number = name.rpartition("-")
        found = cls(kind or _PROCESS, int(number))
        if found.file_name != name:
            raise ValueError(f"{name!r} is not the name of a journal")
        return found

    @property
    def is_domain(self) -> bool:
        """Return whether it is a domain."""
        return self.kind == _DOMAIN

    @property
    def file_name(self) -> str:
        """Return the name of its file, without the suffix."""
        return f"{self.kind}-{self.number}" if self.is_domain else str(self.number)

    def __str__(self) -> str:
        return f"{self.kind} {self.number}"


@dataclass(frozen=True, slots=True)
class Entry:
    """What a journal holds.

    Attributes:
        subject: what the trial was of.
        identity: what distinguishes it from another with the same id, because ids are reused: start time
            ("started") and device and inode of what a process executes ("program"); a domain's UUID
            ("handle").
        image: the image's path, for messages.
        arm: the arm written last; -1 before any.
        pause: whether a domain was paused.
        patches: everything that may have been written.
    """

    subject: Subject
    identity: dict[str, str]
    image: str
    arm: int
    pause: Pause
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

    def __init__(self, subject: Subject) -> None:
        folder = directory()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        owner = folder.stat()
        if owner.st_uid != os.geteuid() or stat.S_IMODE(owner.st_mode) & 0o022:
            raise TrialError(f"{folder}: others may write here, so it cannot hold a journal; remove it")
        self.subject = subject
        self.path = folder / f"{subject.file_name}{_SUFFIX}"
        self.file = self._locked()

    def _locked(self) -> int:
        while True:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(file)
                raise TrialError(
                    f"{self.subject}: another trial runs on it; wait until it ends, or stop it with Ctrl-C"
                ) from None
            # The one that held the lock before may have removed the file it is on.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file), self.path.stat()):
                    return file
            os.close(file)

    def leftover(self) -> Entry | None:
        """Return what an earlier trial left here, None if nothing."""
        return parsed(os.pread(self.file, _MOST_BYTES, 0), self.path)

    def begin(self, image: str, patches: Sequence[Patch], identity: Mapping[str, str]) -> None:
        """Write everything that will be changed, before anything is."""
        head = f"{'-1':>{_ARM_DIGITS}} {Pause.FREE.value}\n"
        content = {
            "format": _FORMAT,
            "kind": self.subject.kind,
            "number": self.subject.number,
            "identity": dict(identity),
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

    def pause(self, step: Pause) -> None:
        """Note which step to or from a pause is made next."""
        os.pwrite(self.file, step.value.encode(), _ARM_DIGITS + 1)

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
        subject = Subject(str(content["kind"]), int(content["number"]))
        identity = {str(name): str(value) for name, value in content["identity"].items()}
        if identity.keys() != _IDENTITY[subject.kind]:
            raise ValueError("it does not say which program it is of")
        arm, pause = head.decode("ascii").split()
        return Entry(subject, identity, str(content["image"]), int(arm), Pause(pause), patches)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
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


def process_identity(pid: int) -> dict[str, str]:
    """Return what distinguishes a process from another with the same id."""
    return {"started": started(pid), "program": program(pid)}


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
