"""`xtrace report`: what a trace says about delivery, upcalls and time."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xtrace import samples
from xtrace.cli.options import (
    AsHtml,
    AsJson,
    CpuHz,
    DomainNames,
    From,
    Kernels,
    MaxInput,
    NoColor,
    NoPager,
    Strict,
    To,
    Vcpus,
    XenVersion,
    class_names,
    guest_image,
    offered,
    one_of,
    parsed,
)
from xtrace.cli.render.report.whole import BRIEF, COSTS, FIRST, print_findings
from xtrace.cli.terminal.pager import paged
from xtrace.cli.terminal.progress import bar
from xtrace.cli.terminal.style import put, tell
from xtrace.probes.errors import TraceError
from xtrace.probes.outputs import refuse_inputs
from xtrace.probes.selection.event_masks import event_masks

if TYPE_CHECKING:
    from xtrace.analysis.report.build import Report
    from xtrace.analysis.report.request import GuestCounters, ReportRequest, UnfencedCapture
    from xtrace.analysis.summary.summary_file import Summary
    from xtrace.cli.page.write import PageFile

#: The option that a field of a request comes from.
_OPTIONS = {
    "paths": "FILE",
    "window": "--from/--to",
    "sections": "--section",
    "domains": "--domain",
    "images": "--kernel",
    "trial": "--trial",
    "counters": "--rates",
    "unfenced": "--unfenced",
    "ignored": "--ignore",
}
#: The exit code that --require and --fail-on-finding ask for.
_LACKING = _FOUND = 3
#: A copy of analysis.report.build.SECTIONS, which takes NumPy to import; a test compares them.
_SECTIONS = (
    "way",
    "delivery",
    "upcalls",
    "runstates",
    "hypercalls",
    "hvm",
    "irqs",
    "rips",
    "kernel",
    "dom0",
    "cost",
    "trace",
)


#: A copy of the names in analysis.findings.rules.catalogue; a test compares them.
_FINDINGS = (
    "silent-vcpu",
    "unhandled-sends",
    "wake-latency",
    "waiting",
    "starved-domain",
    "idle-while-waiting",
    "budget",
    "late-timers",
    "late-ticks",
    "offline",
    "paused-wakes",
    "migrations",
    "irq-peak",
    "irqs-on-one-pcpu",
    "wakes-on-one-vcpu",
    "forced-callbacks",
    "masked-waits",
    "long-masks",
    "removable-fences",
    "cost-contradiction",
    "lost-records",
    "recorder-share",
)
#: Stands for every finding that is a problem.
_ANY_PROBLEM = "problem"


def report(
    context: typer.Context,
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            readable=False,
            metavar="[FILE]...",
            help="Traces, captures, summaries, reported on together; - is stdin. Default: a bundled sample.",
        ),
    ] = None,
    section: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SECTION",
            help="Only this section, with all its tables; --list names them. Repeatable.",
            autocompletion=offered(lambda: _SECTIONS),
        ),
    ] = None,
    domain: DomainNames = None,
    vcpu: Vcpus = None,
    begin: From = None,
    end: To = None,
    rows: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="At most N rows per table; 0: all.")
    ] = None,
    cpu_hz: CpuHz = None,
    xen: XenVersion = None,
    kernel: Kernels = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            readable=False,
            metavar="FILE",
            help="Cost of fences on this host, from xtrace calibrate; for --section cost.",
        ),
    ] = None,
    rates: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[DOMAIN=]FILE",
            help="A guest's own counters of how often its sites execute: JSON, CSV or a log; .xz, .gz. "
            "Repeatable.",
        ),
    ] = None,
    unfenced: Annotated[
        list[str] | None,
        typer.Option(
            metavar="DOMAIN=TRACE",
            help="The same load traced on a kernel without fences, for a second estimate of their cost; "
            "TRACE@DOMAIN if the domain differs there. Repeatable.",
        ),
    ] = None,
    require: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Exit with 3, without a report, if one of these trace classes is not recorded: sched,pv.",
            autocompletion=offered(class_names),
        ),
    ] = None,
    ignore: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Leave out the finding with this name. Repeatable.",
            autocompletion=offered(lambda: _FINDINGS),
        ),
    ] = None,
    only_findings: Annotated[
        bool, typer.Option("--only-findings", help="Print all findings, and no tables.")
    ] = False,
    fail_on_finding: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Exit with 3 if there is a finding of this name; problem: any that is one. Repeatable.",
            autocompletion=offered(lambda: (_ANY_PROBLEM, *_FINDINGS)),
        ),
    ] = None,
    trial: Annotated[
        Path | None,
        typer.Option(
            readable=False,
            metavar="FILE",
            help="Result of xtrace trial: printed alone without a trace; with one, it leads the cost of the "
            "domain whose --kernel is the image that was tried.",
        ),
    ] = None,
    full: Annotated[
        bool, typer.Option("--full", help="Print the tables of all sections, the first rows of each.")
    ] = False,
    list_: Annotated[
        bool, typer.Option("--list", help="List the sections and what each answers, and stop.")
    ] = False,
    legend: Annotated[
        bool, typer.Option("--legend", help="Explain what is shown, or the columns of a --section, and stop.")
    ] = False,
    no_pager: NoPager = False,
    no_color: NoColor = False,
    strict: Strict = False,
    max_input: MaxInput = None,
    json: AsJson = False,
    html: AsHtml = None,
    mail: Annotated[
        bool,
        typer.Option("--mail", help="Print what a maintainer asks for: 72 columns, fewer than 60 lines."),
    ] = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the same in Markdown, for an issue.")
    ] = False,
    csv: Annotated[
        Path | None,
        typer.Option(readable=False, metavar="DIR", help="Write one CSV file per table into DIR."),
    ] = None,
    parquet: Annotated[
        Path | None,
        typer.Option(readable=False, metavar="DIR", help="Write one Parquet file per table into DIR."),
    ] = None,
    summary: Annotated[
        Path | None,
        typer.Option(
            readable=False,
            metavar="FILE",
            help="Write a summary, which report and diff read instead of the trace.",
        ),
    ] = None,
) -> None:
    """Report how event channels were delivered, how long upcalls took and where the time went.

    Without --section or --full: what was recorded, what is out of the usual, and how long events took.
    """
    if trial is not None and not files:
        from xtrace.cli.commands.results.trial_results import report_trial

        report_trial(trial, json=json, html=html)
        return
    from xtrace.analysis.report.request import ReportRequest, RequestError, make_report

    for name in section or ():
        one_of(name, _SECTIONS, "--section")
    if list_ or legend:
        _explain(section or (), is_list=list_, in_pager=not no_pager)
        return
    if require is not None:
        parsed(event_masks)(require)
    _must_be_findings(fail_on_finding or [])
    if only_findings and (csv or parquet or html or section):
        raise typer.BadParameter("prints no tables", param_hint="--only-findings")
    on_terminal = not (json or csv or parquet or html or mail or markdown)
    _must_be_one(json, mail, markdown)
    page = _page(html, files, kernel, [calibration, trial])
    has_cost = bool(kernel or calibration or rates or unfenced or trial)
    request = ReportRequest(
        paths=files or [samples.path()],
        sections=section or (),
        domains=domain or (),
        vcpus=vcpu or (),
        tables=_tables(section or (), needs_all=bool(summary) or not on_terminal, full=full, cost=has_cost),
        ignored=ignore or (),
        begin=begin,
        end=end,
        cpu_hz=cpu_hz,
        cpu_hz_source="--cpu-hz",
        versions=xen,
        images=[guest_image(text) for text in kernel or ()],
        calibration=calibration,
        trial=trial,
        counters=[_counters(text) for text in rates or ()],
        unfenced=[_unfenced(text) for text in unfenced or ()],
        strict=strict,
    )
    _refuse_outputs(request, [summary, csv, parquet])
    try:
        found = make_report(request, tell=tell, progress=bar)
    except RequestError as error:
        raise typer.BadParameter(str(error), param_hint=_OPTIONS[error.field]) from None
    _refuse_lacking(found.summary, require)
    if summary is not None:
        from xtrace.analysis.summary.summary_file import write_summary

        write_summary(found.summary, summary)
        tell(f"summary written to {summary}")
    _export(found.report, csv, parquet)
    names = [str(path) for path in files] if files else [f"{samples.NAME}, the bundled sample"]
    if page is not None:
        page.write_report(found.report, names, _path(files), calibration=calibration, trial=trial)
    window = found.summary.origin.window
    if json or mail or markdown:
        _write(found.report, names, context.obj or (), window, mail=mail, markdown=markdown)
    elif on_terminal and summary is None:
        with paged(wanted=not no_pager):
            _print(
                found.report,
                names,
                window=window,
                path=_path(files),
                rows=rows,
                only_findings=only_findings,
                whole=bool(full or section or rows is not None),
                brief=not section,
            )
    _fail_on(found.report, fail_on_finding or [])
    if found.was_interrupted:
        raise KeyboardInterrupt  # its exit code


def _page(
    html: Path | None, files: list[Path] | None, kernels: list[str] | None, others: list[Path | None]
) -> PageFile | None:
    """Return the page to write; its inputs are hashed while they are read."""
    if html is None:
        return None
    from xtrace.cli.page.write import PageFile

    images = [guest_image(text) for text in kernels or ()]
    more = [*(image.path for image in images), *filter(None, others)]
    return PageFile(html, [*(files or [samples.path()]), *more], images)


def _refuse_outputs(request: ReportRequest, outputs: Sequence[Path | None]) -> None:
    """Raise where an output is a file that the report reads."""
    beside = [path for path in (request.calibration, request.trial) if path is not None]
    named = [*(one.path for one in request.images), *(one.path for one in request.counters)]
    read = [*request.paths, *beside, *named, *(one.path for one in request.unfenced)]
    for output in outputs:
        if output is not None:
            refuse_inputs(output, read)


def _refuse_lacking(whole: Summary, required: str | None) -> None:
    """Raise Exit(3) if the traces lack one of the required classes."""
    if required is None:
        return
    from xtrace.analysis.coverage.require import lacking

    if lacks := lacking(whole.partial, required):
        tell(f"{whole.origin.name}: not recorded: {', '.join(lacks)} (--require {required})")
        raise typer.Exit(_LACKING)


def _explain(sections: Sequence[str], *, is_list: bool, in_pager: bool) -> None:
    """Print the list of the sections, or the legend."""
    from xtrace.cli.render.report.sections import legend, section_list

    with paged(wanted=in_pager):
        for line in section_list() if is_list else legend(sections):
            put(line)


def _tables(sections: Sequence[str], *, needs_all: bool, full: bool, cost: bool) -> tuple[str, ...]:
    """Return the names of the tables that are wanted, none for all; findings are made from those of costs."""
    if needs_all or sections:
        return ()
    if full:
        return tuple(BRIEF)
    more = (*COSTS, "dom0_") if cost else ("cost_", "dom0_")
    return (*FIRST, *(name for name in BRIEF if name.startswith(more)))


def _print(
    made: Report,
    names: Sequence[str],
    *,
    window: str,
    path: str,
    rows: int | None,
    only_findings: bool,
    whole: bool,
    brief: bool,
) -> None:
    """Print the findings, the whole report or its first screen."""
    from xtrace.cli.render.report import dom0_only
    from xtrace.cli.render.report.first_screen import print_first_screen
    from xtrace.cli.render.report.whole import print_costs, print_report

    if only_findings:
        print_findings(put, made.findings, path, shown=len(made.findings))
    elif whole or dom0_only.is_whole(made):
        print_report(put, made, names, rows=rows, brief=brief, window=window, path=path)
    else:
        print_first_screen(put, made, names, window=window)
        print_costs(put, made)


def _path(files: list[Path] | None) -> str:
    """Return the path of the trace for the commands of findings, "" where there is no single one."""
    if not files:
        return str(samples.path())
    return str(files[0]) if len(files) == 1 and str(files[0]) != "-" else ""


def _must_be_one(*chosen: bool) -> None:
    if sum(chosen) > 1:
        raise typer.BadParameter("choose one of --json, --mail and --markdown", param_hint="--mail")


def _write(
    made: Report, names: Sequence[str], arguments: Sequence[str], window: str, *, mail: bool, markdown: bool
) -> None:
    """Print the report as a mail, as Markdown or as JSON."""
    if not (mail or markdown):
        from xtrace.analysis.report.build import json_pieces

        sys.stdout.writelines(json_pieces(made))
        sys.stdout.write("\n")
        return
    from xtrace.cli.render.report.mail import letter, mail_lines, markdown_lines

    said = letter(made, names, arguments, window)
    typer.echo("\n".join(mail_lines(said) if mail else markdown_lines(said)))


def _must_be_findings(names: Sequence[str]) -> None:
    for name in names:
        one_of(name, (_ANY_PROBLEM, *_FINDINGS), "--fail-on-finding")


def _fail_on(made: Report, names: Sequence[str]) -> None:
    """Raise Exit(3) if there is one of these findings."""
    found = [
        finding.name
        for finding in made.findings
        if finding.name in names or (_ANY_PROBLEM in names and finding.severity == _ANY_PROBLEM)
    ]
    if found:
        tell(f"found: {', '.join(found)} (--fail-on-finding)")
        raise typer.Exit(_FOUND)


def _counters(text: str) -> GuestCounters:
    """Read ``[DOMAIN=]FILE``; if a file has the whole text as its name, it is that file."""
    from xtrace.analysis.report.request import GuestCounters

    domain, equals, path = text.partition("=")
    if not equals or os.path.lexists(text):
        return GuestCounters(None, Path(text))
    if not (domain and path):
        raise typer.BadParameter(f"{text!r} is not FILE or DOMAIN=FILE", param_hint="--rates")
    return GuestCounters(domain, Path(path))


def _unfenced(text: str) -> UnfencedCapture:
    """Read ``DOMAIN=TRACE[@DOMAIN]``."""
    from xtrace.analysis.report.request import UnfencedCapture

    found = re.fullmatch(r"([^=]+)=(.+?)(?:@([^@/]+))?", text, re.DOTALL)
    if found is None:
        raise typer.BadParameter(
            f"{text!r} is not DOMAIN=TRACE or DOMAIN=TRACE@DOMAIN", param_hint="--unfenced"
        )
    return UnfencedCapture(found[1], Path(found[2]), found[3] or found[1])


def _export(made: Report, csv: Path | None, parquet: Path | None) -> None:
    """Write the tables as files."""
    from xtrace.analysis.report.build import write_csv, write_parquet

    for folder, write in ((csv, write_csv), (parquet, write_parquet)):
        if folder is None:
            continue
        try:
            count = sum(1 for _ in write(made, folder))
        except ImportError:
            raise TraceError("--parquet needs pyarrow: pip install 'xtrace[parquet]'") from None
        tell(f"{count} files written to {folder}")
