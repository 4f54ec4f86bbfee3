"""Single events of a trace as data frames, in batches."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from xtrace.analysis.columns import Columns
from xtrace.analysis.export.kinds import KINDS
from xtrace.analysis.export.rows import Rows
from xtrace.analysis.export.source import Exported, ExportRequest
from xtrace.analysis.measures.table import Column, Quality
from xtrace.probes.selection.times import Moment
from xtrace.probes.selection.vcpus import Vcpu

if TYPE_CHECKING:
    import pandas as pd


class Events:
    """Events of one kind; iterating reads the trace again and yields data frames, none of them empty.

    Attributes:
        kind: its name.
        described: the columns, with how each is known at best and what it means.
        quality: how each column is known in this trace, by its name.
        hz: TSC rate; None where it is not known.
    """

    def __init__(self, exported: Exported, kind: str) -> None:
        self._exported = exported
        self._kind = KINDS[kind]
        self.kind = kind
        self.described: tuple[Column, ...] = self._kind.table.columns
        self.hz = exported.report.hz
        assert exported.report.coverage is not None
        self.quality: Mapping[str, Quality] = self._kind.table.quality_of(exported.report.coverage)

    def columns(self) -> Iterator[Columns]:
        """Yield the events as columns, a batch at a time."""
        for batch in self._exported.batches(self._kind.metrics):
            rows = batch.rows.where(self._exported.is_inside(batch.rows.end))
            found = self.of(rows)
            if len(found):
                yield found

    def of(self, rows: Rows) -> Columns:
        """Return the events of this kind that are in rows."""
        found = self._kind.table.make(rows)
        if self._exported.has_filter and "domain" in found:
            found = found.where(self._exported.is_wanted(found["domain"] << 16 | found["vcpu"]))
        return found.only(column.name for column in self.described)

    def __iter__(self) -> Iterator[pd.DataFrame]:
        for found in self.columns():
            yield found.frame()


def events(
    path: str | os.PathLike[str],
    kind: str,
    *,
    domains: Sequence[int | str] = (),
    vcpus: Sequence[Vcpu] = (),
    begin: Moment | None = None,
    end: Moment | None = None,
    cpu_hz: float | None = None,
    strict: bool = False,
) -> Events:
    """Return single events of a trace, as data frames in batches: memory does not grow with the trace.

    The trace is read once here, and once each time that the result is iterated over.

    Args:
        path: a trace or a capture, not standard input.
        kind: "wakes", "runs", "runstates", "sends", "upcalls", "hypercalls", "exits", "irqs", "rips" or
            another name in docs/export.md.
        domains, vcpus, begin, end, cpu_hz, strict: as in ReportRequest.

    Raises:
        ValueError: there is no such kind.
        OSError, TraceError, RequestError: the trace cannot be read.
    """
    if kind not in KINDS:
        raise ValueError(f"{kind!r} is not one of {', '.join(KINDS)}")
    request = ExportRequest(
        path=Path(path), domains=domains, vcpus=vcpus, begin=begin, end=end, cpu_hz=cpu_hz, strict=strict
    )
    return Events(Exported(request), kind)
