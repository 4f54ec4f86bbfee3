"""Run tests on mutants: one worker process and one copy of the tree per core, one fork per mutant.

A worker imports the tests' third-party modules once. For each mutant it forks a child that runs pytest on the
mutated copy. Nothing of xtrace is loaded before the fork, so each child runs the mutant's code. The children
use the checkout's compiled loops, unless these were made from the mutated module: then numba compiles them
again in each child.
"""

from __future__ import annotations

import ctypes
import difflib
import gc
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

#: Third-party modules that the tests import; a worker loads them once for all its mutants.
_HEAVY = ("hypothesis", "iced_x86", "elftools.elf.elffile", "numpy", "pandas", "pytest", "typer", "z3")
_OPTIONS = (
    "-x", "-q", "--tb=line", "--assert=plain", "--hypothesis-seed=0",
    "-p", "no:cacheprovider", "-p", "no:randomly", "-p", "no:xdist",
    # pytest warns that it cannot rewrite the asserts of modules that are already imported.
    "-W", "ignore::pytest.PytestAssertRewriteWarning",
)  # fmt: skip
#: After this many mutants of a worker, the unchanged module must pass again: otherwise failures mean nothing.
_CONTROL = 40
#: A mutant that takes longer than this many times the unchanged module's time plus the spare is not ended.
_SLOWER, _SPARE_S = 6, 30
#: More address space than the tests need; a mutant that allocates without end must not exhaust the machine's.
_ADDRESS_BYTES = 12 << 30
_PR_SET_PDEATHSIG = 1
_PASSED, _FAILED, _INTERRUPTED, _INTERNAL_ERROR = 0, 1, 2, 3
#: Where the library of compiled loops is, relative to the root of the checkout.
_LIBRARIES = "probes/compiled/loops.*.so"
_UPDATE_THE_LIBRARY = "from xtrace.probes.compiled import library; library.loaded()"


@dataclass(frozen=True, slots=True)
class Job:
    """One mutant to run: its name and the changed module's text, None if the operator changed nothing."""

    name: str
    text: str | None


@dataclass(frozen=True, slots=True)
class Done:
    """The result of a mutant's run."""

    name: str
    fate: Fate
    output: str
    diff: str


def run(module: str, stages: Sequence[Sequence[str]], jobs: Iterator[Job], processes: int) -> Iterator[Done]:
    """Run the tests on each job in several processes; yield each result as it arrives.

    Args:
        module: the mutated module, relative to the root of the checkout.
        stages: arguments for pytest; each stage runs if the one before it passes.
        jobs: the mutants.
        processes: how many workers to start.

    Raises:
        RuntimeError: the tests fail on the unchanged module, or pytest could not run them.
        CalledProcessError: the loops cannot be compiled.
    """
    # Otherwise each child would compile it.
    ours = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "XTRACE_LOOPS")}
    subprocess.run([sys.executable, "-P", "-c", _UPDATE_THE_LIBRARY], cwd=ROOT, env=ours, check=True)
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
            # Without any it would wait for ever.
            for pipe in wait(busy) if busy else ():
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
    """Be a worker: make a copy of the tree, check that its tests pass, then run the jobs from the pipe."""
    tree = _copied_tree(number)
    # A short name: the tests print paths, which must fit into 80 columns.
    scratch = Path(tempfile.gettempdir()) / f"mutants-{os.getpid()}"
    for name in (*_HEAVY, *(["numba"] if _is_compiled(tree, module) else [])):
        importlib.import_module(name)
    # A child need not go through what it has not made, nor change the pages that it shares.
    gc.collect()
    gc.freeze()
    source = tree / module
    original = source.read_text()
    limits: list[float] = []
    with suppress(EOFError, BrokenPipeError):
        for tests in stages:
            code, output, took = _forked(tree, scratch, module, tests, None)
            if code != _PASSED:
                pipe.send(f"{module}: the tests fail on the unchanged module:\n{output[-4000:]}")
                return
            limits.append(took * _SLOWER + _SPARE_S)
        pipe.send("")
        for count in itertools.count(1):
            job = pipe.recv()
            assert job.text not in (None, original), job.name
            source.write_text(job.text)
            code, output = _staged(tree, scratch, module, stages, limits)
            source.write_text(original)
            fate = _fate(code, output)
            if fate is None:
                pipe.send(f"{module}: {job.name}: pytest ended with exit code {code}:\n{output[-4000:]}")
                return
            diff = _diff(original, job.text, module)
            if not count % _CONTROL:
                code, said = _staged(tree, scratch, module, stages[:1], limits)
                if code != _PASSED:
                    pipe.send(f"{module}: the tests fail on the unchanged module by now:\n{said[-4000:]}")
                    return
            pipe.send(Done(job.name, fate, output[-2000:], diff))
    shutil.rmtree(scratch, ignore_errors=True)


def _staged(
    tree: Path, scratch: Path, module: str, stages: Sequence[Sequence[str]], limits: Sequence[float]
) -> tuple[int | None, str]:
    """Run the stages until one fails; return the last one's exit code (None: timeout) and output."""
    code, output = None, ""
    for tests, limit_s in zip(stages, limits, strict=False):
        code, output, _ = _forked(tree, scratch, module, tests, limit_s)
        if code != _PASSED:
            break
    return code, output


def _fate(code: int | None, output: str) -> Fate | None:
    """Return a mutant's fate from pytest's exit code (None: timeout) and output; None if pytest failed."""
    if code is None:
        return Fate.TIMEOUT
    if code < 0:
        return Fate.KILLED  # by a signal, such as SIGSEGV in compiled code
    if code == _INTERNAL_ERROR and "INTERNALERROR> MemoryError" in output:
        return Fate.KILLED  # it used all that it may, and pytest's plugins could not report that either
    return {_PASSED: Fate.SURVIVED, _FAILED: Fate.KILLED, _INTERRUPTED: Fate.KILLED}.get(code)


def _copied_tree(number: int) -> Path:
    """Copy the work tree, what git does not ignore and the compiled loops; return the copy's root."""
    tree = FOLDER / f"tree-{number}"
    shutil.rmtree(tree, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, check=True,
    ).stdout  # fmt: skip
    libraries = [str(path.relative_to(ROOT)) for path in ROOT.glob(_LIBRARIES)]
    for name in filter(None, [*listed.decode().split("\0"), *libraries]):
        source, target = ROOT / name, tree / name
        if not source.exists() and not source.is_symlink():
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target, follow_symlinks=False)
    return tree


def _is_compiled(tree: Path, module: str) -> bool:
    """Return whether the library of loops was made from a module: it contains its sources' names."""
    return any(module.encode() in path.read_bytes() for path in tree.glob(_LIBRARIES))


def _forked(
    tree: Path, scratch: Path, module: str, tests: Sequence[str], limit_s: float | None
) -> tuple[int | None, str, float]:
    """Run the tests in a fork; return its exit code (None: timeout), output and duration in seconds."""
    # Python matches byte code to a source by mtime in seconds and size, which two mutants may share.
    for stale in (tree / module).parent.glob(f"__pycache__/{Path(module).stem}.*"):
        stale.unlink()
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    said = scratch / "said"
    begin = time.monotonic()
    child = os.fork()
    if not child:
        _be_child(tree, scratch, said, module, tests)
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


def _be_child(tree: Path, scratch: Path, said: Path, module: str, tests: Sequence[str]) -> None:
    """Run pytest on the tree and end this process with its exit code."""
    os.setsid()
    # The child must not outlive its worker, which may be killed.
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    resource.setrlimit(resource.RLIMIT_AS, (_ADDRESS_BYTES, _ADDRESS_BYTES))
    with said.open("wb") as stream, Path(os.devnull).open("rb") as nothing:
        os.dup2(nothing.fileno(), 0)
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    os.chdir(tree)
    # Tests and the commands that they start must import this tree's xtrace.  `python -m mutants` has put ROOT
    # on the path: remove it, because its folders have the same names as folders of tests/.
    sys.path[:] = [str(tree), *(name for name in sys.path if name not in ("", str(ROOT)))]
    os.environ["PYTHONPATH"] = str(tree)
    os.environ["TMPDIR"] = str(scratch)
    tempfile.tempdir = None  # forget the value cached before the fork
    os.environ.pop("XTRACE_LOOPS", None)
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    sys.dont_write_bytecode = False
    code = 3
    try:
        if _is_compiled(tree, module):
            _compile_with_numba(tree / "loops")
        import pytest

        seen = _Failures()
        code = pytest.main([*_OPTIONS, *tests], plugins=[seen])
        if code == _FAILED and not seen.count:
            code = _PASSED  # only leftovers were reported, which may come from mutants that run in parallel
    except BaseException:  # noqa: BLE001 - printed, and the exit code says that pytest failed
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(int(code))


def _compile_with_numba(cache: Path) -> None:
    """Have numba compile the loops on first use: the library is not that of the mutant."""
    os.environ["XTRACE_LOOPS"] = "numba"
    os.environ["NUMBA_CACHE_DIR"] = str(cache)
    import numba

    numba.config.reload_config()


class _Failures:
    """A plugin that counts failed tests and collections."""

    count = 0

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.count += report.failed

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self.count += report.failed


def _diff(before: str, after: str, module: str) -> str:
    return "\n".join(
        difflib.unified_diff(before.splitlines(), after.splitlines(), module, module, lineterm="", n=0)
    )
