"""The arrays of one step of the reader: its windows and its decoded records, in file order."""

from __future__ import annotations

import numpy as np

#: Windows framed at a time.
WINDOWS_AHEAD = 1 << 16

#: What a window belongs to: the current segment; the next one, where a restart is suspected or known; or
#: it is not known, because it follows a restart that has not been dealt with.
CURRENT, NEXT, UNSEEN = range(3)

#: Bits of Windows.is_part: the end of a window that was cut in two; before it, windows may be missing.
IS_END, MAY_MISS = 1, 2


class Windows:
    """The windows of one step; frame() lists them, decode() adds what it found.

    Attributes:
        pcpu: of each window.
        begin, end: its first word and the word after it, as its header says.
        stop: the word after its last valid record.
        row, row_end: its records in Rows.
        key: greatest key up to its end.
        offset: in the file, of the word at ``begin``; only for windows that are not CURRENT or not carried.
        state: CURRENT, NEXT or UNSEEN.
        is_part: IS_END and MAY_MISS, or 0.
    """

    _NAMES = ("pcpu", "begin", "end", "stop", "row", "row_end", "key", "offset", "state", "is_part")

    def __init__(self) -> None:
        self.pcpu = np.empty(WINDOWS_AHEAD, np.int32)
        self.begin = np.empty(WINDOWS_AHEAD, np.int64)
        self.end = np.empty(WINDOWS_AHEAD, np.int64)
        self.row = np.empty(WINDOWS_AHEAD, np.int64)
        self.row_end = np.empty(WINDOWS_AHEAD, np.int64)
        self.stop = np.empty(WINDOWS_AHEAD, np.int64)
        self.key = np.empty(WINDOWS_AHEAD, np.int64)
        self.offset = np.empty(WINDOWS_AHEAD, np.int64)
        self.state = np.empty(WINDOWS_AHEAD, np.uint8)
        self.is_part = np.zeros(WINDOWS_AHEAD, np.uint8)
        self.count = 0

    def make_room(self, count: int) -> None:
        """Grow the arrays to hold ``count`` windows, keeping their content."""
        if count <= len(self.pcpu):
            return
        for name in self._NAMES:
            old = getattr(self, name)
            more = np.empty(max(count, 2 * len(old)) - len(old), old.dtype)
            setattr(self, name, np.concatenate((old, more)))

    def split(self, at: int, row: int, word: int, key: int) -> None:
        """Cut a window in two.

        Args:
            at: the window.
            row, word: first record of the second part, as a row and as a word.
            key: greatest key of the first part.
        """
        self.make_room(self.count + 1)
        for name in self._NAMES:
            column = getattr(self, name)
            column[at + 1 : self.count + 1] = column[at : self.count].copy()
        self.count += 1
        self.offset[at + 1] += 4 * (word - self.begin[at])
        self.begin[at + 1] = self.end[at] = self.stop[at] = word
        self.row[at + 1] = self.row_end[at] = row
        self.key[at] = key
        self.is_part[at + 1] = IS_END


class Rows:
    """The decoded records of one step in file order."""

    def __init__(self) -> None:
        self.count = 0
        self.resize(0)

    def resize(self, size: int) -> None:
        """Make room for ``size`` records; what the arrays hold is lost."""
        self.key = np.empty(size, np.int64)
        self.tsc = np.empty(size, np.int64)
        self.shape = np.empty(size, np.uint16)
        self.start = np.empty(size, np.uint32)
