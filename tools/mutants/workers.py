"""Run tests on mutants: a copy of the tree and a process for each core, a fork for each mutant.

A worker imports what the tests import beside xtrace once, and forks for each mutant a child that runs pytest
on the mutated copy. Nothing of xtrace is loaded before the fork, so each child meets the mutant's own code;
numba's loops are compiled anew in each.
"""

from __future__ import annotations

import ctypes
import difflib
import importlib
import itertools
import multiprocessing as mp
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING

from mutants.session import FOLDER, Fate
from mutants.targets import ROOT

if TYPE_CHECKING:
    import pytest

#: What the tests import beside xtrace, at best once for all mutants.
_HEAVY = ("hypothesis", "iced_x86", "elftools.elf.elffile", "numba", "numpy", "pandas", "pytest", "typer")
_OPTIONS = (
    "-x", "-q", "--tb=line", "-p", "no:cacheprovider", "-p", "no:randomly", "--hypothesis-seed=0",
    # pytest would rather import its plugins itself, for asserts in them.
    "-W", "ignore::pytest.PytestAssertRewriteWarning",
)  # fmt: skip
#: After so many mutants of a worker the module as it is must pass again: what else fails kills none.
_CONTROL = 40
#: A mutant that needs this many times what the unchanged module needs does not end.
_SLOWER, _SPARE_S = 6, 30
#: More address space than the tests take; a mutant that collects without end must not take the machine's.
_ADDRESS_BYTES = 12 << 30
_PR_SET_PDEATHSIG = 1
_PASSED, _FAILED, _INTERRUPTED = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Job:
    """One mutant to run, the module's text with the change in it; None where the operator changed nothing."""

    name: str
    text: str | None


@dataclass(frozen=True, slots=True)
class Done:
    """What a run showed."""

    name: str
    fate: Fate
    output: str
    diff: str


def run(module: str, stages: Sequence[Sequence[str]], jobs: Iterator[Job], processes: int) -> Iterator[Done]:
    """Run the tests on each job, on several processes; yield what each showed as it ends.

    Args:
        stages: what pytest is given, and what it is given next where these pass.

    Raises:
        RuntimeError: the tests fail on the module as it is, or pytest could not run them.
    """
    context = mp.get_context("spawn")
    pipes: dict[Connection, mp.process.BaseProcess] = {}
    try:
        for number in range(processes):
            here, there = context.Pipe()
            worker = context.Process(target=_work, args=(there, number, module, stages))
            worker.start()
            there.close()
            pipes[here] = worker
        idle = set()
        for pipe in pipes:
            ready = pipe.recv()
            if ready:
                raise RuntimeError(ready)
            idle.add(pipe)
        busy: set[Connection] = set()
        more = True
        while more or busy:
            while more and idle:
                job = next(jobs, None)
                if job is None:
                    more = False
                    break
                pipe = idle.pop()
                pipe.send(job)
                busy.add(pipe)
            for pipe in wait(busy):
                assert isinstance(pipe, Connection)
                done = pipe.recv()
                busy.discard(pipe)
                idle.add(pipe)
                if isinstance(done, str):
                    raise RuntimeError(done)
                yield done
    finally:
        for pipe, worker in pipes.items():
            pipe.close()
            worker.terminate()
            worker.join()


def _work(pipe: Connection, number: int, module: str, stages: Sequence[Sequence[str]]) -> None:
    """Be a worker: make a tree, see that the tests pass on it, then run what comes."""
    tree = _copied_tree(number)
    # A short name: what the tests print of their files must fit into 80 columns.
    scratch = Path(tempfile.gettempdir()) / f"mutants-{os.getpid()}"
    for name in _HEAVY:
        importlib.import_module(name)
    source = tree / module
    original = source.read_text()
    limits: list[float] = []
    with suppress(EOFError, BrokenPipeError):
        for tests in stages:
            code, output, took = _forked(tree, scratch, module, tests, None)
            if code != _PASSED:
                pipe.send(f"{module}: the tests fail on the module as it is:\n{output[-4000:]}")
                return
            limits.append(took * _SLOWER + _SPARE_S)
        pipe.send("")
        for count in itertools.count(1):
            job = pipe.recv()
            assert job.text not in (None, original), job.name
            source.write_text(job.text)
            code, output = _staged(tree, scratch, module, stages, limits)
            source.write_text(original)
            fate = _fate(code)
            if fate is None:
                pipe.send(f"{module}: {job.name}: pytest ended with {code}:\n{output[-4000:]}")
                return
            diff = _diff(original, job.text, module)
            if not count % _CONTROL:
                code, said = _staged(tree, scratch, module, stages[:1], limits)
                if code != _PASSED:
                    pipe.send(f"{module}: the tests fail on the module as it is, by now:\n{said[-4000:]}")
                    return
            pipe.send(Done(job.name, fate, output[-2000:], diff))
    shutil.rmtree(scratch, ignore_errors=True)


def _staged(
    tree: Path, scratch: Path, module: str, stages: Sequence[Sequence[str]], limits: Sequence[float]
) -> tuple[int | None, str]:
    """Run the stages until one does not pass; return how the last one ended and what it printed."""
    code, output = None, ""
    for tests, limit_s in zip(stages, limits, strict=False):
        code, output, _ = _forked(tree, scratch, module, tests, limit_s)
        if code != _PASSED:
            break
    return code, output


def _fate(code: int | None) -> Fate | None:
    """Return what an exit code of pytest says of a mutant; None where pytest itself failed."""
    if code is None:
        return Fate.TIMEOUT
    if code < 0:
        return Fate.KILLED  # by a signal: compiled code that writes where it must not
    return {_PASSED: Fate.SURVIVED, _FAILED: Fate.KILLED, _INTERRUPTED: Fate.KILLED}.get(code)


def _copied_tree(number: int) -> Path:
    """Return a copy of all files that git knows of, as they are now, changed or not."""
    tree = FOLDER / f"tree-{number}"
    shutil.rmtree(tree, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.decode().split("\0")):
        source, target = ROOT / name, tree / name
        if not source.exists() and not source.is_symlink():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target, follow_symlinks=False)
    return tree


def _forked(
    tree: Path, scratch: Path, module: str, tests: Sequence[str], limit_s: float | None
) -> tuple[int | None, str, float]:
    """Run the tests in a fork; return its exit code (None: not in time), what it printed, and its seconds."""
    # Byte code is told by whole seconds and the size: two mutants may have the same of both.
    for stale in (tree / module).parent.glob(f"__pycache__/{Path(module).stem}.*"):
        stale.unlink()
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    said = scratch / "said"
    begin = time.monotonic()
    child = os.fork()
    if not child:
        _be_child(tree, scratch, said, tests)
    code: int | None = None
    while limit_s is None or time.monotonic() - begin < limit_s:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            code = os.waitstatus_to_exitcode(status)
            break
        time.sleep(0.02)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if code is None:
        with suppress(ChildProcessError):
            os.waitpid(child, 0)
    return code, said.read_text(errors="replace"), time.monotonic() - begin


def _be_child(tree: Path, scratch: Path, said: Path, tests: Sequence[str]) -> None:
    """Run pytest on the tree and end this process with its exit code."""
    os.setsid()
    # No child outlives its worker, which may be killed.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_BYTES, _ADDRESS_BYTES))
    with said.open("wb") as stream, Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    os.chdir(tree)
    # xtrace is this tree's, for the tests and for the commands that they start; `python -m mutants` has put
    # the root on the path, whose folders have the names of tests' folders.
    sys.path[:] = [str(tree), *(name for name in sys.path if name not in ("", str(ROOT)))]
    os.environ["PYTHONPATH"] = str(tree)
    os.environ["TMPDIR"] = str(scratch)
    tempfile.tempdir = None  # forget what was told before the fork
    os.environ["NUMBA_CACHE_DIR"] = str(tree / "loops")
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    code = 3
    try:
        import numba
        import pytest

        numba.config.reload_config()
        seen = _Failures()
        code = pytest.main([*_OPTIONS, *tests], plugins=[seen])
        if code == _FAILED and not seen.count:
            code = _PASSED  # what is left on the machine is no mutant's doing: others run beside it
    except BaseException:  # noqa: BLE001 - said, and the exit code tells that pytest failed
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(int(code))


class _Failures:
    """A plugin that counts what fails."""

    count = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.count += report.failed

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self.count += report.failed


def _diff(before: str, after: str, module: str) -> str:
    return "\n".join(
        difflib.unified_diff(before.splitlines(), after.splitlines(), module, module, lineterm="", n=0)
    )
