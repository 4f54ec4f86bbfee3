"""Find and load the library of compiled loops; decide how the loops run in this process.

The library is beside this module, one file per type of processor: ``loops.x86_64.so``.  It contains one
function per loop and two texts: which files it was compiled from, and their digest.  In a checkout they are
compared with the files, and the library is compiled again where they have changed.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.util
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

from xtrace.probes.errors import TraceError

COMPILED, NUMBA, PYTHON = "compiled", "numba", "python"
VARIABLE = "XTRACE_LOOPS"
#: Calls a loop with its frame of int64 and returns 0, or not 0 where it failed.
Compiled: TypeAlias = Callable[[Any], int]

_ROOT = Path(__file__).resolve().parents[2]
#: It exists in a checkout only.
_COMPILER = _ROOT / "tools" / "building" / "compile_loops.py"


def path_for(machine: str) -> Path:
    """Return the library for a type of processor, as platform.machine() names it."""
    return Path(__file__).with_name(f"loops.{machine}.so")


def name_of(function: Callable[..., Any]) -> str:
    """Return a loop's name in the library."""
    return f"{function.__module__}.{function.__name__}".replace(".", "_")


def digest_of(files: Iterable[str], root: Path = _ROOT) -> str:
    """Return the digest of files, given relative to the root of the checkout.

    Raises:
        OSError: a file cannot be read.
    """
    digest = hashlib.sha256()
    for name in files:
        content = (root / name).read_bytes()
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return digest.hexdigest()


@cache
def how() -> str:
    """Return how the loops run in this process: COMPILED, NUMBA or PYTHON.

    Raises:
        TraceError: there is nothing to run them with.
    """
    wanted = os.environ.get(VARIABLE) or COMPILED
    if wanted not in (COMPILED, NUMBA, PYTHON):
        raise TraceError(f"{VARIABLE}: {wanted!r} is not one of {COMPILED}, {NUMBA}, {PYTHON}")
    if wanted != COMPILED:
        return wanted
    machine = platform.machine()
    if path_for(machine).exists() or _COMPILER.exists():
        return COMPILED
    if _has_numba():
        return NUMBA
    raise TraceError(f"this installation has no compiled loops for {machine}: pip install numba")


class Library:
    """A loaded library.

    Attributes:
        sources: the files that it was compiled from, relative to the root of the checkout.
        digest: their digest_of().
    """

    def __init__(self, path: Path) -> None:
        self._library = ctypes.CDLL(os.fspath(path))
        self.sources = tuple(self._text("xtrace_sources").split("\n"))
        self.digest = self._text("xtrace_digest")

    def function(self, name: str) -> Compiled:
        """Return a loop."""
        found: Compiled = getattr(self._library, name)
        return found

    def _text(self, name: str) -> str:
        return ctypes.string_at(ctypes.addressof(ctypes.c_char.in_dll(self._library, name))).decode()


@cache
def loaded() -> Library:
    """Return the library for this machine; compile it first if its sources have changed.

    Raises:
        TraceError: it cannot be compiled or loaded.
    """
    path = path_for(platform.machine())
    if not _COMPILER.exists():
        return _load(path)
    found = _load(path) if path.exists() else None
    if found is not None and _is_current(found):
        return found
    _compile(path)
    return _load(path)


def _load(path: Path) -> Library:
    try:
        return Library(path)
    except (OSError, ValueError, AttributeError) as error:
        raise TraceError(f"{path}: cannot be loaded: {error}") from None


def _is_current(library: Library) -> bool:
    try:
        return digest_of(library.sources) == library.digest
    except OSError:
        return False


def _compile(path: Path) -> None:
    if not _has_numba():
        raise TraceError("the loops are not compiled, or have changed since: run ./run, or pip install -e .")
    done = subprocess.run([sys.executable, os.fspath(_COMPILER), os.fspath(path)], check=False)
    if done.returncode:
        raise TraceError(f"the loops could not be compiled: {_COMPILER} failed")


def _has_numba() -> bool:
    return importlib.util.find_spec("numba") is not None
