"""The rounds in which xentrace reads the pCPUs' buffers, in ascending order of pCPUs.

A record that has not been read yet is younger than everything that was read before the last look at its pCPU.
That bounds what the merge must hold back, and says up to when a trace covers a pCPU of which no more windows
follow.  Of the samples and the lab's traces, none of 4,193 windows has an older record.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from xtrace.probes.format import MAX_PCPUS
from xtrace.probes.reader.batches import I64
from xtrace.probes.reader.loops import KEY_FLOOR, MAX_KEY


class Rounds:
    """Follows the windows of one segment of a trace.

    Attributes:
        watermark: greatest key of all complete rounds but the last.
    """

    def __init__(self) -> None:
        self.watermark = KEY_FLOOR
        self._has_windows = np.zeros(MAX_PCPUS, np.bool_)
        # The windows of the last two rounds, and where the last one begins in them.
        self._pcpu = np.empty(0, np.int32)
        self._key = np.empty(0, np.int64)
        self._last = 0
        self._older_key = KEY_FLOOR  # greatest of the rounds before

    def note(self, pcpu: npt.NDArray[np.int32], key: I64) -> None:
        """Take the next windows, in file order.

        Args:
            key: greatest key up to the end of each window.
        """
        if not len(pcpu):
            return
        self._has_windows[pcpu] = True
        self._pcpu = np.concatenate((self._pcpu, pcpu))
        self._key = np.concatenate((self._key, key))
        starts = np.flatnonzero(self._pcpu[1:] <= self._pcpu[:-1]) + 1
        if not len(starts):
            return
        self._last = int(starts[-1])
        before = int(starts[-2]) if len(starts) > 1 else 0
        self._older_key = max(self._older_key, int(self._key[:before].max(initial=KEY_FLOOR)))
        self.watermark = self._older_key
        self._pcpu, self._key = self._pcpu[before:], self._key[before:]
        self._last -= before

    @property
    def quiet(self) -> list[int]:
        """The pCPUs that the last round did not reach, and that had nothing new in the round before.

        The file does not show whether it passed over them, or ends before their turn.
        """
        if not self._last:
            return []
        here = self._has_windows.copy()
        here[: int(self._pcpu[-1]) + 1] = False
        here[self._pcpu[: self._last]] = False
        return np.flatnonzero(here).tolist()

    def ends(self, *, is_cut: bool) -> list[tuple[int, int]]:
        """Return pCPUs that are covered to the end of the segment only in part, and the key up to which.

        The windows of a single round are taken as read at the same time, the pCPUs of ``quiet`` as read in
        the last round.

        Args:
            is_cut: the last window is not complete.
        """
        end = int(self._key.max(initial=self._older_key))
        if not self._last or end >= MAX_KEY:
            return []
        last_pcpu = int(self._pcpu[-1])
        pcpus = np.flatnonzero(self._has_windows)
        # In each round the pCPUs rise.
        before, last = slice(0, self._last), slice(self._last, None)
        of_last = np.maximum(self._greatest(last, pcpus), self._key[before].max(initial=self._older_key))
        is_read = (pcpus <= last_pcpu) | np.isin(pcpus, self.quiet)
        covered = np.where(is_read, of_last, self._greatest(before, pcpus))
        if is_cut:
            covered[pcpus == last_pcpu] = self._key[-1]
        is_part = (covered > KEY_FLOOR) & (covered < end)
        return list(zip(pcpus[is_part].tolist(), covered[is_part].tolist(), strict=True))

    def _greatest(self, of_round: slice, pcpus: I64) -> I64:
        """Return the greatest key of a round's windows up to each pCPU, and of all older rounds."""
        keys = np.maximum.accumulate(np.concatenate(([self._older_key], self._key[of_round])))
        greatest: I64 = keys[np.searchsorted(self._pcpu[of_round], pcpus, side="right")]
        return greatest
