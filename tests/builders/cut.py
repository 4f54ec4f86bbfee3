"""Cut traces as xentrace -e and -c would have recorded them, or by windows and time."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from oracle.reader import RawRecord, Window, frame
from xtrace.probes.reader.writer import pack_record, pack_window
from xtrace.probes.selection.event_masks import event_mask, passes

#: Group of Xen's own records about the trace, which pass every mask.
_GEN = 0x1F000


def windows_of(data: bytes) -> list[Window]:
    return list(frame(data).windows)


def packed(windows: Collection[Window]) -> bytes:
    """Return the bytes of these windows."""
    return b"".join(
        pack_window(window.pcpu, b"".join(map(_record, window.records)))
        for window in windows
        if window.records
    )


def _record(raw: RawRecord) -> bytes:
    return pack_record(raw.event, raw.tsc, raw.words)


def of_classes(windows: Collection[Window], classes: str) -> list[Window]:
    """Return the windows with the records that a mask of event classes lets pass."""
    mask = event_mask(classes)
    return [
        replace(
            window,
            records=tuple(
                raw for raw in window.records if passes(mask, raw.event) or raw.event & 0x0FFFF000 == _GEN
            ),
        )
        for window in windows
    ]


def of_pcpus(windows: Collection[Window], pcpus: Collection[int]) -> list[Window]:
    """Return the windows of some pCPUs."""
    return [window for window in windows if window.pcpu in pcpus]


def in_time(windows: Collection[Window], begin: int, end: int) -> list[Window]:
    """Return the records of a span of TSCs; one without a TSC goes with that before it."""
    inside: dict[int, bool] = {}
    kept = []
    for window in windows:
        records = []
        for raw in window.records:
            if raw.tsc is not None:
                inside[window.pcpu] = begin <= raw.tsc <= end
            if inside.get(window.pcpu, False):
                records.append(raw)
        kept.append(replace(window, records=tuple(records)))
    return kept
