"""A Linux process as the target of a trial: /proc/PID/mem, with its threads stopped by ptrace."""

from __future__ import annotations

import contextlib
import os
import struct
import time
from collections.abc import Sequence
from pathlib import Path

from xtrace.probes.trial import journal, mapped_image
from xtrace.probes.trial.journal import Journal, Subject, process_identity
from xtrace.probes.trial.mapped_image import Code
from xtrace.probes.trial.put_back import put_back
from xtrace.probes.trial.references import refers, writable_mappings
from xtrace.probes.trial.restore import LEAVE_LIMIT_S, STAYS, put_back_in, restored, take_out
from xtrace.probes.trial.target import FileMemory, Patch, Reading, TargetGoneError, TrialError, places
from xtrace.probes.trial.threads import Threads
from xtrace.probes.trial.watchdog import Watchdog

_WORD = struct.Struct("<Q")
#: A reading whose two clock readings are further apart is taken again: this process was interrupted in it.
_APART_NS = 5_000
_MOST_TRIES = 4
_MOST_SEARCHED_BYTES = 8 << 30


class ProcessTarget:
    """A process whose threads are seized from open() to close().

    Args:
        counters: addresses of 64-bit words, as linked.
    """

    def __init__(self, pid: int, image: Path, code: Sequence[Code], counters: Sequence[int]) -> None:
        self.pid = pid
        self._image = image
        self._started = journal.started(pid)
        if not self._started:
            raise TargetGoneError(f"process {pid} does not exist; --pid takes the id of a running process")
        if pid == os.getpid():
            raise TrialError("a trial cannot stop itself; --pid takes the id of another process")
        self._refuse_tracer()
        self._journal = Journal(Subject.process(pid))
        self.notes: list[str] = []
        self.pauses_s: list[float] = []
        finish = self._journal.keep
        try:
            left = self._journal.leftover()
            if left is not None:
                self.notes.append(restored(left, self._journal))
            finish = self._journal.finish
            try:
                self._memory = os.open(f"/proc/{pid}/mem", os.O_RDWR | os.O_CLOEXEC)
            except OSError as error:
                raise TrialError(
                    f"process {pid}: cannot open its memory: {error.strerror}; run as root or its user"
                ) from None
            self.offset = mapped_image.load_offset(pid, self._memory, image, code)
        except BaseException:
            finish()
            raise
        self._code = code
        self._counters = [self.offset + address for address in counters]
        self._clock = (~pid << 3) | 2  # CPUCLOCK_SCHED of the process, linux/posix-timers.h
        self._threads = Threads(pid, self._restore_child)
        self._patches: tuple[Patch, ...] = ()
        self._arm = 0
        self._watchdog: Watchdog | None = None

    def _refuse_tracer(self) -> None:
        with contextlib.suppress(OSError):
            for task in Path(f"/proc/{self.pid}/task").iterdir():
                status = (task / "status").read_text(errors="replace")
                tracer = next((line.split()[1] for line in status.splitlines() if "TracerPid" in line), "0")
                if tracer != "0":
                    raise TrialError(
                        f"process {self.pid} is traced by process {tracer}, a debugger or another trial; end "
                        "that first"
                    )

    def open(self, patches: Sequence[Patch]) -> None:
        """Seize the threads and get ready to exchange ``patches``: the journal, then the watchdog."""
        places(patches)
        self._journal.begin(str(self._image), patches, process_identity(self.pid))
        self._patches = tuple(patches)
        self._watchdog = Watchdog(self._journal.subject)
        self._threads.seize()
        self._add()
        for address in self._counters:
            self.read(address, _WORD.size)

    def _add(self) -> None:
        """Write arm 0 where it is not the original: returns in padding, which nothing executes yet."""
        added = [patch for patch in self._patches if patch.added]
        if not added:
            return
        writable = sum(len(item) for item in writable_mappings(self.pid))
        if writable > _MOST_SEARCHED_BYTES:
            raise TrialError(
                f"process {self.pid} may write {writable >> 30:,} GiB: too much to search for a return into "
                "added fences at the end; leave --doses out"
            )
        self._threads.stop()
        try:
            registers = self._threads.registers()
            if refers(self.pid, self._memory, registers, [patch.added for patch in added]):
                raise TrialError(
                    f"process {self.pid}: something in it points into the padding where fences would be "
                    "added; leave --doses out"
                )
            for patch in added:
                if os.pread(self._memory, len(patch.original), patch.address) != patch.original:
                    raise TrialError(f"process {self.pid}: its code changed at {patch.address:#x}")
                os.pwrite(self._memory, patch.arms[0], patch.address)
        finally:
            self._threads.run()

    def read(self, address: int, size: int) -> bytes:
        """Return bytes of its memory, by their address in the process."""
        try:
            data = os.pread(self._memory, size, address)
        except OSError:
            data = b""
        if len(data) != size:
            if not self.alive():
                raise TargetGoneError(f"process {self.pid} ended")
            raise TrialError(f"process {self.pid}: nothing is mapped at {address:#x}")
        return data

    def switch(self, arm: int) -> None:
        """Stop all threads, exchange the bytes, let them run on."""
        self._must_be_watched()
        self._threads.stop()
        try:
            self._check(self._arm)
            self._journal.arm(arm)
            for patch in self._patches:
                if patch.arms[arm] != patch.arms[self._arm]:
                    os.pwrite(self._memory, patch.arms[arm], patch.address)
            self._arm = arm
        finally:
            self._threads.run()

    def _check(self, arm: int) -> None:
        for patch in self._patches:
            found = os.pread(self._memory, len(patch.original), patch.address)
            if found != patch.arms[arm]:
                raise TrialError(
                    f"process {self.pid}: its code changed at {patch.address - self.offset:#x} as linked: "
                    f"{found.hex()}, not {patch.arms[arm].hex()}; the trial ended"
                )

    def reading(self) -> Reading:
        """Return running time and counters now; the clock is read before and after the counters."""
        clock = time.clock_gettime_ns
        tries = 0
        while True:
            tries += 1
            try:
                before = clock(self._clock)
                words = tuple(
                    _WORD.unpack(os.pread(self._memory, _WORD.size, address))[0] for address in self._counters
                )
                after = clock(self._clock)
            except (OSError, struct.error):
                raise TargetGoneError(f"process {self.pid} ended") from None
            if after - before <= _APART_NS or tries == _MOST_TRIES:
                return Reading((before + after) // 2, (after - before + 1) // 2, words)

    def wait(self, seconds: float) -> None:
        """Let it run; handle signals, new threads and children."""
        self._threads.wait(seconds)

    @property
    def watchdog_pid(self) -> int:
        """Return the watchdog's process id, 0 before open()."""
        return self._watchdog.pid if self._watchdog is not None else 0

    @property
    def name(self) -> str:
        """Return "process", its id, and its name unless it is gone."""
        name = ""
        with contextlib.suppress(OSError):
            name = Path(f"/proc/{self.pid}/comm").read_text(errors="backslashreplace").strip()
        return f"process {self.pid} {name}".rstrip()

    def alive(self) -> bool:
        """Return whether the same program still runs."""
        return not self._threads.gone and journal.started(self.pid) == self._started

    def _must_be_watched(self) -> None:
        if self._watchdog is not None and not self._watchdog.alive():
            raise TrialError("the watchdog was killed; the trial ended, and its code is as it was")

    def _restore_child(self, child: int) -> None:
        """Put the original bytes into a child that was just forked."""
        put_back_in(child, self._patches)

    def close(self) -> None:
        """Put all bytes back, compare the whole code with the image, let go of the process.

        If a thread may still return into added fences, these stay as returns, the journal stays, and a note
        says so.
        """
        keep = False
        try:
            if self._patches:
                with contextlib.suppress(TargetGoneError):
                    self._threads.stop()
                    try:
                        try:
                            put_back(FileMemory(self._memory), self._patches)
                        finally:
                            is_out = take_out(self._threads, self._memory, self._patches, LEAVE_LIMIT_S)
                        self._arm = 0
                        if is_out:
                            mapped_image.verify(self._memory, self.offset, self._code, self.pid)
                        else:
                            keep = True
                            self.notes.append(f"process {self.pid}: {STAYS}")
                    finally:
                        self._threads.detach()
        except (TrialError, OSError):
            keep = True
            raise
        finally:
            self._threads.close()
            if keep:
                self._journal.keep()
            else:
                self._journal.finish()
            if self._watchdog is not None:
                self._watchdog.end()
            os.close(self._memory)
