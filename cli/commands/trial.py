"""`xtrace trial`: measure what the fences of a running program or domain cost, by making them no-ops."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

import typer

from xtrace.cli.options import AsHtml, AsJson, DebugFiles, NoColor, SymbolFiles, one_each, one_of, seconds
from xtrace.cli.terminal.progress import counted
from xtrace.cli.terminal.style import put, tell
from xtrace.cli.terminal.text import safe
from xtrace.probes.errors import TraceError

if TYPE_CHECKING:
    from xtrace.analysis.trial.result import Result
    from xtrace.analysis.trial.whole import Request
    from xtrace.cli.page.write import PageFile
    from xtrace.probes.trial.xen.domain import DomainTarget
    from xtrace.symbols.image.image import Image
    from xtrace.symbols.patching.counters import Counter
    from xtrace.symbols.patching.plan import Plan
    from xtrace.symbols.sites.model import SiteTable

_BY = ("all", "callee", "function", "site")
_ALLOWED = ("undecided",)
_DURATION, _SLICE = seconds(0.2, 24 * 3600), seconds(150e-6, 0.2)
#: A domain is paused twice or more in each slice.
_SHORTEST_DOMAIN_SLICE_S = 0.01
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def trial(
    domain: Annotated[
        str | None, typer.Argument(metavar="[DOMAIN]", help="The domain to try, by name or id; in dom0.")
    ] = None,
    image: Annotated[
        Path | None,
        typer.Option(
            readable=False, metavar="IMAGE", help="The file that the process or domain executes, unstripped."
        ),
    ] = None,
    pid: Annotated[int | None, typer.Option(min=1, metavar="PID", help="The process to try.")] = None,
    counter: Annotated[
        str | None,
        typer.Option(
            metavar="SYMBOL",
            help="The unit of work: a 64-bit counter of the image that the program increments; SYMBOL+0x10 "
            "for one inside.",
        ),
    ] = None,
    covariate: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SYMBOL", help="Another counter, whose count per unit explains a unit's time. Repeatable."
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", readable=False, metavar="FILE", help="Write the result as JSON."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace FILE if it exists.")] = False,
    by: Annotated[
        str, typer.Option(metavar="GROUP", help="Also try each callee, function or site by itself.")
    ] = "all",
    function: Annotated[
        list[str] | None,
        typer.Option(metavar="FUNCTION", help="Only fences in this function. Repeatable."),
    ] = None,
    allow: Annotated[
        str | None,
        typer.Option(
            metavar="VERDICT", help="undecided: also fences that may be needed; events may be lost."
        ),
    ] = None,
    doses: Annotated[
        bool, typer.Option("--doses", help="Also try 1 to 3 more fences where the code has room.")
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print what would be exchanged, and touch nothing.")
    ] = False,
    really: Annotated[
        bool,
        typer.Option("--really", help="Change the running domain. Without it, only say what would be done."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Do everything with the domain but write, and stop.")
    ] = False,
    restore: Annotated[
        bool, typer.Option("--restore", help="Put back what a killed trial left, and stop.")
    ] = False,
    duration: Annotated[
        float,
        typer.Option("--duration", "-d", parser=_DURATION, metavar="TIME", help="At most: 30 (seconds), 5m."),
    ] = 30.0,
    precision: Annotated[
        float,
        typer.Option(
            min=0.001,
            max=100.0,
            metavar="PERCENT",
            help="Stop once the interval is this much to both sides, in percent of the running time.",
        ),
    ] = 0.1,
    slice_: Annotated[
        float | None,
        typer.Option(
            "--slice",
            parser=_SLICE,
            metavar="TIME",
            help="Length of a slice: 150us to 200ms. Default: the best.",
        ),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed for the order of the runs.")] = 0,
    no_color: NoColor = False,
    json: AsJson = False,
    html: AsHtml = None,
    symbols: SymbolFiles = None,
    debug: DebugFiles = None,
) -> None:
    """Measure what a running program's fences cost: make them no-ops and back.

    The program is a process (--pid) or, in dom0, a PV guest (DOMAIN).  Its code is compared with IMAGE before
    anything is written, and put back afterwards, whatever ends the trial.  Only fences that are removable or
    replaceable are exchanged.
    """
    from xtrace.probes.trial.restore import restore_all

    if restore:
        _restore(restore_all())
        return
    if image is None:
        raise typer.BadParameter("needs a file", param_hint="--image")
    one_of(by, _BY, "--by")
    if allow is not None:
        one_of(allow, _ALLOWED, "--allow")
    (symbol_file,), (debug_file,) = one_each(symbols, 1, "--symbols"), one_each(debug, 1, "--debug")
    if output is not None and output.exists() and not force:
        raise typer.BadParameter(f"{output} exists; --force replaces it", param_hint="--output")
    from xtrace.symbols.image.image import open_image
    from xtrace.symbols.patching.plan import plan as planned
    from xtrace.symbols.sites.finder import find_sites
    from xtrace.symbols.sites.model import Verdict

    opened = open_image(image, symbols_path=symbol_file, debug_path=debug_file)
    table = find_sites(opened, lines=False)
    allowed = {Verdict.REMOVABLE, Verdict.REPLACEABLE} | ({Verdict.UNDECIDED} if allow else set())
    exchanges = planned(opened, table, allowed)
    if plan:
        _show_plan(exchanges, str(image), json=json)
        return
    is_domain = _is_domain(pid, domain, {"--doses": doses, "--allow": allow is not None}, slice_)
    if not is_domain and (really or dry_run):
        raise typer.BadParameter("is for a domain", param_hint="--really" if really else "--dry-run")
    counters = [_counter(opened, table, counter), *_covariates(opened, covariate or [])]
    for line in restore_all():
        tell(line)
    page = None
    if html is not None:
        from xtrace.cli.page.write import PageFile

        page = PageFile(html, [image])
    try:
        from xtrace.analysis.trial.design import DOMAIN_LENGTHS_S, LENGTHS_S
        from xtrace.analysis.trial.run import Settings
        from xtrace.analysis.trial.whole import Request
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in ("scipy", "statsmodels"):
            raise
        raise TraceError(f"a trial needs {error.name}: pip install 'xtrace[trial]'") from None
    request = Request(
        opened,
        table.facts.hypercall_page,
        exchanges,
        allowed,
        counters,
        by,  # type: ignore[arg-type]
        function or (),
        doses,
        Settings(duration, precision / 100, slice_, seed, DOMAIN_LENGTHS_S if is_domain else LENGTHS_S),
    )
    found = _run(request, pid, domain, really=really, dry_run=dry_run)
    if found is not None:
        _show(found, output, page, json=json)


def _show_plan(exchanges: Plan, image: str, *, json: bool) -> None:
    from xtrace.cli.render.trial import plan_object, print_plan

    if json:
        import json as codec

        typer.echo(codec.dumps(plan_object(exchanges, image), indent=1))
    else:
        print_plan(put, exchanges, image)


def _is_domain(
    pid: int | None, domain: str | None, for_processes: dict[str, bool], slice_s: float | None
) -> bool:
    """Return whether a domain is to be tried; refuse options that are only for a process."""
    if (pid is None) == (domain is None):
        raise typer.BadParameter("needs one of --pid and DOMAIN; --plan needs neither", param_hint="--pid")
    if domain is None:
        return False
    for name, is_given in for_processes.items():
        if is_given:
            raise typer.BadParameter("is for a process only", param_hint=name)
    if slice_s is not None and slice_s < _SHORTEST_DOMAIN_SLICE_S:
        raise typer.BadParameter("is at least 10ms for a domain", param_hint="--slice")
    return True


def _run(
    request: Request, pid: int | None, domain: str | None, *, really: bool, dry_run: bool
) -> Result | None:
    """Run a trial; None if it was only to be said or rehearsed."""
    from xtrace.analysis.trial.whole import domain_target, process_target, trial_of

    with _until_asked() as wanted, counted("blocks of slices") as told:
        if pid is not None:
            return trial_of(request, process_target(request, pid), told, wanted, tell)
        guest = domain_target(request, _domain_number(domain or ""))
        if not _goes_on(request, guest, really=really, dry_run=dry_run):
            return None
        return trial_of(request, guest, told, wanted, tell)


def _domain_number(text: str) -> int:
    """Return the id of the domain with a name or an id.

    Raises:
        TraceError: there is none, or this is not a dom0.
    """
    from xtrace.probes.host.dom0 import why_no_dom0
    from xtrace.probes.host.xenstore import open_xenstore
    from xtrace.probes.trial.xen.toolstack import domain_of

    if why := why_no_dom0():
        raise TraceError(f"{why}: a domain is tried from its dom0, as root")
    with open_xenstore() as store:
        found = domain_of(store, text)
    if found is None:
        raise TraceError(f"there is no domain {safe(text)}; xl list shows names and ids")
    return found


def _goes_on(request: Request, target: DomainTarget, *, really: bool, dry_run: bool) -> bool:
    """Say what is going to be done to a domain; return whether it is to be done now."""
    from xtrace.analysis.trial.rehearsal import intention, rehearsed
    from xtrace.cli.render.trial import print_rehearsal

    for line in intention(request.exchanges, target.name, request.image.path, request.settings.seconds):
        tell(safe(line))
    if dry_run:
        print_rehearsal(put, rehearsed(request, target), target.name, request.counters[0].name)
        return False
    if not really:
        target.close()
        raise typer.BadParameter(
            "changes the code of a running domain; nothing was changed now, --dry-run does all but that",
            param_hint="--really",
        )
    return True


def _restore(lines: list[str]) -> None:
    for line in lines or ["no trial left anything"]:
        tell(line)
    if any(line.startswith("could not") for line in lines):
        raise typer.Exit(1)


def _show(found: Result, output: Path | None, page: PageFile | None, *, json: bool) -> None:
    from xtrace.analysis.trial.result import text_of
    from xtrace.probes.outputs import replace_text

    if output is not None:
        replace_text(output, text_of(found) + "\n")
    if page is not None:
        page.write_trial(found)
    if json:
        typer.echo(text_of(found))
    elif page is None:
        from xtrace.cli.render.trial import print_trial

        print_trial(put, found)
        sys.stdout.flush()
    if output is not None:
        tell(f"written to {output}")


def _counter(image: Image, table: SiteTable, name: str | None) -> Counter:
    from xtrace.symbols.patching.counters import counter, counters_near_sites

    if name is None:
        names = counters_near_sites(image, table)
        known = f"; functions with fences increment {', '.join(names)}" if names else ""
        raise typer.BadParameter(f"needs a 64-bit counter of units of work{known}", param_hint="--counter")
    return counter(image, name)


def _covariates(image: Image, names: list[str]) -> list[Counter]:
    from xtrace.symbols.patching.counters import counter

    return [counter(image, name) for name in names]


@contextmanager
def _until_asked() -> Iterator[Callable[[], bool]]:
    """Turn signals that end a command into a question: whether it is still wanted."""
    asked = False

    def ask(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        asked = True

    old = {number: signal.signal(number, ask) for number in _SIGNALS}
    try:
        yield lambda: not asked
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
