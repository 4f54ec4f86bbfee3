"""The catalogue of trace records: what every event id means, in every Xen from 4.0 to 4.22.

One module for each class holds its table; ``find`` reads a record's shape,
``detect`` tells from a trace's shapes which Xen wrote it.  Plain Python, nothing
outside of the standard library: it runs on a dom0 as well.

>>> match = find(0x28004, 2, True, VersionRange.parse("4.17"))
>>> match.event.name, match.quality, [field.name for field in match.layout.fields]
('wake', 'exact', ['dom', 'vcpu'])
"""

from __future__ import annotations

from xtrace.probes.catalog.detect import Detection, Shape, detect
from xtrace.probes.catalog.lookup import EVENTS, all_events, by_id, find
from xtrace.probes.catalog.types import (
    NEWEST,
    OLDEST,
    Event,
    Field,
    Layout,
    Match,
    Quality,
    Version,
    VersionRange,
)

__all__ = [
    "EVENTS",
    "NEWEST",
    "OLDEST",
    "Detection",
    "Event",
    "Field",
    "Layout",
    "Match",
    "Quality",
    "Shape",
    "Version",
    "VersionRange",
    "all_events",
    "by_id",
    "detect",
    "find",
]
