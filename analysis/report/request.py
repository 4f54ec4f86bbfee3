"""Make a report from files: the request, and the one function that answers it."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from xtrace.analysis.loading.reading import Progress, Reading, unseen
from xtrace.analysis.loading.summaries import Loading, domain_names, origin_of
from xtrace.analysis.summary.summary_head import is_summary
from xtrace.probes.capture.layout import META, WITHOUT_TRACE, is_dom0_only, open_capture
from xtrace.probes.errors import TraceError
from xtrace.probes.reader.sources import STDIN
from xtrace.probes.selection.times import Moment
from xtrace.probes.selection.vcpus import Vcpu, domain_ids
from xtrace.probes.xen_abi import IDLE_DOMAIN

if TYPE_CHECKING:
    from xtrace.analysis.cost.guest_counters import Rates
    from xtrace.analysis.cost.inputs import CostInputs, InPlace
    from xtrace.analysis.measures.measures import Measures
    from xtrace.analysis.report.build import Report
    from xtrace.analysis.report.guest_kernels import ImageKernel
    from xtrace.analysis.summary.summary_file import Summary
    from xtrace.probes.catalog import VersionRange
    from xtrace.probes.timing.calibration import Calibration


class RequestError(ValueError):
    """A request that cannot be answered as it stands.

    Attributes:
        field: the part of the request that is wrong: paths, window, sections, domains, images, counters,
            unfenced or ignored; of an export, where, sum-by or slot.
    """

    def __init__(self, field: str, message: str) -> None:
        super().__init__(message)
        self.field = field


@dataclass(frozen=True, slots=True)
class GuestImage:
    """The image of the kernel that a domain runs.

    Attributes:
        domain: id, or text as for ReportRequest.domains.
        load_offset: guest address minus image address; None to fit it to the samples.
    """

    domain: int | str
    path: Path
    load_offset: int | None = None


@dataclass(frozen=True, slots=True)
class GuestCounters:
    """A guest's counters.

    Attributes:
        domain: None where the file names it, or where there is only one image.
    """

    domain: int | str | None
    path: Path


@dataclass(frozen=True, slots=True)
class UnfencedCapture:
    """A capture of the same load with a kernel without fences.

    Attributes:
        domain: the domain in the report that it is compared with.
        other_domain: the domain in this capture.
    """

    domain: int | str
    path: Path
    other_domain: int | str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportRequest:
    """The inputs of a report, and which parts of it are wanted.

    Attributes:
        paths: traces, captures and stored summaries, reported on together; ``-`` is standard input.
        sections, domains, vcpus, tables: only these; empty means all.  A domain is an id, or text: "3", "d3"
            or its name in a capture.
        begin, end: count only what ends between these points, the end not included; needs exactly one file.
        cpu_hz: TSC rate; None takes it from the files.
        cpu_hz_source: how ``cpu_hz`` is known, for the report.
        versions: Xen versions to decode by; None detects them from the records.
        images: kernel images to look up samples and find fences in, one per domain.
        calibration: file of what fences cost on this host.
        trial: result of a trial of one of the images.
        counters, unfenced: further inputs of the fence cost model.
        strict: stop at the first damage.
        ignored: names of findings to leave out.
    """

    paths: Sequence[Path]
    sections: Sequence[str] = ()
    domains: Sequence[int | str] = ()
    vcpus: Sequence[Vcpu] = ()
    tables: Sequence[str] = ()
    begin: Moment | None = None
    end: Moment | None = None
    cpu_hz: float | None = None
    cpu_hz_source: str = "given"
    versions: VersionRange | None = None
    images: Sequence[GuestImage] = ()
    calibration: Path | None = None
    trial: Path | None = None
    counters: Sequence[GuestCounters] = ()
    unfenced: Sequence[UnfencedCapture] = ()
    strict: bool = False
    ignored: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Answer:
    """A report, and the summary that it was made from, with the costs that the report computed.

    Attributes:
        was_interrupted: Ctrl-C ended a pipe; the report is of what came until then.
    """

    report: Report
    summary: Summary
    was_interrupted: bool = False


def make_report(
    request: ReportRequest,
    *,
    tell: Callable[[str], None] = lambda line: None,
    progress: Progress = unseen,
) -> Answer:
    """Read the files of a request and return its report; pass warnings to the callback, one line each.

    Args:
        progress: shows how far the reading of traces is.

    Raises:
        RequestError: the request contradicts itself, or asks for something that does not exist.
        OSError, TraceError, ImageError: a file cannot be read.
    """
    named = _named(request)
    window = _checked(request, named)
    counters = _counters(named)
    _refuse_window(counters, window)
    calibration = _calibration(request)
    hz = request.cpu_hz or (origin_of(request.paths[0]).tsc_hz if window else None)
    reading = Reading(request.strict, request.begin, request.end, hz, progress)
    with Loading(request.paths, reading, window=window, joining=True, tell=tell) as loading:
        # Import what makes the tables while the traces are read.
        from xtrace.analysis.report import nothing
        from xtrace.analysis.report.build import Selection, build_report
        from xtrace.analysis.summary.summary_file import merge

        selection = Selection(request.sections, named.domains, request.vcpus, request.tables)
        _known_sections(request.sections)
        _known_findings(request.ignored)
        kernels = _kernels(named)
        summaries = loading.result()
        paths = [path for path in request.paths if path not in loading.later_pieces]
        nothing.refuse_empty(paths, summaries, tell)
        whole = merge(summaries, hz=request.cpu_hz, hz_source=request.cpu_hz_source)
        nothing.refuse_unknown(whole.origin.name, whole.partial, named.domains, request.vcpus)
        _tell_cut(request.paths, tell)
        _refuse_window(counters, whole.origin.window)
        if loading.was_interrupted:
            tell("interrupted: the report is of what came until then")
        costs = _costs(request, named, kernels, calibration, counters, whole, progress)
    made = build_report(
        whole,
        versions=request.versions,
        selection=selection,
        kernels=kernels,
        costs=costs,
        ignored=request.ignored,
    )
    nothing.refuse_without_rows(whole.origin.name, request.sections, made)
    origin = replace(whole.origin, costs=made.fence_shares)
    return Answer(made, replace(whole, origin=origin), loading.was_interrupted)


@dataclass(frozen=True, slots=True)
class _Named:
    """The parts of a ReportRequest that name domains, with their ids instead."""

    domains: list[int]
    images: list[tuple[int, Path, int | None]]
    counters: list[tuple[int | None, Path]]
    unfenced: dict[int, tuple[Path, int]]


def _named(request: ReportRequest) -> _Named:
    """Return the ids of the domains that a request names; several domains may have one name.

    Raises:
        RequestError: no domain has such a name or id.
    """
    names = cache(lambda: domain_names([path for path in request.paths if str(path) != STDIN]))
    source = str(request.paths[0]) if len(request.paths) == 1 else f"{len(request.paths)} files"

    def guests(field: str, domain: int | str) -> list[int]:
        found = _ids(field, domain, names, source)
        if IDLE_DOMAIN in found:
            raise RequestError(field, "the idle domain does not run a guest's kernel")
        return found

    return _Named(
        domains=[one for each in request.domains for one in _ids("domains", each, names, source)],
        images=[
            (one, each.path, each.load_offset)
            for each in request.images
            for one in guests("images", each.domain)
        ],
        counters=[
            (one, each.path)
            for each in request.counters
            for one in ([None] if each.domain is None else guests("counters", each.domain))
        ],
        unfenced={
            one: (each.path, _only_id(each))
            for each in request.unfenced
            for one in guests("unfenced", each.domain)
        },
    )


def _ids(field: str, domain: int | str, names: Callable[[], Mapping[int, str]], source: str) -> list[int]:
    try:
        return domain_ids([domain], names, source)
    except TraceError as error:
        raise RequestError(field, str(error)) from None


def _only_id(capture: UnfencedCapture) -> int:
    path = capture.path
    found = _ids("unfenced", capture.other_domain, lambda: domain_names([path]), str(path))
    if len(found) > 1:
        several = ", ".join(f"d{one}" for one in found)
        raise RequestError("unfenced", f"{path}: {capture.other_domain} is {several}; give one id")
    return found[0]


def _checked(request: ReportRequest, named: _Named) -> str:
    """Check images and window; return the window in words, "" for the whole trace."""
    places = Counter(str(path) if str(path) == STDIN else path.resolve() for path in request.paths)
    if repeated := [place for place in places if places[place] > 1]:
        raise RequestError("paths", f"{repeated[0]} is given twice")
    count = Counter(domain for domain, _, _ in named.images)
    if twice := [domain for domain in count if count[domain] > 1]:
        raise RequestError("images", f"two images for domain {twice[0]}")
    begin, end = request.begin, request.end
    if begin is None and end is None:
        return ""
    if len(request.paths) > 1 or str(request.paths[0]) == STDIN:
        raise RequestError("window", "--from and --to need exactly one file")
    if is_summary(request.paths[0]):
        raise RequestError("window", "--from and --to need the trace, not a summary")
    if is_dom0_only(request.paths[0]):
        raise RequestError("window", f"{request.paths[0]} {WITHOUT_TRACE}, which --from and --to count in")
    if begin is not None and end is not None and begin.unit == end.unit and end.value <= begin.value:
        raise RequestError("window", "--to must be later than --from")
    return f"{begin or '0s'} to {end or 'the end'}"


def _known_sections(sections: Sequence[str]) -> None:
    from xtrace.analysis.report.build import SECTIONS

    if unknown := sorted(set(sections) - set(SECTIONS)):
        raise RequestError("sections", f"{unknown[0]!r} is not one of {', '.join(SECTIONS)}")


def _known_findings(names: Sequence[str]) -> None:
    from xtrace.analysis.findings.rules.catalogue import RULES

    if unknown := sorted(set(names) - {rule.name for rule in RULES}):
        raise RequestError(
            "ignored", f"{unknown[0]!r} is not one of {', '.join(rule.name for rule in RULES)}"
        )


def _kernels(named: _Named) -> list[ImageKernel]:
    if not named.images:
        return []
    from xtrace.analysis.report.guest_kernels import open_kernels

    return open_kernels(named.images)


def _calibration(request: ReportRequest) -> Calibration | None:
    if request.calibration is None:
        return None
    from xtrace.probes.timing.calibration import read

    return read(request.calibration)


def _counters(named: _Named) -> dict[int, Rates]:
    """Return the guests' counters by domain; a file that names none belongs to that of a single image."""
    if not named.counters:
        return {}
    from xtrace.analysis.cost.guest_counters import read

    rates: dict[int, Rates] = {}
    for given, path in named.counters:
        found = read(path)
        domain = found.domain if given is None else given
        if domain is None and len(named.images) == 1:
            domain = named.images[0][0]
        if domain is None:
            message = f"{path}: whose counters are these? Use DOMAIN=FILE or give one --kernel"
            raise RequestError("counters", message)
        if domain in rates:
            raise RequestError("counters", f"two files for domain {domain}")
        rates[domain] = found
    return rates


def _refuse_window(rates: Mapping[int, Rates], window: str) -> None:
    """Raise RequestError for counts of the whole trace where only a window is counted."""
    for found in rates.values():
        if window and found.seconds is None:
            message = (
                f"{found.path}: without the key seconds its counts are of the whole trace, so they cannot be "
                f"used for {window}"
            )
            raise RequestError("counters", message)


def _tell_cut(paths: Sequence[Path], tell: Callable[[str], None]) -> None:
    """Warn about each capture whose recorder has not ended."""
    for path in paths:
        if (path / META).is_file() and not open_capture(path).has_ended:
            tell(f"{path}: incomplete: its recorder was killed or is still recording")


def _costs(
    request: ReportRequest,
    named: _Named,
    kernels: Sequence[ImageKernel],
    calibration: Calibration | None,
    counters: Mapping[int, Rates],
    whole: Summary,
    progress: Progress,
) -> CostInputs | None:
    """Return the inputs of the fence cost model; None where the cost is not wanted."""
    trials = _trials(request, kernels)
    asked = calibration is not None or counters or named.unfenced or trials or "cost" in request.sections
    if not asked:
        return None
    from xtrace.analysis.cost.inputs import CostInputs

    unfenced = _unfenced(request, named, progress)
    return CostInputs(kernels, calibration, counters, whole.origin.emulated, unfenced, trials)


def _trials(request: ReportRequest, kernels: Sequence[ImageKernel]) -> dict[int, InPlace]:
    """Return what a trial found, by the domains that run the image it tried.

    Raises:
        RequestError: no domain runs it.
    """
    if request.trial is None:
        return {}
    from xtrace.analysis.cost.inputs import InPlace
    from xtrace.analysis.trial.result import ALL, read, sentence
    from xtrace.symbols.errors import shown

    found = read(request.trial)
    saved = found.group(ALL).saved
    mine = [kernel.domain for kernel in kernels if _is_same_image(kernel, found.build_id, found.image_sha256)]
    if not mine:
        raise RequestError(
            "trial",
            f"{request.trial}: tried {shown(found.image)}, and no --kernel is that file; "
            "--kernel DOMAIN=IMAGE names it",
        )
    return {domain: InPlace(saved.low, saved.high, found.verdicts, sentence(found)) for domain in mine}


def _is_same_image(kernel: ImageKernel, build_id: str, sha256: str) -> bool:
    """Return whether a domain's image is the file that was tried, or another of the same build."""
    if kernel.build_id and build_id:
        return kernel.build_id == build_id
    return hashlib.sha256(Path(kernel.path).read_bytes()).hexdigest() == sha256


def _unfenced(request: ReportRequest, named: _Named, progress: Progress) -> dict[int, tuple[Measures, int]]:
    """Return the captures of unfenced kernels by the domain they are compared with; each is read once."""
    if not named.unfenced:
        return {}
    from xtrace.analysis.cost.cross_checks.paired_captures import measures_of
    from xtrace.analysis.summary.summary_file import merge

    read: dict[Path, Measures] = {}
    for path, _ in named.unfenced.values():
        if path in read:
            continue
        with Loading([path], Reading(request.strict, progress=progress)) as loading:
            whole = merge(loading.result())
        read[path] = measures_of(whole.partial, whole.origin.tsc_hz)
    return {domain: (read[path], other) for domain, (path, other) in named.unfenced.items()}
