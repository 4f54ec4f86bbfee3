"""Find holes: whole windows that are missing in the middle of a trace, as xentrace -M leaves them out.

The vCPU that runs on a pCPU at the end of a window runs there at the beginning of the next one.  Where the
next window names another one, or says that the run began in between, records are missing.
``tests/oracle/reader.py`` states the rules.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from xtrace.probes import event_ids as ids
from xtrace.probes.format import EVENT_MASK, EXTRA_MASK, EXTRA_SHIFT, LOST_RECORDS, MAX_PCPUS, TIMED_BIT
from xtrace.probes.reader import loops
from xtrace.probes.reader.batches import HOLE_SHAPES, MAX_SHAPES, U16, U32, ShapeTable
from xtrace.probes.reader.read_facts import Hole
from xtrace.probes.reader.windows import Rows, Windows

#: Holes that are listed; all are counted.
MAX_HOLES_KEPT = 100


class HoleWatch:
    """Follows the windows of a trace.

    Args:
        shapes: the reader's, still empty; those of the rows of holes are added.
    """

    def __init__(self, shapes: ShapeTable) -> None:
        for shape in HOLE_SHAPES:
            added = shapes.intern(shape)
            assert added == shape
        self._shapes = shapes
        self._roles = np.zeros(MAX_SHAPES, np.uint8)
        self._known = shapes.size
        self._runs = np.full(MAX_PCPUS, -1, np.int64)
        self._since = np.zeros(MAX_PCPUS, np.int64)
        self._key = np.zeros(MAX_PCPUS, np.int64)
        self._sums = np.zeros(loops.HOLE_SUMS, np.int64)
        self._found = np.zeros((MAX_HOLES_KEPT, 3), np.int64)

    @property
    def count(self) -> int:
        """Number of holes."""
        return int(self._sums[loops.HOLE_COUNT])

    @property
    def cycles(self) -> int:
        """Sum of their lengths, 2^62 at most."""
        return int(self._sums[loops.HOLE_CYCLES])

    @property
    def found(self) -> list[Hole]:
        """The first MAX_HOLES_KEPT."""
        return [Hole(*row) for row in self._found[: self.count].tolist()]

    def begin_segment(self) -> None:
        """Forget what runs: the TSC restarts."""
        self._runs[:] = -1
        self._since[:] = 0
        self._key[:] = 0

    def examine(self, windows: Windows, rows: Rows, words: U32, first: int, emitted_key: int) -> None:
        """Look for holes before the windows from ``first`` on that are CURRENT, and put rows for them.

        Args:
            emitted_key: greatest key that the merge has passed.
        """
        shapes = self._shapes
        for shape in range(self._known, shapes.size):
            self._roles[shape] = role_of(int(shapes.header[shape]))
        self._known = shapes.size
        loops.find_holes(
            words, shapes.header, self._roles, first, windows.count,
            windows.state, windows.is_part, windows.pcpu, windows.row, windows.row_end, windows.key,
            rows.key, rows.tsc, rows.shape, rows.start,
            self._runs, self._since, self._key, emitted_key,
            self._sums, self._found,
        )  # fmt: skip


def is_hole(shape: U16) -> npt.NDArray[np.bool_]:
    """Return whether rows of these shapes are holes, for a reader that looks for them."""
    found: npt.NDArray[np.bool_] = (shape >= HOLE_SHAPES[0]) & (shape <= HOLE_SHAPES[-1])
    return found


def role_of(header: int) -> int:
    """Return what records with this header word say about the vCPU that runs: ROLE_*, or 0."""
    event, words = header & EVENT_MASK, header >> EXTRA_SHIFT & EXTRA_MASK
    if event == LOST_RECORDS and words == 4 and header & TIMED_BIT:
        return loops.ROLE_LOST
    if event == ids.CONTINUE_RUNNING and words == 1:
        return loops.ROLE_CONTINUES
    if event == ids.SWITCH_INFPREV and words == 3:
        return loops.ROLE_PREVIOUS
    if event & ~ids.RUNSTATE_BITS != ids.RUNSTATE_CHANGE or not words:
        return 0
    old, new = event >> 8 & 3, event >> 4 & 3
    if old == 0:
        return loops.ROLE_LEAVES if new else loops.ROLE_CONTINUES
    return loops.ROLE_ENTERS if new == 0 else 0
