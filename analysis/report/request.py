"""A report from files to tables: what is asked for, and the one function that answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from xtrace.analysis.loading.reading import Progress, Reading, unseen
from xtrace.analysis.loading.summaries import Loading, origin_of
from xtrace.analysis.summary.summary_head import is_summary
from xtrace.probes.capture.layout import META, open_capture
from xtrace.probes.reader.sources import STDIN

if TYPE_CHECKING:
    from xtrace.analysis.cost.guest_counters import Rates
    from xtrace.analysis.cost.inputs import CostInputs
    from xtrace.analysis.measures.measures import Measures
    from xtrace.analysis.report.build import Report
    from xtrace.analysis.report.guest_kernels import ImageKernel
    from xtrace.analysis.summary.summary_file import Summary
    from xtrace.probes.catalog import VersionRange
    from xtrace.probes.timing.calibration import Calibration


class RequestError(ValueError):
    """A request that cannot be answered as it is.

    Attributes:
        field: of the request: window, sections, kernels, counters.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class GuestImage:
    """The image of the kernel that a domain runs.

    Attributes:
        load_offset: how far it was moved when loaded; None where the samples are to tell.
    """

    domain: int
    path: Path
    load_offset: int | None = None


@dataclass(frozen=True, slots=True)
class GuestCounters:
    """A guest's counters.

    Attributes:
        domain: None where the file says it, or where there is one image.
    """

    domain: int | None
    path: Path


@dataclass(frozen=True, slots=True)
class UnfencedCapture:
    """A capture of the same load by a kernel without fences.

    Attributes:
        domain: the one that it is compared with.  other_domain: the one in this capture.
    """

    domain: int
    path: Path
    other_domain: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportRequest:
    """What a report is made from, and what of it is wanted.

    Attributes:
        paths: traces, captures and stored summaries, reported on together; ``-`` is standard input.
        sections, domains, vcpus, tables: only these; empty is all.
        from_s, to_s: count only what ends there, in seconds from the first record; one file alone.
        cpu_hz: cycles a second of the TSC; None: as the files tell.
        cpu_hz_source: how it is known, for the report.
        versions: Xen versions to decode by; None: as the records tell.
        images: to look up samples in, one a domain, and to find fences in.
        calibration: what fences take on this host.
        counters, unfenced: further inputs of the fences' cost.
        strict: stop at the first damage.
    """

    paths: Sequence[Path]
    sections: Sequence[str] = ()
    domains: Sequence[int] = ()
    vcpus: Sequence[int] = ()
    tables: Sequence[str] = ()
    from_s: float | None = None
    to_s: float | None = None
    cpu_hz: float | None = None
    cpu_hz_source: str = "given"
    versions: VersionRange | None = None
    images: Sequence[GuestImage] = ()
    calibration: Path | None = None
    counters: Sequence[GuestCounters] = ()
    unfenced: Sequence[UnfencedCapture] = ()
    strict: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """A report, and the summary that it was made of, with the costs that the report found."""

    report: Report
    summary: Summary


def make_report(
    request: ReportRequest,
    *,
    tell: Callable[[str], None] = lambda line: None,
    progress: Progress = unseen,
) -> Answer:
    """Read what a request names and make its report.

    Args:
        tell: is given what a reader must know at once, a line each.
        progress: shows how far a child is that reads a trace.

    Raises:
        RequestError: the request contradicts itself, or asks for what there is not.
        OSError, TraceError, ImageError: a file cannot be read.
    """
    window = _checked(request)
    counters = _counters(request)
    _refuse_window(counters, window)
    calibration = _calibration(request)
    hz = request.cpu_hz or (origin_of(request.paths[0]).tsc_hz if window else None)
    reading = Reading(request.strict, request.from_s, request.to_s, hz, progress)
    with Loading(request.paths, reading, window=window) as loading:
        # While the children read, load what makes the tables.
        from xtrace.analysis.report.build import Selection, build_report
        from xtrace.analysis.summary.summary_file import merge

        selection = Selection(request.sections, request.domains, request.vcpus, request.tables)
        _known_sections(request.sections)
        kernels = _kernels(request)
        whole = merge(loading.result(), hz=request.cpu_hz, hz_source=request.cpu_hz_source)
        _tell_cut(request.paths, tell)
        _refuse_window(counters, whole.origin.window)
        costs = _costs(request, kernels, calibration, counters, whole, progress)
    made = build_report(whole, versions=request.versions, selection=selection, kernels=kernels, costs=costs)
    return Answer(made, replace(whole, origin=replace(whole.origin, costs=made.fence_shares)))


def _checked(request: ReportRequest) -> str:
    """Return the window in words, "" for the whole trace."""
    count = Counter(image.domain for image in request.images)
    if twice := [domain for domain in count if count[domain] > 1]:
        raise RequestError("images", f"two images for domain {twice[0]}")
    if request.from_s is None and request.to_s is None:
        return ""
    if len(request.paths) > 1 or str(request.paths[0]) == STDIN:
        raise RequestError("window", "--from and --to need exactly one file")
    if is_summary(request.paths[0]):
        raise RequestError("window", "a summary cannot be cut: they need the trace")
    if request.from_s is not None and request.to_s is not None and request.to_s < request.from_s:
        raise RequestError("window", "--to lies before --from")
    end = "the end" if request.to_s is None else f"{request.to_s:g} s"
    return f"{request.from_s or 0:g} s to {end}"


def _known_sections(sections: Sequence[str]) -> None:
    from xtrace.analysis.report.build import SECTIONS

    if unknown := sorted(set(sections) - set(SECTIONS)):
        raise RequestError("sections", f"{unknown[0]!r} is none of {', '.join(SECTIONS)}")


def _kernels(request: ReportRequest) -> list[ImageKernel]:
    if not request.images:
        return []
    from xtrace.analysis.report.guest_kernels import open_kernels

    return open_kernels((image.domain, image.path, image.load_offset) for image in request.images)


def _calibration(request: ReportRequest) -> Calibration | None:
    if request.calibration is None:
        return None
    from xtrace.probes.timing.calibration import read

    return read(request.calibration)


def _counters(request: ReportRequest) -> dict[int, Rates]:
    """Read guests' counters, by domain; of a single image's domain they are where nothing says whose."""
    if not request.counters:
        return {}
    from xtrace.analysis.cost.guest_counters import read

    rates: dict[int, Rates] = {}
    for given in request.counters:
        found = read(given.path)
        domain = found.domain if given.domain is None else given.domain
        if domain is None and len(request.images) == 1:
            domain = request.images[0].domain
        if domain is None:
            message = f"{given.path}: whose counters? Say DOMAIN=FILE, or give one --kernel"
            raise RequestError("counters", message)
        if domain in rates:
            raise RequestError("counters", f"two files for domain {domain}")
        rates[domain] = found
    return rates


def _refuse_window(rates: Mapping[int, Rates], window: str) -> None:
    """Refuse counts of the whole trace where only a part of it is counted."""
    for found in rates.values():
        if window and found.seconds is None:
            message = (
                f"{found.path} says not how long it was counted (seconds), so it is of the whole trace: "
                f"not for {window}"
            )
            raise RequestError("counters", message)


def _tell_cut(paths: Sequence[Path], tell: Callable[[str], None]) -> None:
    """Say of each capture whose recorder has not ended that it is not whole."""
    for path in paths:
        if (path / META).is_file() and not open_capture(path).has_ended:
            tell(f"{path}: its recorder was killed, or still records: this is what it wrote up to now")


def _costs(
    request: ReportRequest,
    kernels: Sequence[ImageKernel],
    calibration: Calibration | None,
    counters: Mapping[int, Rates],
    whole: Summary,
    progress: Progress,
) -> CostInputs | None:
    """Return what the fences' cost is made of; None where it is not asked for."""
    asked = calibration is not None or counters or request.unfenced or "cost" in request.sections
    if not asked:
        return None
    from xtrace.analysis.cost.inputs import CostInputs

    unfenced = _unfenced(request, progress)
    return CostInputs(kernels, calibration, counters, whole.origin.emulated, unfenced)


def _unfenced(request: ReportRequest, progress: Progress) -> dict[int, tuple[Measures, int]]:
    """Read the captures of unfenced kernels, each once, by the domain that they are compared with."""
    if not request.unfenced:
        return {}
    from xtrace.analysis.cost.cross_checks.paired_captures import measures_of
    from xtrace.analysis.summary.summary_file import merge

    read: dict[Path, Measures] = {}
    for given in request.unfenced:
        if given.path in read:
            continue
        with Loading([given.path], Reading(request.strict, progress=progress)) as loading:
            whole = merge(loading.result())
        read[given.path] = measures_of(whole.partial, whole.origin.tsc_hz)
    return {given.domain: (read[given.path], given.other_domain) for given in request.unfenced}
