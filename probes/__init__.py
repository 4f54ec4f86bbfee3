"""Everything that reads or writes trace data: trace files in, batches of records out.

The names in ``__all__`` are public; the modules that define them are not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from xtrace.lazy import exported
from xtrace.probes.errors import TraceError

if TYPE_CHECKING:
    from xtrace.probes import catalog
    from xtrace.probes.capture.layout import Capture, open_capture
    from xtrace.probes.format import TraceClass
    from xtrace.probes.intact.damage import Damage
    from xtrace.probes.reader.batches import RecordBatch, ShapeTable
    from xtrace.probes.reader.read_facts import ReadFacts
    from xtrace.probes.reader.reader import TraceReader, open_trace
    from xtrace.probes.selection.times import Moment
    from xtrace.probes.selection.vcpus import Vcpu

__all__ = [
    "Capture",
    "Damage",
    "Moment",
    "ReadFacts",
    "RecordBatch",
    "ShapeTable",
    "TraceClass",
    "TraceError",
    "TraceReader",
    "Vcpu",
    "catalog",
    "open_capture",
    "open_trace",
]

#: Imported on first use, because the reader needs numpy and numba.
__getattr__ = exported(
    __name__,
    {
        "Capture": "capture.layout",
        "Damage": "intact.damage",
        "Moment": "selection.times",
        "ReadFacts": "reader.read_facts",
        "RecordBatch": "reader.batches",
        "ShapeTable": "reader.batches",
        "TraceClass": "format",
        "TraceReader": "reader.reader",
        "Vcpu": "selection.vcpus",
        "catalog": "",
        "open_capture": "capture.layout",
        "open_trace": "reader.reader",
    },
)
