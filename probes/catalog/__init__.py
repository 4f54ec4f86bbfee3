"""The catalogue of trace records: what every event id means, in every Xen from 4.0 to 4.22.

Each class of events has a module with its table.  ``find`` looks up a record's shape,
``detect`` finds the Xen versions that may have written a trace from its shapes.  It
needs only the standard library, so it also runs on a dom0.

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
