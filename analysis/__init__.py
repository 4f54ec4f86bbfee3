"""The questions: records in, data frames out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from xtrace.analysis.machine.machine import Machine
    from xtrace.analysis.machine.metrics import Metric
    from xtrace.analysis.partial.partial import Partial, merge, partial_of
    from xtrace.analysis.report.build import Report, Selection, build

__all__ = ["Machine", "Metric", "Partial", "Report", "Selection", "build", "merge", "partial_of"]

_HOMES = {
    "Machine": "machine",
    "Metric": "metrics",
    "Partial": "partial",
    "Report": "report",
    "Selection": "report",
    "build": "report",
    "merge": "partial",
    "partial_of": "partial",
}


def __getattr__(name: str) -> Any:
    """Import what needs numba or pandas when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(name)
    from importlib import import_module

    return getattr(import_module(f"xtrace.analysis.{_HOMES[name]}"), name)
