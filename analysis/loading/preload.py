"""What a child that is to read traces loads before it is told which ones."""

from __future__ import annotations

from xtrace.forked import Preload

LOOPS = Preload(
    "xtrace.analysis.state_machine.one_pass",
    "xtrace: still loading; at first use its loops are compiled, which takes half a minute (at each use "
    "where neither its own folder nor ~/.cache can be written: NUMBA_CACHE_DIR names another)\n",
)
