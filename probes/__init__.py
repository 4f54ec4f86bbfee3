"""What touches the wire: trace files in, batches of records out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from xtrace.probes.errors import TraceError

if TYPE_CHECKING:
    from xtrace.probes.reader.batches import RecordBatch, ShapeTable
    from xtrace.probes.reader.read_facts import Damage, ReadFacts
    from xtrace.probes.reader.reader import TraceReader, open_trace

__all__ = ["Damage", "ReadFacts", "RecordBatch", "ShapeTable", "TraceError", "TraceReader", "open_trace"]

_HOMES = {
    "Damage": "read_facts",
    "ReadFacts": "read_facts",
    "RecordBatch": "batches",
    "ShapeTable": "batches",
    "TraceReader": "reader",
    "open_trace": "reader",
}


def __getattr__(name: str) -> Any:
    """Import what needs numpy and numba when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(name)
    from importlib import import_module

    return getattr(import_module(f"xtrace.probes.reader.{_HOMES[name]}"), name)
