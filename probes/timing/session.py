"""Run a program in a confined child process, batch by batch; say how it ended and whether its code strayed.

What the child sends is not trusted.  After each batch it is compared with what this process knows itself:
the schedule and the other memory that no code writes, the number of entries done, the time that passed.
"""

from __future__ import annotations

import fcntl
import inspect
import mmap
import os
import secrets
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from xtrace.probes.errors import TraceError
from xtrace.probes.timing import child as child_module
from xtrace.probes.timing.native import Native
from xtrace.probes.timing.program import Program
from xtrace.probes.timing.sandbox import filter_bytes

I64 = npt.NDArray[np.int64]

_START_S = 20.0
_CPU_LIMIT_S = 600
_UNKNOWN = -1
#: A loop takes at least a core cycle per execution; a core runs at most this much faster than the TSC.
_MOST_CORE_PER_TSC = 4
#: Two clocks are compared that may differ a little, on different processors.
_CLOCK_SLACK_CYCLES, _CLOCK_RATIO = 1_000_000, 1.01
#: How much longer a batch takes than its entries report: flushing lines, warming up, entering each; and once,
#: for what the kernel or a hypervisor does meanwhile.
_MOST_UNREPORTED, _ENTRY_CYCLES, _BATCH_SLACK_CYCLES = 20, 2_000, 1_000_000_000
_MFD_EXEC = 0x10
_NO_ANSWER, _GO = b"", b"r"
_END_S = 5.0
_NAMESPACES = {
    child_module.USER: "user",
    child_module.MOUNT: "mount",
    child_module.NET: "net",
    child_module.PID: "pid",
}
_STACK_MOVED = "its stack pointer was wrong afterwards"
_EXITS = {
    child_module.STRAYED: _STACK_MOVED,
    child_module.NO_PLACE: "the addresses for code and data are already mapped in a new process",
    child_module.NO_EXECUTION: "the system does not allow memory to be made executable (SELinux execmem?)",
    child_module.NO_RIGHTS: "the system does not let the process drop its privileges",
}


class ChildError(Exception):
    """The child ended or hung while it ran an entry.

    Attributes:
        index: of the entry in its batch.
        reason: how it ended.
    """

    def __init__(self, index: int, reason: str) -> None:
        super().__init__(reason)
        self.index = index
        self.reason = reason


class StrayedError(ChildError):
    """The child did what its code cannot do if it is what was proved; nothing that it sent counts."""


class Session:
    """A child that runs a program's functions; a context manager.

    Args:
        cpu: the processor it is bound to.

    Raises:
        TraceError: it cannot be started here.
    """

    def __init__(self, program: Program, cpu: int) -> None:
        self._program = program
        self._clock = Native(program.clock)
        self._code_file = _code_file(program.code)
        self._data_file = _file("xtrace-data", 0)
        os.ftruncate(self._data_file, program.data_bytes)
        self._memory = mmap.mmap(self._data_file, program.data_bytes)
        words = np.frombuffer(self._memory, np.int64)
        self._words = words
        words[program.sandbox_offset // 8] = _UNKNOWN
        where = program.filter_offset
        constant = ((where, filter_bytes(program.data_address + where)), *program.initial)
        for begin, end in program.guards:
            self._memory[begin:end] = secrets.token_bytes(end - begin)
        for offset, blob in constant:
            self._memory[offset : offset + len(blob)] = blob
        start = program.schedule_offset // 8
        self._schedule = words[start : start + 4 * program.schedule_entries].reshape(-1, 4)
        self._process = self._started(cpu)
        try:
            self._wait(_START_S, 0, b"\0")
        except ChildError as error:
            self.close()
            raise TraceError(f"timed code cannot run here: {error.reason}") from None
        # No code but the driver has run yet.
        self._pid = int(words[program.pid_offset // 8]) or self._process.pid
        self._walls = int(words[program.walls_offset // 8])
        self._filtered = int(words[program.sandbox_offset // 8]) == 0
        self._alone = int(words[program.unmapped_offset // 8]) == 0
        head = (program.pid_offset, program.pid_offset + 8), (program.walls_offset, program.walls_offset + 8)
        ranges = (*head, *program.guards, *((offset, offset + len(blob)) for offset, blob in constant[:1]))
        self._kept = tuple((begin, bytes(self._memory[begin:end])) for begin, end in ranges)

    def _started(self, cpu: int) -> subprocess.Popen[bytes]:
        program = self._program
        numbers = (
            cpu,
            self._code_file,
            self._data_file,
            program.code_address,
            program.data_address,
            program.data_bytes,
            program.far_address,
            program.far_bytes,
            program.cold_address,
            program.cold_bytes,
            _CPU_LIMIT_S,
            program.walls_offset,
            program.pid_offset,
            program.gaps_offset,
        )
        # Passed as text, because the package may be in a zip file.
        script = inspect.getsource(child_module)
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", "-c", script, *map(str, numbers)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=(self._code_file, self._data_file),
            # Linux writes to the area that rseq registers, and here it will not be mapped.
            env={"GLIBC_TUNABLES": "glibc.pthread.rseq=0"},
            cwd="/",
            bufsize=0,
        )

    @property
    def confined(self) -> bool:
        """Whether the child may run an untrusted image's code.

        It has the system-call filter, and it is another user than this process or in a user namespace.
        """
        return self._filtered and bool(self._walls & (child_module.USER | child_module.OTHER_USER))

    @property
    def missing(self) -> tuple[str, ...]:
        """Return which walls the system did not give."""
        found = [] if self._filtered else ["system-call filter"]
        namespaces = [name for wall, name in _NAMESPACES.items() if not self._walls & wall]
        if namespaces:
            found.append(f"{', '.join(namespaces)} namespace{'s' if len(namespaces) > 1 else ''}")
        if not self._walls & (child_module.USER | child_module.OTHER_USER):
            found.append("a user of its own")
        if not self._alone:
            found.append("removal of all other memory")
        return tuple(found)

    @property
    def memory(self) -> memoryview:
        """Return the data that the child shares with this process."""
        return memoryview(self._memory)

    @property
    def pid(self) -> int:
        """Return the child's PID."""
        return self._pid

    @property
    def most_entries(self) -> int:
        """Return the largest number of entries in a batch."""
        return self._program.schedule_entries

    @property
    def samples(self) -> I64:
        """Return the TSC readings that the sampler wrote."""
        start = self._program.samples_offset // 8
        return self._words[start : start + self._program.sample_count].copy()

    def run(self, entries: I64, limit_s: float) -> tuple[I64, npt.NDArray[np.bool_]]:
        """Run entries [n, 3] of function, warm and count; return cycles [n] and whether the CPU changed [n].

        Raises:
            StrayedError: what it left is not what such code leaves.
            ChildError: the child ended, or took longer than ``limit_s`` and was killed.
        """
        count = len(entries)
        if count > self._program.schedule_entries:
            raise ValueError(f"{count} entries")
        self._schedule[:count, :3] = entries
        self._schedule[:count, 3] = 0
        planned = self._schedule.copy()
        self._words[self._program.index_offset // 8] = 0
        self._words[self._program.count_offset // 8] = count
        ran_s, _ = self.shares_s()
        begin, begin_ns = self._clock.call(0, 0, None), time.monotonic_ns()
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(_GO)
        self._wait(limit_s, count, _GO)
        passed, passed_ns = self._clock.call(0, 0, None) - begin, time.monotonic_ns() - begin_ns
        # What the kernel says that the child ran, in TSC cycles.
        ran = int((self.shares_s()[0] - ran_s) * 1e9 * passed / max(passed_ns, 1))
        cycles, changed = self._schedule[:count, 3].copy(), self._schedule[:count, 1] != 0
        reason = self._difference(planned, count) or _implausible(entries[:, 2], cycles, passed, ran)
        if reason:
            raise StrayedError(0, reason)
        return cycles, changed

    def _difference(self, planned: I64, count: int) -> str:
        """Return which memory is not as the driver leaves it, "" if all is."""
        program = self._program
        for offset, blob in self._kept:
            if self._memory[offset : offset + len(blob)] != blob:
                return f"memory that no code writes has changed, near {program.data_address + offset:#x}"
        schedule = self._schedule.copy()
        schedule[:count, (1, 3)] = planned[:count, (1, 3)]
        if not np.array_equal(schedule, planned):
            return "its schedule has changed"
        if int(self._words[program.index_offset // 8]) != count:
            return "the number of entries done is wrong"
        if int(self._words[program.moved_offset // 8]):
            return _STACK_MOVED
        if count and int(self._words[program.stack_offset // 8 - 1]) != program.returns_to:
            return "the return address has changed"
        return ""

    def text_changed(self) -> bool:
        """Return whether the code differs from what was given; it is sealed, so it cannot."""
        return os.pread(self._code_file, len(self._program.code) + 1, 0) != self._program.code

    def shares_s(self) -> tuple[float, float]:
        """Return how long the child ran and how long it waited to run; zeros if unknown."""
        try:
            words = Path(f"/proc/{self.pid}/schedstat").read_text(encoding="ascii").split()
            return int(words[0]) / 1e9, int(words[1]) / 1e9
        except (OSError, ValueError, IndexError):
            return 0.0, 0.0

    def _wait(self, limit_s: float, count: int, expected: bytes) -> None:
        """Wait for the child's answer to ``count`` entries."""
        assert self._process.stdout is not None
        answer = _NO_ANSWER
        ready, _, _ = select.select([self._process.stdout], [], [], limit_s)
        if ready:
            # One byte more than it should send.
            answer = self._process.stdout.read(len(expected) + 1)
        if answer == expected:
            return
        if answer:
            raise StrayedError(0, "it sent something else than an answer")
        index = min(max(int(self._words[self._program.index_offset // 8]), 0), max(count - 1, 0))
        if not ready:
            self._end()
            raise ChildError(index, f"it did not end within {limit_s:.0f} s")
        code = self._process.wait()
        kind = StrayedError if code == child_module.STRAYED else ChildError
        raise kind(index, _EXITS.get(code) or _ended(code))

    def _end(self) -> None:
        # The process that waits for one in a PID namespace ends that one first.
        self._process.terminate()
        try:
            self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def close(self) -> None:
        """End the child and release its memory."""
        self._end()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._words = np.zeros(0, np.int64)
        self._schedule = self._words.reshape(-1, 4)
        with suppress(BufferError):
            self._memory.close()
        for file in (self._code_file, self._data_file):
            os.close(file)

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _implausible(counts: I64, cycles: I64, passed: int, ran: int) -> str:
    """Return why times cannot be true, "" if they can.

    Args:
        counts, cycles: executions and TSC cycles of each entry, as the child says.
        passed: TSC cycles of the whole batch, by this process's clock.
        ran: how many of them the child ran, by the kernel's account; 0 if it is not known.
    """
    # As floats: a sum of made-up numbers may not fit.
    reported = float(cycles.astype(np.float64).sum())
    if (cycles < 0).any() or reported > _CLOCK_RATIO * passed + _CLOCK_SLACK_CYCLES:
        return "it reports more time than passed"
    if ran > _MOST_UNREPORTED * (reported + _ENTRY_CYCLES * len(counts)) + _BATCH_SLACK_CYCLES:
        return "it reports less time than it ran"
    if (cycles * _MOST_CORE_PER_TSC < counts).any():
        return "it reports less time than so many executions take"
    return ""


def _code_file(code: bytes) -> int:
    """Return a file with the code, which nobody can change any more.

    Raises:
        TraceError: there is no such file here.
    """
    try:
        file = _file("xtrace-code", os.MFD_ALLOW_SEALING | _MFD_EXEC)
    except TraceError:
        # Before Linux 6.3, each such file can be executed, and there is no flag for it.
        file = _file("xtrace-code", os.MFD_ALLOW_SEALING)
    with os.fdopen(os.dup(file), "wb") as writer:
        writer.write(code)
    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(file, fcntl.F_ADD_SEALS, seals)
    return file


def _file(name: str, flags: int) -> int:
    try:
        return os.memfd_create(name, os.MFD_CLOEXEC | flags)
    except OSError as error:
        raise TraceError(f"cannot share memory with a child process: {error.strerror}") from None


def _ended(code: int) -> str:
    if code < 0:
        with suppress(ValueError):
            return f"it was killed by {signal.Signals(-code).name}"
        return f"it was killed by signal {-code}"
    return f"it exited with status {code}"
