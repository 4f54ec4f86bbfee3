"""What a child process for reading traces imports before it gets their paths."""

from __future__ import annotations

from xtrace.forked import Preload

LOOPS = Preload(
    "xtrace.analysis.state_machine.one_pass",
    "xtrace: still loading; the first use compiles its loops, which takes half a minute (every use does, if "
    "neither xtrace's folder nor ~/.cache is writable: set NUMBA_CACHE_DIR to a folder that is)\n",
)
