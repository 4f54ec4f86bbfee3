"""Find and load the library of compiled loops; decide how the loops run in this process.

The library is beside this module, one file per type of processor: ``loops.x86_64.so``.  It contains one
function per loop, and a text with the names of the files that it was compiled from and their digest.  In a
checkout the files are compared with it, and the library is compiled again if they have changed.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import platform
import shlex
import subprocess
import sys
import zlib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from xtrace.probes.errors import TraceError

COMPILED, NUMBA, PYTHON = "compiled", "numba", "python"
VARIABLE = "XTRACE_LOOPS"
_ROOT = Path(__file__).resolve().parents[2]
#: Begins the text about its sources in a library.
_MARK = b"xtrace: loops compiled from\n"
#: It exists in a checkout only.
_COMPILER = _ROOT / "tools" / "building" / "compile_loops.py"


def path_for(machine: str) -> Path:
    """Return the library for a type of processor, as platform.machine() names it."""
    return Path(__file__).with_name(f"loops.{machine}.so")


def name_of(function: Callable[..., Any]) -> str:
    """Return a loop's name in the library."""
    return f"{function.__module__}.{function.__name__}".replace(".", "_")


def digest_of(files: Sequence[str], root: Path) -> str:
    """Return the digest of files, given relative to the root of the checkout.

    A checksum will do to notice edits; hashlib would take longer to import than the library to load.

    Raises:
        OSError: a file cannot be read.
    """
    digest = 0
    for name in files:
        content = (root / name).read_bytes()
        digest = zlib.crc32(f"{name} {len(content)}\n".encode() + content, digest)
    return f"{digest:08x}"


@cache
def how() -> str:
    """Return how the loops run in this process: COMPILED, NUMBA or PYTHON.

    Raises:
        TraceError: they cannot run here.
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


def is_there() -> bool:
    """Return whether the library for this machine is there and current, so that it only has to be loaded."""
    path = path_for(platform.machine())
    return path.exists() and (not _COMPILER.exists() or is_current(path))


@cache
def loaded() -> ctypes.CDLL:
    """Return the library for this machine, with a function per loop; compile it first if it is not current.

    Raises:
        TraceError: it cannot be compiled or loaded.
    """
    path = path_for(platform.machine())
    if _COMPILER.exists() and not is_current(path):
        _compile(path)
    try:
        return ctypes.CDLL(os.fspath(path))
    except OSError as error:
        raise TraceError(f"{path}: cannot be loaded: {error}") from None


def is_current(path: Path, root: Path = _ROOT) -> bool:
    """Return whether a library was compiled from the files of the checkout as they are.

    Reads the library without loading it: a file that has been loaded cannot be loaded again under its name.
    """
    try:
        content = path.read_bytes()
        begin = content.index(_MARK) + len(_MARK)
        digest, *files = content[begin : content.index(b"\0", begin)].decode().split("\n")
        return digest_of(files, root) == digest
    except (OSError, ValueError):
        return False


def text_about(files: Sequence[str], root: Path) -> str:
    """Return the text for a library that is compiled from these files.

    Raises:
        OSError: a file cannot be read.
    """
    return _MARK.decode() + "\n".join((digest_of(files, root), *files))


def _compile(path: Path) -> None:
    """Compile the library again: with numba, or through pip, which fetches numba."""
    if _has_numba():
        command = [sys.executable, os.fspath(_COMPILER), os.fspath(path)]
    else:
        sys.stderr.write("xtrace: the loops have changed; installing xtrace again, which compiles them\n")
        options = ("--quiet", "--disable-pip-version-check", "--no-deps", "--editable")
        command = [sys.executable, "-m", "pip", "install", *options, os.fspath(_ROOT)]
    if subprocess.run(command, stdout=subprocess.DEVNULL, check=False).returncode:
        raise TraceError(f"the hot loops have changed and cannot be compiled: {shlex.join(command)} failed")


def _has_numba() -> bool:
    return importlib.util.find_spec("numba") is not None
