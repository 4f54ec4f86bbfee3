"""`xtrace report`: what a trace says of delivery, upcalls and time."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from xtrace.cli import sample
from xtrace.cli.background import Background
from xtrace.cli.render import BRIEF
from xtrace.probes.errors import TraceError

if TYPE_CHECKING:
    from rich.console import Console

    from xtrace.analysis.collected import Collected
    from xtrace.analysis.report import Report

_STDIN = "-"
_PROGRESS_BYTES = 64 << 20
_PATIENCE_S = 4
_COMPILING = "xtrace: compiling its loops, this first time only; half a minute"


def report(
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="Traces, reported on together; - is stdin. None: the bundled sample."),
    ] = None,
    section: Annotated[
        list[str] | None,
        typer.Option(
            help="Only this section, whole: delivery, upcalls, runstates, hypercalls, hvm, irqs, rips or "
            "trace. May be given again."
        ),
    ] = None,
    domain: Annotated[list[int] | None, typer.Option(help="Only this domain. May be given again.")] = None,
    vcpu: Annotated[
        list[int] | None, typer.Option(help="Only vCPUs of this number. May be given again.")
    ] = None,
    from_s: Annotated[
        float | None,
        typer.Option("--from", min=0, help="Count only what ends this many seconds into the trace or later."),
    ] = None,
    to_s: Annotated[
        float | None, typer.Option("--to", min=0, help="Count only what ends up to there.")
    ] = None,
    rows: Annotated[int | None, typer.Option(min=0, help="Most rows of a table; 0 for all.")] = None,
    cpu_hz: Annotated[
        float | None,
        typer.Option(
            min=1e6, help="Cycles a second of the TSC. Default: TRACE.json beside it, else the trace."
        ),
    ] = None,
    xen: Annotated[
        str | None,
        typer.Option(help="Xen version to decode by: 4.17, 4.13-4.17, 4.13+. Default: told by the trace."),
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Stop at the first damage.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    csv: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write one CSV file a table into DIR.")
    ] = None,
    parquet: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Write one Parquet file a table into DIR.")
    ] = None,
) -> None:
    """Report how event channels were delivered, what upcalls took and where the time went.

    Every figure is marked by how it is known: = exact, < bounded, ~ inferred, * modelled.
    """
    from xtrace.probes.catalog import VersionRange
    from xtrace.probes.sidecar import sidecar_of

    paths = files or [sample.path()]
    try:
        versions = VersionRange.parse(xen) if xen else None
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--xen") from None
    if (from_s is not None or to_s is not None) and (len(paths) > 1 or str(paths[0]) == _STDIN):
        raise typer.BadParameter("--from and --to need exactly one file", param_hint="--from/--to")
    beside = sidecar_of(paths[0])
    hz, hz_source = cpu_hz, "--cpu-hz"
    if hz is None and beside is not None and beside.tsc_hz is not None:
        hz, hz_source = beside.tsc_hz, f"told by {beside.path.name}"
    window = (from_s, to_s) if from_s is not None or to_s is not None else None

    jobs = [Background(_Job(str(path), strict, window, hz)) for path in paths[: _cores()]]
    try:
        # While the children read, load what makes the tables.
        from xtrace.analysis import report as reports
        from xtrace.analysis.partial import merge, partial_of

        on_terminal = not (json or csv or parquet)
        names = BRIEF if on_terminal and not section else ()
        selection = reports.Selection(section or (), domain or (), vcpu or (), names)
        if unknown := sorted(set(selection.sections) - set(reports.SECTIONS)):
            raise typer.BadParameter(
                f"{unknown[0]!r} is none of {', '.join(reports.SECTIONS)}", param_hint="--section"
            )
        partials = []
        for index in range(len(paths)):
            partials.append(partial_of(jobs[index].result()))
            if (after := index + _cores()) < len(paths):
                jobs.append(Background(_Job(str(paths[after]), strict, window, hz)))
    except BaseException:
        for job in jobs:
            job.stop()
        raise
    made = reports.build(merge(partials), hz=hz, hz_source=hz_source, versions=versions, selection=selection)
    _put_out(
        made,
        [str(path) for path in files] if files else [f"{sample.NAME}, the bundled sample"],
        json=json,
        csv=csv,
        parquet=parquet,
        rows=rows,
        brief=not section,
        window=_window_text(window),
    )


class _Job:
    """What a child does: read one trace."""

    def __init__(
        self, path: str, strict: bool, window: tuple[float | None, float | None] | None, cpu_hz: float | None
    ) -> None:
        self._path = path
        self._strict = strict
        self._window = window
        self._cpu_hz = cpu_hz

    def __call__(self) -> Collected:
        with _patience():
            from xtrace.analysis.collect import collect

        with _progress(self._path) as update:
            if self._window is None:
                return collect(self._path, strict=self._strict, progress=update)
            whole = collect(self._path, strict=self._strict)
            return collect(self._path, strict=self._strict, window=self._cycles(whole), progress=update)

    def _cycles(self, whole: Collected) -> tuple[int, int]:
        """Return the window in TSCs; the whole trace tells how fast the TSC runs."""
        hz = self._cpu_hz
        if hz is None:
            import pandas as pd

            from xtrace.analysis import clock

            rate = clock.estimate(pd.DataFrame(whole.pairs, columns=["ns", "cycles", "source"]))
            if rate is None:
                raise TraceError(
                    f"{self._path}: --from and --to need --cpu-hz, for the trace does not tell the TSC rate"
                )
            hz = rate.hz
        assert self._window is not None
        begin, end = self._window
        from_tsc = whole.first_tsc + round((begin or 0) * hz)
        to_tsc = whole.last_tsc if end is None else whole.first_tsc + round(end * hz)
        return from_tsc, to_tsc


@contextmanager
def _patience() -> Iterator[None]:
    """Say why it takes long, the one time that the loops are compiled."""
    timer = threading.Timer(_PATIENCE_S, lambda: typer.echo(_COMPILING, err=True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextmanager
def _progress(path: str) -> Iterator[Callable[[int], None] | None]:
    """Show a progress bar on standard error, for long files on a terminal; else nothing."""
    size = Path(path).stat().st_size if Path(path).is_file() else 0
    if size < _PROGRESS_BYTES or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading", total=size)
        yield lambda done: bar.update(task, completed=done)


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _put_out(
    made: Report,
    names: list[str],
    *,
    json: bool,
    csv: Path | None,
    parquet: Path | None,
    rows: int | None,
    brief: bool,
    window: str,
) -> None:
    from xtrace.analysis import report as reports

    for folder, write in ((csv, reports.write_csv), (parquet, reports.write_parquet)):
        if folder is None:
            continue
        try:
            count = sum(1 for _ in write(made, folder))
        except ImportError:
            raise TraceError("--parquet needs pyarrow: pip install 'xtrace[parquet]'") from None
        typer.echo(f"xtrace: {count} files in {folder}", err=True)
    if json:
        typer.echo(reports.json_text(made))
    elif csv is None and parquet is None:
        from xtrace.cli.render import print_report

        print_report(_console(), made, names, rows=rows, brief=brief, window=window)


def _window_text(window: tuple[float | None, float | None] | None) -> str:
    if window is None:
        return ""
    begin, end = window
    return f"{begin or 0:g} s to {'the end' if end is None else f'{end:g} s'}"


def _console() -> Console:
    from rich.console import Console

    from xtrace.cli.render import WIDTH

    class Honest(Console):
        """Let main() handle a closed pipe."""

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    console = Honest()
    return console if console.is_terminal else Honest(width=max(WIDTH, console.width))
