"""Run a program in an unprivileged child process, batch by batch, and report how it ended."""

from __future__ import annotations

import inspect
import mmap
import os
import select
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from types import TracebackType

import numpy as np
import numpy.typing as npt

from xtrace.probes.errors import TraceError
from xtrace.probes.timing import child as child_module
from xtrace.probes.timing.program import Program
from xtrace.probes.timing.sandbox import filter_bytes

I64 = npt.NDArray[np.int64]

_START_S = 20.0
_CPU_LIMIT_S = 600
_UNKNOWN = -1
_EXITS = {
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


class Session:
    """A child that runs a program's functions; a context manager.

    Args:
        cpu: the processor it is bound to.

    Raises:
        TraceError: it cannot be started here.
    """

    def __init__(self, program: Program, cpu: int) -> None:
        self._program = program
        self._code_file = _file("xtrace-code")
        self._data_file = _file("xtrace-data")
        with os.fdopen(os.dup(self._code_file), "wb") as file:
            file.write(program.code)
        os.lseek(self._code_file, 0, os.SEEK_SET)
        os.ftruncate(self._data_file, program.data_bytes)
        self._memory = mmap.mmap(self._data_file, program.data_bytes)
        words = np.frombuffer(self._memory, np.int64)
        self._words = words
        words[program.sandbox_offset // 8] = _UNKNOWN
        where = program.filter_offset
        for offset, blob in (*program.initial, (where, filter_bytes(program.data_address + where))):
            self._memory[offset : offset + len(blob)] = blob
        start = program.schedule_offset // 8
        self._schedule = words[start : start + 4 * program.schedule_entries].reshape(-1, 4)
        self._process = self._started(cpu)
        try:
            self._wait(_START_S)
        except ChildError as error:
            self.close()
            raise TraceError(f"timed code cannot run here: {error.reason}") from None

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
            _CPU_LIMIT_S,
        )
        # Passed as text, because the package may be in a zip file.
        script = inspect.getsource(child_module)
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-B", "-c", script, *map(str, numbers)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=(self._code_file, self._data_file),
            env={},
            cwd="/",
            bufsize=0,
        )

    @property
    def confined(self) -> bool:
        """Return whether the system-call filter is active in the child."""
        return int(self._words[self._program.sandbox_offset // 8]) == 0

    @property
    def memory(self) -> memoryview:
        """Return the data that the child shares with this process."""
        return memoryview(self._memory)

    @property
    def pid(self) -> int:
        """Return the child's PID."""
        return self._process.pid

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
            ChildError: the child ended, or took longer than ``limit_s`` and was killed.
        """
        count = len(entries)
        if count > self._program.schedule_entries:
            raise ValueError(f"{count} entries")
        self._schedule[:count, :3] = entries
        self._schedule[:count, 3] = 0
        self._words[self._program.index_offset // 8] = 0
        self._words[self._program.count_offset // 8] = count
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.write(b"r")
        self._wait(limit_s)
        return self._schedule[:count, 3].copy(), self._schedule[:count, 1] != 0

    def shares_s(self) -> tuple[float, float]:
        """Return how long the child ran and how long it waited to run; zeros if unknown."""
        try:
            words = Path(f"/proc/{self.pid}/schedstat").read_text(encoding="ascii").split()
            return int(words[0]) / 1e9, int(words[1]) / 1e9
        except (OSError, ValueError, IndexError):
            return 0.0, 0.0

    def _wait(self, limit_s: float) -> None:
        """Wait for the child's answer."""
        assert self._process.stdout is not None
        answer = b""
        ready, _, _ = select.select([self._process.stdout], [], [], limit_s)
        if ready:
            answer = self._process.stdout.read(1)
        if answer:
            return
        index = int(self._words[self._program.index_offset // 8])
        if not ready:
            self._process.kill()
            self._process.wait()
            raise ChildError(index, f"it did not end within {limit_s:.0f} s")
        code = self._process.wait()
        raise ChildError(index, _EXITS.get(code) or _ended(code))

    def close(self) -> None:
        """End the child and release its memory."""
        self._process.kill()
        self._process.wait()
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


def _file(name: str) -> int:
    try:
        return os.memfd_create(name, os.MFD_CLOEXEC)
    except OSError as error:
        raise TraceError(f"cannot share memory with a child process: {error.strerror}") from None


def _ended(code: int) -> str:
    if code < 0:
        with suppress(ValueError):
            return f"it was killed by {signal.Signals(-code).name}"
        return f"it was killed by signal {-code}"
    return f"it exited with status {code}"
