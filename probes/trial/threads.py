"""All threads of a process, seized: stopped together, run on together, and what happens to them meanwhile."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from xtrace.probes.trial import ptrace
from xtrace.probes.trial.child_changes import ChildChanges
from xtrace.probes.trial.target import TargetGoneError, TrialError

#: A thread in an uninterruptible wait does not stop before it is over.
_STOP_LIMIT_S = 5.0
#: The first thread's end, while others go on, sends no signal.
_LOOK_S = 0.02
_MOST_SCANS = 100


class Threads:
    """The threads of one process, under ptrace by the calling thread, the main one.

    Args:
        restored: called with the id of a process forked off, which is stopped and has its own copy of the
            memory: it must not keep exchanged bytes.
    """

    def __init__(self, pid: int, restored: Callable[[int], None]) -> None:
        self.pid = pid
        self._restored = restored
        # For each seized thread: None while it runs, otherwise the request and signal that continue it.
        self._threads: dict[int, tuple[int, int] | None] = {}
        self._changes = ChildChanges()
        self.gone = ""

    def seize(self) -> None:
        """Seize all threads.

        Raises:
            TrialError: another tracer has them, or the system does not permit it.
        """
        for _ in range(_MOST_SCANS):
            new = [tid for tid in _tids(self.pid) if tid not in self._threads]
            if not new:
                return
            for tid in new:
                try:
                    ptrace.request(ptrace.SEIZE, tid, ptrace.OPTIONS)
                except OSError as error:
                    if error.errno == errno.ESRCH:
                        continue
                    if error.errno == errno.EPERM and _is_dead(self.pid, tid):
                        continue
                    raise TrialError(
                        f"process {self.pid}: cannot stop thread {tid}: {error.strerror}; it needs root or "
                        "the process's user (and kernel.yama.ptrace_scope 0), and no debugger on it"
                    ) from None
                self._threads[tid] = None
        raise TrialError(f"process {self.pid} makes threads faster than they can be stopped")

    def stop(self) -> None:
        """Stop all threads.

        Raises:
            TargetGoneError: the process ended or executed another program.
            TrialError: a thread did not stop in time; all run on.
        """
        limit = 0.0
        while True:
            for tid, continued in list(self._threads.items()):
                if continued is None:
                    with suppress(ProcessLookupError):
                        ptrace.request(ptrace.INTERRUPT, tid)
            while self._running():
                for tid in self._running():
                    self._take(tid)
                self.must_live()
                if not self._running():
                    break
                now = time.monotonic()
                limit = limit or now + _STOP_LIMIT_S
                if now > limit:
                    stuck = self._running()
                    self.run()
                    raise TrialError(
                        f"process {self.pid}: thread {stuck[0]} did not stop within {_STOP_LIMIT_S:.0f} s; "
                        "it waits in the kernel, such as for a disk"
                    )
                self._changes.sleep(min(limit - now, _LOOK_S))
            self.must_live()
            if not self._running():
                return

    def registers(self) -> list[bytes]:
        """Return the registers of each stopped thread."""
        found = []
        for tid, continued in self._threads.items():
            if continued is not None:
                with suppress(ProcessLookupError):
                    found.append(ptrace.registers(tid))
        return found

    def run(self) -> None:
        """Let all threads run on, each with the signal that it stopped for."""
        for tid, continued in list(self._threads.items()):
            if continued is not None:
                self._continue(tid, *continued)

    def handle(self) -> None:
        """Let threads that stopped by themselves, such as for a signal, run on.

        Raises:
            TargetGoneError: the process ended or executed another program.
        """
        for tid in list(self._threads):
            while self._threads.get(tid, (0, 0)) is None and self._take(tid):
                continued = self._threads.get(tid)
                if continued is not None and not self.gone:
                    self._continue(tid, *continued)
        self.must_live()

    def wait(self, seconds: float) -> None:
        """Let the threads run for a time, handling what happens to them."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._changes.sleep(left)
            self.handle()
        self.handle()

    def detach(self) -> None:
        """Let go of all threads for good; they run on."""
        end = time.monotonic() + _STOP_LIMIT_S
        for tid in self._running():
            with suppress(OSError):
                ptrace.request(ptrace.INTERRUPT, tid)
        while (running := self._running()) and (left := end - time.monotonic()) > 0:
            for tid in running:
                self._take(tid)
            if self._running():
                self._changes.sleep(min(left, _LOOK_S))
        for tid, continued in list(self._threads.items()):
            number, value = continued or (ptrace.CONT, 0)
            try:
                # A job-control stop goes on after a detach.
                ptrace.request(ptrace.DETACH, tid, 0 if number == ptrace.LISTEN else value)
            except OSError:
                # It was killed meanwhile: its process cannot end before its tracer has taken that.
                with suppress(OSError):
                    os.waitpid(tid, ptrace.WALL | os.WNOHANG)
        self._threads.clear()

    def close(self) -> None:
        """Let go of all threads, and take signals as before."""
        try:
            self.detach()
        finally:
            self._changes.close()

    def must_live(self) -> None:
        """Raise TargetGoneError if the process is gone."""
        if not self.gone and not self._threads:
            self.gone = "ended"
        if self.gone:
            raise TargetGoneError(f"process {self.pid} {self.gone}")

    def _running(self) -> list[int]:
        return [tid for tid, continued in self._threads.items() if continued is None]

    def _continue(self, tid: int, number: int, value: int) -> None:
        with suppress(ProcessLookupError):
            ptrace.request(number, tid, value)
        if tid in self._threads:
            self._threads[tid] = None

    def _take(self, tid: int) -> bool:
        """Take a thread's next change of state; return whether there was one."""
        try:
            got, status = os.waitpid(tid, ptrace.WALL | os.WNOHANG)
        except ChildProcessError:
            self._threads.pop(tid, None)
            return False
        if not got:
            if tid == self.pid and _is_dead(self.pid, tid):
                # The first thread has ended, others have not: it stays as a zombie, and nothing stops it.
                # Any other thread that ended is taken by the next call: a tracer must take the end of each.
                self._threads.pop(tid, None)
            return False
        if not os.WIFSTOPPED(status):
            self._threads.pop(tid, None)
            if tid == self.pid:
                self.gone = "ended"
            return True
        number, event = os.WSTOPSIG(status), status >> 16
        self._threads[tid] = self._answer(tid, number, event)
        return True

    def _answer(self, tid: int, number: int, event: int) -> tuple[int, int]:
        """Return the request and the signal that let a stopped thread go on."""
        if event == ptrace.EVENT_STOP:
            return (ptrace.LISTEN, 0) if number in ptrace.STOPS else (ptrace.CONT, 0)
        if event in (ptrace.EVENT_CLONE, ptrace.EVENT_FORK, ptrace.EVENT_VFORK):
            self._adopt(ptrace.event_message(tid), is_vfork=event == ptrace.EVENT_VFORK)
        elif event == ptrace.EVENT_EXEC:
            self.gone = "executed another program"
        return ptrace.CONT, 0 if event else number

    def _adopt(self, child: int, *, is_vfork: bool) -> None:
        """Take over what a thread has just made, which the kernel seized and stops."""
        # A thread that made a child by vfork does not stop before the child has let go of the memory.
        if not is_vfork and (Path(f"/proc/{self.pid}/task/{child}").exists() or _shares(self.pid, child)):
            self._threads[child] = None
            return
        with suppress(OSError):
            os.waitpid(child, ptrace.WALL)
            if not is_vfork:
                self._restored(child)
            ptrace.request(ptrace.DETACH, child)


def _shares(one: int, other: int) -> bool:
    try:
        return ptrace.shares_memory(one, other)
    except OSError:
        return False


def _tids(pid: int) -> list[int]:
    try:
        return [int(item.name) for item in Path(f"/proc/{pid}/task").iterdir()]
    except FileNotFoundError:
        raise TargetGoneError(f"process {pid} ended") from None


def _is_dead(pid: int, tid: int) -> bool:
    """Return whether a thread has ended, as far as a debugger is concerned."""
    try:
        stat = Path(f"/proc/{pid}/task/{tid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] in "ZX"
