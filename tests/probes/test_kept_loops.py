"""Compiled loops are cached for the next run if there is a writable folder, and run without one too."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from numba.core.caching import Cache

from xtrace.probes import kept_loops

RUN = """
import numpy as np
from xtrace.probes import kept_loops
from xtrace.probes.reader import loops
words = np.zeros(8, np.uint32)
places = np.zeros(1, np.int64)
print(kept_loops.KEEP, loops.frame(words, 0, len(words), True, np.zeros(1, np.int32), places, places))
"""

# Prints whether numba entered its registries, the number of cache hits, and the loop's result.
LOAD = """
from numba.core.base import BaseContext
refresh, calls = BaseContext.refresh, []
BaseContext.refresh = lambda self: (calls.append(self), refresh(self))
import numba
from xtrace.probes.kept_loops import kept_loop
@kept_loop(numba.int64(numba.int64))
def double(value):
    return 2 * value
print(len(calls) > 0, double.stats.cache_hits.total(), double(21))
"""


def run(program: str | Path, variables: dict[str, str]) -> str:
    command = [sys.executable, "-P", *(["-c", program] if isinstance(program, str) else [str(program)])]
    done = subprocess.run(command, env=os.environ | variables, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.stdout


def test_loops_run_without_a_writable_cache() -> None:
    # Simulates that neither this checkout nor the home can be written: root can write everywhere.
    variables = {"NUMBA_CACHE_LOCATOR_CLASSES": "IPythonCacheLocator", "NUMBA_OPT": "0"}
    assert run(RUN, variables) == "False (1, 0, 0)\n"


def test_loading_a_cached_loop_skips_the_registries(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(LOAD)
    variables = {"NUMBA_CACHE_DIR": str(tmp_path / "kept")}
    assert run(program, variables) == "True 0 42\n"
    assert run(program, variables) == "False 1 42\n"


def test_numba_is_restored_after_loops_are_loaded() -> None:
    whole = Cache.load_overload
    with kept_loops.loading_lightly():
        assert Cache.load_overload is not whole
    assert Cache.load_overload is whole
    with contextlib.suppress(KeyError), kept_loops.loading_lightly():
        raise KeyError
    assert Cache.load_overload is whole


def test_a_numba_without_the_patched_method_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Cache, "_load_overload")
    whole = Cache.load_overload
    with kept_loops.loading_lightly():
        assert Cache.load_overload is whole
