"""Run one command line in a child with limits, and say what is wrong with how it ended.

The child is a fork of a process that has imported everything, so that a case costs milliseconds and not the
start of Python.  Its address space and CPU time are limited by the kernel; a watch ends it if it hangs.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

#: What any input below 100 MB may take, and where the kernel stops a child, so that a fault fills no machine.
MOST_RESIDENT_BYTES = 1 << 30
_MOST_ADDRESSES_BYTES = 6 << 30
#: CPU time of an input of up to 10 MB; and when a child is stopped.
MOST_CPU_S = 10.0
_STOP_CPU_S = 40
_HANGS_S = 240.0
_MOST_OUTPUT_BYTES = 1 << 30
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Case:
    """A command line and what it reads.

    Attributes:
        argv: of xtrace.
        stdin: pieces that arrive on standard input one after the other; None for no input.
        what: the shape or the damage, in words.
        input_bytes: what is read, compressed as it is.
        codes: exit codes that are answers.
        later: bytes that are appended to a file while the command runs; after them it gets Ctrl-C.
    """

    argv: tuple[str, ...]
    what: str
    input_bytes: int
    stdin: tuple[bytes, ...] | None = None
    codes: tuple[int, ...] = (0, 1, 2, 3)
    later: tuple[tuple[str, bytes], ...] = ()


@dataclass(slots=True)
class Outcome:
    """How a case ended.

    Attributes:
        faults: one line each; empty where all is well.
        code: exit code, negative for a signal.
        cpu_s, resident_bytes: what the child took at most, beyond what it shares with its parent.
    """

    faults: list[str] = field(default_factory=list)
    code: int = 0
    cpu_s: float = 0.0
    resident_bytes: int = 0


def in_child(
    work: Callable[[], int],
    folder: Path,
    *,
    file_bytes: int = _MOST_OUTPUT_BYTES,
    is_limited: bool = True,
) -> tuple[int, Path, Path]:
    """Fork, run ``work`` with limits and its output in files, and return pid and the files."""
    out, err = folder / "stdout", folder / "stderr"
    pid = os.fork()
    if pid:
        return pid, out, err
    code = 70
    try:
        os.setpgid(0, 0)
        for number, path in ((1, out), (2, err)):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
        if is_limited:
            resource.setrlimit(resource.RLIMIT_AS, (_MOST_ADDRESSES_BYTES,) * 2)
            resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes,) * 2)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            resource.setrlimit(resource.RLIMIT_CPU, (_STOP_CPU_S, _STOP_CPU_S + 2))
        signal.signal(signal.SIGINT, signal.default_int_handler)
        code = work()
    except BaseException:  # noqa: BLE001 - whatever it is, the parent reads it
        traceback.print_exc()
    finally:
        with contextlib.suppress(OSError, ValueError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def run(case: Case, folder: Path) -> Outcome:
    """Run a case and look at how it ends."""
    read_end, write_end = os.pipe() if case.stdin is not None else (os.open(os.devnull, os.O_RDONLY), -1)

    def work() -> int:
        from xtrace.cli import streams
        from xtrace.cli.main import main

        os.dup2(read_end, 0)
        if write_end >= 0:
            os.close(write_end)
        sys.stdin = os.fdopen(0, closefd=False)
        # As in a fresh process, which sees descriptors and no files of its parent.
        streams.secure()
        return main(list(case.argv))

    shared_bytes = resident_bytes()
    pid, out, err = in_child(work, folder)
    os.close(read_end)
    outcome = _awaited(pid, _feeding(case, write_end, pid), shared_bytes)
    _judge(case, outcome, out, err)
    return outcome


def _feeding(case: Case, write_end: int, pid: int) -> Iterator[None]:
    """Give the child its input, a piece at each step."""
    if write_end >= 0:
        try:
            for piece in case.stdin or ():
                rest = memoryview(piece)
                while rest:
                    while not select.select((), [write_end], (), 0.02)[1]:
                        yield
                    rest = rest[os.write(write_end, rest[: select.PIPE_BUF]) :]
        except BrokenPipeError:
            pass
        finally:
            os.close(write_end)
    if case.later:
        began = time.monotonic()
        for name, piece in case.later:
            yield
            with open(name, "ab") as file:
                file.write(piece)
        while time.monotonic() < began + 1.0:
            yield
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGINT)


def resident_bytes() -> int:
    """Return what a fork of this process begins with in memory: all but the pages of files."""
    _, resident, of_files, *_ = map(int, Path("/proc/self/statm").read_text().split())
    return (resident - of_files) * resource.getpagesize()


def _awaited(pid: int, feeding: Iterator[None], shared_bytes: int) -> Outcome:
    outcome = Outcome()
    began = time.monotonic()
    is_feeding = True
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGPIPE})
    while True:
        found, status, usage = os.wait4(pid, os.WNOHANG)
        if found:
            break
        if is_feeding:
            is_feeding = next(feeding, feeding) is None
            time.sleep(0.002)
        else:
            time.sleep(0.005)
        if time.monotonic() > began + _HANGS_S:
            outcome.faults.append(f"hangs: {_HANGS_S:.0f} s")
            os.kill(pid, signal.SIGKILL)
            _, status, usage = os.wait4(pid, 0)
            break
    feeding.close() if hasattr(feeding, "close") else None
    # What it started itself.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    outcome.code = os.waitstatus_to_exitcode(status)
    outcome.cpu_s = usage.ru_utime + usage.ru_stime
    outcome.resident_bytes = max(0, (usage.ru_maxrss << 10) - shared_bytes)
    return outcome


def _judge(case: Case, outcome: Outcome, out: Path, err: Path) -> None:
    faults = outcome.faults
    said = err.read_text("utf-8", "backslashreplace")
    lines = said.splitlines()
    mine = [line for line in lines if line.startswith("xtrace: ")]
    if "Traceback" in said or outcome.code == 70:
        faults.append(f"traceback: {lines[-1] if lines else ''}"[:300])
    elif outcome.code < 0 and not faults:
        faults.append(f"killed by {signal.Signals(-outcome.code).name} after {outcome.cpu_s:.0f} s of CPU")
    elif outcome.code >= 0 and outcome.code not in case.codes and not (case.later and outcome.code == 130):
        faults.append(f"exit code {outcome.code}")
    elif outcome.code in (1, 2) and not mine:
        faults.append(f"exit code {outcome.code} without a message: {said[-200:]!r}")
    faults += _spoiled(said)
    if outcome.resident_bytes > MOST_RESIDENT_BYTES:
        faults.append(f"{outcome.resident_bytes >> 20} MB resident")
    most = MOST_CPU_S * max(case.input_bytes / 10e6, 1) * (2 if case.argv[0] == "top" else 1)
    if outcome.cpu_s > most:
        faults.append(f"{outcome.cpu_s:.1f} s of CPU for {case.input_bytes / 1e6:.2f} MB")
    if outcome.code == 0:
        faults += _lies(case, out)


def _spoiled(said: str) -> list[str]:
    """Return what is wrong with messages."""
    wrong = {
        "control characters on stderr": _UNPRINTABLE.search(said),
        "not enough memory": "not enough memory" in said,
        f"a warning: {said[:200]!r}": "Warning" in said,
        "a line of more than 2000 characters on stderr": any(len(line) > 2000 for line in said.splitlines()),
    }
    return [text for text, is_so in wrong.items() if is_so]


def _lies(case: Case, out: Path) -> list[str]:
    """Return what cannot be true of the output."""
    if out.stat().st_size > 64 << 20:
        return []
    text = out.read_text("utf-8", "backslashreplace")
    if "--json" not in case.argv:
        return ["control characters on stdout"] if _UNPRINTABLE.search(text) else []
    objects = text.splitlines() if case.argv[0] in ("stat", "top", "dump") else [text]
    found: list[str] = []
    is_raw = case.argv[0] == "dump"  # words of records, some of them signed
    try:
        for line in objects:
            _look(json.loads(line, parse_constant=_no_constant), "", [] if is_raw else found)
    except ValueError as error:
        found.append(f"not JSON: {error}")
    return found[:3]


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


#: Keys whose values may be below 0: differences, and a fence can save time.
_SIGNED = re.compile(
    r"offset|skew|low|high|difference|change|least|most|median|delta|handoff|ahead|hot|to_not"
)
_COUNTED = re.compile(r"(_count|_cycles|_ns|_bytes|_s|_ratio)$")


def _look(value: object, key: str, found: list[str]) -> None:
    if isinstance(value, dict):
        for name, item in value.items():
            _look(item, name, found)
    elif isinstance(value, list):
        for item in value:
            _look(item, key, found)
    elif isinstance(value, int | float) and value < 0 and _COUNTED.search(key) and not _SIGNED.search(key):
        found.append(f"a lie: {key} is {value}")
