"""Take the records of event delivery out of a trace, so that it is as a released Xen writes it."""

from __future__ import annotations

from dataclasses import replace

from builders.cut import packed
from oracle.reader import RawRecord, frame

#: Event ids of event delivery without their last 12 bits.
DELIVERY = 0x804
_CALLS = (0x20100D, 0x20200E)
_IRET, _OP_MASK = 23, 0xF_FFFF


def stripped(data: bytes) -> bytes:
    """Return a trace without records of event delivery and without the frames of irets."""
    return packed(
        [
            replace(
                window, records=tuple(_plain(raw) for raw in window.records if raw.event >> 12 != DELIVERY)
            )
            for window in frame(data).windows
        ]
    )


def _plain(raw: RawRecord) -> RawRecord:
    if raw.event in _CALLS and raw.words and raw.words[0] & _OP_MASK == _IRET:
        return replace(raw, words=(_IRET,))
    return raw
