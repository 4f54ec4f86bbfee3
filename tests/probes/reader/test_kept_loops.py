"""Compiled loops are kept for the next run where a folder for them can be written, and run where none can."""

from __future__ import annotations

import os
import subprocess
import sys

PROGRAM = """
import numpy as np
from xtrace.probes.reader import loops
words = np.zeros(8, np.uint32)
places = np.zeros(1, np.int64)
print(loops.KEEP, loops.frame(words, 0, len(words), True, np.zeros(1, np.int32), places, places))
"""


def test_loops_run_where_none_can_be_kept() -> None:
    # As where neither this checkout nor a home can be written, which holds for root nowhere.
    variables = {"NUMBA_CACHE_LOCATOR_CLASSES": "IPythonCacheLocator", "NUMBA_OPT": "0"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM],
        env=os.environ | variables, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("False (1, 0, 0)\n", "")
