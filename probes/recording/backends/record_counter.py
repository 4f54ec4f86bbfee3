"""Count the records of a growing trace: 65 ns per record, in plain Python.

A record's length is in the top nibble of its header word, so one byte of each word is
enough to step from header to header.
"""

from __future__ import annotations

import struct

from xtrace.probes.format import (
    LOST_RECORDS,
    MAX_PCPUS,
    MAX_WINDOW_BYTES,
    WINDOW_HEADER,
    WINDOW_HEADER_BYTES,
    WORD_BYTES,
    WRAP_BUFFER,
)

_WORDS = bytes(1 + (top >> 4 & 7) + (2 if top & 0x80 else 0) for top in range(256))
#: The longest record: header, TSC, seven words.
_LONGEST_WORDS = 10
_LOST = LOST_RECORDS.to_bytes(3, "little")
_WRAP = WRAP_BUFFER.to_bytes(3, "little")
_SECOND = _LOST[1:2]
_LOST_WORDS = 7
_LOST_EXTRA = 4


class RecordCounter:
    """What a growing trace holds.

    Attributes:
        records: all but fillers; LOST_RECORDS records count.
        lost: records that Xen reports as lost.
        gaps: number of such reports.
        windows: number started.
        groups: classes and sub-classes (the event's bits above the last 12) of windows' first records.
        fault: where the bytes stopped being windows; empty if they did not.
    """

    def __init__(self) -> None:
        self.records = 0
        self.lost = 0
        self.gaps = 0
        self.windows = 0
        self.groups: set[int] = set()
        self.fault = ""
        self._offset = 0
        self._left = 0
        self._rest = b""

    def feed(self, content: bytes) -> None:
        """Count the records in ``content``, the next bytes of the file; a cut one waits for the next call."""
        content = self._rest + content
        at = 0
        while not self.fault:
            if self._left:
                piece = content[at : at + self._left]
                used = self._count(piece, is_whole=len(piece) == self._left)
                at += used
                self._left -= used
                if self._left:
                    break
            if len(content) - at < WINDOW_HEADER_BYTES:
                break
            header, pcpu, size = struct.unpack_from("<III", content, at)
            if header != WINDOW_HEADER or pcpu >= MAX_PCPUS or size > MAX_WINDOW_BYTES or size % WORD_BYTES:
                self.fault = f"no window begins at byte {self._offset + at}"
                break
            at += WINDOW_HEADER_BYTES
            self._left = size
            self.windows += 1
            if size and len(content) - at >= WORD_BYTES:
                self.groups.add(int.from_bytes(content[at : at + WORD_BYTES], "little") >> 12 & 0xFFFF)
        self._offset += at
        self._rest = b"" if self.fault else content[at:]

    def finish(self) -> None:
        """Count the whole records at the end of a window that was cut; no more bytes come."""
        piece, at = self._rest, 0
        while self._left and not self.fault and at + WORD_BYTES <= len(piece):
            record = piece[at : at + _WORDS[piece[at + 3]] * WORD_BYTES]
            at += _WORDS[piece[at + 3]] * WORD_BYTES
            if at > len(piece):
                break
            is_special = record[:3] in (_LOST, _WRAP) and not record[3] & 0xF
            self.records += self._take_special(record) if is_special else 1
        self._rest = b""

    def _count(self, piece: bytes, *, is_whole: bool) -> int:
        """Count the whole records in a window's next bytes; return their length in bytes."""
        top = piece[3::WORD_BYTES]
        # The last few words of a cut piece wait, because a record may be cut there.
        end = len(top) if is_whole else max(0, len(top) - _LONGEST_WORDS)
        at = records = 0
        words = _WORDS
        for special in [*_places(piece, end), end]:
            while at < special:
                at += words[top[at]]
                records += 1
            if at == special < end:
                records += self._take_special(piece[at * WORD_BYTES :])
                at += words[top[at]]
        self.records += records
        return len(piece) if is_whole else at * WORD_BYTES

    def _take_special(self, record: bytes) -> int:
        if record.startswith(_WRAP):
            return 0
        if record[3] == 0x80 | _LOST_EXTRA << 4 and len(record) >= _LOST_WORDS * WORD_BYTES:
            self.lost += int.from_bytes(record[12:16], "little")
            self.gaps += 1
        return 1


def _places(piece: bytes, end: int) -> list[int]:
    """Return the indices, ascending, of words that would start a LOST_RECORDS or WRAP_BUFFER record."""
    # Their second byte is rare, and searching for a single byte is fastest.
    second = piece[1::WORD_BYTES]
    places = []
    at = second.find(_SECOND, 0, end)
    while at >= 0:
        first = at * WORD_BYTES
        # The low nibble of the top byte belongs to the event.
        if piece[first : first + 3] in (_LOST, _WRAP) and not piece[first + 3] & 0xF:
            places.append(at)
        at = second.find(_SECOND, at + 1, end)
    return places
