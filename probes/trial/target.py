"""What a trial needs of a running program: the one interface between the statistics and the machine."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple, Protocol

from xtrace.probes.errors import TraceError


class TrialError(TraceError):
    """A trial cannot begin, or had to end; the message is one line: what, where, and what to do."""


class TargetGoneError(TrialError):
    """The program ended or executed another one: nothing needs to be put back."""


class Patch(NamedTuple):
    """One place of the code and its bytes in each arm.

    Arm 0 is the original, or does the same; where it is not the original, some arm adds code after the first
    byte, and arm 0 has returns wherever that has instructions.  Then the original may be written only when no
    thread is in the added bytes, and none can return to them.

    Attributes:
        address: in the running program.
        original: as they were.
        arms: the bytes of each arm by its number.
    """

    address: int
    original: bytes
    arms: tuple[bytes, ...]

    @property
    def added(self) -> range:
        """Return the addresses of added bytes, none for most patches."""
        length = len(self.original) if self.arms[0] != self.original else 1
        return range(self.address + 1, self.address + length)


class Reading(NamedTuple):
    """What the program had done at a moment.

    Attributes:
        running_ns: how long its threads had run, in all.
        error_ns: how far the counters may be from that moment, in running time.
        counters: the 64-bit words asked for.
    """

    running_ns: int
    error_ns: int
    counters: tuple[int, ...]


class Memory(Protocol):
    """Memory of a running program that can be written."""

    def read(self, address: int, size: int) -> bytes:
        """Return bytes: fewer, or none, where nothing is mapped; may raise OSError instead."""

    def write(self, address: int, data: bytes) -> None:
        """Write bytes."""


class FileMemory:
    """The memory of a process, by a descriptor of /proc/PID/mem."""

    def __init__(self, file: int) -> None:
        self._file = file

    def read(self, address: int, size: int) -> bytes:
        """Return bytes; raises OSError where nothing is mapped."""
        return os.pread(self._file, size, address)

    def write(self, address: int, data: bytes) -> None:
        """Write bytes."""
        os.pwrite(self._file, data, address)


class Target(Protocol):
    """A running program, seen through the least that a trial needs.

    All methods raise TargetGoneError once the program is gone, and TrialError for what else goes wrong.
    """

    def read(self, address: int, size: int) -> bytes:
        """Return bytes of its memory."""

    def switch(self, arm: int) -> None:
        """Stop it, check that each patch has the bytes of the present arm, write those of ``arm``, go on."""

    def reading(self) -> Reading:
        """Return what it has done up to now, while it runs."""

    def wait(self, seconds: float) -> None:
        """Let it run for a time; handle what happens to it meanwhile."""

    def alive(self) -> bool:
        """Return whether it still runs the same program."""

    def close(self) -> None:
        """Put all bytes back, check them, and let go of it."""


class OpenTarget(Target, Protocol):
    """A target with what only those need who set up a trial.

    Attributes:
        offset: from addresses as linked to the program's.
        notes: what the user should know; it may get longer until close() has returned.
        pauses_s: how long each pause took, of targets that are paused as a whole.
    """

    offset: int
    notes: list[str]
    pauses_s: list[float]

    @property
    def name(self) -> str:
        """Return what it is: "process" or "domain", its id, and its name."""

    def open(self, patches: Sequence[Patch]) -> None:
        """Get ready to exchange ``patches``."""


def places(patches: Sequence[Patch]) -> int:
    """Return the number of arms that all patches have.

    Raises:
        ValueError: they differ, or an arm has other lengths than the original.
    """
    counts = {len(patch.arms) for patch in patches}
    if len(counts) != 1:
        raise ValueError("patches with different arms")
    for patch in patches:
        if any(len(arm) != len(patch.original) for arm in patch.arms):
            raise ValueError(f"patch at {patch.address:#x}: arms of other lengths")
        if patch.arms[0][:1] != patch.original[:1]:
            raise ValueError(f"patch at {patch.address:#x}: arm 0 does something else than the original")
    return counts.pop()
