"""Find the versions of Xen that can have written a trace."""

from __future__ import annotations

from xtrace.analysis.columns import Columns
from xtrace.probes.catalog import Detection, detect
from xtrace.probes.format import EVENT_MASK, EXTRA_MASK, EXTRA_SHIFT, TIMED_BIT, WRAP_BUFFER


def detected(records: Columns) -> Detection:
    """Return which Xen versions can have written the records, and why."""
    counts = records.sums(["header"], ["count"])
    return detect(
        (header & EVENT_MASK, header >> EXTRA_SHIFT & EXTRA_MASK, bool(header & TIMED_BIT), count)
        for header, count in zip(counts["header"].tolist(), counts["count"].tolist(), strict=True)
        if header & EVENT_MASK != WRAP_BUFFER and header
    )
