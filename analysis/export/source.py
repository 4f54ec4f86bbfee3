"""What is exported: a trace that is read twice, because the second pass needs what the first one finds.

That is the TSC's rate, where a window of seconds begins, which TSCs are apart, what can be known how well,
and what is out of the usual.  The second pass yields single events, in memory that does not grow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from xtrace.analysis.export.about import About
from xtrace.analysis.export.rows import Rows, table_of
from xtrace.analysis.loading.reading import Progress, unseen
from xtrace.analysis.report.build import Report
from xtrace.analysis.report.request import ReportRequest, make_report
from xtrace.analysis.state_machine.keys import domain_of, vcpu_of
from xtrace.analysis.state_machine.metrics import Detail, Metric
from xtrace.analysis.state_machine.one_pass import Piece, stream
from xtrace.analysis.summary.summary_head import is_summary
from xtrace.analysis.summary.versions import detected
from xtrace.probes.capture.layout import WITHOUT_TRACE, is_dom0_only, names_of, trace_in
from xtrace.probes.catalog import VersionRange
from xtrace.probes.errors import TraceError
from xtrace.probes.format import CPU_CHANGE, MAX_PCPUS, WRAP_BUFFER
from xtrace.probes.reader.batches import HOLE_SHAPES, I64, RecordBatch
from xtrace.probes.reader.sources import STDIN
from xtrace.probes.selection.times import WITHOUT_RATE, Moment
from xtrace.probes.selection.vcpus import Vcpu, domain_ids
from xtrace.probes.xen_abi import DEFAULT_DOMAIN, IDLE_DOMAIN

_NO_RECORDS = (*HOLE_SHAPES, WRAP_BUFFER, CPU_CHANGE)
#: Metrics and details of which ``a`` is no vCPU.
NOT_OF_VCPUS = (
    Metric.DOMAIN_STATE, Metric.DOMAIN_UNKNOWN, Metric.DOMAIN_PART,
    Metric.PCPU_RUNNING, Metric.PCPU_IDLE, Metric.PCPU_LOST, Metric.PCPU_UNKNOWN,
    Metric.CSTATE, Metric.IRQ_HANDLING, Metric.HANDOFF,
    Metric.SKEW_NOT_FROM, Metric.SKEW_NOT_TO, Metric.LOST_RECORDS,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportRequest:
    """A trace, and which part of it is wanted.

    Attributes:
        path: a trace or a capture; it is read twice, so it cannot be standard input.
        domains: only these; an id, or text: "3", "d3" or a name in a capture.
        vcpus: only these.
        begin, end, cpu_hz, versions, strict: as in ReportRequest.
    """

    path: Path
    domains: Sequence[int | str] = ()
    vcpus: Sequence[Vcpu] = ()
    begin: Moment | None = None
    end: Moment | None = None
    cpu_hz: float | None = None
    versions: VersionRange | None = None
    strict: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """What the second pass yields.

    Attributes:
        rows: single events of the wanted part, with STATE and RUN_BEGIN of all vCPUs and times.
        records: the records of that time, all of them; None where there are no further ones.
        axis: what makes the records' TSCs go on from those before a restart.
        who: the vCPU that its pCPU ran at each of the records.
    """

    rows: Rows
    records: RecordBatch | None
    axis: int
    who: I64


class Chosen(NamedTuple):
    """Records of a batch that are wanted.

    Attributes:
        records: the batch.
        rows: which of its rows.
        tscs: of all its rows.
        who: the vCPU that its pCPU ran at each of its rows; of the default domain where it is not known.
    """

    records: RecordBatch
    rows: npt.NDArray[np.intp]
    tscs: I64
    who: I64


class Exported:
    """A trace to export.

    Attributes:
        report: of the first pass.
        partial: of the first pass: the wanted window.
        names: of domains by id, as far as they are known.
        versions: Xen versions that can have written the trace.
        first_tsc, last_tsc: of the trace; times in exports count from first_tsc on.
        window: first and last TSC that is wanted.
    """

    def __init__(self, request: ExportRequest, *, progress: Progress = unseen) -> None:
        self.request = request
        self._progress = progress
        _refuse(request.path)
        answer = make_report(
            ReportRequest(
                paths=[request.path],
                domains=request.domains,
                vcpus=request.vcpus,
                tables=("wakes",),
                begin=request.begin,
                end=request.end,
                cpu_hz=request.cpu_hz,
                cpu_hz_source="--cpu-hz",
                versions=request.versions,
                strict=request.strict,
            ),
            progress=progress,
        )
        self.report: Report = answer.report
        self.names = names_of(request.path)
        self.partial = partial = answer.summary.partial
        self.versions = request.versions or detected(partial.records).range
        self._is_core = bool(partial.facts["core_files"].sum())
        self._offsets = np.zeros(MAX_PCPUS, np.int64)
        self._offsets[partial.aligned["pcpu"]] = partial.aligned["offset_cycles"]
        span = partial.spans
        self.first_tsc = int(span["first_tsc"].min())
        self.last_tsc = int(span["last_tsc"].max())
        self.window = self._window_of(request)
        self._domains = set(domain_ids(request.domains, lambda: self.names, str(request.path)))

    @property
    def hz(self) -> float:
        """The TSC's rate.

        Raises:
            TraceError: it is not known.
        """
        if self.report.hz is None:
            raise TraceError(
                f"{self.request.path}: the TSC's rate cannot be determined from it; {WITHOUT_RATE}"
            )
        return self.report.hz

    def batches(self, metrics: Iterable[Metric | Detail] = (*Metric, *Detail)) -> Iterator[Batch]:
        """Yield the events of the wanted part, of some metrics.

        Raises:
            OSError, TraceError: the trace cannot be read.
        """
        wanted = table_of(metrics)
        path = trace_in(self.request.path)
        with self._progress([str(path)]) as update:
            pieces = stream(
                path,
                strict=self.request.strict,
                tsc_offsets=self._offsets,
                core=self._is_core,
                progress=None if update is None else (lambda done: update(str(path), done)),
            )
            for piece in pieces:
                yield Batch(self._wanted(piece, wanted), piece.records, piece.axis, piece.who)

    def records(self) -> Iterator[Chosen]:
        """Yield the records of the wanted window that are about the wanted domains and vCPUs, as About says.

        Left out are fillers, and rows that stand for missing windows.

        Raises:
            OSError, TraceError: the trace cannot be read.
        """
        about = About(self.versions, self.is_wanted, has_vcpus=bool(self.request.vcpus))
        for batch in self.batches(()):
            if batch.records is None:
                continue
            tscs = batch.records.tsc + batch.axis
            chosen = self.is_inside(tscs)
            chosen &= ~np.isin(batch.records.shapes.event, _NO_RECORDS)[batch.records.shape]
            if self.has_filter:
                chosen &= about.are(batch.records, batch.who)
            yield Chosen(batch.records, np.flatnonzero(chosen), tscs, batch.who)

    def is_inside(self, tscs: I64) -> npt.NDArray[np.bool_]:
        """Return which TSCs are in the wanted window of time."""
        first, last = self.window
        inside: npt.NDArray[np.bool_] = (tscs >= first) & (tscs <= last)
        return inside

    def is_wanted(self, vcpus: I64) -> npt.NDArray[np.bool_]:
        """Return which vCPU keys are of the wanted domains and vCPUs."""
        wanted = np.ones(len(vcpus), np.bool_)
        if self._domains:
            wanted &= np.isin(domain_of(vcpus), list(self._domains))
        if self.request.vcpus:
            of_vcpu = np.zeros(len(vcpus), np.bool_)
            for vcpu in self.request.vcpus:
                of_domain = True if vcpu.domain is None else domain_of(vcpus) == vcpu.domain
                of_vcpu |= (vcpu_of(vcpus) == vcpu.number) & of_domain
            wanted &= of_vcpu
        return wanted

    @property
    def has_filter(self) -> bool:
        """Whether only some domains or vCPUs are wanted."""
        return bool(self._domains or self.request.vcpus)

    def _wanted(self, piece: Piece, metrics: npt.NDArray[np.bool_]) -> Rows:
        rows = Rows.of(piece, metrics)
        chosen = self.is_inside(rows.end)
        if self.has_filter:
            of_vcpu = ~np.isin(rows.metric, NOT_OF_VCPUS)
            chosen &= ~of_vcpu | self.is_wanted(rows.a & 0xFFFF_FFFF)
        chosen |= (rows.metric == Detail.STATE) | (rows.metric == Detail.RUN_BEGIN)
        return rows if chosen.all() else rows.where(chosen)

    def _window_of(self, request: ExportRequest) -> tuple[int, int]:
        """Return the first and last TSC that is wanted, both inclusive."""
        first, last = self.first_tsc, self.last_tsc
        if request.begin is not None:
            first += request.begin.cycles(self.first_tsc, self.report.hz)
        if request.end is not None:
            last = min(last, self.first_tsc + request.end.cycles(self.first_tsc, self.report.hz) - 1)
        return first, last


def vcpu_name(key: int) -> str:
    """Return what a vCPU is called, such as d1v0."""
    domain = domain_of(key)
    if domain == DEFAULT_DOMAIN:
        return "d?v?"
    return f"idle{vcpu_of(key)}" if domain == IDLE_DOMAIN else f"d{domain}v{vcpu_of(key)}"


def _refuse(path: Path) -> None:
    """Raise TraceError for what cannot be exported."""
    if str(path) == STDIN:
        raise TraceError("standard input can be read only once, and export reads a trace twice: give a file")
    if is_summary(path):
        raise TraceError(f"{path}: a summary has no single events: give the trace")
    if is_dom0_only(path):
        raise TraceError(f"{path}: {WITHOUT_TRACE}, which export reads")
    trace = Path(trace_in(path))
    if trace.exists() and not trace.is_file():
        raise TraceError(f"{path}: not a file; export reads a trace twice")


#: Called with a line for the user.
Tell = Callable[[str], None]
